"""Options and fixtures of the test suites of all packages."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# The networks of tests are tiny: a second thread gains nothing, and on a busy machine two wait for each other.
# Frameworks read it when they are imported, which is after this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# A deadline would be an assertion on time, which a busy machine fails.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

FORK_SERVER = Path(__file__).parent / "tests" / "fork_server.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="moments at which a training is killed, then resumed")


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """At how many moments to kill a training."""
    return request.config.getoption("--kills")


class ForkServer:
    """A Python that has imported what takes long; each program is run in a process of its own, forked from it."""

    def __init__(self, folder: Path, modules: tuple[str, ...]) -> None:
        self.folder, self.started = folder, list[Process]()
        command = [sys.executable, str(FORK_SERVER), *modules]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(
        self,
        program: str,
        *arguments: object,
        directory: str | os.PathLike[str] = ".",
        environment: dict[str, str] | None = None,
        stderr: str | os.PathLike[str] | None = None,
    ) -> "Process":
        """Run Python source with sys.argv[1:] = `arguments`.

        Args:
            environment: variables over this process's.
            stderr: an existing file or terminal; default: a file that `Process.err` reads.
        """
        out, err = (self.folder / f"{len(self.started)}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        pid = self.ask(
            program=program,
            argv=["program", *map(str, arguments)],
            directory=os.fspath(directory),
            environment=os.environ | (environment or {}),
            streams=[os.devnull, os.fspath(out), os.fspath(stderr or err)],
        )
        self.started.append(Process(pid, out, err, lambda what: self.ask(**{what: pid})))
        return self.started[-1]

    def ask(self, **request: Any) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def close(self) -> None:
        for process in self.started:
            process.kill()
        self.server.communicate()


@dataclass
class Process:
    """A program that runs, or ran."""

    pid: int
    _out: Path
    _err: Path
    _ask: Callable[[str], Any]
    status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, -N if signal N ended it, or None while it runs."""
        if self.status is None:
            self.status = self._ask("poll")
        return self.status

    def wait(self, seconds: float = 300) -> int:
        """Its exit status, once it has ended; after so many seconds it is killed."""
        if self.status is None:
            overdue = threading.Timer(seconds, os.kill, (self.pid, signal.SIGKILL))
            overdue.start()
            self.status = self._ask("wait")
            overdue.cancel()
        return self.status

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ForkServer]]:
    """`fork_server("torch")` gives a `ForkServer` with these modules, in one test module always the same one."""
    servers: dict[tuple[str, ...], ForkServer] = {}
    with contextlib.ExitStack() as stack:

        def serve(*modules: str) -> ForkServer:
            if modules not in servers:
                server = ForkServer(tmp_path_factory.mktemp("streams"), modules)
                servers[modules] = stack.enter_context(contextlib.closing(server))
            return servers[modules]

        yield serve
