"""From a model and questions to a finished run, and back from a run to its adapter."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from adapter_stage1 import __version__
from adapter_stage1.builtin import load_examples, source_record
from adapter_stage1.compress import Linear, StreamingCovariance, from_arrays, latent_width, random_projection
from adapter_stage1.config import TrainRecipe
from adapter_stage1.data import Example, by_article_split, choose_shots, sample
from adapter_stage1.generate import fits_window
from adapter_stage1.language_model import BUILTIN, LanguageModel, load_language_model, token_frequencies
from adapter_stage1.model import Adapter, Rows, num_parameters
from adapter_stage1.prompts import PromptFormat, build_prompt, read_format
from adapter_stage1.train import MONITOR, TIE_BREAK, WEIGHTS, Loop, Setting, build_adapter, train
from trainworks.checkpoint import Checkpoints
from trainworks.config import Resolved
from trainworks.console import UserError, info, warn
from trainworks.files import atomic_write, load_array, write_json
from trainworks.metrics import MetricsWriter
from trainworks.plots import plot_curves
from trainworks.run import Run, check_replaceable
from trainworks.seeding import rng
from trainworks.signals import StopFlag
from trainworks.torch import load_weights, resolve_device, set_threads
from trainworks.tracking import check_tracker, open_sink

TOOL = "adapter-stage1"
CURVES = {
    "loss": ["train/loss"],
    "objectives": [
        f"train/{name}/weighted" for name in ("recon", "token-ce", "prompt-ce", "teacher-forced", "distill", "hidden")
    ],
    "f1": ["valid/f1", "valid/exact_match"],
    "recovery": ["valid/token_recovery", "valid/explained_variance"],
}
ROWS_AT_ONCE = 8192


def start_run(
    resolved: Resolved[TrainRecipe],
    data: Path,
    out: Path,
    device: str,
    threads: int | None,
    tracker: str,
    overwrite: bool,
    language_model: LanguageModel | None = None,
) -> Path:
    """Fit the compressor and train the adapter.

    Args:
        language_model: the recipe's, if it is loaded already.

    Raises:
        UserError: bad data, a model that can't be read, a ratio that doesn't fit it, a taken name.
    """
    recipe = resolved.recipe
    check_tracker(tracker)
    check_replaceable(out, TOOL, overwrite=overwrite)
    examples = load_examples(data)
    threads = set_threads(threads)
    if language_model is None:
        language_model = load_language_model(
            recipe.model.name, recipe.model.dtype, resolve_device(device), recipe.model.device_map
        )
    latent_width(language_model.table.shape[1], recipe.compressor.ratio)
    setting, shots = prepare(language_model, recipe, examples)
    run = Run.create(
        out,
        tool=TOOL,
        version=__version__,
        resolved=resolved,
        seed=recipe.seed,
        inputs=[source_record(data, len(examples))],
        device=language_model.device.type,
        threads=threads,
        overwrite=overwrite,
    )
    with run:
        _fit(run, recipe, setting, shots, tracker)
    return run.path


def resume_run(
    path: Path, device: str, threads: int | None, tracker: str, language_model: LanguageModel | None = None
) -> Path:
    """Go on with a run that was stopped, on the data and the model that it began with.

    Args:
        language_model: the run's, if it is loaded already.

    Raises:
        UserError: no such run, or data or model are not what the run began with.
    """
    run = Run.open(path, tool=TOOL)
    if run.record["status"] == "finished":
        info(f"{path} is finished already")
        return path
    check_tracker(tracker)
    recipe = run.recipe(TrainRecipe)
    (data,) = run.record["inputs"]
    examples = load_examples(data["path"])
    if source_record(data["path"], len(examples))["sha256"] != data["sha256"]:
        raise UserError(f"{data['path']} is not the file that {path} was begun with (SHA-256 differs)")
    environment = run.record["environment"]
    # The order of floating-point sums, and so the last bit, depends on the number of threads.
    set_threads(threads or environment["threads"])
    device = environment["device"] if device == "auto" else device
    # A run that was killed in its first moments has not yet written down its model.
    begun = (path / "model.json").exists()
    if language_model is None:
        name = model_of(path, recipe) if begun else recipe.model.name
        language_model = load_language_model(name, recipe.model.dtype, resolve_device(device), recipe.model.device_map)
    if begun:
        check_model(path, language_model)
    written = path / "prompt.json"
    format = read_prompt(written)[0] if written.exists() else None
    setting, shots = prepare(language_model, recipe, examples, format)
    with Run.resume(path, tool=TOOL) as resumed:
        _fit(resumed, recipe, setting, shots, tracker)
    return path


def _fit(run: Run, recipe: TrainRecipe, setting: Setting, shots: Sequence[Example], tracker: str) -> None:
    language_model = setting.language_model
    write_json(run.path / "model.json", {"path": str(language_model.path), "sha256": language_model.digest})
    write_json(run.path / "prompt.json", {**asdict(setting.format), "shots": [asdict(shot) for shot in shots]})
    save_compressor(run.path / "compressor.safetensors", setting.compressor)
    save_frequencies(run.path / "frequencies.npy", setting.frequencies_V)
    beside = [run.path / name for name in ("compressor.safetensors", "frequencies.npy", "prompt.json")]
    checkpoints = Checkpoints(run.checkpoints_path, monitor=MONITOR, mode="max", tie_break=TIE_BREAK, beside=beside)
    adapter = build_adapter(setting, recipe)
    info(f"adapter: {num_parameters(adapter):,} parameters, {setting.latents_VK.shape[1]} latents a token")
    with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop, open_sink(tracker, run) as sink:
        values = train(setting, recipe, Loop(run, metrics, checkpoints, stop, sink), adapter)
    plot_curves(run.metrics_path, run.path / "plots", CURVES)
    run.finish(values)


def prepare(
    language_model: LanguageModel, recipe: TrainRecipe, examples: list[Example], format: PromptFormat | None = None
) -> tuple[Setting, list[Example]]:
    """Split and tokenise the examples and fit the compressor; the setting and the worked examples.

    Args:
        format: the one that a run was begun with, if its file may have changed since; else the recipe's is read.

    Raises:
        UserError: fewer examples than wanted worked examples, prompts that the model's window can't hold, or a layer
            to match that it lacks.
    """
    config = recipe.training
    num_states = language_model.model.config.num_hidden_layers + 1
    absent = next((n for n in recipe.objectives.hidden_layers if not -num_states <= n < num_states), None)
    if absent is not None:
        raise UserError(
            f"objectives.hidden_layers: the model has no layer {absent}; its last is {num_states - 1}, or -1"
        )
    format = format or read_format(recipe.prompt.format)
    train_examples, valid = by_article_split(examples, config.valid_share, recipe.prompt.seed)
    shots = choose_shots(train_examples, recipe.prompt.shots, recipe.prompt.seed)
    limit = min(config.max_prompt_tokens, language_model.window)
    chosen, num_long = [], 0
    for number in rng(recipe.seed, "examples").permutation(len(train_examples)):
        tokens = language_model.tokens(build_prompt(format, [], train_examples[number]))
        if len(tokens) > limit:
            num_long += 1
        else:
            chosen.append((train_examples[number], tokens))
        if len(chosen) == config.examples:
            break
    if num_long:
        info(f"{num_long:,} training prompts of over {limit} tokens are left out")
    if not chosen:
        raise UserError(
            f"every training prompt has over {limit} tokens; bring shorter ones, or raise training.max_prompt_tokens"
        )
    if len(chosen) < config.examples:
        warn(f"there are {len(chosen):,} training questions, and training.examples is {config.examples:,}")
    valid = fits_window(language_model, format, shots, valid, recipe.prompt.max_new_tokens)
    valid = sample(valid, min(config.valid_questions, len(valid)), recipe.prompt.seed)
    frequencies = token_frequencies([tokens for _, tokens in chosen], len(language_model.table))
    compressor = fit_compressor(language_model.table, recipe, frequencies)
    latents, residual = encode_table(language_model.table, compressor)
    answers: list[list[int]] = [[] for _ in chosen]
    if recipe.objectives.teacher_forced:
        answers = [language_model.continuation(f" {example.answers[0]}{format.stop[0]}") for example, _ in chosen]
    setting = Setting(
        language_model,
        compressor,
        format,
        [tokens for _, tokens in chosen],
        answers,
        valid,
        [language_model.tokens(build_prompt(format, shots, example)) for example in valid],
        frequencies,
        latents,
        residual,
    )
    return setting, shots


def fit_compressor(table_VD: Tensor, recipe: TrainRecipe, frequencies_V: np.ndarray) -> Linear:
    """The recipe's compressor, fitted to the embedding table."""
    config = recipe.compressor
    width = latent_width(table_VD.shape[1], config.ratio)
    weights = frequencies_V + 1 if config.weighting == "tokens" else np.ones_like(frequencies_V)
    covariance = StreamingCovariance(table_VD.shape[1])
    for start in range(0, len(table_VD), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        covariance.update(table_VD[part].cpu().numpy(), weights[part])
    if config.kind == "random-projection":
        return random_projection(table_VD.shape[1], width, recipe.seed, covariance.mean)
    return covariance.pca(config.whiten).truncated(width)


def encode_table(table_VD: Tensor, compressor: Linear) -> tuple[Tensor, float]:
    """Latents (V, K) of all rows, rounded to float16 as they would be sent, and the mean squared distance between a row
    and its decoding."""
    latents, error = [], 0.0
    for part in table_VD.split(ROWS_AT_ONCE):
        rows = part.cpu().numpy()
        codes = compressor.encode(rows).astype(np.float16)
        latents.append(torch.from_numpy(codes.astype(np.float32)))
        error += float(np.square(compressor.decode(codes) - rows).sum())
    return torch.cat(latents).to(table_VD.device), error / len(table_VD)


def save_compressor(path: Path, compressor: Linear) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in compressor.to_arrays().items()}
    atomic_write(path, safetensors.numpy.save(arrays, metadata={"kind": compressor.name}))


