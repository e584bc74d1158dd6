"""Prompts to latents, and answers from latents: the two ends of the wire.

Shape legend: S tokens of a prompt, K latent width, U different latents, D embedding width.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from adapter_stage1.builtin import load_examples
from adapter_stage1.generate import answer_prompts
from adapter_stage1.prompts import build_prompt
from adapter_stage1.run import Trained
from trainworks.console import UserError


def compress_prompts(trained: Trained, source: str) -> bytes:
    """A safetensors file with the latents (S, K) float16 of each prompt, under its id.

    Args:
        source: JSON Lines or SQuAD JSON with question and context; "-" for stdin.

    Raises:
        UserError: bad input.
    """
    examples = load_examples(source, need_answers=False)
    latents = {}
    for example in examples:
        tokens = trained.language_model.tokens(build_prompt(trained.format, trained.shots, example))
        latents[example.id] = trained.vocabulary.latents_CK[tokens].cpu().numpy().astype(np.float16)
    order = json.dumps([example.id for example in examples])
    return safetensors.numpy.save(latents, metadata={"run": trained.run_id, "order": order})


def read_latents(source: str) -> tuple[list[str], list[np.ndarray], str]:
    """Ids of prompts, the latents (S, K) float16 of each one's tokens, and the id of the run that made them.

    Raises:
        UserError: no such file, or one that `compress_prompts` did not make.
    """
    shown = "stdin" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        arrays = safetensors.numpy.load(data)
        names, run = json.loads(header["order"]), header["run"]
        prompts = [arrays[name] for name in names]
        np.concatenate(prompts)  # one width, at least one prompt
    except FileNotFoundError:
        raise UserError(f"no such file: {source}; adapter-stage1 compress makes one") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{shown} is damaged, or adapter-stage1 compress did not make it") from None
    return names, prompts, run


def answer_latents(trained: Trained, source: str, batch_size: int) -> Iterator[tuple[str, str]]:
    """The id and the answer of each prompt in a file that `compress_prompts` made, in its order.

    Raises:
        UserError: no such file, a damaged one, or one that another run made.
    """
    names, prompts, run = read_latents(source)
    if run != trained.run_id:
        shown = "stdin" if source == "-" else source
        raise UserError(f"{shown} was made by run {run}, and {trained.path} is {trained.run_id}; their latents differ")
    latents_UK, place = np.unique(np.concatenate(prompts), axis=0, return_inverse=True)
    device = trained.language_model.device
    rebuilt_UD = trained.adapter(torch.from_numpy(latents_UK.astype(np.float32)).to(device), trained.vocabulary)
    ends = np.cumsum([len(prompt) for prompt in prompts])[:-1]
    answers = answer_prompts(
        trained.language_model,
        [part.tolist() for part in np.split(place.ravel(), ends)],
        lambda numbers: rebuilt_UD[numbers],
        trained.format,
        max_new_tokens=trained.recipe.prompt.max_new_tokens,
        batch_size=batch_size,
    )
    for name, answer in zip(names, answers, strict=True):
        yield name, answer.text
