"""A run directory of voice-gan: made by training, read by everything else."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from trainworks.checkpoint import Checkpoints
from trainworks.config import Resolved
from trainworks.console import UserError, info, set_quiet
from trainworks.metrics import MetricsWriter
from trainworks.plots import plot_curves
from trainworks.run import Run, check_replaceable, input_record
from trainworks.signals import StopFlag
from trainworks.torch import load_weights, resolve_device, set_threads
from trainworks.tracking import check_tracker, open_sink
from voice_gan import __version__
from voice_gan.config import AudioConfig, VoiceRecipe
from voice_gan.data import Segments, Utterance, load_utterances, read_index, split_folder
from voice_gan.distributed import Team, join_team
from voice_gan.encoders import ge2e_weights
from voice_gan.losses import SpectralLoss
from voice_gan.model import VoiceModel
from voice_gan.state import Loop, State
from voice_gan.train import fit

TOOL = "voice-gan"
CURVES = {
    "loss": ["train/loss", "train/mel_loss", "train/stft_loss"],
    "voices": ["train/contrastive_loss", "train/conversion_contrastive_loss", "train/content_loss"],
    "similarity": [
        "similarity/positive",
        "similarity/negative",
        "similarity/converted_to_target",
        "similarity/converted_to_source",
    ],
    "adversarial": ["disc/loss", "train/adversarial_loss", "train/feature_matching_loss"],
    "discriminators": ["disc/real", "disc/fake", "disc/accuracy"],
    "probe": ["train/probe_accuracy"],
    "valid": ["valid/stoi", "valid/mel_distance"],
}


@dataclass(frozen=True)
class Options:
    """What decides where and how a training runs, and nothing of its outcome but the last bits."""

    device: str = "auto"
    threads: int | None = None
    tracker: str = "none"
    ddp: bool = False


def start_run(resolved: Resolved[VoiceRecipe], data: Path, out: Path, options: Options, overwrite: bool) -> Path | None:
    """Train on a prepared folder from the start; gives `out`, or None in a process that doesn't write the run.

    Raises:
        UserError: bad data, a recipe that doesn't fit it or the machine, a taken name.
    """
    recipe = resolved.recipe
    data = data.resolve()  # absolute, so that --resume works from any directory
    check_tracker(options.tracker)
    check_recipe(recipe)
    device = resolve_device(options.device)
    with join_team(options.ddp, device) as team:
        check_batch(recipe, team)
        device = own_device(device, team)
        threads = set_threads(options.threads)

        def create() -> Run:
            check_replaceable(out, TOOL, overwrite=overwrite)
            load_data(data, recipe)
            index = split_folder(data, "train") / "index.json"
            size = read_index(data)["splits"]["train"]["utterances"]
            return Run.create(
                out,
                tool=TOOL,
                version=__version__,
                resolved=resolved,
                seed=recipe.seed,
                inputs=[input_record(index, rows=size)],
                device=device.type,
                threads=threads,
                overwrite=overwrite,
            )

        with open_run(team, create, out) as run:
            train_run(run, recipe, data, device, team, options.tracker)
        return out if team.is_writer else None


def resume_run(path: Path, options: Options) -> Path | None:
    """Go on with a run that was stopped, on the data that it began with; gives what `start_run` does.

    Raises:
        UserError: no such run, or the data is not what the run began with.
    """
    run = Run.open(path, tool=TOOL)
    if run.record["status"] == "finished":
        info(f"{path} is finished already")
        return path
    check_tracker(options.tracker)
    recipe = run.recipe(VoiceRecipe)
    check_recipe(recipe)
    (begun,) = run.record["inputs"]
    index = Path(begun["path"])
    if not index.exists() or input_record(index)["sha256"] != begun["sha256"]:
        raise UserError(f"{index} is not there, or not what {path} was begun with (SHA-256 differs)")
    environment = run.record["environment"]
    device = resolve_device(environment["device"] if options.device == "auto" else options.device)
    with join_team(options.ddp, device) as team:
        check_batch(recipe, team)
        device = own_device(device, team)
        # The order of floating-point sums, and so the last bit, depends on the number of threads.
        set_threads(options.threads or environment["threads"])
        with open_run(team, lambda: Run.resume(path, tool=TOOL), path) as resumed:
            train_run(resumed, recipe, index.parent.parent, device, team, options.tracker)
        return path if team.is_writer else None


@contextmanager
def open_run(team: Team, make: Any, path: Path) -> Iterator[Run]:
    """The run, held by the process that writes it and only read by the others."""
    with ExitStack() as stack:
        made: list[Run] = []
        team.first(lambda: made.append(stack.enter_context(make())))
        if not team.is_writer:
            set_quiet(True)
        yield made[0] if team.is_writer else Run.open(path, tool=TOOL)


def train_run(run: Run, recipe: VoiceRecipe, data: Path, device: torch.device, team: Team, tracker: str) -> None:
    segments, valid = load_data(data, recipe)
    state = State.build(recipe, len(segments.speakers), device)
    checkpoints = Checkpoints(run.checkpoints_path)
    with ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        metrics = sink = None
        if team.is_writer:
            checkpoints.recover()
            metrics = stack.enter_context(MetricsWriter(run.metrics_path))
            sink = stack.enter_context(open_sink(tracker, run))
        team.any(False)  # nobody reads checkpoints before what a crash left is cleared
        if (run.checkpoints_path / "last").exists():
            folder, _ = checkpoints.load("last")
            state.load(folder, device)
            info(f"resuming at step {state.step}")
        if metrics is not None:
            metrics.truncate_after(state.step)
        loop = Loop(
            run=run,
            recipe=recipe,
            segments=segments,
            valid=valid,
            spectral=SpectralLoss(recipe.audio),
            device=device,
            team=team,
            checkpoints=checkpoints,
            stop=stop,
            metrics=metrics,
            sink=sink,
        )
        result = fit(loop, state)
    if team.is_writer:
        plot_curves(run.metrics_path, run.path / "plots", CURVES)
        run.finish(result)


def prepared_audio(data: Path) -> AudioConfig:
    """What sound was prepared with.

    Raises:
        UserError: no prepared folder, or a damaged index.
    """
    try:
        return AudioConfig.model_validate(read_index(data)["audio"])
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{data / 'index.json'} is damaged; prepare the sound again") from None


def load_data(data: Path, recipe: VoiceRecipe) -> tuple[Segments, list[Utterance]]:
    """Training segments and validation utterances; without a valid split, some training utterances stand in.

    Raises:
        UserError: no prepared folder, made for other audio settings, too few speakers.
    """
    train = load_utterances(data, "train")
    prepared, wanted = prepared_audio(data), recipe.audio
    for name in ("rate", "hop", "f0_min", "f0_max"):
        if getattr(prepared, name) != getattr(wanted, name):
            raise UserError(
                f"{data} was prepared with audio.{name}={getattr(prepared, name)}, not {getattr(wanted, name)}: "
                f"prepare it again, or give --set audio.{name}={getattr(prepared, name)}"
            )
    frames, reference_frames = (
        round(seconds * wanted.rate / wanted.hop)
        for seconds in (recipe.data.segment_seconds, recipe.data.reference_seconds)
    )
    f0 = read_index(split_folder(data, "train"))["f0"]
    segments = Segments(train, f0, frames, reference_frames, recipe.data.batch_size, recipe.seed)
    has_valid = (data / "valid" / "wave_000.npy").exists()
    valid = load_utterances(data, "valid") if has_valid else train[:: max(1, len(train) // 8)]
    return segments, valid


def check_recipe(recipe: VoiceRecipe) -> None:
    """Refuse what is not installed before anything is written."""
    if recipe.diagnostics.enabled and importlib.util.find_spec("diag") is None:
        raise UserError("--run-diagnostics needs an extra: pip install 'voice-gan[diagnostics]'")
    if recipe.model.speaker.kind == "ge2e":
        ge2e_weights()


def check_batch(recipe: VoiceRecipe, team: Team) -> None:
    if recipe.data.batch_size % team.world:
        raise UserError(f"data.batch_size {recipe.data.batch_size} can't be shared by {team.world} processes equally")


def own_device(device: torch.device, team: Team) -> torch.device:
    """With several processes on a machine with GPUs, each takes one."""
    if device.type == "cuda" and team.world > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


@dataclass(frozen=True)
class Trained:
    """A finished model, ready for use."""

    model: VoiceModel
    recipe: VoiceRecipe
    path: Path
    device: torch.device


def load_trained(path: Path, checkpoint: str = "best", device: str = "auto", threads: int | None = None) -> Trained:
    """A run's model, the moving average of its weights.

    Raises:
        UserError: no run of voice-gan, no such checkpoint, a damaged file.
    """
    run = Run.open(path, tool=TOOL)
    recipe = run.recipe(VoiceRecipe)
    folder, _ = Checkpoints(run.checkpoints_path).load(checkpoint)
    chosen = resolve_device(device)
    set_threads(threads)
    model = VoiceModel(recipe)
    load_weights(folder / "model.safetensors", model)
    return Trained(model.to(chosen).eval().requires_grad_(False), recipe, run.path, chosen)
