"""Damaged files and a full disk: one line, and what was good before stays good."""

import errno
import json
import os
import shutil

import pytest

from trainworks.checkpoint import Checkpoints


@pytest.fixture
def copy(run_dir, tmp_path):
    """A copy of the finished run that a test may damage."""
    shutil.copytree(run_dir, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def flip_a_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [flip_a_bit, lambda data: data[:-100], lambda data: b""], ids=["bit", "cut", "none"])
@pytest.mark.parametrize("name", ["model.safetensors", "discriminators.safetensors", "meta.json"])
def test_a_damaged_checkpoint_is_named_and_not_used(copy, disc_train, name, damage):
    file = copy / "checkpoints" / "best" / name
    file.write_bytes(damage(file.read_bytes()))
    ended = disc_train("sample", copy)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {copy / 'checkpoints'}")
    assert f"{name} is damaged" in ended.err
    assert ended.err.count("\n") == 1


def test_another_checkpoint_can_be_chosen_when_one_is_damaged(copy, disc_train):
    checkpoints = copy / "checkpoints"
    shutil.copytree((checkpoints / "best").resolve(), checkpoints / "step_000001")
    (checkpoints / "best" / "model.safetensors").write_bytes(b"")
    ended = disc_train("sample", copy, "-n", 3, "--checkpoint", "step_000001")
    assert (ended.status, len(ended.out.splitlines())) == (0, 4)


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", '{"schema": 99, "columns": []}', '{"schema": 1, "columns": [3]}']
)
def test_a_damaged_schema_is_named(copy, disc_train, content):
    (copy / "schema.json").write_text(content)
    ended = disc_train("sample", copy)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "schema" in ended.err


def test_a_damaged_loop_state_stops_resuming(copy, disc_train):
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "running"}))
    state = copy / "checkpoints" / "last" / "state.pt"
    state.write_bytes(flip_a_bit(state.read_bytes()))
    ended = disc_train("train", "--resume", copy)
    assert ended.status == 2
    assert "state.pt is damaged" in ended.err.splitlines()[-1]


def start_of_training(disc_train, table_csv, recipe_file, out):
    short = ["--set", "warm_start.min_steps=110", "--set", "discriminator.max_epochs=1", "--cycles", 1]
    return disc_train("train", table_csv, "--out", out, "--config", recipe_file, "--device", "cpu", *short)


@pytest.mark.usefixtures("quick_validation")
@pytest.mark.parametrize("full_after", [0, 1, 2])
def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_stays(
    disc_train, table_csv, recipe_file, tmp_path, monkeypatch, full_after
):
    """The disk is full while the checkpoint after `full_after` whole ones is written; with room again it goes on."""
    out, fsync, published = tmp_path / "run", os.fsync, []

    def fsync_on_a_small_disk(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if "discriminators.safetensors" in path and path.endswith(".tmp"):
            if len(published) == full_after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            published.append(path)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_on_a_small_disk)
        ended = start_of_training(disc_train, table_csv, recipe_file, out)
    assert (ended.status, ended.out) == (2, "")
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: no space left on device")
    assert "Traceback" not in ended.err
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    left = {path.name for path in (out / "checkpoints").iterdir()}
    assert not any("unfinished" in name for name in left)
    if full_after:
        assert Checkpoints(out / "checkpoints").load("last")[1]["step"] == 50 * full_after
    else:
        assert left == set()
    resumed = disc_train("train", "--resume", out)
    assert (resumed.status, resumed.out) == (0, f"{out}\n")


def test_a_full_disk_at_the_very_start_leaves_no_run(disc_train, table_csv, recipe_file, tmp_path, monkeypatch):
    def fsync_on_a_full_disk(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_on_a_full_disk)
        ended = start_of_training(disc_train, table_csv, recipe_file, tmp_path / "run")
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith("error: no space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_another_process_writes_is_left_alone(copy, disc_train, table_csv):
    from filelock import FileLock

    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "running"}))
    with FileLock(copy / ".lock"):
        for arguments in (["--resume", copy], [table_csv, "--out", copy, "--overwrite"]):
            ended = disc_train("train", *arguments)
            assert ended.status == 2
            assert ended.err == f"error: another process is writing {copy}; wait for it or name another --out\n"
    assert json.loads((copy / "run.json").read_text())["id"] == record["id"]
