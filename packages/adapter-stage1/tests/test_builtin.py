from adapter_stage1.builtin import facts, load_examples
from adapter_stage1.score import exact_match


def test_built_in_answers_stand_in_their_texts_and_no_text_is_in_both_sets():
    train, test = load_examples("builtin:facts"), load_examples("builtin:facts-test")
    assert (len(train), len(test)) == (1600, 400)
    assert all(example.answers[0] in example.context for example in train + test)
    assert not {example.context for example in train} & {example.context for example in test}
    assert len({example.id for example in train + test}) == 2000
    assert facts("builtin:facts") == train


def test_no_single_reply_answers_many_questions():
    examples = load_examples("builtin:facts-test")
    replies = {example.answers[0] for example in examples}
    most = max(sum(exact_match(reply, example.answers[0]) for example in examples) for reply in replies)
    assert most < 0.05 * len(examples)
