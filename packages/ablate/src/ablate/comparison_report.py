"""A comparison in words, in tables and in files."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ablate.compare import Comparison, Row, Table
from ablate.jobs import JobPaths, child_environment
from ablate.plots import plot_comparison
from ablate.results import RunResult
from ablate.statistics import ALPHA, FEWEST_SEEDS, MOST_SEEDS, smallest_sign_flip_p_value
from trainworks.console import warn
from trainworks.files import atomic_write, write_json


def write_comparison(comparison: Comparison) -> None:
    """Publish comparison.json, comparison.csv, ablation_comparison.png and, with `diag` on the PATH, report.html."""
    folder = comparison.plan.folder
    write_json(folder / "comparison.json", comparison_json(comparison))
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


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Plain data. `cost` and `budget` depend on the machine's load, everything else on the runs alone."""
    return {
        "suite": comparison.plan.name,
        "baseline": comparison.plan.suite.baseline,
        "equal": comparison.equal or None,
        "budget": comparison.budget,
        "metrics": [
            {
                "metric": table.metric,
                "direction": table.direction,
                "tests": table.num_tests,
                "variants": [asdict(row) | {"words": in_words(table, row)} for row in table.rows],
            }
            for table in comparison.tables
        ],
        "variants": {
            variant.name: {
                "purpose": variant.purpose,
                "changes": variant.changes,
                "runs": [_run_json(result) for result in comparison.results if result.variant == variant.name],
            }
            for variant in comparison.plan.variants
        },
        "cost": {
            f"{result.variant} seed {result.seed}": {"seconds": result.seconds, "steps": result.steps}
            for result in comparison.results
        },
        "notes": comparison.notes,
    }


def _run_json(result: RunResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "state": result.state,
        "error": result.error,
        "values": result.values,
        "for_memory": result.for_memory,
    }


def comparison_text(comparison: Comparison) -> str:
    """Tables and words for a console, without a newline at the end."""
    lines: list[str] = []
    for table in comparison.tables:
        lines += [_heading(table), *_aligned(_cells(table)), ""]
    lines += [in_words(comparison.tables[0], row) for row in comparison.tables[0].rows[1:]]
    if comparison.tables[0].num_tests:
        lines += ["", _reading(comparison.tables[0])]
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])


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
