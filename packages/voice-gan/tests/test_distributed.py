"""Two processes train as one, and say so when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from trainworks.metrics import read_metrics

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "voice_gan"]
SAME = ("train/loss", "train/mel_loss", "train/contrastive_loss", "disc/loss", "grad_norm/generator", "grad_norm/mpd")


def ranks_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """Process numbers by rank, of what torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {line.decode().partition("=")[2]: int(child) for line in variables if line.startswith(b"RANK=")}
    return found


@pytest.fixture(scope="module")
def arguments(data, recipe_file):
    shorter = ["--epochs", "2", "--set", "training.warm_up=0.5"]
    return ["train", data, "--config", recipe_file, *shorter, "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def alone(voice_gan, arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    ended = voice_gan(*arguments, "--out", out)
    assert ended.status == 0, ended.err
    return out


def assert_alike(run: Path, alone: Path) -> None:
    """Up to the order of floating-point sums, which a training makes more of with every step."""
    for record, expected in zip(*(read_metrics(path / "metrics.jsonl") for path in (run, alone)), strict=True):
        for name in SAME:
            if name in expected:
                assert record[name] == pytest.approx(expected[name], rel=2e-2, abs=1e-4), (record["step"], name)
    first, expected = (read_metrics(path / "metrics.jsonl")[0] for path in (run, alone))
    for name in SAME[:3]:
        assert first[name] == pytest.approx(expected[name], rel=1e-5)
    made, wanted = (load_file(path / "checkpoints" / "last" / "model.safetensors") for path in (run, alone))
    for name, weight in wanted.items():
        np.testing.assert_allclose(made[name], weight, atol=5e-3)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(voice_gan, arguments, alone, tmp_path):
    ended = voice_gan(*arguments, "--out", tmp_path / "run", "--grad-accum", 4)
    assert ended.status == 0, ended.err
    assert_alike(tmp_path / "run", alone)


def test_two_processes_train_as_one_through_a_death_and_a_resume(arguments, alone, tmp_path):
    out = tmp_path / "run"
    command = [*TORCHRUN, *map(str, arguments), "--out", str(out), "--ddp"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.05)
    os.kill(ranks_of(job)["1"], signal.SIGKILL)
    _, said = job.communicate(timeout=120)
    assert job.returncode != 0
    assert json.loads((out / "run.json").read_text())["status"] in ("failed", "interrupted")
    assert f"--resume {out}" in said
    assert (out / "checkpoints" / "last").exists()
    resume = [*TORCHRUN, "train", "--resume", str(out), "--ddp"]
    resumed = subprocess.run(resume, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == f"{out}\n"
    assert_alike(out, alone)


def test_torchrun_and_ddp_belong_together(voice_gan, arguments, tmp_path, monkeypatch):
    ended = voice_gan(*arguments, "--out", tmp_path / "run", "--ddp")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "torchrun" in ended.err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    ended = voice_gan(*arguments, "--out", tmp_path / "run")
    assert ended.status == 2
    assert "--ddp" in ended.err
