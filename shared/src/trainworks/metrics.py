"""`metrics.jsonl`: one JSON object a line, append-only, readable while it grows.

A line is whole once its newline is there. A last line without one was cut by a crash: readers skip it and a
writer removes it before it appends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainworks.console import UserError
from trainworks.files import atomic_write, json_ready


class MetricsWriter:
    """Appends records {"step", "epoch", "time", "train/loss", ...}; `time` is seconds of work so far.

    On a file that has records, `time` goes on from the last one: a resumed run counts no pause.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self._clock = clock
        self._rewrite(lambda record: True)

    def write(self, step: int, values: Mapping[str, Any], *, epoch: float | None = None) -> None:
        """Append one record and flush it. NaN and infinity are written as null.

        Args:
            step: optimizer steps finished.
            values: slash-named numbers, such as {"train/loss": 0.41}.
            epoch: passes over the data, where the loop counts them.
        """
        elapsed = round(self._clock() - self._origin, 3)
        record = {"step": step, "epoch": epoch, "time": elapsed, **values}
        self._file.write(json.dumps(json_ready(record), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Drop the records of later steps, which a run that resumes at `step` is about to write again."""
        self._file.close()
        self._rewrite(lambda record: record["step"] <= step)

    def _rewrite(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        lines = _whole_lines(self.path) if self.path.exists() else []
        kept = [(line, record) for line, record in lines if wanted(record)]
        text = b"".join(line + b"\n" for line, _ in kept)
        if self.path.exists() and self.path.stat().st_size != len(text):
            atomic_write(self.path, text)
        self._origin = self._clock() - (kept[-1][1].get("time", 0.0) if kept else 0.0)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (held open for the run)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All whole records of a metrics file, in order.

    Raises:
        UserError: there is no such file, or a line inside it is no record.
    """
    return [record for _, record in _whole_lines(path)]


def tail_metrics(
    path: str | Path, poll: float = 1.0, finished: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, Any]]:
    """Yield the records that are there, then each new one as it is written.

    A run that resumes rewrites the file; the steps it trains again are not yielded twice.

    Args:
        path: the metrics file, which may not exist yet.
        poll: seconds between looks at the file.
        finished: asked when all is read; the iteration ends once it says True.
    """
    path = Path(path)
    inode, offset, number = None, 0, 0
    last_step = already = -1
    while True:
        ended = finished()  # asked before reading, so that nothing written before the end is missed
        if path.exists():
            with open(path, "rb") as file:
                now = os.fstat(file.fileno())
                if inode not in (None, now.st_ino) or now.st_size < offset:
                    offset, number, already = 0, 0, last_step
                inode = now.st_ino
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset, number = offset + len(line), number + 1
                    record = _parse(line, path, number)
                    if record["step"] > already:
                        last_step = max(last_step, record["step"])
                        yield record
        if ended:
            return
        time.sleep(poll)


def _whole_lines(path: str | Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line that has its newline, with its record."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"no metrics at {path}; a training command writes them") from None
    return [(line, _parse(line, path, number)) for number, line in enumerate(lines[:-1], start=1)]


def _parse(line: bytes, path: str | Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        known = all(isinstance(value, int | float) for value in (record["step"], record.get("time", 0.0)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise UserError(f"{path} line {number} is not a metrics record")
    return record
