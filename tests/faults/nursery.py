"""A process that has tools' modules loaded and forks a child for each command, so that a trial costs no imports.

As a program, it reads orders from standard input, a JSON object a line. {"cli", "argv", "cwd", "log", "trap"} forks a
child and is answered with its process id; {"wait": pid} with the exit status, negative for a signal, and CPU seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import traps
from trainworks import plots

QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    cpu: float
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.err.splitlines()[-1] if self.err else ""

    def is_one_line(self, status: int = 2) -> bool:
        """Whether it ended with that status and one line that says why."""
        return self.status == status and self.last_line.startswith("error: ") and "Traceback" not in self.err


class Nursery:
    """Starts commands of tools; `with` ends it."""

    def __init__(self, modules: Sequence[str], logs: Path) -> None:
        """
        Args:
            modules: what is imported once, in this order; "a.b=c.d" puts the object c.d in the place of a.b.
            logs: a folder for what the commands say.
        """
        command = [sys.executable, "-m", "faults.nursery", *modules]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | QUIET | {"PYTHONPATH": path}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._logs, self._count = logs, 0
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, cli: str, argv: Sequence[str], cwd: Path, trap: Sequence[Any] = ()) -> Child:
        """Fork a child that runs the command of the module `cli` in the folder `cwd`, with a trap of `faults.traps` by
        name and arguments."""
        self._count += 1
        log = self._logs / f"{self._count:05d}"
        order = {"cli": cli, "argv": list(argv), "cwd": str(cwd), "log": str(log), "trap": list(trap)}
        return Child(self, int(self.ask(order)), log)

    def ask(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()


class Child:
    """A command that runs."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery, self.pid, self.log = nursery, pid, log

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)  # a child that has ended stays a zombie until `wait`

    def is_running(self) -> bool:
        return self._stat()[0] != "Z"

    def cpu(self) -> float:
        """Seconds that it has computed for: unlike the clock's, they say how far it is, however busy the machine."""
        return sum(map(int, self._stat()[11:13])) / os.sysconf("SC_CLK_TCK")

    def _stat(self) -> list[str]:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()

    def wait(self) -> Ended:
        status, cpu = self._nursery.ask({"wait": self.pid}).split()
        return Ended(
            int(status),
            float(cpu),
            *(self.log.with_suffix(end).read_text(errors="replace") for end in (".out", ".err")),
        )


def serve(modules: Sequence[str]) -> None:
    # Two thirds of a small training's time, and nothing goes on from pictures. Tools bind the name on their import.
    plots.plot_curves = lambda *given: None
    for module in modules:
        place, _, instead = module.partition("=")
        if instead:
            setattr(
                importlib.import_module(place.rpartition(".")[0]),
                place.rpartition(".")[2],
                pkgutil.resolve_name(instead),
            )
        else:
            importlib.import_module(module)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "wait" in order:
            _, status, used = os.wait4(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
        elif (pid := os.fork()) == 0:
            os._exit(_run(order))
        else:
            print(pid, flush=True)


def _run(order: dict[str, Any]) -> int:
    for descriptor, file, mode in (
        (0, os.devnull, "r"),
        (1, order["log"] + ".out", "w"),
        (2, order["log"] + ".err", "w"),
    ):
        with open(file, mode) as opened:
            os.dup2(opened.fileno(), descriptor)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["cwd"])
    sys.argv = order["argv"]
    try:
        if order["trap"]:
            name, *arguments = order["trap"]
            getattr(traps, name)(*arguments)
        importlib.import_module(order["cli"]).main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    serve(sys.argv[1:])
