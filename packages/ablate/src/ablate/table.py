"""How far a suite is: a live table on a terminal, else a plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.jobs import JobPaths, Record, is_running, last_record, read_record, read_run
from ablate.plan import Plan
from ablate.suite import flatten
from trainworks.console import info

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table as RichTable

EVERY = 30.0
"""Seconds between plain lines about runs that go on."""
REFRESH = 1.0
"""Seconds between two looks at what the runs have logged."""
FRAME = 8
"""Lines of a terminal that are not the table's rows."""
_ORDER = {state: rank for rank, state in enumerate(("running", "interrupted", "killed", "timeout", "stopped"))}


@dataclass(frozen=True)
class Line:
    """A run in the table. `epoch`, `metric` and `left` (seconds) are None where nobody knows."""

    variant: str
    seed: int
    state: str
    epoch: float | None
    metric: float | None
    left: float | None
    note: str


class Progress:
    """What is known of each run of a suite, and who is told."""

    def __init__(self, plan: Plan, done: Mapping[str, Record]) -> None:
        """`done`: records by name (`Job.name`) of the runs that are not begun now."""
        self._plan = plan
        self._paths = {f"{paths.variant} seed {paths.seed}": paths for paths in plan.paths()}
        self._records = dict.fromkeys(self._paths, Record("waiting")) | dict(done)
        self._began: dict[str, float] = {}
        self._seconds: list[float] = []
        self._live: Live | None = None
        self._told = self._refreshed = time.monotonic()

    @contextlib.contextmanager
    def shown(self, quiet: bool) -> Iterator[Progress]:
        """Show the table within the block, if stderr is a terminal and may be written to."""
        if quiet or not sys.stderr.isatty():
            yield self
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False, redirect_stdout=False) as self._live:
            self.refresh(now=True)
            yield self
            self.refresh(now=True)

    def began(self, name: str) -> None:
        self._records[name] = Record("running")
        self._began[name] = time.monotonic()

    def ended(self, name: str, record: Record) -> None:
        self._records[name] = record
        seconds = time.monotonic() - self._began.pop(name)
        if record.state == "finished":
            self._seconds.append(seconds)
        if self._live is None or record.state != "finished":
            count = sum(1 for known in self._records.values() if known.state not in ("waiting", "running"))
            line = self._line(name)
            metric = f", {self._metric} {line.metric:.4g}" if line.metric is not None else ""
            error = f": {record.error}" if record.error else ""
            info(f"[{count}/{len(self._records)}] {name}: {record.state} after {clock(seconds)}{metric}{error}")

    def refresh(self, now: bool = False) -> None:
        """Look at the runs and tell what they do, if that was not done just now."""
        moment = time.monotonic()
        if self._live is not None and (now or moment - self._refreshed >= REFRESH):
            self._refreshed = moment
            self._live.update(rich_table(self.lines(), self._metric, self._live.console.height - FRAME), refresh=True)
        elif self._live is None and self._began and moment - self._told >= EVERY:
            self._told = moment
            count = Counter(record.state for record in self._records.values())
            going = ", ".join(_brief(self._line(name)) for name in self._began)
            info(f"{count['finished']} of {len(self._records)} finished; running: {going}")

    @property
    def _metric(self) -> str:
        return curve_of(self._plan)

    def lines(self) -> list[Line]:
        """All runs, in the plan's order."""
        return [self._line(name) for name in self._paths]

    def _line(self, name: str) -> Line:
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else None
        seconds = time.monotonic() - self._began[name] if name in self._began else 0.0
        expected = None if mean is None else max(mean - seconds, 0.0)
        return run_line(self._plan, self._paths[name], self._records[name], expected)


def curve_of(plan: Plan) -> str:
    """The metric that is shown while runs go on."""
    return plan.suite.curve or next(iter(plan.suite.metrics))


def run_line(plan: Plan, paths: JobPaths, record: Record, expected: float | None = None) -> Line:
    """A run as its files show it; `expected` seconds are left if its epochs don't tell."""
    last: Mapping[str, Any] = (last_record(paths.run) or {}) if record.state != "waiting" else {}
    epoch, metric = last.get("epoch"), last.get(curve_of(plan))
    if record.state == "finished" and metric is None:
        result = (read_run(paths.run) or {}).get("result") or {}
        metric = result.get(curve_of(plan))
    left = None
    if record.state == "running":
        left = _seconds_left(plan, paths, last)
        left = expected if left is None else left
    note = record.error or ", ".join(f"{key} = {value}" for key, value in record.for_memory.items())
    return Line(paths.variant, paths.seed, record.state, epoch, metric, left, note)


def _seconds_left(plan: Plan, paths: JobPaths, last: Mapping[str, Any]) -> float | None:
    """From the epochs done and those that the recipe asks for."""
    if not plan.suite.epochs or not last.get("epoch") or not last.get("time"):
        return None
    total = flatten((read_run(paths.run) or {}).get("config") or {}).get(plan.suite.epochs)
    if not isinstance(total, int | float) or last["epoch"] >= total:  # what comes after the epochs tells nothing
        return None
    return float(last["time"]) * (total / last["epoch"] - 1)


def status_lines(plan: Plan) -> list[Line]:
    """What a suite's folder shows, from any other process."""
    lines = []
    for paths in plan.paths():
        record = read_record(paths)
        if is_running(paths):
            record = Record("running", "", record.attempts, record.for_memory)
        elif record.state == "waiting" and paths.run.exists():
            record = Record("interrupted", "", record.attempts, record.for_memory)
        lines.append(run_line(plan, paths, record))
    return lines


def plain_table(lines: list[Line], metric: str) -> str:
    """Columns separated by two spaces or more."""
    cells = [["variant", "seed", "state", "epoch", metric, "left", ""], *(_cells(line) for line in lines)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def rich_table(lines: list[Line], metric: str, height: int) -> RichTable:
    """The runs that matter most at the moment, as many as the terminal has room for."""
    from rich.table import Table

    first = sorted(lines, key=lambda line: (_ORDER.get(line.state, 9), line.state == "waiting"))
    room = max(4, height)
    table = Table(*("variant", "seed", "state", "epoch", metric, "left", ""), box=None, header_style="bold")
    for line in first[:room]:
        table.add_row(*_cells(line), style=_STYLES.get(line.state))
    rest = Counter(line.state for line in first[room:])
    if rest:
        table.add_row("and " + ", ".join(f"{count} {state}" for state, count in rest.items()))
    return table


_STYLES = {"finished": "green", "waiting": "dim", "failed": "red", "out of memory": "red", "killed": "red"}


def _cells(line: Line) -> list[str]:
    return [
        line.variant,
        str(line.seed),
        line.state,
        "" if line.epoch is None else f"{line.epoch:.4g}",
        "" if line.metric is None else f"{line.metric:.4g}",
        "" if line.left is None else clock(line.left),
        line.note,
    ]


def _brief(line: Line) -> str:
    epoch = "" if line.epoch is None else f" epoch {line.epoch:.3g}"
    left = "" if line.left is None else f", {clock(line.left)} left"
    return f"{line.variant} seed {line.seed}{epoch}{left}"


def clock(seconds: float) -> str:
    """Such as 0:02:17."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
