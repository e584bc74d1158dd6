"""How good answers are, overall and by slice: one implementation, whichever framework made the probabilities.

Letters in names: N questions, G groups, B bins. A probability is that of "yes"; from 0.5 on the answer is "yes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qa_train.examples import Metadata

FIELDS = ("accuracy", "loss", "precision", "recall", "f1", "auc", "brier", "ece", "count")
"""What `binary_metrics` returns and what is tracked as `metrics/<split>/<field>`."""
CALIBRATION_BINS = 15
CLIP = 1e-7
"""Probabilities are held this far from 0 and 1 in the loss, so that one sure mistake doesn't make it infinite."""

Cell = tuple[str, int]
"""A category and a number of actors."""
Metrics = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one set of questions, overall and by slice.

    Each slice has the `FIELDS`, accuracy_low and accuracy_high (95 % Wilson interval) and the confusion matrix:
    true_yes, false_yes, true_no, false_no (counts; the noun is the answer that was given).
    """

    overall: Metrics
    by_category: dict[str, Metrics]
    by_actors: dict[int, Metrics]
    by_hops: dict[int, Metrics]
    by_cell: dict[Cell, Metrics]

    def to_json(self) -> dict[str, Any]:
        """Plain data, one key a field; a cell is named as in "simple/noun_8"."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **plain,
            "by_actors": {str(actors): metrics for actors, metrics in self.by_actors.items()},
            "by_hops": {str(hops): metrics for hops, metrics in self.by_hops.items()},
            "by_cell": {cell_name(cell): metrics for cell, metrics in self.by_cell.items()},
        }

    def flat(self, split: str) -> dict[str, float]:
        """The metrics by their tracked names: `metrics/<split>/<field>`.

        The split "valid" also has the accuracy by category, number of actors and hops,
        `metrics/valid/category/<category>/accuracy`, `metrics/valid/actors/<n>/accuracy`,
        `metrics/valid/hops/<n>/accuracy`; and the cells, whose names hold no split:
        `metrics/category/<category>/noun_<n>/accuracy` and `/count`.
        """
        named = {f"metrics/{split}/{field}": self.overall[field] for field in FIELDS}
        if split == "valid":
            totals: dict[str, Mapping[Any, Metrics]] = {
                "category": self.by_category,
                "actors": self.by_actors,
                "hops": self.by_hops,
            }
            for slicing, slices in totals.items():
                for key, metrics in slices.items():
                    named[f"metrics/valid/{slicing}/{key}/accuracy"] = metrics["accuracy"]
            for cell, metrics in self.by_cell.items():
                for field in ("accuracy", "count"):
                    named[f"metrics/category/{cell_name(cell)}/{field}"] = metrics[field]
        return named


def cell_name(cell: Cell) -> str:
    """A category/actor cell as consoles and trackers name it, such as "simple/noun_8"."""
    category, num_actors = cell
    return f"{category}/noun_{num_actors}"


