import json
import math
import shutil

import pytest
import torch

from disc_train.config import LEVELS
from trainworks.checkpoint import Checkpoints
from trainworks.metrics import read_metrics

STEP_LOSSES = [
    *(f"train/{level}_loss" for level in LEVELS),
    "train/total_feedback_loss",
    "train/lm_loss",
    "train/combined_loss",
]
SHORT = ["--set", "warm_start.min_steps=8", "--set", "feedback.steps_per_cycle=2"]
SHORT += ["--set", "discriminator.max_epochs=1"]


@pytest.fixture
def train(disc_train, table_csv, recipe_file, tmp_path):
    """Train into a new directory; gives back the directory and how it ended."""
    made = iter(range(100))

    def start(*options, short=True):
        out = tmp_path / f"run{next(made)}"
        arguments = ["--config", recipe_file, "--threads", 1, "--device", "cpu", *(SHORT if short else []), *options]
        return out, disc_train("train", table_csv, "--out", out, *arguments)

    return start


def steps(run_dir):
    """The records of optimizer steps."""
    return [record for record in read_metrics(run_dir / "metrics.jsonl") if "train/lm_loss" in record]


def cycles(run_dir):
    """The records of cycles."""
    return [record for record in read_metrics(run_dir / "metrics.jsonl") if "valid/two_sample_auc" in record]


def untimed(run_dir):
    return [{**record, "time": None} for record in read_metrics(run_dir / "metrics.jsonl")]


def weights(run_dir, pointer="last"):
    return (run_dir / "checkpoints" / pointer / "model.safetensors").read_bytes()


