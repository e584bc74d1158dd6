"""Answers of a finished model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qa_train.data import Metadata, read_examples
from qa_train.encoding import encode
from qa_train.metrics import Evaluation
from qa_train.train import Split, Trained, max_words, report


def predict(trained: Trained, source: str) -> Iterator[str]:
    """One JSON object a question, in the order of the input: id, answer, probability of yes.

    Args:
        source: JSON Lines or CSV, - for stdin; answers in it are not needed and not looked at.
    """
    examples = read_examples(source, need_answers=False)
    data = encode(examples, trained.vocabulary, shown(source), max_words(trained.recipe))
    for example, probability in zip(examples, trained.trainer.predict(trained.model, data), strict=True):
        answer = "yes" if probability >= 0.5 else "no"
        yield json.dumps({"id": example.id, "answer": answer, "probability": round(float(probability), 6)})


def evaluate(trained: Trained, source: str, out: Path | None) -> tuple[Evaluation, dict[str, Evaluation]]:
    """Evaluate on a file, beside the shortcuts; the report goes to `out`, or to the run's reports/NAME."""
    examples = read_examples(source)
    data = encode(examples, trained.vocabulary, shown(source), max_words(trained.recipe))
    name = "stdin" if source == "-" else Path(source).stem
    folder = trained.path / "reports" / name if out is None else out
    return report(folder, name, trained.trainer, trained.model, Split(examples, data, Metadata.of(examples)), None)


def shown(source: str) -> str:
    """A source as errors name it."""
    return "stdin" if source == "-" else source


def as_json(evaluation: Evaluation, shortcuts: dict[str, Evaluation]) -> dict[str, Any]:
    """What `qa-train evaluate --json` prints."""
    from qa_train.report import json_report

    return json_report(evaluation, shortcuts)
