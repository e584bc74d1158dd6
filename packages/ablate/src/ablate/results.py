"""What each run of a suite has measured, read from its directory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablate.jobs import JobPaths, read_record, read_run
from ablate.suite import Metric, nearest
from trainworks.console import UserError
from trainworks.metrics import read_metrics


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


def at_equal_budget(
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
