"""Objectives as pure functions of tensors.

Shape legend: B rows, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from disc_train.config import LEVELS

LEAST_SHARE, MOST_SHARE = 0.05, 0.7
"""Bounds on a level's share of the weights where they adapt, before they are made to sum up again."""
SILENT = 0.01
"""Share of the largest gradient below which a level is taken to have nothing to say."""


def lm_loss(log_prob_BC: Tensor) -> Tensor:
    """Negative log-likelihood of whole rows, nats a row, mean over rows."""
    return -log_prob_BC.sum(1).mean()


def discrimination_loss(real_logits: Tensor, generated_logits: Tensor) -> Tensor:
    """Binary cross-entropy with both classes weighted alike (Goodfellow et al. 2014, equation 1), in nats.

    Args:
        real_logits: log-odds of real things, any shape.
        generated_logits: log-odds of generated ones, any shape.
    """
    return 0.5 * (F.softplus(-real_logits).mean() + F.softplus(generated_logits).mean())


def group_advantages(credit: Tensor, bound: float) -> Tensor:
    """A credit less its mean over the group of rows (Shao et al. 2024, section 4.1.1), clipped to +-bound nats.

    It isn't divided by the group's deviation: a calibrated log density ratio has the right scale already, near zero
    when a discriminator can't tell, and dividing would blow that noise up.

    Args:
        credit: (B,) for whole rows, or (B, C).

    Returns:
        (B, 1) or (B, C), to be multiplied with (B, C) log-probabilities.
    """
    advantage = credit - credit.mean(0, keepdim=True)
    return advantage.clamp(-bound, bound).reshape(len(credit), -1)


def feedback_losses(log_prob_BC: Tensor, credits: Mapping[str, Tensor], bound: float) -> dict[str, Tensor]:
    """Policy-gradient loss of each level, nats a row.

    With the log density ratio as the reward, E_q[A grad log q] descends KL(q || p) (Williams 1992; Yu et al. 2017
    for sequences). A row's verdict falls on all of its tokens; the other levels give each token credit of its own.

    Args:
        log_prob_BC: generator's log-probabilities of the generated cells, with gradient.
        credits: by level, (B,) or (B, C), without gradient.
        bound: see `group_advantages`.
    """
    return {
        level: -(group_advantages(credits[level], bound) * log_prob_BC).sum(1).mean()
        for level in LEVELS
        if level in credits
    }


def total_feedback_loss(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum over the levels."""
    return torch.stack([weights[level] * loss for level, loss in losses.items()]).sum()


def pulls(losses: Mapping[str, Tensor], log_prob_BC: Tensor) -> dict[str, float]:
    """Norm of each level's gradient at the generated cells' log-probabilities, through which all gradients go.

    An upper bound of its norm at the parameters but for a factor that the levels share (Sener & Koltun 2018, section
    3.3), at no cost.
    """
    return {
        level: float(torch.autograd.grad(loss, log_prob_BC, retain_graph=True)[0].norm())
        for level, loss in losses.items()
    }


def balanced_weights(norms: Mapping[str, float], total: float) -> dict[str, float]:
    """Weights with which all levels pull equally hard: inverse to the norms of their gradients (Chen et al. 2018,
    equation 1 with alpha 0), within `LEAST_SHARE` and `MOST_SHARE` of their sum.

    A level with next to no gradient, since its discriminator can't tell, gets the least: no weight would make it pull,
    and what it was given the others would lack. If all are silent they weigh alike.

    Args:
        norms: by level.
        total: sum of the weights.
    """
    heard = SILENT * max(norms.values())
    inverse = {level: 1 / norm if norm > heard else 0.0 for level, norm in norms.items()}
    shares = {level: value / max(sum(inverse.values()), 1e-12) for level, value in inverse.items()}
    bounded = {level: min(max(share, LEAST_SHARE), MOST_SHARE) for level, share in shares.items()}
    return {level: total * share / sum(bounded.values()) for level, share in bounded.items()}
