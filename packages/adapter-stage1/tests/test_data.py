import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap

from adapter_stage1.data import Example, by_article_split, choose_shots, read_examples, sample
from adapter_stage1.prompts import FORMATS, PromptFormat, build_prompt, trim_answer
from adapter_stage1.score import (
    best_over_answers,
    bootstrap_interval,
    bootstrap_ratio_interval,
    exact_match,
    f1_score,
    normalize_answer,
    score,
)
from trainworks.console import UserError

CONTEXT = "Café Éclair opened in Paris in 1901."
QUESTION = "Where did it open?"
LINE = {"context": CONTEXT, "question": QUESTION, "answers": ["Paris"]}


def qa(id="q1", start=22, text="Paris", **more):
    return {"id": id, "question": f" {QUESTION}", "answers": [{"text": text, "answer_start": start}], **more}


def squad(*qas, context=CONTEXT, title="Cafés"):
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


@pytest.fixture
def file(tmp_path):
    def write(content, name="squad.json"):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(line) + "\n" for line in content)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def examples(num_articles, questions_each):
    """Article a's context number c has (a + c) % 3 + 1 questions."""
    return [
        Example(
            f"{article}-{context}-{question}", f"text {article} {context} " * (context + 1), "what?", ("text",), article
        )
        for article in map(str, range(num_articles))
        for context in range(questions_each)
        for question in range((int(article) + context) % 3 + 1)
    ]


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_json_is_read(file, indent):
    content = json.dumps(squad(qa(), qa("q2", 31, "1901")), indent=indent)
    assert read_examples(file(content)) == [
        Example("q1", CONTEXT, QUESTION, ("Paris",), "Cafés"),
        Example("q2", CONTEXT, QUESTION, ("1901",), "Cafés"),
    ]


def test_equal_gold_answers_are_kept_once_and_in_order(file):
    several = qa() | {
        "answers": [{"text": text, "answer_start": CONTEXT.index(text)} for text in ("in", "Paris", "in")]
    }
    assert read_examples(file(squad(several)))[0].answers == ("in", "Paris")


def test_of_squad_v2_the_answerable_questions_are_read(file):
    impossible = {"id": "q2", "question": "Who?", "answers": [], "is_impossible": True}
    assert [example.id for example in read_examples(file(squad(impossible, qa(is_impossible=False))))] == ["q1"]


def test_offsets_count_from_the_context_as_written(file):
    (example,) = read_examples(file(squad(qa(start=24), context=f"\n {CONTEXT} ")))
    assert example == Example("q1", CONTEXT, QUESTION, ("Paris",), "Cafés")


@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own"])
def test_json_lines_need_only_context_question_and_answer(file, name):
    one = {**LINE, "answer": "Paris"}
    del one["answers"]
    hugging_face = {
        **LINE,
        "id": "x",
        "title": "Cafés",
        "answers": {"text": ["1901", "in 1901"], "answer_start": [31, 28]},
    }
    assert read_examples(file([one, hugging_face], name)) == [
        Example("1", CONTEXT, QUESTION, ("Paris",)),
        Example("x", CONTEXT, QUESTION, ("1901", "in 1901"), "Cafés"),
    ]


def test_lines_come_from_stdin_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\n{json.dumps(LINE)}\n".encode())))
    assert read_examples("-") == [Example("2", CONTEXT, QUESTION, ("Paris",))]


@pytest.mark.parametrize("answers", [{}, {"answers": []}, {"answers": None}])
def test_answers_are_not_needed_to_compress(file, answers):
    path = file([{"context": CONTEXT, "question": QUESTION, **answers}], "prompts.jsonl")
    assert read_examples(path, need_answers=False)[0].answers == ()
    with pytest.raises(UserError, match=r"line 1: no answers"):
        read_examples(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"squad\.json is empty"),
        (b'{"data": "\xff"}', "line 1: not UTF-8"),
        ('{"data":\n[', "line 2: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ({"rows": [1]}, 'line 1: no text "context"'),
        ("[1]", "neither SQuAD JSON"),
        ({"data": 3}, 'no list "data"'),
        ({"data": [{"title": "T"}]}, 'no list "paragraphs"'),
        ({"data": []}, "no answerable question"),
        (squad(qa(start=21)), r'"Cafés", question q1: the answer "Paris" is not at its answer_start 21, .* " Pari"'),
        (squad(qa(start=-14)), "answer_start"),
        (squad(qa(start="22")), "answer_start"),
        (squad(qa(text=None)), "question q1: an answer is not text"),
        (squad(qa(), qa()), 'id "q1" is taken by article "Cafés", question q1'),
        (squad({"question": "Who?"}), 'paragraph 1: a question without "id"'),
        (squad(qa(question="  ")), "question q1: the question is empty"),
        (squad(qa(), context=" "), "question q1: the context is empty"),
        (squad(qa(answers=[])), "question q1: no answers"),
        ([LINE, {**LINE, "answers": ["London"]}], 'line 2: the answer "London" is not in the context'),
        ([LINE, {**LINE, "answers": [" "]}], "line 2: the answer is empty"),
        ([LINE, {**LINE, "id": "1"}], 'line 2: id "1" is taken by line 1'),
        ([LINE, {**LINE, "question": None}], 'line 2: no text "question"'),
        ([LINE, {**LINE, "id": 1.5}], 'line 2: "id"'),
        ([LINE, {**LINE, "question": "\ud800"}], "line 2: the question has half a character"),
        ([LINE, [1]], "line 2: not a JSON object"),
        (json.dumps(LINE) + "\n{", "line 2: not JSON"),
    ],
)
def test_bad_input_is_refused_with_its_place(file, content, message):
    with pytest.raises(UserError, match=message) as refused:
        read_examples(file(content))
    assert "squad.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_path_that_is_missing_says_what_was_wanted(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*dev\.json; .*SQuAD"):
        read_examples(tmp_path / "dev.json")
    with pytest.raises(UserError, match="is a directory"):
        read_examples(tmp_path)


