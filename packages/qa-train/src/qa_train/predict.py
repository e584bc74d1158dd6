"""Answers of a finished model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train.data import recorded_answers
from qa_train.encoding import encode
from qa_train.examples import Example, printable, read_examples, read_recorded
from qa_train.metrics import Evaluation
from qa_train.report import (
    Judged,
    check_not_of_other_data,
    console_report,
    evaluate_examples,
    evaluate_shortcuts,
    json_report,
    write_report,
)
from qa_train.shortcuts import majority_answer, shortcut_answers
from qa_train.train import TOOL, Trained, load_trained, max_words
from trainworks.checkpoint import Checkpoints
from trainworks.run import Run


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


@dataclass(frozen=True)
class Report:
    """A model's answers to a file of examples, judged beside the shortcuts'."""

    title: str
    judged: Judged
    evaluation: Evaluation
    shortcuts: dict[str, Evaluation]

    def to_json(self) -> dict[str, Any]:
        """What `qa-train evaluate --json` prints and report.json holds."""
        return json_report(self.evaluation, self.shortcuts, self.judged)

    def text(self) -> str:
        """What `qa-train evaluate` prints."""
        return console_report(self.evaluation, self.title, self.shortcuts, self.judged)


def evaluate(
    path: Path,
    source: str,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
) -> Report:
    """Evaluate a run's model on a file, and write the report into a folder.

    Args:
        path: the run.
        source: JSON Lines or CSV, - for stdin.
        out: the folder; None is the run's reports/NAME, NAME being the file's without its extension, or "stdin".
        overwrite: replace the report of another file there; that of the same file is always replaced.

    Raises:
        UserError: as `read_examples` and `load_trained`, or the folder holds the report of another file.
    """
    run = Run.open(path, tool=TOOL)
    examples, data = read_recorded(source)
    folder = path / "reports" / ("stdin" if source == "-" else Path(source).stem) if out is None else out
    if not overwrite:
        check_not_of_other_data(folder, data["sha256"])
    # The folder itself is named from here on: "best" of a run that is still training may move.
    weights, meta = Checkpoints(run.checkpoints_path).load(checkpoint)
    trained = load_trained(path, weights.name, device, threads)
    encoded = encode(examples, trained.vocabulary, shown(source), max_words(trained.recipe))
    probabilities = trained.trainer.predict(trained.model, encoded)
    judged = _judged(run, checkpoint, meta, data, examples)
    evaluation = evaluate_examples(examples, probabilities)
    shortcuts = evaluate_shortcuts(examples, shortcut_answers(examples, judged.majority))
    write_report(folder, evaluation, examples, probabilities, shortcuts, judged)
    return Report(f"{path} on {shown(source)}", judged, evaluation, shortcuts)


def _judged(run: Run, checkpoint: str, meta: dict[str, Any], data: dict[str, Any], examples: list[Example]) -> Judged:
    """What is judged, with the majority of the run's training data where that is still known.

    Args:
        meta: of the checkpoint.
        data: what is recorded of the file of the examples.
    """
    train, _ = run.record["inputs"]
    known = recorded_answers(train)
    return Judged(
        run=run.record["id"],
        checkpoint=checkpoint,
        step=meta["step"],
        epoch=meta["epoch"],
        data=data,
        majority=majority_answer(known or Counter(example.answer for example in examples)),
        majority_of="training data" if known else "evaluated data",
    )


def shown(source: str) -> str:
    """A source as errors name it."""
    return "stdin" if source == "-" else printable(source)
