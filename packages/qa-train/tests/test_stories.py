import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qa_train.examples import read_examples, story_hash
from qa_train.grammar import DIRECTIONS, answer, hops, parse, parse_question, simulate, trace, write_question
from qa_train.stories import CATEGORIES, StorySettings, default_splits, generate, make_stories
from trainworks.console import UserError
from trainworks.files import sha256_file

SMALL = StorySettings((2, 5), 20)


@st.composite
def questions(draw):
    """A story of the generator with a question about any two of its actors."""
    actors = draw(st.integers(2, 6))
    settings = StorySettings((actors, actors), 1, ("superdense",), draw(st.sampled_from([2, 4])))
    story = list(generate(settings, draw(st.integers(0, 10**6)))[0].story)
    first, second = draw(st.permutations(sorted(simulate(story)[1])))[:2]
    return story, write_question(first, second)


def dependencies(story, question):
    events = [parse(sentence) for sentence in story]
    first, second = (set(trace(events, actor)) for actor in parse_question(question))
    return first, second


def test_a_story_is_simulated_sentence_by_sentence():
    story = [
        "Ann walks north.",
        "Bob walks west.",
        "Bob follows Ann.",
        "Ann turns left.",
        "Cat goes in the opposite direction of Bob.",
        "Cat turns right.",
        "Bob turns around.",
    ]
    directions, facing = simulate(story)
    assert [DIRECTIONS[direction] for direction in directions] == [
        "north", "west", "north", "west", "south", "west", "south",
    ]  # fmt: skip
    assert {name: DIRECTIONS[direction] for name, direction in facing.items()} == {
        "Ann": "west",
        "Bob": "south",  # Ann's turn left does not move him: he took the direction that she had then
        "Cat": "west",
    }
    assert answer(story, "Do Ann and Cat face the same way?") == "yes"
    assert answer(story, "Do Bob and Cat face the same way?") == "no"


def test_a_trace_goes_back_through_those_who_were_followed_to_a_walk():
    story = [
        "Ann walks north.",
        "Bob walks west.",
        "Bob follows Ann.",
        "Ann turns left.",
        "Cat walks east.",
        "Cat goes in the opposite direction of Bob.",
        "Cat turns left.",
    ]
    events = [parse(sentence) for sentence in story]
    assert trace(events, "Cat") == [0, 2, 5, 6]
    assert trace(events, "Ann") == [0, 3]
    assert hops(story, "Do Ann and Cat face the same way?") == 2
    assert hops(story, "Do Bob and Cat face the same way?") == 1  # that Bob follows Ann turns both alike


@given(questions(), st.data())
def test_only_sentences_in_exactly_one_trace_can_change_the_answer(question, data):
    story, asked = question
    first, second = dependencies(story, asked)
    other = data.draw(st.sampled_from(range(len(story))))
    assume(other not in first ^ second)
    without = story[:other] + story[other + 1 :]
    if parse(story[other]).action == "walks":  # it may be an introduction, which the story needs
        without.insert(other, f"{parse(story[other]).subject} walks {data.draw(st.sampled_from(DIRECTIONS))}.")
    assert answer(without, asked) == answer(story, asked)


@given(questions(), st.data())
def test_each_hop_turned_to_its_opposite_turns_a_yes_to_no(question, data):
    story, asked = question
    first, second = dependencies(story, asked)
    hop_sentences = sorted(index for index in first ^ second if parse(story[index]).is_two_actor)
    assert hops(story, asked) == len(hop_sentences)
    assume(hop_sentences and answer(story, asked) == "yes")
    event = parse(story[changed := data.draw(st.sampled_from(hop_sentences))])
    story[changed] = (
        f"{event.subject} goes in the opposite direction of {event.other}."
        if event.action == "follows"
        else f"{event.subject} follows {event.other}."
    )
    assert answer(story, asked) == "no"


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Ann walks up.", "is no sentence of the stories"),
        ("Ann follows Ann.", "is no sentence of the stories"),
        ("Ann walks north", "is no sentence of the stories"),
        ("Ann turns left.", 'sentence 2, "Ann turns left.": Ann has no direction yet'),
        ("Cat follows Ann.", 'sentence 2, "Cat follows Ann.": Ann has no direction yet'),
    ],
)
def test_a_sentence_that_says_nothing_is_refused(sentence, reason):
    with pytest.raises(UserError, match=reason):
        simulate(["Bob walks north.", sentence])


@pytest.mark.parametrize("question", ["Do Ann and Ann face the same way?", "Where is Ann?"])
def test_another_question_is_refused(question):
    with pytest.raises(UserError, match="is no question of the stories"):
        parse_question(question)


@pytest.mark.parametrize("balance_hops", [False, True])
@pytest.mark.parametrize("directions", [2, 4])
def test_what_is_said_of_a_generated_story_is_true(balance_hops, directions):
    for example in generate(StorySettings((2, 7), 6, directions=directions, balance_hops=balance_hops), 1):
        events = [parse(sentence) for sentence in example.story]
        introduced, later = events[: example.num_actors], events[example.num_actors :]
        assert example.answer == answer(example.story, example.question)
        assert example.hops == hops(example.story, example.question)
        assert len({event.subject for event in introduced}) == example.num_actors == len(simulate(example.story)[1])
        assert {event.action for event in introduced} == {"walks"}
        assert max(example.num_actors + 2, 5) <= example.num_sentences == len(example.story) <= 3 * example.num_actors
        if directions == 2:
            assert {event.where for event in later} <= {"north", "south", "around", ""}


