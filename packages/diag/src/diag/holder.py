"""Which process is writing a run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from trainworks.console import UserError


def writer_of(path: Path) -> int | None:
    """The process that holds the lock of a run directory, None where no living one does.

    The lock is an advisory one on RUN/.lock, and Linux tells its holder in /proc: nothing is locked to find out, so a
    training that is about to begin is never turned away.

    Raises:
        UserError: this is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise UserError("only Linux tells which process writes a run; name it with --pid")
    try:
        lock = os.stat(path / ".lock")
    except FileNotFoundError:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # another user's, or gone
            continue
        for descriptor in descriptors:
            try:
                opened = descriptor.stat()
                if (opened.st_dev, opened.st_ino) != (lock.st_dev, lock.st_ino):
                    continue
                told = (process / "fdinfo" / descriptor.name).read_text()
            except OSError:
                continue
            # A worker that inherited the descriptor shows the lock too, under the number of who took it.
            found = re.search(r"^lock:.*FLOCK\s+ADVISORY\s+WRITE\s+(\d+)", told, re.MULTILINE)
            if found:
                return int(found.group(1))
    return None


def is_alive(pid: int) -> bool:
    """Whether a process with this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not sys.platform.startswith("linux")
