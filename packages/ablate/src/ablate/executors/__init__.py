"""Where runs are executed: on this machine, on a Ray cluster, by Slurm.

An executor is a module with a function `open_executor(shares, options) -> Executor`. `--executor NAME` means
`ablate.executors.NAME`; with a dot in it, NAME is a module of one's own.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from ablate.jobs import Job, Record
from ablate.suite import nearest
from trainworks.console import UserError


@dataclass(frozen=True)
class Shares:
    """What the runs may take together.

    Attributes:
        jobs: runs at once; None leaves it to the executor.
        threads: of one run.
        gpu_ids: those of this machine that may be used, all runs together; empty for what the environment says.
        gpus: of one run; below 1 several runs share one.
        memory_gib: of one run; 0 where it isn't counted.
    """

    jobs: int | None
    threads: int
    gpu_ids: tuple[str, ...] = ()
    gpus: float = 0.0
    memory_gib: float = 0.0


class Executor(Protocol):
    """Runs jobs by calling `ablate.worker.run_job`, which may be called again for a job whose machine was lost."""

    slots: int
    """Jobs that may be submitted before one of them has ended."""

    def submit(self, job: Job) -> None:
        """Begin a job."""

    def wait(self, seconds: float) -> list[tuple[Job, Record]]:
        """Jobs that have ended since the last call; an empty list if none does so within `seconds`."""

    def stop(self) -> None:
        """Ask all jobs to save their work and end; they are still waited for."""

    def close(self) -> None:
        """Give back what the executor holds."""


def require_executor(name: str) -> ModuleType:
    """The module of the executor of that name.

    Raises:
        UserError: there is none, or what it needs is not installed.
    """
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if "." not in name and name not in known:
        raise UserError(f'no executor "{name}"{nearest(name, known)}')
    try:
        return importlib.import_module(name if "." in name else f"ablate.executors.{name}")
    except ModuleNotFoundError as error:
        wanted = f"install ablate[{name}]" if name in known else "is it on PYTHONPATH?"
        raise UserError(f"--executor {name} needs {error.name}: {wanted}") from None


def open_executor(name: str, shares: Shares, options: Mapping[str, str]) -> Executor:
    """The executor of that name.

    Raises:
        UserError: as `require_executor`, and for options that it doesn't take.
    """
    executor: Executor = require_executor(name).open_executor(shares, options)
    return executor
