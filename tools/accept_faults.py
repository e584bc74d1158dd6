"""What the tools lose when everything goes wrong: faults by the hundred, for each training that a tool has.

    python tools/accept_faults.py --trials 20
    python tools/accept_faults.py --trials 5 --tools qa-train,disc-train --faults kill,clock

Needs Linux and, for a full disk and a read-only place, root: there small file systems are mounted. What stands in --out
is not done again, so the same command with more --trials goes on. Prints a table and exits with 1 if anything was lost;
--out gets results.json with every loss in words. `tests/faults/trials.py` says what each fault is.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.nursery import Nursery  # noqa: E402
from faults.trainings import TRAININGS, Training  # noqa: E402
from faults.trials import FAULTS, MOUNTING, Workshop, can_mount  # noqa: E402

from trainworks.files import write_json  # noqa: E402

Results = dict[str, dict[str, list[dict[str, Any]]]]
"""By training and fault, the outcome of each trial."""
COUNTS = ("tried", "resumed", "refused", "lost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10, help="of each fault on each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tools", type=names, default=[], metavar="A,B", help="such as qa-train or qa-train/lstm")
    parser.add_argument("--faults", type=names, default=list(FAULTS), metavar="A,B", help=", ".join(FAULTS))
    parser.add_argument("--out", type=Path, default=Path("runs/accept-faults"))
    given = parser.parse_args()
    if unknown := set(given.faults) - FAULTS.keys():
        parser.error(f"unknown fault {min(unknown)}; known: {', '.join(FAULTS)}")
    if unknown := set(given.tools) - {name for one in TRAININGS for name in (one.name, one.tool)}:
        parser.error(f"nothing is trained with {min(unknown)}; known: {', '.join(one.name for one in TRAININGS)}")
    chosen = [one for one in TRAININGS if not given.tools or {one.name, one.tool} & set(given.tools)]
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    results: Results = json.loads(file.read_text())["outcomes"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        faults = given.faults if can_mount(Path(folder)) else [fault for fault in given.faults if fault not in MOUNTING]
        if len(faults) < len(given.faults):
            print(f"left out, since nothing can be mounted here: {', '.join(MOUNTING)}", file=sys.stderr)
        for training in chosen:
            attempt(training, faults, given.trials, given.seed, Path(folder) / training.name, results, file)
    lost = [
        words for faults in results.values() for trials in faults.values() for one in trials for words in one["lost"]
    ]
    print(as_table(results))
    print(f"{total(results, 'tried'):,} faults tried, {len(lost)} lost something")
    for words in lost:
        print(f"  {words}")
    sys.exit(1 if lost else 0)


def names(text: str) -> list[str]:
    return text.split(",")


def attempt(
    training: Training, faults: list[str], trials: int, seed: int, folder: Path, results: Results, file: Path
) -> None:
    """Do what is not done yet of a training's trials, one of each fault after the other."""
    done = results.setdefault(training.name, {})
    left = [(number, fault) for number in range(trials) for fault in faults if len(done.get(fault, [])) <= number]
    if not left:
        return
    with Nursery(training.modules, folder / "logs") as nursery:
        shop = Workshop(training, folder, nursery)
        size = f"{shop.cpu:.1f} CPU seconds, {shop.calls} changes of files"
        print(f"{training.name}, unbroken: {size}", file=sys.stderr, flush=True)
        for number, fault in left:
            outcome = FAULTS[fault](shop, random.Random(f"{seed} {training.name} {fault} {number}"))
            done.setdefault(fault, []).append(asdict(outcome))
            totals = {kind: {what: total(results, what, fault=kind) for what in COUNTS} for kind in FAULTS}
            record = {"seed": seed, "machine": platform.platform(), "totals": totals, "outcomes": results}
            write_json(file, record)
            said = "; ".join(outcome.lost) or f"{outcome.resumed} resumed, {outcome.refused} refused"
            print(f"{training.name} {fault} {number + 1}/{trials}: {said}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)


def total(results: Results, what: str, training: str = "", fault: str = "") -> int:
    return sum(
        one[what] if isinstance(one[what], int) else len(one[what])
        for name, faults in results.items()
        for kind, outcomes in faults.items()
        for one in outcomes
        if training in ("", name) and fault in ("", kind)
    )


def as_table(results: Results) -> str:
    """A Markdown table, a line a fault: how many each training was given, and of all how many it ended as if unbroken
    after, how many were refused, and how many lost something."""
    lines = [
        f"| fault | {' | '.join(results)} | went on | refused | lost |",
        "| --- |" + " ---: |" * (len(results) + 3),
    ]
    for fault in FAULTS:
        counts = [total(results, "tried", name, fault) for name in results]
        counts += [total(results, what, fault=fault) for what in COUNTS[1:]]
        lines.append(f"| {fault} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
