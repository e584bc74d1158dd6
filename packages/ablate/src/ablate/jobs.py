"""One run of one variant with one seed: what it is, where it lies and what is known of it."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.suite import Memory, shown
from trainworks.console import UserError
from trainworks.metrics import read_metrics

State = Literal[
    "waiting", "running", "finished", "failed", "killed", "out of memory", "timeout", "stopped", "interrupted"
]
"""What became of a run. killed: by SIGKILL, and not for memory; stopped: since its health was critical; interrupted: by
another signal or with the runner."""

EVALUATION = "evaluation.json"
TAIL = 64 * 1024
"""Bytes at the end of a file in which its last line or last words are looked for."""


@dataclass(frozen=True)
class Job:
    """What is to be run, complete and picklable.

    Attributes:
        variant, seed: which.
        folder: of the suite's runs.
        begin: the command with its arguments and options, without what `settings` and `seed` add.
        go_on: the command for --resume; empty where it has none.
        evaluate: the command that measures the finished model; empty for none.
        settings: by dotted key, or by option.
        memory: what to change where memory doesn't suffice.
        environment: variables beside those of this process.
        working_directory: absolute.
        threads, gpus, memory_gib: what the run takes.
        timeout: seconds of training; 0 for no limit.
        health: the command that exits with 1 if the run in the directory added to it is in a critical state; or empty.
        health_every: seconds between two looks.
    """

    variant: str
    seed: int
    folder: Path
    begin: Sequence[str]
    go_on: Sequence[str]
    evaluate: Sequence[str]
    settings: Mapping[str, Any]
    memory: Memory
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = "."
    threads: int = 1
    gpus: float = 0.0
    memory_gib: float = 0.0
    timeout: float = 0.0
    health: Sequence[str] = ()
    health_every: float = 60.0

    @property
    def name(self) -> str:
        return f"{self.variant} seed {self.seed}"

    @property
    def paths(self) -> JobPaths:
        return JobPaths(self.folder, self.variant, self.seed, bool(self.evaluate))


@dataclass(frozen=True)
class JobPaths:
    """Where a run and what is known of it lie; `evaluated` if it is not finished before it has been evaluated."""

    folder: Path
    variant: str
    seed: int
    evaluated: bool = False

    @property
    def runs(self) -> Path:
        return self.folder / f"checkpoints_{self.variant}"

    @property
    def run(self) -> Path:
        return self.runs / f"seed_{self.seed}"

    @property
    def record(self) -> Path:
        """State, error, attempts and the settings that memory took; a run that finished at once needs none."""
        return self.runs / f"seed_{self.seed}.json"

    @property
    def lock(self) -> Path:
        return self.runs / f"seed_{self.seed}.lock"

    @property
    def live_log(self) -> Path:
        """What the process says while it runs; it then joins `log`."""
        return self.runs / f"seed_{self.seed}.log"

    @property
    def log(self) -> Path:
        return self.folder / f"logs_{self.variant}.log"

    @property
    def evaluation(self) -> Path:
        return self.run / "reports" / EVALUATION


@dataclass(frozen=True)
class Record:
    """What is remembered of a run beside its own directory.

    Attributes:
        state: see `State`.
        error: why it isn't finished, in a line; empty otherwise.
        attempts: processes for its training that have ended.
        for_memory: settings that overrule the variant's since memory did not suffice.
    """

    state: State = "waiting"
    error: str = ""
    attempts: int = 0
    for_memory: dict[str, Any] = field(default_factory=dict)


def read_record(paths: JobPaths) -> Record:
    """What is remembered of a run or, if nothing is, what its directory says: finished or waiting."""
    try:
        return Record(**json.loads(paths.record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Record("finished", "", 1) if is_done(paths) else Record()
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{paths.record} is damaged; remove it, and the run is judged by its directory") from None


def read_run(run: Path) -> dict[str, Any] | None:
    """A run's run.json; None where there is none that can be read."""
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_trained(paths: JobPaths) -> bool:
    """Whether the training has finished."""
    run = read_run(paths.run)
    return run is not None and run.get("status") == "finished"


def is_done(paths: JobPaths) -> bool:
    """Whether nothing is left to do: trained and, where that is asked for, evaluated."""
    return is_trained(paths) and (not paths.evaluated or paths.evaluation.exists())


def is_running(paths: JobPaths) -> bool:
    """Whether a process of the run, or its runner, is alive."""
    try:
        with open(paths.lock) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def begin_command(job: Job, for_memory: Mapping[str, Any]) -> list[str]:
    """The whole command line of a run from its start."""
    words = list(job.begin)
    for key, value in {**job.settings, **for_memory}.items():
        if not key.startswith("--"):
            words += ["--set", f"{key}={shown(value)}"]
        elif value is True:
            words.append(key)
        elif value is not False:
            words += [key, shown(value)]
    return [*words, "--seed", str(job.seed), "--out", str(job.paths.run)]


def seconds_trained(run: Path) -> float:
    """Seconds of work that a run has logged, pauses left out."""
    last = last_record(run)
    return float(last.get("time") or 0.0) if last else 0.0


def last_record(run: Path) -> dict[str, Any] | None:
    """The last whole record of a run's metrics, read from the end of the file; None where there is none."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    try:
        record = json.loads(lines[-2]) if len(lines) > 1 else None
    except ValueError:  # a line longer than what was read
        record = read_metrics(run / "metrics.jsonl")[-1]
    return record if isinstance(record, dict) else None


def child_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's variables and `more`, with the commands that are installed beside this one on the PATH."""
    beside = os.path.dirname(sys.executable)
    return os.environ | more | {"PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), beside])}
