"""Whatever bytes a file holds, reading it ends with a result or with one line that a user understands.

Each parser is given sound files that were damaged at random (bits, cuts, repeats, words of the format in wrong places)
and, where the format is JSON, files whose values were exchanged for others.
"""

import contextlib
import csv
import io
import json
import struct
import tomllib
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainworks.console import UserError

EXAMPLES = 40
"""Files that each parser is tried on, of each kind of damage."""
WORDS = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\r",
        b"\n",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"{",
        b"}",
    ),
    *(
        b"[",
        b"]",
        b"null",
        b"NaN",
        b"-1",
        b"1e999",
        b"9" * 30,
        b"9" * 5000,
        b"true",
        b"__proto__",
        b"\x1b[31m",
        b"=",
        b".",
    ),
)
EXTREMES = (
    b"",
    b"\n",
    b"\0" * 40,
    b"\xff\xfe",
    b"[" * 5000,
    b'{"a":' * 5000,
    b"NaN",
    b"[]",
    b"{}",
    b"3",
    b'"x"',
    b"x = " + b"[" * 5000,
)


@dataclass(frozen=True)
class Parser:
    """How a file is read.

    Attributes:
        read: called with the path of the file.
        name: the file's.
        valid: a sound one, which the damage starts from.
        is_json: its values are exchanged too.
        is_whole: the valid one is read, and not refused since something else is missing.
    """

    title: str
    read: Callable[[Path], Any]
    name: str
    valid: bytes
    is_json: bool = False
    is_whole: bool = True


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def table(*rows: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def arrays(**named: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((8000 * np.sin(np.arange(800) / 9)).astype(np.int16).tobytes())
    return file.getvalue()


def tensors() -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save({"weight": np.ones((2, 3), np.float32)}, metadata={"order": '["weight"]', "run": "r"})


def event() -> bytes:
    """A TensorBoard event file with one scalar, checksums left at 0."""
    number = b"\x0a\x04loss\x15" + struct.pack("<f", 0.5)
    summary = b"\x0a" + bytes([len(number)]) + number
    message = b"\x09" + struct.pack("<d", 1.0) + b"\x10\x01\x2a" + bytes([len(summary)]) + summary
    return struct.pack("<QI", len(message), 0) + message + bytes(4)


RUN_JSON = {
    "schema": 1,
    "id": "r",
    "tool": "TOOL",
    "version": "0.1.0",
    "argv": [],
    "config": {},
    "config_sources": {},
    "seed": 0,
    "inputs": [{"path": "/nowhere/train.jsonl", "sha256": "00", "rows": 1}],
    "environment": {"device": "cpu", "threads": 1},
    "status": "interrupted",
    "started": "2026-01-01T00:00:00+00:00",
    "finished": None,
    "result": None,
}


def qa_train() -> list[Parser]:
    from qa_train.babi import read_babi
    from qa_train.compare import _read_predictions
    from qa_train.data import recorded_answers
    from qa_train.examples import read_examples
    from qa_train.train import read_vocabulary, resume_run

    example = {"id": "a", "story": ["Ann walks north.", "Ben walks as Ann."], "question": "Do Ann and Ben face south?"}
    answered = example | {"answer": "no", "category": "simple", "num_actors": 2, "num_sentences": 2, "hops": 1}
    judged = {"id": "a", "answer": "no", "probability": 0.2, "category": "x", "num_actors": 2, "num_sentences": 2}
    rows = table((*answered, "extra"), *[(*(answered | {"id": n, "story": "A b.|C d."}).values(), 1) for n in (1, 2)])
    babi = b"1 Mary went to the bathroom.\n2 John is in the office.\n3 Is John in the office?\tyes\t2\n"
    data = {"splits": {"train": {"sha256": "00", "cells": {"a": {"answers": {"yes": 1}}}}}}
    recorded = {"path": "", "sha256": "00"}
    return [
        Parser("examples as JSON Lines", read_examples, "a.jsonl", lines(answered, answered | {"id": "b"}), True),
        Parser("examples as CSV", read_examples, "a.csv", rows),
        Parser("bAbI", read_babi, "qa6_train.txt", babi),
        Parser("predictions", _read_predictions, "predictions.jsonl", lines(judged | {"hops": None}), True),
        Parser(
            "vocabulary", lambda path: read_vocabulary(path.parent), "vocabulary.json", b'{"words": ["a", "b"]}', True
        ),
        Parser(
            "data.json",
            lambda path: recorded_answers(recorded | {"path": str(path.with_name("train.jsonl"))}),
            "data.json",
            lines(data),
            True,
        ),
        run_parser("qa-train", lambda run: resume_run(run, "cpu", 1, "none")),
    ]


def disc_train() -> list[Parser]:
    from disc_train.cli import read_weights
    from disc_train.data import Table, cell_array, read_table
    from disc_train.run import read_schema, resume_run
    from disc_train.schema import Schema

    texts = [("a", "1"), ('b "c"', ""), ("d,e", "2.50")]
    columns = [cell_array([row[column] for row in texts]) for column in (0, 1)]
    schema = Schema.infer(Table(("name", "size"), columns)).to_json()
    weights = {"weights": {"token": 1, "sentence": 0.5, "row": 0, "feature": 2}}
    return [
        Parser("rows as CSV", read_table, "a.csv", table(("name", "size"), *texts)),
        Parser("rows as JSON Lines", read_table, "a.jsonl", lines(*[dict(name=a, size=1.5) for a, _ in texts]), True),
        Parser("rows of any kind", read_table, "a", table(("name", "size"), *texts)),
        Parser("schema", lambda path: read_schema(path.parent), "schema.json", lines(schema), True),
        Parser("weights", read_weights, "best_weights.json", lines(weights), True),
        run_parser("disc-train", lambda run: resume_run(run, None, None, "cpu", 1, "none")),
    ]


def diversity_finetune() -> list[Parser]:
    from diversity_finetune.data import read_arrays, read_pairs
    from diversity_finetune.run import resume_run
    from diversity_finetune.tokenizer import Tokenizer

    def read_ids(path: Path) -> Any:
        for side in ("previous", "agent"):
            path.with_name(f"train_{side}.npy").write_bytes(ids)
        return read_arrays(path.parent, "train", 9)

    ids = array(np.ones((2, 3), np.int32))
    pair = {"customer": "I am locked out.", "agent": "Which mailbox?", "previous": "", "dialogue": 1, "intent": "ask"}
    words = Tokenizer.train(["locked out", "which mailbox"] * 3, "word", 20)
    return [
        Parser("pairs as JSON Lines", read_pairs, "a.jsonl", lines(pair, pair), True),
        Parser("pairs as CSV", read_pairs, "a.csv", table(tuple(pair), tuple(pair.values()), tuple(pair.values()))),
        Parser("tokenizer", Tokenizer.load, "tokenizer.json", lines(words.to_json()), True),
        Parser("ids", read_ids, "train_customer.npy", ids),
        run_parser("diversity-finetune", lambda run: resume_run(run, "cpu", 1, "none")),
    ]


def adapter_stage1() -> list[Parser]:
    import safetensors.numpy

    from adapter_stage1.compress import random_projection
    from adapter_stage1.data import read_examples
    from adapter_stage1.latents import read_latents
    from adapter_stage1.prompts import read_format
    from adapter_stage1.run import load_compressor, load_frequencies, read_prompt, resume_run

    fitted = random_projection(4, 2, 0, np.zeros(4))
    compressor = safetensors.numpy.save(fitted.to_arrays(), metadata={"kind": fitted.name})
    answers = [{"text": "hat", "answer_start": 10}]
    qa = {"id": "q", "question": "What has Ann?", "answers": answers}
    squad = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "Ann has a hat.", "qas": [qa]}]}]}
    line = {"id": 1, "context": "Ann has a hat.", "question": "What?", "answers": {"text": ["hat"]}, "title": "t"}
    format = {"header": "", "shot": "{context} {question} {answer}", "query": "{context} {question}", "stop": ["\n"]}
    prompt = format | {"name": "mine", "shots": [{"id": "q", "context": "c", "question": "q", "answers": ["c"]}]}
    return [
        Parser("SQuAD", read_examples, "a.json", lines(squad), True),
        Parser("questions as JSON Lines", read_examples, "a.jsonl", lines(line, line | {"id": 2}), True),
        Parser("prompt format", lambda path: read_format(str(path)), "mine.json", lines(format), True),
        Parser("prompt of a run", read_prompt, "prompt.json", lines(prompt), True),
        Parser("compressor", load_compressor, "compressor.safetensors", compressor),
        Parser("frequencies", load_frequencies, "frequencies.npy", array([1, 2, 3])),
        Parser("latents", lambda path: read_latents(str(path)), "latents.safetensors", tensors()),
        run_parser("adapter-stage1", lambda run: resume_run(run, "cpu", 1, "none")),
    ]


