"""SQuAD's own scoring, and bootstrap intervals.

Letters in names: N questions, R bootstrap repeats, M rows of values.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from adapter_stage1.data import Example
from trainworks.seeding import rng

_INDICES_AT_ONCE = 1 << 22
"""Bootstrap indices held in memory together: 32 MiB."""


class Scores(TypedDict):
    """Agreement of N answers with the gold ones, in percent.

    Attributes:
        f1, exact_match: means over the questions.
        f1_N, exact_match_N: (N,) float64, in the order of the questions.
    """

    f1: float
    exact_match: float
    f1_N: np.ndarray
    exact_match_N: np.ndarray


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """The text in lower case without ASCII punctuation, articles and spare white space.

    As evaluate-v1.1.py of Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def f1_score(prediction: str, answer: str) -> float:
    """Harmonic mean, 0 to 1, of precision and recall over the bags of normalised tokens.

    As evaluate-v1.1.py: 0 where both are empty after normalisation, although they match exactly.
    """
    predicted, gold = normalize_answer(prediction).split(), normalize_answer(answer).split()
    num_same = sum((Counter(predicted) & Counter(gold)).values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(predicted), num_same / len(gold)
    return 2 * precision * recall / (precision + recall)


def exact_match(prediction: str, answer: str) -> float:
    """1 if both are the same after normalisation, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def best_over_answers(metric: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The metric against the gold answer that it likes best."""
    return max(metric(prediction, answer) for answer in answers)


def score(predictions: Sequence[str], examples: Sequence[Example]) -> Scores:
    """Judge N predictions, one for each example in the same order, as evaluate-v1.1.py does.

    Raises:
        ValueError: other numbers of predictions than of examples, or an example without answers.
    """
    pairs = list(zip(predictions, examples, strict=True))
    f1_N = np.array([100 * best_over_answers(f1_score, given, example.answers) for given, example in pairs])
    exact_match_N = np.array([100 * best_over_answers(exact_match, given, example.answers) for given, example in pairs])
    return Scores(
        f1=float(f1_N.mean()), exact_match=float(exact_match_N.mean()), f1_N=f1_N, exact_match_N=exact_match_N
    )


def bootstrap_interval(
    values: np.ndarray, seed: int, *, repeats: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", 13.3).

    Args:
        values: (N,), one for each question.
        level: the share of resampled means that lie inside.

    Returns:
        The interval's low and high end, in the unit of the values.
    """
    (means_R,) = _resampled_means(np.asarray(values)[None], seed, repeats)
    return _percentiles(means_R, level)


def bootstrap_ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, seed: int, *, repeats: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of mean(numerators) / mean(denominators), drawing the same questions for both.

    So what makes a question hard for both cancels out. Retention is this ratio of F1 and the baseline's F1.

    Args:
        numerators, denominators: (N,), of the same questions in the same order.

    Returns:
        The interval's low and high end; (nan, nan) where the denominators of a resample are all 0.
    """
    above_R, below_R = _resampled_means(np.stack([numerators, denominators]), seed, repeats)
    if not below_R.all():
        return float("nan"), float("nan")
    return _percentiles(above_R / below_R, level)


def _resampled_means(values_MN: np.ndarray, seed: int, repeats: int) -> np.ndarray:
    """(M, R) means of M rows of values over the same resampled columns."""
    random, num_values = rng(seed, "bootstrap"), values_MN.shape[1]
    at_once = max(1, _INDICES_AT_ONCE // num_values)
    blocks = [
        values_MN[:, random.integers(num_values, size=(min(at_once, repeats - done), num_values))].mean(axis=2)
        for done in range(0, repeats, at_once)
    ]
    return np.concatenate(blocks, axis=1)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
