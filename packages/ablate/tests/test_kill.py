"""kill -9 of the runner and of its children, then the same command: the comparison is that of an undisturbed suite.

`pytest packages/ablate/tests/test_kill.py --kills 20` kills twenty times.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BODY = """
[base]
training.steps = 12
training.step_seconds = 0.08
[variants.worse]
purpose = "A lower quality."
set.quality = 0.3
"""
SEEDS, JOBS = "3", "2"


def start(path, out):
    command = [sys.executable, "-c", "from ablate.cli import main; main()", "run", str(path), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--seeds", SEEDS, "--jobs", JOBS, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def children(out):
    """Process ids of the trainings that are running for a suite, as their lock files say and the system confirms."""
    for lock in out.glob("checkpoints_*/seed_*.lock"):
        with contextlib.suppress(ValueError, OSError):
            pid = int(lock.read_text())
            if str(out) in Path(f"/proc/{pid}/cmdline").read_text():
                yield pid


def comparison(out):
    found = json.loads((out / "comparison.json").read_text())
    found.pop("cost")
    return found


def logged(out):
    lines = {}
    for path in sorted(out.glob("checkpoints_*/seed_?/metrics.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        lines[str(path.relative_to(out))] = [record | {"time": None} for record in records]
    return lines


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")

    def make(path):
        out = folder / "out"
        if not out.exists():
            process = start(path, out)
            _, err = process.communicate()
            assert process.returncode == 0, err.decode()
        return out

    return make


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="children are found by /proc")
@pytest.mark.parametrize("victim", ["runner", "child", "both"])
def test_killing_anything_at_random_changes_nothing(suite, undisturbed, tmp_path, victim, kills):
    chosen = random.Random(os.environ.get("PYTEST_KILL_SEED", victim))
    path, out = suite(BODY), tmp_path / "out"
    expected = undisturbed(path)
    killed = 0
    while killed < kills:
        process = start(path, out)
        time.sleep(chosen.uniform(0.3, 4.0))
        running = list(children(out))
        if victim in ("child", "both") and running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chosen.choice(running), signal.SIGKILL)
        if victim in ("runner", "both"):
            process.kill()
            process.communicate()
        else:
            process.communicate()
            if process.returncode == 0:  # it had finished, or the kill came to nothing: nothing is left to kill
                break
        killed += 1
    for _ in range(3):  # a killed child is left for the next run of the same command
        process = start(path, out)
        _, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break
    assert process.returncode == 0, err.decode()
    assert comparison(out) == comparison(expected)
    assert logged(out) == logged(expected)
    assert list(children(out)) == []


def test_a_training_that_outlived_its_runner_is_asked_to_save_and_gone_on_with(suite, ablate, tmp_path, run_json):
    path, out = suite(BODY.replace("steps = 12", "steps = 60")), tmp_path / "out"
    process = start(path, out)
    while len(list(out.glob("checkpoints_*/*/checkpoints/last"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert len(list(children(out))) == 2
    assert ablate("run", path, "--out", out, "--seeds", SEEDS, "--jobs", JOBS, "--threads", 1).status == 0
    resumed = [len(run_json(out, name).get("resumed", [])) for name in ("baseline", "worse")]
    assert resumed == [1, 1]
    assert "left by a runner that was killed" in (out / "logs_worse.log").read_text()