def voice_gan() -> list[Parser]:
    from voice_gan.audio import read_audio
    from voice_gan.config import AudioConfig
    from voice_gan.data import load_utterances
    from voice_gan.prepare import Limits, Unusable, read_manifest, read_utterance
    from voice_gan.recording import Recording
    from voice_gan.run import Options, resume_run

    def read_index(path: Path) -> Any:
        for name in ("wave_000.npy", "f0_000.npy"):
            if not (path.parent / name).exists():
                (path.parent / name).write_bytes(array(np.zeros(640, np.int16)))
        if not (index := path.parent / "index.json").exists():
            index.write_bytes(lines(described))
        return [(utterance.wave_T, utterance.f0_F) for utterance in load_utterances(path.parent)]

    def read_recording(path: Path) -> Any:
        with Recording(path, 16_000) as recording:
            return recording.read(0, 16_000)

    def prepare(path: Path) -> Any:
        try:
            return read_utterance(path, AudioConfig(), Limits(min_seconds=0.01))
        except Unusable as reason:  # is written into the report
            return reason

    entry = {"id": "a", "speaker": "alto", "text": None, "shard": 0, "start": 0, "samples": 640}
    described = {"rate": 16_000, "hop": 160, "f0": {"alto": [5.0, 0.1]}, "utterances": [entry, entry]}
    row = {"path": "a.wav", "speaker": "alto", "text": "words"}
    return [
        Parser("manifest as CSV", read_manifest, "manifest.csv", table(tuple(row), tuple(row.values()))),
        Parser("manifest as JSON Lines", read_manifest, "manifest.jsonl", lines(row, row), True),
        Parser("index of prepared sound", read_index, "index.json", lines(described), True),
        Parser("prepared sound", read_index, "wave_000.npy", array(np.zeros(640, np.int16))),
        Parser("sound", read_audio, "a.wav", sound()),
        Parser("sound in pieces", read_recording, "a.wav", sound()),
        Parser("sound to prepare", prepare, "a.wav", sound()),
        run_parser("voice-gan", lambda run: resume_run(run, Options(device="cpu", threads=1))),
    ]


