"""What every trainer's run directory, streams, exit statuses and signals have in common (DESIGN sections 2 to 4)."""

import json
import os
import re
import shutil
import signal
import zipfile
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from trainworks.console import Interrupted
from trainworks.files import sha256_file

LAYOUT = {
    "schema", "id", "tool", "version", "argv", "config", "config_sources", "seed", "inputs", "environment", "status",
    "started", "finished", "result",
}  # fmt: skip


def read_lines(run: Path) -> list[dict]:
    """The records of metrics.jsonl; bare NaN and infinity, which are no JSON, are refused."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"bare {constant} in {run}/metrics.jsonl")

    return [json.loads(line, parse_constant=refuse) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(run: Path) -> list[dict]:
    """The records without what no two trainings share: seconds, and figures by the second."""
    timed = re.compile(r"time(/.*)?|.*_per_second")
    return [{key: value for key, value in line.items() if not timed.fullmatch(key)} for line in read_lines(run)]


def weights(run: Path) -> dict:
    """All weights that `last` and `best` hold, as bytes: of HDF5 files the arrays', since they hold times too."""
    found = {}
    for pointer in ("last", "best"):
        folder = run / "checkpoints" / pointer
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.weights.h5")]):
            found[pointer, file.name] = arrays(file) if file.suffix == ".h5" else file.read_bytes()
    return found


def arrays(file: Path) -> dict[str, bytes]:
    import h5py

    found = {}
    with h5py.File(file) as stored:
        stored.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return found


def assert_same_training(run: Path, unbroken: Path) -> None:
    assert untimed(run) == untimed(unbroken)
    assert weights(run) == weights(unbroken)
    results = [json.loads((path / "run.json").read_text())["result"] for path in (run, unbroken)]
    assert results[0] == results[1]


def value_of(recipe: dict, key: str) -> tuple[object, str]:
    """The value of a dotted key in run.json or in what --dry-run prints, and the layer that it came from."""
    value = recipe["config"]
    for part in key.split("."):
        value = value[part]
    return value, recipe["config_sources"][key]


def test_stdout_is_the_runs_path_and_stderr_plain_lines(finished) -> None:
    assert finished.out == f"{finished.path}\n"
    assert finished.err
    assert "\x1b" not in finished.err
    assert "\r" not in finished.err


def test_run_json_tells_what_was_run_on_what_and_how_it_ended(workshop, finished) -> None:
    record = finished.record
    assert record.keys() >= LAYOUT
    assert (record["schema"], record["tool"], record["status"]) == (1, workshop.trainer.command, "finished")
    assert re.fullmatch(r"\d+\.\d+\.\d+", record["version"])
    assert record["argv"][:2] == [workshop.trainer.command, "train"]
    assert record["seed"] == record["config"]["seed"] == 0
    assert datetime.fromisoformat(record["started"]) <= datetime.fromisoformat(record["finished"])
    assert record["result"]
    assert all(value is None or isinstance(value, int | float) for value in record["result"].values())
    environment = record["environment"]
    assert environment.keys() >= {"python", "libraries", "device", "threads", "git_commit"}
    assert (environment["device"], environment["threads"]) == ("cpu", 1)
    assert environment["libraries"].keys() & {"torch", "tensorflow", "keras"}


def test_run_json_says_where_each_value_came_from(workshop, finished) -> None:
    _, key, _, _ = workshop.trainer.preset
    assert value_of(finished.record, key)[1] == "file"
    assert value_of(finished.record, "seed") == (0, "default")
    if workshop.trainer.model:
        assert value_of(finished.record, "model") == (workshop.trainer.model, "flag")


def test_inputs_are_named_so_that_they_are_found_again_and_known_for_the_same(finished) -> None:
    inputs = finished.record["inputs"]
    assert any(entry["rows"] for entry in inputs)
    for entry in inputs:
        assert os.path.isabs(entry["path"])
        assert entry["sha256"] == sha256_file(entry["path"])


def test_metrics_are_slash_named_numbers_in_the_order_of_the_steps(finished) -> None:
    lines = read_lines(finished.path)
    for line in lines:
        values = {key: value for key, value in line.items() if key not in ("step", "epoch", "time")}
        assert values
        assert all("/" in key for key in values)
        assert all(value is None or isinstance(value, int | float) for value in values.values())
    epochs = [line["epoch"] for line in lines if line["epoch"] is not None]  # not every phase counts them
    assert epochs == sorted(epochs)
    for before, after in pairwise(lines):
        assert before["step"] <= after["step"]
        assert 0 <= before["time"] <= after["time"]


