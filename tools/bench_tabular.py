"""Put disc-train beside its peers on one table: split, train, sample and evaluate each, one after another.

    uv run python tools/bench_tabular.py --data heloc.csv --target RiskPerformance --seeds 0 1 2 --out bench

A seed decides the split (80 % train, 20 % test), the training and the sampling. Every tool gets the same
train rows and as many threads, and is judged by `disc_train.evaluate.evaluate` on the same test rows.
Arguments after `--` go to `disc-train train`.

Where tools can't be timed alike, the peers get the better of it: their times are taken inside the process,
without imports (tools/peers_tabular.py), while those of `disc-train train` are the whole command's. The rate
of `disc-train sample` includes writing the rows; what a command for one row costs (start, imports, reading
the run) is taken off.

--out gets table.md, results.json with the machine and every figure, and a folder a seed with the rows, logs
and reports. The table also goes to stdout. Exit status 1: a tool failed, and stderr says where its log is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from record import Comparison, add_json_option, beside_peer, processor, write_comparisons

from disc_train.data import Table, read_table, write_rows
from disc_train.evaluate import evaluate
from trainworks.console import UserError

OURS = "disc-train"
PEERS = ("tabular_argn", "ctgan", "be_great")
TRAIN_SHARE = 0.8
EVALUATION_SEEDS = (0, 1, 2)
PEERS_SCRIPT = Path(__file__).with_name("peers_tabular.py")

COLUMNS: list[tuple[str, str, str, bool]] = [
    ("training, wall s", "train_wall_s", "{:.0f}", True),
    ("training, CPU s", "train_cpu_s", "{:.0f}", True),
    ("rows per CPU-s", "rows_per_cpu_s", "{:,.1f}", True),
    ("valid rows", "valid_share", "{:.2%}", False),
    ("detection, xgboost", "detection_xgboost", "{:.3f}", True),
    ("detection, logistic", "detection_logistic", "{:.3f}", False),
    ("detection, neighbours", "detection_neighbours", "{:.3f}", False),
    ("train-on-synthetic, xgboost", "utility_xgboost", "{:.3f}", True),
    ("closer to train", "closer_to_train", "{:.3f}", False),
    ("copies of train rows", "copies", "{:.2%}", False),
]
"""Title, figure, format, and whether a peer's cell has the ratio of disc-train's figure to the peer's."""
COMPARED: list[tuple[str, str, str, Literal["higher", "lower"]]] = [
    ("training", "train_cpu_s", "CPU-s", "lower"),
    ("sampling", "rows_per_cpu_s", "rows per CPU-s", "higher"),
    ("detection by xgboost (.5 is best)", "detection_xgboost", "AUC", "lower"),
    ("train-on-synthetic, xgboost", "utility_xgboost", "score", "higher"),
]
"""Measure, figure, unit and the better direction, for --json."""


class ToolFailed(Exception):
    """A tool ended with an error; the message names its log."""


def split(table: Table, seed: int) -> tuple[Table, Table]:
    """Train and test rows."""
    order = np.random.default_rng(seed).permutation(len(table))
    cut = int(TRAIN_SHARE * len(table))
    return table.take(order[:cut]), table.take(order[cut:])


