"""Logs of every kind become the same columns."""

from __future__ import annotations

import csv
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diag.read import read_run
from diag.read_table import Table
from trainworks.console import UserError
from trainworks.metrics import MetricsWriter


def kinds(path: Path) -> dict[str, int]:
    return {note.kind: note.count for note in read_run(path).series.notes}


def test_a_metrics_file_of_the_core_is_read_as_it_was_written(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write(1, {"train/loss": 2.0}, epoch=0.5)
        metrics.write(2, {"train/loss": math.nan, "valid/loss": 1.5}, epoch=1.0)
        metrics.write(2, {"valid/loss": 1.25})
    series = read_run(tmp_path).series
    assert series.names == ["train/loss", "valid/loss"]
    assert series.steps.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(series.epochs, [0.5, 1.0, math.nan])
    np.testing.assert_array_equal(series.column("train/loss"), [2.0, math.nan, math.nan])
    rows, values = series.points("train/loss")
    assert rows.tolist() == [0, 1]  # null is known to have been there, the third record never had it
    np.testing.assert_array_equal(values, [2.0, math.nan])
    assert series.notes == []


numbers = st.none() | st.floats(allow_nan=False) | st.integers(-(2**40), 2**40) | st.booleans()
records = st.lists(st.dictionaries(st.sampled_from("abcde"), numbers), max_size=30)


@settings(max_examples=40)
@given(records=records, size=st.integers(1, 10))
def test_columns_hold_what_the_records_hold(records: list[dict[str, float | None]], size: int) -> None:
    table = Table("log")
    for begin in range(0, len(records), size):
        table.add(records[begin : begin + size], range(begin, begin + size))
    series = table.series()
    for name in series.names:
        rows, values = series.points(name)
        expected = [(row, record[name]) for row, record in enumerate(records) if name in record]
        assert rows.tolist() == [row for row, _ in expected]
        np.testing.assert_array_equal(values, [math.nan if value is None else float(value) for _, value in expected])


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", '"nan"', "null"])
def test_numbers_that_are_none_are_kept_as_such(tmp_path: Path, literal: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": ' + literal + "}\n")
    values = read_run(log).series.points("loss")[1]
    assert values[0] == 1.0
    assert not np.isfinite(values[1])


def test_damage_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(
        b'{"step":1,"loss":3}\n{"step":2,"lo{"step":2,"loss":2}\n\n[1]\n\xff\n{"step":3,"loss":1}\n{"step":4,"l'
    )
    series = read_run(log).series
    assert series.steps.tolist() == [1, 3]
    assert kinds(log) == {"damaged": 3, "truncated": 1}
    assert series.notes[0].where == f"{log} line 2"


def test_a_last_line_without_its_newline_counts_if_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}')
    assert read_run(log).series.column("loss").tolist() == [3, 2]


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(json.dumps({"step": step, "loss": step / 7, "x" * (step % 3): 1}) + "\n" for step in range(99))
    )
    whole = read_run(log).series
    monkeypatch.setattr("diag.read.CHUNK_BYTES", 37)
    for name in whole.names:
        np.testing.assert_array_equal(read_run(log).series.column(name), whole.column(name))


def test_nested_objects_become_slash_names_and_text_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "train": {"loss": 2, "phase": "warm"}, "ok": true}\n')
    series = read_run(log).series
    assert series.column("train/loss").tolist() == [2]
    assert series.column("ok").tolist() == [1]
    assert kinds(log) == {"text": 1}


@pytest.mark.parametrize("name", ["step", "global_step", "Iteration", "trainer/global_step", "_step"])
def test_the_step_goes_by_many_names(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({name: step, "loss": 1}) + "\n" for step in (10, 20)))
    series = read_run(log).series
    assert (series.unit, series.steps.tolist()) == ("step", [10, 20])


def test_without_steps_epochs_count_and_without_those_the_records(tmp_path: Path) -> None:
    keras, bare = tmp_path / "training.csv", tmp_path / "bare.csv"
    keras.write_text("epoch,loss,val_loss\n0,2,3\n1,1,2\n")  # as keras.callbacks.CSVLogger writes it
    bare.write_text("loss;accuracy\n2;0,1\n1;0,2\n")
    assert (read_run(keras).series.unit, read_run(keras).series.steps.tolist()) == ("epoch", [0, 1])
    assert (read_run(bare).series.unit, read_run(bare).series.steps.tolist()) == ("record", [1, 2])


def test_empty_cells_are_absent_and_nan_is_not(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    with open(log, "w", newline="") as file:
        csv.writer(file).writerows([["step", "loss", "val_loss"], [1, 2.5, ""], [2, "nan", 3], [3, 1]])
    series = read_run(log).series
    assert [len(series.points(name)[0]) for name in ("loss", "val_loss")] == [2, 1]
    assert kinds(log) == {"damaged": 1}


def test_long_tables_are_understood(tmp_path: Path) -> None:
    log = tmp_path / "long.csv"
    log.write_text("step,metric,value\n1,loss,2\n1,acc,0.5\n2,loss,1\n")
    series = read_run(log).series
    steps, values = series.curve("loss")
    assert (steps.tolist(), values.tolist()) == ([1, 2], [2, 1])


def event(step: int, wall: float, tag: bytes, value: float) -> bytes:
    """A TFRecord with one scalar, checksums left at 0."""
    number = b"\x0a" + bytes([len(tag)]) + tag + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(number)]) + number
    message = b"\x09" + struct.pack("<d", wall) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
    return struct.pack("<QI", len(message), 0) + message + bytes(4)


def test_event_files_are_read_without_tensorboard(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    log = tmp_path / "train" / "events.out.tfevents.1.host"
    log.write_bytes(event(1, 100.0, b"loss", 2.0) + event(1, 100.5, b"acc", 0.25) + event(2, 103.0, b"loss", 1.5)[:-9])
    series = read_run(log).series
    assert (series.steps.tolist(), series.times.tolist()) == ([1], [0.0])
    assert (series.column("loss").tolist(), series.column("acc").tolist()) == ([2.0], [0.25])
    assert kinds(log) == {"truncated": 1}
    assert read_run(tmp_path).series.names == ["train/loss", "train/acc"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"just words\nand more\n", "neither JSON Lines nor CSV"),
        ("a.bin", b"\x00\x01\x02", "not a text file"),
        ("events.out.tfevents.1", b"no records at all, only text", "not a TensorBoard event file"),
    ],
)
def test_what_is_no_log_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_run(tmp_path / name)


def test_a_folder_without_a_log_or_with_several_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no log"):
        read_run(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("step,loss\n1,2\n")
    with pytest.raises(UserError, match="holds 2 logs"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "c.csv")


def test_until_is_the_log_as_it_stood(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step":1,"a":1}\n{"step":2,"b":1}\n{"step":3,"a":2}\n')
    series = read_run(log).series.until(2)
    assert series.steps.tolist() == [1, 2]
    assert series.points("a")[1].tolist() == [1]
