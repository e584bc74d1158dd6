"""What `qa-train evaluate` shows and writes. It knows answers and examples, and no framework."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qa_train.evaluate_plots import plot_confusion, plot_progressive_difficulty, plot_reliability
from qa_train.examples import Example, Metadata, printable
from qa_train.metrics import Cell, Evaluation, Metrics, cell_name, confusion_matrix, evaluate_predictions
from trainworks.console import UserError
from trainworks.files import atomic_write, json_ready, write_json

PREDICTIONS, REPORT = "predictions.jsonl", "report.json"
HARDEST_CELLS = 5
HARDEST_AT_LEAST = 10
HARDEST_RULE = f"lowest upper end of the 95 % Wilson interval, at least {HARDEST_AT_LEAST} samples"


@dataclass(frozen=True)
class Judged:
    """What a report is about, so that nobody has to guess later.

    Attributes:
        run: id of the run.
        checkpoint: its name as it was asked for, such as "best".
        step, epoch: of that checkpoint.
        data: path, SHA-256 and rows of the file of examples.
        majority: "yes" or "no", what the shortcut "majority" answers.
        majority_of: whose commoner answer that is, "training data" or, where that is not known, "evaluated data".
    """

    run: str
    checkpoint: str
    step: int
    epoch: int
    data: dict[str, Any]
    majority: str
    majority_of: Literal["training data", "evaluated data"]


def check_not_of_other_data(folder: Path, sha256: str) -> None:
    """Refuse a folder that holds the report of another file of examples.

    Args:
        sha256: of the file that is to be judged.

    Raises:
        UserError: names that other file.
    """
    try:
        data = json.loads((folder / REPORT).read_text(encoding="utf-8"))["judged"]["data"]
        other = data["path"] if data["sha256"] != sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return  # no report, or one that doesn't say
    if other is not None:
        raise UserError(
            f"{folder} holds the report of another file, {printable(str(other))}; give --overwrite, "
            f"or --out {folder}-2, which `compare --on {folder.name}-2` can read"
        )


def gold_answers(examples: Sequence[Example]) -> np.ndarray:
    """(N,), True where the gold answer is "yes"."""
    return np.array([example.answer == "yes" for example in examples], dtype=bool)


def evaluate_examples(examples: Sequence[Example], probabilities: np.ndarray) -> Evaluation:
    """Judge probabilities of "yes", (N,), of examples whose answers are known.

    Raises:
        ValueError: as `evaluate_predictions` raises it.
    """
    ids = [example.id for example in examples]
    return evaluate_predictions(ids, probabilities, gold_answers(examples), Metadata.of(examples))


def evaluate_shortcuts(examples: Sequence[Example], answers: Mapping[str, np.ndarray]) -> dict[str, Evaluation]:
    """Judge shortcuts as models are judged; they are sure of every answer, so their loss and calibration say little.

    Args:
        answers: by the shortcut's name; (N,), True where it answers "yes".
    """
    return {name: evaluate_examples(examples, np.asarray(yes, dtype=float)) for name, yes in answers.items()}


def hardest_cells(evaluation: Evaluation) -> list[tuple[Cell, Metrics]]:
    """The cells of which it is surest that they are hard, hardest first, by `HARDEST_RULE`; at most `HARDEST_CELLS`."""
    large = [item for item in evaluation.by_cell.items() if item[1]["count"] >= HARDEST_AT_LEAST]
    return sorted(large, key=lambda item: item[1]["accuracy_high"])[:HARDEST_CELLS]


def json_report(
    evaluation: Evaluation, shortcuts: Mapping[str, Evaluation], judged: Judged | None = None
) -> dict[str, Any]:
    """The whole evaluation, the shortcuts' too, confusion matrices and the hardest cells, as plain data.

    Args:
        shortcuts: what `evaluate_shortcuts` returns.
        judged: None for answers that no run gave.
    """
    hardest = [{"category": cell[0], "num_actors": cell[1], **metrics} for cell, metrics in hardest_cells(evaluation)]
    report = {
        "judged": None if judged is None else asdict(judged),
        **evaluation.to_json(),
        "shortcuts": {name: shortcut.to_json() for name, shortcut in shortcuts.items()},
        "confusion": {
            "layout": "rows: gold no, gold yes; columns: answered no, answered yes",
            "overall": confusion_matrix(evaluation.overall),
            "by_category": {name: confusion_matrix(metrics) for name, metrics in evaluation.by_category.items()},
        },
        "hardest_cells": {"rule": HARDEST_RULE, "cells": hardest},
    }
    return json_ready(report)


def console_report(
    evaluation: Evaluation, title: str, shortcuts: Mapping[str, Evaluation], judged: Judged | None = None
) -> str:
    """The evaluation as text for a console, without a newline at its end.

    Args:
        title: whose answers to what, such as "runs/t on data/test.jsonl".
        shortcuts: what `evaluate_shortcuts` returns.
        judged: None for answers that no run gave.
    """
    overall = evaluation.overall
    cells = [
        f"  - {cell_name(cell)}: Accuracy={metrics['accuracy']:.4f} (from {metrics['count']} samples)"
        for cell, metrics in evaluation.by_cell.items()
    ]
    others = ("loss", "precision", "recall", "f1", "auc", "brier", "ece")
    beside = {"model": overall, **{name: shortcut.overall for name, shortcut in shortcuts.items()}}
    (true_no, false_yes), (false_no, true_yes) = confusion_matrix(overall)
    unsure = judged is not None and judged.majority_of == "evaluated data"
    note = " (majority of the evaluated data, as the run's training data is not there)" if unsure else ""
    hardest = [_line(cell_name(cell), metrics) for cell, metrics in hardest_cells(evaluation)]
    blocks = [
        [printable(title), "=" * 48, "EVALUATION RESULTS BY CATEGORY:", *cells],
        ["CATEGORY TOTALS:", *(_line(category, metrics) for category, metrics in evaluation.by_category.items())],
        ["OVERALL:", _line("all", overall), "    " + ", ".join(f"{name}={overall[name]:.4f}" for name in others)],
        ["BY HOPS:", *(_line(f"hops_{hops}", metrics) for hops, metrics in evaluation.by_hops.items())],
        ["BY ACTORS:", *(_line(f"noun_{actors}", metrics) for actors, metrics in evaluation.by_actors.items())],
        [f"BESIDE SHORTCUTS{note}:", *_table(beside)] if shortcuts else [],
        [
            "CONFUSION MATRIX:",
            f"  {'':8}  {'answered no':>12}  {'answered yes':>12}",
            f"  gold no   {true_no:12}  {false_yes:12}",
            f"  gold yes  {false_no:12}  {true_yes:12}",
        ],
        [f"HARDEST CELLS ({HARDEST_RULE}):", *hardest],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if len(lines) > 1)


def write_report(
    folder: Path,
    evaluation: Evaluation,
    examples: Sequence[Example],
    probabilities: np.ndarray,
    shortcuts: Mapping[str, Evaluation],
    judged: Judged | None = None,
) -> None:
    """Write everything that an evaluation leaves behind, each file whole, report.json last.

    - predictions.jsonl: a line a question, in order: what `qa-train compare` reads
    - misclassified.jsonl: the examples with a wrong answer, the most confident first
    - progressive_difficulty.png, confusion.png, reliability.png
    - report.json: what `json_report` returns

    Args:
        folder: made if absent.
        examples, probabilities: what was answered, (N,), and how: the probabilities of "yes".
        shortcuts: what `evaluate_shortcuts` returns.
        judged: None for answers that no run gave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = np.asarray(probabilities, dtype=float)
    gold = gold_answers(examples)
    atomic_write(folder / PREDICTIONS, _json_lines(_predictions(examples, probabilities)))
    atomic_write(folder / "misclassified.jsonl", _json_lines(_misclassified(examples, probabilities, gold)))
    plot_progressive_difficulty(folder / "progressive_difficulty.png", {"model": evaluation}, shortcuts)
    plot_confusion(folder / "confusion.png", evaluation)
    plot_reliability(folder / "reliability.png", evaluation, probabilities, gold)
    write_json(folder / REPORT, json_report(evaluation, shortcuts, judged))