def run(command: Sequence[str | Path], threads: int, log: Path, stdout: Path | None = None) -> tuple[float, float]:
    """Run a command with its messages in a log; return its wall and CPU seconds.

    Raises:
        ToolFailed: there is no such program, or it ended with another status than 0.
    """
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("ab") as messages, (stdout or log).open("ab" if stdout is None else "wb") as output:
        try:
            status = subprocess.run(command, env=env, stdout=output, stderr=messages).returncode
        except FileNotFoundError as error:
            raise ToolFailed(f"there is no program {error.filename}") from error
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        raise ToolFailed(f"{Path(command[0]).name} ended with status {status}: see {log}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_disc_train(folder: Path, train: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and sample with the installed commands; the rows go to synth.csv in the folder."""
    command, log = Path(sys.executable).with_name("disc-train"), folder / "log.txt"
    options = ["--target", args.target, "--seed", str(seed), "--threads", str(args.threads)]
    train_wall, train_cpu = run(
        [command, "train", train, "--out", folder / "run", *options, *args.train_options], args.threads, log
    )

    def sample(rows: int, out: Path) -> tuple[float, float]:
        draw = [command, "sample", folder / "run", "-n", str(rows), "--seed", str(seed)]
        return run([*draw, "--threads", str(args.threads)], args.threads, log, stdout=out)

    start_wall, start_cpu = sample(1, folder / "one.csv")
    sample_wall, sample_cpu = sample(args.rows, folder / "synth.csv")
    return {
        "rows": args.rows,
        "train_wall_s": train_wall,
        "train_cpu_s": train_cpu,
        "sample_wall_s": sample_wall,
        "sample_cpu_s": sample_cpu,
        "start_wall_s": start_wall,
        "start_cpu_s": start_cpu,
        "rows_per_s": args.rows / (sample_wall - start_wall),
        "rows_per_cpu_s": args.rows / (sample_cpu - start_cpu),
    }


def run_peer(peer: str, folder: Path, train: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run a peer in the environment of its own script; the rows go to synth.csv in the folder."""
    uv = os.environ.get("UV") or shutil.which("uv") or "uv"
    limits = {"max-train-seconds": args.max_train_seconds, "max-sample-seconds": args.max_sample_seconds}
    options = {"rows": args.rows, "seed": seed, "threads": args.threads, **limits}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    outputs = ["--out", folder / "synth.csv", "--report", folder / "peer.json"]
    run([uv, "run", "--script", PEERS_SCRIPT, peer, train, *outputs, *flags], args.threads, folder / "log.txt")
    return json.loads((folder / "peer.json").read_text())


def judge(folder: Path, train: Table, test: Table, args: argparse.Namespace) -> dict[str, Any]:
    """The table's figures of the rows in the folder's synth.csv; the whole report stays beside it.

    Raises:
        UserError: they cannot be evaluated, such as too few rows.
    """
    synth = read_table(folder / "synth.csv")
    report = evaluate(
        train,
        test,
        synth,
        target=args.target,
        seeds=EVALUATION_SEEDS,
        out=folder / "evaluation",
        threads=args.threads,
    )
    detection, utility = report["two_sample"]["auc"], report["utility"]
    metric = "auc" if utility["task"] == "classification" else "r2"
    return {
        "valid_share": report["validity"]["synthetic"]["valid_rows"],
        "detection_xgboost": detection["synthetic"]["xgboost"]["mean"],
        "detection_logistic": detection["synthetic"]["logistic"]["mean"],
        "detection_neighbours": detection["synthetic"]["nearest neighbours"]["mean"],
        "utility_metric": metric,
        "utility_xgboost": utility["scores"]["synthetic"]["xgboost"][metric]["mean"],
        "utility_rows": utility["rows"],
        "closer_to_train": report["privacy"]["synthetic"]["closer_to_train"]["mean"],
        "copies": report["privacy"]["copies"]["share"],
        "real": {
            "rows": report["two_sample"]["rows"],
            "valid_share": report["validity"]["test rows"]["valid_rows"],
            "detection_xgboost": detection["train rows"]["xgboost"]["mean"],
            "detection_logistic": detection["train rows"]["logistic"]["mean"],
            "detection_neighbours": detection["train rows"]["nearest neighbours"]["mean"],
            "utility_xgboost": utility["scores"]["train rows"]["xgboost"][metric]["mean"],
            "copies": report["privacy"]["copies"]["test_share"],
        },
    }


def bench_seed(table: Table, seed: int, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every tool on the split of one seed: tool -> figures, or {"error": why there are none}."""
    folder = args.out / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    train, test = split(table, seed)
    for rows, name in ((train, "train.csv"), (test, "test.csv")):
        with (folder / name).open("w", newline="") as stream:
            write_rows(rows, stream, "csv")
    results: dict[str, dict[str, Any]] = {}
    for tool in (OURS, *args.peers):
        print(f"seed {seed}: {tool}", file=sys.stderr)
        shutil.rmtree(folder / tool, ignore_errors=True)
        (folder / tool).mkdir()
        work = (folder / tool, folder / "train.csv", seed, args)
        try:
            results[tool] = run_disc_train(*work) if tool == OURS else run_peer(tool, *work)
            results[tool] |= judge(folder / tool, train, test, args)
        except (ToolFailed, UserError) as error:
            results[tool] = results.get(tool, {}) | {"error": str(error)}
            print(f"seed {seed}: {tool}: {error}", file=sys.stderr)
    return results


def markdown(seeds: dict[int, dict[str, dict[str, Any]]], tools: Sequence[str]) -> str:
    """One table: mean +- standard deviation over the seeds, and disc-train's figure over each peer's."""
    ours = [tool[OURS] for tool in seeds.values()]
    lines = [
        "| tool | " + " | ".join(title for title, *_ in COLUMNS) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for tool in tools:
        figures = [results[tool] for results in seeds.values()]
        cells = []
        for _, key, form, compared in COLUMNS:
            ratio = _ratio(ours, figures, key) if compared and tool != OURS else ""
            cells.append(_cell(figures, key, form) + ratio)
        lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    judged = [[by["real"] for by in results.values() if "real" in by] for results in seeds.values()]
    # Every judgement of a seed repeats them, from fewer rows where a tool has less than the test table.
    real = [max(found, key=lambda by: by["rows"]) for found in judged if found]
    cells = [_cell(real, key, form) for _, key, form, _ in COLUMNS]
    lines.append("| real rows | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _values(figures: list[dict[str, Any]], key: str) -> list[float]:
    return [figure[key] for figure in figures if figure.get(key) is not None]


def _cell(figures: list[dict[str, Any]], key: str, form: str) -> str:
    values = _values(figures, key)
    if not values:
        return "-"
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + spread


def _ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str) -> str:
    mine, other = _values(ours, key), _values(theirs, key)
    return f" (×{statistics.mean(mine) / statistics.mean(other):.3g})" if mine and any(other) else ""


def comparisons(
    seeds: dict[int, dict[str, dict[str, Any]]], peers: Sequence[str], data: str, threads: int
) -> list[Comparison]:
    """disc-train beside each peer, a repeat for each seed that both have a figure of."""
    found = []
    for peer in peers:
        for measure, key, unit, better in COMPARED:
            pairs = [(by[OURS][key], by[peer][key]) for by in seeds.values() if key in by[OURS] and key in by[peer]]
            if pairs:
                version = next(by[peer]["version"] for by in seeds.values() if "version" in by[peer])
                ours, theirs = zip(*pairs, strict=True)
                measured = f"{data}: {measure}"
                found.append(beside_peer(OURS, measured, unit, better, ours, peer, version, theirs, threads))
    return found


CAPTION = """\
{data}, target {target}; {rows:,} rows sampled; {threads} thread(s) a tool.
Mean ± standard deviation over seeds {seeds} (split, training). (×r): disc-train's figure is r times this one.
Detection: AUC of telling test rows from as many synthetic ones; 0.5 is best.
Train-on-synthetic: {metric} on the test rows.
Real rows: train rows in place of synthetic ones, except that validity and copies are those of the test rows.
Peers train {max_train_seconds:.0f} s at most; be_great samples {max_sample_seconds:.0f} s a way at most."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Put disc-train beside its peers on one table.")
    parser.add_argument("--data", type=Path, required=True, help="CSV or JSON Lines file of the whole table")
    parser.add_argument("--target", required=True, help="the column that is predicted in the utility test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=list(PEERS))
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, logs, reports and the table")
    parser.add_argument("--rows", type=int, default=50_000, help="rows that each tool samples; few make rates vague")
    parser.add_argument("--threads", type=int, default=1, help="of each tool and of the evaluation")
    parser.add_argument("--max-train-seconds", type=float, default=1800.0, help="wall time of a peer's training")
    parser.add_argument(
        "--max-sample-seconds",
        type=float,
        default=120.0,
        help="wall time of each of be_great's ways of sampling",
    )
    add_json_option(parser)
    parser.add_argument("train_options", nargs="*", help="after --: options of disc-train train, such as --preset")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        table = read_table(args.data)
        table.column(args.target)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seeds: dict[int, dict[str, dict[str, Any]]] = {}
    tools = (OURS, *args.peers)
    machine = {"platform": platform.platform(), "processor": processor(), "cpus": os.cpu_count()}
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    for seed in args.seeds:
        seeds[seed] = bench_seed(table, seed, args)
        record = {"machine": machine, "python": platform.python_version(), "options": options, "seeds": seeds}
        (args.out / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    every = [figures for results in seeds.values() for figures in results.values()]
    metric = next((figures["utility_metric"].upper() for figures in every if "utility_metric" in figures), "score")
    caption = CAPTION.format(**vars(args) | {"data": args.data.name, "metric": metric, "seeds": args.seeds})
    text = f"{markdown(seeds, tools)}\n\n{caption}\n"
    (args.out / "table.md").write_text(text)
    print(text, end="")
    write_comparisons(args.json, comparisons(seeds, args.peers, args.data.name, args.threads))
    return int(any("error" in figures for figures in every))


if __name__ == "__main__":
    sys.exit(main())
