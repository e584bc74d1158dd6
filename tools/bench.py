"""Every tool beside its peer, in one table: just bench [--quick] [--only stories,pca] [--against OLD.json]

Runs the bench_*.py scripts one after another as their recipes do, on built-in data, with the same number of threads for
tool and peer, and prints a row for each measure. A tool and its peer take turns within one process wherever both can,
and each turn gives a ratio of its own: pytest-benchmark times one after the other, so that whatever else runs on the
machine would count as a difference between them. Where no other program does the job, the peer is the budget that was
set for the tool.

A bench that fails, such as one whose peer can't be imported, is a row that says so, and the exit status is then 1. A
ratio below 1 is an answer and no failure. runs/bench/bench.json holds machine, versions, source and every comparison;
--against takes such a file of an earlier run and tells how far each ratio has moved. --quick does less of everything,
so start-up counts for more and ratios vary more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import BUDGET, ROOT, aligned, conditions, last_line, read_record

from trainworks.console import UserError, info
from trainworks.files import write_json

OUT = Path("runs/bench")
REPLIES, TICKETS, VOICES = OUT / "replies", OUT / "tickets", OUT / "voices"


@dataclass(frozen=True)
class Bench:
    """One recipe of the justfile.

    Attributes:
        recipe: of the justfile.
        inputs: its positional arguments; those that `MAKES` names are made on the way.
        whole, quick: its options.
        threaded: whether it takes --threads.
    """

    recipe: str
    inputs: tuple[str | Path, ...] = ()
    whole: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    threaded: bool = True


BENCHES = {
    "tabular": Bench(
        "bench-tabular",
        ("builtin:fair", "rate_marriage"),
        ("--rows", "20000", "--max-train-seconds", "600"),
        ("--rows", "5000", "--max-train-seconds", "60", "--peers", "tabular_argn", "--", "--preset", "small"),
    ),
    "stories": Bench("bench-stories", (), ("--steps", "60", "--repeats", "5"), ("--steps", "15")),
    "replies": Bench("bench-replies", (REPLIES, TICKETS / "test.jsonl"), (), ("--count", "2000")),
    "load": Bench("load-replies", (REPLIES, TICKETS / "test.jsonl"), (), ("--seconds", "20")),
    "answers": Bench("bench-answers", ("builtin:facts",), ("--questions", "30"), ("--questions", "8")),
    "pca": Bench("bench-pca", (), (), ("--disk-rows", "16384")),
    "voices": Bench(
        "bench-voices",
        (VOICES,),
        ("--clock", "cpu"),
        ("--clock", "cpu", "--seconds", "15", "--steps", "2", "--repeats", "3"),
    ),
    "health": Bench("bench-health", (), (), ("--records", "100000")),
    "embeddings": Bench("bench-embeddings", (), (), ("--rows", "10000")),
    "diagnostics": Bench("bench-diagnostics", (), (), ("--rounds", "5")),
    "scheduling": Bench("bench-scheduling", (), (), ("--variants", "50"), threaded=False),
}
MAKES: dict[Path, tuple[list[str], list[str], list[str]]] = {
    TICKETS / "test.jsonl": (["diversity-finetune", "prepare", "--demo", "--out", str(TICKETS), "--overwrite"], [], []),
    REPLIES: (
        ["diversity-finetune", "train", str(TICKETS), "--out", str(REPLIES), "--overwrite", "--quiet"],
        ["--preset", "small"],
        ["--preset", "tiny", "--epochs", "1"],
    ),
    VOICES: (
        ["voice-gan", "prepare", "--demo", "--voices", "4", "--utterances", "8", "--out", str(VOICES), "--overwrite"],
        [],
        [],
    ),
}
"""What a bench wants: the command that makes it, in this order, with its options in a whole and in a quick run."""


def command(bench: Bench, quick: bool, threads: int, found: Path) -> list[str]:
    """How `just` is asked for it; --no-deps since the environment is made once, by `just bench` itself."""
    just = [os.environ.get("JUST", "just"), "--no-deps", bench.recipe, *map(str, bench.inputs)]
    options = ["--threads", str(threads)] if bench.threaded else []
    return [*just, *options, "--json", str(found), *(bench.quick if quick else bench.whole)]


def run(name: str, quick: bool, threads: int, made: set[Path]) -> dict[str, Any]:
    """Run one bench, and before it what makes its inputs, unless those are `made`.

    What it prints goes to OUT/NAME.txt, its messages to OUT/NAME.log.
    """
    bench, found, log = BENCHES[name], OUT / f"{name}.json", OUT / f"{name}.log"
    (ROOT / found).unlink(missing_ok=True)
    asked = command(bench, quick, threads, found)
    wanted = [path for path in MAKES if path in bench.inputs and path not in made]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    began, failed = time.monotonic(), False
    with (ROOT / log).open("w") as messages, (ROOT / log).with_suffix(".txt").open("w") as prose:
        for path in wanted:
            program, whole, short = MAKES[path]
            step = [Path(sys.executable).with_name(program[0]), *program[1:], *(short if quick else whole)]
            failed = failed or bool(subprocess.call(step, cwd=ROOT, env=environment, stdout=prose, stderr=messages))
        failed = failed or bool(subprocess.call(asked, cwd=ROOT, env=environment, stdout=prose, stderr=messages))
    made.update([] if failed else wanted)
    told = json.loads((ROOT / found).read_text()) if (ROOT / found).exists() else []
    return {
        "state": "failed" if failed else "done",
        "why": f"{last_line(ROOT / log)} ({log})" if failed else "",
        "arguments": asked[2:],
        "seconds": time.monotonic() - began,
        "load": round(os.getloadavg()[0], 1),
        "comparisons": told,
    }


def number(value: float) -> str:
    """Three digits, or a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(comparison: Mapping[str, Any]) -> str:
    """The median and, of several repeats, the ends."""
    told = f"x{comparison['ratio']:.2f}"
    ends = f" ({comparison['least']:.2f}-{comparison['most']:.2f})" if comparison["repeats"] > 1 else ""
    return told + ends


