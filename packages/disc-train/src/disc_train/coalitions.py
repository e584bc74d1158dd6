"""Which objective matters: trainings with every subset of the four levels, from shared warm starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from disc_train.config import LEVELS
from disc_train.fork import Family
from trainworks.metrics import read_metrics

Coalition = tuple[str, ...]
COALITIONS: list[Coalition] = [
    subset for size in range(len(LEVELS) + 1) for subset in itertools.combinations(LEVELS, size)
]
"""All sixteen subsets, in the order of LEVELS."""
FEWEST = 3
"""Seeds from which an interval is given."""


@dataclass(frozen=True)
class Effect:
    """A difference over the seeds.

    Attributes:
        mean: over the seeds.
        low, high: 95 % interval of the mean by Student's t; None below three seeds.
        by_seed: in the order of the seeds.
    """

    mean: float
    low: float | None
    high: float | None
    by_seed: list[float]

    @classmethod
    def of(cls, differences: Sequence[float]) -> Effect:
        values = [float(value) for value in differences]
        if len(values) < FEWEST:
            return cls(float(np.mean(values)), None, None, values)
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
        return cls(float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half), values)


def train_coalitions(
    families: Sequence[Family], cycles: int, step: Callable[[], None]
) -> dict[str, list[dict[Coalition, float]]]:
    """Every validation metric of every coalition, by metric and seed.

    A level outside the coalition has weight 0; those inside keep theirs. Runs that are finished are not trained again.

    Args:
        families: one a seed.
        cycles: of feedback.
        step: called after each training.
    """
    values: dict[str, list[dict[Coalition, float]]] = {}
    for index, family in enumerate(families):
        for coalition in COALITIONS:
            weights = family.recipe.feedback.weights
            changes: dict[str, Any] = {
                f"feedback.weight_{level}": weights[level] if level in coalition else 0.0 for level in LEVELS
            }
            changes |= {"feedback.cycles": cycles, "feedback.patience": cycles + 1}
            if cycles == 1:  # discriminators taught after the only cycle would teach nobody
                changes["feedback.schedule"] = "once"
            if len(coalition) == len(LEVELS):
                changes["feedback.gradients_every"] = 5
            run = family.fork("_".join(coalition) or "none_of_them", changes)
            last = next(record for record in reversed(read_metrics(run.metrics_path)) if "valid/lm_loss" in record)
            for name, value in last.items():
                if name.startswith("valid/"):
                    by_seed = values.setdefault(name, [{} for _ in families])
                    by_seed[index][coalition] = math.nan if value is None else float(value)
            step()
    return values


def shapley_values(value: Mapping[Coalition, float]) -> dict[str, float]:
    """Each level's share of v(all) - v(none), exactly (Shapley 1953): its mean gain over all orders of joining.

    Args:
        value: v of each of `COALITIONS`.

    Returns:
        By level; they add up to v(all) - v(none).
    """
    count = len(LEVELS)
    shares = {}
    for level in LEVELS:
        total = 0.0
        for coalition in COALITIONS:
            if level not in coalition:
                joined = tuple(other for other in LEVELS if other in coalition or other == level)
                ways = math.factorial(len(coalition)) * math.factorial(count - len(coalition) - 1)
                total += ways / math.factorial(count) * (value[joined] - value[coalition])
        shares[level] = total
    return shares


def ablation(by_seed: Sequence[Mapping[Coalition, float]]) -> dict[str, Effect]:
    """What leaving out each level, or keeping it alone, changes from the full recipe; paired by seed."""
    full = tuple(LEVELS)
    variants: dict[str, Coalition] = {"none of them": ()}
    variants |= {f"without {level}": tuple(other for other in LEVELS if other != level) for level in LEVELS}
    variants |= {f"{level} alone": (level,) for level in LEVELS}
    return {
        name: Effect.of([values[coalition] - values[full] for values in by_seed])
        for name, coalition in variants.items()
    }


def shapley(by_seed: Sequence[Mapping[Coalition, float]]) -> dict[str, Effect]:
    """Shapley values over the seeds."""
    found = [shapley_values(values) for values in by_seed]
    return {level: Effect.of([values[level] for values in found]) for level in LEVELS}