def test_a_finished_run_is_whole(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["config"]["target"] == "color"
    assert record["inputs"][0]["rows"] == 200
    assert record["result"]["valid/two_sample_auc"] == min(c["valid/two_sample_auc"] for c in cycles(run_dir))
    assert list((run_dir / "plots").glob("*.png"))


def test_every_step_logs_every_loss_and_null_before_there_is_feedback(run_dir):
    records = steps(run_dir)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert set(STEP_LOSSES) <= record.keys()
    warm, taught = records[:-8], records[-8:]
    for record in warm:
        assert [record[name] for name in STEP_LOSSES[:5]] == [None] * 5
        assert record["train/combined_loss"] == record["train/lm_loss"]
    for record in taught:
        assert all(math.isfinite(record[name]) for name in STEP_LOSSES)


def test_the_combined_loss_is_likelihood_plus_weighted_feedback(train):
    strengths = {"token": 0.5, "sentence": 0.0, "row": 1.5, "feature": 0.25}
    options = [f"--set=feedback.weight_{level}={weight}" for level, weight in strengths.items()]
    out, ended = train(*options, "--set=feedback.strength=2", "--cycles", 1)
    assert ended.status == 0, ended.err
    for record in steps(out)[-2:]:
        total = sum(weight * record[f"train/{level}_loss"] for level, weight in strengths.items())
        assert record["train/total_feedback_loss"] == pytest.approx(total, rel=1e-4)
        assert record["train/combined_loss"] == pytest.approx(record["train/lm_loss"] + 2 * total, rel=1e-4)


def test_the_warm_start_learns_the_table(run_dir):
    records = [record for record in read_metrics(run_dir / "metrics.jsonl") if "valid/lm_loss" in record]
    first = steps(run_dir)[0]["train/lm_loss"]
    assert min(record["valid/lm_loss"] for record in records) < first - 1


@pytest.mark.usefixtures("quick_validation")
def test_the_same_seed_gives_the_same_metrics_and_weights(train):
    runs = [train("--seed", seed)[0] for seed in (1, 1, 2)]
    assert untimed(runs[0]) == untimed(runs[1])
    assert weights(runs[0]) == weights(runs[1])
    assert weights(runs[0]) != weights(runs[2])


@pytest.mark.usefixtures("quick_validation")
@pytest.mark.parametrize(("schedule", "taught"), [("alternate", 3), ("once", 1), ("none", 0)])
def test_the_schedule_says_how_often_discriminators_are_taught(train, schedule, taught):
    out, ended = train("--schedule", schedule)
    assert ended.status == 0, ended.err
    by_cycle = cycles(out)
    assert [record["feedback/cycle"] for record in by_cycle] == [0, 1, 2]
    for level in LEVELS:
        assert ["disc/" + level + "/auc" in record for record in by_cycle] == [i < taught for i in range(3)]
    assert (steps(out)[-1]["train/row_loss"] is None) == (schedule == "none")


def test_the_best_checkpoint_has_the_lowest_two_sample_auc(train, monkeypatch):
    by_cycle = iter([0.8, 0.6, 0.7])
    monkeypatch.setattr("disc_train.train.measure_two_sample", lambda *_: next(by_cycle))
    out, ended = train("--cycles", 2)
    assert ended.status == 0, ended.err
    checkpoints = Checkpoints(out / "checkpoints")
    _, meta = checkpoints.load("best")
    assert meta["metrics"]["valid/two_sample_auc"] == 0.6
    assert meta["step"] == cycles(out)[1]["step"]
    assert checkpoints.load("last")[1]["metrics"]["valid/two_sample_auc"] == 0.7
    assert json.loads((out / "run.json").read_text())["result"]["valid/two_sample_auc"] == 0.6


def test_training_ends_when_the_two_sample_test_no_longer_falls(train, monkeypatch):
    by_cycle = iter([0.6, 0.7, 0.8, 0.5, 0.4])
    monkeypatch.setattr("disc_train.train.measure_two_sample", lambda *_: next(by_cycle))
    out, ended = train("--cycles", 4, "--set", "feedback.patience=2")
    assert ended.status == 0, ended.err
    assert [record["valid/two_sample_auc"] for record in cycles(out)] == [0.6, 0.7, 0.8]


@pytest.mark.usefixtures("quick_validation")
@pytest.mark.parametrize(
    ("objective", "good_calls", "good_steps"),
    [("lm_loss", 5, 5), ("feedback_losses", 1, 9)],  # in the warm start; in the second step after its eight
)
def test_a_non_finite_loss_stops_before_the_step_that_would_spoil_the_weights(
    train, monkeypatch, objective, good_calls, good_steps
):
    from disc_train import train as module

    intact, calls, stepped = getattr(module, objective), iter(range(1000)), []
    adamw_step = torch.optim.AdamW.step

    def spoiled(*arguments):
        losses = intact(*arguments)
        if next(calls) < good_calls:
            return losses
        if objective == "lm_loss":
            return losses * math.nan
        return {level: loss * math.nan for level, loss in losses.items()}

    def checked_step(optimizer, *arguments):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        stepped.append(all(gradient.isfinite().all() for gradient in gradients))
        return adamw_step(optimizer, *arguments)

    monkeypatch.setattr(module, objective, spoiled)
    monkeypatch.setattr(torch.optim.AdamW, "step", checked_step)
    out, ended = train()
    assert (ended.status, ended.out) == (3, "")
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"error: non-finite loss nan at step {good_steps}; ")
    assert all(stepped)
    assert len(steps(out)) == good_steps
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    saved = (out / "checkpoints" / "last").exists()
    assert saved == (objective == "feedback_losses")
    assert (f"last good checkpoint: {out / 'checkpoints' / 'last'}" if saved else "no checkpoint was saved yet") in last


@pytest.mark.usefixtures("quick_validation")
def test_cutting_a_batch_into_parts_leaves_the_step_the_same(train):
    options = ["--set", "model.dropout=0", "--schedule", "none", "--cycles", 0]
    # Every part reads its rows in orders drawn anew, so one order for all is what makes the two runs comparable.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "disc_train.train.random_orders", lambda codes: torch.arange(codes.shape[1]).expand(codes.shape).clone()
        )
        (whole, first), (cut, second) = train(*options), train(*options, "--grad-accum", 2)
    assert (first.status, second.status) == (0, 0), second.err
    assert len(steps(whole)) == len(steps(cut)) == 8
    for one, two in zip(steps(whole), steps(cut), strict=True):
        assert one["train/lm_loss"] == pytest.approx(two["train/lm_loss"], abs=1e-4)
        assert one["train/grad_norm"] == pytest.approx(two["train/grad_norm"], rel=1e-3)


@pytest.mark.usefixtures("quick_validation")
def test_bf16_computes_otherwise_and_learns_the_same(train):
    options = ["--schedule", "none", "--cycles", 0, "--set", "warm_start.min_steps=30"]
    (exact, first), (rounded, second) = train(*options), train(*options, "--precision", "bf16")
    assert (first.status, second.status) == (0, 0), second.err
    losses = [[record["train/lm_loss"] for record in steps(run)] for run in (exact, rounded)]
    assert losses[0] != losses[1]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.05)


