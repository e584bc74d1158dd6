"""Metrics against scikit-learn and statsmodels, and the slices against doing it one slice at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from statsmodels.stats.proportion import proportion_confint

from qa_train.examples import Metadata
from qa_train.metrics import CLIP, binary_metrics, confusion_matrix, evaluate_predictions, wilson_interval

# Few distinct values make ties; 0, 1 and 0.5 are the edges of bins, of the clipping and of the decision.
PROBABILITY = st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.8, 1.0]) | st.floats(0, 1)
ANSWERS = st.lists(st.tuples(PROBABILITY, st.booleans()), min_size=1, max_size=60)


@given(ANSWERS)
def test_metrics_agree_with_scikit_learn_with_ties_and_with_one_class(answers: list[tuple[float, bool]]):
    probabilities, labels = (np.array(column) for column in zip(*answers, strict=True))
    yes = probabilities >= 0.5
    found = binary_metrics(probabilities, labels)
    held = np.clip(probabilities, CLIP, 1 - CLIP)
    assert found["count"] == len(answers)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, yes))
    assert found["loss"] == pytest.approx(oracle.log_loss(labels, held, labels=[False, True]))
    assert found["precision"] == pytest.approx(oracle.precision_score(labels, yes, zero_division=0))
    assert found["recall"] == pytest.approx(oracle.recall_score(labels, yes, zero_division=0))
    assert found["f1"] == pytest.approx(oracle.f1_score(labels, yes, zero_division=0))
    assert found["brier"] == pytest.approx(np.mean((probabilities - labels) ** 2))
    if labels.all() or not labels.any():
        assert math.isnan(found["auc"])
    else:
        assert found["auc"] == pytest.approx(oracle.roc_auc_score(labels, probabilities))
        assert found["brier"] == pytest.approx(oracle.brier_score_loss(labels, probabilities))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Equation 3 of Guo et al. (2017), bin by bin."""
    edges = np.linspace(0, 1, 16)
    confidence = np.where(probabilities >= 0.5, probabilities, 1 - probabilities)
    correct = (probabilities >= 0.5) == labels
    error = 0.0
    for low, high in pairwise(edges):
        inside = (probabilities > low) & (probabilities <= high)
        if low == 0:
            inside |= probabilities == 0
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


@given(ANSWERS)
def test_calibration_error_is_that_of_a_plain_loop(answers: list[tuple[float, bool]]):
    probabilities, labels = (np.array(column) for column in zip(*answers, strict=True))
    assert binary_metrics(probabilities, labels)["ece"] == pytest.approx(calibration_error(probabilities, labels))


def test_a_calibrated_model_has_no_calibration_error_and_a_sure_liar_has_all():
    assert binary_metrics([0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1])["ece"] == pytest.approx(0)
    assert binary_metrics([1.0, 0.0], [0, 1])["ece"] == 1


def test_single_precision_probabilities_lose_nothing():
    probabilities = np.full(10_000, 1.0, dtype=np.float32)
    assert binary_metrics(probabilities, np.zeros(10_000))["loss"] == pytest.approx(-math.log(1e-7))


