"""Runs side by side: results, what differs in their configuration, and their curves at equal steps and equal time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from diag.read import Run, read_run
from diag.show import printable

ABSENT = "(absent)"
"""How a setting that a run does not have is told."""
SHOWN_ROWS = 40
"""Rows of each table on the terminal; JSON has all."""


def compare_runs(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Compare runs of any tools, ready for JSON.

    Returns:
        `runs` (name, tool, status, seconds, steps), `results` and `configuration` (a row a name that is not the same
        everywhere, a value a run), `equal_step` and `equal_time` (`at` and, a row a metric that all runs log, the
        last finite value up to there; `at` is None where no such moment exists).

    Raises:
        UserError: a run cannot be read.
    """
    runs = [read_run(path) for path in paths]
    names = unique_names(runs)
    return {
        "runs": [about(run, name) for run, name in zip(runs, names, strict=True)],
        "results": results(runs),
        "configuration": differences([settings(run) for run in runs]),
        "equal_step": at_equal(runs, "step"),
        "equal_time": at_equal(runs, "time"),
    }


def unique_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names; with the path where two are called the same, and a number where they are the same path."""
    names = [run.name for run in runs]
    names = [str(run.path) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]
    return [f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names)]


def about(run: Run, name: str) -> dict[str, Any]:
    """What a run is: name, path, tool, version, status, start, seconds of work and last step."""
    record = run.record or {}
    return {
        "name": name,
        "path": str(run.path),
        "tool": run.tool,
        "version": record.get("version"),
        "status": record.get("status"),
        "started": record.get("started"),
        "seconds": seconds_of(run),
        "steps": int(run.series.steps.max()) if len(run.series) else None,
        "records": len(run.series),
    }


def seconds_of(run: Run) -> float | None:
    """Seconds of work by the log's own clock, else from started to finished; None where neither is told."""
    times = run.series.times[np.isfinite(run.series.times)]
    if len(times):
        return float(times.max())
    record = run.record or {}
    try:
        began, ended = (datetime.fromisoformat(record[key]) for key in ("started", "finished"))
        return (ended - began).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def results(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row a headline metric of run.json, and its value (None where absent) a run."""
    flat = [flatten((run.record or {}).get("result") or {}) for run in runs]
    return [{"name": name, "values": [values.get(name) for values in flat]} for name in _names_in(flat)]


def settings(run: Run) -> dict[str, Any] | None:
    """What could explain a difference: tool, version, seed, inputs, the configuration and the environment; None for a
    log without a run.json, of which nothing is known."""
    if run.record is None:
        return None
    record = run.record
    inputs = [item.get("sha256") or item.get("path") for item in record.get("inputs") or [] if isinstance(item, dict)]
    outer = {key: record.get(key) for key in ("tool", "version", "seed")} | {"inputs": inputs}
    return outer | flatten(record.get("config") or {}) | flatten({"environment": record.get("environment") or {}})


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names; lists stay whole."""
    if not isinstance(tree, Mapping):
        return {prefix: tree} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(value, name) if isinstance(value, Mapping) and value else {name: value}
    return flat


def differences(flat: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """A row a setting that is not the same in all runs of which settings are known; `ABSENT` where a run lacks it."""
    known = [values for values in flat if values is not None]
    rows = []
    for name in _names_in(known):
        values = [None if values is None else values.get(name, ABSENT) for values in flat]
        told = {
            json.dumps(value, sort_keys=True, default=str)
            for value, of in zip(values, flat, strict=True)
            if of is not None
        }
        if len(told) > 1:
            rows.append({"name": name, "values": values})
    return rows


def _names_in(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for values in flat for name in values))


def at_equal(runs: Sequence[Run], axis: str) -> dict[str, Any]:
    """Every metric that all runs log, at the largest step or time that all of them reached.

    Args:
        axis: "step" or "time" (seconds).
    """
    empty: dict[str, Any] = {"at": None, "metrics": []}
    ends = []
    for run in runs:
        along = run.series.steps if axis == "step" else run.series.times
        along = along[np.isfinite(along)]
        if not len(along):
            return empty
        ends.append(float(along.max()))
    if axis == "step" and len({run.series.unit for run in runs}) > 1:
        return empty  # steps, epochs and records are no common measure
    at = min(ends)
    shared = [name for name in runs[0].series.names if all(name in run.series.pieces for run in runs[1:])]
    rows = [{"name": name, "values": [value_at(run, name, axis, at) for run in runs]} for name in shared]
    return {"at": at, "metrics": [row for row in rows if any(value is not None for value in row["values"])]}


def value_at(run: Run, name: str, axis: str, at: float) -> float | None:
    """The last finite value of a metric up to a step or time."""
    rows, values = run.series.points(name)
    along = (run.series.steps if axis == "step" else run.series.times)[rows]
    reached = np.flatnonzero((along <= at) & np.isfinite(values))
    return float(values[reached[np.argmax(along[reached])]]) if len(reached) else None


def console_text(comparison: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    names = [run["name"] for run in comparison["runs"]]
    told = [
        ("tool", [run["tool"] or "-" for run in comparison["runs"]]),
        ("status", [run["status"] or "-" for run in comparison["runs"]]),
        ("steps", [run["steps"] for run in comparison["runs"]]),
        ("seconds", [run["seconds"] for run in comparison["runs"]]),
    ]
    parts = [table("runs", names, told)]
    for key, title in (("results", "results"), ("configuration", "configuration: what differs")):
        parts.append(table(title, names, [(row["name"], row["values"]) for row in comparison[key]]))
    for key, unit in (("equal_step", "step"), ("equal_time", "seconds")):
        equal = comparison[key]
        if equal["at"] is not None:
            rows = [(row["name"], row["values"]) for row in equal["metrics"]]
            parts.append(table(f"curves at {unit} {equal['at']:,.6g}", names, rows))
    return "\n\n".join(part for part in parts if part)


def table(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """Aligned text with a heading; "" without rows."""
    if not rows:
        return ""
    cells = [[title, *names], *[[name, *(cell(value) for value in values)] for name, values in rows[:SHOWN_ROWS]]]
    cells = [[shortened(printable(text)) for text in row] for row in cells]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    ]
    if len(rows) > SHOWN_ROWS:
        lines.append(f"... and {len(rows) - SHOWN_ROWS:,} more; --json has all")
    return "\n".join(line.rstrip() for line in lines)


def cell(value: Any) -> str:
    """One value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def shortened(text: str, most: int = 36) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"