@pytest.mark.usefixtures("quick_validation")
def test_discriminators_are_taught_on_rows_that_the_generator_never_learned_from(table_csv):
    from disc_train.config import TrainRecipe
    from disc_train.data import read_table
    from disc_train.schema import Schema
    from disc_train.state import encode_rows

    table = read_table(table_csv)
    schema = Schema.infer(table)
    rows = encode_rows(table, schema, TrainRecipe(), torch.device("cpu"))
    assert [len(rows.train), len(rows.critic), len(rows.valid)] == [135, 45, 20]
    dealt = torch.cat([rows.train, rows.critic, rows.valid]).tolist()
    assert sorted(dealt) == sorted(schema.encode(table).tolist())


@pytest.mark.usefixtures("quick_validation")
def test_replayed_rows_come_from_earlier_cycles(train):
    out, ended = train()
    assert ended.status == 0, ended.err
    state = torch.load(out / "checkpoints" / "last" / "state.pt", weights_only=True)
    # 45 real rows want 90 generated ones: all fresh in cycle 0, three quarters fresh in cycles 1 and 2.
    assert state["replay"].shape == (90 + 2 * 68, 5)


@pytest.mark.usefixtures("quick_validation")
def test_columns_that_say_nothing_are_warned_of_and_kept(disc_train, recipe_file, table_csv, tmp_path):
    header, *rows = table_csv.read_text().splitlines()
    data = tmp_path / "odd.csv"
    data.write_text("\n".join([header + ",same,none", *(row + ",x," for row in rows)]) + "\n")
    ended = disc_train(
        "train", data, "--out", tmp_path / "run", "--config", recipe_file, "--device", "cpu", *SHORT, "--cycles", 1
    )
    assert ended.status == 0, ended.err
    assert 'warning: column "same" is constant; it is kept as it is' in ended.err
    assert 'warning: column "none" is all missing; it is kept as it is' in ended.err
    drawn = disc_train("sample", tmp_path / "run", "-n", 5)
    assert drawn.out.splitlines()[0] == header + ",same,none"
    assert all(row.endswith(",x,") for row in drawn.out.splitlines()[1:])


def test_a_copy_of_a_run_is_a_run(run_dir, disc_train, tmp_path):
    """A run directory names no path of its own."""
    shutil.copytree(run_dir, tmp_path / "moved", symlinks=True)
    rows = [disc_train("sample", path, "-n", 20, "--seed", 3) for path in (run_dir, tmp_path / "moved")]
    assert rows[0].status == 0
    assert rows[0].out == rows[1].out


def test_the_smallest_table_trains(disc_train, recipe_file, table_csv, tmp_path):
    data = tmp_path / "small.csv"
    data.write_text("".join(table_csv.read_text().splitlines(keepends=True)[:21]))
    ended = disc_train("train", data, "--out", tmp_path / "run", "--config", recipe_file, "--device", "cpu", *SHORT)
    assert ended.status == 0, ended.err
    assert [math.isfinite(record["valid/two_sample_auc"]) for record in cycles(tmp_path / "run")] == [True] * 3


def test_diagnostics_are_written_and_change_nothing(train):
    plain, _ = train()
    watched, ended = train("--run-diagnostics", "--diagnostics-interval", 2)
    assert ended.status == 0, ended.err
    assert weights(watched) == weights(plain)
    assert untimed(watched) == untimed(plain)
    reports = read_metrics(watched / "diagnostics/diagnostics.jsonl")
    assert [report["step"] for report in reports] == list(range(0, steps(plain)[-1]["step"], 2))
    assert reports[-1]["grad_norm/model"] > 0
    assert 0 < reports[-1]["diversity/output"] < 2 * reports[-1]["diversity/input"]


def test_diagnostics_that_are_not_installed_are_named_before_anything_is_written(train, monkeypatch):
    monkeypatch.setattr("disc_train.run.importlib.util.find_spec", lambda name: None)
    out, ended = train("--run-diagnostics")
    assert (ended.status, ended.err.strip()) == (
        2, "error: --run-diagnostics needs an extra: pip install 'disc-train[diagnostics]'",
    )  # fmt: skip
    assert not out.exists()
