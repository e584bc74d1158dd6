"""Mean and spread over seeds of what `diversity-finetune evaluate` reported: a table for its README.

uv run --no-sync python tools/replies_table.py runs/accept-replies/seed_*/reports/pairs/report.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

System = Mapping[str, float]

COLUMNS: dict[str, Callable[[System, System], float | None]] = {
    "BLEU-4": lambda system, people: system.get("bleu_4"),
    "ROUGE-L": lambda system, people: system.get("rouge_l"),
    "Distinct-1": lambda system, people: system["distinct_1"],
    "Distinct-2": lambda system, people: system["distinct_2"],
    "corpus Distinct-2": lambda system, people: system["corpus_distinct_2"],
    "of people's": lambda system, people: system["corpus_distinct_2"] / people["corpus_distinct_2"],
    "repetition": lambda system, people: system["repetition_rate"],
    "copied": lambda system, people: system["copied"],
    "quality": lambda system, people: system.get("quality_score"),
}


def markdown(reports: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation; a baseline that no seed changes has no spread."""
    lines = [
        f"| {reports[0]['pairs']:,} pairs, {len(reports)} seeds | " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for name in reports[0]["systems"]:
        cells = []
        for measure in COLUMNS.values():
            found = [measure(report["systems"][name], report["systems"]["references"]) for report in reports]
            cells.append(cell([figure for figure in found if figure is not None]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(figures: list[float]) -> str:
    if not figures:
        return "-"
    spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
    return f"{statistics.mean(figures):.3f}" + (f" ± {spread:.3f}" if spread else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reports", type=Path, nargs="+", help="report.json of each seed, of the same test set")
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in parser.parse_args().reports]
    print(markdown(reports))


if __name__ == "__main__":
    main()
