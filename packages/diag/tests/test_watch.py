"""Following a training that runs, and stopping it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diag.holder import is_alive, writer_of
from diag.watch import Follower

Diag = Callable[..., "subprocess.CompletedProcess[str]"]

TRAINER = """
    import sys, time
    from trainworks.config import Recipe, Resolved
    from trainworks.metrics import MetricsWriter
    from trainworks.run import Run
    from trainworks.signals import StopFlag

    recipe = Resolved(Recipe(), {})
    run = Run.create(sys.argv[1], tool="t", version="0", resolved=recipe, seed=0, device="cpu", threads=1)
    with run, MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
        print("ready", flush=True)
        for step in range(1, 10_000):
            metrics.write(step, {"train/loss": 1.0 if step < 30 else float("nan")})
            stop.raise_if_set("saved")
            time.sleep(0.02)
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A training of the core's kind, whose loss is NaN from step 30 on, and its run directory."""
    command = [sys.executable, "-c", textwrap.dedent(TRAINER), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield tmp_path / "run", process
    process.kill()
    process.wait()


def test_a_critical_training_is_asked_to_stop_and_saves(
    training: tuple[Path, subprocess.Popen[str]], diag: Diag
) -> None:
    run, process = training
    watched = diag("watch", run, "--stop-on", "critical", "--every", "0.1")
    assert (watched.returncode, watched.stdout.count("critical: not_finite")) == (1, 1)
    assert f"asking process {process.pid} to stop" in watched.stderr
    assert process.wait() != 0
    assert '"status": "interrupted"' in (run / "run.json").read_text()


def test_the_writer_is_known_by_its_lock(training: tuple[Path, subprocess.Popen[str]]) -> None:
    run, process = training
    assert writer_of(run) == process.pid
    process.kill()
    process.wait()
    assert writer_of(run) is None
    assert not is_alive(process.pid)


def test_a_log_of_other_code_is_followed_until_its_process_ends(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n1,2.0\n2,nan\n")
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-c", "from diag.cli import main; main()", "watch", str(log), "--every", "0.1"]
    watching = subprocess.Popen([*command, "--pid", str(other.pid)], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("critical: not_finite")
    assert watching.poll() is None
    other.communicate(b"\n")
    assert watching.wait() == 1


def test_whom_to_stop_must_be_known(tmp_path: Path, diag: Diag) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n1,2.0\n")
    for arguments in (("--stop-on", "critical"), ("--pid", "4194305"), ("--stop-on", "warning")):
        ended = diag("watch", log, *arguments)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n1,nan\n")
    command = [sys.executable, "-c", "from diag.cli import main; main()", "watch", str(log), "--every", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("critical: not_finite")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130


def test_what_is_kept_in_memory_does_not_grow(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n")
    follower = Follower(log, tail_bytes=500)
    with open(log, "a") as file:
        for step in range(2000):
            file.write(f"{step},1.0\n")
            if step % 7 == 0:
                file.flush()
                follower.read()
                assert len(follower.text) <= 500
    follower.read()
    follower.read()
    lines = follower.stream().read().decode().splitlines()
    assert lines[0] == "step,loss"
    assert lines[-1] == "1999,1.0"
    assert all(line.endswith(",1.0") for line in lines[1:])


def test_a_half_line_waits_and_a_rewritten_file_is_read_anew(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b'{"step":1}\n{"st')
    follower = Follower(log)
    follower.read()
    assert follower.text == b'{"step":1}\n'
    with open(log, "ab") as file:
        file.write(b'ep":2}\n')
    follower.read()
    assert follower.text == b'{"step":1}\n{"step":2}\n'
    new = tmp_path / "new"
    new.write_bytes(b'{"step":1}\n')
    os.replace(new, log)  # as a run that resumes does
    assert follower.read()
    assert follower.text == b'{"step":1}\n'
    assert not follower.read()
