"""The table that `just demo` ends with: each tool's headline figure beside what it has to beat.

    uv run python tools/demo_table.py runs/demo

Reads the reports that the five pipelines have just written and nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def dig(report: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        report = report[key]
    return report


def seconds(run: Path) -> float:
    """Of training: the time of the run's last record."""
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["time"])


def rows(demo: Path) -> list[tuple[str, Path, str, float, str, float]]:
    """(command, run, what is measured, its figure, what stands beside it, that one's figure)."""
    auc = dig(read(demo / "rows/evaluation/report.json"), "two_sample", "auc")
    stories = {model: read(demo / f"stories/run-{model}/reports/test/report.json") for model in ("transformer", "lstm")}
    replies = read(demo / "replies/run/reports/test/report.json")["systems"]
    voices = read(demo / "voices/run/reports/test/report.json")["systems"]
    adapter = read(demo / "adapter/run/reports/builtin:facts-test/report.json")["rungs"]
    trees = [dig(auc, system, "xgboost", "mean") for system in ("synthetic", "independent columns")]
    return [
        ("disc-train", demo / "rows/run", "AUC of telling rows from real ones", trees[0], "columns alone", trees[1]),
        *(
            (
                f"qa-train {model}",
                demo / f"stories/run-{model}",
                "accuracy, casts of 21 to 30",
                dig(report, "overall", "accuracy"),
                "best shortcut",
                max(dig(shortcut, "overall", "accuracy") for shortcut in report["shortcuts"].values()),
            )
            for model, report in stories.items()
        ),
        (
            "diversity-finetune",
            demo / "replies/run",
            "BLEU-4, greedy",
            dig(replies, "greedy", "bleu_4"),
            "nearest neighbour",
            dig(replies, "nearest-neighbour", "bleu_4"),
        ),
        (
            "voice-gan",
            demo / "voices/run",
            "STOI, rebuilt",
            dig(voices, "reconstruction", "stoi", "mean"),
            "Griffin-Lim, true mel",
            dig(voices, "griffin-lim", "stoi", "mean"),
        ),
        (
            "adapter-stage1",
            demo / "adapter/run",
            "answers' F1 at 8x",
            dig(adapter, "adapter", "f1"),
            "true prompt",
            dig(adapter, "raw", "f1"),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("demo", type=Path)
    demo = parser.parse_args().demo
    layout = "{:<22} {:>11}  {:<36} {:>7}  {:<22} {:>7}"
    print(layout.format("", "training, s", "what is measured", "", "beside it", ""))
    for command, run, measured, figure, beside, other in rows(demo):
        shown = layout.format(command, f"{seconds(run):.0f}", measured, f"{figure:.3f}", beside, f"{other:.3f}")
        print(shown)
    print(f"The runs' curves and findings: {demo / 'report.html'}")


if __name__ == "__main__":
    main()
