"""The loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diversity_finetune.data import Arrays
from diversity_finetune.trainer import MONITOR, TOP_EPOCHS, Progress, Trainer
from trainworks.checkpoint import Checkpoints
from trainworks.console import NonFinite, info, progress
from trainworks.metrics import MetricsWriter
from trainworks.seeding import rng
from trainworks.signals import StopFlag
from trainworks.tracking import Sink

PROBE_PAIRS = 16
"""Pairs of a batch that diagnostics look at: as many as `diag` does."""


def epoch_batches(arrays: Arrays, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows of each of an epoch's batches: pairs that are alike in the lengths of all three texts, in random order.

    Shuffled rows are sorted by the reply's length and cut into groups, each of these by the message's, and each of
    those by the previous turn's, so that little is padding; which pairs meet differs from epoch to epoch.
    """
    chance = rng(seed, "shuffle", epoch)
    lengths = [(getattr(arrays, side) != 0).sum(1) for side in ("agent", "customer", "previous")]
    count = -(-len(arrays) // batch_size)
    groups = [chance.permutation(len(arrays))]
    for level, length in enumerate(lengths):
        cuts = round(count ** ((level + 1) / len(lengths)) / count ** (level / len(lengths)))
        last = level == len(lengths) - 1
        split: list[np.ndarray] = []
        for group in groups:
            ordered = group[np.argsort(length[group], kind="stable")]
            size = batch_size if last else -(-len(ordered) // (cuts * batch_size)) * batch_size
            split += [ordered[begin : begin + size] for begin in range(0, len(ordered), size)]
        groups = split
    return [groups[place] for place in chance.permutation(len(groups))]


def fit(
    trainer: Trainer,
    train: Arrays,
    valid: Arrays,
    checkpoints: Checkpoints,
    metrics: MetricsWriter,
    sink: Sink,
    stop: StopFlag,
    measure: Callable[[int], Mapping[str, float]],
    diagnostics: Path,
) -> Progress:
    """Train until the epochs or the patience are over, from the run's last checkpoint if there is one.

    Args:
        sink: a tracker's, beside `metrics`.
        measure: is told the number of an epoch that ended and returns further metrics of the averaged weights.
        diagnostics: the folder that gets reports of `diag`, where the recipe wants them.

    Returns:
        Where training ended; the averaged weights are those of the best epoch.

    Raises:
        NonFinite: a loss or gradient became NaN or infinite; nothing of that step was kept.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint.
    """
    config, seed = trainer.recipe.training, trainer.recipe.seed
    at = resume(trainer, checkpoints, metrics)
    epoch_steps = -(-len(train) // config.batch_size)
    with progress(config.epochs * epoch_steps, "training", start=at.step) as bar:
        while at.epoch < config.epochs and at.epoch - at.best_epoch < config.patience:
            batches = epoch_batches(train, config.batch_size, seed, at.epoch)
            for index in batches[at.step - at.epoch * epoch_steps :]:
                if stop:
                    publish(trainer, checkpoints, at, f"last_model_epoch_{at.epoch:03d}.weights.h5", {})
                    stop.raise_if_set(f"step {at.step} is saved; go on with --resume")
                try:
                    gradients, losses = trainer.batch(train, index, at.step, at, epoch_steps)
                except NonFinite as error:
                    raise NonFinite(
                        f"{error}, rows {index[:3].tolist()}...; last good checkpoint: "
                        f"{checkpoints.directory / 'last'}; a lower learning rate may help"
                    ) from None
                at.step += 1
                at.add(diagnose(trainer, train, index, gradients, losses, at, diagnostics))
                bar.advance(1, f"loss {at.sums['train/loss'][0] / at.sums['train/loss'][1]:.3f}")
                if at.step % config.log_every == 0 and at.step % epoch_steps:
                    values = at.means()
                    metrics.write(at.step, values, epoch=at.step / epoch_steps)
                    sink.log(at.step, values)
            end_epoch(trainer, valid, checkpoints, metrics, sink, stop, measure, at)
    trainer.load_averaged(checkpoints.load("best")[0])
    return at


def diagnose(
    trainer: Trainer,
    arrays: Arrays,
    index: np.ndarray,
    gradients: list[Any],
    losses: Mapping[str, Any],
    at: Progress,
    folder: Path,
) -> dict[str, float]:
    """A report of `diag` on the step that has just been taken into `folder`, where the recipe wants one now.

    Args:
        arrays, index: the step's batch, of whose first pairs both sides of the adversarial game are looked at.
        gradients, losses: what `Trainer.batch` returned.
    """
    config = trainer.recipe.diagnostics
    if not config.enabled or at.step % config.interval:
        return {}
    from diag.keras_loop import generate_diagnostics_report

    by_module, words = {"model": gradients}, (None, None)
    if trainer.plays(at.epoch):
        by_module["discriminator"], told, words = trainer.look(arrays.take(index[:PROBE_PAIRS]), at.step)
        losses = {**losses, **told}
    metrics, verdict = generate_diagnostics_report(
        modules={"model": trainer.model, "discriminator": trainer.discriminator},
        gradients=by_module,
        losses=losses,
        step=at.step,
        output_dir=folder,
        real=words[0],
        generated=words[1],
    )
    if verdict != "healthy":
        info(f"step {at.step}: diagnostics say {verdict}; see {folder}")
    return {f"diagnostics/{name}": value for name, value in metrics.items()}


def end_epoch(
    trainer: Trainer,
    valid: Arrays,
    checkpoints: Checkpoints,
    metrics: MetricsWriter,
    sink: Sink,
    stop: StopFlag,
    measure: Callable[[int], Mapping[str, float]],
    at: Progress,
) -> None:
    """Evaluate, log, lower the step size on a plateau, publish the checkpoint."""
    config = trainer.recipe.training
    values = trainer.evaluate(valid, stop)
    step_size = trainer.step_size(at.learning_rate, at.step - 1)
    values |= at.means() | {"train/learning_rate": step_size} | dict(measure(at.epoch + 1))
    at.epoch += 1
    loss = values[MONITOR]
    if better := not at.best or loss < at.best[0]:
        at.best_epoch, at.plateau = at.epoch, 0
    else:
        at.plateau += 1
        if at.plateau == config.plateau_patience:
            at.learning_rate, at.plateau = at.learning_rate * config.plateau_factor, 0
    at.best = sorted([*at.best, loss])[:TOP_EPOCHS]
    mark = "  * new best" if better else ""
    info(f"epoch {at.epoch}/{config.epochs}: loss {values['train/loss']:.4f}, valid loss {loss:.4f}{mark}")
    metrics.write(at.step, values, epoch=at.epoch)
    sink.log(at.step, values)
    prefix = "best" if loss in at.best else "last"
    publish(trainer, checkpoints, at, f"{prefix}_model_epoch_{at.epoch:03d}_val_{loss:.4f}.weights.h5", values)


def publish(trainer: Trainer, checkpoints: Checkpoints, at: Progress, name: str, values: Mapping[str, float]) -> None:
    """Publish a checkpoint whose averaged weights have that name."""
    meta = {"epoch": at.epoch, "metrics": dict(values), "progress": vars(at)}
    checkpoints.publish(at.step, lambda folder: trainer.save(folder, name), meta)


def resume(trainer: Trainer, checkpoints: Checkpoints, metrics: MetricsWriter) -> Progress:
    """Load the last checkpoint, if there is one, and cut off what was logged after it."""
    checkpoints.recover()
    if not (checkpoints.directory / "last").exists():
        metrics.truncate_after(-1)
        return Progress(learning_rate=trainer.recipe.training.learning_rate)
    folder, meta = checkpoints.load("last")
    trainer.load(folder)
    metrics.truncate_after(meta["step"])
    return Progress(**meta["progress"])