def _predictions(examples: Sequence[Example], probabilities: np.ndarray) -> Iterable[dict[str, Any]]:
    for example, probability in zip(examples, probabilities.tolist(), strict=True):
        yield {
            "id": example.id,
            "answer": example.answer,
            "probability": probability,
            "category": example.category,
            "num_actors": example.num_actors,
            "num_sentences": example.num_sentences,
            "hops": example.hops,
        }


def _misclassified(
    examples: Sequence[Example], probabilities: np.ndarray, gold: np.ndarray
) -> Iterable[dict[str, Any]]:
    predicted = probabilities >= 0.5
    confidence = np.maximum(probabilities, 1 - probabilities)
    wrong = np.flatnonzero(predicted != gold)
    for place in wrong[np.argsort(-confidence[wrong], kind="stable")]:
        yield {
            **examples[place].record(),
            "predicted": "yes" if predicted[place] else "no",
            "probability": float(probabilities[place]),
            "confidence": float(confidence[place]),
        }


def _json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _line(name: str, metrics: Metrics) -> str:
    return f"  - {name}: {_accuracy(metrics)} (from {metrics['count']} samples)"


def _table(rows: Mapping[str, Metrics]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name:{width}}  {_accuracy(metrics)}" for name, metrics in rows.items()]


def _accuracy(metrics: Metrics) -> str:
    return f"Accuracy={metrics['accuracy']:.4f} [{metrics['accuracy_low']:.4f}, {metrics['accuracy_high']:.4f}]"
