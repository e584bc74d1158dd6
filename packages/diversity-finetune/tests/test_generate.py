"""The decoding loop, on a model whose next word depends on the message and the word before it."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from diversity_finetune.decoding import GREEDY, Decoding, Message, Reply
from diversity_finetune.generate import Decoder, generate, generate_stream, rerank
from diversity_finetune.inference import InferenceAPI, generate_lines
from diversity_finetune.tokenizer import Tokenizer
from trainworks.console import UserError

import tensorflow as tf  # isort: skip

TEXTS = ["my printer is on fire again", "the network is down today", "please reset my password now"]
MESSAGES = [Message(f"{text} {other}") for text in TEXTS for other in TEXTS]


class TableModel:
    """Logits looked up by the last word, and moved by the message's words and the noise."""

    noise_width = 2

    def __init__(self, size, seed=0):
        self.table = tf.constant(np.random.default_rng(seed).normal(scale=2, size=(size, size)).astype(np.float32))

    def begin(self, customer_BS, previous_BS, noise_BZ):
        heard = tf.reduce_sum(tf.gather(self.table, tf.concat([customer_BS, previous_BS], 1)), axis=1)
        return {"heard": 0.3 * heard, "noise": noise_BZ}

    def step(self, tokens_B, state):
        return tf.gather(self.table, tokens_B) + state["heard"] + state["noise"][:, :1], state


@pytest.fixture(scope="module")
def trained():
    words = Tokenizer.train(TEXTS, min_count=1)
    model = TableModel(words.size)
    # Padding adds nothing to what was heard, as in a masked encoder.
    model.table = tf.tensor_scatter_nd_update(model.table, [[words.pad_id]], tf.zeros((1, words.size)))
    return SimpleNamespace(model=model, tokenizer=words)


def by_hand(trained, message, most):
    """Greedy decoding with NumPy."""
    words, table = trained.tokenizer, trained.model.table.numpy()
    heard = sum(table[word] for text in (message.customer, message.previous) for word in words.encode(text, 100))
    token, written = words.begin_id, []
    while len(written) < most and token != words.end_id:
        logits = table[token] + 0.3 * heard
        logits[[words.pad_id, words.unknown_id, words.begin_id]] = -np.inf
        token = int(logits.argmax())
        written.append(token)
    return words.decode(written)


def test_greedy_takes_the_likeliest_word_each_time(trained):
    replies = generate(trained, MESSAGES, GREEDY.model_copy(update={"max_tokens": 12}))
    assert [reply.text for reply in replies] == [by_hand(trained, message, 12) for message in MESSAGES]
    assert any(reply.ended for reply in replies) or all(reply.tokens == 12 for reply in replies)


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(temperature=1.5), Decoding(best_of=3)])
def test_replies_do_not_depend_on_the_batch(trained, decoding):
    """Neither on its size nor on its neighbours' lengths."""
    together = generate(trained, MESSAGES, decoding)
    alone = generate(trained, MESSAGES, decoding.model_copy(update={"batch_size": 1}))
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    np.testing.assert_allclose(
        [reply.log_probability for reply in together], [reply.log_probability for reply in alone], rtol=1e-4
    )


