"""Are two encoders better than one? Trains the separate and the combined architecture alike, with several seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversity_finetune.config import TrainRecipe
from diversity_finetune.evaluate import SAMPLED, aligned, evaluate_run
from diversity_finetune.run import TOOL, resume_run, start_run
from trainworks.config import Resolved
from trainworks.console import UserError, info
from trainworks.files import json_ready, sha256_file, write_json
from trainworks.run import Run

ARCHITECTURES = ("separate", "combined")
SEEDS = (0, 1, 2)
METRICS = (
    ("greedy", "bleu_4"),
    ("greedy", "rouge_l"),
    ("greedy", "corpus_distinct_2"),
    (SAMPLED, "bleu_4"),
    (SAMPLED, "rouge_l"),
    (SAMPLED, "distinct_2"),
    (SAMPLED, "corpus_distinct_2"),
    (SAMPLED, "repetition_rate"),
    (SAMPLED, "quality_score"),
)
Resolve = Callable[[Mapping[str, Any]], Resolved[TrainRecipe]]
"""A recipe from flags by dotted key, over whatever else the user gave."""


@dataclass(frozen=True)
class Comparison:
    """Both architectures on one test set.

    Attributes:
        seeds: of the trainings; each seed trained both.
        values: by "SYSTEM.METRIC", by architecture: one figure a seed, in the order of `seeds`.
    """

    seeds: list[int]
    values: dict[str, dict[str, list[float]]]

    def summary(self) -> dict[str, dict[str, float]]:
        """By metric: mean and standard deviation of each architecture, those of the seeds' differences (separate less
        combined), and wins: seeds with which separate has the larger figure."""
        found = {}
        for name, by_architecture in self.values.items():
            separate, combined = (by_architecture[architecture] for architecture in ARCHITECTURES)
            differences = [a - b for a, b in zip(separate, combined, strict=True)]
            found[name] = {
                "separate": statistics.fmean(separate),
                "separate_sd": _sd(separate),
                "combined": statistics.fmean(combined),
                "combined_sd": _sd(combined),
                "difference": statistics.fmean(differences),
                "difference_sd": _sd(differences),
                "wins": sum(difference > 0 for difference in differences),
            }
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data, NaN as null."""
        return json_ready({"seeds": self.seeds, "values": self.values, "summary": self.summary()})

    def table(self) -> str:
        """The comparison as text for a console."""
        rows = [["", "separate", "combined", "difference", "separate ahead"]]
        for name, found in self.summary().items():
            cells = (f"{found[key]:.3f} +- {found[f'{key}_sd']:.3f}" for key in (*ARCHITECTURES, "difference"))
            rows.append([name, *cells, f"{found['wins']} of {len(self.seeds)}"])
        seeds = ", ".join(map(str, self.seeds))
        return "\n".join([*aligned(rows), f"seeds {seeds}: mean +- standard deviation; the difference is seed by seed"])


def compare(
    data: Path,
    out: Path,
    resolve: Resolve,
    *,
    seeds: Sequence[int] = SEEDS,
    examples: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Comparison:
    """Train both architectures with each seed on a data directory, and judge them on its test.jsonl.

    A run that is there already, finished or not, is gone on with, so that a stopped comparison can be begun again.

    Args:
        out: gets a run directory each, such as separate_0, and comparison.json.
        examples: test pairs, at most.

    Raises:
        UserError: bad data; a run in `out` that was begun with another recipe or other data.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UserError("--seeds wants one or more different numbers")
    values: dict[str, dict[str, list[float]]] = {
        f"{system}.{metric}": {architecture: [] for architecture in ARCHITECTURES} for system, metric in METRICS
    }
    for seed in seeds:
        for architecture in ARCHITECTURES:
            info(f"{architecture}, seed {seed}")
            resolved = resolve({"model.architecture": architecture, "seed": seed})
            path = out / f"{architecture}_{seed}"
            _train(resolved, data, path, device, threads)
            report = evaluate_run(
                path,
                str(data / "test.jsonl"),
                device=device,
                threads=threads,
                temperatures=(),
                candidates=1,
                examples=examples,
            )
            for system, metric in METRICS:
                values[f"{system}.{metric}"][architecture].append(report.systems[system][metric])
    comparison = Comparison(list(seeds), values)
    write_json(out / "comparison.json", comparison.to_json())
    return comparison


def _train(resolved: Resolved[TrainRecipe], data: Path, path: Path, device: str, threads: int | None) -> None:
    """Make the run, or go on with the one that is there."""
    if not (path / "run.json").is_file():
        start_run(resolved, data, path, device, threads, "none", False)
        return
    run = Run.open(path, tool=TOOL)
    if json.loads(json.dumps(resolved.config)) != run.config:
        raise UserError(f"{path} was begun with another recipe; name another --out")
    begun_with = next(entry["sha256"] for entry in run.record["inputs"] if Path(entry["path"]).name == "train.jsonl")
    if sha256_file(data / "train.jsonl") != begun_with:
        raise UserError(f"{path} was begun with other data than {data}; name another --out")
    resume_run(path, device, threads, "none")


def _sd(values: Sequence[float]) -> float:
    """Standard deviation over the seeds; NaN for one."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")
