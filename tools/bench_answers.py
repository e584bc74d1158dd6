"""Answering questions with adapter-stage1, in batches, beside transformers' `generate`, one question at a time.

    uv run --no-sync python tools/bench_answers.py --data dev-v1.1.json --questions 64

Both answer the same prompts from the same embeddings, greedily, with a key-value cache and the same stop strings.
Prints answers a second of processor time, so that other programs on the machine count little, the ratio, and how many
answers are equal. Questions come as they stand in the file, several on each passage; `--scattered` draws them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from record import add_json_option, beside_peer, write_comparisons

from adapter_stage1.builtin import load_examples
from adapter_stage1.config import PromptConfig
from adapter_stage1.data import by_article_split, choose_shots, sample
from adapter_stage1.generate import answer_prompts
from adapter_stage1.language_model import LanguageModel, load_language_model
from adapter_stage1.prompts import PromptFormat, build_prompt, read_format, trim_answer

MAX_NEW_TOKENS = PromptConfig().max_new_tokens


@torch.no_grad()
def one_at_a_time(language_model: LanguageModel, prompts: list[list[int]], format: PromptFormat) -> list[str]:
    """The peer: `GenerationMixin.generate` from each prompt's embeddings."""
    answers = []
    for prompt in prompts:
        embeddings = language_model.table[torch.tensor(prompt)][None].to(language_model.model.dtype)
        tokens = language_model.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            stop_strings=list(format.stop),
            tokenizer=language_model.tokenizer,
            pad_token_id=0,
        )
        answers.append(trim_answer(language_model.tokenizer.decode(tokens[0], skip_special_tokens=True), format))
    return answers


def timed(run: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Seconds of processor time, and what `run` returned."""
    start = time.process_time()
    answers = run()
    return time.process_time() - start, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2", help="model directory, GGUF file, or smollm2")
    parser.add_argument("--data", type=Path, default=Path("builtin:facts"), help="SQuAD JSON or JSON Lines")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--scattered", action="store_true", help="draw the questions, instead of the file's first ones")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    language_model = load_language_model(args.model, args.dtype, torch.device("cpu"))
    format = read_format(PromptConfig().format)
    train, rest = by_article_split(load_examples(args.data), 0.5, seed=0)
    shots = choose_shots(train, args.shots, seed=0)
    asked = sample(rest, min(args.questions, len(rest)), 0) if args.scattered else rest[: args.questions]
    prompts = [language_model.tokens(build_prompt(format, shots, example)) for example in asked]

    def batched() -> list[str]:
        found = answer_prompts(
            language_model,
            prompts,
            lambda tokens: language_model.table[tokens],
            format,
            max_new_tokens=MAX_NEW_TOKENS,
            batch_size=args.batch_size,
        )
        return [answer.text for answer in found]

    rates: dict[str, list[float]] = {"one at a time": [], "together": []}
    for _ in range(args.repeats):
        alone, expected = timed(lambda: one_at_a_time(language_model, prompts, format))
        together, found = timed(batched)
        rates["one at a time"].append(len(prompts) / alone)
        rates["together"].append(len(prompts) / together)
        equal = sum(one == other for one, other in zip(expected, found, strict=True))
        print(
            f"{len(prompts)} questions: one at a time {len(prompts) / alone:.2f}/s, in batches of {args.batch_size} "
            f"{len(prompts) / together:.2f}/s, x{alone / together:.2f}; {equal} answers equal"
        )
    compared = beside_peer(
        "adapter-stage1", f"{len(prompts)} answers, in batches of {args.batch_size}", "per CPU-s", "higher",
        rates["together"], "transformers generate", transformers.__version__, rates["one at a time"], args.threads,
    )  # fmt: skip
    print(f"median ratio x{statistics.median(compared.ratios):.2f}")
    write_comparisons(args.json, [compared])


if __name__ == "__main__":
    main()