def test_last_and_best_point_at_whole_checkpoints(finished) -> None:
    for pointer in ("last", "best"):
        link = finished.path / "checkpoints" / pointer
        assert re.fullmatch(r"step_\d{6}", os.readlink(link))
        folder = link.resolve()
        meta = json.loads((folder / "meta.json").read_text())
        assert folder.name == f"step_{meta['step']:06d}"
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files - {"meta.json"} <= meta["files"].keys()
        assert all(sha256_file(folder / name) == digest for name, digest in meta["files"].items())
    assert {pointer for pointer, _ in weights(finished.path)} == {"last", "best"}


def test_nothing_that_was_written_is_a_pickle_but_tensors_that_load_as_such(workshop, finished) -> None:
    tensors = []
    for file in (path for path in finished.path.rglob("*") if path.is_file()):
        assert not re.match(rb"\x80[\x02-\x05]", file.read_bytes()[:2]), file
        if zipfile.is_zipfile(file) and any(name.endswith(".pkl") for name in zipfile.ZipFile(file).namelist()):
            tensors.append(file)
    load = "import sys, torch\nfor file in sys.argv[1:]: torch.load(file, weights_only=True)"
    process = workshop.server.start(load if tensors else "", *tensors)
    assert process.wait() == 0, process.err
    assert all(file.suffix == ".pt" for file in tensors)


def test_a_signal_saves_and_a_resumed_run_ends_like_the_unbroken_one(workshop, finished, tmp_path) -> None:
    out, third = tmp_path / "run", len(read_lines(finished.path)) // 3
    for signum, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        stop = interrupt_after(third, signum)
        resume = ("train", "--resume", out)
        process = (
            workshop.run(*resume, before=stop, directory=tmp_path) if out.exists() else workshop.train(out, before=stop)
        )
        assert process.status == status, process.err
        assert process.out == ""
        last = process.err.splitlines()[-1]
        assert last.startswith(f"{Interrupted(signum)}; ")
        assert "--resume" in last
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
        assert (out / "checkpoints" / "last" / "meta.json").exists()
    process = workshop.run(*resume, directory=tmp_path)
    assert (process.status, process.out) == (0, f"{out}\n"), process.err
    assert_same_training(out, finished.path)
    assert len(json.loads((out / "run.json").read_text())["resumed"]) == 2


def interrupt_after(records: int, signum: int) -> str:
    """Source that has the process interrupted when it has logged so many records."""
    return f"""
import itertools, os
from trainworks.metrics import MetricsWriter
write, written = MetricsWriter.write, itertools.count(1)
def write_and_be_interrupted(*given, **named):
    write(*given, **named)
    if next(written) == {records}:
        os.kill(os.getpid(), {int(signum)})
MetricsWriter.write = write_and_be_interrupted
"""


def test_neptune_keeps_its_files_in_the_run_changes_nothing_and_quiet_is_silent(workshop, finished, tmp_path) -> None:
    out = tmp_path / "run"
    process = workshop.train(out, "--tracker", "neptune", "--quiet")
    assert (process.status, process.out, process.err) == (0, f"{out}\n", "")
    assert list((out / ".neptune" / "offline").iterdir())
    assert_same_training(out, finished.path)


TRACKIO_FAILS = """
import trackio
log, calls = trackio.log, []
def log_once(*given, **named):
    calls.append(given)
    if len(calls) > 1:
        raise ConnectionError("no route to host")
    log(*given, **named)
trackio.log = log_once
"""


def test_a_tracker_that_fails_is_told_once_and_training_goes_on(workshop, finished, trackio_folder, tmp_path) -> None:
    out = tmp_path / "run"
    process = workshop.train(out, "--tracker", "trackio", before=TRACKIO_FAILS)
    assert (process.status, process.out) == (0, f"{out}\n"), process.err
    warnings = [line for line in process.err.splitlines() if line.startswith("warning: tracker")]
    assert warnings == ["warning: tracker trackio failed and is left out from here on: no route to host"]
    assert list(trackio_folder.glob(f"{workshop.trainer.command}*.db"))
    assert_same_training(out, finished.path)


