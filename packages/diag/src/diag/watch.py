"""Following a training that runs: the same verdict, again and again, on the last megabytes of its log."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diag.finding import Finding, Health
from diag.health import judge
from diag.holder import is_alive, writer_of
from diag.read import Run, find_log, read_stream
from diag.show import console, extent, health_view, printable
from diag.thresholds import Thresholds
from trainworks.console import AnswerNo, UserError, info
from trainworks.files import json_ready
from trainworks.run import Run as TrainworksRun

if TYPE_CHECKING:
    from rich.console import Group

TAIL_BYTES = 4 << 20
"""How much of the log's end is judged: some ten thousand records. What is kept in memory follows from it."""


class Follower:
    """Reads a growing log and keeps its last whole lines, and a CSV file's header.

    Attributes:
        text: those lines.
    """

    def __init__(self, log: Path, tail_bytes: int = TAIL_BYTES) -> None:
        self.log, self.tail_bytes = log, tail_bytes
        self.text = b""
        self._header = self._rest = b""
        self._inode, self._offset = -1, 0

    def read(self) -> bool:
        """Take in what was written since; whether there was anything."""
        try:
            with open(self.log, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._begin(file, status)
                file.seek(self._offset)
                new = file.read(self.tail_bytes)
        except FileNotFoundError:
            return False
        self._offset += len(new)
        whole, newline, self._rest = (self._rest + new).rpartition(b"\n")
        text = self.text + whole + newline
        if len(text) > self.tail_bytes:
            text = text[-self.tail_bytes :].partition(b"\n")[2]
        self.text = text
        return bool(new)

    def _begin(self, file: io.BufferedReader, status: os.stat_result) -> None:
        """Start at the tail of a file that is new, or was written anew by a resumed run."""
        first = file.readline(1 << 20)
        self._inode = status.st_ino
        self._header = b"" if first.lstrip()[:1] == b"{" else first
        self.text = self._rest = b""
        self._offset = len(self._header)
        if status.st_size - self._offset > self.tail_bytes:
            file.seek(status.st_size - self.tail_bytes)
            file.readline()
            self._offset = file.tell()

    def stream(self) -> io.BufferedReader:
        """The lines as a file."""
        return io.BufferedReader(io.BytesIO(self._header + self.text))


@dataclass
class Watched:
    """What has been seen so far. Findings stay, even once the records that showed them have left the tail."""

    run: Run
    health: Health
    seen: dict[tuple[str, str], Finding] = field(default_factory=dict)


def watch(
    path: Path,
    thresholds: Thresholds,
    *,
    stop_on: str = "",
    pid: int | None = None,
    every: float = 2.0,
    as_json: bool = False,
) -> None:
    """Follow a run until it ends.

    Args:
        path: a run directory or a log that grows.
        thresholds: what is judged by.
        stop_on: "critical" sends SIGTERM to the run's process at the first critical finding: the tools here save a
            checkpoint and end with 143.
        pid: that process, where `path` has no lock that tells it.
        every: seconds between looks.
        as_json: findings as JSON Lines.

    Raises:
        UserError: not a log that can be followed, or nobody to stop.
        AnswerNo: something critical was found.
    """
    log = find_log(path)
    if log.is_dir() or ".tfevents." in log.name:
        raise UserError(f"{path}: event files can't be followed; diag health reads them as they are")
    alive = process_check(path, pid, stop_on)
    follower = Follower(log)
    watched: Watched | None = None
    asked = False
    with view(as_json) as show:
        while True:
            running = alive()  # asked before reading, so that nothing written before the end is missed
            if follower.read() or watched is None:
                watched = look(path, follower, thresholds, watched)
                show(watched)
            critical = [finding for finding in watched.seen.values() if finding.level == "critical"]
            if critical and stop_on == "critical" and running and not asked:
                asked = True
                ask_to_stop(running, critical[0])
            if not running:
                break
            time.sleep(every)
    if critical:
        raise AnswerNo(f"{path} is critical: {', '.join(finding.name for finding in critical)}")
    info(f"{path} has ended: {watched.health.verdict}")


def look(path: Path, follower: Follower, thresholds: Thresholds, before: Watched | None) -> Watched:
    """Judge the log's tail."""
    record = TrainworksRun.open(path).record if (path / "run.json").exists() else None
    tool = str(record["tool"]) if record else ""
    run = Run(path, path.resolve().name, tool, record, read_stream(follower.stream(), str(follower.log)))
    health = judge(run, thresholds)
    seen = dict(before.seen) if before else {}
    seen |= {(finding.name, finding.level): finding for finding in health.findings}
    return Watched(run, health, seen)


def process_check(path: Path, pid: int | None, stop_on: str) -> Callable[[], int | None]:
    """A function that tells the number of the run's process, None once it has ended.

    Raises:
        UserError: with `stop_on`, nobody writes the run; or the process named is not there.
    """
    if pid is not None:
        if not is_alive(pid):
            raise UserError(f"--pid {pid}: there is no such process")
        return lambda: pid if is_alive(pid) else None
    if (path / "run.json").exists():
        return lambda: writer_of(path)
    if stop_on:
        raise UserError(f"{path} has no run.json, so nothing tells whom to stop; name the process with --pid")
    return lambda: -1


def ask_to_stop(pid: int, finding: Finding) -> None:
    """Send SIGTERM, at which the tools here save and end."""
    info(f"{finding.name}: {printable(finding.summary)}; asking process {pid} to stop")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def view(as_json: bool) -> Iterator[Callable[[Watched], None]]:
    """How to show what is seen: a live page on a terminal, else a line for each new finding."""
    if as_json or not sys.stdout.isatty():
        yield line_by_line(as_json)
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        yield lambda watched: live.update(page(watched), refresh=True)


def line_by_line(as_json: bool) -> Callable[[Watched], None]:
    said: set[tuple[str, str]] = set()

    def show(watched: Watched) -> None:
        for key in [key for key in watched.seen if key not in said]:
            said.add(key)
            finding = watched.seen[key]
            if as_json:
                print(json.dumps(json_ready(finding.to_json())), flush=True)
            else:
                print(f"{finding.level}: {finding.name}: {printable(finding.summary)}", flush=True)

    return show


def page(watched: Watched) -> Group:
    """The live page: verdict, findings past and present, and the latest values."""
    from rich.console import Group
    from rich.text import Text

    series = watched.run.series
    latest = [(name, series.points(name)[1][-1]) for name in series.names[:8]]
    values = Text("  ".join(f"{printable(name)} {value:.4g}" for name, value in latest), "dim")
    shown = Health.of(watched.seen.values())
    return Group(
        health_view(watched.run, Health(watched.health.verdict, shown.findings)), values, Text(extent(watched.run))
    )
