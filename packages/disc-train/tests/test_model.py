import itertools

import numpy as np
import pytest
import torch

from disc_train.config import ModelConfig
from disc_train.model import Block, ColumnsGenerator, draw, smoothing_kernel

VOCAB = [3, 2, 4]
ALL_ROWS = torch.tensor(list(itertools.product(*map(range, VOCAB))))


def columns_generator(vocab=VOCAB, seed=0, spread=1.0, **config):
    """An untrained generator whose weights are large enough that cells depend on each other."""
    torch.manual_seed(seed)
    values = [np.arange(size, dtype=float) for size in vocab]
    ordered = [np.arange(size) for size in vocab]
    config = {"dim": 16, "depth": 2, "num_heads": 2, "dropout": 0.0} | config
    counts = [np.ones(size, dtype=int) for size in vocab]
    generator = ColumnsGenerator(vocab, values, ordered, counts, ModelConfig(**config))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape) * spread * parameter.shape[-1] ** -0.5)
    return generator.eval()


def row_probabilities(generator, order):
    orders = torch.tensor(order).expand(len(ALL_ROWS), -1)
    with torch.no_grad():
        return generator.log_prob(ALL_ROWS, orders).sum(1).exp()


def frequencies(codes):
    place = torch.tensor([VOCAB[1] * VOCAB[2], VOCAB[2], 1])
    return torch.bincount((codes * place).sum(1), minlength=len(ALL_ROWS)) / len(codes)


def all_unknown(rows):
    return torch.full((rows, len(VOCAB)), -1)


@pytest.fixture
def draws():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_probabilities_of_all_rows_sum_to_one_in_any_order(order):
    assert row_probabilities(columns_generator(), order).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_samples_are_as_frequent_as_their_probability_says(order, draws):
    generator = columns_generator()
    count = 40_000
    codes, log_mass = generator.sample(all_unknown(count), torch.tensor(order).expand(count, -1), draws)
    exact = row_probabilities(generator, order)
    assert exact.max() > 2 * exact.min(), "the planted dependencies are too weak for this test to say anything"
    # Five standard deviations of a share.
    assert ((frequencies(codes) - exact).abs() < 5 * (exact / count).sqrt()).all()
    assert (log_mass == 0).all()


def test_known_cells_stay_and_the_others_follow_from_them(draws):
    generator = columns_generator()
    count = 40_000
    known = all_unknown(count)
    known[:, 2] = 3
    order = (2, 1, 0)
    codes, _ = generator.sample(known, torch.tensor(order).expand(count, -1), draws)
    assert (codes[:, 2] == 3).all()
    joint = row_probabilities(generator, order) * (ALL_ROWS[:, 2] == 3)
    exact = joint / joint.sum()
    assert ((frequencies(codes) - exact).abs() < 5 * (exact / count).sqrt() + 1e-9).all()


def test_what_is_not_allowed_is_never_drawn_and_its_cost_is_the_exact_mass(draws):
    generator = columns_generator()
    count, order = 20_000, (0, 2, 1)
    allowed = {2: torch.tensor([0.0, 1.0, 0.0, 0.5])}
    orders = torch.tensor(order).expand(count, -1)
    codes, log_mass = generator.sample(all_unknown(count), orders, draws, allowed)
    assert set(codes[:, 2].tolist()) == {1, 3}
    assert (log_mass[:, [0, 1]] == 0).all()
    # Brute force: p(column 2 | column 0) by summing the joint over column 1.
    joint = row_probabilities(generator, order)
    for first in range(VOCAB[0]):
        given = joint * (ALL_ROWS[:, 0] == first)
        share = [float((given * (ALL_ROWS[:, 2] == value)).sum() / given.sum()) for value in range(4)]
        of_first = codes[:, 0] == first
        assert log_mass[of_first, 2].exp() == pytest.approx(share[1] + 0.5 * share[3], abs=1e-5)
        drawn = codes[of_first, 2] == 1
        expected = share[1] / (share[1] + 0.5 * share[3])
        assert drawn.float().mean() == pytest.approx(expected, abs=2.5 * len(drawn) ** -0.5)


