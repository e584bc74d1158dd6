"""Which of several runs answers better, and is that more than chance? Reads what `qa-train evaluate` wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from qa_train.evaluate_plots import plot_progressive_difficulty
from qa_train.examples import Metadata, printable
from qa_train.metrics import Evaluation, evaluate_predictions
from qa_train.report import PREDICTIONS
from trainworks.console import UserError, info
from trainworks.files import json_ready, write_json

EXACT_BELOW = 25
"""With fewer questions that only one of two runs answers rightly, the test is the exact binomial one."""

_Records = dict[str, dict[str, Any]]
_TYPES = {
    "id": str,
    "answer": str,
    "probability": int | float,
    "category": str,
    "num_actors": int,
    "num_sentences": int,
    "hops": int | None,
}


@dataclass(frozen=True)
class PairTest:
    """Two runs on the same questions, overall or of one category.

    Attributes:
        first, second: names of the runs.
        category: None for all questions.
        count: questions.
        accuracy_first, accuracy_second: shares of right answers.
        difference: accuracy_second less accuracy_first.
        only_first, only_second: questions that only this run answers rightly.
        p_value: of McNemar's test.
        p_holm: the same, adjusted for all tests of the comparison.
    """

    first: str
    second: str
    category: str | None
    count: int
    accuracy_first: float
    accuracy_second: float
    difference: float
    only_first: int
    only_second: int
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Runs on one set of questions.

    Attributes:
        set_name: the set, a folder in each run's `reports`.
        evaluations: by the run's name, in the order given.
        tests: for each pair of runs all questions, then each category, if there are several.
    """

    set_name: str
    evaluations: dict[str, Evaluation]
    tests: list[PairTest]

    def to_json(self) -> dict[str, Any]:
        """Plain data, NaN as null."""
        return json_ready(
            {
                "set": self.set_name,
                "runs": {name: evaluation.to_json() for name, evaluation in self.evaluations.items()},
                "tests": [asdict(test) for test in self.tests],
            }
        )

    def table(self) -> str:
        """The comparison as text for a console, without a newline at its end."""
        count = self.tests[0].count
        runs = [["run", "accuracy", "95 % interval", "loss", "auc", "ece"]]
        for name, evaluation in self.evaluations.items():
            found = evaluation.overall
            interval = f"[{found['accuracy_low']:.4f}, {found['accuracy_high']:.4f}]"
            runs.append(
                [name, f"{found['accuracy']:.4f}", interval, *(f"{found[m]:.4f}" for m in ("loss", "auc", "ece"))]
            )
        lines = [f"{self.set_name}: {count:,} questions", *_aligned(runs)]
        for pair in dict.fromkeys((test.first, test.second) for test in self.tests):
            rows = [["questions", "A", "B", "B - A", "only A", "only B", "p", "p (Holm)"]]
            rows += [_row(test) for test in self.tests if (test.first, test.second) == pair]
            lines += ["", f"A: {pair[0]}", f"B: {pair[1]}", *_aligned(rows)]
        more = f", Holm over {len(self.tests)} tests" if len(self.tests) > 1 else ""
        return "\n".join(map(printable, [*lines, "", f"p: McNemar's test of A against B{more}"]))


