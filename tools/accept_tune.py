"""How long does a search take, does Bayesian search beat random search, and do tuned weights beat the default ones?

    uv run --no-sync python tools/accept_tune.py --data heloc.csv --target RiskPerformance --out runs/accept-tune

The table is cut into train and test rows once; no search sees a test row. Three parts, by --parts:

speed    The first seed's random search through its shared warm start, by --workers processes: wall and CPU minutes.
bayes    Each seed's bayes search against its random search: the seed decides the folds, the warm start and every draw,
         so both search the same validation objective. How many trials until bayes reaches the best of all of random's?
         (A second random search of its own kind would need as many as the first, in the median.)
weights  Whole trainings, seed by seed, with the weights that this seed's bayes search found and with the default ones,
         judged on the test rows by `disc_train.evaluate.evaluate`, as in bench_tabular.py.

What is there already is not done again. --minutes ends the work after that long, and the same command goes on with it.
Arguments after `--` go to `disc-train tune` and `disc-train train` alike, such as --preset small. --out gets table.md,
results.json, curves.png and a folder a seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_tabular import judge, split
from record import processor
from schedules_tabular import COLUMNS, cell

from disc_train.data import Table, read_table, write_rows
from trainworks.files import write_json

DISC_TRAIN = Path(sys.executable).with_name("disc-train")
PARTS = ("speed", "bayes", "weights")
HALF = 0.5
"""Share of random's trials in which bayes is to reach random's best."""


class OutOfTime(Exception):
    """The minutes are over; what was begun can be gone on with."""


class Clock:
    """The time that is left."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds.

        Raises:
            OutOfTime: none.
        """
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise OutOfTime
        return seconds


def together(commands: Sequence[Sequence[object]], log: Path, clock: Clock, threads: int) -> dict[str, float]:
    """Run `disc-train` commands at once until all have ended; what they took, in seconds, is added to the log's times.

    Raises:
        OutOfTime: they were stopped, so that they can be gone on with.
        SystemExit: one failed.
    """
    left = clock.left()
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("ab") as messages:
        workers = [
            subprocess.Popen(
                [DISC_TRAIN, *map(str, command), "--threads", str(threads)],
                env=environment,
                stdout=messages,
                stderr=messages,
                start_new_session=True,  # an interrupt from the terminal comes to this process alone, which stops them
            )
            for command in commands
        ]
        stopped = False
        try:
            for worker in workers:
                worker.wait(timeout=max(0.0, left - (time.perf_counter() - start)))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            stopped = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        statuses = [worker.wait() for worker in workers]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    file = log.with_suffix(".times.json")
    times = json.loads(file.read_text()) if file.exists() else {"wall_s": 0.0, "cpu_s": 0.0}
    times = {"wall_s": times["wall_s"] + time.perf_counter() - start, "cpu_s": times["cpu_s"] + cpu}
    file.write_text(json.dumps(times, indent=2) + "\n")
    if stopped:
        raise OutOfTime
    if any(statuses):
        raise SystemExit(f"disc-train ended with status {max(statuses, key=abs)}: see {log}")
    return times


def trials_of(folder: Path) -> list[dict[str, str]]:
    """The trials that have ended, by place; empty if there is none."""
    file = folder / "trials.csv"
    if not file.exists():
        return []
    with file.open() as stream:
        return list(csv.DictReader(stream))


def tune(method: str, folder: Path, seed: int, train: Path, args: argparse.Namespace) -> list[object]:
    """The command of one worker."""
    options = ["--method", method, "--trials", args.trials, "--folds", args.folds, "--seed", seed]
    return ["tune", train, "--out", folder, *options, *args.options]


def share_warm_starts(source: Path, target: Path) -> None:
    """What two searches of one seed have in common is trained once."""
    for run in source.glob("fold_*/*"):
        copy = target / run.relative_to(source)
        if run.name.startswith(("warm", "default")) and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            unfinished = copy.with_suffix(".tmp")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(run, unfinished, symlinks=True)
            unfinished.rename(copy)


def search_random(seed: int, train: Path, args: argparse.Namespace, clock: Clock) -> None:
    """One seed's random search, by all workers: the trials are the same whoever does them."""
    folder = args.out / f"seed_{seed}" / "random"
    folder.mkdir(parents=True, exist_ok=True)
    if len(trials_of(folder)) < args.trials:
        print(f"seed {seed}: random", file=sys.stderr)
        together([tune("random", folder, seed, train, args)] * args.workers, folder / "log", clock, args.threads)


