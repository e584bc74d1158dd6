"""The figures of qa-train's README: both models, both presets, several seeds, beside the shortcuts.

    uv run python tools/accept_stories.py --seeds 0 1 2 --out runs/accept-stories

A seed decides the stories (hops balanced, trained on 2 to 8 actors), the first weights and the order of training. The
test stories, 21 to 30 actors, are looked at once, after training. What is there already is not trained again. --out
gets table.md and results.json; data, runs and reports lie in a folder a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODELS, PRESETS = ("transformer", "lstm"), ("pointer", "baseline")
COLUMNS = {
    "valid, 2 to 8 actors": ("valid", "overall"),
    "valid-b, 9 to 20": ("valid-b", "overall"),
    "test, 21 to 30": ("test", "overall"),
    "test, superdense": ("test", "superdense"),
    "test, 6 hops": ("test", "6"),
}


def qa_train(*arguments: object, threads: int) -> str:
    command = [str(Path(sys.executable).with_name("qa-train")), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def accuracies(report: dict[str, Any]) -> dict[str, float]:
    """By the names that `COLUMNS` uses: overall, by category, by hops."""
    slices = {"overall": report["overall"], **report["by_category"], **report["by_hops"]}
    return {name: metrics["accuracy"] for name, metrics in slices.items()}


def measure(data: Path, folder: Path, options: list[object], threads: int) -> dict[str, Any]:
    """Train and evaluate one model, unless that is done; its accuracies, the shortcuts' and the seconds it took."""
    finished = folder.with_suffix(".json")
    if finished.exists():
        return json.loads(finished.read_text())
    began = time.monotonic()
    qa_train("train", data, *options, "--threads", threads, "--overwrite", "--quiet", "--out", folder, threads=threads)
    figures: dict[str, Any] = {"seconds": time.monotonic() - began, "model": {}, "shortcuts": {}}
    for split in ("valid", "valid-b", "test"):
        answer = qa_train("evaluate", folder, data / f"{split}.jsonl", "--json", "--threads", threads, threads=threads)
        report = json.loads(answer)
        figures["model"][split] = accuracies(report)
        figures["shortcuts"][split] = {name: accuracies(shortcut) for name, shortcut in report["shortcuts"].items()}
    finished.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """Mean +- standard deviation over the seeds, the shortcuts last."""
    lines = ["| model | training, s | " + " | ".join(COLUMNS) + " |", "| --- | ---: |" + " ---: |" * len(COLUMNS)]
    for name, runs in results.items():
        shown = [cell([run["model"][split][key] for run in runs]) for split, key in COLUMNS.values()]
        lines.append(f"| {name} | {statistics.mean(run['seconds'] for run in runs):.0f} | " + " | ".join(shown) + " |")
    runs = next(iter(results.values()))
    for shortcut in runs[0]["shortcuts"]["test"]:
        shown = [cell([run["shortcuts"][split][shortcut][key] for run in runs]) for split, key in COLUMNS.values()]
        lines.append(f"| ({shortcut}) | - | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--presets", choices=PRESETS, nargs="+", default=list(PRESETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        folder = args.out / f"seed_{seed}"
        if not (folder / "data").exists():
            qa_train("make-stories", "--balance-hops", "--seed", seed, "--out", folder / "data", threads=args.threads)
        for preset in args.presets:
            for model in args.models:
                print(f"seed {seed}: {model}, {preset}", file=sys.stderr)
                options = ["--model", model, "--preset", preset, "--seed", seed]
                figures = measure(folder / "data", folder / f"{model}_{preset}", options, args.threads)
                results.setdefault(f"{model}, {preset}", []).append(figures)
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (args.out / "table.md").write_text(markdown(results))
    print(markdown(results), end="")


if __name__ == "__main__":
    main()
