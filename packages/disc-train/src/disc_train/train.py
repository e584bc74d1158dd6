"""The loop: maximum likelihood first, then generator and discriminators in turns.

Every random draw derives from (seed, stream, step), so a checkpoint holds no random state and a resumed run repeats
the unbroken one bit by bit.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disc_train.config import LEVELS, FeedbackConfig, TrainRecipe
from disc_train.discriminator_training import Examples, Side, fit_discriminators
from disc_train.discriminators import Discriminators
from disc_train.draws import BATCH_ROWS, draw_rows
from disc_train.losses import balanced_weights, feedback_losses, lm_loss, pulls, total_feedback_loss
from disc_train.model import Generator
from disc_train.schema import Schema
from disc_train.state import Loop, Rows, State, feedback_optimizer, warm_start_optimizer
from disc_train.two_sample import validation_auc
from trainworks.checkpoint import Checkpoints
from trainworks.console import info, progress
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.seeding import derive
from trainworks.signals import StopFlag
from trainworks.torch import check_finite, seed_torch, torch_generator
from trainworks.tracking import Sink

WARM_UP_STEPS = 100
FINAL_RATE = 0.03
MIN_EVALUATION_STEPS = 50
PULL_DECAY = 0.9
"""Momentum of the running means that adapting weights follow."""
PROBE_ROWS = 16
"""Rows of a batch whose variety diagnostics compare: as many as `diag` looks at."""


def fit(
    run: Run,
    recipe: TrainRecipe,
    schema: Schema,
    generator: Generator,
    rows: Rows,
    device: torch.device,
    sink: Sink,
) -> dict[str, Any]:
    """Train to the end, from the run's last checkpoint if it has one; returns the best checkpoint's metrics.

    Raises:
        NonFinite: a loss or gradient became NaN or infinite.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint saved.
    """
    generator.to(device)
    state = State(
        generator=generator,
        average=copy.deepcopy(generator).requires_grad_(False),
        discriminators=Discriminators(generator, schema.token_values(), recipe.discriminator).to(device),
        optimizer=warm_start_optimizer(generator, recipe),
        replay=rows.train[:0],
    )
    beside = [run.path / "schema.json", *sorted((run.path / "text").glob("*.json"))]
    checkpoints = Checkpoints(run.checkpoints_path, monitor="valid/two_sample_auc", mode="min", beside=beside)
    checkpoints.recover()
    with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
        loop = Loop(run, recipe, rows, schema, device, metrics, sink, stop, checkpoints)
        if (run.checkpoints_path / "last").exists():
            folder, meta = checkpoints.load("last")
            state.load(folder, device, recipe)
            metrics.truncate_after(meta["step"])
            info(f"resuming at step {state.step}")
        else:
            metrics.truncate_after(-1)
        if state.warm_steps < 0:
            warm_start(loop, state)
        alternate(loop, state)
    return checkpoints.load("best")[1]["metrics"]


def warm_start(loop: Loop, state: State) -> None:
    """Maximum likelihood in random column orders, until the validation likelihood stops rising."""
    recipe, rows = loop.recipe, loop.rows.train
    config = recipe.warm_start
    batches = math.ceil(len(rows) / config.batch_size)
    total = min(max(config.max_epochs * batches, config.min_steps), config.max_steps)
    every = max(batches, MIN_EVALUATION_STEPS)
    with progress(total, "warm start", start=state.step) as bar:
        while state.step < total:
            stop_if_asked(loop, state)
            epoch, index = divmod(state.step, batches)
            seed_torch(recipe.seed, "warm", state.step)
            order = torch.randperm(len(rows), generator=torch_generator(recipe.seed, "shuffle", epoch))
            batch = rows[order[index * config.batch_size : (index + 1) * config.batch_size].to(rows.device)]
            for group in state.optimizer.param_groups:
                group["lr"] = config.learning_rate * rate_factor(state.step, total)
            loss = generator_step(loop, state, batch, feedback=None)
            update_average(state, decay=min(0.999, (state.step + 1) / (state.step + 11)))
            state.step += 1
            values = feedback_record(loss["lm_loss"], loss["grad_norm"])
            due = state.step % every == 0 or state.step == total
            if due:
                values["valid/lm_loss"] = evaluate_likelihood(loop, state)
            loop.log(state.step, values, epoch=state.step / batches)
            bar.advance(1, f"loss {loss['lm_loss']:.2f}")
            if due:
                keep_best_likelihood(state, values["valid/lm_loss"])
                if state.evaluations_since_best >= config.patience:
                    break
                # The last step's checkpoint is the first cycle's: two of one step could not be told apart.
                if state.step < total:
                    publish(loop, state, {"valid/lm_loss": values["valid/lm_loss"]})
    state.warm_steps = state.step
    state.average.load_state_dict(state.best_weights)
    state.generator.load_state_dict(state.best_weights)
    state.best_weights = {}
    state.optimizer = feedback_optimizer(state.generator, recipe)


def alternate(loop: Loop, state: State) -> None:
    """Cycles of: teach the discriminators, test, save, then teach the generator by their feedback."""
    config = loop.recipe.feedback
    total = state.warm_steps + config.cycles * config.steps_per_cycle
    with progress(total - state.warm_steps, "feedback", start=state.step - state.warm_steps) as bar:
        while True:
            cycle, index = divmod(state.step - state.warm_steps, config.steps_per_cycle)
            if index == 0 and cycle > state.cycle:
                state.cycle = cycle
                begin_cycle(loop, state, cycle)
            if state.step == total or (index == 0 and state.cycles_since_best >= config.patience):
                return
            stop_if_asked(loop, state)
            seed_torch(loop.recipe.seed, "feedback", state.step)
            feedback = None
            if config.schedule != "none":
                generated = draw_group(loop, state)
                feedback = Feedback(*generated, state.discriminators.credits(*generated))
            generator = torch_generator(loop.recipe.seed, "anchor", state.step)
            picked = torch.randint(len(loop.rows.train), (config.real_batch_size,), generator=generator)
            batch = loop.rows.train[picked.to(loop.device)]
            losses = generator_step(loop, state, batch, feedback)
            update_average(state, decay=0.98)
            state.step += 1
            values = feedback_record(losses["lm_loss"], losses["grad_norm"], losses)
            loop.log(state.step, values)
            bar.advance(1, f"cycle {cycle + 1}/{config.cycles} loss {losses['combined_loss']:.2f}")


def begin_cycle(loop: Loop, state: State, cycle: int) -> None:
    """Train the discriminators if they are due, measure the generator, publish a checkpoint."""
    config = loop.recipe.feedback
    values: dict[str, float] = {}
    if config.schedule == "alternate" or (config.schedule == "once" and cycle == 0):
        values |= teach_discriminators(loop, state, cycle)
    values["valid/two_sample_auc"] = measure_two_sample(loop, state, cycle)
    values["valid/lm_loss"] = evaluate_likelihood(loop, state)
    values["feedback/cycle"] = cycle
    loop.log(state.step, values)
    info(
        f"cycle {cycle}: validation two-sample AUC {values['valid/two_sample_auc']:.3f}"
        + "".join(f", {level} {values[f'disc/{level}/auc']:.3f}" for level in LEVELS if f"disc/{level}/auc" in values)
    )
    improved = values["valid/two_sample_auc"] < state.best_auc
    state.best_auc = min(state.best_auc, values["valid/two_sample_auc"])
    state.cycles_since_best = 0 if improved else state.cycles_since_best + 1
    publish(loop, state, values)


@dataclass(frozen=True)
class Feedback:
    """A group of generated rows, codes and orders (N, C), and each level's credits for them."""

    codes: Tensor
    order: Tensor
    credits: dict[str, Tensor]


