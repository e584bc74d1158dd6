"""What a few paired seeds allow to be said, in NumPy alone.

`differences` is everywhere the metric of a variant less that of the baseline, seed by seed: shape (n,), one number a
seed that both finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8
"""Chance of seeing an effect of the size that seeds are planned for."""
FEWEST_SEEDS = 3
"""Fewer pairs are not tested: with two, the 95 % t interval reaches 12.7 standard errors to either side."""
FEWEST_FOR_BOOTSTRAP = 5
"""With fewer, resamples hold so few values that the interval covers 80 % (3 seeds) or is twice too wide (4)."""
MOST_FOR_PERMUTATION = 20
"""Above it, 2^n sign flips take more than the moment that a comparison should."""
MOST_SEEDS = 1000
"""Where `seeds_needed` gives up: nobody trains so many."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class PairedTest:
    """A variant against the baseline on one metric.

    Attributes:
        count: pairs of seeds.
        mean: mean difference, in the metric's unit; NaN without a pair.
        sd: standard deviation of the differences, of n - 1; NaN for fewer than two pairs.
        t_interval: 95 % interval of the mean by Student's t; None for fewer than three pairs and where all differences
            are equal.
        bootstrap_interval: the same by the studentized bootstrap; None for fewer than five pairs and as above.
        p_value: two-sided, of the paired t-test; None for fewer than three pairs and where all differences are equal
            and not zero, which leaves no spread to judge by.
        p_permutation: two-sided, of the exact sign-flip test; None for fewer than three pairs or more than twenty.
        effect_size: Cohen's d_z, the mean over the standard deviation; None where that is undefined.
    """

    count: int
    mean: float
    sd: float
    t_interval: tuple[float, float] | None
    bootstrap_interval: tuple[float, float] | None
    p_value: float | None
    p_permutation: float | None
    effect_size: float | None


def paired_test(differences: np.ndarray) -> PairedTest:
    """Everything that the pairs say, before any correction."""
    count = len(differences)
    mean = float(np.mean(differences)) if count else math.nan
    sd = float(np.std(differences, ddof=1)) if count > 1 else math.nan
    # Equal differences still vary in their last bit, which is no spread.
    flat = count > 1 and sd <= 1e-12 * float(np.max(np.abs(differences)))
    testable = count >= FEWEST_SEEDS
    return PairedTest(
        count=count,
        mean=mean,
        sd=0.0 if flat else sd,
        t_interval=t_interval(differences) if testable and not flat else None,
        bootstrap_interval=bootstrap_interval(differences) if count >= FEWEST_FOR_BOOTSTRAP and not flat else None,
        p_value=paired_t_p_value(differences) if testable and not (flat and mean) else None,
        p_permutation=sign_flip_p_value(differences) if FEWEST_SEEDS <= count <= MOST_FOR_PERMUTATION else None,
        effect_size=mean / sd if count > 1 and not flat else None,
    )


