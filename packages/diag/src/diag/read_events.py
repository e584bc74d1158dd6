"""TensorBoard event files: the scalars in them, read without TensorBoard.

A file is a sequence of TFRecords (length, checksum, Event message, checksum). Of the protocol buffers only the fields
that carry scalars are decoded: Event.wall_time (1), step (2), summary (5); Summary.value (1); Value.tag (1),
simple_value (2), tensor (8); TensorProto.dtype (1), tensor_content (4), float_val (5), double_val (6), int_val (7),
int64_val (10). Layout: tensorflow/core/util/event.proto, framework/summary.proto and tensor.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diag.read_table import Table
from diag.series import Series
from trainworks.console import UserError

HEADER_BYTES, FOOTER_BYTES = 12, 4
DTYPES = {1: "f", 2: "d", 3: "i", 9: "q"}
"""struct codes of TensorFlow's DT_FLOAT, DT_DOUBLE, DT_INT32, DT_INT64."""


def read_events(path: Path) -> Series:
    """The scalars of an event file or of all event files under a folder.

    Below a folder, a scalar's name has its file's folder before it, as in TensorBoard: "train/epoch_loss".

    Raises:
        UserError: a file is no event file.
    """
    files = sorted(path.rglob("*.tfevents.*")) if path.is_dir() else [path]
    events = []
    table = Table(str(path))
    for file in files:
        folder = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
        prefix = "" if folder == "." else f"{folder}/"
        events += [(step, wall, prefix + tag, value) for step, wall, tag, value in scalars(file, table)]
    # Stable: what one file wrote stays in its order, so that steps going back are still seen.
    if len(files) > 1:
        events.sort(key=lambda event: event[1])
    start = min((wall for _, wall, _, _ in events), default=0.0)
    records: dict[tuple[int, int], dict[str, Any]] = {}
    generation, last = 0, -math.inf
    for step, wall, tag, value in events:
        generation += step < last
        last = step
        record = records.setdefault((generation, step), {"step": step, "time": wall - start})
        record[tag] = value
    table.add(list(records.values()), range(1, len(records) + 1))
    return table.series()


def scalars(file: Path, table: Table) -> Iterator[tuple[int, float, str, float]]:
    """(step, wall time, tag, value) of each scalar in one file.

    Raises:
        UserError: not an event file.
    """
    data = memoryview(file.read_bytes())
    at, number = 0, 0
    while at + HEADER_BYTES <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        begin, end = at + HEADER_BYTES, at + HEADER_BYTES + length
        if end + FOOTER_BYTES > len(data):
            break
        number += 1
        try:
            event = {key: value for key, value in fields(data[begin:end])}
            for key, value in fields(event[5]) if 5 in event else ():
                if key == 1:
                    tag, scalar = summary_value(value)
                    if scalar is not None:
                        yield signed(event.get(2, 0)), struct.unpack("<d", event[1])[0], tag, scalar
        except (ValueError, struct.error, IndexError, KeyError, TypeError):
            if number == 1:
                raise UserError(f"{file} is not a TensorBoard event file") from None
            table.note("damaged", f"{file.name} record {number}")
        at = end + FOOTER_BYTES
    if at < len(data):
        if number == 0:
            raise UserError(f"{file} is not a TensorBoard event file")
        table.note("truncated", f"{file.name} record {number + 1}")


def summary_value(message: memoryview) -> tuple[str, float | None]:
    """Tag and scalar of one Summary.Value; None where it is an image, a histogram or text."""
    parts = {key: value for key, value in fields(message)}
    tag = bytes(parts[1]).decode("utf-8", errors="replace")
    if 2 in parts:
        return tag, struct.unpack("<f", parts[2])[0]
    return tag, tensor_scalar(parts[8]) if 8 in parts else None


def tensor_scalar(message: memoryview) -> float | None:
    """The only number of a TensorProto, None if it has none or more of them."""
    parts = {key: value for key, value in fields(message)}
    code = DTYPES.get(parts.get(1, 0))
    if code is None:
        return None
    content = parts.get(4)
    if content is None:
        packed = next((parts[key] for key in (5, 6, 7, 10) if key in parts), b"")
        if code in "iq":
            return float(signed(varint(packed, 0)[0])) if isinstance(packed, memoryview) and len(packed) else None
        content = packed
    if len(content) != struct.calcsize(code):
        return None
    return float(struct.unpack(f"<{code}", content)[0])


def fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protocol buffer: ints for varints, bytes for all else."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field runs past its message")
        yield number, message[at : at + size]
        at += size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, and where the next field begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def signed(value: int) -> int:
    """An int64 from its two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value
