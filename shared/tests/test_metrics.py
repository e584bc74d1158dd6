import itertools
import json
from pathlib import Path

import pytest

from trainworks.console import UserError
from trainworks.metrics import MetricsWriter, read_metrics, tail_metrics


def test_what_is_written_is_read_with_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    ticks = itertools.count(100.0, 0.5)
    with MetricsWriter(path, clock=lambda: next(ticks)) as metrics:
        metrics.write(1, {"train/loss": 0.25, "bad": float("inf")}, epoch=0)
        metrics.write(2, {"valid/loss": float("nan")})
        lines = path.read_text().splitlines()  # before the file is closed: each line is flushed
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "epoch": 0, "time": 0.5, "train/loss": 0.25, "bad": None},
        {"step": 2, "epoch": None, "time": 1.0, "valid/loss": None},
    ]
    assert read_metrics(path) == [json.loads(line) for line in lines]


def test_a_line_cut_by_a_crash_is_passed_over_and_then_repaired(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(1, {})
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert [record["step"] for record in read_metrics(path)] == [1]
    with MetricsWriter(path) as metrics:
        metrics.write(2, {})
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_resume_drops_what_will_be_trained_again_and_time_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    ticks = itertools.count(0.0, 10.0)
    with MetricsWriter(path, clock=lambda: next(ticks)) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, {"train/loss": step / 3})
    with MetricsWriter(path, clock=lambda: 5000.0) as metrics:
        metrics.truncate_after(2)
        metrics.write(3, {"train/loss": 1.0})
    assert [(record["step"], record["time"]) for record in read_metrics(path)] == [(1, 10), (2, 20), (3, 20)]


def test_a_damaged_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(path)
    with pytest.raises(UserError, match="no metrics at"):
        read_metrics(tmp_path / "absent")


def test_tail_follows_a_growing_file_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    followed = tail_metrics(path, poll=0, finished=lambda: path.with_name("done").exists())
    with MetricsWriter(path) as metrics:
        metrics.write(1, {})
        metrics.write(2, {})
        assert [next(followed)["step"], next(followed)["step"]] == [1, 2]
        metrics.write(3, {})
        assert next(followed)["step"] == 3
        metrics.truncate_after(1)
        for step in (2, 3, 4):
            metrics.write(step, {})
        assert next(followed)["step"] == 4
        metrics.write(5, {})
    path.with_name("done").touch()
    assert [record["step"] for record in followed] == [5]


@pytest.mark.parametrize(
    "line", ['{"epoch": 1}', '{"step": null}', '{"step": 1, "time": "late"}', "[1]", "3", "\xff", "[" * 9999]
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "epoch": null, "time": 0.5}\n' + line + "\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is not a metrics record"):
        MetricsWriter(path)


def test_what_is_kept_of_a_file_stays_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = b'{"step": 1,  "text": "\\ud800"}\n'
    path.write_bytes(first + b'{"step": 2}\n')
    with MetricsWriter(path) as metrics:
        metrics.truncate_after(1)
    assert path.read_bytes() == first
