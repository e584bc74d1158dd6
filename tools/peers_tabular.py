# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "be-great==0.0.14",
#     "ctgan==0.12.*",
#     "mostlyai-engine==2.7.*",
#     "torch==2.13.*",
# ]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# # mostlyai-engine asks for both and uses neither for tables. Beside a CPU build of torch, PyPI's torchvision
# # does not load, which stops transformers too.
# override-dependencies = ["torchvision; sys_platform == 'never'", "torchaudio; sys_platform == 'never'"]
# ///
"""Train one peer of disc-train on a table, sample from it, and write the rows and what they cost.

    uv run --script tools/peers_tabular.py tabular_argn train.csv --rows 9000 --out synth.csv --report r.json

Peers live in an environment of their own, which the block above describes; no peer touches the network.

    be_great      GReaT (Borisov et al. 2023): a small GPT-2 from scratch with a byte-pair vocabulary learned
                  on the rows, since no pretrained model is at hand offline. Both ways of sampling, plain and
                  guided, are measured; the rows are those of the way that gives more valid ones a second.
    ctgan         CTGAN (Xu et al. 2019) with its defaults.
    tabular_argn  TabularARGN (mostlyai-engine) with its defaults.

Times are taken inside this process, without imports. Memory is the process's peak.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

GPT2 = {"n_layer": 4, "n_embd": 128, "n_head": 4}
BPE_VOCABULARY = 2000
WARM_UP_ROWS = 100
DISCRETE_UP_TO = 20
"""Numeric columns with at most this many distinct values are categories for CTGAN, which has to be told."""


@dataclass
class Cost:
    """Wall and CPU time, in seconds; CPU of all threads and child processes."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass
class Sampled:
    """Rows of one way of sampling, their cost, and how many texts or rows were generated to get them."""

    rows: pd.DataFrame
    cost: Cost
    generated: int

    def summary(self, train: pd.DataFrame) -> dict[str, Any]:
        valid = int(valid_rows(train, self.rows).sum())
        return {
            "rows": len(self.rows),
            "generated_rows": self.generated,
            "valid_rows": valid,
            "sample_wall_s": self.cost.wall,
            "sample_cpu_s": self.cost.cpu,
            "rows_per_s": len(self.rows) / self.cost.wall,
            "rows_per_cpu_s": len(self.rows) / self.cost.cpu,
            "valid_rows_per_cpu_s": valid / self.cost.cpu,
        }


@dataclass
class Limits:
    """Rows to sample, the seed, threads, and seconds of wall time; each way of sampling has its own."""

    rows: int
    seed: int
    threads: int
    max_train_seconds: float
    max_sample_seconds: float


Outcome = tuple[Cost, dict[str, Sampled]]


def tabular_argn(train: pd.DataFrame, limits: Limits) -> Outcome:
    """TabularARGN with its defaults; early stopping is its own. Sampling has no limit: it is fast."""
    from mostlyai.engine import TabularARGN

    with TabularARGN(max_training_time=limits.max_train_seconds / 60, random_state=limits.seed, device="cpu") as model:
        with measured() as training:
            model.fit(train)
        model.sample(WARM_UP_ROWS)
        with measured() as sampling:
            rows = model.sample(limits.rows)
    return training, {"default": Sampled(rows, sampling, len(rows))}


def ctgan(train: pd.DataFrame, limits: Limits) -> Outcome:
    """CTGAN with its defaults, 300 epochs or as many as time allows. Sampling has no limit: it is fast."""
    from ctgan.synthesizers import ctgan as implementation
    from pandas.api.types import is_numeric_dtype

    discrete = [name for name in train if not is_numeric_dtype(train[name]) or train[name].nunique() <= DISCRETE_UP_TO]
    missing = [name for name in train if name not in discrete and train[name].isna().any()]
    if missing:
        raise SystemExit(f"error: CTGAN takes no missing numbers: column {missing[0]!r} has some")
    train = train.astype(dict.fromkeys(discrete, "object"))
    train[discrete] = train[discrete].where(train[discrete].notna(), "")
    with measured() as training:
        deadline = time.monotonic() + limits.max_train_seconds
        # Its epochs run under tqdm, the one place where a limit can enter.
        implementation.tqdm = lambda epochs, **_: until(deadline, epochs)
        model = implementation.CTGAN(enable_gpu=False)
        model.set_random_state(limits.seed)
        model.fit(train, discrete)
    model.sample(WARM_UP_ROWS)
    with measured() as sampling:
        rows = model.sample(limits.rows)
    rows[discrete] = rows[discrete].where(rows[discrete] != "", None)
    return training, {"default": Sampled(rows, sampling, len(rows))}


