"""Which objective matters: trainings with every subset of the four levels, from shared warm starts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from disc_train.config import LEVELS
from disc_train.evaluate import evaluate
from disc_train.fork import Family
from disc_train.run import load_trained
from disc_train.sample import Wanted, sample_rows
from disc_train.state import deal_rows
from trainworks.console import UserError
from trainworks.files import write_json
from trainworks.metrics import read_metrics
from trainworks.run import Run

Coalition = tuple[str, ...]
COALITIONS: list[Coalition] = [
    subset for size in range(len(LEVELS) + 1) for subset in itertools.combinations(LEVELS, size)
]
"""All sixteen subsets, in the order of LEVELS."""
METRICS = ("valid/lm_loss", "valid/two_sample_auc")
"""What every training logs of its end; less is better."""
EVALUATION = "evaluation/"
"""Begins the names of figures of `disc-train evaluate`."""
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
    families: Sequence[Family], cycles: int, metric: str, step: Callable[[], None]
) -> list[dict[Coalition, float]]:
    """A metric of every coalition, by seed.

    A level outside the coalition has weight 0; those inside keep theirs. Runs that are finished are not trained again.

    Args:
        families: one a seed.
        cycles: of feedback.
        metric: one of `METRICS`, or of those that `evaluation_figures` has.
        step: called after each training.

    Raises:
        UserError: there is no such metric; the others are named.
    """
    if metric not in METRICS and not metric.startswith(EVALUATION):
        raise UserError(f'there is no metric "{metric}"; there are {", ".join(METRICS)} and {EVALUATION}...')
    values: list[dict[Coalition, float]] = [{} for _ in families]
    for family, value in zip(families, values, strict=True):
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
            value[coalition] = float(figures_of(family, run, metric)[metric])
            step()
    return values


def figures_of(family: Family, run: Run, metric: str) -> Mapping[str, Any]:
    """The figures of a finished run among which the metric is."""
    if metric in METRICS:
        return next(record for record in reversed(read_metrics(run.metrics_path)) if metric in record)
    figures = evaluation_figures(family, run)
    if metric not in figures:
        raise UserError(f'there is no metric "{metric}"; there are {", ".join([*METRICS, *figures])}')
    return figures


def evaluation_figures(family: Family, run: Run) -> dict[str, float]:
    """What `disc-train evaluate` says of a finished run's rows, with the validation rows for test rows.

    Returns:
        By name, such as evaluation/utility/scores/synthetic/xgboost/auc; of spreads the mean.
    """
    file = run.path / "reports" / "evaluation.json"
    if not file.exists():
        trained = load_trained(run.path, "last", family.device.type, family.threads)
        *learned, valid = deal_rows(len(family.table), trained.recipe)
        real = family.table.take(np.concatenate(learned))
        first, *rest = sample_rows(trained, Wanted(len(real), (), None, False, 1), trained.recipe.seed)
        report = evaluate(
            real,
            family.table.take(valid),
            first.concat(*rest),
            target=trained.recipe.target or None,
            seeds=(0,),
            out=None,
            threads=family.threads,
            quality_report=False,
        )
        file.parent.mkdir(exist_ok=True)
        write_json(file, flat(report, EVALUATION.rstrip("/")))
    return json.loads(file.read_text(encoding="utf-8"))


def flat(report: Mapping[str, Any], name: str) -> dict[str, float]:
    """The numbers of a report by their path; of a spread over seeds its mean."""
    if "seeds" in report and "mean" in report:
        return {name: report["mean"]}
    figures: dict[str, float] = {}
    for key, value in report.items():
        if isinstance(value, Mapping):
            figures |= flat(value, f"{name}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            figures[f"{name}/{key}"] = value
    return figures


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
