from pathlib import Path
from typing import Any

import pytest

from trainworks.metrics import MetricsWriter
from trainworks.plots import plot_curves

pytest.importorskip("matplotlib")


def test_a_figure_for_each_group_that_has_something_to_show(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        for step in range(40):
            metrics.write(step, {"train/loss": 1 / (step + 1)})
        metrics.write(40, {"train/loss": float("nan"), "valid/loss": 0.1})
    groups = {"loss": ["train/loss", "valid/loss", "absent"], "accuracy": ["valid/accuracy"]}
    written = plot_curves(tmp_path / "metrics.jsonl", tmp_path / "plots", groups)
    assert written == [tmp_path / "plots" / "loss.png"]
    assert written[0].read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def break_off(self: Figure, file: Any, **options: Any) -> None:
        file.write(b"half of")
        raise OSError("no space left on device")

    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write(1, {"train/loss": 1.0})
    (plot,) = plot_curves(tmp_path / "metrics.jsonl", tmp_path / "plots", {"loss": ["train/loss"]})
    before = plot.read_bytes()
    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(OSError, match="no space"):
        plot_curves(tmp_path / "metrics.jsonl", tmp_path / "plots", {"loss": ["train/loss"]})
    assert plot.read_bytes() == before
