"""Runs as jobs of Slurm, by submitit. `cluster=local` tries the same on one machine.

All nodes need the suite's folder at the same path (a shared file system), this package and the command.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit

from ablate.executors import Shares
from ablate.jobs import Job, Record
from ablate.worker import run_job
from trainworks.console import UserError
from trainworks.files import write_json

DAY = 24 * 60
"""Minutes that a run may take where the suite names no timeout."""
MARGIN = 10
"""Minutes beside the timeout, for start, evaluation and saving."""


class Resumable:
    """What Slurm executes. Preempted or out of time, it is queued again and goes on with the run."""

    def __call__(self, job: Job) -> Record:
        return run_job(job)

    def checkpoint(self, job: Job) -> submitit.helpers.DelayedSubmission:
        """Called by submitit; the run itself has been asked to save its work."""
        return submitit.helpers.DelayedSubmission(self, job)


class SlurmExecutor:
    """One Slurm job a run. Jobs outlive the runner: another one takes up those that are still queued or running."""

    def __init__(self, shares: Shares, options: Mapping[str, str]) -> None:
        self.slots = shares.jobs or 10**6
        self._shares = shares
        self._options = dict(options)
        self._running: list[tuple[Job, submitit.Job[Record]]] = []

    def submit(self, job: Job) -> None:
        folder = job.folder / "slurm"
        book = folder / "jobs.json"
        known: dict[str, str] = json.loads(book.read_text()) if book.exists() else {}
        executor = self.executor(folder, job)
        earlier = executor._executor.job_class(folder, known[job.name]) if job.name in known else None
        if earlier is None or earlier.done():
            earlier = executor.submit(Resumable(), job)
            write_json(book, known | {job.name: earlier.job_id})
        self._running.append((job, earlier))

    def executor(self, folder: Path, job: Job) -> submitit.AutoExecutor:
        """submitit's executor with what one run takes.

        Raises:
            UserError: an option that submitit doesn't know.
        """
        options = dict(self._options)
        executor = submitit.AutoExecutor(folder=folder, cluster=options.pop("cluster", None))
        wanted: dict[str, Any] = {
            "name": f"ablate-{job.variant}-{job.seed}",
            "timeout_min": math.ceil(job.timeout / 60) + MARGIN if job.timeout else DAY,
            "cpus_per_task": job.threads,
            "gpus_per_node": math.ceil(job.gpus),
        }
        if job.memory_gib:
            wanted["mem_gb"] = job.memory_gib
        try:
            executor.update_parameters(**wanted, **{name: _number(value) for name, value in options.items()})
        except (NameError, TypeError) as error:
            raise UserError(f"--executor-option: {' '.join(str(error).split())}") from None
        return executor

    def wait(self, seconds: float) -> list[tuple[Job, Record]]:
        deadline = time.monotonic() + seconds
        while True:
            ended = [(job, running) for job, running in self._running if running.done()]
            if ended or time.monotonic() > deadline:
                break
            time.sleep(min(0.2, seconds))
        self._running = [pair for pair in self._running if pair not in ended]
        return [(job, _record(running)) for job, running in ended]

    def stop(self) -> None:
        for _, running in self._running:
            running.cancel()

    def close(self) -> None:
        """Nothing is held."""


def open_executor(shares: Shares, options: Mapping[str, str]) -> SlurmExecutor:
    """
    Raises:
        UserError: --gpu-ids, which Slurm hands out itself; no Slurm on this machine.
    """
    if shares.gpu_ids:
        raise UserError("--gpu-ids is for the local executor: Slurm itself says which GPUs a run sees")
    if "cluster" not in options and submitit.AutoExecutor.which() != "slurm":
        raise UserError("no Slurm here (sbatch is missing); --executor-option cluster=local tries it on this machine")
    return SlurmExecutor(shares, options)


def _record(running: submitit.Job[Record]) -> Record:
    try:
        return running.result()
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
        return Record("failed", f"Slurm job {running.job_id} ({running.state}): {' '.join(str(error).split())[-300:]}")


def _number(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