def compare_runs(paths: Sequence[Path], set_name: str | None = None) -> Comparison:
    """Compare what runs answered to one set of questions, pair by pair, with McNemar's tests adjusted by Holm.

    Args:
        paths: at least two run directories that have `reports/<set_name>/predictions.jsonl`.
        set_name: None takes "test" if all runs have it, or else the only set that all have. If "test" is one of
            several, that is said.

    Raises:
        UserError: fewer than two runs, predictions that are missing or damaged, other questions or other gold
            answers in one run than in another.
    """
    if len(set(paths)) < max(2, len(paths)):
        raise UserError("comparing takes two or more different runs")
    set_name = set_name or _shared_set(paths)
    answered = {str(path): _read_predictions(path / "reports" / set_name / PREDICTIONS) for path in paths}
    reference, *others = answered
    for other in others:
        _require_same_questions(reference, answered[reference], other, answered[other])
    ids = list(answered[reference])
    columns = {name: _columns([records[id] for id in ids]) for name, records in answered.items()}
    evaluations, correct = {}, {}
    for name, column in columns.items():
        metadata = Metadata(ids, *(column[key] for key in ("category", "num_actors", "num_sentences", "hops")))
        evaluations[name] = evaluate_predictions(ids, column["probability"], column["answer"], metadata)
        correct[name] = (column["probability"] >= 0.5) == column["answer"]
    return Comparison(set_name, evaluations, _tests(correct, columns[reference]["category"]))


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write comparison.json and progressive_difficulty.png into `folder`, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_progressive_difficulty(folder / "progressive_difficulty.png", comparison.evaluations, {})
    write_json(folder / "comparison.json", comparison.to_json())


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's test (McNemar 1947) that two runs are right equally often.

    Exact binomial below 25 discordant questions; else chi-square of one degree of freedom with the continuity
    correction (Edwards 1948), which is not applied to equal counts.

    Args:
        only_first, only_second: questions that only the first or only the second run answers rightly.
    """
    discordant = only_first + only_second
    if discordant < EXACT_BELOW:
        tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
        return min(1.0, 2 * tail / 2**discordant)
    chi_square = max(abs(only_first - only_second) - 1, 0) ** 2 / discordant
    return math.erfc(math.sqrt(chi_square / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false finding among all tests (Holm 1979), in their order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _tests(correct: dict[str, np.ndarray], category_N: np.ndarray) -> list[PairTest]:
    categories = np.unique(category_N).tolist()
    slices = [(None, np.ones(len(category_N), dtype=bool))]
    if len(categories) > 1:
        slices += [(category, category_N == category) for category in categories]
    tests = []
    for first, second in combinations(correct, 2):
        for category, kept_N in slices:
            right_A, right_B = correct[first][kept_N], correct[second][kept_N]
            only_A, only_B = int(np.sum(right_A & ~right_B)), int(np.sum(right_B & ~right_A))
            accuracy_A, accuracy_B = float(right_A.mean()), float(right_B.mean())
            p = mcnemar(only_A, only_B)
            tests.append(
                PairTest(
                    first=first,
                    second=second,
                    category=category,
                    count=len(right_A),
                    accuracy_first=accuracy_A,
                    accuracy_second=accuracy_B,
                    difference=accuracy_B - accuracy_A,
                    only_first=only_A,
                    only_second=only_B,
                    p_value=p,
                    p_holm=p,
                )
            )
    adjusted = holm([test.p_value for test in tests])
    return [replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]


def _shared_set(paths: Sequence[Path]) -> str:
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a run directory; `qa-train train` makes one")
    sets = [{file.parent.name for file in path.glob(f"reports/*/{PREDICTIONS}")} for path in paths]
    shared = sorted(set.intersection(*sets))
    if "test" in shared:
        if others := [name for name in shared if name != "test"]:
            info(f"compared on test; these runs share {', '.join(others)} too, and --on NAME compares on another set")
        return "test"
    if len(shared) == 1:
        return shared[0]
    if shared:
        raise UserError(f"the runs share several evaluated sets; choose one: --on {' or --on '.join(shared)}")
    runs = "; ".join(
        f"{path} has {', '.join(sorted(names)) or 'none'}" for path, names in zip(paths, sets, strict=True)
    )
    raise UserError(f"no evaluated set is shared by all runs ({runs}); run `qa-train evaluate RUN FILE` for each first")


def _require_same_questions(name: str, records: _Records, other_name: str, others: _Records) -> None:
    again = "evaluate both runs on the same file"
    common = len(records.keys() & others.keys())
    if not common == len(records) == len(others):
        raise UserError(
            f"{name} answered {len(records):,} questions and {other_name} {len(others):,}, "
            f"{common:,} of them the same; {again}"
        )
    for id, record in records.items():
        for key in ("answer", "category", "num_actors", "num_sentences", "hops"):
            if record[key] != others[id][key]:
                what = "gold answer" if key == "answer" else key
                raise UserError(
                    f'question "{id}" differs: its {what} is {json.dumps(record[key])} in {name} and '
                    f"{json.dumps(others[id][key])} in {other_name}; {again}"
                )


def _read_predictions(file: Path) -> _Records:
    """The lines of a predictions.jsonl by id, in order."""
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file} does not exist; `qa-train evaluate RUN FILE` writes it") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is damaged: it is not UTF-8; evaluate the run again") from None
    records: _Records = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            problem = _problem(record)
        except (ValueError, RecursionError):
            problem = "it is not JSON"
        if problem is None and record["id"] in records:
            problem = f'the id "{record["id"]}" occurs twice'
        if problem:
            raise UserError(f"{file}, line {number}: {problem}; evaluate the run again")
        records[record["id"]] = record
    return records


def _columns(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays (N,) by key: the answer is True for "yes", unknown hops are -1."""
    columns = {key: np.array([record[key] for record in records]) for key in _TYPES if key not in ("id", "hops")}
    hops = np.array([-1 if record["hops"] is None else record["hops"] for record in records])
    return {**columns, "answer": columns["answer"] == "yes", "hops": hops}


def _problem(record: Any) -> str | None:
    """What is wrong with one line of predictions, if anything is."""
    if not isinstance(record, dict):
        return "it is not an object"
    for key, kind in _TYPES.items():
        if key not in record:
            return f"{key} is missing"
        if not isinstance(record[key], kind):
            return f"{key} is {json.dumps(record[key])}"
        if isinstance(record[key], str) and printable(record[key]) != record[key]:
            return f"{key} has a control character: {json.dumps(record[key])}"
    if record["answer"] not in ("yes", "no"):
        return f'the answer is "{record["answer"]}", not yes or no'
    if not 0 <= record["probability"] <= 1:
        return f"the probability is {record['probability']}, outside 0 to 1"
    return None


def _row(test: PairTest) -> list[str]:
    return [
        f"{test.category or 'all'} ({test.count:,})",
        f"{test.accuracy_first:.4f}",
        f"{test.accuracy_second:.4f}",
        f"{test.difference:+.4f}",
        f"{test.only_first:,}",
        f"{test.only_second:,}",
        f"{test.p_value:.3g}",
        f"{test.p_holm:.3g}",
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:{'>' if place else '<'}{widths[place]}}" for place, cell in enumerate(row)).rstrip()
        for row in rows
    ]
