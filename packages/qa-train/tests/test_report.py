"""What an evaluation shows and writes, from made-up answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qa_train.examples import Example
from qa_train.report import (
    Judged,
    check_not_of_other_data,
    console_report,
    evaluate_examples,
    evaluate_shortcuts,
    hardest_cells,
    json_report,
    write_report,
)
from trainworks.console import UserError


def example(number: int, answer: str, category: str = "simple", num_actors: int = 8) -> Example:
    story = tuple(f"Ann walks {direction}." for direction in ("north", "east"))
    return Example(
        f"q{number}", story, "Do Ann and Bob face the same way?", answer, category, num_actors, 2, number % 3
    )


def answered(right: int, wrong: int, start: int = 0, **cell: object) -> tuple[list[Example], list[float]]:
    """Questions of one cell, gold "yes" and "no" in turn, of which the first `right` are answered rightly."""
    examples, probabilities = [], []
    for number in range(right + wrong):
        yes = number % 2 == 0
        examples.append(example(start + number, "yes" if yes else "no", **cell))
        probabilities.append(0.9 if yes == (number < right) else 0.1)
    return examples, probabilities


def test_the_console_block_of_categories():
    examples, probabilities = answered(294, 24)
    text = console_report(evaluate_examples(examples, np.array(probabilities)), "runs/t on test.jsonl", {})
    assert text.startswith(
        "runs/t on test.jsonl\n"
        "================================================\n"
        "EVALUATION RESULTS BY CATEGORY:\n"
        "  - simple/noun_8: Accuracy=0.9245 (from 318 samples)\n"
    )


def test_the_console_shows_slices_shortcuts_confusion_and_the_hardest_cells():
    examples, probabilities = answered(30, 10)
    shortcuts = evaluate_shortcuts(examples, {"majority": np.ones(40, bool)})
    text = console_report(evaluate_examples(examples, np.array(probabilities)), "t", shortcuts)
    lines = text.splitlines()
    assert "  - all: Accuracy=0.7500 [0.5981, 0.8581] (from 40 samples)" in lines
    assert "CATEGORY TOTALS:\n  - simple: Accuracy=0.7500 [0.5981, 0.8581] (from 40 samples)\n" in text
    assert "  - hops_2: Accuracy=0.7692 [0.4974, 0.9182] (from 13 samples)" in lines
    assert "  - noun_8: Accuracy=0.7500 [0.5981, 0.8581] (from 40 samples)" in lines
    assert "  model     Accuracy=0.7500 [0.5981, 0.8581]" in lines
    assert "  majority  Accuracy=0.5000 [0.3520, 0.6480]" in lines
    assert "  gold no             15             5" in lines
    assert "HARDEST CELLS (lowest upper end of the 95 % Wilson interval, at least 10 samples):" in lines


def test_a_hard_cell_is_one_that_is_surely_hard():
    cells = {
        "rare": answered(0, 9, 0, category="rare"),  # worst of all, but of too few questions
        "few": answered(5, 5, 100, category="few"),
        "many": answered(110, 90, 200, category="many"),  # a higher accuracy than "few", and surer to be low
        "easy": answered(50, 0, 500, category="easy"),
    }
    examples = [example for found, _ in cells.values() for example in found]
    probabilities = np.array([p for _, found in cells.values() for p in found])
    hardest = hardest_cells(evaluate_examples(examples, probabilities))
    assert [category for (category, _), _ in hardest] == ["many", "few", "easy"]


def test_the_json_report_has_the_evaluation_the_shortcuts_and_confusion_matrices():
    examples, probabilities = answered(9, 3)
    more, others = answered(2, 2, 50, category="dense", num_actors=3)
    examples, probabilities = examples + more, probabilities + others
    shortcuts = evaluate_shortcuts(examples, {"majority": np.ones(16, bool)})
    report = json_report(evaluate_examples(examples, np.array(probabilities)), shortcuts)
    assert report["overall"]["accuracy"] == pytest.approx(11 / 16)
    assert report["by_cell"]["dense/noun_3"]["count"] == 4
    assert report["shortcuts"]["majority"]["by_actors"]["3"]["accuracy"] == 0.5
    assert report["shortcuts"]["majority"]["overall"]["auc"] == 0.5
    assert report["confusion"]["overall"] == [[5, 3], [2, 6]]
    assert report["confusion"]["by_category"]["dense"] == [[1, 1], [1, 1]]
    assert [cell["category"] for cell in report["hardest_cells"]["cells"]] == ["simple"]
    json.dumps(report, allow_nan=False)


def test_a_metric_that_is_undefined_is_null():
    report = json_report(evaluate_examples([example(0, "yes")], np.array([0.9])), {})
    assert report["overall"]["auc"] is None


def write(folder: Path, examples: list[Example], probabilities: list[float]) -> None:
    found = evaluate_examples(examples, np.array(probabilities))
    write_report(folder, found, examples, np.array(probabilities), evaluate_shortcuts(examples, {}))


def test_written_predictions_are_in_order_and_mistakes_are_most_confident_first(tmp_path: Path):
    examples = [example(0, "yes"), example(1, "no"), example(2, "no"), example(3, "yes", "dense", 2)]
    write(tmp_path / "reports" / "test", examples, [0.4, 0.2, 0.99, 0.2])
    folder = tmp_path / "reports" / "test"
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [record["probability"] for record in predictions] == [0.4, 0.2, 0.99, 0.2]
    assert predictions[3] == {
        "id": "q3",
        "answer": "yes",
        "probability": 0.2,
        "category": "dense",
        "num_actors": 2,
        "num_sentences": 2,
        "hops": 0,
    }
    mistakes = [json.loads(line) for line in (folder / "misclassified.jsonl").read_text().splitlines()]
    assert [mistake["id"] for mistake in mistakes] == ["q2", "q3", "q0"]
    assert mistakes[1]["confidence"] == pytest.approx(0.8)
    assert mistakes[1]["predicted"] == "no"
    assert mistakes[1]["story"] == ["Ann walks north.", "Ann walks east."]
    assert json.loads((folder / "report.json").read_text())["overall"]["accuracy"] == 0.25


def test_a_report_has_its_plots_and_nothing_half_written(tmp_path: Path):
    examples, probabilities = answered(20, 5)
    more, others = answered(5, 5, 50, category="costs $5 or $6", num_actors=3)  # dollars are no mathematics
    write(tmp_path, examples + more, probabilities + others)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "confusion.png",
        "misclassified.jsonl",
        "predictions.jsonl",
        "progressive_difficulty.png",
        "reliability.png",
        "report.json",
    ]
    for plot in tmp_path.glob("*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_single_question_and_many_categories_can_be_reported(tmp_path: Path):
    write(tmp_path / "one", [example(0, "yes")], [1.0])
    write(tmp_path / "many", [example(n, "no", f"category {n}") for n in range(12)], [0.0] * 12)
    assert json.loads((tmp_path / "many" / "report.json").read_text())["overall"]["accuracy"] == 1


def judged(**changes: Any) -> Judged:
    data = {"path": "/data/test.jsonl", "sha256": "aa", "rows": 1}
    return Judged("some-run", "best", 100, 7, data, "yes", **{"majority_of": "training data", **changes})


def test_a_report_says_what_it_judged(tmp_path: Path):
    examples, probabilities = [example(0, "yes")], np.array([0.9])
    write_report(tmp_path, evaluate_examples(examples, probabilities), examples, probabilities, {}, judged())
    assert json.loads((tmp_path / "report.json").read_text())["judged"] == {
        "run": "some-run",
        "checkpoint": "best",
        "step": 100,
        "epoch": 7,
        "data": {"path": "/data/test.jsonl", "sha256": "aa", "rows": 1},
        "majority": "yes",
        "majority_of": "training data",
    }


def test_the_report_of_another_file_is_not_replaced(tmp_path: Path):
    check_not_of_other_data(tmp_path, "aa")
    examples, probabilities = [example(0, "yes")], np.array([0.9])
    write_report(tmp_path, evaluate_examples(examples, probabilities), examples, probabilities, {}, judged())
    check_not_of_other_data(tmp_path, "aa")
    with pytest.raises(UserError, match=r"the report of another file, /data/test\.jsonl; give --overwrite, or --out"):
        check_not_of_other_data(tmp_path, "bb")


def test_a_majority_of_the_evaluated_data_is_said_to_be_one():
    examples, probabilities = answered(2, 2)
    found, shortcuts = evaluate_examples(examples, np.array(probabilities)), {"majority": np.ones(4, bool)}
    headings = {"training data": "BESIDE SHORTCUTS:", "evaluated data": "BESIDE SHORTCUTS (majority of the evaluated"}
    for whose, heading in headings.items():
        text = console_report(found, "t", evaluate_shortcuts(examples, shortcuts), judged(majority_of=whose))
        assert f"\n{heading}" in text


def test_a_title_carries_no_escape_codes():
    text = console_report(evaluate_examples([example(0, "yes")], np.array([0.9])), "run \x1b[2J", {})
    assert text.startswith("run \\x1b[2J\n")
