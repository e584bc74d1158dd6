"""What a run's objectives say and are worth: sums that must add up, and a page that data cannot break."""

import itertools
import json

import numpy as np
import pytest
import torch

from disc_train.coalitions import COALITIONS, Effect, ablation, shapley_values
from disc_train.config import LEVELS
from trainworks.metrics import read_metrics


def test_shapley_values_are_the_mean_gain_over_all_orders_and_add_up():
    rng = np.random.default_rng(0)
    value = {coalition: float(rng.normal()) for coalition in COALITIONS}
    shares = shapley_values(value)
    gains = {level: [] for level in LEVELS}
    for order in itertools.permutations(LEVELS):
        for place, level in enumerate(order):
            before, after = (tuple(one for one in LEVELS if one in order[:end]) for end in (place, place + 1))
            gains[level].append(value[after] - value[before])
    assert shares == pytest.approx({level: np.mean(found) for level, found in gains.items()})
    assert sum(shares.values()) == pytest.approx(value[tuple(LEVELS)] - value[()])


def test_a_level_that_does_nothing_is_worth_nothing():
    worth = {"token": -0.1, "sentence": 0.0, "row": -0.3, "feature": 0.05}
    value = {coalition: sum(worth[level] for level in coalition) for coalition in COALITIONS}
    assert shapley_values(value) == pytest.approx(worth)
    differences = ablation([value, value, value])
    assert differences["without row"].mean == pytest.approx(0.3)
    assert differences["row alone"].mean == pytest.approx(0.15 - 0.1)


