"""What the benchmarks record, all in one form: a tool's figure beside its peer's, or beside the budget set for it.

Each bench_*.py prints prose for people and, with --json FILE, writes a list of `Comparison`s; bench.py makes one table
of them. The other half of the module says on what machine and from what source a figure was made.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from trainworks.console import UserError
from trainworks.files import sha256_file, write_json

ROOT = Path(__file__).parent.parent
BUDGET = "budget"
UNKNOWN = "unknown"
LIBRARIES = ("keras", "numpy", "pandas", "scikit-learn", "tensorflow", "torch", "transformers")


@dataclass(frozen=True)
class Comparison:
    """One measure of a tool and of its peer, on the same data and with the same threads.

    Attributes:
        tool: the command.
        measure: what was measured and on how much of it.
        unit: of `ours` and `theirs`.
        better: which way is better, "higher" or "lower".
        peer: name of the peer; `BUDGET` where there is none, and `theirs` is the bar that was set for the tool.
        version: of the peer; empty for a budget.
        ours, theirs: medians over the repeats.
        ratios: for each repeat how many times better ours is; above 1 is better than the peer or within the budget.
        threads: of the tool and of the peer.
    """

    tool: str
    measure: str
    unit: str
    better: Literal["higher", "lower"]
    peer: str
    version: str
    ours: float
    theirs: float
    ratios: tuple[float, ...]
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Its attributes, and median and ends of the ratio."""
        spread = {"ratio": statistics.median(self.ratios), "least": min(self.ratios), "most": max(self.ratios)}
        return {**asdict(self), **spread, "repeats": len(self.ratios)}


def beside_peer(
    tool: str,
    measure: str,
    unit: str,
    better: Literal["higher", "lower"],
    ours: Sequence[float],
    peer: str,
    version: str,
    theirs: Sequence[float],
    threads: int,
) -> Comparison:
    """The comparison of repeats in which tool and peer took turns, (N,) and (N,).

    Each repeat gives a ratio of its own, so what slowed the machine for a while slowed both sides of it.
    """
    turns = zip(ours, theirs, strict=True)
    ratios = tuple(mine / other if better == "higher" else other / mine for mine, other in turns)
    middle, other_middle = statistics.median(ours), statistics.median(theirs)
    return Comparison(tool, measure, unit, better, peer, version, middle, other_middle, ratios, threads)


def beside_budget(
    tool: str,
    measure: str,
    unit: str,
    better: Literal["higher", "lower"],
    ours: Sequence[float],
    budget: float,
    threads: int,
) -> Comparison:
    """The comparison of repeats with the bar that was set, where no other program does the job."""
    return beside_peer(tool, measure, unit, better, ours, BUDGET, "", [budget] * len(ours), threads)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """--json FILE, which `write_comparisons` takes."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparisons there, for tools/bench.py")


def write_comparisons(path: Path | None, comparisons: Iterable[Comparison]) -> None:
    """Publish them as JSON, unless no file is wanted."""
    if path is not None:
        write_json(path, [comparison.to_json() for comparison in comparisons])


def conditions() -> dict[str, Any]:
    """When, on what machine, how busy it was, with which libraries and from which source."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": source(),
        "machine": {"platform": platform.platform(), "processor": processor(), "cpus": os.cpu_count()},
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **versions},
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return platform.processor() or "unknown"


def source(root: Path = ROOT) -> str:
    """The checkout's commit and, if files differ from it, "+" and a digest of what differs; `UNKNOWN` without git."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    digest = hashlib.sha256(git("diff", "HEAD"))
    new = git("ls-files", "-z", "--others", "--exclude-standard").split(b"\0")[:-1]
    for name in new:
        digest.update(name + sha256_file(root / os.fsdecode(name)).encode())
    changed = bool(new) or digest.digest() != hashlib.sha256().digest()
    return f"{commit}+{digest.hexdigest()[:12]}" if changed else commit


def read_record(path: Path, part: str) -> dict[str, Any]:
    """What an earlier `just bench` (part "benches") or `just accept` (part "recipes") wrote.

    Raises:
        UserError: there is no such file, or it is none of theirs.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}; --against takes what an earlier run wrote") from None
    if not isinstance(record, dict) or part not in record:
        raise UserError(f"{path} has no {part!r}; --against takes what an earlier run of the same command wrote")
    return record


def last_line(log: Path) -> str:
    """What a program that failed said last, before `just` said that it failed."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    told = [line for line in lines if line and not re.match("error: recipe `.*` failed", line, re.IGNORECASE)]
    return told[-1] if told else "no message"


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Rows of text in columns, those of `left` flush left and the others flush right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if place in left else '>'}{widths[place]}}" for place, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )  # fmt: skip
