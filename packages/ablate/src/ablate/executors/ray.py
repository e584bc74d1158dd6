"""Runs as tasks of a Ray cluster: many machines, parts of GPUs, lost nodes made up for.

All nodes need the suite's folder at the same path (a shared file system), this package and the command.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

# Under `uv run` Ray would start its workers by `uv run` too, in a packed copy of the working directory, where a
# workspace's environment is not found: they die, and runs wait for ever. Read when ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray

from ablate.executors import Shares
from ablate.jobs import Job, Record
from ablate.worker import Stopped, run_job
from trainworks.console import UserError, warn

NODE_RETRIES = 3
"""Times that a run is gone on with elsewhere after its node was lost."""
OPTIONS = ("address", "num_cpus", "num_gpus")


class RayExecutor:
    """One task a run; Ray chooses the node and says which GPUs the run sees."""

    def __init__(self, shares: Shares) -> None:
        self.slots = shares.jobs or 10**6
        self._running: dict[ray.ObjectRef[Any], Job] = {}
        self._stopping = False
        here = ray.cluster_resources()
        if shares.threads > here.get("CPU", 0) or shares.gpus > here.get("GPU", 0):
            warn(
                f"runs wait for a node that has what they take, {shares.threads} CPUs and {shares.gpus:g} GPUs; the "
                f"cluster now has {here.get('CPU', 0):g} and {here.get('GPU', 0):g}"
            )

    def submit(self, job: Job) -> None:
        wanted = {"num_cpus": job.threads, "num_gpus": job.gpus, "memory": int(job.memory_gib * 2**30) or None}
        task = ray.remote(run_job).options(max_retries=NODE_RETRIES, name=job.name, **wanted)
        self._running[task.remote(job)] = job

    def wait(self, seconds: float) -> list[tuple[Job, Record]]:
        if not self._running:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait(list(self._running), timeout=seconds)
        return [(self._running.pop(reference), self._record(reference)) for reference in ready]

    def _record(self, reference: ray.ObjectRef[Any]) -> Record:
        try:
            record: Record = ray.get(reference)
        except (ray.exceptions.TaskCancelledError, Stopped, KeyboardInterrupt):
            return Record("interrupted")
        except ray.exceptions.RayError as error:
            if self._stopping:
                return Record("interrupted")
            return Record("failed", " ".join(str(error).split())[:500])
        return record

    def stop(self) -> None:
        self._stopping = True
        for reference in self._running:
            ray.cancel(reference, force=False)  # a KeyboardInterrupt in run_job, which passes it on as SIGTERM

    def close(self) -> None:
        ray.shutdown()


def open_executor(shares: Shares, options: Mapping[str, str]) -> RayExecutor:
    """Join the cluster at `address` (or that of RAY_ADDRESS), or start one on this machine.

    Raises:
        UserError: an unknown option, --gpu-ids, which Ray hands out itself, or no cluster at the address.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise UserError(f'the ray executor has no option "{unknown[0]}"; known: {", ".join(OPTIONS)}')
    if shares.gpu_ids:
        raise UserError("--gpu-ids is for the local executor: Ray itself says which GPUs a run sees")
    sizes: dict[str, Any] = {name: int(value) for name, value in options.items() if name != "address"}
    try:
        ray.init(
            address=options.get("address"),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **sizes,
        )
    except Exception as error:  # Ray itself raises bare Exceptions when a node does not start in time
        raise UserError(f"no Ray cluster: {' '.join(str(error).split())[:300]}") from None
    return RayExecutor(shares)
