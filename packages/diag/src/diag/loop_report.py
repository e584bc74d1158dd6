"""Diagnostics that accumulate while a training runs: kept in a file beside it, judged as any log is."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diag.diversity import mean_distance, vendi_score
from diag.finding import Finding, Health
from diag.health import judge
from diag.read import Run
from diag.read_table import Table
from diag.thresholds import Thresholds
from trainworks.files import json_ready, write_json

HISTORY = 200
"""Reports of the past that a new one is judged with."""


def diversities(real: np.ndarray | None, generated: np.ndarray | None) -> dict[str, float]:
    """Diversity of outputs and inputs, in the same unit."""
    if real is None or generated is None or real.shape[1:] != generated.shape[1:] or len(real) < 2:
        return {}
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        return {}
    spread = mean_distance(real)
    return {
        "diversity/output": mean_distance(generated),
        "diversity/input": spread,
        "vendi/output": vendi_score(generated, spread / 2),
        "vendi/input": vendi_score(real, spread / 2),
    }


def read_history(output_dir: Path, step: int) -> list[dict[str, Any]]:
    """The last reports before `step`: those of a training that was resumed earlier than it got are left out."""
    try:
        with open(output_dir / "diagnostics.jsonl", encoding="utf-8") as file:
            lines = deque(file, maxlen=HISTORY)
    except FileNotFoundError:
        return []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["step"] < step]


def judge_records(records: list[dict[str, Any]], path: Path, thresholds: Thresholds) -> Health:
    table = Table(str(path / "diagnostics.jsonl"))
    table.add(records, range(1, len(records) + 1))
    health = judge(Run(path, path.name, "", None, table.series()), thresholds)
    return Health.of([*health.findings, *first_look(records)])


def first_look(records: list[dict[str, Any]]) -> Iterator[Finding]:
    """What is wrong however short the history is: figures that are no numbers, at the only record there is."""
    if len(records) == 1:
        last = records[-1]
        bad = [name for name, value in last.items() if not np.isfinite(value)]
        if bad:
            yield Finding(
                "not_finite",
                "critical",
                (last["step"], last["step"]),
                {"metrics": bad[:20]},
                f"{', '.join(bad[:3])} {'is' if len(bad) == 1 else 'are'} NaN or infinite",
                "The weights are most likely lost: everything computed with NaN is NaN.",
                ("look for NaN in the data", "lower the learning rate and clip gradients"),
                bad[0],
            )


def publish(output_dir: Path, record: dict[str, Any], health: Health) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    with open(output_dir / "diagnostics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(json_ready(record), allow_nan=False) + "\n")
    write_json(output_dir / "diagnostics.json", {"step": record["step"], **health.to_json(), "metrics": record})
