"""How many compute threads are really free."""

from __future__ import annotations

import math
import os
from pathlib import Path

from trainworks.console import UserError

MOST_THREADS = 2
"""Threads taken without being asked for more: small models gain little from a third."""


def choose_threads(threads: int | None = None) -> int:
    """The number that was asked for or, without one, what is free: the cores this process may use (affinity, cgroup
    quota) less the machine's load of the last minute, at least 1 and at most `MOST_THREADS`.

    A loop that must give the same bits again records the number, since the order of floating-point sums depends on it.

    Raises:
        UserError: fewer than one was asked for.
    """
    if threads is None:
        free = _usable_cores() - os.getloadavg()[0]
        return max(1, min(MOST_THREADS, math.floor(free)))
    if threads < 1:
        raise UserError(f"--threads is at least 1, not {threads}")
    return threads


def count_cores() -> int:
    """The cores that this process may run on, whatever its quota of time on them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usable_cores() -> float:
    cores = count_cores()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))
