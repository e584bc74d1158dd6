"""How a finished model answers a file of pairs, beside what replies without a generator and beside people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversity_finetune.baselines import nearest_neighbour, random_of_intent
from diversity_finetune.data import Pair, read_pairs
from diversity_finetune.decoding import GREEDY, Decoding
from diversity_finetune.evaluate_plots import plot_sweep
from diversity_finetune.generate import Answers, Decoder, generate_stream
from diversity_finetune.quality import LEAST_ABOVE_SHUFFLED, LEAST_SHARE_OF_HUMAN, measure
from diversity_finetune.run import TOOL, load_trained
from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError, info, progress
from trainworks.files import atomic_write, json_ready, sha256_file, write_json
from trainworks.run import Run, input_record

TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3)
CANDIDATES = 4
HUMAN, SAMPLED = "references", "sampled"
NEEDS_OTHER_TEXT = ("bleu", "rouge", "sentence_bleu", "quality_score", "band")
"""Metrics that say nothing of a text compared with itself."""
TABLE = (
    ("BLEU-4", "bleu_4"),
    ("ROUGE-L", "rouge_l"),
    ("D-1", "distinct_1"),
    ("D-2", "distinct_2"),
    ("corpus D-2", "corpus_distinct_2"),
    ("repetition", "repetition_rate"),
    ("self-BLEU", "self_bleu"),
    ("copied", "copied"),
    ("words", "avg_length"),
    ("quality", "quality_score"),
    ("band", "band"),
)


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        judged: run, checkpoint, data and settings that this is about.
        systems: by name what `quality.measure` says of each: references, greedy, sampled, best-of-k, temperature-T,
            nearest-neighbour and random-of-intent; the baselines where the training data is still there.
        replies: by the same names, one a pair.
        pairs: what was answered.
    """

    judged: dict[str, Any]
    systems: dict[str, dict[str, Any]]
    replies: dict[str, list[str]]
    pairs: list[Pair]

    def sweep(self) -> list[tuple[float, dict[str, Any]]]:
        """Metrics by rising temperature."""
        found = [
            (float(name.removeprefix("temperature-")), metrics)
            for name, metrics in self.systems.items()
            if name.startswith("temperature-")
        ]
        return sorted(found, key=lambda entry: entry[0])

    def missed(self, minima: Sequence[str]) -> list[str]:
        """Which of the minima, each "SYSTEM.METRIC=NUMBER" such as "greedy.bleu_4=0.42", are not reached.

        Raises:
            UserError: no such system or metric, or no number.
        """
        found = []
        for minimum in minima:
            name, _, least = minimum.partition("=")
            system, _, metric = name.rpartition(".")
            value = self.systems.get(system, {}).get(metric)
            if not isinstance(value, float | int):
                raise UserError(
                    f'--fail-under "{minimum}" names no figure; it is SYSTEM.METRIC=NUMBER with a system of: '
                    f"{', '.join(self.systems)}"
                )
            try:
                reached = value >= float(least)
            except ValueError:
                raise UserError(f'--fail-under "{minimum}": "{least}" is no number') from None
            if not reached:
                found.append(f"{name} is {value:.4f}, below {least}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data without the replies, NaN as null."""
        return json_ready({"judged": self.judged, "pairs": len(self.pairs), "systems": self.systems})

    def table(self) -> str:
        """The systems as text for a console."""
        rows = [["", *(title for title, _ in TABLE)]]
        rows += [[name, *(_cell(metrics.get(key)) for _, key in TABLE)] for name, metrics in self.systems.items()]
        human = self.systems[HUMAN]
        varied = LEAST_SHARE_OF_HUMAN * human["corpus_distinct_2"]
        near = LEAST_ABOVE_SHUFFLED + human["shuffled_rouge_l"]
        return "\n".join(
            [
                *aligned(rows),
                f"{len(self.pairs):,} pairs. BLEU over the corpus (sacrebleu's, 13a, lower-cased, unsmoothed).",
                "quality = 0.3 BLEU-4 + 0.3 ROUGE-L + 0.2 D-2 + 0.2 (1 - repetition). One sentence said to everybody",
                "can get .50 and varied nonsense .40, so a band above POOR also needs half the references' corpus D-2",
                f"({varied:.3f}) and a ROUGE-L {LEAST_ABOVE_SHUFFLED} above that of references given to other messages",
                f"({near:.3f}).",
            ]
        )


def evaluate_run(
    path: Path,
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008  it is frozen
    temperatures: Sequence[float] = TEMPERATURES,
    candidates: int = CANDIDATES,
    examples: int | None = None,
) -> Report:
    """Judge a run's model on a file of pairs, and write the report into a folder.

    Args:
        path: the run.
        source: JSON Lines or CSV with the columns of `data.read_pairs`; "-" is stdin.
        out: the folder; None is the run's reports/NAME, NAME being the file's without its extension, or "stdin".
        overwrite: replace the report of another file there; that of the same file is always replaced.
        decoding: of the sampled replies; the sweep changes its temperature, best-of-k its candidates.
        temperatures: of the sweep; none for no sweep.
        candidates: k of best-of-k; 1 for none.
        examples: pairs at most, taken at even distances; None for all.

    Raises:
        UserError: as `read_pairs` and `load_trained`, or the folder holds the report of another file.
    """
    run = Run.open(path, tool=TOOL)
    pairs = read_pairs(source, columns)
    data = {"path": "stdin", "rows": len(pairs)} if source == "-" else input_record(source, rows=len(pairs))
    if examples is not None and examples < len(pairs):
        pairs = [pairs[place * len(pairs) // examples] for place in range(examples)]
    folder = path / "reports" / ("stdin" if source == "-" else Path(source).stem) if out is None else out
    if not overwrite:
        _check_not_of_other_data(folder, data)
    weights, meta = Checkpoints(run.checkpoints_path).load(checkpoint)
    # The folder itself is named from here on: "best" of a run that is still training may move.
    trained = load_trained(path, weights.name, device, threads)
    judged = {
        "run": run.record["id"],
        "checkpoint": checkpoint,
        "epoch": meta["epoch"],
        "data": data,
        "decoding": decoding.model_dump(),
    }
    report = evaluate(trained, pairs, training_pairs(run), judged, decoding, temperatures, candidates)
    write_report(folder, report)
    return report


def evaluate(
    trained: Answers,
    pairs: Sequence[Pair],
    train: Sequence[Pair] | None,
    judged: dict[str, Any],
    decoding: Decoding,
    temperatures: Sequence[float] = TEMPERATURES,
    candidates: int = CANDIDATES,
) -> Report:
    """Answer the pairs in every way, and measure the answers.

    Args:
        train: the training pairs, for the baselines and for what was copied; None leaves both out.
        judged: what the report says it is about.
    """
    ways = {"greedy": GREEDY.model_copy(update={"max_tokens": decoding.max_tokens}), SAMPLED: decoding}
    if candidates > 1:
        ways[f"best-of-{candidates}"] = decoding.model_copy(update={"best_of": candidates})
    ways |= {f"temperature-{t:g}": decoding.model_copy(update={"temperature": t}) for t in sorted(temperatures)}
    decoder = Decoder(trained)
    made: dict[Decoding, list[str]] = {way: [] for way in ways.values()}  # the sweep meets the default's temperature
    with progress(len(made) * len(pairs), "replying") as bar:
        for way, texts in made.items():
            for reply in generate_stream(decoder, pairs, way):
                texts.append(reply.text)
                bar.advance()
    replies = {name: made[way] for name, way in ways.items()}
    if train is not None:
        replies["nearest-neighbour"] = nearest_neighbour(train, pairs)
        drawn = random_of_intent(train, pairs, decoding.seed)
        if drawn is not None:
            replies["random-of-intent"] = drawn
    references = [pair.agent for pair in pairs]
    known = None if train is None else [pair.agent for pair in train]
    own = measure(references, references, known)
    systems = {HUMAN: {name: value for name, value in own.items() if not name.startswith(NEEDS_OTHER_TEXT)}}
    systems |= {name: measure(texts, references, known) for name, texts in replies.items()}
    return Report(judged, systems, {HUMAN: references, **replies}, list(pairs))


def training_pairs(run: Run) -> list[Pair] | None:
    """The pairs that a run was trained on; None, with a note, if the file is gone or has changed."""
    record = next((entry for entry in run.record["inputs"] if Path(entry["path"]).name == "train.jsonl"), None)
    if record is None or not Path(record["path"]).is_file() or sha256_file(record["path"]) != record["sha256"]:
        info("the training data is not where it was: no baselines, and nothing on copying")
        return None
    return read_pairs(record["path"])


def write_report(folder: Path, report: Report) -> None:
    """Write an evaluation into the folder, which is made if absent, each file whole, report.json last.

    - replies.jsonl: a line a pair with the replies of all systems
    - sweep.png, if there are several temperatures
    - report.json: `Report.to_json`
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, pair in enumerate(report.pairs):
        replies = {name: texts[number] for name, texts in report.replies.items()}
        record = {"id": number, "previous": pair.previous, "message": pair.customer, "replies": replies}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    atomic_write(folder / "replies.jsonl", "".join(lines))
    sweep = report.sweep()
    if len(sweep) > 1:
        shown = {
            name: metrics
            for name, metrics in report.systems.items()
            if name != HUMAN and not name.startswith("temperature-")
        }
        plot_sweep(folder / "sweep.png", sweep, shown, report.systems[HUMAN]["corpus_distinct_2"])
    write_json(folder / "report.json", report.to_json())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:{'>' if place else '<'}{widths[place]}}" for place, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3f}"


def _check_not_of_other_data(folder: Path, data: Mapping[str, Any]) -> None:
    """UserError if the folder holds the report of another file."""
    try:
        there = json.loads((folder / "report.json").read_text(encoding="utf-8"))["judged"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there.get("sha256") != data.get("sha256"):
        raise UserError(f"{folder} holds the report of {there.get('path')}; give --overwrite, or --out {folder}-2")