def generator_step(loop: Loop, state: State, batch: Tensor, feedback: Feedback | None) -> dict[str, float]:
    """One optimizer step on likelihood and, if there is any, feedback; returns every loss, in nats a row."""
    config, parts = loop.recipe.feedback, loop.recipe.grad_accum
    state.optimizer.zero_grad()
    losses = {"lm_loss": 0.0, "combined_loss": 0.0}
    state.generator.train()
    for part in batch.chunk(parts):
        with loop.autocast():
            order = random_orders(part)
            loss = lm_loss(state.generator.log_prob(part, order, smooth=True).float()) * (len(part) / len(batch))
        loss.backward()
        losses["lm_loss"] += loss.item()
    losses["combined_loss"] = losses["lm_loss"]
    if feedback is not None:
        # Rows were drawn without dropout, so their probabilities are taken without it.
        state.generator.eval()
        with loop.autocast():
            log_prob = state.generator.log_prob(feedback.codes, feedback.order).float()
        levels = feedback_losses(log_prob, feedback.credits, config.max_advantage)
        weights = adapted_weights(config, state, levels, log_prob)
        if config.gradients_every and state.step % config.gradients_every == 0:
            losses |= gradient_figures(levels, state.generator)
        total = total_feedback_loss(levels, weights)
        (config.strength * total).backward()
        losses |= {f"{level}_loss": loss.item() for level, loss in levels.items()}
        losses |= {f"weight/{level}": weight for level, weight in weights.items()}
        losses["total_feedback_loss"] = total.item()
        losses["combined_loss"] += config.strength * total.item()
    norm = torch.nn.utils.clip_grad_norm_(state.generator.parameters(), 5.0)
    last = loop.run.checkpoints_path / "last"
    for name, value in (("loss", losses["combined_loss"]), ("gradient norm", norm)):
        check_finite(value, name=name, step=state.step, checkpoint=last if last.exists() else None)
    diagnose(loop, state, batch, feedback, losses)
    state.optimizer.step()
    return {**losses, "grad_norm": norm.item()}


