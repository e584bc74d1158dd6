import numpy as np
import pytest
import torch
import torch.nn.functional as F

from disc_train.config import LEVELS, ModelConfig
from disc_train.losses import (
    balanced_weights,
    discrimination_loss,
    feedback_losses,
    group_advantages,
    lm_loss,
    total_feedback_loss,
)
from disc_train.model import ColumnsGenerator


def test_likelihood_loss_is_nats_a_row():
    log_prob = torch.log(torch.tensor([[0.5, 0.25], [1.0, 0.125]]))
    assert lm_loss(log_prob).item() == pytest.approx(np.log(8))


def test_discrimination_loss_is_the_balanced_binary_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    real, generated = torch.randn(30, generator=generator), torch.randn(90, generator=generator)
    logits, labels = torch.cat([real, generated]), torch.tensor([1.0] * 30 + [0.0] * 90)
    balance = torch.tensor([0.5 / 30] * 30 + [0.5 / 90] * 90)
    expected = F.binary_cross_entropy_with_logits(logits, labels, weight=balance, reduction="sum")
    assert discrimination_loss(real, generated).item() == pytest.approx(expected.item(), rel=1e-6)


def test_advantages_are_relative_to_the_group_and_bounded():
    rows = group_advantages(torch.tensor([1.0, 2.0, 3.0, 10.0]), bound=3.0)
    assert rows.tolist() == [[-3.0], [-2.0], [-1.0], [3.0]]
    cells = group_advantages(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), bound=3.0)
    assert cells.tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_only_differences_within_the_group_count():
    log_prob = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    credit = torch.arange(6.0)
    losses = [feedback_losses(log_prob, {"row": credit + shift}, bound=2.0)["row"] for shift in (0.0, 7.0)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)


def test_total_is_the_weighted_sum():
    losses = {level: torch.tensor(float(index)) for index, level in enumerate(LEVELS)}
    assert total_feedback_loss(losses, dict(zip(LEVELS, (1.0, 2.0, 3.0, 0.5), strict=True))).item() == 9.5


def test_weights_that_adapt_balance_the_gradients_within_bounds():
    norms = {"token": 1.0, "sentence": 2.0, "row": 2.0, "feature": 4.0}
    weights = balanced_weights(norms, total=2.0)
    pulls = [weights[level] * norm for level, norm in norms.items()]
    assert pulls == pytest.approx([pulls[0]] * 4)
    assert sum(weights.values()) == pytest.approx(2.0)


def test_a_level_that_has_nothing_to_say_gets_the_least_weight():
    weights = balanced_weights({"token": 1.0, "sentence": 0.0, "row": 2.0, "feature": 1e-9}, total=1.0)
    assert weights["sentence"] == weights["feature"] == min(weights.values())
    assert weights["token"] == pytest.approx(2 * weights["row"], rel=0.1)
    assert weights["sentence"] < 0.05
    assert balanced_weights(dict.fromkeys(LEVELS, 0.0), total=1.0) == pytest.approx(dict.fromkeys(LEVELS, 0.25))


def planted_credit(level, codes):
    """The verdict of a discriminator that wants to see value 1 in column 0; the row level's, cells that agree."""
    if level == "row":
        return torch.where(codes[:, 0] == codes[:, 1], 1.0, -1.0)
    credit = torch.zeros(codes.shape)
    credit[:, 0] = torch.where(codes[:, 0] == 1, 1.0, -1.0)
    return credit


@pytest.mark.parametrize("level", LEVELS)
def test_feedback_reaches_the_parameters_and_raises_the_score(level):
    torch.manual_seed(0)
    sizes = [4, 4, 3]
    generator = ColumnsGenerator(
        sizes,
        [np.full(size, np.nan) for size in sizes],
        [np.array([], int)] * 3,
        [np.ones(size, int) for size in sizes],
        ModelConfig(dim=16, depth=1, dropout=0.0),
    )
    draws = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)

    def draw():
        order = torch.rand(256, 3, generator=draws).argsort(1)
        return generator.sample(torch.full((256, 3), -1), order, draws)[0], order

    def score():
        return torch.stack([planted_credit(level, draw()[0]).mean() for _ in range(8)]).mean().item()

    before = score()
    for step in range(30):
        codes, order = draw()
        losses = feedback_losses(generator.log_prob(codes, order), {level: planted_credit(level, codes)}, 3.0)
        assert losses.keys() == {level}
        optimizer.zero_grad()
        total_feedback_loss(losses, {level: 1.0}).backward()
        if step == 0:
            reached = {name for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()}
            assert {"embedding.free", "head.free", "blocks.0.qkv.weight"} <= reached
        optimizer.step()
    assert score() > before + (0.3 if level == "row" else 0.15)
