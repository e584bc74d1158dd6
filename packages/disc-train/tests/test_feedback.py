import csv
import io
import json

import numpy as np
import pytest

from disc_train.data import read_table
from disc_train.feedback import Judge
from disc_train.text import row_to_text
from trainworks.console import UserError

COLUMNS = ("color", "size", "age", "visits", "income")
ROW = dict(zip(COLUMNS, ("red", "S", "30", "3", "3000.00"), strict=True))


def text_of(**cells):
    row = ROW | cells
    return row_to_text(list(row), list(row.values()))


@pytest.fixture(scope="module")
def judge(trained):
    return Judge(trained)


def assert_same(one, other):
    """Equal but for the last bits, which differ with the number of rows judged at once."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == pytest.approx(other[name], abs=1e-5), name


def test_feedback_has_four_levels_of_probabilities(judge):
    answer = judge.get_multi_level_feedback("color is red, size is S, age is 30, visits is 3, income is 3000.00")
    assert {"token", "sentence", "row", "features"} <= answer.keys()
    for level in ("features", "tokens", "sentences"):
        assert tuple(answer[level]) == COLUMNS
        assert all(0 < value < 1 for value in answer[level].values())
    assert all(0 < answer[level] < 1 for level in ("token", "sentence", "row"))
    assert answer["token"] == pytest.approx(np.mean(list(answer["tokens"].values())))
    assert answer["sentence"] == pytest.approx(np.mean(list(answer["sentences"].values())))
    assert answer["invalid"] == {}


def test_the_order_of_the_clauses_makes_no_difference(judge):
    forward = row_to_text(list(ROW), list(ROW.values()))
    backward = row_to_text(list(ROW)[::-1], list(ROW.values())[::-1])
    assert forward != backward
    assert judge.get_multi_level_feedback(forward) == judge.get_multi_level_feedback(backward)


def test_feedback_depends_on_the_row(judge):
    answers = [judge.get_multi_level_feedback(text_of(size=size)) for size in ("S", "M", "L")]
    assert len({answer["row"] for answer in answers}) == 3
    assert len({answer["features"]["color"] for answer in answers}) == 3, "a feature is judged given the other cells"


def test_a_cell_that_cannot_stand_in_its_column_is_certainly_not_real(judge):
    answer = judge.get_multi_level_feedback(text_of(color="purple", age="31.5"))
    assert answer["row"] == 0
    assert answer["invalid"].keys() == {"color", "age"}
    assert answer["invalid"]["color"] == "is no known category"
    for level in ("features", "tokens", "sentences"):
        assert answer[level]["color"] == answer[level]["age"] == 0
        assert answer[level]["size"] > 0


def test_a_missing_cell_is_judged_where_training_had_missing_ones(judge):
    assert judge.get_multi_level_feedback(text_of(income=None))["invalid"] == {}
    assert judge.get_multi_level_feedback(text_of(color=None))["invalid"].keys() == {"color"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("color is red, size", '" is " was wanted'),
        ("", "a column name was wanted"),
        ("color is red", 'no column "size"'),
        (text_of(weight="3"), 'no column "weight"'),
    ],
)
def test_text_that_is_no_row_is_refused(judge, text, message):
    with pytest.raises(UserError, match=message):
        judge.get_multi_level_feedback(text)


def test_the_command_gives_one_json_object_a_row(run_dir, disc_train, judge, fresh_csv):
    ended = disc_train("feedback", run_dir, fresh_csv, "--json")
    assert ended.status == 0, ended.err
    table = read_table(fresh_csv)
    answers = [json.loads(line) for line in ended.out.splitlines()]
    assert len(answers) == len(table)
    for row in (0, 123):
        text = row_to_text(table.columns, [cells[row] for cells in table.cells])
        assert_same(answers[row], judge.get_multi_level_feedback(text))


def test_the_command_gives_csv_and_counts_invalid_cells(run_dir, disc_train):
    rows = "color,size,age,visits,income\nred,S,30,3,3000.00\nmauve,S,300,3,3000.00\n"
    ended = disc_train("feedback", run_dir, "-", stdin=rows)
    first, second = csv.DictReader(io.StringIO(ended.out))
    assert list(first) == ["token", "sentence", "row", "feature", "invalid"]
    assert first["invalid"] == "0"
    assert 0 < float(first["row"]) < 1
    assert (second["row"], second["invalid"]) == ("0.0000", "2")


def test_calibrated_feedback_is_about_a_half_on_average(judge, trained, fresh_csv):
    """The generator is close, so nobody can be sure: real rows get a bit more than a half, drawn ones a bit less."""
    from disc_train.sample import Wanted, sample_rows

    (drawn,) = sample_rows(trained, Wanted(300), seed=1)
    real = read_table(fresh_csv)
    scores = [np.mean([answer["row"] for answer in judge.judge(rows) if answer["row"]]) for rows in (real, drawn)]
    assert scores[0] > scores[1]
    assert scores[1] > 0.2