def gradient_figures(levels: Mapping[str, Tensor], generator: Generator) -> dict[str, float]:
    """Norm of the likelihood's gradient, which stands in the parameters, and of each level's; and the cosine of
    each pair: below 0 they are in conflict (Yu et al. 2020)."""
    parameters = list(generator.parameters())
    gradients = {"lm": flat([parameter.grad for parameter in parameters], parameters)}
    for level, loss in levels.items():
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        gradients[level] = flat(found, parameters)
    figures = {f"gradient/{name}": vector.norm().item() for name, vector in gradients.items()}
    for one, other in itertools.combinations(gradients, 2):
        cosine = torch.nn.functional.cosine_similarity(gradients[one], gradients[other], dim=0)
        figures[f"cosine/{one}/{other}"] = cosine.item()
    return figures


def flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """One vector of all gradients, zeros where there is none."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(own) if found is None else found).flatten() for found, own in pairs])


def adapted_weights(
    config: FeedbackConfig, state: State, levels: Mapping[str, Tensor], log_prob: Tensor
) -> Mapping[str, float]:
    """The recipe's weights or, if they adapt, those that balance the levels' gradients over the last steps; a level of
    weight 0 stays out."""
    taking_part = {level: levels[level] for level, weight in config.weights.items() if weight}
    if config.weighting == "fixed" or not taking_part:
        return config.weights
    for level, norm in pulls(taking_part, log_prob).items():
        state.pulls[level] = PULL_DECAY * state.pulls.get(level, norm) + (1 - PULL_DECAY) * norm
    return dict.fromkeys(LEVELS, 0.0) | balanced_weights(state.pulls, total=sum(config.weights.values()))


def diagnose(loop: Loop, state: State, batch: Tensor, feedback: Feedback | None, losses: Mapping[str, float]) -> None:
    """A report of `diag` on this step into RUN/diagnostics, where the recipe wants one now."""
    config = loop.recipe.diagnostics
    if not config.enabled or state.step % config.interval:
        return
    from diag import generate_diagnostics_report

    rows: dict[str, Tensor] = {}
    if feedback is not None:
        size = int(max(batch.max(), feedback.codes.max())) + 1
        rows = {"real": indicators(batch, size), "generated": indicators(feedback.codes, size)}
    verdict = generate_diagnostics_report(
        model=state.generator,
        device=loop.device,
        losses=losses,
        **rows,
        step=state.step,
        output_dir=loop.run.path / "diagnostics",
    )[1]
    if verdict != "healthy":
        info(f"step {state.step}: diagnostics say {verdict}; see {loop.run.path / 'diagnostics'}")


def indicators(codes: Tensor, size: int) -> Tensor:
    """(N, C) codes below `size` -> (N, C * size) zeros and ones: how far rows are apart is how few cells they share."""
    return torch.nn.functional.one_hot(codes[:PROBE_ROWS], size).flatten(1).float()


def teach_discriminators(loop: Loop, state: State, cycle: int) -> dict[str, float]:
    """Fit all levels to real rows against fresh and replayed ones; returns their held-out metrics."""
    config, seed = loop.recipe.discriminator, derive(loop.recipe.seed, "discriminators", cycle)
    real = loop.rows.critic
    chooser, draws = torch_generator(seed, "rows"), torch_generator(seed, "draw", device=loop.device)
    num_generated = round(config.generated_per_real * len(real))
    num_replayed = round(config.replay_share * num_generated) if len(state.replay) else 0
    fresh, fresh_order = draw_rows(state.average, num_generated - num_replayed, draws)
    pick = torch.randint(max(1, len(state.replay)), (num_replayed,), generator=chooser).to(loop.device)
    generated = torch.cat([fresh, state.replay[pick]])
    # Real and replayed rows are read in the orders of the fresh ones: an order must not give its row away.
    shuffle = torch.randint(len(fresh), (num_replayed + len(real),), generator=chooser).to(loop.device)
    orders = torch.cat([fresh_order, fresh_order[shuffle]]).split([num_generated, len(real)])
    column = torch.randint(real.shape[1], (len(real),), generator=chooser).to(loop.device)
    redrawn, last_order = redraw(state.average, real, column, draws)

    critics = state.discriminators
    critics.set_reference(state.average, real, orders[1])
    side = Side.of(critics, real, orders[1])
    rows = Examples(side, Side.of(critics, generated, orders[0]))
    # A redrawn cell stays in its row's fold, or the fold's model would have seen the rest of the row.
    cells = Examples(Side.of(critics, real, last_order), Side.of(critics, redrawn, last_order, fold=side.fold), column)
    examples = {"token": rows, "sentence": rows, "row": rows, "feature": cells}
    state.replay = torch.cat([state.replay, fresh])[-config.max_rows :]
    return fit_discriminators(critics, examples, seed, lambda: stop_between_checkpoints(loop))


def redraw(generator: Generator, rows: Tensor, column: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The rows with one cell each, `column` (N,), drawn anew given the others; and orders that end there."""
    index = torch.arange(len(rows), device=rows.device)
    known = rows.clone()
    known[index, column] = -1
    place = torch.rand(rows.shape, generator=draws, device=rows.device)
    place[index, column] = 2.0
    order = place.argsort(1)
    parts = zip(known.split(BATCH_ROWS), order.split(BATCH_ROWS), strict=True)
    return torch.cat([generator.sample(*part, draws)[0] for part in parts]), order


