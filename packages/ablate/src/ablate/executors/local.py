"""Runs on this machine, each in a process of its own."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ablate.executors import Shares
from ablate.jobs import Job, Record
from ablate.worker import Stopped, run_job
from trainworks.console import UserError, info


class LocalExecutor:
    """A thread for each run waits for its process."""

    def __init__(self, shares: Shares) -> None:
        self.slots = _slots(shares)
        self._free = dict.fromkeys(shares.gpu_ids, 1.0)
        self._ended: queue.SimpleQueue[tuple[Job, Record]] = queue.SimpleQueue()
        self._taken: dict[str, dict[str, float]] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> None:
        if self._free:
            taken = self._taken[job.name] = self._take(job.gpus)
            job = replace(job, environment={**job.environment, "CUDA_VISIBLE_DEVICES": ",".join(taken)})
        # Daemons, so that a second signal ends the runner at once.
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, job: Job) -> None:
        try:
            record = run_job(job, self._stop.is_set)
        except Stopped:
            record = Record("interrupted")
        except Exception as error:  # such as a full disk: the other runs go on
            record = Record("failed", f"{type(error).__name__}: {error}")
        self._ended.put((job, record))

    def _take(self, gpus: float) -> dict[str, float]:
        """Whole GPUs, or a part of the one that has most to give."""
        if gpus > 1:
            taken = {gpu: 1.0 for gpu, free in self._free.items() if free == 1}
            taken = dict(list(taken.items())[: round(gpus)])
        else:
            taken = {max(self._free, key=lambda gpu: self._free[gpu]): gpus}
        for gpu, part in taken.items():
            self._free[gpu] -= part
        return taken

    def wait(self, seconds: float) -> list[tuple[Job, Record]]:
        try:
            ended = [self._ended.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            ended.append(self._ended.get())
        for job, _ in ended:
            for gpu, part in self._taken.pop(job.name, {}).items():
                self._free[gpu] = round(self._free[gpu] + part, 6)
        return ended

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        for thread in self._threads:
            thread.join()


def open_executor(shares: Shares, options: Mapping[str, str]) -> LocalExecutor:
    """
    Raises:
        UserError: an option, since there is none; a run that takes more GPUs than --gpu-ids names, or more memory than
            there is.
    """
    if options:
        raise UserError(f"the local executor has no option {', '.join(options)}")
    return LocalExecutor(shares)


def _slots(shares: Shares) -> int:
    """Runs at once: as many as were asked for, if GPUs and memory suffice."""
    slots = shares.jobs or 1
    if shares.gpu_ids and shares.gpus:
        whole = len(shares.gpu_ids)
        fit = whole // round(shares.gpus) if shares.gpus > 1 else whole * int(1 / shares.gpus + 1e-9)
        slots = _limited(slots, fit, f"{shares.gpus:g} GPUs a run, of {whole}")
    if shares.memory_gib:
        total = memory_gib()
        slots = _limited(slots, int(total / shares.memory_gib), f"{shares.memory_gib:g} GiB a run, of {total:.1f}")
    return slots


def _limited(slots: int, fit: int, why: str) -> int:
    if fit < 1:
        raise UserError(f"not even one run fits: {why}")
    if fit < slots:
        info(f"{fit} jobs at once instead of {slots}: {why}")
    return min(slots, fit)


def memory_gib() -> float:
    """Memory that this machine has, or that its control group allows, in GiB."""
    total: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return (total if limit == "max" else min(total, float(limit))) / 2**30