# Splits ---------------------------------------------------------------------------------------------------------------


def test_no_article_and_no_context_is_on_both_sides_of_a_split():
    whole = examples(20, 6)
    whole.append(replace(whole[0], id="copy", article="19"))  # a context that stands in two articles
    train, valid = by_article_split(whole, 0.2, seed=0)
    assert sorted(train + valid, key=whole.index) == whole
    assert not {example.context for example in train} & {example.context for example in valid}
    assert {example.article for example in train[:-1]}.isdisjoint(
        example.article for example in valid if example.id != "copy"
    )
    assert len(valid) / len(whole) == pytest.approx(0.2, abs=0.03)
    assert by_article_split(whole, 0.2, seed=0) == (train, valid)
    assert by_article_split(whole, 0.2, seed=1) != (train, valid)


@pytest.mark.parametrize("article", ["", "the only one"])
def test_contexts_are_split_where_articles_are_not_known(article):
    whole = [replace(example, article=article) for example in examples(20, 6)]
    train, valid = by_article_split(whole, 0.25, seed=0)
    assert not {example.context for example in train} & {example.context for example in valid}
    assert len(valid) / len(whole) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_neither_side_of_a_split_is_empty(share):
    assert all(by_article_split(examples(2, 3), share, seed=0))


def test_impossible_splits_are_refused():
    with pytest.raises(UserError, match="one context"):
        by_article_split(examples(1, 1), 0.5, seed=0)
    with pytest.raises(UserError, match=r"share of 1\.0"):
        by_article_split(examples(2, 2), 1.0, seed=0)


def test_a_larger_sample_holds_the_smaller_one():
    whole = examples(5, 6)
    small, large = sample(whole, 10, seed=3), sample(whole, 30, seed=3)
    assert [example for example in large if example in small] == small
    assert [example for example in whole if example in large] == large
    assert sample(whole, 10, seed=4) != small
    with pytest.raises(UserError, match=f"there are {len(whole)}"):
        sample(whole, 1000, seed=0)


# Scoring --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "answer", "normalised", "f1", "match"),
    [  # what evaluate-v1.1.py gives
        ("The Denver Broncos!", "denver broncos", "denver broncos", 1, 1),
        ("  Denver\tBroncos\n", "Denver Broncos", "denver broncos", 1, 1),
        ("Denver", "Denver Broncos", "denver", 2 / 3, 0),
        ("a", "the", "", 0, 1),
        ("", "Denver", "", 0, 0),
        ("The", "Denver", "", 0, 0),
        ("new york new york", "new york", "new york new york", 2 / 3, 0),
        ("New York", "york new york", "new york", 0.8, 0),
        ("the the cat cat", "cat", "cat cat", 2 / 3, 0),
        ("24–10", "24-10", "24–10", 0, 0),
        ("“gold”", '"gold"', "“gold”", 0, 0),
        ("café", "cafe", "café", 0, 0),
        ("ÉCOLE", "école", "école", 1, 1),
        ("Levi's Stadium", "Levis stadium", "levis stadium", 1, 1),
        ("anthem theatre", "the anthem", "anthem theatre", 2 / 3, 0),
        ("$5,000", "5000", "5000", 1, 1),
        ("U.S.A.", "usa", "usa", 1, 1),
        ("a-ha", "aha", "aha", 1, 1),
        ("well-known", "well known", "wellknown", 0, 0),
        ("rock–the–boat", "rock– –boat", "rock– –boat", 1, 1),
        ("half a mile", "half mile", "half mile", 1, 1),
        ("in the year 1066", "1066 AD", "in year 1066", 0.4, 0),
    ],
)
def test_scoring_is_that_of_the_official_script(prediction, answer, normalised, f1, match):
    assert normalize_answer(prediction) == normalised
    assert f1_score(prediction, answer) == pytest.approx(f1)
    assert exact_match(prediction, answer) == match