def test_intervals_are_students_and_want_three_seeds():
    from scipy import stats

    values = [0.1, 0.3, 0.2, 0.6]
    effect = Effect.of(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (effect.low, effect.high) == (pytest.approx(low), pytest.approx(high))
    assert Effect.of(values[:2]).low is None


def test_tokens_add_up_to_the_row_levels_verdict(trained, fresh_csv):
    from disc_train.attribution import explain_rows
    from disc_train.data import read_table

    weights = {"token": 0.1, "sentence": 0.2, "row": 0.3, "feature": 0.4}
    rows = explain_rows(trained, read_table(str(fresh_csv)).take(slice(0, 6)), weights)
    level = trained.discriminators.levels["row"]
    assert float(level.scale) != 0
    for row in rows:
        assert row.baseline + sum(row.tokens.values()) == pytest.approx(row.scores["row"], abs=0.02)
        assert row.contributions == pytest.approx({name: weights[name] * row.scores[name] for name in LEVELS})
        assert row.cells["color"] in ("red", "green", "blue")


def test_many_rows_are_followed_piece_by_piece(trained, fresh_csv, monkeypatch):
    from disc_train.attribution import explain_rows
    from disc_train.data import read_table

    table = read_table(str(fresh_csv)).take(slice(0, 4))
    whole = explain_rows(trained, table, dict.fromkeys(LEVELS, 0.25))
    monkeypatch.setattr("disc_train.attribution.AT_ONCE", 1)
    pieces = explain_rows(trained, table, dict.fromkeys(LEVELS, 0.25))
    for one, other in zip(whole, pieces, strict=True):
        assert one.tokens == pytest.approx(other.tokens, abs=1e-4)


@pytest.fixture(scope="module")
def explained(disc_train, run_dir, tmp_path_factory):
    """A folder of `explain` with an ablation over one seed, its forests replaced by something quick."""
    folder = tmp_path_factory.mktemp("explained")
    options = ["--ablate", 1, "--cycles", 1, "-n", 3, "--out", folder, "--threads", 1, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("disc_train.train.validation_auc", lambda real, fake, seed: 0.5 + abs(fake.mean() % 1 - 0.5))
        ended = disc_train("explain", run_dir, *options)
    assert (ended.status, ended.out) == (0, f"{folder}/explain.html\n"), ended.err
    return folder


def test_the_page_has_rows_history_and_what_objectives_are_worth(explained, run_dir):
    found = json.loads((explained / "explain.json").read_text())
    assert len(found["rows"]) == 3
    ablated = found["ablation"]
    variants = {f"without {level}" for level in LEVELS} | {f"{level} alone" for level in LEVELS}
    assert set(ablated["differences"]) == variants | {"none of them"}
    whole = ablated["values"]["+".join(LEVELS)][0] - ablated["values"]["none"][0]
    assert sum(effect["mean"] for effect in ablated["shapley"].values()) == pytest.approx(whole)
    assert ablated["gradients"]["gradient/row"] > 0
    assert -1 <= ablated["gradients"]["cosine/token/row"] <= 1
    along = ablated["gradients_along"]["cosine/token/row"]
    assert np.mean([value for _, value in along]) == pytest.approx(ablated["gradients"]["cosine/token/row"])
    steps = [record for record in read_metrics(run_dir / "metrics.jsonl") if record.get("weight/row") is not None]
    assert [value for _, value in found["history"]["weight/row"]] == [record["weight/row"] for record in steps]
    html = (explained / "explain.html").read_text()
    assert html.count("<img") >= 8
    assert "Cosine of gradients" in html
    assert "without sentence" in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_second_call_trains_nothing_again(explained, disc_train, run_dir):
    before = {path: path.stat().st_mtime_ns for path in (explained / "ablation").rglob("run.json")}
    assert len(before) == 17
    metric = ["--metric", "valid/lm_loss", "--json", "--threads", 1, "--device", "cpu"]
    ended = disc_train("explain", run_dir, "--ablate", 1, "--cycles", 1, "-n", 1, "--out", explained, *metric)
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["ablation"]["metric"] == "valid/lm_loss"
    assert {path: path.stat().st_mtime_ns for path in (explained / "ablation").rglob("run.json")} == before


def test_any_figure_of_the_evaluation_can_be_what_objectives_are_worth(explained, table_csv):
    from disc_train.coalitions import figures_of
    from disc_train.config import TrainRecipe
    from disc_train.data import read_table
    from disc_train.fork import Family
    from trainworks.console import UserError
    from trainworks.run import Run

    run = Run.open(explained / "ablation/seed_0/row")
    recipe, table = TrainRecipe.model_validate(run.config), read_table(str(table_csv))
    family = Family(recipe, table, run.record["inputs"][0], run.path.parent, torch.device("cpu"), 1)
    figures = figures_of(family, run, "evaluation/utility/scores/synthetic/xgboost/auc")
    assert 0 <= figures["evaluation/utility/scores/synthetic/xgboost/auc"] <= 1
    assert figures["evaluation/validity/synthetic/valid_rows"] == 1
    assert figures["evaluation/rows/test"] == 20
    with pytest.raises(UserError, match="there are valid/lm_loss, valid/two_sample_auc, evaluation/rows/train"):
        figures_of(family, run, "evaluation/none")


def test_text_of_the_data_cannot_break_the_page():
    from disc_train.explain_page import explain_page

    row = {
        "cells": {"<b>col": "</span><script>alert(1)</script>"},
        "scores": dict.fromkeys(LEVELS, 0.1),
        "contributions": dict.fromkeys(LEVELS, 0.1),
        "tokens": {"<b>col": 0.0},
        "baseline": 0.0,
    }
    page = explain_page({"run": "<i>", "status": "failed", "rows": [row], "ablation": None, "history": {}})
    assert "<script" not in page
    assert "&lt;b&gt;col is &lt;/span&gt;&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rows", "no.csv"], "no.csv"),
        (["--ablate", 9, "--metric", "valid/none"], 'no metric "valid/none"; there are valid/lm_loss'),
    ],
)
def test_bad_questions_are_one_line(disc_train, run_dir, explained, options, told):
    ended = disc_train("explain", run_dir, "--out", explained, "--threads", 1, "--device", "cpu", *options)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err.splitlines()[-1]