def search_bayes(train: Path, args: argparse.Namespace, clock: Clock) -> None:
    """Each seed's bayes search by one worker, so that every trial knows all before it; as many at once as workers."""
    folders = {seed: args.out / f"seed_{seed}" / "bayes" for seed in args.seeds}
    open_seeds = [seed for seed, folder in folders.items() if len(trials_of(folder)) < args.trials]
    for start in range(0, len(open_seeds), args.workers):
        seeds = open_seeds[start : start + args.workers]
        print(f"seeds {seeds}: bayes", file=sys.stderr)
        for seed in seeds:
            share_warm_starts(folders[seed].with_name("random"), folders[seed])
        commands = [tune("bayes", folders[seed], seed, train, args) for seed in seeds]
        together(commands, args.out / "bayes_log", clock, args.threads)


def train_whole(name: str, seed: int, train: Path, test: Path, args: argparse.Namespace, clock: Clock) -> None:
    """Train, sample and judge with the weights called `name`, unless it is done."""
    folder = args.out / f"seed_{seed}" / name
    finished, run = folder / "figures.json", folder / "run"
    if finished.exists():
        return
    if name == "tuned" and len(trials_of(folder.with_name("bayes"))) < args.trials:
        print(f"seed {seed}: no tuned weights yet: its bayes search isn't over", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}: whole training, {name}", file=sys.stderr)
    found = args.out / f"seed_{seed}" / "bayes" / "best_weights.json"
    weights = ["--weights", found] if name == "tuned" else []
    fresh = ["train", train, "--out", run, "--target", args.target, "--seed", seed, *weights, *args.options]
    together([["train", "--resume", run] if run.exists() else fresh], folder / "log", clock, args.threads)
    draw = [DISC_TRAIN, "sample", run, "-n", str(args.rows), "--seed", str(seed), "--threads", str(args.threads)]
    with (folder / "synth.csv").open("wb") as rows:
        subprocess.run(draw, stdout=rows, check=True)
    figures = judge(folder, read_table(train), read_table(test), args)
    finished.write_text(json.dumps(figures, indent=2) + "\n")


def best_so_far(trials: Sequence[dict[str, str]]) -> list[float]:
    """The least score of a complete trial up to each; NaN while there is none."""
    best, found = math.nan, []
    for trial in trials:
        if trial["state"] == "complete":
            score = float(trial["two_sample_auc"])
            best = score if math.isnan(best) else min(best, score)
        found.append(best)
    return found


def trials_until(curve: Sequence[float], goal: float) -> float:
    """Trials until a best-so-far curve is at the goal; infinity if it never is."""
    return next((place + 1 for place, best in enumerate(curve) if best <= goal), math.inf)


def compare_searches(args: argparse.Namespace) -> dict[str, Any]:
    """Each finished pair of searches: curves, and trials until bayes reached random's best."""
    found: dict[str, Any] = {}
    for seed in args.seeds:
        folder = args.out / f"seed_{seed}"
        curves = {method: best_so_far(trials_of(folder / method)) for method in ("random", "bayes")}
        if all(len(curve) >= args.trials for curve in curves.values()):
            goal = curves["random"][-1]
            default = json.loads((folder / "random" / "best_weights.json").read_text())["default_score"]
            found[str(seed)] = {
                **curves,
                "default": default["two_sample_auc"],
                "trials_until": {method: trials_until(curve, goal) for method, curve in curves.items()},
            }
    return found


def draw_curves(searches: dict[str, Any], path: Path) -> None:
    """Best score so far above random's best in the end, by trial: a thin line a seed, a thick one for the median."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, color in (("random", "C7"), ("bayes", "C0")):
        gaps = [[best - by["random"][-1] for best in by[method]] for by in searches.values()]
        for gap in gaps:
            axes.step(range(1, len(gap) + 1), gap, where="post", color=color, linewidth=0.7, alpha=0.6)
        middle = [statistics.median(at) for at in zip(*gaps, strict=False)]
        axes.step(range(1, len(middle) + 1), middle, where="post", color=color, linewidth=2.5, label=method)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xlabel("trial")
    axes.set_ylabel("best AUC so far - random's best of all")
    axes.legend()
    figure.savefig(path, dpi=120)


def compare_weights(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Figures of whole trainings by name, of the seeds that have both."""
    found: dict[str, list[dict[str, Any]]] = {"default": [], "tuned": []}
    for seed in args.train_seeds:
        files = {name: args.out / f"seed_{seed}" / name / "figures.json" for name in found}
        if all(file.exists() for file in files.values()):
            for name, file in files.items():
                found[name].append(json.loads(file.read_text()))
    return found


def count(trials: float) -> str:
    return f"{trials:g}" if math.isfinite(trials) else "never"


