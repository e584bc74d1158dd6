"""Teaching the discriminators: balanced batches, cross-fitting, early stopping on held-out AUC, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from disc_train.config import DiscriminatorConfig
from disc_train.discriminators import SCORE_ROWS, Discriminators, Level
from disc_train.losses import discrimination_loss
from trainworks.seeding import derive
from trainworks.torch import check_finite, seed_torch, torch_generator


@dataclass(frozen=True)
class Side:
    """The real or the generated examples of a level: codes, surprises and orders (N, C), folds (N,)."""

    codes: Tensor
    surprise: Tensor
    order: Tensor
    fold: Tensor

    @classmethod
    def of(cls, discriminators: Discriminators, codes: Tensor, order: Tensor, fold: Tensor | None = None) -> Side:
        fold = discriminators.fold_of(codes) if fold is None else fold
        return cls(codes, discriminators.surprise(codes, order), order, fold)


@dataclass(frozen=True)
class Examples:
    """What a level learns from. With `column` (N,), the feature level's, row i of both sides is the same row but for
    that cell, which the generator has drawn anew."""

    real: Side
    generated: Side
    column: Tensor | None = None


def fit_discriminators(
    discriminators: Discriminators,
    examples: dict[str, Examples],
    seed: int,
    check_stop: Callable[[], None],
) -> dict[str, float]:
    """Train each level until its held-out AUC no longer rises, then calibrate it on the held-out scores.

    How much a level trains thereby follows from how much there is still to see: `patience` epochs more than its best,
    which comes early where the generator has left nothing new, and `max_epochs` at most.

    Args:
        examples: by level.
        seed: the stream of this training.
        check_stop: called at every step; raises to end it.

    Returns:
        "disc/<level>/auc" (held out), "disc/<level>/loss" (held out, calibrated, nats) and "disc/<level>/epochs".
    """
    metrics: dict[str, float] = {}
    for name, level in discriminators.levels.items():
        metrics |= _fit_level(level, examples[name], discriminators.config, derive(seed, name), check_stop)
    return metrics


def _fit_level(
    level: Level, data: Examples, config: DiscriminatorConfig, seed: int, check_stop: Callable[[], None]
) -> dict[str, float]:
    # The sentence level is one table of log-odds without a network: it needs and bears larger steps.
    rate = config.learning_rate * (10 if level.name == "sentence" else 1)
    optimizer = torch.optim.AdamW(level.parameters(), lr=rate, weight_decay=config.weight_decay)
    best_auc, best_epoch, best_state, best_scores = -1.0, 0, None, None
    epoch = 0
    for epoch in range(1, config.max_epochs + 1):
        level.train()
        for step, (fold, real, generated) in enumerate(_batches(data, config, derive(seed, epoch))):
            check_stop()
            seed_torch(seed, epoch, step)
            model = level.folds[fold]
            loss = discrimination_loss(
                _logits(model, data.real, real, data.column),
                _logits(model, data.generated, generated, data.column),
            )
            check_finite(loss, name=f"{level.name} discriminator loss", step=step, batch=f"{step} of epoch {epoch}")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        real_scores, generated_scores = _held_out(level, data)
        auc = roc_auc(real_scores, generated_scores)
        if auc > best_auc:
            best_auc, best_epoch, best_scores = auc, epoch, (real_scores, generated_scores)
            best_state = {key: value.clone() for key, value in level.state_dict().items()}
        if epoch - best_epoch >= config.patience:
            break
    assert best_state is not None
    assert best_scores is not None
    level.load_state_dict(best_state)
    scale, shift, loss = calibrate(*best_scores)
    level.scale.fill_(scale)
    level.shift.fill_(shift)
    level.auc.fill_(best_auc)
    prefix = f"disc/{level.name}"
    return {f"{prefix}/auc": best_auc, f"{prefix}/loss": loss, f"{prefix}/epochs": epoch}


def _batches(data: Examples, config: DiscriminatorConfig, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(fold, real rows, generated rows): half a batch of each, none of them in the fold, folds in turn."""
    half = config.batch_size // 2
    generator = torch_generator(seed)
    by_fold = []
    for fold in range(config.folds):
        real = (data.real.fold != fold).nonzero().squeeze(1).cpu()
        generated = (data.generated.fold != fold).nonzero().squeeze(1).cpu()
        if len(real) == 0 or len(generated) == 0:
            continue
        real = real[torch.randperm(len(real), generator=generator)]
        if data.column is not None:
            generated = real
        else:
            generated = generated[torch.randint(len(generated), (len(real),), generator=generator)]
        by_fold.append([(fold, r, g) for r, g in zip(real.split(half), generated.split(half), strict=True)])
    for batches in zip_longest(*by_fold):
        yield from (batch for batch in batches if batch is not None)


def _logits(model: torch.nn.Module, side: Side, rows: Tensor, column: Tensor | None) -> Tensor:
    logits = model(side.codes[rows], side.surprise[rows], side.order[rows])
    return logits if column is None else logits.gather(1, column[rows].unsqueeze(1)).squeeze(1)


@torch.no_grad()
def _held_out(level: Level, data: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all real and all generated things, each by the model of its own fold, flat."""
    level.eval()
    scores = []
    for side in (data.real, data.generated):
        parts = [
            _logits(model, side, rows, data.column).flatten()
            for fold, model in enumerate(level.folds)
            for rows in (side.fold == fold).nonzero().squeeze(1).split(SCORE_ROWS)
        ]
        scores.append(torch.cat(parts).double().cpu().numpy())
    return scores[0], scores[1]


def roc_auc(real_scores: np.ndarray, generated_scores: np.ndarray) -> float:
    """Probability that a real thing scores above a generated one."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(real_scores), len(generated_scores)])
    return float(roc_auc_score(labels, np.concatenate([real_scores, generated_scores])))


def calibrate(real_scores: np.ndarray, generated_scores: np.ndarray) -> tuple[float, float, float]:
    """Scale and shift that turn scores into log-odds (Platt 1999), and the balanced log loss, nats.

    A score that says nothing gets scale 0, so a blind discriminator gives no feedback rather than noise.
    """
    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([real_scores, generated_scores])
    labels = np.repeat([1, 0], [len(real_scores), len(generated_scores)])
    weights = np.repeat(
        [0.5 / len(real_scores), 0.5 / len(generated_scores)], [len(real_scores), len(generated_scores)]
    )
    spread = scores.std()
    scale = shift = 0.0
    if spread > 1e-8:
        fit = LogisticRegression(C=1e4).fit(scores[:, None] / spread, labels, sample_weight=weights * len(scores))
        scale, shift = float(fit.coef_[0, 0] / spread), float(fit.intercept_[0])
    if scale <= 0:
        scale = shift = 0.0
    loss = (weights * np.logaddexp(0, np.where(labels == 1, -1, 1) * (scale * scores + shift))).sum()
    return scale, shift, float(loss)