def test_draws_follow_from_the_seed_and_the_place(trained):
    same = [Message("the network")] * 20
    first, again, other = (generate(trained, same, Decoding(temperature=2, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({reply.text for reply in first}) > 5  # equal messages at other places are drawn anew


def test_a_forbidden_ngram_is_not_written_twice_and_a_penalised_word_seldom(trained):
    free, held, penalised = (
        generate(trained, MESSAGES, Decoding(temperature=0.05, max_tokens=40, **settings))
        for settings in (
            {"no_repeat_ngram": 0},
            {"no_repeat_ngram": 2},
            {"no_repeat_ngram": 0, "repetition_penalty": 5},
        )
    )

    def repeats(replies):
        split = [reply.text.lower().split() for reply in replies]
        pairs = [list(pairwise(words)) for words in split]
        return sum(len(found) - len(set(found)) for found in pairs)

    assert repeats(free) > repeats(penalised)
    assert repeats(held) == 0


def test_special_words_are_never_written(trained):
    replies = generate(trained, MESSAGES, Decoding(temperature=10, top_k=0, top_p=1.0, max_tokens=50))
    assert not any("<" in reply.text for reply in replies)


def test_log_probability_is_the_models_own(trained):
    [reply] = generate(trained, MESSAGES[:1], GREEDY.model_copy(update={"max_tokens": 1}))
    customer, previous = (trained.tokenizer.encode(text, 20)[None] for text in (MESSAGES[0].customer, ""))
    state = trained.model.begin(customer, previous, np.zeros((1, 2)))
    logits, _ = trained.model.step(np.array([trained.tokenizer.begin_id]), state)
    allowed = np.delete(tf.nn.log_softmax(logits).numpy()[0], [0, 1, 2])
    assert reply.log_probability == pytest.approx(allowed.max(), abs=1e-5)


def test_other_settings_do_not_compile_the_loop_anew(trained):
    decoder = Decoder(trained)
    for temperature in (0.5, 1.0, 1.5):
        for messages in (MESSAGES[:1], MESSAGES):
            list(generate_stream(decoder, messages, Decoding(temperature=temperature, top_k=5, max_tokens=7)))
    [loop] = decoder._loops.values()
    assert loop.experimental_get_tracing_count() == 1


def test_replies_stream_as_messages_come(trained):
    asked = []

    def messages():
        for number in range(6):
            asked.append(number)
            yield Message("the network")

    stream = generate_stream(Decoder(trained), messages(), Decoding(batch_size=2))
    next(stream)
    assert asked == [0, 1]


def test_reranking_takes_what_agrees_with_the_others():
    texts = ["your ticket is closed", "your ticket is closed now", "on and on and on", "your ticket is open"]
    tied = [Reply("same", 1, -float(number), True) for number in range(4)]
    best, likeliest = rerank([[Reply(text, 4, -1.0, True) for text in texts], tied[::-1]])
    assert best.text == "your ticket is closed"
    assert likeliest == tied[0]


def write_lines(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return path


def test_lines_keep_their_order_and_ids(trained, tmp_path):
    asked = [
        {"message": "the network", "id": "a"},
        {"customer": "my printer", "prev_agent": "hello"},
        {"message": "now"},
    ]
    lines = generate_lines(
        trained, write_lines(tmp_path / "m.jsonl", *asked), Decoding(batch_size=2, max_tokens=5), True
    )
    found = [json.loads(line) for line in lines]
    assert [line["id"] for line in found] == ["a", 1, 2]
    messages = [Message("the network"), Message("my printer", "hello"), Message("now")]
    assert [line["response"] for line in found] == [r.text for r in generate(trained, messages, Decoding(max_tokens=5))]
    assert found[0]["quality_metrics"]["length"] >= 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"text": "hi"}, 'line 2 has no "message"; it has: text'),
        ({"message": "  "}, "line 2: message is empty"),
        ({"message": 5}, "line 2: message is not text"),
        (b"{oh\n", "line 2 is not JSON"),
        (b'{"message": "\xff"}\n', "line 2 is not UTF-8"),
    ],
)
def test_a_bad_line_is_named(trained, tmp_path, line, told):
    source = write_lines(tmp_path / "m.jsonl", {"message": "hi"}, line)
    with pytest.raises(UserError, match=told):
        list(generate_lines(trained, source, GREEDY))


def test_a_very_long_message_is_cut_and_that_is_told(trained, tmp_path, capsys):
    source = write_lines(tmp_path / "m.jsonl", {"message": "printer " * 12_500})
    assert len(list(generate_lines(trained, source, Decoding(max_tokens=3)))) == 1
    assert "1 of 1 messages were cut after 99 tokens; the first is on line 1" in capsys.readouterr().err


def test_a_run_replies_from_python(run, tmp_path):
    api = InferenceAPI(run, run / "tokenizer.json", threads=1)
    messages = ["I forgot my password", "the printer is on fire"]
    found = api.generate_batch(messages, return_quality=True, verbose=True)
    assert [entry["message"] for entry in found] == messages
    assert found[0]["response"] == api.generate(messages[0])
    assert 0 <= found[0]["quality_metrics"]["distinct_1"] <= 1
    Tokenizer.train(messages).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="is not the tokenizer"):
        InferenceAPI(run, tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="empty"):
        api.generate(" ")