def diag() -> list[Parser]:
    from diag.audio import measure, read_sound
    from diag.embeddings_read import read_embeddings
    from diag.read import read_run
    from diag.thresholds import load_thresholds

    records = [{"step": step, "epoch": 1, "time": step / 2, "train/loss": 1 / step, "on": True} for step in (1, 2, 3)]
    log = table(("step", "loss", "note"), (1, 0.5, "x"), (2, "nan", ""))
    rows, labels = np.eye(4, 3, dtype=np.float32), np.array(["a", "a", "b", "b"])
    numbers = table(("speaker", "x", "y"), ("a", 0.1, 2), ("b", 3, 4))
    return [
        Parser("log as JSON Lines", read_run, "metrics.jsonl", lines(*records), True),
        Parser("log as CSV", read_run, "log.csv", log),
        Parser("event file", read_run, "events.out.tfevents.1", event()),
        Parser("embeddings as npz", read_embeddings, "e.npz", arrays(embeddings=rows, labels=labels)),
        Parser("embeddings as npy", read_embeddings, "e.npy", array(rows)),
        Parser("embeddings as CSV", read_embeddings, "e.csv", numbers),
        Parser("sound", lambda path: measure(*read_sound(path)), "a.wav", sound()),
        Parser("thresholds", load_thresholds, "t.toml", b"[window]\nmin_points = 12\n[names]\nloss = 'loss'\n"),
    ]


def ablate() -> list[Parser]:
    from ablate.plan import read_plan
    from ablate.suite import load_suite, suite_text, variants_of

    suite = suite_text("qa-train")
    plan = {"suite": "s", "data": "", "threads": 1, "config": tomllib.loads(suite)}
    return [
        Parser("suite", lambda path: variants_of(load_suite(str(path))), "suite.toml", suite.encode()),
        Parser("plan", lambda path: read_plan(path.parent), "suite.json", lines(plan), True),
    ]


