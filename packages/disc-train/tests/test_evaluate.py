"""The whole evaluation: its report, its files, what it says, and what it refuses."""

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest

from disc_train.data import Table, write_rows
from disc_train.evaluate import evaluate, evaluate_files, format_report, quality, validity
from disc_train.evaluate_features import Features
from disc_train.schema import Schema
from trainworks.console import AnswerNo, UserError


def people(rows: int, seed: int) -> Table:
    """Income follows age; the older say yes more often; the city is unrelated and sometimes missing."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, rows)
    income = age * 1000 + rng.integers(0, 9000, rows)
    answer = np.where(rng.random(rows) < (age - 10) / 80, "yes", "no")
    city = rng.choice(np.array(["Rome", "Oslo", None], dtype=object), rows, p=[0.6, 0.3, 0.1])
    columns = {"age": age.astype(str), "income": income.astype(str), "city": city, "answer": answer}
    return Table(tuple(columns), [np.array(list(cells), dtype=object) for cells in columns.values()])


def with_column(table: Table, name: str, cells: list[str | None]) -> Table:
    changed = [
        np.array(cells, dtype=object) if other == name else old
        for other, old in zip(table.columns, table.cells, strict=True)
    ]
    return Table(table.columns, changed)


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, float):
        yield value


def test_report_has_every_section_and_is_what_the_file_holds(tmp_path):
    out = tmp_path / "eval"
    report = evaluate(people(120, 0), people(60, 1), people(90, 2), target="answer", seeds=(0, 1), out=out)

    assert json.loads((out / "report.json").read_text()) == report
    assert all(math.isfinite(number) for number in numbers_in(report))
    assert set(report["two_sample"]["auc"]) == {"synthetic", "train rows", "independent columns"}
    assert report["two_sample"]["auc"]["synthetic"]["xgboost"]["std"] is not None
    assert report["utility"]["task"] == "classification"
    assert 0 < report["quality"]["synthetic"]["quality"]["overall"] <= 1
    assert {plot.name for plot in (out / "plots").iterdir()} == {
        "marginals.png", "associations.png", "two_sample.png", "closest_record.png",
    }  # fmt: skip
    text = format_report(report)
    for expected in (
        "independent columns",
        "train rows",
        "test rows",
        "majority class",
        "+-",
        "exact copies",
    ):
        assert expected in text


def test_same_seeds_give_the_same_report_and_other_seeds_another():
    tables = people(80, 0), people(40, 1), people(80, 2)
    first, again, other = (
        evaluate(*tables, target="answer", seeds=seeds, out=None, quality_report=False) for seeds in ([3], [3], [4])
    )
    assert first == again
    assert first["two_sample"]["auc"] != other["two_sample"]["auc"]
    assert first["quality"] is None


def test_without_a_target_there_is_no_utility_section():
    report = evaluate(people(60, 0), people(40, 1), people(40, 2), target=None, seeds=[0], out=None)
    assert report["utility"] is None
    assert "utility" not in format_report(report)


def test_hostile_cells_are_evaluated_and_not_fatal(tmp_path):
    ages = ["1e400", "-inf", "", "n/a", None, "9" * 30, "-0", "0x1f", "nan", "年"] * 5
    synth = with_column(with_column(people(50, 2), "age", ages), "answer", ["no", "$x$", None, "", "\n"] * 10)
    report = evaluate(people(60, 0), people(40, 1), synth, target="answer", seeds=[0], out=tmp_path)
    assert report["validity"]["synthetic"]["valid_rows"] < 0.5
    assert all(math.isfinite(number) for number in numbers_in(report))
    assert "age" in format_report(report)


def test_synthetic_columns_may_come_in_another_order():
    train, test, synth = people(60, 0), people(40, 1), people(40, 2)
    turned = Table(synth.columns[::-1], synth.cells[::-1])
    reports = [
        evaluate(train, test, rows, target=None, seeds=[0], out=None, quality_report=False) for rows in (synth, turned)
    ]
    assert reports[0] == reports[1]


def test_invalid_cells_are_counted_by_column_with_an_example():
    train = people(60, 0)
    cities = list(train.column("city"))
    cities[7] = "Atlantis"
    found = validity(Schema.infer(train), with_column(train, "city", cities))
    assert found["valid_rows"] == pytest.approx(59 / 60)
    assert list(found["columns"]) == ["city"]
    assert found["columns"]["city"]["cells"] == 1
    example = found["columns"]["city"]["examples"][0]
    assert (example["row"], example["value"]) == (8, "Atlantis")
    assert example["reason"]


def test_quality_agrees_with_equal_tables_and_prints_nothing(capsys):
    train = people(60, 0)
    schema = Schema.infer(train)
    features = Features.fit(schema, [train])
    numbers_NC = features.numbers(train)
    scores = quality(schema, features, numbers_NC, numbers_NC, numbers_NC)
    assert scores["synthetic"]["quality"]["Column Shapes"] == pytest.approx(1)
    assert scores["synthetic"]["diagnostic"]["overall"] == pytest.approx(1)
    assert capsys.readouterr().out == ""


def test_unknown_target_names_the_nearest_column():
    with pytest.raises(UserError, match=r'"anwser".*"answer"'):
        evaluate(people(40, 0), people(40, 1), people(40, 2), target="anwser", out=None)


def test_constant_target_is_refused():
    test = with_column(people(40, 1), "answer", ["yes"] * 40)
    with pytest.raises(UserError, match='"answer" is constant in the test rows'):
        evaluate(people(40, 0), test, people(40, 2), target="answer", out=None)


def test_other_columns_are_named():
    synth = people(40, 2)
    renamed = Table(("age", "income", "town", "answer"), synth.cells)
    with pytest.raises(UserError, match=r'synthetic table .* it lacks "city"; only it has "town"'):
        evaluate(people(40, 0), people(40, 1), renamed, target=None, out=None)


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="the test table has 5 rows: at least 20"):
        evaluate(people(40, 0), people(5, 1), people(40, 2), target=None, out=None)


def test_files_give_a_report_on_stdout_as_text_or_json(tmp_path, capsys):
    paths = []
    for name, table in (("train", people(60, 0)), ("test", people(40, 1)), ("synth", people(40, 2))):
        paths.append(str(tmp_path / f"{name}.csv"))
        with open(paths[-1], "w", newline="") as stream:
            write_rows(table, stream, "csv")
    evaluate_files(*paths, target=None, out=None, seeds=1, as_json=True, fail_over=1.0, threads=1)
    assert json.loads(capsys.readouterr().out)["rows"] == {"train": 60, "test": 40, "synthetic": 40}

    with pytest.raises(AnswerNo, match="two-sample AUC"):
        evaluate_files(*paths, target=None, out=None, seeds=1, as_json=False, fail_over=0.0, threads=1)
    assert "two-sample test" in capsys.readouterr().out

    foreign = tmp_path / "report.json"
    foreign.write_text('{"judged": {}}')
    with pytest.raises(UserError, match="no report of disc-train evaluate"):
        evaluate_files(*paths, target=None, out=tmp_path, seeds=1, as_json=False, fail_over=None, threads=1)
    assert foreign.read_text() == '{"judged": {}}'


def test_only_one_table_can_be_stdin():
    with pytest.raises(UserError, match="stdin"):
        evaluate_files("-", "-", "x.csv", None, None, 1, False, None, 1)