@pytest.mark.parametrize("balance_hops", [False, True])
@pytest.mark.parametrize("per_cell", [1, 20, 21])
def test_every_cell_has_as_many_yes_as_no(per_cell, balance_hops):
    cells = defaultdict(Counter)
    for example in generate(replace(SMALL, per_cell=per_cell, balance_hops=balance_hops), 0):
        cells[example.category, example.num_actors][example.answer] += 1
    assert set(cells) == {(category, actors) for category in CATEGORIES for actors in (2, 3, 4, 5)}
    for counts in cells.values():
        assert counts["yes"] + counts["no"] == per_cell
        assert abs(counts["yes"] - counts["no"]) == per_cell % 2


def test_balanced_hops_come_equally_often_with_both_answers():
    examples = generate(StorySettings((12, 12), 84, ("superdense",), balance_hops=True), 0)
    counts = Counter((example.hops, example.answer) for example in examples)
    assert counts == {(number, said): 6 for number in range(7) for said in ("yes", "no")}


def test_hops_that_two_actors_cannot_reach_leave_their_share_to_the_others():
    examples = generate(StorySettings((2, 2), 60, ("simple",), balance_hops=True), 0)
    counts = Counter(example.hops for example in examples)
    assert sum(counts.values()) == 60
    assert max(counts) <= 4  # two actors have four events at most
    assert abs(counts[0] - counts[1]) <= 2 < counts[1]


@pytest.mark.parametrize(("category", "share"), CATEGORIES.items())
def test_a_category_is_its_share_of_two_actor_sentences(category, share):
    examples = generate(StorySettings((8, 8), 200, (category,)), 0)
    later = [parse(sentence) for example in examples for sentence in example.story[8:]]
    assert sum(event.is_two_actor for event in later) / len(later) == pytest.approx(share, abs=0.05)
    counts = Counter(event.action for event in later)
    assert counts["follows"] / (counts["follows"] + counts["opposite"]) == pytest.approx(0.5, abs=0.06)
    assert counts["walks"] / (counts["walks"] + counts["turns"]) == pytest.approx(0.5, abs=0.08)


def test_all_names_occur_with_small_casts():
    names = {parse(sentence).subject for example in generate(SMALL, 0) for sentence in example.story}
    assert len(names) == 30


def test_the_seed_alone_decides():
    assert generate(SMALL, 7) == generate(SMALL, 7)
    assert generate(SMALL, 7) != generate(SMALL, 8)


def test_no_story_comes_again():
    taken = set()
    drawn = [example for seed in (0, 0, 1) for example in generate(SMALL, seed, taken=taken)]
    assert len({story_hash(example.story) for example in drawn}) == len(drawn) == len(taken)


def test_a_data_directory_has_small_casts_to_learn_and_large_ones_to_be_tested(tmp_path):
    out = make_stories(tmp_path / "data", default_splits(train=4, valid=2, valid_b=2, test=2), seed=3)
    casts = {"train": (2, 8), "valid": (2, 8), "valid-b": (9, 20), "test": (21, 30)}
    splits = {name: read_examples(out / f"{name}.jsonl") for name in casts}
    for name, cast in casts.items():
        assert {example.num_actors for example in splits[name]} == set(range(cast[0], cast[1] + 1))
    for one, other in combinations(splits.values(), 2):
        assert not {example.story for example in one} & {example.story for example in other}
    described = json.loads((out / "data.json").read_text())
    assert described["settings"]["seed"] == 3
    assert described["splits"]["test"]["sha256"] == sha256_file(out / "test.jsonl")
    assert described["splits"]["test"]["examples"] == len(splits["test"])
    assert described["splits"]["train"]["cells"]["dense/noun_8"]["answers"] == {"yes": 2, "no": 2}
    assert not [path for path in tmp_path.iterdir() if path != out]


def test_a_split_of_size_0_is_left_out(tmp_path):
    out = make_stories(tmp_path / "data", default_splits(train=2, valid=2, valid_b=0, test=0, categories=["dense"]))
    assert sorted(path.name for path in out.iterdir()) == ["data.json", "train.jsonl", "valid.jsonl"]


def test_a_taken_directory_is_overwritten_only_where_asked_and_only_if_it_is_data(tmp_path):
    splits = {"train": StorySettings((2, 2), 2, ("dense",))}
    out = make_stories(tmp_path / "data", splits, seed=0)
    before = (out / "train.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"data exists; name another --out, or give --overwrite"):
        make_stories(out, splits, seed=1)
    assert (out / "train.jsonl").read_bytes() == before
    make_stories(out, splits, seed=1, overwrite=True)
    assert (out / "train.jsonl").read_bytes() != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(UserError, match="no data directory"):
        make_stories(tmp_path / "thesis", splits, overwrite=True)
    (tmp_path / "thesis" / "data.json").write_text('{"tool": "diversity-finetune"}')
    with pytest.raises(UserError, match="no data directory of qa-train"):
        make_stories(tmp_path / "thesis", splits, overwrite=True)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"actors": (1, 3)}, "actors are from 2 to 30"),
        ({"actors": (2, 31)}, "actors are from 2 to 30"),
        ({"actors": (5, 4)}, "actors are from 2 to 30"),
        ({"per_cell": 0}, "stories per cell are at least 1"),
        ({"categories": ("simpel",)}, 'not "simpel"'),
        ({"categories": ("simple", "simple")}, "distinct names"),
        ({"directions": 3}, "directions are 2 or 4"),
        ({"max_hops": -1}, "max_hops is at least 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, reason):
    with pytest.raises(UserError, match=reason):
        replace(SMALL, **wrong)