def core() -> list[Parser]:
    from trainworks.checkpoint import Checkpoints
    from trainworks.config import Recipe, resolve
    from trainworks.metrics import MetricsWriter, read_metrics
    from trainworks.run import Run

    class Section(Recipe):
        steps: int = 3
        weights: dict[str, float] = {}

    class Whole(Recipe):
        seed: int = 0
        name: str = "a"
        train: Section = Section()

    def go_on(path: Path) -> None:
        with MetricsWriter(path) as writer:
            writer.truncate_after(1)
            writer.write(2, {"loss": 1.0})

    recipe = {"seed": 3, "name": "b", "train": {"steps": 4, "weights": {"x": 0.5}}}
    toml = b'seed = 3\nname = "b"\n[train]\nsteps = 4\nweights = {x = 0.5}\n'
    records = [{"step": step, "epoch": None, "time": 0.5, "loss": None} for step in (1, 2)]
    return [
        Parser("recipe as TOML", lambda path: resolve(Whole, file=path), "recipe.toml", toml),
        Parser("recipe as JSON", lambda path: resolve(Whole, file=path), "recipe.json", lines(recipe), True),
        Parser("recipe of a run", lambda path: resolve(Whole, file=path), "run.json", lines(RUN_JSON), True),
        Parser("metrics", read_metrics, "metrics.jsonl", lines(*records), True),
        Parser("metrics to go on with", go_on, "metrics.jsonl", lines(*records), True),
        Parser("run.json", lambda path: Run.open(path.parent), "run.json", lines(RUN_JSON), True),
        Parser("meta.json", lambda path: Checkpoints(path.parents[1]).load(path.parent.name), "meta.json", META, True),
    ]


META = lines({"step": 1, "metrics": {"valid/loss": 0.5}, "files": {}})


def frameworks() -> list[Parser]:
    import torch

    from trainworks.torch import load_state, load_weights

    state = io.BytesIO()
    torch.save({"step": 3, "exp_avg": torch.ones(2, 3)}, state)
    return [
        Parser(
            "weights", lambda path: load_weights(path, torch.nn.Linear(3, 2, bias=False)), "w.safetensors", tensors()
        ),
        Parser("loop state", load_state, "state.pt", state.getvalue()),
    ]


def run_parser(tool: str, resume: Callable[[Path], Any]) -> Parser:
    """A run whose data is gone: what is read of run.json comes before that is found out."""
    recorded = lines(RUN_JSON | {"tool": tool})
    return Parser("run.json", lambda path: resume(path.parent), "run.json", recorded, is_whole=False)


GROUPS = (core, frameworks, qa_train, disc_train, diversity_finetune, adapter_stage1, voice_gan, diag, ablate)


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """A sound file after one to three accidents."""
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        match draw(st.sampled_from(("flip", "cut", "remove", "repeat", "word", "bytes"))):
            case "flip" if start < len(data):
                data = data[:start] + bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
            case "cut":
                data = data[:start]
            case "remove":
                data = data[:start] + data[min(end, start + 8) :]
            case "repeat":
                data = data[:end] + data[start:end] + data[end:]
            case "word":
                data = data[:start] + draw(st.sampled_from(WORDS)) + data[start:]
            case _:
                data = data[:start] + draw(st.binary(max_size=8)) + data[start:]
    return data


OTHER = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from((10**30, 1e308, -0.5)), st.text(max_size=3),
    st.sampled_from(([], {}, [None], [[1]], {"": None}, "\ud800", "\0", "a" * 300)),
)  # fmt: skip


@st.composite
def exchanged(draw: st.DrawFn, valid: bytes) -> bytes:
    """JSON or JSON Lines of which one value is another, or gone."""
    records = [json.loads(line) for line in valid.splitlines()]
    place = draw(st.integers(0, len(records) - 1))
    records[place] = _exchange(draw, records[place])
    return lines(*records)


def _exchange(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        changed = value.copy()
        if draw(st.integers(0, 5)):
            changed[key] = _exchange(draw, value[key])
        else:
            del changed[key]
        return changed
    return draw(OTHER)


def assert_read_or_refused(parser: Parser, folder: Path, data: bytes) -> None:
    path = folder / parser.name
    path.write_bytes(data)
    with contextlib.suppress(UserError, OSError, MemoryError):  # one line each; a header may claim terabytes
        parser.read(path)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_any_bytes_are_read_or_refused(group: Callable[[], list[Parser]], tmp_path: Path, capsys: Any) -> None:
    for number, parser in enumerate(group()):
        folder = tmp_path / f"step_{number:06d}"
        folder.mkdir()
        if parser.is_whole:
            (folder / parser.name).write_bytes(parser.valid)
            parser.read(folder / parser.name)
        for data in EXTREMES:
            assert_read_or_refused(parser, folder, data)
        kinds = [damaged(parser.valid), *([exchanged(parser.valid)] if parser.is_json else [])]
        for files in kinds:
            check(parser, folder, files)


def check(parser: Parser, folder: Path, files: st.SearchStrategy[bytes]) -> None:
    """Try the parser on files of a kind."""

    @settings(max_examples=EXAMPLES, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=files)
    def tried(data: bytes) -> None:
        assert_read_or_refused(parser, folder, data)

    tried()
