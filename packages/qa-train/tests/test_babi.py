import json

import pytest

from qa_train.babi import prepare_babi, read_babi
from qa_train.examples import Example, read_examples
from trainworks.console import UserError

STORIES = """\
1 Mary moved to the bathroom.
2 Sandra journeyed to the bedroom.
3 Is Sandra in the hallway? \tno\t2
4 Mary went back to the bedroom.
5 Is Mary in the bedroom? \tyes\t4
1 John went to the garden.
2 Is John in the garden? \tyes\t1
"""


@pytest.fixture
def task(tmp_path):
    def write(**splits):
        for name in ("train", "valid", "test"):
            city = {"train": "Rome", "valid": "Bern", "test": "Oslo"}[name]
            text = splits.get(name, f"1 Mary went to {city}.\n2 Is Mary in {city}? \tyes\t1\n")
            (tmp_path / f"qa6_{name}.txt").write_text(text)
        return tmp_path

    return write


def test_each_question_is_about_the_story_so_far(task):
    examples = read_babi(task(train=STORIES) / "qa6_train.txt")
    story = ("Mary moved to the bathroom.", "Sandra journeyed to the bedroom.", "Mary went back to the bedroom.")
    assert examples == [
        Example("qa6-train-3", story[:2], "Is Sandra in the hallway?", "no", "qa6", 2, 2, None),
        Example("qa6-train-5", story, "Is Mary in the bedroom?", "yes", "qa6", 2, 3, None),
        Example("qa6-train-7", ("John went to the garden.",), "Is John in the garden?", "yes", "qa6", 1, 1, None),
    ]


def test_the_official_splits_become_the_data_directory(task, tmp_path):
    directory = task(train=STORIES)
    out = prepare_babi("qa6", directory, tmp_path / "data")
    assert read_examples(out / "train.jsonl") == read_babi(directory / "qa6_train.txt")
    assert [example.id for example in read_examples(out / "test.jsonl")] == ["qa6-test-2"]


def test_the_test_set_stays_whole_and_its_stories_leave_the_others(task, tmp_path, capsys):
    shared = "1 John went to the garden.\n2 Is John in the hall? \tno\t1\n"
    valid = shared + "1 Mary went to Bern.\n2 Is Mary in Bern? \tyes\t1\n"
    out = prepare_babi("qa6", task(train=STORIES, valid=valid, test=shared), tmp_path / "data")
    ids = {name: [e.id for e in read_examples(out / f"{name}.jsonl")] for name in ("train", "valid", "test")}
    assert ids == {"train": ["qa6-train-3", "qa6-train-5"], "valid": ["qa6-valid-4"], "test": ["qa6-test-2"]}
    assert "1 of 3 questions left out of train" in capsys.readouterr().err
    assert json.loads((out / "data.json").read_text())["settings"] == {
        "source": "babi", "task": "qa6", "left_out": {"train": 1, "valid": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 Fred is in Rome.\n2 Is Fred in Bern? \tmaybe\t1\n", 'line 2: the answer is "maybe"; only tasks'),
        ("1 Fred is in Rome.\n3 Is Fred in Bern? \tno\t1\n", "line 2: .* is not of the bAbI tasks"),
        ("Fred is in Rome.\n", "line 1: .* is not of the bAbI tasks"),
        ("1 Is Fred in Bern? \tno\t1\n", "line 1: a question before the story's first sentence"),
        ("1 Fred is in Rome.\n", "holds no questions"),
        ("", "holds no questions"),
        ("1 Fred is in \x1b[31mRome.\n", r"line 1: the sentence has the control character U\+001B"),
        ("1 Fred is in Rome.\n2 Is Fred in Rome? \t\x1b[2J\t1\n", r'line 2: the answer is "\\x1b\[2j"; only tasks'),
    ],
)
def test_a_file_that_is_no_yes_no_task_is_refused_whole(task, tmp_path, text, reason):
    with pytest.raises(UserError, match=rf"qa6_valid\.txt.* {reason}"):
        prepare_babi("qa6", task(valid=text), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_missing_file_is_named_with_where_people_get_it(task, tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*qa17_test\.txt; the folders en-valid"):
        prepare_babi("qa17", task(), tmp_path / "data")