def test_rows_in_orders_of_their_own_are_drawn_like_rows_of_one_order(draws):
    """With one order a batch the cached sampler takes another path than with an order a row."""
    generator = columns_generator()
    count = 60_000
    orders = torch.tensor([[0, 1, 2], [2, 1, 0]]).repeat(count // 2, 1)
    codes, _ = generator.sample(all_unknown(count), orders, draws)
    for part, order in ((codes[0::2], (0, 1, 2)), (codes[1::2], (2, 1, 0))):
        exact = row_probabilities(generator, order)
        assert ((frequencies(part) - exact).abs() < 5 * (exact / len(part)).sqrt()).all()


def test_log_prob_of_mixed_orders_is_that_of_each_order_alone():
    generator = columns_generator()
    orders = torch.stack([torch.randperm(3, generator=torch.Generator().manual_seed(i)) for i in range(24)])
    with torch.no_grad():
        mixed = generator.log_prob(ALL_ROWS, orders)
        alone = torch.cat([generator.log_prob(ALL_ROWS[i : i + 1], orders[i : i + 1]) for i in range(24)])
    torch.testing.assert_close(mixed, alone)


def test_a_cell_depends_on_the_cells_before_it_in_the_order_and_on_no_other():
    generator = columns_generator([4] * 5)
    codes = torch.randint(4, (8, 5), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4, 1, 2]).expand(8, -1)
    with torch.no_grad():
        before = generator.log_prob(codes, order)
        for place, column in enumerate(order[0].tolist()):
            changed = codes.clone()
            changed[:, column] = (changed[:, column] + 1) % 4
            moved = (generator.log_prob(changed, order) - before).abs() > 1e-6
            earlier, later = order[0, :place], order[0, place + 1 :]
            assert not moved[:, earlier].any()
            assert moved[:, later].all()


def test_a_step_with_the_cache_is_the_whole_forward_pass():
    torch.manual_seed(0)
    block = Block(ModelConfig(dim=16, depth=1, num_heads=4, dropout=0.0)).eval()
    rows, length = 5, 6
    x = torch.randn(rows, length, 16)
    keys, values = torch.empty(2, length, 4, 4, rows).unbind(0)
    with torch.no_grad():
        whole = block(x)
        for t in range(length):
            scratch = torch.empty(t + 1, 4, 4, rows)
            stepped = block.step(x[:, t], keys[: t + 1], values[: t + 1], scratch)
            torch.testing.assert_close(stepped, whole[:, t], rtol=1e-4, atol=1e-5)


def test_smoothing_shares_a_target_among_neighbouring_numbers_alone():
    ordered = np.array([4, 2, 3])  # tokens of ascending numbers; 0 and 1 are codes such as missing or -9
    kernel = smoothing_kernel(np.ones(5), ordered, width=1.0)
    torch.testing.assert_close(kernel.sum(1), torch.ones(5))
    assert torch.equal(kernel[:2], torch.eye(5)[:2])
    assert (kernel[ordered][:, :2] == 0).all()
    assert kernel[4, 4] > kernel[4, 2] > kernel[4, 3] > 0


def test_smoothing_leaves_the_frequencies_of_a_peaked_column_as_they_are():
    counts = np.array([3, 5, 700, 4, 6, 1, 300, 2, 90])
    kernel = smoothing_kernel(counts, np.arange(1, 9), width=1.5).double()
    torch.testing.assert_close(torch.tensor(counts).double() @ kernel, torch.tensor(counts).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(kernel.sum(1), torch.ones(9).double(), rtol=1e-5, atol=0)
    assert kernel[5, 6] > 0.5  # a rare neighbour of a peak is taken for the peak, and not the peak for it
    assert kernel[6, 5] < 0.01


def test_smoothed_likelihood_is_the_mean_over_the_kernel():
    vocab = [40, 2]
    generator = columns_generator(vocab, smoothing=2.5)
    order = torch.tensor([[1, 0]])
    with torch.no_grad():
        everything = torch.tensor([[value, 1] for value in range(40)])
        each = generator.log_prob(everything, order.expand(40, -1))[:, 0]
        smooth = generator.log_prob(torch.tensor([[7, 1]]), order, smooth=True)[0, 0]
        assert smooth == pytest.approx((smoothing_kernel(np.ones(40), np.arange(40), 1.0)[7] @ each).item(), rel=1e-4)
        assert smooth != pytest.approx(each[7].item(), rel=1e-3)


def test_a_draw_takes_each_token_by_its_weight_and_none_of_weight_zero(draws):
    weights = torch.tensor([[0.0, 2.0, 0.0, 6.0, 0.0]]).expand(20_000, -1)
    tokens = draw(weights, draws)
    assert set(tokens.tolist()) == {1, 3}
    assert (tokens == 3).float().mean() == pytest.approx(0.75, abs=0.02)
