"""The objectives, as pure functions of tensors, and how they are balanced.

Shape legend: B prompts, S tokens of the longest, N vectors, D embedding width, V vocabulary rows, C candidate rows,
L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 0.98
"""Weight of the past in the running means that balance the losses."""


def recon_loss(rebuilt_ND: Tensor, true_ND: Tensor, weights_N: Tensor) -> Tensor:
    """Mean squared error, by weights that sum to 1: how often each vector occurs at the prompts' positions."""
    return weights_N @ (rebuilt_ND - true_ND).square().mean(1)


def token_ce_loss(logits_NC: Tensor, row_N: Tensor, weights_N: Tensor) -> Tensor:
    """Cross-entropy (nats) of the true row among the candidates, by weights that sum to 1."""
    return weights_N @ F.cross_entropy(logits_NC, row_N, reduction="none")


def next_token_loss(logits_BSV: Tensor, tokens_BS: Tensor, is_target_BS: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the targets, each by the logits one place before it.

    Over a prompt's tokens it is objective 2; over an answer's tokens, with the prompt's masked, objective 3.
    """
    losses = F.cross_entropy(logits_BSV[:, :-1].float().flatten(0, 1), tokens_BS[:, 1:].flatten(), reduction="none")
    wanted = is_target_BS[:, 1:].flatten().float()
    return (losses * wanted).sum() / wanted.sum()


def distill_loss(student_BSV: Tensor, teacher_BSV: Tensor, is_token_BS: Tensor) -> Tensor:
    """KL(teacher || student) in nats (Hinton et al. 2015 at temperature 1), mean over the prompts' tokens."""
    student = student_BSV[is_token_BS].float().log_softmax(-1)
    teacher = teacher_BSV[is_token_BS].float().log_softmax(-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], is_token_BS: Tensor) -> Tensor:
    """Squared error of hidden states (B, S, D) over the teacher's mean square, mean over layers (FitNets, Romero et al.
    2015, equation 3, relative)."""
    errors = []
    for mine, true in zip(student, teacher, strict=True):
        mine_ND, true_ND = mine[is_token_BS].float(), true[is_token_BS].float()
        errors.append((mine_ND - true_ND).square().mean() / true_ND.square().mean())
    return torch.stack(errors).mean()


class Balance:
    """Divides losses by what they have been, so that none drowns another by its mere scale.

    Attributes:
        running: each loss's running mean (`magnitude`) or running norm of gradient (`gradient`); JSON data.
    """

    def __init__(self, mode: Literal["fixed", "magnitude", "gradient"], weights: Mapping[str, float]):
        self.mode, self.weights = mode, dict(weights)
        self.running: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def weigh(
        self, losses: Mapping[str, Tensor], shares: Mapping[str, float], output_layer: Tensor
    ) -> dict[str, Tensor]:
        """The losses of a part of a batch, times their weights, over their scale until this step.

        Args:
            shares: of the batch's targets of each loss, those that are in this part.
            output_layer: the parameter at which gradients are compared (`gradient`; Chen et al. 2018, "GradNorm",
                section 3.1, with equal targets).
        """
        weighted = {}
        for name, loss in losses.items():
            if self.mode == "gradient":
                (gradient,) = torch.autograd.grad(loss, output_layer, retain_graph=True)
                value = gradient.norm().item()
            else:
                value = abs(loss.item())
            self._seen[name] = self._seen.get(name, 0.0) + shares[name] * value
            scale = 1.0 if self.mode == "fixed" else max(self.running.setdefault(name, value), 1e-12)
            weighted[name] = loss * (shares[name] * self.weights[name] / scale)
        return weighted

    def end_step(self) -> None:
        """Let the running means follow what the whole batch showed."""
        for name, value in self._seen.items():
            self.running[name] = SMOOTHING * self.running.get(name, value) + (1 - SMOOTHING) * value
        self._seen.clear()
