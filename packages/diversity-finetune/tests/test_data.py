"""Reading conversations, splitting them, and the data directory."""

import json

import numpy as np
import pytest

from diversity_finetune.data import Pair, encode_pairs, read_arrays, read_pairs, split_pairs, write_directory
from diversity_finetune.tickets import make_tickets
from diversity_finetune.tokenizer import Tokenizer
from trainworks.console import UserError

PAIRS = [Pair(str(number // 4), "", f"message {number}", f"reply {number % 9}") for number in range(400)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_json_lines_and_csv_give_the_same_pairs(tmp_path):
    lines = write_lines(
        tmp_path / "a.jsonl",
        [{"dialogue": 7, "prev_agent": "", "customer": "hi", "agent": 'say "yes", please', "action": None}],
    )
    (tmp_path / "a.csv").write_text('customer,agent,dialogue,action\nhi,"say ""yes"", please",7,\n')
    expected = [Pair("7", "", "hi", 'say "yes", please', None)]
    assert read_pairs(lines) == read_pairs(tmp_path / "a.csv") == expected


def test_columns_have_the_names_that_are_given(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", [{"q": "hi", "a": "hello", "before": "welcome"}])
    pairs = read_pairs(file, {"customer": "q", "agent": "a", "previous": "before"})
    assert pairs == [Pair("line 1", "welcome", "hi", "hello")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"customer": "a", "agent": "b"}\n{"customer": "a"', r"line 2 is not JSON"),
        (b'{"customer": "a", "agent": "b"}\n[1]\n', r"line 2 is not a JSON object"),
        (b'{"customer": "a", "agent": "b"}\n{"customer": " ", "agent": "b"}\n', r"line 2: customer is empty"),
        (b'{"customer": "a", "agent": 1.5}\n', r"line 1: agent is not text"),
        (b'{"question": "a", "agent": "b"}\n', r'no column "customer"; it has: question, agent'),
        (b'{"customer": "a", "agent": "b"}\n{"customer": "\xff"}\n', r"line 2 is not UTF-8"),
        (b'{"customer": "\\ud800", "agent": "b"}\n', r"line 1 is not UTF-8"),
        (b"[" * 100_000, r"line 1 is not JSON"),
        (b"", r"holds no pairs"),
    ],
)
def test_bad_input_is_named_with_its_line(content, message, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / "a.jsonl")


def test_bad_csv_is_named_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"customer,agent\na,b\nc\n")
    with pytest.raises(UserError, match="line 3 has another number of fields"):
        read_pairs(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"customer,agent\na,b\nc,\xff\n")
    with pytest.raises(UserError, match="line 3 is not UTF-8"):
        read_pairs(tmp_path / "a.csv")


def test_splits_keep_dialogues_whole_and_follow_from_the_seed():
    splits, _ = split_pairs(PAIRS, val=0.2, test=0.2, seed=0, duplicates="keep")
    dialogues = [{pair.dialogue for pair in pairs} for pairs in splits.values()]
    assert sum(map(len, dialogues)) == len(set.union(*dialogues)) == 100
    assert [len(found) for found in dialogues] == [60, 20, 20]
    assert split_pairs(PAIRS, val=0.2, test=0.2, seed=0, duplicates="keep")[0] == splits
    assert split_pairs(PAIRS, val=0.2, test=0.2, seed=1, duplicates="keep")[0] != splits


def test_what_training_has_seen_leaves_the_other_splits():
    pairs = [Pair(str(n), "", "hello" if n % 2 else f"I am {n}", f"Hi {n % 3 and n}") for n in range(300)]
    pairs += [Pair(str(n), "", "Bye ", "GOODBYE") for n in range(300)]

    def keys(pairs, whole):
        return {(pair.customer.strip() if whole else "", pair.agent) for pair in pairs}

    for duplicates, whole in (("pairs", True), ("replies", False)):
        splits, removed = split_pairs(pairs, val=0.2, test=0.2, seed=0, duplicates=duplicates)
        train, val, test = (keys(splits[name], whole) for name in ("train", "val", "test"))
        assert not train & val
        assert not (train | val) & test
        assert removed["train"] == 0
        assert removed["test"] >= 60
    splits, removed = split_pairs(pairs, val=0.2, test=0.2, seed=0, duplicates="keep")
    assert removed == {"train": 0, "val": 0, "test": 0}


def test_one_reply_for_everything_and_splits_that_come_out_empty_are_refused():
    with pytest.raises(UserError, match="all replies are the same"):
        split_pairs([Pair(str(n), "", f"m {n}", "yes") for n in range(50)], val=0.1, test=0.1, seed=0)
    with pytest.raises(UserError, match="leave val without pairs"):
        split_pairs(PAIRS[:4], val=0.1, test=0.1, seed=0)


def test_a_directory_holds_what_training_reads(tmp_path):
    out = write_directory(tmp_path / "data", PAIRS, {"source": "test"}, length=8, duplicates="keep")
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    arrays = read_arrays(out, "val", tokenizer.size)
    pairs = read_pairs(out / "val.jsonl")
    again = encode_pairs(pairs, tokenizer, 8)
    np.testing.assert_array_equal(arrays.customer, again.customer)
    np.testing.assert_array_equal(arrays.agent, again.agent)
    for name in ("train", "val", "test"):
        for side in ("customer", "previous", "agent"):
            assert np.load(out / f"{name}_{side}.npy", allow_pickle=False).dtype == np.int32
    with pytest.raises(UserError, match="exists"):
        write_directory(tmp_path / "data", PAIRS, {})
    with pytest.raises(UserError, match="which --overwrite would remove"):
        write_directory(out, PAIRS, {"source": str(out / "train.jsonl")}, overwrite=True)
    (out / "data.json").write_text('{"tool": "qa-train"}')
    with pytest.raises(UserError, match="no data directory of diversity-finetune"):
        write_directory(out, PAIRS, {"source": "test"}, overwrite=True)
    assert (out / "train.jsonl").exists()


def test_arrays_of_another_tokenizer_are_refused(tmp_path):
    out = write_directory(tmp_path / "data", PAIRS, {}, length=8, duplicates="keep")
    with pytest.raises(UserError, match="not made with the tokenizer"):
        read_arrays(out, "train", 5)
    (out / "train_agent.npy").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        read_arrays(out, "train", 5000)


def test_no_template_of_the_tickets_answers_many_of_them():
    pairs = make_tickets(300, seed=0)
    assert make_tickets(300, seed=0) == pairs
    assert len({pair.intent for pair in pairs}) >= 25
    replies = [pair.agent for pair in pairs]
    assert max(map(replies.count, set(replies))) < 0.12 * len(replies)
    assert not any(mark in text for pair in pairs for text in (pair.customer, pair.agent) for mark in "[]<>|")
    slots = [pair for pair in pairs if pair.intent.endswith("/solution")]
    seen = {pair.agent for pair in slots[: len(slots) // 2]}
    assert sum(pair.agent not in seen for pair in slots[len(slots) // 2 :]) > 0.4 * len(slots) / 2
