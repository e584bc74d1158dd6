import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainworks import checkpoint as checkpoint_module
from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError


def writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.json").write_text("{}")

    return write


def publish(book: Checkpoints, step: int, loss: float | None = None) -> Path:
    return book.publish(step, writes(f"weights of {step}"), {"metrics": {"valid/loss": loss}})


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_last_and_best_and_nothing_else_stay(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path, monitor="valid/loss")
    for step, loss in enumerate([0.5, 0.3, 0.4, float("nan"), None], start=1):
        publish(book, step, loss)
    assert names(tmp_path) == ["best", "last", "step_000002", "step_000005"]
    assert os.readlink(tmp_path / "best") == "step_000002"
    assert os.readlink(tmp_path / "last") == "step_000005"
    path, meta = book.load("best")
    assert (path.name, meta["step"], meta["metrics"]) == ("step_000002", 2, {"valid/loss": 0.3})
    assert meta["files"].keys() == {"weights", "tokenizer/vocab.json"}
    assert (path / "weights").read_text() == "weights of 2"


@pytest.mark.parametrize(("mode", "kept"), [("min", {1, 3, 5, 6}), ("max", {2, 4, 5, 6})])
def test_keep_and_top_k(tmp_path: Path, mode: Any, kept: set[int]) -> None:
    book = Checkpoints(tmp_path, keep=2, top_k=2, monitor="valid/loss", mode=mode)
    for step, value in enumerate([0.1, 0.9, 0.2, 0.8, 0.5, 0.5], start=1):
        publish(book, step, value)
    assert {int(name[5:]) for name in names(tmp_path) if name.startswith("step_")} == kept


def test_the_book_of_the_best_outlives_the_process(tmp_path: Path) -> None:
    publish(Checkpoints(tmp_path, monitor="valid/loss"), 1, 0.1)
    publish(Checkpoints(tmp_path, monitor="valid/loss"), 2, 0.2)
    assert os.readlink(tmp_path / "best") == "step_000001"


def test_without_a_monitored_value_best_is_last(tmp_path: Path) -> None:
    publish(Checkpoints(tmp_path, monitor="valid/loss"), 1)
    publish(Checkpoints(tmp_path), 2, 0.5)
    assert names(tmp_path) == ["best", "last", "step_000002"]
    assert Checkpoints(tmp_path).load("best")[0].name == "step_000002"


def test_the_same_step_again_never_replaces_what_last_points_at(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path)
    first = publish(book, 7)
    second = book.publish(7, writes("again"), {})
    assert first != second
    assert (book.load()[0] / "weights").read_text() == "again"
    assert names(tmp_path) == ["best", "last", second.name]


