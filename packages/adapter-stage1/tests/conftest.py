"""A tiny language model, questions that it half knows, and one run trained on them, for all tests of this package."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo")
THINGS = ("hat", "cup", "boat", "kite")
COLOURS = ("red", "blue", "green")

RECIPE = """
[model]
dtype = "float32"
[prompt]
shots = 1
max_new_tokens = 4
[compressor]
ratio = 4
[training]
examples = 32
epochs = 2
batch_size = 8
vocabulary_rows = 64
negatives = 64
valid_share = 0.2
valid_questions = 4
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


def run_command(*arguments: object, stdin: str | bytes = b"") -> Ended:
    """Run `adapter-stage1` in this process, through its entry point."""
    from adapter_stage1.cli import main

    given = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["adapter-stage1", *map(str, arguments)], io.TextIOWrapper(io.BytesIO(given))
    status: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.argv, sys.stdin = before
    out.flush()
    return Ended(int(str(status)), out.buffer.getvalue().decode("utf-8", "surrogateescape"), err.getvalue())


@pytest.fixture(scope="session")
def adapter_stage1():
    """Call it with a command line; it gives back an `Ended`. Bytes on stdout are escaped with surrogates."""
    return run_command


def squad(first_name: int, num_articles: int, seed: int) -> dict:
    """SQuAD JSON: an article a name, three questions about what colour somebody's thing is."""
    rng = np.random.default_rng(seed)
    articles = []
    for number in range(first_name, first_name + num_articles):
        name, paragraphs = f"{NAMES[number % len(NAMES)]}", []
        for thing in rng.permutation(THINGS)[:3]:
            colour, other = rng.choice(COLOURS, 2, replace=False)
            context = f"{name} has a {colour} {thing}. The dog of {name} has a {other} bed."
            qa = {
                "id": f"{number}-{thing}",
                "question": f"What colour is the {thing} of {name}?",
                "answers": [{"text": str(colour), "answer_start": context.index(f" {colour} ") + 1}],
            }
            paragraphs.append({"context": context, "qas": [qa]})
        articles.append({"title": f"{name} {number}", "paragraphs": paragraphs})
    return {"version": "1.1", "data": articles}


@pytest.fixture(scope="session")
def train_json(tmp_path_factory) -> Path:
    """48 questions about 16 articles."""
    path = tmp_path_factory.mktemp("data") / "train.json"
    path.write_text(json.dumps(squad(0, 16, seed=0)))
    return path


@pytest.fixture(scope="session")
def dev_json(tmp_path_factory) -> Path:
    """12 questions about 4 other articles."""
    path = tmp_path_factory.mktemp("data") / "dev.json"
    path.write_text(json.dumps(squad(16, 4, seed=1)))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, train_json) -> Path:
    """The directory of a Llama with 2 layers, 32-d embeddings and a byte-level tokenizer of 400 tokens, taught for a
    moment to answer with a colour, so that its F1 is not 0."""
    import tokenizers
    import torch
    import transformers

    from adapter_stage1.data import read_examples
    from adapter_stage1.prompts import FORMATS, build_prompt

    folder = tmp_path_factory.mktemp("model") / "tiny"
    examples = read_examples(train_json)
    texts = [f"{build_prompt(FORMATS['squad'], [], e)} {e.answers[0]}\n" for e in examples]
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=400, special_tokens=["<end>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="<end>", pad_token="<end>"
    )
    fast.save_pretrained(folder)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    rows = [fast(text)["input_ids"] for text in texts]
    length = max(map(len, rows))
    tokens = torch.tensor([[fast.eos_token_id] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        logits = model(
            input_ids=tokens, attention_mask=mask, position_ids=mask.cumsum(1) - mask, logits_to_keep=4
        ).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, -3:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory, tiny_model) -> Path:
    """A recipe that trains on the tiny model within a second or two."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE.replace("[model]", f"[model]\nname = {json.dumps(str(tiny_model))}"))
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory, train_json, recipe_file) -> Path:
    """A finished run of `adapter-stage1 train`. Read it; to change it, change a copy."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--config", recipe_file, "--threads", 1, "--device", "cpu", "--out", out]
    ended = run_command("train", "--data", train_json, *options)
    assert (ended.status, ended.out) == (0, f"{out}\n"), ended.err
    return out
