"""Speed of diversity-finetune: replies a second in batch, one reply's latency, and scoring beside NLTK and rouge-score.

    uv run --no-sync python tools/bench_replies.py RUN data/test.jsonl --threads 2

Scoring takes turns with the libraries, which score a reply at a time, so that a busy machine slows both; values are
compared as well. Without RUN, scoring alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nltk
import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from record import Comparison, add_json_option, beside_budget, beside_peer, write_comparisons
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from diversity_finetune.data import read_pairs
from diversity_finetune.scoring import score_pairs

WEIGHTS = [(1.0,), (0.5, 0.5), (0.25,) * 4]
KINDS = ("1", "2", "L")
BUDGET_RATE, BUDGET_LATENCY = 200, 20
"""Replies of 20 tokens a second in batches, and milliseconds for one; no peer has this network."""


def score_one_at_a_time(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """BLEU-1, 2, 4 and ROUGE-1, 2, L of each pair, (N, 6), by the libraries; all BLEU orders in one call."""
    tokenize, smoothing = Tokenizer13a(), SmoothingFunction().method1
    scorer = RougeScorer([f"rouge{kind}" for kind in KINDS])
    found = []
    for reply, reference in zip(replies, references, strict=True):
        words = [tokenize(text.lower()).split() for text in (reference, reply)]
        rouge = scorer.score(reference, reply)
        bleu = sentence_bleu(words[:1], words[1], WEIGHTS, smoothing)
        found.append([*bleu, *(rouge[f"rouge{kind}"].fmeasure for kind in KINDS)])
    return np.array(found)


def score_together(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """The same by diversity-finetune, which also counts Distinct and repetition."""
    scores = score_pairs(replies, references)
    return np.stack([*(scores.bleu[order] for order in (1, 2, 4)), *(scores.rouge[kind] for kind in KINDS)], axis=1)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def bench_scoring(texts: Sequence[str], count: int, repeats: int) -> Comparison:
    """Scores each text against one some places on, so that pairs share words but seldom all."""
    replies = [texts[place % len(texts)] for place in range(count)]
    references = [texts[(place + 7) % len(texts)] for place in range(count)]
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    gap = 0.0
    for _ in range(repeats):
        ours, our_time = timed(lambda: score_together(replies, references))
        theirs, their_time = timed(lambda: score_one_at_a_time(replies, references))
        times["ours"].append(our_time)
        times["theirs"].append(their_time)
        gap = max(gap, float(np.abs(ours - theirs).max()))
        print(f"scoring {count:,} replies: {our_time:.2f} s, one at a time {their_time:.2f} s")
    found = beside_peer(
        "diversity-finetune", f"scoring {count:,} replies", "s", "lower", times["ours"], "NLTK, rouge-score",
        f"{nltk.__version__}, {version('rouge-score')}", times["theirs"], threads=1,
    )  # fmt: skip
    ratio, least = statistics.median(found.ratios), min(found.ratios)
    print(f"ratio: x{ratio:.1f} (min x{least:.1f}); largest difference of a value {gap:.1e}")
    return found


def bench_replies(run: Path, pairs: Sequence[Any], count: int, repeats: int, threads: int) -> list[Comparison]:
    from diversity_finetune.decoding import Decoding
    from diversity_finetune.generate import Decoder, generate_stream
    from diversity_finetune.run import load_trained

    decoder, decoding = Decoder(load_trained(run, threads=threads)), Decoding()
    asked = [pairs[place % len(pairs)] for place in range(count)]
    list(generate_stream(decoder, asked[: decoding.batch_size], decoding))  # compiles
    rates = []
    for _ in range(repeats):
        replies, seconds = timed(lambda: list(generate_stream(decoder, asked, decoding)))
        tokens = sum(reply.tokens for reply in replies)
        # Replies of 20 tokens, whatever the model's own length: tokens are what costs.
        rates.append(tokens / seconds / 20)
        print(
            f"batch of {decoding.batch_size}: {count / seconds:,.0f} replies/s of {tokens / count:.1f} tokens, "
            f"{rates[-1]:,.0f}/s of 20 tokens"
        )
    one_by_one = [timed(lambda pair=pair: decoder([pair], decoding, [0]))[1] for pair in asked[:200]]
    latency = 1e3 * statistics.median(one_by_one)
    print(f"one reply: median {latency:.1f} ms, slowest {1e3 * max(one_by_one):.1f} ms")
    own, batches = "diversity-finetune", f"replies of 20 tokens, in batches of {decoding.batch_size}"
    return [
        beside_budget(own, batches, "per s", "higher", rates, BUDGET_RATE, threads),
        beside_budget(own, "one reply", "ms", "lower", [latency], BUDGET_LATENCY, threads),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="run directory")
    parser.add_argument("pairs", help="JSON Lines or CSV of pairs")
    parser.add_argument("--count", type=int, default=10_000, help="replies to score; a tenth of them to generate")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    add_json_option(parser)
    args = parser.parse_args()
    pairs = read_pairs(args.pairs)
    found = [bench_scoring([pair.agent for pair in pairs], args.count, args.repeats)]
    if args.run is not None:
        found += bench_replies(args.run, pairs, args.count // 10, args.repeats, args.threads)
    write_comparisons(args.json, found)


if __name__ == "__main__":
    main()