def save_frequencies(path: Path, frequencies_V: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, frequencies_V)
    atomic_write(path, buffer.getvalue())


def load_frequencies(path: Path) -> np.ndarray:
    """What `save_frequencies` wrote; UserError for a missing or damaged file."""
    try:
        return load_array(path)
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged") from None


def load_compressor(path: Path) -> Linear:
    """What `save_compressor` wrote; UserError for a missing or damaged file."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
            compressor = from_arrays(file.metadata()["kind"], arrays)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError):
        raise UserError(f"{path} is missing or damaged") from None
    assert isinstance(compressor, Linear)
    return compressor


@dataclass(frozen=True)
class Trained:
    """A finished run, ready to rebuild prompts.

    Attributes:
        vocabulary: all rows with their latents, which are rounded to float16.
    """

    path: Path
    recipe: TrainRecipe
    language_model: LanguageModel
    compressor: Linear
    adapter: Adapter
    format: PromptFormat
    shots: list[Example]
    vocabulary: Rows
    frequencies_V: np.ndarray

    @property
    def run_id(self) -> str:
        """Of run.json."""
        return str(Run.open(self.path).record["id"])


def load_trained(
    path: Path,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
    model: str | None = None,
    language_model: LanguageModel | None = None,
) -> Trained:
    """A run's adapter with its compressor and language model.

    Args:
        model: where the language model lies now, if not where it lay in training.
        language_model: one that is loaded already.

    Raises:
        UserError: no run of this tool, a damaged file, or another language model than the run's.
    """
    run = Run.open(path, tool=TOOL)
    recipe = run.recipe(TrainRecipe)
    set_threads(threads)
    if language_model is None:
        language_model = load_language_model(
            model or model_of(path, recipe), recipe.model.dtype, resolve_device(device), recipe.model.device_map
        )
    check_model(path, language_model)
    compressor = load_compressor(path / "compressor.safetensors")
    adapter = Adapter(len(compressor.components), language_model.table.shape[1], recipe.adapter)
    folder, _ = Checkpoints(run.checkpoints_path).load(checkpoint)
    load_weights(folder / WEIGHTS, adapter)
    latents, _ = encode_table(language_model.table, compressor)
    format, shots = read_prompt(path / "prompt.json")
    return Trained(
        path,
        recipe,
        language_model,
        compressor,
        adapter.to(language_model.device).eval().requires_grad_(False),
        format,
        shots,
        Rows(language_model.table, latents),
        load_frequencies(path / "frequencies.npy"),
    )


def model_of(path: Path, recipe: TrainRecipe) -> str:
    """Where a run's language model lay in training, whatever the working directory is now."""
    return recipe.model.name if recipe.model.name == BUILTIN else str(_read_json(path / "model.json").get("path"))


def check_model(path: Path, language_model: LanguageModel) -> None:
    """UserError unless the model is the one that the run was begun with."""
    recorded = _read_json(path / "model.json")
    if recorded.get("sha256") != language_model.digest:
        raise UserError(
            f"{language_model.path} is not the model of {path}, which was {recorded.get('path')} (SHA-256 differs)"
        )


def read_prompt(path: Path) -> tuple[PromptFormat, list[Example]]:
    """The format and the worked examples that a run was made with."""
    record = _read_json(path)
    try:
        shots = [replace(Example(**shot), answers=tuple(shot["answers"])) for shot in record.pop("shots")]
        return PromptFormat(**{**record, "stop": tuple(record["stop"])}), shots
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is missing or damaged") from None
