"""What goes wrong inside a command, set off by the n-th time that it asks the system to change files.

Counted are calls that publish, push out, rename or remove, and each record of the metrics: between two of them a crash
finds the same files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from trainworks import run
from trainworks.checkpoint import METRICS
from trainworks.metrics import MetricsWriter

CALLS = ("replace", "rename", "fsync", "symlink", "unlink", "mkdir", "rmdir")


def count(file: str) -> None:
    """Leave in `file` how many calls there were."""
    calls = 0

    def note(*where: Any) -> None:
        nonlocal calls
        calls += 1
        Path(file).write_text(str(calls))

    _before_each_call(note)


def kill_at(moment: int) -> None:
    """kill -9 right before the n-th call."""
    _at(moment, lambda *where: _die())


def tear_at(moment: int) -> None:
    """kill -9 within the n-th call: of a file that was being written, a half is there."""

    def tear(name: str, *where: Any) -> NoReturn:
        if name == "metrics":
            (writer,) = where[:1]
            with open(writer.path, "a", encoding="utf-8") as file:
                file.write('{"step": 1, "epo')
        if name == "fsync":
            path = _path_of(*where)
            if path.is_file() and path.name != METRICS:  # of which a kill takes nothing
                os.truncate(path, path.stat().st_size // 2)
        _die()

    _at(moment, tear)


def cut_power_at(moment: int) -> None:
    """kill -9 right before the n-th call, with what was logged and not pushed to the disk gone."""
    calls = 0
    pushed: dict[Path, int] = {}

    def note(name: str, *where: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            for path, size in pushed.items():
                os.truncate(path, size)
            _die()
        if name == "metrics":
            (writer,) = where[:1]
            pushed.setdefault(writer.path.resolve(), writer.path.stat().st_size)
        if name == "fsync":
            path = _path_of(*where)
            if path in pushed:
                pushed[path] = path.stat().st_size

    _before_each_call(note)


def fill_at(moment: int, folder: str, pages_left: int) -> None:
    """Fill the file system of `folder` at the n-th call, but for some pages of 4 KiB."""

    def fill(*where: Any) -> None:
        with open(Path(folder) / "ballast", "wb", buffering=0) as ballast:
            size = 0
            with contextlib.suppress(OSError):
                while True:
                    size += ballast.write(bytes(4096))
            ballast.truncate(max(0, size - 4096 * pages_left))

    _at(moment, fill)


def wrong_clock(days: float, uptime: float) -> None:
    """The calendar is off by `days`, and the machine was started `uptime` seconds ago."""
    began, now, shift = time.monotonic(), time.time, 86400 * days

    class Shifted(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> datetime:
            return datetime.now(zone) + timedelta(days=days)

    time_since = time.monotonic
    time.time = lambda: now() + shift
    time.monotonic = lambda: time_since() - began + uptime
    MetricsWriter.__init__.__defaults__ = (time.monotonic,)  # bound when the class was made
    run.datetime = Shifted


def _at(moment: int, happen: Callable[..., None]) -> None:
    calls = 0

    def note(*where: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            happen(*where)

    _before_each_call(note)


def _before_each_call(note: Callable[..., None]) -> None:
    """Have `note` called with the call's name and arguments before each counted one."""

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            note(name, *arguments)
            return function(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    MetricsWriter.write = watched("metrics", MetricsWriter.write)


def _path_of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
