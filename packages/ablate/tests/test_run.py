"""Running suites of a fake trainer: what is begun, gone on with, left alone and told."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

WORSE = '[variants.worse]\npurpose = "A lower quality."\nset.quality = 0.1\n'


def states(folder: Path, ablate) -> dict[tuple[str, int], str]:
    lines = [json.loads(line) for line in ablate("status", folder, "--json").out.splitlines()]
    return {(line["variant"], line["seed"]): line["state"] for line in lines}


def test_a_suite_runs_to_its_comparison(suite, ablate, tmp_path):
    out = tmp_path / "out"
    ended = ablate("run", suite(WORSE), "--jobs", 2, "--out", out, "--seeds", 4)
    assert ended.status == 0, ended.err
    assert "worse hurts: valid/accuracy -0.4" in ended.out
    for name in ("baseline", "worse"):
        assert json.loads((out / f"config_{name}.json").read_text())["name"] == name
        assert (out / f"logs_{name}.log").read_text().count("attempt 1") == 4
        assert sorted(path.name for path in (out / f"checkpoints_{name}").glob("seed_?")) == [
            f"seed_{seed}" for seed in range(4)
        ]
    comparison = json.loads((out / "comparison.json").read_text())
    assert [row["verdict"] for row in comparison["metrics"][0]["variants"]] == ["baseline", "hurts"]
    assert comparison["notes"] == []
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert [(row["variant"], row["verdict"], row["pairs"]) for row in rows] == [
        ("baseline", "baseline", ""),
        ("worse", "hurts", "4"),
    ]
    assert (out / "ablation_comparison.png").read_bytes().startswith(b"\x89PNG")
    assert ablate("compare", out).out == ablate("run", suite(WORSE), "--out", out, "--compare-only").out == ended.out
    assert json.loads(ablate("compare", out, "--json").out)["metrics"] == comparison["metrics"]
    assert set(states(out, ablate).values()) == {"finished"}


def test_finished_work_is_not_repeated_and_more_seeds_join_in(suite, ablate, tmp_path):
    out, path = tmp_path / "out", suite(WORSE)
    assert ablate("run", path, "--out", out, "--seeds", 1, "--ablations", "worse").status == 0
    before = {file: file.stat().st_mtime_ns for file in out.rglob("run.json")}
    again = ablate("run", path, "--out", out, "--seeds", 2)
    assert (again.status, "2 of 4 runs are done already" in again.err) == (0, True)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "worse: no test possible with 2 seeds (difference -0.4" in again.out
    assert len(before) == 2
    assert len(list(out.rglob("run.json"))) == 4


def test_a_crash_hurts_no_other_run_and_is_told_with_its_log(suite, ablate, tmp_path, record, run_json):
    out = tmp_path / "out"
    path = suite(WORSE + '[variants.crashes]\npurpose = "-"\nset.crash_at = 2\n')
    ended = ablate("run", path, "--out", out, "--jobs", 2)
    assert ended.status == 1
    assert "1 of 9 runs did not finish: crashes seed 0 failed: exit status 1: RuntimeError: this var" in ended.err
    assert "crashes: no test possible with 2 seeds" in ended.out
    assert "note: crashes seed 0 is left out: failed" in ended.out
    assert "Traceback" in (out / "logs_crashes.log").read_text()
    assert "worse hurts" in ended.out
    ablate("run", path, "--out", out)
    assert record(out, "crashes")["attempts"] == 2
    assert run_json(out, "crashes")["resumed"]  # from its checkpoint, in case the cause is gone


def test_a_changed_variant_is_refused_or_run_again_as_told(suite, ablate, tmp_path, run_json, head):
    out = tmp_path / "out"
    assert ablate("run", suite(WORSE), "--out", out, "--seeds", 1).status == 0
    changed = suite(WORSE.replace("0.1", "0.2").replace("A lower", "Less"))
    refused = ablate("run", changed, "--out", out, "--seeds", 1)
    assert refused.status == 2
    assert refused.err.startswith('error: variant "worse" has changed since it was run: quality was 0.1 and is 0.2;')
    assert run_json(out, "worse")["config"]["quality"] == 0.1
    before = run_json(out, "baseline")["id"]
    assert ablate("run", changed, "--out", out, "--seeds", 1, "--rerun-changed").status == 0
    assert run_json(out, "worse")["config"]["quality"] == 0.2
    assert run_json(out, "baseline")["id"] == before
    more = ablate("run", changed, "--out", out, "--seeds", 1, "--set", "noise=0.5")
    assert 'variant "baseline" has changed since it was run: noise was its default and is 0.5' in more.err
    other = ablate("run", suite(WORSE, name="w", head=head.replace("fake_trainer", "./fake_trainer")), "--out", out)
    assert 'variant "baseline" has changed since it was run: its command was' in other.err


@pytest.mark.parametrize(
    ("option", "setting"),
    [(("--epochs", 3), ("training", "steps", 3)), (("--set", "training.batch_size=4"), ("training", "batch_size", 4))],
)
def test_the_command_line_changes_the_base(suite, ablate, tmp_path, option, setting, run_json):
    assert ablate("run", suite(""), "--out", tmp_path / "out", "--seeds", 1, *option).status == 0
    section, key, value = setting
    assert run_json(tmp_path / "out", "baseline")["config"][section][key] == value


def test_out_of_memory_is_tried_again_smaller_and_marked(suite, ablate, tmp_path, record, run_json):
    out = tmp_path / "out"
    memory = '[memory]\nhalve = ["training.batch_size"]\ndouble = ["training.accumulate"]\n'
    variants = '[variants.big]\npurpose = "-"\nset.training.batch_size = 64\n[variants.huge]\npurpose = "-"\n'
    path = suite(f"{memory}{variants}set.training.batch_size = 999\n[base]\nfits = 20\n")
    ended = ablate("run", path, "--out", out, "--seeds", 1)
    assert ended.status == 1
    training = run_json(out, "big")["config"]["training"]
    assert (training["batch_size"], training["accumulate"]) == (16, 4)
    assert "note: big seed 0 ran with training.batch_size = 16, training.accumulate = 4" in ended.out
    assert record(out, "big")["attempts"] == 3
    assert record(out, "huge")["state"] == "out of memory"
    assert "CUDA out of memory" in record(out, "huge")["error"]
    assert (out / "logs_big.log").read_text().count("RuntimeError: CUDA out of memory") == 2


def test_a_kill_by_the_kernel_is_told_from_any_other(suite, ablate, tmp_path, monkeypatch, record):
    script = tmp_path / "killed.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    path = suite("", head=f"command = '{sys.executable} {script}'\nmetrics.a.direction = 'max'\n")
    ablate("run", path, "--out", tmp_path / "out", "--seeds", 1)
    assert record(tmp_path / "out", "baseline")["state"] == "killed"
    counts = iter(range(100))
    monkeypatch.setattr("ablate.worker.kernel_kills", lambda: next(counts))
    ablate("run", path, "--out", tmp_path / "out", "--seeds", 1)
    assert record(tmp_path / "out", "baseline")["state"] == "out of memory"


def test_a_run_that_takes_too_long_is_stopped_and_stays_so(suite, ablate, tmp_path, monkeypatch, record, run_json):
    monkeypatch.setattr("ablate.worker.GRACE", 1.0)
    out = tmp_path / "out"
    body = "[base]\ntraining.steps = 1000\ntraining.step_seconds = 0.05\n"
    path = suite(body + '[variants.deaf]\npurpose = "Ignores SIGTERM."\nset.deaf = true\n')
    ended = ablate("run", path, "--out", out, "--seeds", 1, "--timeout", 2, "--jobs", 2)
    assert (ended.status, ended.out) == (1, "")
    assert "2 of 2 runs did not finish: baseline seed 0 timeout: stopped at the time limit; deaf seed 0" in ended.err
    assert states(out, ablate) == {("baseline", 0): "timeout", ("deaf", 0): "timeout"}
    assert run_json(out, "baseline")["status"] == "interrupted"
    steps = len((out / "checkpoints_baseline" / "seed_0" / "metrics.jsonl").read_text().splitlines())
    assert 5 < steps < 200
    ablate("run", path, "--out", out, "--seeds", 1, "--timeout", 1)
    assert record(out, "deaf")["state"] == "timeout"


def test_a_critical_run_is_stopped_early(suite, ablate, tmp_path, monkeypatch, record):
    diag = tmp_path / "bin" / "diag"
    diag.parent.mkdir()
    diag.write_text('#!/bin/sh\ncase "$*" in *worse*) exit 1;; esac\n')
    diag.chmod(0o755)
    body = "[budget]\nhealth_every = 0.3\n[base]\ntraining.steps = 30\ntraining.step_seconds = 0.1\n"
    path, out = suite(body + WORSE), tmp_path / "out"
    refused = ablate("run", path, "--out", out, "--seeds", 1, "--stop-on", "critical")
    assert refused.err.startswith('error: the command "diag" of --stop-on, which judges a run\'s health, is not inst')
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{diag.parent}{os.pathsep}{os.environ['PATH']}")
    command = ["run", path, "--out", out, "--seeds", 1, "--jobs", 2, "--stop-on", "critical"]
    assert ablate(*command).status == 1
    assert states(out, ablate) == {("baseline", 0): "finished", ("worse", 0): "stopped"}
    ablate(*command)
    assert record(out, "worse")["attempts"] == 1


def test_the_page_is_made_by_diag_where_it_is_installed(suite, ablate, tmp_path, monkeypatch):
    monkeypatch.undo()
    diag = tmp_path / "bin" / "diag"
    diag.parent.mkdir()
    diag.write_text('#!/bin/sh\nwhile [ "$1" != --out ]; do shift; done\necho page > "$2"\n')
    diag.chmod(0o755)
    monkeypatch.setenv("PATH", f"{diag.parent}{os.pathsep}{os.environ['PATH']}")
    assert ablate("run", suite(""), "--out", tmp_path / "out", "--seeds", 1).status == 0
    assert (tmp_path / "out" / "report.html").read_text() == "page\n"


def test_jobs_share_processors_and_gpus(suite, ablate, tmp_path):
    out = tmp_path / "out"
    path = suite("[budget]\ngpus = 0.5\n[base]\ntraining.step_seconds = 0.1\n" + WORSE)
    ended = ablate("run", path, "--out", out, "--seeds", 2, "--jobs", 9, "--threads", 3, "--gpu-ids", 1, 3)
    assert "4 jobs at once instead of 9: 0.5 GPUs a run, of 2" in ended.err
    logs = "".join(path.read_text() for path in out.glob("logs_*.log"))
    assert logs.count("threads 3 gpus 1\n") == logs.count("threads 3 gpus 3\n") == 2
    whole = suite("[budget]\ngpus = 2\n", name="whole")
    ablate("run", whole, "--out", tmp_path / "whole", "--seeds", 1, "--gpu-ids", 5, 7)
    assert "gpus 5,7\n" in (tmp_path / "whole" / "logs_baseline.log").read_text()
    none = ablate("run", suite("[budget]\nmemory_gib = 100000\n", name="m"), "--out", tmp_path / "m")
    assert none.err.startswith("error: not even one run fits: 100000 GiB a run, of ")


def test_a_folder_keeps_the_number_of_threads_it_began_with(suite, ablate, tmp_path, run_json):
    path, out = suite(WORSE), tmp_path / "out"
    ablate("run", path, "--out", out, "--seeds", 1, "--threads", 5, "--ablations", "baseline")
    ablate("run", path, "--out", out, "--seeds", 1, "--jobs", 2)
    assert run_json(out, "worse")["environment"]["threads"] == 5


def test_distributed_training_replaces_the_command(suite, ablate, tmp_path, head):
    pytest.importorskip("torch")
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node {{processes}}"
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, runpy, sys\n"
        "if os.environ['RANK'] == '0':\n"
        f"    sys.argv[0] = {str(Path(__file__).with_name('fake_trainer.py'))!r}\n"
        "    print('ranks', os.environ['WORLD_SIZE'])\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    path = suite("[budget]\ngpus = 2\n", head=f"ddp = '{launcher} {script}'\n{head}")
    assert ablate("run", path, "--out", tmp_path / "out", "--seeds", 1, "--ddp").status == 0
    assert "ranks 2" in (tmp_path / "out" / "logs_baseline.log").read_text()
    without = ablate("run", suite("", name="other"), "--ddp")
    assert without.err.endswith("other.toml names no command for --ddp; give it as `ddp` in the suite\n")


def test_data_are_made_once_and_whole(suite, ablate, tmp_path, head):
    script = "mkdir $0 && echo made >> $0/count && test ! -e $0/../../fail"
    prepare = f'prepare = ["sh", "-c", "{script}", "{{data}}"]\n'
    out = tmp_path / "out"
    out.mkdir()
    (out / "fail").touch()
    path = suite("", head=prepare + head)
    failed = ablate("run", path, "--out", out, "--seeds", 1)
    assert failed.status == 2
    assert "error: `prepare` made no data (exit status 1): nothing was said" in failed.err
    assert not (out / "data").exists()
    (out / "fail").unlink()
    for seeds in (1, 2):
        assert ablate("run", path, "--out", out, "--seeds", seeds).status == 0
    assert (out / "data" / "count").read_text() == "made\n"


def test_what_evaluate_prints_joins_the_result(suite, ablate, tmp_path, record, run_json):
    head = f"""