@pytest.mark.parametrize("file", ["weights", "tokenizer/vocab.json"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    book = Checkpoints(tmp_path)
    path = publish(book, 1)
    (path / file).write_text("flipped")
    with pytest.raises(UserError, match=f"step_000001/{file} is damaged"):
        book.load()
    (path / file).unlink()
    with pytest.raises(UserError, match=f"step_000001/{file} is missing"):
        book.load()


def test_a_damaged_or_missing_meta_is_named(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path)
    meta = publish(book, 1) / "meta.json"
    for text in ("", "{", "[]", "{}", '{"files": 3}', "\x00"):
        meta.write_text(text)
        with pytest.raises(UserError, match=r"meta\.json is damaged"):
            book.load()
    meta.unlink()
    with pytest.raises(UserError, match=r"meta\.json is missing"):
        book.load()


def test_an_unknown_checkpoint_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no checkpoint "last" in .*; there: none'):
        Checkpoints(tmp_path / "absent").load()
    publish(Checkpoints(tmp_path), 4)
    with pytest.raises(UserError, match=r'no checkpoint "step_000005" in .*; there: step_000004'):
        Checkpoints(tmp_path).load("step_000005")


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path)
    publish(book, 1)

    def full_disk(folder: Path) -> None:
        (folder / "weights").write_text("hal")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        book.publish(2, full_disk, {})
    assert names(tmp_path) == ["best", "last", "step_000001"]


CRASHING = """
import os, sys
from pathlib import Path
from trainworks import checkpoint, files
from trainworks.checkpoint import Checkpoints

calls = 0
def crash_at_nth(function):
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os._exit(9)
        return function(*arguments, **options)
    return counted

def write(folder):
    (folder / "weights").write_text("weights of 2")

for name in ["replace", "fsync", "symlink", "unlink", "rmdir", "mkdir"]:
    setattr(os, name, crash_at_nth(getattr(os, name)))
Checkpoints(sys.argv[1], monitor="valid/loss").publish(2, write, {"metrics": {"valid/loss": 0.1}})
print("survived")
"""


def test_a_crash_at_any_moment_leaves_last_whole_and_is_cleared_later(tmp_path: Path) -> None:
    seen = set()
    for moment in range(1, 60):
        folder = tmp_path / str(moment)
        publish(Checkpoints(folder, monitor="valid/loss"), 1, 0.5)
        ended = subprocess.run(
            [sys.executable, "-c", CRASHING, str(folder), str(moment)], capture_output=True, text=True
        )
        book = Checkpoints(folder, monitor="valid/loss")
        path, meta = book.load("last")
        book.load("best")
        assert (path / "weights").read_text() == f"weights of {meta['step']}"
        seen.add(meta["step"])
        book.recover()
        last = f"step_{meta['step']:06d}"
        assert names(folder) == ["best", "last", last]
        assert os.readlink(folder / "best") == last
        if "survived" in ended.stdout:
            break
        assert ended.returncode == 9, ended.stderr
    else:
        pytest.fail("the writer never got through")
    assert seen == {1, 2}
    assert moment > 8


def test_a_reader_clears_nothing(tmp_path: Path) -> None:
    publish(Checkpoints(tmp_path), 1)
    (tmp_path / f"{checkpoint_module._UNFINISHED}abc").mkdir()
    Checkpoints(tmp_path).load()
    assert f"{checkpoint_module._UNFINISHED}abc" in names(tmp_path)


def test_a_checkpoint_that_is_to_be_kept_is_never_pruned(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path, monitor="valid/loss")
    for step, loss in enumerate([0.5, 0.3, 0.4, 0.2, 0.9], start=1):
        book.publish(step, writes("weights"), {"metrics": {"valid/loss": loss}, "keep": step == 3})
    assert names(tmp_path) == ["best", "last", "step_000003", "step_000004", "step_000005"]


def test_of_equals_the_tie_break_decides_and_then_the_earlier_one(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path, monitor="accuracy", mode="max", tie_break="loss")
    for step, (accuracy, loss) in enumerate([(0.9, 0.1), (1.0, 0.3), (1.0, 0.2), (1.0, 0.2)], start=1):
        book.publish(step, writes("weights"), {"metrics": {"accuracy": accuracy, "loss": loss}})
    assert os.readlink(tmp_path / "best") == "step_000003"


@pytest.mark.parametrize(
    ("written", "instead"), [('"valid/loss": 0.5', '"valid/loss": 0.4'), ('"step": 1', '"step": 3')]
)
def test_a_meta_of_which_a_digit_is_another_is_damaged(tmp_path: Path, written: str, instead: str) -> None:
    book = Checkpoints(tmp_path, monitor="valid/loss")
    meta = publish(book, 1, 0.5) / "meta.json"
    assert written in meta.read_text()
    meta.write_text(meta.read_text().replace(written, instead))
    with pytest.raises(UserError, match=r"meta\.json is damaged \(SHA-256 differs\)"):
        book.load()


def test_a_meta_of_before_it_had_a_digest_of_its_own_is_read(tmp_path: Path) -> None:
    book = Checkpoints(tmp_path)
    file = publish(book, 1) / "meta.json"
    meta = json.loads(file.read_text())
    del meta["sha256"]
    file.write_text(json.dumps(meta))
    assert book.load()[1] == meta


def test_what_was_logged_is_on_the_disk_before_a_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        pushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.strip(".").split(".")[0])
        fsync(descriptor)

    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    monkeypatch.setattr(os, "fsync", noted)
    publish(Checkpoints(tmp_path / "checkpoints"), 1)
    assert pushed.index("metrics") < pushed.index("meta")


def test_a_file_of_the_run_that_the_weights_need_is_checked_with_them(tmp_path: Path) -> None:
    vocabulary = tmp_path / "run" / "vocabulary.json"
    vocabulary.parent.mkdir()
    vocabulary.write_text('["yes", "no"]')
    publish(Checkpoints(tmp_path / "run" / "checkpoints", beside=[vocabulary]), 1)
    moved = Path(shutil.move(tmp_path / "run", tmp_path / "moved"))
    Checkpoints(moved / "checkpoints").load()
    (moved / "vocabulary.json").write_text('["no", "yes"]')
    with pytest.raises(UserError, match=r"moved/vocabulary\.json is damaged .*; bring it back from a copy of the run"):
        Checkpoints(moved / "checkpoints").load()
