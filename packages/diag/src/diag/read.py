"""Logs in, columns out: a run directory, or a lone metrics.jsonl, CSV or TensorBoard event file.

Records are parsed by the chunk and grouped by their names, so that Python touches each record once and each number
never: a million records take seconds and little more memory than their numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from diag.read_table import Table
from diag.series import Series
from trainworks.console import UserError
from trainworks.run import Run as TrainworksRun

CHUNK_BYTES = 1 << 20


@dataclass
class Run:
    """One training as it is found on disk.

    Attributes:
        path: what was asked for.
        name: a short name for people: the folder's or the file's.
        tool: the command that wrote it, "" where no run.json tells.
        record: the content of run.json, None where there is none.
        series: what was logged.
    """

    path: Path
    name: str
    tool: str
    record: dict[str, Any] | None
    series: Series


def read_run(path: str | Path) -> Run:
    """Read a run directory, a folder with a log, or a log; "-" is JSON Lines or CSV on standard input.

    Raises:
        UserError: nothing there that can be read.
    """
    if str(path) == "-":
        return Run(Path("-"), "stdin", "", None, read_stream(open(0, "rb", closefd=False), "standard input"))
    path = Path(path)
    record = TrainworksRun.open(path).record if (path / "run.json").exists() else None
    log = find_log(path)
    name = path.resolve().name if path.is_dir() else path.name
    return Run(path, name, str(record["tool"]) if record else "", record, read_log(log))


def find_log(path: Path) -> Path:
    """The log at `path`: itself, or in a folder metrics.jsonl, the only other .jsonl or .csv, or event files.

    Raises:
        UserError: none, or more than one.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; name a run directory, a metrics.jsonl, a CSV or an event file")
    if path.is_file():
        return path
    if (path / "metrics.jsonl").exists() or (path / "run.json").exists():
        return path / "metrics.jsonl"
    if any(path.glob("**/*.tfevents.*")):
        return path
    logs = sorted([*path.glob("*.jsonl"), *path.glob("*.csv")])
    if not logs:
        raise UserError(f"{path} holds no log: no metrics.jsonl, .jsonl, .csv or TensorBoard event file; name the file")
    if len(logs) > 1:
        raise UserError(f"{path} holds {len(logs)} logs ({', '.join(log.name for log in logs[:3])}, ...); name one")
    return logs[0]


def read_log(log: Path) -> Series:
    """Read one log, or the event files under a folder.

    Raises:
        UserError: it cannot be read, or is of none of the formats.
    """
    if log.is_dir() or ".tfevents." in log.name:
        from diag.read_events import read_events

        return read_events(log)
    if not log.exists():
        return Table(str(log)).series()
    with open(log, "rb") as file:
        return read_stream(file, str(log))


def read_stream(file: io.BufferedReader, where: str) -> Series:
    """JSON Lines if the first line that isn't empty begins with "{", else CSV.

    Raises:
        UserError: neither.
    """
    table = Table(where)
    head = file.peek(65536)
    if b"\0" in head[:1024]:
        raise UserError(f"{where} is not a text file; JSON Lines, CSV or a TensorBoard event file is wanted")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"{", b"["):
        read_json_lines(file, table)
    elif start:
        read_csv(file, table)
    return table.series()


def read_json_lines(file: io.BufferedReader, table: Table) -> None:
    """Add the records of JSON Lines to `table`. A last line without its newline is left out if it does not parse."""
    rest, number = b"", 1
    while chunk := file.read(CHUNK_BYTES):
        text, newline, tail = (rest + chunk).rpartition(b"\n")
        rest = tail if newline else rest + chunk
        if newline:
            number += add_lines(table, text, number)
    if rest.strip():
        record = parse_line(rest)
        if record is None:
            table.note("truncated", f"line {number}")
        else:
            table.add([record], [number])


def add_lines(table: Table, text: bytes, number: int) -> int:
    """Add the lines of `text`, of which the first is line `number`; returns how many there are."""
    count = text.count(b"\n") + 1
    try:
        # One call for the whole chunk: a fifth of the time of one call a line.
        records = orjson.loads(b"[" + text.replace(b"\n", b",") + b"]")
        if len(records) == count and all(type(record) is dict for record in records):
            table.add(records, range(number, number + count))
            return count
    except ValueError:
        pass
    records, numbers = [], []
    for offset, line in enumerate(text.split(b"\n")):
        record = parse_line(line)
        if record is not None:
            records.append(record)
            numbers.append(number + offset)
        elif line.strip():
            table.note("damaged", f"line {number + offset}")
    table.add(records, numbers)
    return count


def parse_line(line: bytes) -> dict[str, Any] | None:
    """One record; None for what is none. Python's own NaN and Infinity are understood."""
    try:
        record = orjson.loads(line)
    except ValueError:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def read_csv(file: io.BufferedReader, table: Table) -> None:
    """Add the rows of a CSV file to `table`. An empty cell is absent.

    TensorBoard's own export (Wall time, Step, Value) and long tables (step, metric, value) are understood as well.

    Raises:
        UserError: no header with two columns, or no number below it.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    sample = text.readline()
    delimiter = max(",;\t", key=sample.count)
    header = [name.strip() for name in next(csv.reader([sample], delimiter=delimiter), [])]
    if len(header) < 2 or any(is_number(name) for name in header):
        raise UserError(f"{table.where} is neither JSON Lines nor CSV with a header; see `diag health --help`")
    lower = [name.lower() for name in header]
    long = (
        next(((lower.index(a), lower.index("value")) for a in ("metric", "tag", "name") if a in lower), None)
        if ("value" in lower)
        else None
    )
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    rows = csv.reader(strip_nulls(text), delimiter=delimiter)
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            table.note("damaged", f"line {rows.line_num + 1}")
            continue
        cells = {name: cell for name, cell in zip(header, row, strict=True) if cell != ""}
        if long is not None:
            cells[row[long[0]]] = row[long[1]]
            cells = {name: cell for name, cell in cells.items() if name not in (header[long[0]], header[long[1]])}
        records.append({name: csv_value(cell) for name, cell in cells.items()})
        numbers.append(rows.line_num + 1)
        if len(records) >= 50_000:
            table.add(records, numbers)
            records, numbers = [], []
    table.add(records, numbers)


def strip_nulls(lines: Iterable[str]) -> Iterator[str]:
    """Lines without the NUL characters that a crash of the machine leaves, which csv refuses."""
    for line in lines:
        yield line.replace("\0", "")


def csv_value(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return None if cell.strip().lower() in ("null", "none", "n/a", "na") else cell


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