def be_great(train: pd.DataFrame, limits: Limits) -> Outcome:
    """GReaT until the time is over (at most its 100 epochs), then rows in its plain and in its guided mode.

    Its token limit of 100 is raised to the longest row: with 100 no row of a wide table comes out whole.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    import be_great.great
    from transformers import TrainerCallback

    class Deadline(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= time.monotonic() > deadline

    class BoundedTrainer(be_great.great.GReaTTrainer):
        def __init__(self, *args: Any, callbacks: list[Any], **kwargs: Any) -> None:
            super().__init__(*args, callbacks=[*callbacks, Deadline()], **kwargs)

    # `GReaT.fit` takes no callbacks.
    be_great.great.GReaTTrainer = BoundedTrainer
    random.seed(limits.seed)  # orders the columns of a row
    with tempfile.TemporaryDirectory() as folder:
        longest = save_gpt2(Path(folder), train, limits.seed)
        model = be_great.great.GReaT(
            folder, experiment_dir=f"{folder}/trainer", batch_size=32, use_cpu=True, seed=limits.seed,
            learning_rate=5e-4, lr_scheduler_type="constant_with_warmup", warmup_steps=100,
            save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        with measured() as training:
            deadline = time.monotonic() + limits.max_train_seconds
            model.fit(train)
    model.model.eval()
    return training, {
        "plain": great_rows(model, limits, lambda: model.sample(limits.rows, max_length=longest + 16, device="cpu")),
        "guided": great_rows(model, limits, lambda: guided_rows(model, limits)),
    }


def save_gpt2(folder: Path, train: pd.DataFrame, seed: int) -> int:
    """Save an untrained GPT-2 with a tokenizer of the table's text; return the tokens of the longest row."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    texts = [", ".join(f"{name} is {value}" for name, value in row.items()) for row in train.to_dict("records")]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, BPE_VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)
    # Other column orders split differently, so the longest row of this order is only nearly the longest.
    longest = int(1.1 * max(len(encoding.ids) for encoding in bpe.encode_batch(texts)))
    torch.manual_seed(seed)
    # Guided prompts are cut elsewhere than the rows and have 30 tokens to spare, so they may be longer.
    config = GPT2Config(
        vocab_size=bpe.get_vocab_size(), n_positions=2 * longest + 64, bos_token_id=0, eos_token_id=0, **GPT2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return longest


class OutOfTime(Exception):
    """The time for sampling is over."""


def great_rows(model: Any, limits: Limits, draw: Callable[[], pd.DataFrame]) -> Sampled:
    """What `draw` returns, with the number of texts that the language model wrote; bounded in time.

    `GReaT.sample` has no limit of its own, but returns what it has when generation raises.
    """
    generated = 0
    generate = model.model.generate
    deadline = time.monotonic() + limits.max_sample_seconds

    def bounded_generate(*args: Any, **kwargs: Any) -> Any:
        nonlocal generated
        if time.monotonic() > deadline:
            raise OutOfTime("the time for sampling is over")
        texts = generate(*args, **kwargs)
        generated += len(texts)
        return texts

    model.model.generate = bounded_generate
    try:
        with measured() as sampling:
            rows = draw()
    finally:
        model.model.generate = generate
    return Sampled(rows, sampling, generated)


def guided_rows(model: Any, limits: Limits) -> pd.DataFrame:
    """Rows of the guided mode, one call a row: a call that ends early loses its rows."""
    import pandas as pd

    frames = [pd.DataFrame(columns=model.columns)]
    deadline = time.monotonic() + limits.max_sample_seconds
    for _ in until(deadline, range(limits.rows)):
        frames.append(model.sample(1, guided_sampling=True, device="cpu"))
    return pd.concat(frames, ignore_index=True)


PEERS: dict[str, tuple[Callable[[Any, Limits], Outcome], str]] = {
    "be_great": (be_great, "be-great"),
    "ctgan": (ctgan, "ctgan"),
    "tabular_argn": (tabular_argn, "mostlyai-engine"),
}


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """A Cost that is filled in when the block ends."""
    cost = Cost()
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield cost
    cost.wall, cost.cpu = time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """CPU seconds of this process, of its ended children, and of its live ones, such as joblib's workers."""
    import psutil

    process = psutil.Process()
    live = [child.cpu_times() for child in process.children(recursive=True)]
    own = process.cpu_times()
    return sum(t.user + t.system for t in [own, *live]) + own.children_user + own.children_system


def until(deadline: float, items: Iterable[Any]) -> Iterator[Any]:
    """The items, ended by the deadline (on the monotonic clock)."""
    for item in items:
        if time.monotonic() > deadline:
            return
        yield item


def read_frame(path: Path) -> pd.DataFrame:
    """A CSV file as peers take it: numbers as numbers, the rest as text; only an empty field is missing."""
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return frame.astype({name: "str" for name in frame if frame[name].dtype == "bool"})


def valid_rows(train: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Whether every cell of a row is a known category, or a number of the column's type and range; (N,)."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    valid = pd.Series(True, index=rows.index)
    for name in train:
        known, cells = train[name], rows[name]
        if is_numeric_dtype(known):
            numbers = pd.to_numeric(cells, errors="coerce").astype("Float64")
            fits = numbers.between(known.min(), known.max())
            if is_whole(known):
                fits &= numbers % 1 == 0
            fits = fits.fillna(False).astype(bool)
        else:
            fits = cells.astype("object").isin(set(known.dropna()))
        valid &= fits | (cells.isna() & known.isna().any())
    return valid


def is_whole(column: pd.Series) -> bool:
    """Whether every number of the column is an integer."""
    return bool((column.dropna() % 1 == 0).all())


def integers_as_trained(train: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns in the train table's order, with integers that a peer made floats as integers again."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    rows = rows[list(train.columns)].copy()
    for name in train:
        if is_numeric_dtype(train[name]) and is_whole(train[name]):
            numbers = pd.to_numeric(rows[name], errors="coerce")
            if is_whole(numbers):
                rows[name] = numbers.astype("Int64")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a peer of disc-train on a table and sample from it.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("train", type=Path, help="CSV file of the rows to learn from")
    parser.add_argument("--rows", type=int, default=10_000, help="rows to sample")
    parser.add_argument("--out", type=Path, required=True, help="CSV file for the sampled rows")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for times, rates and counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-train-seconds", type=float, default=1800.0, help="wall time of training")
    parser.add_argument(
        "--max-sample-seconds", type=float, default=120.0, help="be_great: wall time of each way of sampling"
    )
    args = parser.parse_args()
    # Read by the libraries when they are imported.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        os.environ[variable] = str(args.threads)

    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed % 2**32)
    peer, distribution = PEERS[args.peer]
    limits = Limits(args.rows, args.seed, args.threads, args.max_train_seconds, args.max_sample_seconds)
    train = read_frame(args.train)
    with contextlib.redirect_stdout(sys.stderr):
        training, modes = peer(train, limits)
    for sampled in modes.values():
        sampled.rows = integers_as_trained(train, sampled.rows)
    summaries = {name: sampled.summary(train) for name, sampled in modes.items()}
    best = max(summaries, key=lambda name: summaries[name]["valid_rows_per_cpu_s"])
    modes[best].rows.to_csv(args.out, index=False, lineterminator="\n")
    report = {
        "peer": args.peer,
        "version": importlib.metadata.version(distribution),
        "threads": args.threads,
        "seed": args.seed,
        "train_rows": len(train),
        "train_wall_s": training.wall,
        "train_cpu_s": training.cpu,
        "mode": best,
        **summaries[best],
        "modes": summaries,
        "limits": asdict(limits),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    args.report.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
