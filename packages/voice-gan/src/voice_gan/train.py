"""The loop: reconstruction and conversion first, then with discriminators.

Every random draw derives from (seed, stream, step), so a checkpoint holds no random state, a resumed run repeats the
unbroken one, and processes agree without talking.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainworks.console import UserError, info, progress
from trainworks.torch import check_finite, seed_torch
from voice_gan.distributed import LostProcess
from voice_gan.snapshot import write_samples
from voice_gan.state import Loop, State
from voice_gan.step import backward, cut
from voice_gan.validation import validate

WARM_UP_STEPS = 100
FINAL_RATE = 0.05


def fit(loop: Loop, state: State) -> dict[str, Any]:
    """Train to the end; returns the last validation's metrics.

    Raises:
        NonFinite: a loss or gradient became NaN or infinite; the step was not taken.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint saved.
        UserError: another process of the job died; the writer has saved a checkpoint.
    """
    steps_an_epoch, config = loop.segments.steps_an_epoch, loop.recipe.training
    metrics: dict[str, Any] = {}
    previous: dict[str, float] = {}
    if config.compile:
        state.model.generator.compile()
    try:
        with progress(loop.total_steps, "training", start=state.step) as bar:
            while state.step < loop.total_steps:
                stop_if_asked(loop, state)
                began = time.perf_counter()
                seed_torch(loop.recipe.seed, "step", state.step)
                values, report = train_step(loop, state, previous)
                previous = values
                seconds = time.perf_counter() - began
                values["train/audio_seconds_per_second"] = (
                    loop.recipe.data.batch_size * loop.recipe.data.segment_seconds / seconds
                )
                bar.advance(1, f"mel {values['train/mel_loss']:.3f}")
                if state.step % steps_an_epoch == 0:
                    found = end_epoch(loop, state)
                    metrics |= found
                    loop.log(state.step, values | report | found)
                    publish(loop, state, found)
                else:
                    loop.log(state.step, values | report)
    except LostProcess as error:
        publish(loop, state, {})
        raise UserError(
            f"{error}; step {state.step} is saved: start the job again with --resume {loop.run.path}"
        ) from None
    return metrics or loop.checkpoints.load("last")[1]["metrics"]


def train_step(loop: Loop, state: State, previous: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """One optimizer step on the batch of `state.step`; returns what is logged, and the diagnostics' report if one was
    due."""
    recipe, team = loop.recipe, loop.team
    began = time.perf_counter()
    batch = loop.segments.batch_of(state.step, team.rank, team.world)
    parts = cut(batch, recipe, state.step, recipe.training.grad_accum, loop.device)
    data_seconds = time.perf_counter() - began
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(state.step, loop.total_steps)
    for group in state.discriminator_optimizer.param_groups:
        group["lr"] = recipe.discriminators.learning_rate * state.guard.rate
    state.optimizer.zero_grad()
    state.discriminator_optimizer.zero_grad()
    state.model.train()

    rows = len(batch.rows)
    converted = loop.num_converted / team.world
    sums: dict[str, Tensor] = {}
    keys = []
    for part in parts:
        values, key_BD = backward(
            loop, state, part, len(part.wave_BT) / rows, len(part.converted_B) / converted if converted else 0.0
        )
        keys.append(key_BD)
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.detach()
    team.average_gradients([*state.model.parameters(), *state.probe.parameters()])
    team.average_gradients(state.discriminators.parameters())
    # All that processes tell each other comes before the step: if one is lost, what is saved is of the step before.
    keys_BD, speakers_B = team.gather(torch.cat(keys)), team.gather(torch.cat([part.speakers_B for part in parts]))

    logged = to_host(team, sums, norms(state))
    last = loop.run.checkpoints_path / "last"
    for name in ("train/loss", "grad_norm/model", "grad_norm/discriminators"):
        if name in logged:
            check_finite(
                logged[name], name=name, step=state.step, batch=state.step, checkpoint=last if last.exists() else None
            )
    report = diagnose(loop, state, logged, previous)
    clip_and_step(state, recipe.training.clip_norm, logged)
    state.queue.put(keys_BD, speakers_B)
    update_averages(state, recipe.training.ema, recipe.losses.key_momentum)
    state.step += 1

    logged["lr/model"] = state.optimizer.param_groups[0]["lr"]
    logged["time/data_seconds"] = data_seconds
    if "disc/accuracy" in logged:
        logged["lr/discriminators"] = state.discriminator_optimizer.param_groups[0]["lr"]
        logged |= state.guard.watch(logged["disc/accuracy"], logged["train/diversity"])
    logged["guard/interventions"] = state.guard.interventions
    return logged, report


def norms(state: State) -> dict[str, Tensor]:
    """Gradient and parameter norms of every module, and the gradients' of each optimizer."""
    found: dict[str, Tensor] = {}
    for name, module in state.parts().items():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if gradients:
            found[f"grad_norm/{name}"] = norm(gradients)
        found[f"param_norm/{name}"] = norm([p.detach() for p in module.parameters()])
    wholes = {"model": ("content", "speaker", "generator"), "discriminators": ("mpd", "mrd")}
    for whole, parts in wholes.items():
        there = [found[f"grad_norm/{part}"] for part in parts if f"grad_norm/{part}" in found]
        if there:
            found[f"grad_norm/{whole}"] = torch.stack(there).norm()
    return found


def norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def to_host(team: Any, sums: dict[str, Tensor], same: dict[str, Tensor]) -> dict[str, float]:
    """Numbers from tensors in one transfer: `sums` as means over processes, `same` as they are everywhere."""
    means = team.average(torch.stack([value.float() for value in sums.values()]))
    numbers = torch.cat([means, torch.stack([value.float() for value in same.values()])]).tolist()
    return dict(zip([*sums, *same], numbers, strict=True))


def clip_and_step(state: State, bound: float, logged: dict[str, float]) -> None:
    """Step each optimizer that has gradients; the guard may bound an exploding gradient below the recipe's norm."""
    sides = {
        "model": (state.optimizer, [*state.model.parameters()]),
        "discriminators": (state.discriminator_optimizer, [*state.discriminators.parameters()]),
    }
    for name, (optimizer, parameters) in sides.items():
        size = logged.get(f"grad_norm/{name}")
        if size is None:
            continue
        allowed = min(bound, state.guard.clip(name, size))
        if allowed < min(bound, size):
            logged[f"guard/clip_{name}"] = allowed
        if allowed < size:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], allowed / size)
        optimizer.step()


@torch.no_grad()
def update_averages(state: State, decay: float, key_momentum: float) -> None:
    """Move the averages towards the weights; the model's faster at first, when they are far from where they will be."""
    decay = min(decay, (state.step + 1) / (state.step + 11))
    torch._foreach_lerp_([*state.average.parameters()], [*state.model.parameters()], 1 - decay)
    torch._foreach_lerp_([*state.keys.parameters()], [*state.model.speaker.parameters()], 1 - key_momentum)


def rate_factor(step: int, total: int) -> float:
    """Linear warm-up over at most a tenth of all steps, then cosine decay to FINAL_RATE."""
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, total // 10)))
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * step / total)))


def end_epoch(loop: Loop, state: State) -> dict[str, float]:
    """Validate and write samples where they are due; returns the validation's metrics."""
    config, epoch = loop.recipe, state.step // loop.segments.steps_an_epoch
    if not loop.team.is_writer:
        return {}
    at_the_end = epoch == config.training.epochs
    every = config.diagnostics.sample_interval
    if at_the_end or (every and epoch % every == 0):
        folder = loop.run.path / "samples" / f"epoch_{epoch:04d}"
        write_samples(state.average, loop.valid, folder, config.diagnostics.num_samples, config.seed)
    return measure(loop, state) if at_the_end or epoch % config.training.validate_every == 0 else {}


def measure(loop: Loop, state: State) -> dict[str, float]:
    """Metrics of the averaged model on the validation utterances."""
    metrics = validate(state.average, loop.valid, loop.recipe.training.valid_utterances)
    epoch = state.step // loop.segments.steps_an_epoch
    info(f"epoch {epoch}: " + ", ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in metrics.items()))
    return metrics


def diagnose(loop: Loop, state: State, losses: Mapping[str, float], previous: Mapping[str, float]) -> dict[str, float]:
    """A report of `diag` on this step into RUN/diagnostics, where the recipe wants one now."""
    config = loop.recipe.diagnostics
    if not config.enabled or not loop.team.is_writer or state.step % config.interval:
        return {}
    from diag import generate_diagnostics_report

    adversarial = state.step >= loop.first_adversarial_step
    metrics, verdict = generate_diagnostics_report(
        model=state.model,
        mpd=state.discriminators.mpd if adversarial else None,
        mrd=state.discriminators.mrd if adversarial else None,
        device=loop.device,
        losses={name: value for name, value in losses.items() if name.endswith("loss")},
        prev_losses={name: value for name, value in previous.items() if name.endswith("loss")},
        step=state.step,
        output_dir=loop.run.path / "diagnostics",
    )
    if verdict != "healthy":
        info(f"step {state.step}: diagnostics say {verdict}; see {loop.run.path / 'diagnostics'}")
    return {f"diagnostics/{name}": value for name, value in metrics.items() if isinstance(value, float)}


def publish(loop: Loop, state: State, metrics: Mapping[str, float]) -> None:
    if loop.team.is_writer:
        loop.checkpoints.publish(state.step, state.save, {"metrics": dict(metrics)})


def stop_if_asked(loop: Loop, state: State) -> None:
    """Between two steps: save and end, all processes at the same step, if a signal has come to any."""
    if loop.team.any(bool(loop.stop)):
        publish(loop, state, {})
        loop.stop.raise_if_set(f"saved step {state.step}; go on with --resume {loop.run.path}")
        raise SystemExit(0)
