import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainworks import run as run_module
from trainworks.config import Recipe, resolve
from trainworks.console import Interrupted, UserError
from trainworks.run import Run, input_record


class Example(Recipe):
    steps: int = 10


def create(path: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "tool": "trainworks",
        "version": "0.1.0",
        "resolved": resolve(Example, sets=["steps=7"]),
        "seed": 3,
        "device": "cpu",
        "threads": 1,
    }
    return Run.create(path, **(settings | changes))


def record_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


def test_a_finished_run_says_what_it_was(tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("a\n1\n")
    with create(tmp_path / "runs" / "one", inputs=[input_record(data, rows=1)]) as run:
        assert record_of(run.path)["status"] == "running"
        run.finish({"valid/loss": float("nan")})
    record = record_of(run.path)
    assert record["schema"] == 1
    assert (record["status"], record["result"]) == ("finished", {"valid/loss": None})
    assert (record["config"], record["config_sources"]) == ({"steps": 7}, {"steps": "set"})
    assert record["inputs"][0]["rows"] == 1
    assert record["environment"]["python"] == sys.version.split()[0]
    assert record["environment"]["libraries"].keys() >= {"pydantic", "rich"}
    assert record["started"] <= record["finished"]
    assert (run.path / "metrics.jsonl").read_text() == ""
    assert [path.name for path in run.path.parent.iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("exception", "status"),
    [(Interrupted(15), "interrupted"), (KeyboardInterrupt(), "interrupted"), (ValueError("no"), "failed")],
)
def test_how_it_ended_is_written_down(tmp_path: Path, exception: BaseException, status: str) -> None:
    def train() -> None:
        with create(tmp_path / "run"):
            raise exception

    with pytest.raises(type(exception)):
        train()
    assert record_of(tmp_path / "run")["status"] == status


def test_a_taken_name_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years")
    with pytest.raises(UserError, match="--overwrite"):
        create(tmp_path / "mine")
    with pytest.raises(UserError, match="not a run directory"):
        create(tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UserError):
            create(tmp_path / "file", overwrite=overwrite)


def test_overwrite_replaces_a_run(tmp_path: Path) -> None:
    with create(tmp_path / "run") as first:
        (first.path / "plots").mkdir()
    with create(tmp_path / "run", seed=4, overwrite=True) as second:
        assert not (second.path / "plots").exists()
    assert record_of(tmp_path / "run")["seed"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_overwrite_leaves_the_run_of_another_tool_and_what_is_read_alone(tmp_path: Path) -> None:
    with create(tmp_path / "run") as run:
        (run.path / "rows.csv").write_text("a\n1\n")
    before = record_of(tmp_path / "run")
    with pytest.raises(UserError, match=r"rows\.csv is in .*run, which --overwrite would remove"):
        create(tmp_path / "run", overwrite=True, inputs=[input_record(tmp_path / "run" / "rows.csv")])
    with pytest.raises(UserError, match="is a run of trainworks, so --overwrite leaves it alone"):
        create(tmp_path / "run", overwrite=True, tool="typer")
    assert record_of(tmp_path / "run") == before
    assert (tmp_path / "run" / "rows.csv").exists()


def test_a_failed_creation_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path / "old"):
        pass

    def full_disk(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        create(tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        create(tmp_path / "old", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert record_of(tmp_path / "old")["status"] == "finished"


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    script = (
        "import sys; from trainworks.run import Run\nfrom trainworks.console import UserError\n"
        "try: Run.resume(sys.argv[1], tool='trainworks')\nexcept UserError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with create(tmp_path / "run") as run:
        asked = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "another process is writing" in asked.stdout
        with pytest.raises(UserError, match="another process"):
            create(tmp_path / "run", overwrite=True)
        assert Run.open(run.path).record["status"] == "running"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_resume_after_a_kill_goes_on_in_the_same_record(tmp_path: Path) -> None:
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from test_run import create; create(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    here = str(Path(__file__).parent)
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run"), here])
    assert killed.returncode == -9
    before = record_of(tmp_path / "run")
    assert before["status"] == "running"
    with Run.resume(tmp_path / "run", tool="trainworks") as run:
        assert run.config == {"steps": 7}
    after = record_of(tmp_path / "run")
    assert (after["id"], after["status"], len(after["resumed"])) == (before["id"], "finished", 1)


def test_what_is_no_run_of_this_tool_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "run"):
        pass
    with pytest.raises(UserError, match="is a run of trainworks, not of diag"):
        Run.resume(tmp_path / "run", tool="diag")
    with pytest.raises(UserError, match="does not exist"):
        Run.open(tmp_path / "absent")
    with pytest.raises(UserError, match="not a run directory"):
        Run.open(tmp_path)
    for damaged in ("{", "[]", '{"schema": 1}', '{"schema": 99, "tool": "x", "config": {}}', "\x00\x01"):
        (tmp_path / "run" / "run.json").write_text(damaged)
        with pytest.raises(UserError, match=r"run\.json"):
            Run.open(tmp_path / "run")


def test_a_run_that_was_opened_cannot_be_changed(tmp_path: Path) -> None:
    with create(tmp_path / "run"):
        pass
    with pytest.raises(RuntimeError, match="open for reading"):
        Run.open(tmp_path / "run").finish({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", []),
        ("inputs", [3]),
        ("inputs", [{"path": None, "sha256": ""}]),
        ("environment", {}),
        ("status", None),
    ],
)
def test_a_part_that_is_not_what_a_run_has_there_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with create(tmp_path / "run") as run:
        run.finish({})
    (tmp_path / "run" / "run.json").write_text(json.dumps(record_of(run.path) | {name: value}))
    with pytest.raises(UserError, match=f'run.json is damaged: its "{name}"'):
        Run.open(run.path, tool="trainworks")


def test_the_recipe_of_another_version_is_one_line(tmp_path: Path) -> None:
    with create(tmp_path / "run") as run:
        assert run.recipe(Example) == Example(steps=7)
    record = record_of(run.path)
    (run.path / "run.json").write_text(json.dumps(record | {"config": {"steps": 7, "stride": 2}}))
    with pytest.raises(UserError, match=r"run\.json holds no recipe of this version: stride"):
        Run.open(run.path).recipe(Example)
