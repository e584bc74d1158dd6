"""Does teaching help? disc-train with each feedback schedule on the same splits and seeds.

    uv run python tools/schedules_tabular.py --data heloc.csv --target RiskPerformance --seeds 0 1 2 --out schedules

A seed decides the split, the training and the sampling, as in bench_tabular.py. `none` learns by likelihood from
all training rows but the validation ones, since it keeps none for discriminators; `resample` is `alternate`, its
rows filtered by the row discriminator. --out gets table.md and results.json; rows, logs and reports lie in a folder
a seed and schedule.
A schedule that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench_tabular import judge, run, split

from disc_train.data import read_table, write_rows

SCHEDULES = ("none", "once", "alternate", "resample")
COLUMNS = {
    "detection, xgboost": "detection_xgboost",
    "detection, neighbours": "detection_neighbours",
    "train-on-synthetic, xgboost": "utility_xgboost",
    "closer to train": "closer_to_train",
    "copies of train rows": "copies",
}


def measure(schedule: str, folder: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train (unless done), sample and judge one schedule; the folder's parent holds train.csv and test.csv."""
    finished = folder / "figures.json"
    if finished.exists():
        return json.loads(finished.read_text())
    folder.mkdir(exist_ok=True)
    command, log, parent = Path(sys.executable).with_name("disc-train"), folder / "log.txt", folder.parent
    threads = ["--threads", str(args.threads)]
    trained = parent / ("alternate" if schedule == "resample" else schedule) / "run"
    if schedule != "resample":
        options = ["--target", args.target, "--seed", str(seed), "--schedule", schedule, *threads]
        run([command, "train", parent / "train.csv", "--out", trained, *options], args.threads, log)
    draw = ["-n", str(args.rows), "--seed", str(seed), *threads, *(["--resample"] if schedule == "resample" else [])]
    run([command, "sample", trained, *draw], args.threads, log, stdout=folder / "synth.csv")
    figures = judge(folder, read_table(parent / "train.csv"), read_table(parent / "test.csv"), args)
    finished.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """Mean +- standard deviation over the seeds; the last line is of real rows."""
    lines = ["| schedule | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    real = [{**figures["real"], "closer_to_train": 0.5} for figures in next(iter(results.values()))]
    for name, figures in {**results, "(real rows)": real}.items():
        lines.append(f"| {name} | " + " | ".join(cell([f[key] for f in figures]) for key in COLUMNS.values()) + " |")
    return "\n".join(lines) + "\n"


def cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="CSV or JSON Lines file of the whole table, or builtin:NAME")
    parser.add_argument("--target", required=True, help="the column that is predicted in the utility test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedules", choices=SCHEDULES, nargs="+", default=list(SCHEDULES))
    parser.add_argument("--rows", type=int, default=10_000, help="rows that each samples")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    table = read_table(args.data)
    results: dict[str, list[dict[str, Any]]] = {schedule: [] for schedule in args.schedules}
    for seed in args.seeds:
        folder = args.out / f"seed_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in zip(("train", "test"), split(table, seed), strict=True):
            with (folder / f"{name}.csv").open("w", newline="") as stream:
                write_rows(rows, stream, "csv")
        for schedule in args.schedules:
            print(f"seed {seed}: {schedule}", file=sys.stderr)
            results[schedule].append(measure(schedule, folder / schedule, seed, args))
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    shown = markdown(results)
    (args.out / "table.md").write_text(shown)
    print(shown, end="")


if __name__ == "__main__":
    main()