def key(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be the same for two ratios to be of the same thing."""
    return comparison["tool"], comparison["measure"], comparison["unit"], comparison["peer"]


def change(comparison: Mapping[str, Any], new: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """How far a ratio has moved from that of an earlier run of the same bench."""
    before = {key(other): other for other in (old or {}).get("comparisons", [])}.get(key(comparison))
    if before is None:
        return "new"
    if old is None or old["arguments"] != new["arguments"]:
        return "other settings"
    moved = comparison["ratio"] / before["ratio"] - 1
    return f"{moved:+.0%}, other version" if before["version"] != comparison["version"] else f"{moved:+.0%}"


def table(benches: Mapping[str, Mapping[str, Any]], against: Mapping[str, Any] | None) -> str:
    """A row for each comparison and for each bench that failed."""
    heads = ["tool", "measure", "unit", "ours", "peer", "theirs", "ratio"]
    rows = [heads + (["change"] if against else [])]
    failures = []
    for name, bench in benches.items():
        for one in bench["comparisons"]:
            peer = f"{one['peer']} {one['version']}".strip()
            ours, theirs = number(one["ours"]), number(one["theirs"])
            row = [one["tool"], one["measure"], one["unit"], ours, peer, theirs, ratio(one)]
            rows.append(row + ([change(one, bench, against["benches"].get(name))] if against else []))
        if bench["state"] == "failed":
            failures.append(f"{name}: failed: {bench['why']}")
    return "\n".join([aligned(rows, left=(0, 1, 2, 4)), *failures])


def caption(record: Mapping[str, Any]) -> str:
    """What a reader must know beside the table."""
    about, machine = record["conditions"], record["conditions"]["machine"]
    loads = [bench["load"] for bench in record["benches"].values()]
    return "\n".join(
        [
            f"ratio: how many times better ours is than the peer's or the {BUDGET}; above 1 is better. Medians; in",
            "brackets the ends over the repeats, in which tool and peer take turns.",
            f"{'Quick. ' if record['quick'] else ''}{record['threads']} thread(s) a tool; {machine['cpus']} x "
            f"{machine['processor']}, load {min(loads)} to {max(loads)}; {about['date'][:10]}, {about['source'][:12]}.",
        ]
    )


def choose(names: str | None) -> list[str]:
    """The benches of --only, in the order of the table.

    Raises:
        UserError: there is none of a name.
    """
    wanted = set(BENCHES) if names is None else set(names.split(","))
    if unknown := sorted(wanted - set(BENCHES)):
        raise UserError(f"there is no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    return [name for name in BENCHES if name in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="A,B", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--threads", type=int, default=1, help="of each tool and of its peer")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="an earlier runs/bench/bench.json")
    args = parser.parse_args()
    try:
        against = read_record(args.against, "benches") if args.against else None
        chosen = choose(args.only)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (ROOT / OUT).mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"conditions": conditions(), "quick": args.quick, "threads": args.threads, "benches": {}}
    made: set[Path] = set()
    for place, name in enumerate(chosen, start=1):
        info(f"{place} of {len(chosen)}: {name}")
        record["benches"][name] = run(name, args.quick, args.threads, made)
        write_json(ROOT / OUT / "bench.json", record)
    print(f"{table(record['benches'], against)}\n\n{caption(record)}")
    failed = [name for name, bench in record["benches"].items() if bench["state"] == "failed"]
    if failed:
        print(f"error: {len(failed)} of {len(chosen)} benches failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
