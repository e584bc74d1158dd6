import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_train.data import check_disjoint, prepare_jsonl, read_splits, recorded_answers, split, write_directory
from qa_train.examples import Example, read_examples
from qa_train.stories import StorySettings, generate
from trainworks.console import UserError

STORY, QUESTION = ("Ann walks north.", "Bob follows Ann."), "Do Ann and Bob face the same way?"
EXAMPLE = Example("a", STORY, QUESTION, "yes", "simple", 2, 2, 1)
OTHER = replace(EXAMPLE, id="b", story=("Ann walks north.", "Bob walks east."), answer="no", hops=0)


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


def test_ones_own_file_becomes_a_data_directory(tmp_path):
    source = tmp_path / "mine.jsonl"
    lines = [{"story": [*STORY, f"Bob met {i}."], "question": QUESTION, "answer": "yes"} for i in range(20)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = prepare_jsonl(source, tmp_path / "data", valid=0.1, test=0.2)
    sizes = {name: len(read_examples(out / f"{name}.jsonl")) for name in ("train", "valid", "test")}
    assert sizes == {"train": 14, "valid": 2, "test": 4}
    assert json.loads((out / "data.json").read_text())["settings"] == {
        "source": "file", "file": "mine.jsonl", "valid": 0.1, "test": 0.2, "seed": 0,
    }  # fmt: skip
    with pytest.raises(UserError, match="which --overwrite would remove"):
        prepare_jsonl(out / "train.jsonl", out, overwrite=True)
    assert len(read_examples(out / "train.jsonl")) == 14


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


def test_training_reads_two_splits_and_records_their_files(tmp_path):
    out = write_directory(tmp_path / "data", {"train": [EXAMPLE], "valid": [OTHER]}, {})
    described = json.loads((out / "data.json").read_text())["splits"]
    splits, records = read_splits(out)
    assert splits == {"train": [EXAMPLE], "valid": [OTHER]}
    assert records == [
        {"path": str(out / f"{name}.jsonl"), "sha256": described[name]["sha256"], "rows": 1}
        for name in ("train", "valid")
    ]
    (out / "valid.jsonl").unlink()
    with pytest.raises(UserError, match=r"no valid\.jsonl in .*data; make one with qa-train make-stories"):
        read_splits(out)


def test_a_story_in_both_of_trainings_files_is_refused(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(EXAMPLE.record()) + "\n")
    with pytest.raises(UserError, match='valid, id "a": its story is also in train'):
        read_splits(tmp_path)


@pytest.mark.parametrize("described", [True, False])
def test_a_recorded_files_answers_are_counted(tmp_path, described):
    train = [OTHER, replace(OTHER, id="c"), EXAMPLE]
    out = write_directory(
        tmp_path / "data", {"train": train, "valid": [replace(EXAMPLE, story=("It rains.",), num_sentences=1)]}, {}
    )
    (record, _) = read_splits(out)[1]
    if not described:  # made by hand
        (out / "data.json").unlink()
    assert recorded_answers(record) == {"no": 2, "yes": 1}
    (out / "data.json").write_text("{}")
    (out / "train.jsonl").write_text(json.dumps(EXAMPLE.record()) + "\n")
    assert recorded_answers(record) is None