def t_interval(differences: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the mean difference by Student's t, of n - 1 degrees of freedom. Needs two differences."""
    count = len(differences)
    mean = float(np.mean(differences))
    half = t_quantile(confidence, count - 1) * float(np.std(differences, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


def paired_t_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the paired t-test (Student 1908) that the mean difference is zero; 1 if all are zero."""
    if not np.any(differences):
        return 1.0
    count = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    return 1 - t_central(float(np.mean(differences)) / error, count - 1)


def bootstrap_interval(
    differences: np.ndarray, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Interval of the mean difference by the studentized bootstrap (Efron and Tibshirani 1993, section 12.5).

    The plain percentile interval covers 84 % instead of 95 % at five seeds, which is why it is not taken. The
    resamples are the same in every call, so that a comparison that is made again is equal.
    """
    count = len(differences)
    mean = float(np.mean(differences))
    drawn_BN = differences[_resamples(count, resamples)]
    spread_B = drawn_BN.std(axis=1, ddof=1)
    varied_B = spread_B > 1e-12 * float(np.max(np.abs(differences)))
    t_B = (drawn_BN.mean(axis=1)[varied_B] - mean) / spread_B[varied_B]
    low, high = np.quantile(t_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    sd = float(np.std(differences, ddof=1))
    return mean - float(high) * sd, mean - float(low) * sd


@cache
def _resamples(count: int, resamples: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, size=(resamples, count))


def sign_flip_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the exact paired permutation test: the share of the 2^n ways to give the differences signs
    whose sum is at least as far from zero (Fisher 1935, section 21). It cannot be below 2 / 2^n.
    """
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums - difference, sums + difference])
    # Sums of the same numbers in another order differ in their last bits.
    reached = abs(float(np.sum(differences))) - 1e-9 * float(np.sum(np.abs(differences)))
    return float(np.mean(np.abs(sums) >= reached))


def smallest_sign_flip_p_value(count: int) -> float:
    """What `sign_flip_p_value` gives when all `count` differences have one sign."""
    return 2.0 ** (1 - count)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their order (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power_of_t_test(effect_size: float, count: int, alpha: float = ALPHA) -> float:
    """Chance that a two-sided paired t-test of `count` pairs finds an effect of d_z `effect_size`.

    The statistic is noncentral t: (Z + d sqrt(n)) / U with U = chi_v / sqrt(v), v = n - 1; the chance is integrated
    over U's density 2 (v/2)^(v/2) / Gamma(v/2) u^(v-1) exp(-v u^2 / 2).
    """
    freedom = count - 1
    shift, critical = effect_size * math.sqrt(count), t_quantile(1 - alpha, freedom)
    nodes, weights = _legendre()
    reach = 9 / math.sqrt(2 * freedom)  # standard deviations of U, about, to either side of 1
    low, high = max(0.0, 1 - reach), 1 + reach
    u = (high + low) / 2 + (high - low) / 2 * nodes
    constant = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    density = np.exp(constant + (freedom - 1) * np.log(u) - freedom * u**2 / 2)
    found = _normal_cdf(shift - critical * u) + _normal_cdf(-shift - critical * u)
    return float((high - low) / 2 * np.sum(weights * density * found))


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on -1 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(96)
    return nodes, weights


def seeds_needed(effect: float, sd: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Pairs that a paired t-test needs to see a mean difference of `effect` with the given chance.

    Args:
        effect: size of the mean difference, above 0, in the metric's unit.
        sd: standard deviation of the differences, above 0.
        alpha: level of the test; under Holm's correction the worst case is ALPHA over the number of tests.

    Returns:
        The smallest sufficient number; None if `MOST_SEEDS` do not suffice.
    """
    low, high = 1, FEWEST_SEEDS  # low is too few, high is tried
    while power_of_t_test(effect / sd, high, alpha) < power:
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        if middle >= FEWEST_SEEDS and power_of_t_test(effect / sd, middle, alpha) >= power:
            high = middle
        else:
            low = middle
    return high


def detectable_effect(count: int, sd: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The mean difference that `count` pairs show with the given chance, in the metric's unit."""
    low, high = 0.0, 1.0
    while power_of_t_test(high, count, alpha) < power:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of_t_test(middle, count, alpha) >= power else (middle, high)
    return high * sd


def t_central(t: float, freedom: int) -> float:
    """Probability that Student's t of `freedom` degrees lies within -|t| to |t| (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return min(1.0, 2 / math.pi * (angle + sine * total) if odd else sine * total)


@cache
def t_quantile(confidence: float, freedom: int) -> float:
    """The t of `freedom` degrees whose central probability is `confidence`."""
    low, high = 0.0, 1.0
    while t_central(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_central(middle, freedom) < confidence else (low, middle)
    return high


_normal_cdf = np.vectorize(NormalDist().cdf, otypes=[float])