command = '{sys.executable} {Path(__file__).with_name("fake_trainer.py")}'
evaluate = ["sh", "-c", "echo said >&2; echo '{{\\"test\\": {{\\"score\\": '$1.5'}}}}'", "-", "{{seed}}"]
[metrics]
"test/score" = {{ direction = "max" }}
"""
    path, out = suite("", head=head), tmp_path / "out"
    ended = ablate("run", path, "--out", out, "--seeds", 2)
    assert ended.status == 0, ended.err
    rows = json.loads((out / "comparison.json").read_text())["metrics"][0]["variants"]
    assert rows[0]["values"] == {"0": 0.5, "1": 1.5}
    before = run_json(out, "baseline")["id"]
    path = suite("", head=head.replace("$1.5", "$1.25"))
    assert "its evaluate command is another" in ablate("run", path, "--out", out, "--seeds", 2).err
    assert ablate("run", path, "--out", out, "--seeds", 2, "--rerun-changed").status == 0
    rows = json.loads((out / "comparison.json").read_text())["metrics"][0]["variants"]
    assert (rows[0]["values"], run_json(out, "baseline")["id"]) == ({"0": 0.25, "1": 1.25}, before)
    broken = suite("", head=head.replace("echo '", "false '"), name="broken")
    ended = ablate("run", broken, "--out", tmp_path / "b", "--seeds", 1)
    assert record(tmp_path / "b", "baseline")["error"] == "evaluate: exit status 1: said"


def test_a_metric_that_no_run_writes_ends_the_suite_with_the_first_run(suite, ablate, tmp_path, head):
    path = suite(WORSE, head=head.replace("valid/accuracy", "valid/acuracy"))
    ended = ablate("run", path, "--out", tmp_path / "out")
    assert ended.status == 2
    message = ended.err.splitlines()[-1]
    assert message.startswith('error: no metric "valid/acuracy" in the result of ')
    assert message.endswith('did you mean "valid/accuracy"?')
    assert len(list((tmp_path / "out").rglob("run.json"))) == 1
    again = ablate("run", path, "--out", tmp_path / "out")
    assert (again.status, again.err.count("\n")) == (2, 1)  # known before anything starts
    logged = suite(WORSE, head=head.replace("valid/accuracy", "train/loss"), name="logged")
    assert 'metrics.jsonl has it: say at = "last"' in ablate("run", logged, "--out", tmp_path / "l").err


def test_commands_that_are_not_installed_are_named(suite, ablate, tmp_path):
    ended = ablate("run", suite("", head='command = "no-such-trainer"\nmetrics.a.direction = "max"\n'))
    assert (ended.status, ended.err) == (
        2,
        'error: the command "no-such-trainer" of the suite is not installed, or not on the PATH\n',
    )


def test_a_recipe_that_the_command_refuses_is_told_before_anything_starts(suite, ablate, tmp_path, head):
    path = suite('[variants.odd]\npurpose = "-"\nset.qualty = 0.1\n', head="dry_run = true\n" + head)
    ended = ablate("run", path, "--out", tmp_path / "out")
    assert (ended.status, ended.err) == (
        2,
        'error: variant "odd": unknown key "qualty" (in --set); did you mean "quality"?\n',
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_all_runs_and_the_same_command_goes_on(suite, ablate, tmp_path, signum, status, run_json):
    out = tmp_path / "out"
    path = suite("[base]\ntraining.steps = 20\ntraining.step_seconds = 0.1\n" + WORSE)
    command = ["run", path, "--out", out, "--seeds", 1, "--jobs", 2]

    def interrupt():
        while len(list(out.glob("checkpoints_*/*/checkpoints/last"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signum)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    ended = ablate(*command)
    interrupter.join()
    assert (ended.status, ended.err.splitlines()[-1]) == (
        status,
        f"interrupted by {signal.Signals(signum).name}; the same command goes on",
    )
    assert run_json(out, "baseline")["status"] == run_json(out, "worse")["status"] == "interrupted"
    assert ablate(*command).status == 0
    assert len(run_json(out, "baseline")["resumed"]) == 1


def test_two_runners_do_not_share_a_folder(suite, ablate, tmp_path):
    out = tmp_path / "out"
    path = suite("[base]\ntraining.step_seconds = 0.3\n")
    command = [sys.executable, "-c", "from ablate.cli import main; main()", "run", path, "--out", out, "--seeds", "1"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not (out / "checkpoints_baseline" / "seed_0" / "metrics.jsonl").exists():
            time.sleep(0.02)
        refused = ablate("run", path, "--out", out, "--seeds", 1)
        assert (refused.status, "another `ablate run` is at work" in refused.err) == (2, True)
        assert states(out, ablate) == {("baseline", 0): "running"}
    assert first.returncode == 0
