"""bAbI's qa6 with 1,000 training questions, three seeds, both pointers: a table for qa-train's README.

    uv run python tools/accept_babi.py tasks_1-20_v1-2/en-valid --out runs/accept-babi

The folder holds qa6_train.txt, qa6_valid.txt and qa6_test.txt. The test questions are looked at once, after training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

MODELS = ("transformer", "lstm")


def qa_train(*arguments: object) -> str:
    command = [str(Path(sys.executable).with_name("qa-train")), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = args.out / "data"
    qa_train("prepare", "babi", "qa6", args.tasks, "--out", data, "--overwrite")
    lines = ["| model | test accuracy, seeds " + ", ".join(map(str, args.seeds)) + " | mean | majority |"]
    lines.append("| --- | --- | ---: | ---: |")
    for model in args.models:
        found = []
        for seed in args.seeds:
            run = args.out / f"{model}_{seed}"
            options = ["--preset", "babi", "--model", model, "--seed", seed, "--threads", args.threads]
            qa_train("train", data, *options, "--quiet", "--overwrite", "--out", run)
            report = json.loads(qa_train("evaluate", run, data / "test.jsonl", "--json", "--threads", args.threads))
            found.append(report["overall"]["accuracy"])
        spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
        shown = ", ".join(f"{accuracy:.3f}" for accuracy in found)
        majority = report["shortcuts"]["majority"]["overall"]["accuracy"]
        lines.append(f"| {model}, pointer | {shown} | {statistics.mean(found):.3f}{spread} | {majority:.3f} |")
    table = "\n".join(lines) + "\n"
    (args.out / "table.md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