def test_a_taken_name_is_refused_and_the_run_untouched(workshop, finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}
    process = workshop.train(finished.path)
    assert (process.status, process.out) == (2, "")
    assert process.err.splitlines()[-1] == (
        f"error: {finished.path} exists; name another --out, or give --resume or --overwrite"
    )
    assert {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")} == before


def test_overwrite_replaces_the_run(workshop, finished, tmp_path) -> None:
    out = shutil.copytree(finished.path, tmp_path / "run", symlinks=True)
    process = workshop.train(out, "--overwrite", before=interrupt_after(1, signal.SIGTERM))
    assert process.status == 143, process.err
    assert json.loads((out / "run.json").read_text())["id"] != finished.record["id"]
    assert len(read_lines(out)) < len(read_lines(finished.path))


def test_a_finished_run_is_not_trained_on(workshop, finished) -> None:
    before = (finished.path / "run.json").read_bytes()
    process = workshop.run("train", "--resume", finished.path)
    assert (process.status, process.out) == (0, f"{finished.path}\n")
    assert process.err == f"{finished.path} is finished already\n"
    assert (finished.path / "run.json").read_bytes() == before


@pytest.mark.parametrize("option", [("--seed", 3), ("--set", "seed=3"), ("--dry-run",), ("--out", "elsewhere")])
def test_resume_takes_no_other_recipe(option, workshop, finished) -> None:
    process = workshop.run("train", "--resume", finished.path, *option)
    assert (process.status, process.out) == (2, "")
    assert process.err.startswith("error: --resume takes recipe")
    assert process.err.endswith("from the run: leave the other options out\n")


def test_missing_data_are_named_in_one_line_and_leave_no_run(workshop, tmp_path) -> None:
    data = [*workshop.trainer.data[:-1], tmp_path / "absent"]
    arguments = ["train", *data, *workshop.trainer.chosen, "--out", tmp_path / "run"]
    process = workshop.run(*arguments)
    assert (process.status, process.out) == (2, "")
    assert re.fullmatch(rf"error: .*{re.escape(str(tmp_path / 'absent'))}.*\n", process.err)
    assert list(tmp_path.iterdir()) == []
    traced = workshop.run(*arguments, environment={"TRAINWORKS_DEBUG": "1"})
    assert traced.status == 2
    assert traced.err.startswith("Traceback")
    assert traced.err.splitlines()[-1] == process.err.rstrip("\n")


def dry_run(workshop, *options, **more) -> dict:
    process = workshop.run("train", *workshop.trainer.data, "--out", "dry", "--dry-run", *options, **more)
    assert process.status == 0, process.err
    assert not (workshop.path / "dry").exists()
    return json.loads(process.out)


def test_a_flag_wins_over_environment_over_file_over_preset_over_default(workshop, tmp_path) -> None:
    name, key, of_preset, default = workshop.trainer.preset
    section, _, field = key.partition(".")
    file = tmp_path / "recipe.toml"
    file.write_text(f"seed = 3\n{section} = {{ {field} = 203 }}\n")
    prefix = workshop.trainer.module.upper()
    variables = {f"{prefix}__SEED": "4", f"{prefix}__{section}__{field}".upper(): "204"}
    layers = [
        ((), {}, (0, "default"), (default, "default")),
        (("--preset", name), {}, (0, "default"), (of_preset, "preset")),
        (("--config", file), {}, (3, "file"), (203, "file")),
        ((), variables, (4, "environment"), (204, "environment")),
        (("--seed", 5, "--set", f"{key}=205"), {}, (5, "flag"), (205, "set")),
    ]
    options: list = []
    environment: dict = {}
    for added, set_, seed, value in layers:
        options += added
        environment |= set_
        plan = dry_run(workshop, *options, environment=environment)
        assert (value_of(plan, "seed"), value_of(plan, key)) == (seed, value)


def test_the_recipe_of_a_finished_run_is_a_config_file(workshop, finished) -> None:
    plan = dry_run(workshop, "--config", finished.path / "run.json")
    assert plan["config"] == finished.record["config"]
    assert set(plan["config_sources"].values()) == {"file"}
    assert dry_run(workshop, "--config", finished.path)["config"] == finished.record["config"]


def test_a_dry_run_tells_what_would_be_written(workshop, finished) -> None:
    plan = dry_run(workshop)
    written = {os.path.relpath(path, "dry").split("/")[0] for path in plan["would_write"]}
    there = {path.name for path in finished.path.iterdir()} - {".lock"}
    assert {"run.json", "metrics.jsonl", "checkpoints"} <= written
    assert there <= written | {"plots", "samples", "reports"}


def test_a_dry_run_says_what_is_missing_and_what_is_taken(workshop, finished, tmp_path) -> None:
    *option, _ = workshop.trainer.data
    process = workshop.run("train", *option, "nowhere", "--out", finished.path, "--dry-run")
    assert process.status == 0, process.err
    assert "nowhere does not exist: only the recipe was checked" in process.err
    assert f"{finished.path} exists; name another --out" in process.err
    other = json.dumps({**finished.record, "tool": "some-tool"})
    (tmp_path / "run.json").write_text(other)
    process = workshop.run("train", *workshop.trainer.data, "--out", tmp_path, "--overwrite", "--dry-run")
    assert "is a run of some-tool, so --overwrite leaves it alone" in process.err
    assert (tmp_path / "run.json").read_text() == other


def test_an_unknown_key_names_the_nearest_and_leaves_no_run(workshop, tmp_path) -> None:
    process = workshop.train(tmp_path / "run", "--set", "sed=3")
    assert (process.status, process.out) == (2, "")
    assert process.err == 'error: unknown key "sed" (in --set); did you mean "seed"?\n'
    assert list(tmp_path.iterdir()) == []
