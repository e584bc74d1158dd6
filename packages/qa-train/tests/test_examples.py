import hashlib
import io
import json
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.examples import Example, Metadata, printable, read_examples, read_recorded, write_examples
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


characters = st.characters(codec="utf-8", exclude_categories=["Cc"])
texts = st.text(characters, min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def examples(draw):
    story = tuple(draw(st.lists(texts, min_size=1, max_size=4)))
    numbers = {"num_actors": draw(st.integers(0, 99)), "hops": draw(st.none() | st.integers(0, 99))}
    answer = draw(st.sampled_from(["yes", "no"]))
    category = draw(texts.filter(lambda name: "/" not in name))
    return Example("", story, draw(texts), answer, category, num_sentences=len(story), **numbers)


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
        ({"category": "a/b"}, 'the category "a/b" has a "/"'),
        ({"category": "\x1b[31mred"}, "the category has the control character U+001B"),
        ({"id": "\x9b2J"}, "the id has the control character U+009B"),
        ({"story": ["Ann walks\x00 north."]}, "sentence 1 of the story has the control character U+0000"),
        ({"question": "Do Ann and Zoe face the same way?"}, "the question is about Zoe, of whom the story says"),
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


@pytest.mark.parametrize("need_answers", [True, False])
def test_an_actor_who_is_not_in_the_story_is_refused(file, need_answers):
    path = file([{**MINIMAL, "question": "Do Zoe and Ann face the same way?"}])
    with pytest.raises(UserError, match=r"line 1: the question is about Zoe, of whom"):
        read_examples(path, need_answers=need_answers)


def test_another_grammar_may_ask_about_anybody(file):
    line = {**MINIMAL, "story": [*MINIMAL["story"], "Cat sings."], "question": "Do Zoe and Ann face the same way?"}
    assert read_examples(file([line]))[0].hops is None


def test_keys_of_no_meaning_are_named_once_a_file(file, capsys):
    path = file([{**MINIMAL, "catgory": "simple"}, {**MINIMAL, "catgory": "dense", "\x1bnote": 1}])
    assert [example.category for example in read_examples(path)] == ["all", "all"]
    assert capsys.readouterr().err == (
        f'warning: {path}: keys of no meaning here are left out: "catgory" (line 1), "\\u001bnote" (line 2); '
        "known are story, question, answer, id, category, num_actors, num_sentences, hops\n"
    )


def test_a_file_without_other_keys_warns_of_nothing(file, capsys):
    read_examples(file([LINE]))
    assert capsys.readouterr().err == ""


def test_what_was_read_is_recorded(file, monkeypatch):
    path = file([LINE])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_recorded(path) == ([EXAMPLE], {"path": str(path.resolve()), "sha256": digest, "rows": 1})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert read_recorded("-")[1] == {"path": "stdin", "sha256": digest, "rows": 1}


def test_control_characters_are_written_out():
    assert printable("é \x1b[31m\x9b\n") == "é \\x1b[31m\\x9b\\x0a"