@given(st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_that_of_statsmodels(case: tuple[int, int]):
    successes, count = case
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= high <= 1
    if count:
        expected = proportion_confint(successes, count, alpha=math.erfc(1.96 / math.sqrt(2)), method="wilson")
        assert (low, high) == pytest.approx(expected, abs=1e-12)
    else:
        assert (low, high) == (0, 1)


def questions(count: int, seed: int = 0) -> tuple[Metadata, np.ndarray, np.ndarray]:
    """Metadata, probabilities and labels of `count` questions in eight cells; a third has no known hops."""
    rng = np.random.default_rng(seed)
    metadata = Metadata(
        ids=[f"q{i}" for i in range(count)],
        category=rng.choice(["simple", "dense"], count),
        num_actors=rng.choice([2, 3, 8, 21], count),
        num_sentences=rng.integers(5, 60, count),
        hops=rng.choice([-1, 0, 2], count),
    )
    labels = rng.random(count) < 0.5
    return metadata, np.round(np.clip(0.3 * labels + rng.random(count) * 0.7, 0, 1), 2), labels


def test_each_slice_is_what_its_questions_alone_would_give():
    metadata, probabilities, labels = questions(500)
    found = evaluate_predictions(metadata.ids, probabilities, labels, metadata)

    def expect(metrics: dict[str, float], kept: np.ndarray) -> None:
        alone = binary_metrics(probabilities[kept], labels[kept])
        assert {name: metrics[name] for name in alone} == pytest.approx(alone)
        low, high = wilson_interval(np.sum((probabilities[kept] >= 0.5) == labels[kept]), kept.sum())
        assert (metrics["accuracy_low"], metrics["accuracy_high"]) == pytest.approx((float(low), float(high)))
        assert confusion_matrix(metrics) == oracle.confusion_matrix(labels[kept], probabilities[kept] >= 0.5).tolist()

    expect(found.overall, np.ones(500, bool))
    assert found.by_category.keys() == {"dense", "simple"}
    for category, metrics in found.by_category.items():
        expect(metrics, metadata.category == category)
    assert list(found.by_actors) == [2, 3, 8, 21]
    for actors, metrics in found.by_actors.items():
        expect(metrics, metadata.num_actors == actors)
    assert list(found.by_hops) == [0, 2]  # unknown hops are in no slice
    for hops, metrics in found.by_hops.items():
        expect(metrics, metadata.hops == hops)
    assert len(found.by_cell) == 8
    for (category, actors), metrics in found.by_cell.items():
        expect(metrics, (metadata.category == category) & (metadata.num_actors == actors))


def test_the_order_of_questions_does_not_matter():
    metadata, probabilities, labels = questions(200)
    back = slice(None, None, -1)
    turned = Metadata(
        metadata.ids[back],
        metadata.category[back],
        metadata.num_actors[back],
        metadata.num_sentences[back],
        metadata.hops[back],
    )
    found = evaluate_predictions(metadata.ids, probabilities, labels, metadata)
    again = evaluate_predictions(turned.ids, probabilities[back], labels[back], turned)
    assert again.overall == pytest.approx(found.overall)
    assert again.by_cell["dense", 3] == pytest.approx(found.by_cell["dense", 3])


def test_tracked_names():
    metadata, probabilities, labels = questions(100)
    found = evaluate_predictions(metadata.ids, probabilities, labels, metadata)
    tracked = found.flat("valid")
    assert tracked["metrics/valid/accuracy"] == found.overall["accuracy"]
    assert tracked["metrics/category/dense/noun_8/count"] == found.by_cell["dense", 8]["count"]
    assert tracked["metrics/category/dense/noun_8/accuracy"] == found.by_cell["dense", 8]["accuracy"]
    assert tracked["metrics/valid/category/dense/accuracy"] == found.by_category["dense"]["accuracy"]
    assert tracked["metrics/valid/actors/21/accuracy"] == found.by_actors[21]["accuracy"]
    assert tracked["metrics/valid/hops/2/accuracy"] == found.by_hops[2]["accuracy"]
    assert len(tracked) == 9 + (2 + 4 + 2) + 2 * 8
    fields = ["accuracy", "loss", "precision", "recall", "f1", "auc", "brier", "ece", "count"]
    assert list(found.flat("train")) == [f"metrics/train/{field}" for field in fields]


def test_plain_data_names_cells_as_the_trackers_do():
    metadata, probabilities, labels = questions(100)
    found = evaluate_predictions(metadata.ids, probabilities, labels, metadata)
    plain = found.to_json()
    assert plain["by_cell"]["dense/noun_8"] == found.by_cell["dense", 8]
    assert plain["by_hops"]["2"]["count"] == found.by_hops[2]["count"]


def test_questions_without_known_hops_have_no_hops_slice():
    metadata = Metadata(["a"], np.array(["qa6"]), np.array([2]), np.array([4]), np.array([-1]))
    found = evaluate_predictions(["a"], [0.9], [1], metadata)
    assert found.by_hops == {}
    assert found.by_cell["qa6", 2]["accuracy"] == 1


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([], [], "no question"),
        ([0.5, 0.5], [1], "must both be"),
        ([[0.5]], [[1]], "must both be"),
        ([1.1], [1], "outside"),
        ([math.nan], [1], "not finite"),
        ([0.5], [2], "neither 0 nor 1"),
        ([0.5], ["yes"], "neither 0 nor 1"),
    ],
)
def test_what_cannot_be_judged_is_refused(probabilities: list, labels: list, message: str):
    with pytest.raises(ValueError, match=message):
        binary_metrics(probabilities, labels)


def test_metadata_of_other_questions_is_refused():
    metadata, probabilities, labels = questions(10)
    with pytest.raises(ValueError, match="same questions in the same order"):
        evaluate_predictions(metadata.ids[::-1], probabilities, labels, metadata)
    with pytest.raises(ValueError, match="9 ids, 10 probabilities"):
        evaluate_predictions(metadata.ids[:9], probabilities, labels, metadata)
