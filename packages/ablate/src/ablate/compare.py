"""What the runs of a suite say: collected, tested against the baseline, put into words."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ablate.jobs import JobPaths, child_environment, read_record, read_run
from ablate.plan import Plan
from ablate.statistics import (
    ALPHA,
    FEWEST_SEEDS,
    MOST_SEEDS,
    PairedTest,
    detectable_effect,
    holm,
    paired_test,
    seeds_needed,
    smallest_sign_flip_p_value,
)
from ablate.suite import Metric, check_metrics, nearest, shown
from trainworks.console import UserError, warn
from trainworks.files import atomic_write, write_json
from trainworks.metrics import read_metrics

Verdict = Literal["baseline", "helps", "hurts", "no detectable effect", "no test possible"]


@dataclass(frozen=True)
class RunResult:
    """One run, as far as a comparison goes.

    Attributes:
        variant, seed: which.
        state, error: see `ablate.jobs.Record`.
        values: by metric; a run that is not finished has none, None stands for NaN or infinity.
        seconds, steps: of training.
        for_memory: settings that were changed since memory did not suffice.
        inputs: SHA-256 of the files it read.
        records: its metrics.jsonl.
    """

    variant: str
    seed: int
    state: str
    error: str
    values: dict[str, float | None]
    seconds: float
    steps: int
    for_memory: dict[str, Any]
    inputs: tuple[str, ...]
    records: list[dict[str, Any]]


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

    def to_json(self) -> dict[str, Any]:
        """Plain data. `cost` and `budget` depend on the machine's load, everything else on the runs alone."""
        return {
            "suite": self.plan.name,
            "baseline": self.plan.suite.baseline,
            "equal": self.equal or None,
            "budget": self.budget,
            "metrics": [
                {
                    "metric": table.metric,
                    "direction": table.direction,
                    "tests": table.num_tests,
                    "variants": [asdict(row) | {"words": in_words(table, row)} for row in table.rows],
                }
                for table in self.tables
            ],
            "variants": {
                variant.name: {
                    "purpose": variant.purpose,
                    "changes": variant.changes,
                    "runs": [_run_json(result) for result in self.results if result.variant == variant.name],
                }
                for variant in self.plan.variants
            },
            "cost": {
                f"{result.variant} seed {result.seed}": {"seconds": result.seconds, "steps": result.steps}
                for result in self.results
            },
            "notes": self.notes,
        }

    def text(self) -> str:
        """Tables and words for a console, without a newline at the end."""
        lines: list[str] = []
        for table in self.tables:
            lines += [_heading(table), *_aligned(_cells(table)), ""]
        lines += [in_words(self.tables[0], row) for row in self.tables[0].rows[1:]]
        if self.tables[0].num_tests:
            lines += ["", _reading(self.tables[0])]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


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
        metrics, results, budget = _at_equal_budget(metrics, results, equal, notes)
    else:
        for result in finished:
            require_metrics(result, metrics, plan.folder)
    tables = [_table(plan, name, metric, results) for name, metric in metrics.items()]
    return Comparison(plan, results, tables, notes, equal, budget)


def collect(paths: JobPaths, metrics: Mapping[str, Metric]) -> RunResult:
    """What a run has to say so far."""
    record, run = read_record(paths), read_run(paths.run) or {}
    records = read_metrics(paths.run / "metrics.jsonl") if (paths.run / "metrics.jsonl").exists() else []
    last = records[-1] if records else {}
    values = {}
    if record.state == "finished":
        found = measured(paths, run)
        for name, metric in metrics.items():
            if metric.at == "result":
                if name in found:
                    values[name] = found[name]
            elif any(name in line for line in records):
                values[name] = _logged(records, name, metric)
    return RunResult(
        paths.variant,
        paths.seed,
        record.state,
        record.error,
        values,
        float(last.get("time") or 0.0),
        int(last.get("step") or 0),
        record.for_memory,
        tuple(str(entry.get("sha256")) for entry in run.get("inputs") or []),
        records,
    )


