import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainworks import tracking
from trainworks.config import Recipe, resolve
from trainworks.console import UserError
from trainworks.run import Run


class Example(Recipe):
    betas: tuple[float, float] = (0.9, 0.99)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with Run.create(
        tmp_path / "run",
        tool="trainworks",
        version="0",
        resolved=resolve(Example),
        seed=0,
        device="cpu",
        threads=1,
    ) as run:
        return run


class Recorder:
    def __init__(self, run: Run) -> None:
        self.seen: list[tuple[int, Mapping[str, float]]] = []
        self.closed = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        print("a tracker that chats")
        if step == 3:
            raise ConnectionError("no route to host")
        self.seen.append((step, values))

    def close(self) -> None:
        print("a tracker that says goodbye")
        self.closed += 1
        raise ConnectionError("still no route")


def test_a_sink_that_fails_warns_once_and_training_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(run)
    monkeypatch.setitem(tracking._TRACKERS, "neptune", lambda run: recorder)
    with tracking.open_sink("neptune", run) as sink:
        for step in range(1, 6):
            sink.log(step, {"train/loss": 0.5, "bad": float("nan"), "note": None})
    assert recorder.seen == [(1, {"train/loss": 0.5}), (2, {"train/loss": 0.5})]
    assert recorder.closed == 1  # or it might close itself at exit, and say so on stdout
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("warning: tracker neptune failed") == 1


def test_a_tracker_that_does_not_start_is_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Run) -> Recorder:
        raise RuntimeError("database is locked")

    monkeypatch.setitem(tracking._TRACKERS, "trackio", refuse)
    with tracking.open_sink("trackio", run) as sink:
        sink.log(1, {"train/loss": 0.5})
    assert "did not start and is left out: database is locked" in capsys.readouterr().err


def test_none_is_silent_and_a_wrong_name_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.open_sink("none", run) as sink:
        sink.log(1, {"train/loss": 0.5})
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match='--tracker is none, neptune or trackio, not "wandb"'):
        tracking.open_sink("wandb", run)


def test_a_tracker_that_is_not_installed_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neptune", None)
    with pytest.raises(UserError, match=r"pip install 'trainworks\[neptune\]'"):
        tracking.open_sink("neptune", run)


def test_neptune_stays_offline_in_the_run(run: Run) -> None:
    pytest.importorskip("neptune")
    with tracking.open_sink("neptune", run) as sink:
        sink.log(1, {"train/loss": 0.5})
    assert list((run.path / ".neptune" / "offline").iterdir())
