"""Text to ids and back."""

import json

import pytest

from diversity_finetune.tokenizer import Tokenizer
from trainworks.console import UserError

TEXTS = [
    "Thank you, Ann. Your order of $12.50 is on its way!",
    "Ask Ann (or Bob): it's 4:30 pm, isn't it?",
    "thank you and goodbye. Ask Bob; ask Ann or call Bob at 12.",
]


@pytest.fixture(params=["word", "bpe"])
def tokenizer(request):
    return Tokenizer.train(TEXTS, request.param, min_count=1)


def test_texts_come_back_with_their_spacing_and_capitals(tokenizer):
    for text in TEXTS[:2]:
        assert tokenizer.decode(tokenizer.encode(text, 60)) == text


def test_words_begin_sentences_with_a_capital_whatever_was_typed():
    words = Tokenizer.train(TEXTS, min_count=1)
    assert words.decode(words.encode("THANK you. ask ANN", 20)) == "Thank you. Ask Ann"


def test_encoding_ends_and_pads_and_keeps_the_end_of_a_long_text(tokenizer):
    ids = tokenizer.encode("thank you", 12)
    end = list(ids).index(tokenizer.end_id)
    assert (ids.dtype, ids.shape) == ("int32", (12,))
    assert set(ids[end + 1 :]) == {tokenizer.pad_id}
    long = tokenizer.encode("thank you " * 5_000, 12)
    assert tokenizer.end_id == long[-1]
    assert tokenizer.pad_id not in long
    assert list(tokenizer.encode("", 3)) == [tokenizer.end_id, tokenizer.pad_id, tokenizer.pad_id]


def test_a_text_cannot_spell_a_special_id(tokenizer):
    ids = tokenizer.tokenize("<end> <pad> <begin>")
    assert not {tokenizer.end_id, tokenizer.pad_id, tokenizer.begin_id} & set(ids)


def test_rare_words_are_unknown_and_left_out_of_the_text():
    words = Tokenizer.train(["yes yes yes maybe", "no no"], min_count=2)
    assert words.tokenize("yes maybe no") == [words.tokenize("yes")[0], words.unknown_id, words.tokenize("no")[0]]
    assert words.decode(words.tokenize("yes maybe no")) == "Yes no"


def test_what_is_saved_is_json_and_loads_as_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    json.loads((tmp_path / "tokenizer.json").read_text())
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.size == tokenizer.size
    assert again.tokenize(TEXTS[0]) == tokenizer.tokenize(TEXTS[0])


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 9}', '{"schema": 1, "kind": "word", "words": ["a"]}'])
def test_a_file_that_is_no_tokenizer_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json")
