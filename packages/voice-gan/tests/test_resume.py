"""What a run that was killed or interrupted, then resumed, has in common with an unbroken one: everything.

`pytest packages/voice-gan/tests/test_resume.py --kills 10` kills one training at ten moments.
"""

import json
import multiprocessing
import os
import random
import time

import pytest

from trainworks.metrics import read_metrics

PROGRAM = """
import os, sys
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
sys.argv = {argv!r}
from voice_gan import cli
cli.main()
"""
WALL = ("time", "time/data_seconds", "train/audio_seconds_per_second")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start `voice-gan` in a process that has torch loaded already; gives back the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["voice_gan.run", "voice_gan.cli", "torch._dynamo", "matplotlib.pyplot"])
    log = tmp_path_factory.mktemp("log") / "stderr.txt"
    started = []

    def call(*arguments):
        program = PROGRAM.format(log=str(log), argv=["voice-gan", *map(str, arguments)])
        process = context.Process(target=exec, args=(program, {}))
        process.start()
        process.log = log
        started.append(process)
        return process

    yield call
    for process in started:
        if process.is_alive():
            process.kill()


def finish(process):
    process.join(timeout=300)
    assert process.exitcode == 0, process.log.read_text()[-2000:]


def wait_for_lines(process, run_dir, count):
    """Return once the run has logged `count` records."""
    path = run_dir / "metrics.jsonl"
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        assert process.is_alive(), process.log.read_text()[-2000:]
        time.sleep(0.002)


@pytest.fixture(scope="module")
def arguments(data, recipe_file):
    shorter = ["--epochs", "2", "--set", "training.warm_up=0.5"]
    return ["train", data, "--config", recipe_file, *shorter, "--threads", "1", "--device", "cpu", "--out"]


@pytest.fixture(scope="module")
def unbroken(start, arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(*arguments, out))
    return out


def assert_same_outcome(run_dir, unbroken):
    def untimed(path):
        return [
            {name: value for name, value in record.items() if name not in WALL}
            for record in read_metrics(path / "metrics.jsonl")
        ]

    assert untimed(run_dir) == untimed(unbroken)
    for file in ("model.safetensors", "discriminators.safetensors"):
        one, other = (path / "checkpoints" / "last" / file for path in (run_dir, unbroken))
        assert one.read_bytes() == other.read_bytes(), file
    records = [json.loads((path / "run.json").read_text()) for path in (run_dir, unbroken)]
    assert records[0]["status"] == "finished"
    assert records[0]["result"] == records[1]["result"]


def test_kill_at_random_moments_and_resume(start, arguments, unbroken, tmp_path, kills):
    chosen = random.Random(os.environ.get("PYTEST_KILL_SEED"))
    length = len(read_metrics(unbroken / "metrics.jsonl"))
    out = tmp_path / "run"
    process = start(*arguments, out)
    for index in range(kills):
        wait_for_lines(process, out, int((index + chosen.random()) / kills * (length - 2)) + 1)
        time.sleep(chosen.uniform(0, 0.2))
        process.kill()
        process.join()
        process = start("train", "--resume", out)
    finish(process)
    assert_same_outcome(out, unbroken)
