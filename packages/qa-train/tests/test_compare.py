"""Comparing runs by the predictions that they left."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_oracle
from statsmodels.stats.multitest import multipletests

from qa_train.compare import compare_runs, holm, mcnemar, write_comparison
from trainworks.console import UserError


def question(number: int, right: bool, **changes: Any) -> dict[str, Any]:
    """One answered question: gold "yes" for even numbers, two categories in turn by fours."""
    yes = number % 2 == 0
    record = {
        "id": f"q{number}",
        "answer": "yes" if yes else "no",
        "probability": 0.9 if yes == right else 0.1,
        "category": "dense" if number % 8 < 4 else "simple",
        "num_actors": 2 + number % 3,
        "num_sentences": 7,
        "hops": None,
    }
    return {**record, **changes}


def run(path: Path, records: list[dict[str, Any]], set_name: str = "test") -> Path:
    folder = path / "reports" / set_name
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_that_of_statsmodels(only_first: int, only_second: int):
    exact = only_first + only_second < 25
    if only_first == only_second:  # where statsmodels would still correct for continuity
        assert mcnemar(only_first, only_second) == 1
    else:
        expected = mcnemar_oracle([[9, only_first], [only_second, 4]], exact=exact, correction=True).pvalue
        assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p_values", [[0.04], [0.03, 0.001, 0.03, 0.9], [0.6, 0.5, 0.0, 1.0, 0.012, 0.011]])
def test_holm_is_that_of_statsmodels(p_values: list[float]):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_two_runs_are_compared_overall_and_by_category(tmp_path: Path):
    numbers = range(80)
    better = run(tmp_path / "better", [question(n, right=n >= 8) for n in numbers])
    worse = run(tmp_path / "worse", [question(n, right=n < 40) for n in numbers])
    found = compare_runs([better, worse])
    everything, dense, simple = found.tests
    assert (everything.category, dense.category, simple.category) == (None, "dense", "simple")
    assert (everything.accuracy_first, everything.accuracy_second, everything.difference) == (0.9, 0.5, -0.4)
    assert (everything.only_first, everything.only_second) == (40, 8)
    assert everything.p_value == pytest.approx(math.erfc(math.sqrt(31**2 / 48 / 2)))
    assert everything.p_holm == pytest.approx(3 * everything.p_value)
    assert dense.count == simple.count == 40
    assert found.evaluations[str(worse)].by_category["dense"]["accuracy"] == 0.5


def test_the_order_of_questions_may_differ(tmp_path: Path):
    records = [question(n, right=n % 3 > 0) for n in range(30)]
    first, second = run(tmp_path / "a", records), run(tmp_path / "b", records[::-1])
    assert {(test.difference, test.p_value) for test in compare_runs([first, second]).tests} == {(0, 1)}


def test_three_runs_make_three_pairs_and_a_table(tmp_path: Path):
    rng = np.random.default_rng(0)
    paths = [
        run(tmp_path / name, [question(n, right=rng.random() < share) for n in range(200)])
        for name, share in (("a", 0.5), ("b", 0.7), ("c", 0.99))
    ]
    found = compare_runs(paths)
    pairs = [(Path(test.first).name, Path(test.second).name) for test in found.tests if test.category is None]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    table = found.table()
    assert table.startswith("test: 200 questions\n")
    assert f"A: {paths[0]}\nB: {paths[2]}\n" in table
    assert table.endswith("p: McNemar's test of A against B, Holm over 9 tests")
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["runs"][str(paths[2])]["overall"]["count"] == 200
    assert len(written["tests"]) == 9


def test_a_comparison_is_written_with_its_plot(tmp_path: Path):
    paths = [run(tmp_path / name, [question(n, right=n % 5 > 0) for n in range(20)]) for name in "ab"]
    write_comparison(tmp_path / "out", compare_runs(paths))
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["set"] == "test"
    assert (tmp_path / "out" / "progressive_difficulty.png").read_bytes().startswith(b"\x89PNG")


def test_the_set_that_all_runs_have_is_taken(tmp_path: Path):
    records = [question(n, right=True) for n in range(4)]
    first, second = (run(tmp_path / name, records, "valid-b") for name in "ab")
    run(first, records, "only-a")
    assert compare_runs([first, second]).set_name == "valid-b"
    run(first, records, "other")
    run(second, records, "other")
    with pytest.raises(UserError, match="several evaluated sets; choose one: --on other or --on valid-b"):
        compare_runs([first, second])
    assert compare_runs([first, second], "other").set_name == "other"


def test_test_is_taken_of_several_sets_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    records = [question(n, right=True) for n in range(4)]
    paths = [run(tmp_path / name, records) for name in "ab"]
    assert compare_runs(paths).set_name == "test"
    assert capsys.readouterr().err == ""
    for path in paths:
        run(path, records, "valid")
    assert compare_runs(paths).set_name == "test"
    assert capsys.readouterr().err == (
        "compared on test; these runs share valid too, and --on NAME compares on another set\n"
    )


def test_runs_that_were_not_evaluated_say_what_to_do(tmp_path: Path):
    evaluated = run(tmp_path / "a", [question(0, right=True)])
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"no evaluated set is shared .*a has test; .*b has none.*`qa-train evaluate"):
        compare_runs([evaluated, tmp_path / "b"])
    with pytest.raises(UserError, match=r"predictions\.jsonl does not exist; `qa-train evaluate"):
        compare_runs([evaluated, tmp_path / "b"], "test")
    with pytest.raises(UserError, match="nowhere is not a run directory"):
        compare_runs([evaluated, tmp_path / "nowhere"])
    with pytest.raises(UserError, match="two or more different runs"):
        compare_runs([evaluated, evaluated])


def test_other_questions_cannot_be_compared(tmp_path: Path):
    first = run(tmp_path / "a", [question(n, right=True) for n in range(4)])
    fewer = run(tmp_path / "b", [question(n, right=True) for n in range(3)])
    with pytest.raises(UserError, match=r"answered 4 questions and .* 3, 3 of them the same; evaluate both"):
        compare_runs([first, fewer])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "no"}, 'question "q2" differs: its gold answer is "yes" in .*a and "no" in .*b'),
        ({"num_actors": 30}, 'question "q2" differs: its num_actors is 4 in .*a and 30 in .*b'),
    ],
)
def test_the_same_id_must_be_the_same_question(tmp_path: Path, changes: dict[str, Any], message: str):
    first = run(tmp_path / "a", [question(n, right=True) for n in range(4)])
    second = run(tmp_path / "b", [question(n, right=True, **(changes if n == 2 else {})) for n in range(4)])
    with pytest.raises(UserError, match=message):
        compare_runs([first, second])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: it is not JSON"),
        ("[1]", "line 2: it is not an object"),
        (json.dumps(question(0, right=True)), 'line 2: the id "q0" occurs twice'),
        (json.dumps({"id": "q1", "answer": "yes"}), "line 2: probability is missing"),
        (json.dumps(question(1, right=True, answer="maybe")), 'line 2: the answer is "maybe", not yes or no'),
        (json.dumps(question(1, right=True, probability=1.5)), "line 2: the probability is 1.5, outside 0 to 1"),
        (json.dumps(question(1, right=True, probability=None)), "line 2: probability is null"),
        (json.dumps(question(1, right=True, probability=math.nan)), "line 2: the probability is nan"),
        (
            json.dumps(question(1, right=True, category="\x1b[2J")),
            r'line 2: category has a control character: "\\u001b',
        ),
    ],
)
def test_damaged_predictions_are_named_by_file_and_line(tmp_path: Path, line: str, message: str):
    good = run(tmp_path / "good", [question(n, right=True) for n in range(2)])
    damaged = run(tmp_path / "damaged", [question(0, right=True)])
    with open(damaged / "reports" / "test" / "predictions.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=f"damaged/reports/test/predictions.jsonl, {message}"):
        compare_runs([good, damaged])
