"""The variants of a suite, tested against the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ablate.plan import Plan
from ablate.results import RunResult, at_equal_budget, collect, require_metrics
from ablate.statistics import ALPHA, PairedTest, detectable_effect, holm, paired_test, seeds_needed
from ablate.suite import Metric, check_metrics, shown
from trainworks.console import UserError

Verdict = Literal["baseline", "helps", "hurts", "no detectable effect", "no test possible"]


@dataclass(frozen=True)
class Row:
    """A variant on one metric.

    Attributes:
        variant: its name.
        values: by seed, of the finished runs.
        mean, sd: of the values; NaN where there are too few.
        differences: by seed, less the baseline's.
        test: of the differences; None for the baseline.
        p_holm: the t-test's p-value, adjusted for all variants tested on this metric.
        verdict: what the numbers allow to be said.
        detectable: the difference that this many seeds show 4 times in 5; None where nothing was tested.
        effect: the difference that seeds are planned for.
        seeds_needed: to see `effect` 4 times in 5; None where nothing was tested or over a thousand.
    """

    variant: str
    values: dict[int, float]
    mean: float
    sd: float
    differences: dict[int, float] = field(default_factory=dict)
    test: PairedTest | None = None
    p_holm: float | None = None
    verdict: Verdict = "baseline"
    detectable: float | None = None
    effect: float | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Table:
    """All variants on one metric, the baseline first; the others by their difference if all were tested."""

    metric: str
    direction: str
    num_tests: int
    rows: list[Row]


@dataclass(frozen=True)
class Comparison:
    """A suite's outcome.

    Attributes:
        plan: what was run.
        results: every run.
        tables: by metric, the deciding one first.
        notes: what a reader has to know before believing a number.
        equal: "time" or "steps" where the metrics are those at an equal budget, `budget` seconds or steps.
    """

    plan: Plan
    results: list[RunResult]
    tables: list[Table]
    notes: list[str]
    equal: str
    budget: float | None


def compare(plan: Plan, equal: str = "", effect: float | None = None) -> Comparison:
    """Compare what has finished.

    Args:
        plan: what was run.
        equal: "time" or "steps" compares at the largest budget that all finished runs reached.
        effect: the difference of the deciding metric to plan seeds for, in its unit; default: the suite's.

    Raises:
        UserError: no run has finished, a metric that no run writes, losses of different weights.
    """
    if equal not in ("", "time", "steps"):
        raise UserError(f'--equal takes time or steps, not "{equal}"')
    check_metrics(plan.suite, plan.variants)
    metrics = dict(plan.suite.metrics)
    if effect is not None:
        first = next(iter(metrics))
        metrics[first] = metrics[first].model_copy(update={"effect": effect})
    results = [collect(paths, metrics) for paths in plan.paths()]
    finished = [result for result in results if result.state == "finished"]
    if not finished:
        raise UserError(f"no run in {plan.folder} has finished; `ablate status {plan.folder}` shows where they are")
    notes = _notes(plan, results)
    budget = None
    if equal:
        metrics, results, budget = at_equal_budget(metrics, results, equal, notes)
    else:
        for result in finished:
            require_metrics(result, metrics, plan.folder)
    tables = [_table(plan, name, metric, results) for name, metric in metrics.items()]
    return Comparison(plan, results, tables, notes, equal, budget)


def judge(
    values: Mapping[str, Mapping[int, float]], baseline: str, direction: str
) -> dict[str, tuple[PairedTest, float | None, Verdict]]:
    """Test and verdict of each variant but the baseline.

    The t-test's p-values decide, adjusted by Holm for all variants that could be tested: with few seeds the permutation
    test could never say yes.

    Args:
        values: of one metric, by variant and seed.
        baseline: whose values the others are compared with, seed by seed.
        direction: "max" or "min".

    Returns:
        By variant: the test, its adjusted p-value, None where there was no test, and the verdict.
    """
    base = values[baseline]
    tests = {
        name: paired_test(np.array([found[seed] - base[seed] for seed in sorted(found) if seed in base]))
        for name, found in values.items()
        if name != baseline
    }
    p_values = {name: test.p_value for name, test in tests.items() if test.p_value is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    judged: dict[str, tuple[PairedTest, float | None, Verdict]] = {}
    for name, test in tests.items():
        verdict: Verdict = "no detectable effect" if name in adjusted else "no test possible"
        if name in adjusted and adjusted[name] <= ALPHA:
            verdict = "helps" if (test.mean > 0) == (direction == "max") else "hurts"
        judged[name] = test, adjusted.get(name), verdict
    return judged


def _table(plan: Plan, name: str, metric: Metric, results: Sequence[RunResult]) -> Table:
    values: dict[str, dict[int, float]] = {variant.name: {} for variant in plan.variants}
    for result in results:
        value = result.values.get(name)
        if value is not None and math.isfinite(value):
            values[result.variant][result.seed] = value
    base = values[plan.suite.baseline]
    judged = judge(values, plan.suite.baseline, metric.direction)
    num_tests = sum(p_holm is not None for _, p_holm, _ in judged.values())
    rows = []
    for variant, found in values.items():
        numbers = list(found.values())
        row = Row(
            variant,
            found,
            mean=float(np.mean(numbers)) if numbers else math.nan,
            sd=float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan,
        )
        if variant in judged:
            test, p_holm, verdict = judged[variant]
            differences = {seed: value - base[seed] for seed, value in found.items() if seed in base}
            row = replace(row, differences=differences, test=test, p_holm=p_holm, verdict=verdict)
            row = _with_plan_of_seeds(row, metric, num_tests)
        rows.append(row)
    if rows[1:] and num_tests == len(rows) - 1:
        sign = 1 if metric.direction == "max" else -1
        rows[1:] = sorted(rows[1:], key=lambda row: -sign * row.test.mean if row.test else 0.0)
    return Table(name, metric.direction, num_tests, rows)


def _with_plan_of_seeds(row: Row, metric: Metric, num_tests: int) -> Row:
    """What this many seeds can show, and how many would be needed."""
    test = row.test
    if test is None or row.p_holm is None or not test.sd:
        return row
    alpha = ALPHA / num_tests  # what Holm's correction asks of the smallest p-value
    effect = metric.effect or abs(test.mean)
    return replace(
        row,
        detectable=detectable_effect(test.count, test.sd, alpha),
        effect=effect,
        seeds_needed=seeds_needed(effect, test.sd, alpha) if effect else None,
    )


def _notes(plan: Plan, results: Sequence[RunResult]) -> list[str]:
    notes = []
    for result in results:
        if result.state != "finished":
            why = f" ({result.error})" if result.error else ""
            notes.append(f"{result.variant} seed {result.seed} is left out: {result.state}{why}")
        if result.for_memory:
            changed = ", ".join(f"{key} = {shown(value)}" for key, value in result.for_memory.items())
            notes.append(f"{result.variant} seed {result.seed} ran with {changed}, since memory did not suffice")
    finished = [result for result in results if result.state == "finished"]
    for name in plan.suite.metrics:
        absent = [f"{result.variant} seed {result.seed}" for result in finished if result.values.get(name, 0) is None]
        if absent:
            notes.append(f"{name} is not finite in {', '.join(absent)}, which is left out of its table")
    base = [tuple(result.values.values()) for result in finished if result.variant == plan.suite.baseline]
    if len(base) > 1 and len(set(base)) == 1:
        notes.append("all seeds of the baseline gave the same figures: does the command use --seed?")
    if len({result.inputs for result in finished}) > 1:
        notes.append("the runs read different files (SHA-256): differences may be those of the data")
    return notes