def measured(paths: JobPaths, run: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers of the finished model: run.json's result and what `evaluate` printed, nested names joined by /."""
    evaluation = json.loads(paths.evaluation.read_text(encoding="utf-8")) if paths.evaluation.exists() else {}
    leaves = {**dict(_leaves(evaluation)), **dict(_leaves(run.get("result") or {}))}
    return {name: None if value is None else float(value) for name, value in leaves.items()}


def _leaves(values: Any, prefix: str = "") -> Iterable[tuple[str, float | None]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{prefix}/{key}" if prefix else str(key))
    elif values is None or (isinstance(values, int | float) and not isinstance(values, bool)):
        yield prefix, values


def _logged(records: Sequence[Mapping[str, Any]], name: str, metric: Metric) -> float | None:
    """Last or best of a metric's values; what is not finite is never the best."""
    values = [record[name] for record in records if name in record]
    if metric.at != "best":
        return values[-1]
    finite = [value for value in values if value is not None]
    return (max if metric.direction == "max" else min)(finite, default=None)


def require_metrics(result: RunResult, metrics: Mapping[str, Metric], folder: Path) -> None:
    """
    Raises:
        UserError: a finished run lacks a metric; the nearest that it has is named.
    """
    paths = JobPaths(folder, result.variant, result.seed)
    for name, metric in metrics.items():
        if name not in result.values:
            logged = {key for line in result.records for key in line} - {"step", "epoch", "time"}
            known = sorted(measured(paths, read_run(paths.run) or {}) if metric.at == "result" else logged)
            where = "result" if metric.at == "result" else "metrics.jsonl"
            advice = nearest(name, known)
            if metric.at == "result" and name in logged:
                advice = '; metrics.jsonl has it: say at = "last" or "best"'
            raise UserError(f'no metric "{name}" in the {where} of {paths.run}{advice}')


def _at_equal_budget(
    metrics: Mapping[str, Metric], results: Sequence[RunResult], equal: str, notes: list[str]
) -> tuple[dict[str, Metric], list[RunResult], float]:
    finished = [result for result in results if result.state == "finished"]
    budget = min(result.seconds if equal == "time" else float(result.steps) for result in finished)
    key = "time" if equal == "time" else "step"
    kept = {name: metric for name, metric in metrics.items() if _all_log(finished, name)}
    left_out = [name for name in metrics if name not in kept]
    if not kept:
        known = sorted(set.intersection(*({key for line in result.records for key in line} for result in finished)))
        raise UserError(f'--equal reads metrics.jsonl, where no run logs "{left_out[0]}"{nearest(left_out[0], known)}')
    if left_out:
        notes.append(f"left out, as metrics.jsonl does not have them along training: {', '.join(left_out)}")
    notes.append(f"metrics at equal {equal}: {budget:g} {'seconds' if equal == 'time' else 'steps'}")
    cut = []
    for result in results:
        if result.state == "finished":
            records = [record for record in result.records if record[key] <= budget]
            values = {
                name: _logged(records, name, metric)
                for name, metric in kept.items()
                if any(name in record for record in records)
            }
            if len(values) < len(kept):
                notes.append(f"{result.variant} seed {result.seed} had not measured anything by then")
            result = replace(result, values=values)
        cut.append(result)
    return kept, cut, budget


def _all_log(results: Iterable[RunResult], name: str) -> bool:
    return all(any(name in record for record in result.records) for result in results)


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


def in_words(table: Table, row: Row) -> str:
    """One or two sentences on a variant: what the numbers allow to be said, and no more."""
    test = row.test
    if test is None:
        return f"{row.variant} is the baseline."
    if test.count < FEWEST_SEEDS:
        seeds = f"{test.count} seed{'' if test.count == 1 else 's'}"
        found = f" (difference {test.mean:+.4g})" if test.count else ""
        return f"{row.variant}: no test possible with {seeds}{found}; {FEWEST_SEEDS} are the least."
    if row.p_holm is None:
        return (
            f"{row.variant}: no test possible: all {test.count} differences are exactly {test.mean:+.4g}, which leaves "
            "no spread to judge by."
        )
    if not test.sd:
        return f"{row.variant}: no detectable effect at {test.count} seeds: every one gave what the baseline gave."
    assert test.t_interval is not None
    low, high = test.t_interval
    figures = f"{test.mean:+.4g}, 95 % interval {low:+.4g} to {high:+.4g}, p = {_p(row.p_holm)}"
    if row.verdict != "no detectable effect":
        return f"{row.variant} {row.verdict}: {table.metric} {figures}."
    needed = f"more than {MOST_SEEDS:,}" if row.seeds_needed is None else str(row.seeds_needed)
    planned = f"; to see one of {row.effect:.4g} takes {needed} seeds" if row.effect else ""
    return (
        f"{row.variant}: no detectable effect at {test.count} seeds: {table.metric} {figures}. This many seeds show a "
        f"difference of {row.detectable:.4g} 4 times in 5{planned}."
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


def write_comparison(comparison: Comparison) -> None:
    """Publish comparison.json, comparison.csv, ablation_comparison.png and, with `diag` on the PATH, report.html."""
    from ablate.plots import plot_comparison

    folder = comparison.plan.folder
    write_json(folder / "comparison.json", comparison.to_json())
    atomic_write(folder / "comparison.csv", _csv(comparison))
    plot_comparison(folder / "ablation_comparison.png", comparison)
    environment = child_environment({})
    diag = shutil.which("diag", path=environment["PATH"])
    if diag:
        runs = [str(JobPaths(folder, run.variant, run.seed).run) for run in comparison.results if run.records]
        page = folder / "report.html"
        made = subprocess.run([diag, "report", *runs, "--out", str(page)], capture_output=True, env=environment)
        if made.returncode:
            warn(f"diag report failed: {made.stderr.decode(errors='replace').strip()[-300:]}")


def _run_json(result: RunResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "state": result.state,
        "error": result.error,
        "values": result.values,
        "for_memory": result.for_memory,
    }


# fmt: off
_COLUMNS = [
    "metric", "direction", "variant", "runs", "mean", "sd",
    "pairs", "difference", "sd_of_differences", "t_low", "t_high", "bootstrap_low", "bootstrap_high",
    "p", "p_holm", "p_permutation", "d_z", "verdict", "detectable", "effect", "seeds_needed", "seconds",
]
# fmt: on


def _csv(comparison: Comparison) -> str:
    """One line for each metric and variant; what is undefined is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in comparison.tables:
        for row in table.rows:
            seconds = [run.seconds for run in comparison.results if run.variant == row.variant and run.values]
            line: dict[str, Any] = {
                "metric": table.metric,
                "direction": table.direction,
                "variant": row.variant,
                "runs": len(row.values),
                "mean": row.mean,
                "sd": row.sd,
                "p_holm": row.p_holm,
                "verdict": row.verdict,
                "detectable": row.detectable,
                "effect": row.effect,
                "seeds_needed": row.seeds_needed,
                "seconds": round(float(np.mean(seconds)), 3) if seconds else None,
            }
            test = row.test
            if test is not None:
                line |= {"pairs": test.count, "difference": test.mean, "sd_of_differences": test.sd}
                line |= {"p": test.p_value, "p_permutation": test.p_permutation, "d_z": test.effect_size}
                for name, interval in (("t", test.t_interval), ("bootstrap", test.bootstrap_interval)):
                    if interval is not None:
                        line |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
            writer.writerow({name: None if _is_nan(value) else value for name, value in line.items()})
    return text.getvalue()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _heading(table: Table) -> str:
    better = "more" if table.direction == "max" else "less"
    return f"{table.metric} ({better} is better), differences from {table.rows[0].variant}"


def _cells(table: Table) -> list[list[str]]:
    cells = [["variant", "runs", "mean ± sd", "difference", "95 % interval", "p (Holm)", "p (flip)", "d_z", "verdict"]]
    for row in table.rows:
        spread = "" if math.isnan(row.sd) else f" ± {row.sd:.2g}"
        line = [row.variant, str(len(row.values)), "-" if math.isnan(row.mean) else f"{row.mean:.4g}{spread}"]
        test = row.test
        if test is None or not test.count:
            line += ["-"] * 5
        else:
            interval = "-" if test.t_interval is None else "{:+.4g} to {:+.4g}".format(*test.t_interval)
            line += [f"{test.mean:+.4g}", interval, _p(row.p_holm), _p(test.p_permutation)]
            line.append("-" if test.effect_size is None else f"{test.effect_size:+.1f}")
        cells.append([*line, row.verdict])
    return cells


def _reading(table: Table) -> str:
    """How the table is to be read; at few seeds also what the permutation test cannot say."""
    pairs = max(row.test.count for row in table.rows if row.test is not None)
    least = smallest_sign_flip_p_value(pairs)
    tests = f"{table.num_tests} paired t-test{'' if table.num_tests == 1 else 's'}"
    text = f"p (Holm): of {tests}, adjusted; p (flip): exact sign-flip test, not adjusted"
    return f"{text}, never below {least:.2g} at {pairs} seeds." if least > ALPHA else f"{text}."


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if value < 0.0001 else f"{value:.2g}"


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; names and verdicts to the left, numbers to the right."""
    widths = [max(len(line[index]) for line in cells) for index in range(len(cells[0]))]
    lines = []
    for line in cells:
        padded = [
            cell.ljust(width) if index in (0, len(line) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines
