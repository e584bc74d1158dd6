import io
import json
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.data import (
    Example,
    Metadata,
    check_disjoint,
    prepare_jsonl,
    read_examples,
    split,
    write_directory,
    write_examples,
)
from qa_train.stories import StorySettings, generate
from trainworks.console import UserError

LINE = {
    "id": "a",
    "story": ["Ann walks north.", "Bob follows Ann."],
    "question": "Do Ann and Bob face the same way?",
    "answer": "yes",
    "category": "simple",
    "num_actors": 2,
    "num_sentences": 2,
    "hops": 1,
}
EXAMPLE = Example("a", tuple(LINE["story"]), LINE["question"], "yes", "simple", 2, 2, 1)
MINIMAL = {key: LINE[key] for key in ("story", "question", "answer")}


@pytest.fixture
def file(tmp_path):
    def write(content, name="stories.jsonl"):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(line) + "\n" for line in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


texts = st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def examples(draw):
    story = tuple(draw(st.lists(texts, min_size=1, max_size=4)))
    numbers = {"num_actors": draw(st.integers(0, 99)), "hops": draw(st.none() | st.integers(0, 99))}
    answer = draw(st.sampled_from(["yes", "no"]))
    return Example("", story, draw(texts), answer, draw(texts), num_sentences=len(story), **numbers)


@given(st.lists(examples(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(drawn):
    drawn = [replace(example, id=str(number)) for number, example in enumerate(drawn)]
    written = io.StringIO()
    write_examples(drawn, written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written.getvalue().encode())))
        assert read_examples("-") == drawn


def test_generated_stories_survive_a_file(tmp_path):
    made = generate(StorySettings((2, 4), 4), 0)
    write_examples(made, tmp_path / "made.jsonl")
    assert read_examples(tmp_path / "made.jsonl") == made


def test_ones_own_file_needs_only_story_question_and_answer(file):
    assert read_examples(file([MINIMAL])) == [replace(EXAMPLE, id="1", category="all")]


def test_hops_are_worked_out_of_the_built_in_grammar_alone(file):
    foreign = {"story": ["Mary moved on.", "Then Ann met Bob."], "question": "Is Mary here?", "answer": "No"}
    other_question = {**MINIMAL, "question": "Is Ann here?"}
    read = read_examples(file([foreign, other_question, MINIMAL]))
    assert [(example.num_actors, example.hops) for example in read] == [(2, None), (2, None), (2, 1)]
    assert read[0].answer == "no"


@pytest.mark.parametrize("story", ["Ann walks north. Bob follows Ann.", "Ann walks north.|Bob follows Ann."])
def test_a_story_may_be_one_text(file, story):
    assert read_examples(file([{**LINE, "story": story}])) == [EXAMPLE]


def test_csv_has_the_keys_as_columns(file):
    content = (
        "id,story,question,answer,hops\n"
        'a,"Ann walks north.\nBob follows Ann.",Do Ann and Bob face the same way?,yes,1\n'
        "\n"
        "b,Mary moved on.|She came back.,Is Mary here?,NO,\n"
    )
    first, second = read_examples(file(content, "stories.csv"))
    assert first == replace(EXAMPLE, category="all")
    assert second == Example("b", ("Mary moved on.", "She came back."), "Is Mary here?", "no", "all", 0, 2, None)


@pytest.mark.parametrize("answer", [{}, {"answer": None}, {"answer": ""}])
def test_answers_are_not_needed_to_predict(file, answer):
    line = {"story": LINE["story"], "question": LINE["question"], **answer}
    assert [example.answer for example in read_examples(file([line]), need_answers=False)] == [""]
    with pytest.raises(UserError, match=r"line 1: .*answer"):
        read_examples(file([line]))


def without(key):
    return {name: value for name, value in LINE.items() if name != key}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (without("answer"), 'no "answer"'),
        ({"answer": None}, "the answer is missing; it is yes or no"),
        ({"answer": ""}, "the answer is missing; it is yes or no"),
        ({"answer": "maybe"}, 'the answer is "maybe"; it must be yes or no'),
        ({"answer": True}, "the answer is true; it must be yes or no"),
        ({"answer": 1}, "the answer is 1; it must be yes or no"),
        ({"id": "a"}, 'id "a" is taken by line 1'),
        ({"id": 7}, '"id" is a number, and in line 1 text'),
        ({"id": None}, '"id" is null, and in line 1 text'),
        (without("id"), 'lacks "id", which line 1 has'),
        (without("hops"), 'lacks "hops", which line 1 has'),
        ({"story": []}, "the story is empty"),
        ({"story": "Ann walks north."}, '"story" is text, and in line 1 a list'),
        ({"story": ["Ann walks north.", ""]}, "sentence 2 of the story is empty"),
        ({"story": ["Ann walks north.", 5]}, "sentence 2 of the story is a number"),
        ({"story": ["Ann walks north.", "\ud800"]}, "half a character"),
        ({"story": ["Ann walks north."] * 5000}, "the story has 5,000 sentences; at most 1,000 can be read"),
        ({"question": " "}, "the question is empty"),
        ({"question": ["?"]}, "the question is a list; text was wanted"),
        ({"category": None}, "the category is null; text was wanted"),
        ({"num_sentences": 3}, '"num_sentences" is 3 and the story has 2'),
        ({"num_actors": -1}, '"num_actors" is -1; a whole number'),
        ({"hops": "two"}, '"hops" is "two"; a whole number'),
        ({"hops": True}, '"hops" is true; a whole number'),
        ("Ann walks north.", "not a JSON object"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(file, second, reason):
    if isinstance(second, dict) and len(second) == 1:
        second = {**LINE, "id": "b", **second}
    path = file([LINE, second])
    with pytest.raises(UserError) as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"{path}, line 2: ")
    assert reason in str(refused.value)


def test_a_key_that_only_later_lines_have_is_named(file):
    with pytest.raises(UserError, match=r'line 2: has "category", which line 1 has not'):
        read_examples(file([MINIMAL, {**MINIMAL, "category": "simple"}]))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.csv", "story,question,answer\n", r"a\.csv is empty"),
        ("a.jsonl", '{"story"\n', "line 1: not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", b'{}\n{"story": "\xff"}\n', "line 2: not UTF-8"),
        ("a.jsonl", b"\x80\x04\x95K.", "line 1: not UTF-8"),  # what pickle writes
        ("a.csv", "story,question,answer\nA walks.,Q?\n", "line 2: 2 cells where the header names 3"),
        ("a.csv", 'story,question,answer\n"A\nwalks.",Q?,yes\nB.,Q?,perhaps\n', 'line 4: the answer is "perhaps"'),
        ("a.csv", 'story,question,answer\n"A walks.,Q?,yes\n', "line 2: not CSV"),
        ("a.csv", "story,story,answer\nA,B,yes\n", "line 1: the header names a column twice"),
        ("a.csv", "story,question,answer,hops\nA.,Q?,yes,few\n", 'line 2: "hops" is "few"'),
        ("a.csv", "story,question,answer,num_sentences\n |,Q?,yes,0\n", "line 2: the story is empty"),
    ],
)
def test_a_bad_file_is_refused(file, name, content, reason):
    with pytest.raises(UserError, match=reason):
        read_examples(file(content, name))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*absent\.jsonl"):
        read_examples(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="is a directory"):
        read_examples(tmp_path)


def test_metadata_follow_the_examples():
    metadata = Metadata.of([EXAMPLE, replace(EXAMPLE, id="b", category="dense", hops=None)])
    assert metadata.ids == ["a", "b"]
    assert metadata.category.tolist() == ["simple", "dense"]
    assert metadata.num_actors.tolist() == metadata.num_sentences.tolist() == [2, 2]
    assert metadata.hops.tolist() == [1, -1]


def test_a_split_keeps_the_shares_of_every_cell_and_answer():
    made = generate(StorySettings((2, 4), 20, ("simple", "dense")), 0)
    parts = split(made, valid=0.1, test=0.2, seed=5)
    assert {name: len(part) for name, part in parts.items()} == {"train": 84, "valid": 12, "test": 24}
    assert sorted(e.id for part in parts.values() for e in part) == sorted(e.id for e in made)
    for name, share in (("valid", 1), ("test", 2), ("train", 7)):
        counts = Counter((e.category, e.num_actors, e.answer) for e in parts[name])
        assert len(counts) == 12
        assert all(abs(count - share) <= 1 for count in counts.values())
    assert split(made, valid=0.1, test=0.2, seed=5) == parts
    assert split(made, valid=0.1, test=0.2, seed=6) != parts


@given(st.lists(st.integers(0, 12), min_size=30, max_size=60), st.integers(0, 99))
def test_questions_about_one_story_stay_together(stories, seed):
    drawn = [replace(EXAMPLE, id=str(i), story=(f"Story {story}.",)) for i, story in enumerate(stories)]
    try:
        parts = split(drawn, valid=0.2, test=0.2, seed=seed)
    except UserError:  # a story that many ask about can be too large for a share
        return
    check_disjoint(parts)
    assert sum(map(len, parts.values())) == len(drawn)


@pytest.mark.parametrize(("valid", "test"), [(0, 0.2), (1.0, 0), (0.5, 0.5), (-0.1, 0), (0.1, -0.1)])
def test_impossible_shares_are_refused(valid, test):
    with pytest.raises(UserError, match="must leave something for training"):
        split([EXAMPLE], valid=valid, test=test)


def test_too_few_stories_to_split_are_refused():
    with pytest.raises(UserError, match="1 stories are too few"):
        split([EXAMPLE, replace(EXAMPLE, id="b")], valid=0.1, test=0.2)


def test_ones_own_file_becomes_a_data_directory(file, tmp_path):
    source = file([{**MINIMAL, "story": [*MINIMAL["story"], f"Bob met {i}."]} for i in range(20)], "mine.jsonl")
    out = prepare_jsonl(source, tmp_path / "data", valid=0.1, test=0.2)
    sizes = {name: len(read_examples(out / f"{name}.jsonl")) for name in ("train", "valid", "test")}
    assert sizes == {"train": 14, "valid": 2, "test": 4}
    assert json.loads((out / "data.json").read_text())["settings"] == {
        "source": "file", "file": "mine.jsonl", "valid": 0.1, "test": 0.2, "seed": 0,
    }  # fmt: skip


def test_a_story_in_two_splits_is_refused(tmp_path):
    other = replace(EXAMPLE, id="z", question="Do Bob and Ann face the same way?")
    with pytest.raises(UserError, match=r'valid, id "z": its story is also in train \(id "a"\)'):
        write_directory(tmp_path / "data", {"train": [EXAMPLE], "valid": [other]}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_data_and_nothing_else(tmp_path, monkeypatch):
    out = write_directory(tmp_path / "data", {"train": [EXAMPLE]}, {})
    before = (out / "train.jsonl").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qa_train.data.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write_directory(out, {"train": [replace(EXAMPLE, answer="no")]}, {}, overwrite=True)
    assert (out / "train.jsonl").read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
