"""The same suites on a Ray cluster of this machine, and by submitit without Slurm."""

import json
import os
import sys
import textwrap
import time

import pytest

from ablate.executors import Shares, open_executor
from ablate.jobs import Job
from ablate.suite import Memory
from trainworks.console import UserError

BODY = """
[base]
training.step_seconds = 0.05
[variants.worse]
purpose = "A lower quality."
set.quality = 0.1
[variants.crashes]
purpose = "-"
set.crash_at = 2
"""


@pytest.fixture
def expected(suite, ablate, tmp_path):
    """What the local executor comes to."""
    assert ablate("run", suite(BODY), "--out", tmp_path / "local", "--jobs", 2).status == 1
    return values(tmp_path / "local")


def values(out):
    metric = json.loads((out / "comparison.json").read_text())["metrics"][0]
    return {row["variant"]: row["values"] for row in metric["variants"]}


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_another_executor_comes_to_the_same(suite, ablate, tmp_path, expected, record, name):
    pytest.importorskip(f"ablate.executors.{name}")
    options = {"ray": ["--executor-option", "num_cpus=2"], "slurm": ["--executor-option", "cluster=local"]}[name]
    out = tmp_path / name
    ended = ablate("run", suite(BODY), "--out", out, "--jobs", 2, "--threads", 1, "--executor", name, *options)
    assert (ended.status, "crashes seed 0 failed" in ended.err) == (1, True), ended.err
    assert values(out) == expected
    assert record(out, "crashes")["state"] == "failed"


def test_ray_stops_what_runs_and_shares_gpus(tmp_path):
    pytest.importorskip("ablate.executors.ray")  # which tells Ray, before it is imported, not to start workers by uv
    import ray

    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import os, pathlib, signal, sys, time
        out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
        out.mkdir(parents=True)
        signal.signal(signal.SIGTERM, lambda *_: (out / "stopped").touch() or sys.exit(143))
        (out / "gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        time.sleep(60)
        """)
    )
    executor = open_executor("ray", Shares(None, 1, gpus=0.5), {"num_cpus": "4", "num_gpus": "1"})  # as if it had one
    try:
        jobs = [
            Job(
                "v",
                seed,
                tmp_path,
                [sys.executable, str(script)],
                [],
                [],
                {},
                Memory(),
                gpus=0.5,
                working_directory="/",
            )
            for seed in range(3)
        ]
        for job in jobs:
            executor.submit(job)
        while len(started := list(tmp_path.glob("*/*/gpus"))) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        assert [file.read_text() for file in started] == ["0", "0"]
        assert len(list(tmp_path.glob("*/*/gpus"))) == 2  # the third waits for its half of a GPU
        executor.stop()
        ended = []
        while len(ended) < 3:
            ended += executor.wait(1)
        assert {record.state for _, record in ended} == {"interrupted"}
        assert len(list(tmp_path.glob("*/*/stopped"))) == 2
    finally:
        executor.close()
    assert not ray.is_initialized()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of a Slurm that takes every job and lets it run for ever; gives the scripts that it was handed."""
    pytest.importorskip("submitit")
    folder, handed = tmp_path / "bin", tmp_path / "handed"
    folder.mkdir()
    handed.mkdir()
    commands = {
        "srun": "exit 0",
        "sbatch": f'n=$(ls {handed} | wc -l); cp "$1" {handed}/$n; echo "Submitted batch job 70$n"',
        "sacct": "echo 'JobID|State|NodeList'; echo '700|RUNNING|n1'",
    }
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return handed


def test_slurm_is_asked_for_what_a_run_takes_and_a_new_runner_takes_up_its_jobs(slurm, tmp_path):
    taken = {"threads": 3, "gpus": 0.5, "memory_gib": 12, "timeout": 5400}
    job = Job("no_gan", 2, tmp_path, ["x"], [], [], {}, Memory(), **taken)
    options = {"slurm_partition": "gpu", "slurm_setup": '["module load cuda"]'}
    open_executor("slurm", Shares(None, 3), options).submit(job)
    script = (slurm / "0").read_text()
    for line in [
        "#!/bin/bash",
        "#SBATCH --job-name=ablate-no_gan-2",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --mem=12GB",
        "#SBATCH --time=100",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=USR2@90",
        "module load cuda",
    ]:
        assert line in script.splitlines()
    assert "submitit.core._submit" in script

    again = open_executor("slurm", Shares(None, 3), options)
    again.submit(job)
    assert again.wait(0.1) == []  # job 700 still runs
    assert len(list(slurm.iterdir())) == 1
    with pytest.raises(UserError, match=r"--executor-option: .*slurm_partion"):
        open_executor("slurm", Shares(None, 3), {"slurm_partion": "gpu"}).submit(job)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--executor", "rey"), 'no executor "rey"; did you mean "ray"?'),
        (("--executor", "my.cluster"), "--executor my.cluster needs my: is it on PYTHONPATH?"),
        (("--executor", "ray", "--gpu-ids", "0"), "--gpu-ids is for the local executor: Ray itself says which GPUs"),
        (
            ("--executor", "ray", "--executor-option", "adress=x"),
            'the ray executor has no option "adress"; known: addr',
        ),
        (("--executor", "slurm"), "no Slurm here (sbatch is missing); --executor-option cluster=local tries it"),
        (("--executor-option", "a=b"), "the local executor has no option a"),
        (("--executor-option", "a"), '--executor-option wants key=value, not "a"'),
    ],
)
def test_bad_executors_are_told_in_one_line(suite, ablate, tmp_path, arguments, message):
    ended = ablate("run", suite(""), "--out", tmp_path / "out", *arguments)
    assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
    assert message in ended.err


def test_an_executor_that_is_not_there_is_told_before_anything_is_written(suite, ablate, tmp_path):
    assert ablate("run", suite(""), "--out", tmp_path / "out", "--executor", "rey").status == 2
    assert not (tmp_path / "out").exists()


def test_a_module_of_ones_own_is_an_executor(suite, ablate, tmp_path, monkeypatch):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "oneatatime.py").write_text(
        textwrap.dedent("""
        from ablate.worker import run_job

        class Executor:
            slots = 1
            def submit(self, job):
                self.ended = [(job, run_job(job))]
            def wait(self, seconds):
                ended, self.ended = self.ended, []
                return ended
            def stop(self): ...
            def close(self): ...

        def open_executor(shares, options):
            return Executor()
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    assert ablate("run", suite(""), "--out", out, "--seeds", 2, "--executor", "mine.oneatatime").status == 0
    assert list(values(out)["baseline"]) == ["0", "1"]
