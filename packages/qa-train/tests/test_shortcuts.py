import numpy as np
import pytest

from qa_train.examples import Example
from qa_train.shortcuts import majority_answer, shortcut_answers
from qa_train.stories import StorySettings, generate

STORY = ("Ann walks north.", "Bob walks east.", "Bob follows Ann.", "Ann turns right.")


def example(answer="no", story=STORY, question="Do Ann and Bob face the same way?"):
    return Example("1", story, question, answer, "all", 2, len(story), 1)


def test_each_shortcut_leaves_out_what_it_says():
    answers = shortcut_answers([example()], "no")
    assert {name: array.tolist() for name, array in answers.items()} == {
        "majority": [False],
        "ignore two-actor sentences": [True],  # Ann has turned to where Bob walks
        "ignore turns": [True],  # Bob has followed Ann to the north
    }
    assert all(array.dtype == bool for array in answers.values())


@pytest.mark.parametrize(
    ("answers", "commoner"), [({"yes": 3, "no": 4}, "no"), ({"yes": 4, "no": 4}, "yes"), ({}, "yes")]
)
def test_the_majority_is_the_commoner_answer(answers, commoner):
    assert majority_answer(answers) == commoner
    assert shortcut_answers([example("no"), example("yes")], commoner)["majority"].tolist() == [commoner == "yes"] * 2


def test_stories_of_another_grammar_have_the_majority_alone():
    foreign = example(story=("Mary moved to the bathroom.",), question="Is Mary in the bathroom?")
    assert list(shortcut_answers([example(), foreign], "yes")) == ["majority"]


def test_the_majority_answers_for_an_actor_of_whom_nothing_is_left():
    asked = [example(story=("Ann walks north.", "Bob follows Ann.", "Bob turns left."))]
    assert shortcut_answers(asked, "yes")["ignore two-actor sentences"].tolist() == [True]
    assert shortcut_answers(asked, "no")["ignore two-actor sentences"].tolist() == [False]


@pytest.mark.parametrize("balance_hops", [False, True])
def test_ignoring_two_actor_sentences_is_right_without_hops_and_a_coin_with_them(balance_hops):
    examples = generate(StorySettings((9, 10), 200, ("simple", "superdense"), balance_hops=balance_hops), 0)
    right = shortcut_answers(examples, "yes")["ignore two-actor sentences"] == [e.answer == "yes" for e in examples]
    hops = np.array([e.hops for e in examples])
    assert right[hops == 0].all()
    assert right[hops > 0].mean() == pytest.approx(0.5, abs=0.07)
    assert (right.mean() > 0.65) == (not balance_hops)