def markdown(times: dict[str, Any], searches: dict[str, Any], whole: dict[str, list[dict[str, Any]]]) -> str:
    """What is known so far."""
    parts = []
    if times:
        parts.append(
            f"{times['trials']} random trials ({times['pruned']} pruned) of {times['folds']} folds by "
            f"{times['workers']} workers: {times['wall_s'] / 60:.1f} minutes, {times['cpu_s'] / 60:.1f} CPU-minutes, "
            "warm starts and the trial of the default weights included."
        )
    if searches:
        lines = ["| seed | default weights | random's best | after trials | bayes' best | random's reached after |"]
        lines.append("| --- |" + " ---: |" * 5)
        for seed, by in searches.items():
            until = by["trials_until"]
            cells = [f"{by['default']:.4f}", f"{by['random'][-1]:.4f}", count(until["random"])]
            cells += [f"{by['bayes'][-1]:.4f}", count(until["bayes"])]
            lines.append(f"| {seed} | " + " | ".join(cells) + " |")
        trials = len(next(iter(searches.values()))["random"])
        middle = statistics.median(by["trials_until"]["bayes"] for by in searches.values())
        said = "reached" if middle <= HALF * trials else "missed"
        lines.append(
            f"\nMedian {count(middle)} of {trials} trials, over {len(searches)} seeds; half as many is {said}."
        )
        parts.append("\n".join(lines))
    if whole["default"]:
        lines = ["| weights | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
        real = [{**figures["real"], "closer_to_train": 0.5} for figures in whole["default"]]
        pairs = list(zip(whole["tuned"], whole["default"], strict=True))
        change = [{key: tuned[key] - default[key] for key in COLUMNS.values()} for tuned, default in pairs]
        for name, figures in {**whole, "tuned - default": change, "(real rows)": real}.items():
            lines.append(
                f"| {name} | " + " | ".join(cell([f[key] for f in figures]) for key in COLUMNS.values()) + " |"
            )
        parts.append(f"Whole trainings, {len(pairs)} seeds, on the test rows:\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def publish(args: argparse.Namespace) -> str:
    """Write what is known so far."""
    searches, whole, times = compare_searches(args), compare_weights(args), {}
    folder = args.out / f"seed_{args.seeds[0]}" / "random"
    trials = trials_of(folder)
    if len(trials) >= args.trials:
        pruned = sum(trial["state"] == "pruned" for trial in trials)
        times = json.loads((folder / "log.times.json").read_text())
        times |= {"trials": len(trials), "pruned": pruned, "workers": args.workers, "folds": args.folds}
    if searches:
        draw_curves(searches, args.out / "curves.png")
    machine = {"platform": platform.platform(), "processor": processor(), "cpus": os.cpu_count()}
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = {"machine": machine, "options": options, "speed": times, "searches": searches, "weights": whole}
    write_json(args.out / "results.json", record)
    shown = markdown(times, searches, whole)
    (args.out / "table.md").write_text(shown)
    return shown


def cut(table: Table, args: argparse.Namespace) -> tuple[Path, Path]:
    """Files of the train rows, at most --train-rows of them, and of the test rows."""
    train, test = split(table, seed=0)
    files = args.out / "train.csv", args.out / "test.csv"
    for file, rows in zip(files, (train.take(slice(0, args.train_rows)), test), strict=True):
        with file.open("w", newline="") as stream:
            write_rows(rows, stream, "csv")
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="CSV or JSON Lines file of the whole table, or builtin:NAME")
    parser.add_argument("--target", required=True, help="the column that is predicted in the utility test")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--folds", type=int, default=2, help="validation sets that a trial is judged on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the searches")
    parser.add_argument("--train-seeds", type=int, nargs="+", default=[0, 1, 2], help="of the whole trainings")
    parser.add_argument("--train-rows", type=int, help="train rows, at most; default: all")
    parser.add_argument("--rows", type=int, default=10_000, help="rows that a whole training samples")
    parser.add_argument("--minutes", type=float, default=math.inf, help="wall time after which the work stops")
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("options", nargs="*", help="after --: options of disc-train tune and train")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train, test = cut(read_table(args.data), args)
    clock = Clock(args.minutes)
    try:
        for seed in args.seeds if "bayes" in args.parts else args.seeds[: "speed" in args.parts]:
            search_random(seed, train, args, clock)
        if "bayes" in args.parts:
            search_bayes(train, args, clock)
        if "weights" in args.parts:
            for seed in args.train_seeds:
                for name in ("default", "tuned"):
                    train_whole(name, seed, train, test, args, clock)
    except OutOfTime:
        print("stopped; the same command goes on", file=sys.stderr)
    print(publish(args), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