def test_the_best_gold_answer_counts_for_each_metric():
    answers = ("in Paris", "Paris")
    assert best_over_answers(f1_score, "Paris, France", answers) == pytest.approx(2 / 3)
    asked = Example("1", CONTEXT, QUESTION, answers)
    scores = score(["Paris", "Paris, France", "Rome"], [asked] * 3)
    np.testing.assert_allclose(scores["f1_N"], [100, 200 / 3, 0])
    np.testing.assert_allclose(scores["exact_match_N"], [100, 0, 0])
    assert (scores["f1"], scores["exact_match"]) == pytest.approx((500 / 9, 100 / 3))


def test_intervals_are_the_percentile_bootstraps():
    random = np.random.default_rng(0)
    baseline = random.uniform(0, 100, 200)
    f1 = 0.9 * baseline + random.normal(0, 20, 200)

    def reference(statistic, *data):
        found = bootstrap(
            data, statistic, paired=True, method="percentile", n_resamples=9999, rng=1
        ).confidence_interval
        return pytest.approx((found.low, found.high), rel=0.01)

    assert bootstrap_interval(f1, seed=0) == reference(np.mean, f1)
    ratio = bootstrap_ratio_interval(f1, baseline, seed=0)
    assert ratio == reference(lambda a, b, axis: a.mean(axis) / b.mean(axis), f1, baseline)
    assert bootstrap_ratio_interval(f1, baseline, seed=0) == ratio


def test_an_interval_narrows_with_its_level_and_memory_blocks_change_nothing(monkeypatch):
    values = np.arange(50.0)
    low, high = bootstrap_interval(values, seed=0, level=0.5)
    assert bootstrap_interval(values, seed=0)[0] < low < values.mean() < high < bootstrap_interval(values, seed=0)[1]
    monkeypatch.setattr("adapter_stage1.score._INDICES_AT_ONCE", 50 * 999)
    assert bootstrap_interval(values, seed=0, level=0.5) == (low, high)


def test_retention_of_a_baseline_that_knows_nothing_is_undefined():
    assert np.isnan(bootstrap_ratio_interval(np.ones(5), np.zeros(5), seed=0)).all()


# Prompts --------------------------------------------------------------------------------------------------------------

SHOT = Example("s", "The sky is {blue}.", "What is blue?", ("The\nsky",))
ASKED = Example("1", CONTEXT, QUESTION, ("Paris",))


def test_a_prompt_ends_where_the_answer_begins():
    assert build_prompt(FORMATS["squad"], [SHOT], ASKED) == (
        "Context: The sky is {blue}.\nQuestion: What is blue?\nAnswer: The sky\n\n"
        "Context: Café Éclair opened in Paris in 1901.\nQuestion: Where did it open?\nAnswer:"
    )


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_no_prompt_depends_on_the_answers_of_its_question(format):
    prompt = build_prompt(format, [SHOT, ASKED], ASKED)
    assert prompt == build_prompt(format, [SHOT], replace(ASKED, answers=()))
    assert all(text in prompt for text in (format.header, SHOT.context, "The sky", CONTEXT, QUESTION))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_an_answer_that_follows_the_shots_is_cut_out_whole(format):
    empty_prompt = build_prompt(format, [], SHOT)
    continued = build_prompt(format, [SHOT], ASKED).removeprefix(empty_prompt)
    assert trim_answer(continued, format) == "The sky"


def test_an_answer_ends_at_the_first_stop_string():
    format = replace(FORMATS["squad"], stop=("\n", "Question:"))
    assert trim_answer(" Paris Question: Who?\n", format) == "Paris"
    assert trim_answer(" in Paris ", format) == "in Paris"
    assert trim_answer("\nParis", format) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "{context} {question} {answer}"}, "query has the fields answer, context, question"),
        ({"shot": "{context} {question}"}, "shot has the fields context, question; it needs answer"),
        ({"shot": "{context"}, "shot: "),
        ({"stop": ()}, "stop strings"),
    ],
)
def test_a_format_that_cannot_work_is_refused(change, message):
    with pytest.raises(UserError, match=f'prompt format "own": .*{message}'):
        PromptFormat(
            **{
                "name": "own",
                "header": "",
                "shot": "{context}{question}{answer}",
                "query": "{context}{question}",
                "stop": ("\n",),
                **change,
            }
        )


def test_shots_are_short_and_from_different_articles():
    whole = examples(20, 6)
    shots = choose_shots(whole, 5, seed=0)
    assert len({shot.article for shot in shots}) == 5
    assert max(len(shot.context) for shot in shots) <= np.quantile([len(example.context) for example in whole], 0.2)
    assert choose_shots(whole, 5, seed=0) == shots
    assert choose_shots(whole, 5, seed=1) != shots


def test_shots_of_too_few_articles_have_different_contexts():
    shots = choose_shots(examples(2, 3), 4, seed=0)
    assert len({shot.context for shot in shots}) == 4
    with pytest.raises(UserError, match="6 different contexts"):
        choose_shots(examples(2, 3), 7, seed=0)
