"""How much memory does disc-train take? Training on 50,000 x 15, then sampling a million rows as a stream.

    uv run python tools/limits_tabular.py --out limits

The table is made up: normal factors behind decimals, skewed integers and categories. Peak memory is the largest
resident set of the command's process, as the kernel counts it. Training is cut short (--steps), which changes its
time and not its memory. Prints JSON and writes it to results.json in the folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

NUM_ROWS, SEED = 50_000, 0


def make_table(path: Path) -> None:
    """50,000 rows of 8 decimals, 4 integers and 3 categories that share 4 hidden factors."""
    rng = np.random.default_rng(SEED)
    factors = rng.normal(size=(NUM_ROWS, 4))
    columns: dict[str, list[Any]] = {}
    for i in range(8):
        mixed = factors @ rng.normal(size=4) + rng.normal(size=NUM_ROWS) * 0.5
        columns[f"decimal_{i}"] = np.round(mixed, 3).tolist()
    for i in range(4):
        columns[f"integer_{i}"] = (np.exp(factors[:, i]) * 20).astype(int).tolist()
    for i in range(3):
        columns[f"category_{i}"] = [f"level {level}" for level in np.digitize(factors[:, i], [-1, 0, 1])]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def measure(command: list[str | Path], output: Path) -> dict[str, float]:
    """Run a command; its wall seconds and the peak of its resident memory, MiB."""
    start = time.perf_counter()
    with output.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: {Path(command[0]).name} {command[1]} ended with status {os.waitstatus_to_exitcode(status)}")
    return {"wall_s": round(time.perf_counter() - start, 1), "peak_mib": round(usage.ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300, help="warm-start steps, and 20 of feedback")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the long sample")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    tool, table, run = Path(sys.executable).with_name("disc-train"), args.out / "table.csv", args.out / "run"
    make_table(table)
    short = ["--cycles", "1", "--set", f"warm_start.max_steps={args.steps}", "--set", "feedback.steps_per_cycle=20"]
    results = {"train": measure([tool, "train", table, "--out", run, "--threads", "1", *short], args.out / "log")}
    for rows in (args.rows // 10, args.rows):
        draw = [tool, "sample", run, "-n", str(rows), "--threads", "1"]
        results[f"sample {rows:,}"] = measure(draw, args.out / "sample.csv")
    text = json.dumps(results, indent=2)
    (args.out / "results.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