def draw_group(loop: Loop, state: State) -> tuple[Tensor, Tensor]:
    """A group of rows from the current generator, with the orders they were drawn in."""
    size = loop.recipe.feedback.batch_size
    draws = torch_generator(loop.recipe.seed, "group", state.step, device=loop.device)
    return draw_rows(state.generator, size, draws, rows_per_order=64)


def random_orders(codes: Tensor) -> Tensor:
    """Uniform random column orders from the global generator, the shape of `codes`."""
    return torch.rand(codes.shape, device=codes.device).argsort(1)


@torch.no_grad()
def update_average(state: State, decay: float) -> None:
    """Move the average towards the generator."""
    for mean, now in zip(state.average.parameters(), state.generator.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)


@torch.no_grad()
def evaluate_likelihood(loop: Loop, state: State) -> float:
    """Negative log-likelihood of the validation rows, nats a row, in orders that never change."""
    state.average.eval()
    seed_torch(loop.recipe.seed, "valid")
    losses = []
    for part in loop.rows.valid.split(1024):
        stop_between_checkpoints(loop)
        losses.append(lm_loss(state.average.log_prob(part, random_orders(part))).item() * len(part))
    return sum(losses) / len(loop.rows.valid)


def measure_two_sample(loop: Loop, state: State, cycle: int) -> float:
    """Validation rows against generated ones by extremely randomised trees, mean over five draws."""
    draws = torch_generator(loop.recipe.seed, "two-sample", cycle, device=loop.device)
    real = loop.rows.valid.cpu().numpy()
    aucs = []
    for repeat in range(5):
        stop_between_checkpoints(loop)
        generated = draw_rows(state.average, len(real), draws)[0].cpu().numpy()
        aucs.append(validation_auc(real, generated, seed=repeat))
    return float(np.mean(aucs))


def keep_best_likelihood(state: State, loss: float) -> None:
    if loss < state.best_loss:
        state.best_loss, state.evaluations_since_best = loss, 0
        state.best_weights = {name: value.clone() for name, value in state.average.state_dict().items()}
    else:
        state.evaluations_since_best += 1


def feedback_record(lm: float, grad_norm: float, losses: dict[str, float] | None = None) -> dict[str, float]:
    """A step's record. Every step has every name: what a step has no value of is null."""
    names = [*(f"{level}_loss" for level in LEVELS), "total_feedback_loss"]
    known = losses or {}
    weighted = {
        level: abs(known.get(f"weight/{level}", math.nan) * known.get(f"{level}_loss", math.nan)) for level in LEVELS
    }
    return {
        **{f"train/{name}": known.get(name, math.nan) for name in names},
        **{f"weight/{level}": known.get(f"weight/{level}", math.nan) for level in LEVELS},
        **{name: value for name, value in known.items() if name.startswith(("gradient/", "cosine/"))},
        **{f"share/{level}": value / max(sum(weighted.values()), 1e-12) for level, value in weighted.items()},
        "train/lm_loss": lm,
        "train/combined_loss": known.get("combined_loss", lm),
        "train/grad_norm": grad_norm,
    }


def rate_factor(step: int, total: int) -> float:
    """Linear warm-up, then cosine decay to FINAL_RATE."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / total))
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def publish(loop: Loop, state: State, metrics: dict[str, float]) -> None:
    loop.checkpoints.publish(state.step, state.save, {"metrics": metrics})


def stop_if_asked(loop: Loop, state: State) -> None:
    """Between two steps: save and end if a signal has come."""
    if loop.stop:
        publish(loop, state, {})
        loop.stop.raise_if_set(f"saved step {state.step}; go on with --resume {loop.run.path}")


def stop_between_checkpoints(loop: Loop) -> None:
    """Inside work that is repeated as a whole: end if a signal has come; the last checkpoint stands."""
    loop.stop.raise_if_set(f"go on with --resume {loop.run.path}")