def evaluate_predictions(
    ids: Sequence[str], probabilities: ArrayLike, labels: ArrayLike, metadata: Metadata
) -> Evaluation:
    """Judge answers overall, by category, number of actors, hops (where they are known) and category/actor cell.

    Args:
        ids: the questions', (N,), in the order of the other arguments.
        probabilities: of "yes", (N,).
        labels: (N,), 1 or True where the gold answer is "yes".
        metadata: of the same questions in the same order.

    Raises:
        ValueError: lengths or ids that differ, no question at all, a probability that is not finite or outside
            [0, 1], a label that is neither 0 nor 1.
    """
    answers = _Answers.of(probabilities, labels)
    if not len(ids) == len(metadata.ids) == len(answers.probability_N):
        raise ValueError(
            f"{len(ids)} ids, {len(answers.probability_N)} probabilities and metadata of {len(metadata.ids)} questions"
        )
    if list(ids) != list(metadata.ids):
        raise ValueError("ids and metadata are not of the same questions in the same order")
    categories, category_N = np.unique(np.asarray(metadata.category), return_inverse=True)
    actors, actors_N = np.unique(metadata.num_actors, return_inverse=True)
    cells, cell_N = np.unique(category_N * len(actors) + actors_N, return_inverse=True)
    known_N = np.asarray(metadata.hops) >= 0
    hops, hops_N = np.unique(np.asarray(metadata.hops)[known_N], return_inverse=True)
    category_names = [str(category) for category in categories]
    actor_counts = [int(count) for count in actors]
    cell_keys = [(category_names[cell // len(actors)], actor_counts[cell % len(actors)]) for cell in cells]
    return Evaluation(
        overall=_slices(answers, np.zeros_like(category_N))[0],
        by_category=dict(zip(category_names, _slices(answers, category_N), strict=True)),
        by_actors=dict(zip(actor_counts, _slices(answers, actors_N), strict=True)),
        by_hops=dict(zip(map(int, hops), _slices(answers.where(known_N), hops_N), strict=True)),
        by_cell=dict(zip(cell_keys, _slices(answers, cell_N), strict=True)),
    )


def binary_metrics(probabilities: ArrayLike, labels: ArrayLike) -> Metrics:
    """The `FIELDS` of answers to yes/no questions.

    - accuracy; precision, recall and f1 of "yes", 0 where they are undefined
    - loss: mean binary cross-entropy in nats
    - auc: chance that a "yes" gets a higher probability than a "no", ties counting half (Mann & Whitney 1947);
      NaN if there is one class
    - brier: mean squared error of the probability (Brier 1950)
    - ece: expected calibration error (Guo et al. 2017, eq. 3): mean gap of accuracy and confidence, which is the
      probability of the answer given, over 15 bins of the probability of "yes", each (low, high]
    - count: N

    Args:
        probabilities: of "yes", (N,).
        labels: (N,), 1 or True where the gold answer is "yes".

    Raises:
        ValueError: as `evaluate_predictions` raises it.
    """
    answers = _Answers.of(probabilities, labels)
    metrics = _slices(answers, np.zeros(len(answers.probability_N), np.int64))[0]
    return {field: metrics[field] for field in FIELDS}


def wilson_interval(successes: ArrayLike, count: ArrayLike, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the score interval of a proportion (Wilson 1927); 0 and 1 where `count` is 0.

    Args:
        successes, count: of any one shape, which both results have.
        z: half-width in standard deviations; 1.96 makes 95 % intervals.
    """
    count = np.asarray(count, dtype=np.float64)
    trials = np.maximum(count, 1.0)
    share = np.asarray(successes, dtype=np.float64) / trials
    centre = share + z**2 / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z**2 / trials
    low = np.where(count > 0, np.clip((centre - half) / scale, 0.0, 1.0), 0.0)
    high = np.where(count > 0, np.clip((centre + half) / scale, 0.0, 1.0), 1.0)
    return low, high


def confusion_matrix(metrics: Metrics) -> list[list[int]]:
    """Counts of one slice, 2 x 2: rows are the gold answer, columns the answer given, "no" before "yes"."""
    counts = [["true_no", "false_yes"], ["false_no", "true_yes"]]
    return [[int(metrics[name]) for name in row] for row in counts]


def calibration_bin(probabilities: ArrayLike) -> np.ndarray:
    """The bin of each probability, int (N,) in 0..14: fifteen equal widths, each (low, high]; 0 is in the first."""
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    return np.maximum(np.searchsorted(edges, np.asarray(probabilities, np.float64), side="left") - 1, 0)


@dataclass(frozen=True)
class _Answers:
    """Answers and gold labels, checked; arrays (N,)."""

    probability_N: np.ndarray
    gold_N: np.ndarray
    order_N: np.ndarray
    """Indices by rising probability."""

    @classmethod
    def of(cls, probabilities: ArrayLike, labels: ArrayLike) -> _Answers:
        probability_N = np.asarray(probabilities, dtype=np.float64)
        label_N = np.asarray(labels)
        if probability_N.ndim != 1 or probability_N.shape != label_N.shape:
            raise ValueError(f"probabilities {probability_N.shape} and labels {label_N.shape} must both be (N,)")
        if not len(probability_N):
            raise ValueError("there is no question to judge")
        if not np.all((probability_N >= 0) & (probability_N <= 1)):  # false for NaN too
            raise ValueError("a probability is not finite or is outside [0, 1]")
        gold_N = label_N == 1
        if not np.all(gold_N | (label_N == 0)):
            raise ValueError("a label is neither 0 nor 1")
        return cls(probability_N, gold_N, np.argsort(probability_N))

    def where(self, kept_N: np.ndarray) -> _Answers:
        probability_K = self.probability_N[kept_N]
        return _Answers(probability_K, self.gold_N[kept_N], np.argsort(probability_K))


def _slices(answers: _Answers, group_N: np.ndarray) -> list[Metrics]:
    """Metrics of each group; `group_N` holds 0..G-1, each at least once."""
    if not len(group_N):
        return []
    p_N, gold_N = answers.probability_N, answers.gold_N
    groups = int(group_N.max()) + 1

    def total(values_N: np.ndarray) -> np.ndarray:
        return np.bincount(group_N, weights=values_N, minlength=groups)

    yes_N = p_N >= 0.5
    correct_N = yes_N == gold_N
    count_G = np.bincount(group_N, minlength=groups)
    correct_G, gold_G, yes_G, true_yes_G = (total(flag) for flag in (correct_N, gold_N, yes_N, correct_N & gold_N))
    low_G, high_G = wilson_interval(correct_G, count_G)
    held_N = np.clip(p_N, CLIP, 1 - CLIP)
    columns = {
        "accuracy": correct_G / count_G,
        "loss": total(-np.log(np.where(gold_N, held_N, 1 - held_N))) / count_G,
        "precision": true_yes_G / np.maximum(yes_G, 1),
        "recall": true_yes_G / np.maximum(gold_G, 1),
        "f1": 2 * true_yes_G / np.maximum(yes_G + gold_G, 1),
        "auc": _auc(answers, group_N, count_G),
        "brier": total((p_N - gold_N) ** 2) / count_G,
        "ece": _calibration_error(p_N, correct_N, group_N, count_G),
        "count": count_G,
        "accuracy_low": low_G,
        "accuracy_high": high_G,
        "true_yes": true_yes_G.astype(np.int64),
        "false_yes": (yes_G - true_yes_G).astype(np.int64),
        "true_no": (correct_G - true_yes_G).astype(np.int64),
        "false_no": (gold_G - true_yes_G).astype(np.int64),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def _auc(answers: _Answers, group_N: np.ndarray, count_G: np.ndarray) -> np.ndarray:
    """(G,), from the ranks of the gold "yes" within their group; equal probabilities share their mean rank."""
    # A stable sort by group keeps the rising probabilities within each.
    order_N = answers.order_N[np.argsort(group_N[answers.order_N], kind="stable")]
    group_N, p_N, gold_N = group_N[order_N], answers.probability_N[order_N], answers.gold_N[order_N]
    opens_N = np.concatenate([[True], (group_N[1:] != group_N[:-1]) | (p_N[1:] != p_N[:-1])])
    tie_start_T = np.flatnonzero(opens_N)
    tie_size_T = np.diff(np.append(tie_start_T, len(p_N)))
    group_start_G = np.cumsum(count_G) - count_G
    rank_T = tie_start_T - group_start_G[group_N[tie_start_T]] + (tie_size_T + 1) / 2
    rank_N = rank_T[np.cumsum(opens_N) - 1]
    yes_G = np.bincount(group_N, weights=gold_N, minlength=len(count_G))
    rank_sum_G = np.bincount(group_N, weights=rank_N * gold_N, minlength=len(count_G))
    pairs_G = yes_G * (count_G - yes_G)
    wins_G = rank_sum_G - yes_G * (yes_G + 1) / 2
    return np.where(pairs_G > 0, wins_G / np.maximum(pairs_G, 1), np.nan)


def _calibration_error(p_N: np.ndarray, correct_N: np.ndarray, group_N: np.ndarray, count_G: np.ndarray) -> np.ndarray:
    """(G,). A bin's gap, weighted by its share of the questions, is |correct - sum of confidence| / N."""
    surplus_N = correct_N - np.maximum(p_N, 1 - p_N)
    bin_N = group_N * CALIBRATION_BINS + calibration_bin(p_N)
    surplus_GB = np.bincount(bin_N, weights=surplus_N, minlength=len(count_G) * CALIBRATION_BINS)
    return np.abs(surplus_GB.reshape(len(count_G), CALIBRATION_BINS)).sum(1) / count_G
