"""What a run that was killed or interrupted, then resumed, has in common with an unbroken one: everything.

`pytest packages/disc-train/tests/test_resume.py --kills 10` kills one training at ten moments.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest

from trainworks.metrics import read_metrics

PROGRAM = """
import os, sys
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
sys.argv = {argv!r}
from disc_train import cli, train
# A cheap, deterministic stand-in for forests, which are not what is tested.
train.validation_auc = lambda real, fake, seed: 0.5 + abs(fake.mean() % 1 - 0.5)
cli.main()
"""
SHORTER = ["--set", "warm_start.min_steps=120", "--set", "feedback.steps_per_cycle=10", "--cycles", "2"]
COMMON = ["--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start `disc-train` in a process that has torch loaded already; gives back the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["disc_train.run", "disc_train.cli", "torch._dynamo", "matplotlib.pyplot"])
    log = tmp_path_factory.mktemp("log") / "stderr.txt"
    started = []

    def call(*arguments):
        program = PROGRAM.format(log=str(log), argv=["disc-train", *map(str, arguments)])
        process = context.Process(target=exec, args=(program, {}))
        process.start()
        process.log = log
        started.append(process)
        return process

    yield call
    for process in started:
        if process.is_alive():
            process.kill()


def finish(process, status=0):
    process.join(timeout=300)
    assert process.exitcode == status, process.log.read_text()[-2000:]


def wait_for_lines(process, run_dir, count):
    """Return once the run has logged `count` records."""
    path = run_dir / "metrics.jsonl"
    wait_until(process, lambda: path.exists() and path.read_bytes().count(b"\n") >= count)


def wait_until(process, reached):
    while not reached():
        assert process.is_alive(), process.log.read_text()[-2000:]
        time.sleep(0.002)


def times_resumed(run_dir):
    """How often the run was resumed, -1 if it hasn't begun."""
    file = run_dir / "run.json"
    return len(json.loads(file.read_text()).get("resumed", [])) if file.exists() else -1


@pytest.fixture(scope="module")
def arguments(table_csv, recipe_file):
    return ["train", table_csv, "--config", recipe_file, *SHORTER, *COMMON, "--out"]


@pytest.fixture(scope="module")
def unbroken(start, arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(*arguments, out))
    return out


def assert_same_outcome(run_dir, unbroken):
    def untimed(path):
        return [{**record, "time": None} for record in read_metrics(path / "metrics.jsonl")]

    assert untimed(run_dir) == untimed(unbroken)
    for pointer in ("last", "best"):
        one, other = run_dir / "checkpoints" / pointer, unbroken / "checkpoints" / pointer
        assert one.resolve().name == other.resolve().name
        for file in ("model.safetensors", "discriminators.safetensors"):
            assert (one / file).read_bytes() == (other / file).read_bytes(), (pointer, file)
    records = [json.loads((path / "run.json").read_text()) for path in (run_dir, unbroken)]
    assert records[0]["status"] == "finished"
    assert records[0]["result"] == records[1]["result"]


def test_kill_at_random_moments_and_resume(start, arguments, unbroken, tmp_path, kills):
    chosen = random.Random(os.environ.get("PYTEST_KILL_SEED"))
    length = len(read_metrics(unbroken / "metrics.jsonl"))
    out = tmp_path / "run"
    process = start(*arguments, out)
    for index in range(kills):
        # The moments are spread over the run; a moment's pause lets some fall inside teaching or saving.
        line = int((index + chosen.random()) / kills * (length - 2)) + 1
        wait_until(process, lambda started=index: times_resumed(out) == started)
        wait_for_lines(process, out, line)
        time.sleep(chosen.random() * 0.1)
        process.kill()
        finish(process, status=-signal.SIGKILL)
        assert json.loads((out / "run.json").read_text())["status"] == "running"
        process = start("train", "--resume", out)
    finish(process)
    assert_same_outcome(out, unbroken)
    assert times_resumed(out) == kills


@pytest.mark.usefixtures("quick_validation")
def test_a_signal_while_discriminators_are_taught_ends_there_and_the_cycle_is_repeated(
    disc_train, arguments, unbroken, tmp_path, monkeypatch
):
    from disc_train import train

    intact, calls = train.fit_discriminators, iter(range(100))

    def interrupted(*given):
        if next(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return intact(*given)

    monkeypatch.setattr(train, "fit_discriminators", interrupted)
    ended = disc_train(*arguments, tmp_path / "run")
    assert ended.status == 143
    assert ended.err.splitlines()[-1] == f"interrupted by SIGTERM; go on with --resume {tmp_path / 'run'}"
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["feedback/cycle"] for record in logged if "feedback/cycle" in record] == [0]
    assert disc_train("train", "--resume", tmp_path / "run").status == 0
    assert_same_outcome(tmp_path / "run", unbroken)


@pytest.fixture
def stopped(unbroken, tmp_path):
    """A run that a crash left as running."""
    out = tmp_path / "stopped"
    shutil.copytree(unbroken, out, symlinks=True)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"status": "running", "result": None}))
    return out


def test_a_half_written_last_line_of_the_metrics_is_mended(stopped, unbroken, start):
    whole = (stopped / "metrics.jsonl").read_bytes()
    (stopped / "metrics.jsonl").write_bytes(whole + b'{"step": 141, "train/lm_lo')
    finish(start("train", "--resume", stopped))
    assert_same_outcome(stopped, unbroken)


def test_other_data_is_refused(stopped, disc_train, fresh_csv):
    ended = disc_train("train", fresh_csv, "--resume", stopped)
    assert ended.status == 2
    assert ended.err.startswith(f"error: {fresh_csv} is not the data")
    assert json.loads((stopped / "run.json").read_text())["status"] == "running"
