from types import SimpleNamespace

import numpy as np
import pytest
import torch

from disc_train import discriminator_training
from disc_train.config import LEVELS, DiscriminatorConfig, ModelConfig, TrainRecipe
from disc_train.discriminator_training import Examples, Side, calibrate, fit_discriminators, roc_auc
from disc_train.discriminators import Discriminators
from disc_train.draws import draw_rows
from disc_train.model import ColumnsGenerator
from disc_train.state import State
from disc_train.train import teach_discriminators

SIZES = [4, 4, 3, 5]
VALUES = [np.full(size, np.nan) for size in SIZES]
CONFIG = DiscriminatorConfig(dim=16, depth=1, max_epochs=4, dropout=0.0)


def generator_with(seed=0, spread=0.5):
    torch.manual_seed(seed)
    counts = [np.ones(size, int) for size in SIZES]
    config = ModelConfig(dim=16, depth=1, dropout=0.0)
    generator = ColumnsGenerator(SIZES, VALUES, [np.array([], int)] * 4, counts, config)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape) * spread * parameter.shape[-1] ** -0.5)
    return generator.requires_grad_(False).eval()


def uniform_rows(count, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (count,), generator=draws) for size in SIZES], 1)


def random_orders(count, seed):
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)).argsort(1)


@pytest.fixture(scope="module")
def generator():
    return generator_with()


@pytest.fixture
def critics(generator):
    torch.manual_seed(1)
    return Discriminators(generator, VALUES, CONFIG)


def teach(critics, generator, real, generated):
    """Teach all levels; the feature level sees one cell a row replaced by the generated row's."""
    orders = random_orders(len(real), 2), random_orders(len(generated), 3)
    critics.set_reference(generator, real, orders[0])
    side = Side.of(critics, real, orders[0])
    rows = Examples(side, Side.of(critics, generated, orders[1]))
    column = torch.randint(4, (len(real),), generator=torch.Generator().manual_seed(4))
    index = torch.arange(len(real))
    redrawn = real.clone()
    redrawn[index, column] = generated[index, column]
    cells = Examples(side, Side.of(critics, redrawn, orders[0], fold=side.fold), column)
    examples = {"token": rows, "sentence": rows, "row": rows, "feature": cells}
    return fit_discriminators(critics, examples, 0, lambda: None)


def test_equal_rows_share_a_fold_and_folds_are_about_equally_large(critics):
    rows = uniform_rows(3000, 0)
    folds = critics.fold_of(rows)
    assert torch.equal(folds, critics.fold_of(rows.clone()))
    by_row = {}
    for row, fold in zip(rows.tolist(), folds.tolist(), strict=True):
        assert by_row.setdefault(tuple(row), fold) == fold
    assert torch.bincount(folds, minlength=CONFIG.folds).min() > 3000 / CONFIG.folds / 1.5


def test_no_model_learns_from_a_row_of_its_own_fold(critics, generator, monkeypatch):
    seen = set()
    logits = discriminator_training._logits

    def spy(model, side, rows, column):
        if torch.is_grad_enabled():
            for name, level in critics.levels.items():
                for fold, candidate in enumerate(level.folds):
                    if candidate is model:
                        assert not (side.fold[rows] == fold).any(), name
                        seen.add((name, fold))
        return logits(model, side, rows, column)

    monkeypatch.setattr(discriminator_training, "_logits", spy)
    teach(critics, generator, uniform_rows(200, 0), uniform_rows(200, 1))
    assert seen == {(level, fold) for level in LEVELS for fold in range(CONFIG.folds)}


def test_a_row_is_scored_by_the_model_of_its_fold_alone(critics):
    rows, order = uniform_rows(60, 0), random_orders(60, 0)
    for level in critics.levels.values():
        level.scale.fill_(1.0)
    before, fold = critics.credits(rows, order), critics.fold_of(rows)
    with torch.no_grad():
        for level in critics.levels.values():
            for parameter in level.folds[1].parameters():
                parameter.add_(0.5)
    after = critics.credits(rows, order)
    for level in LEVELS:
        changed = (after[level] != before[level]).reshape(60, -1).any(1)
        assert torch.equal(changed, fold == 1), level


def test_untaught_discriminators_say_half(critics):
    for credit in critics.credits(uniform_rows(50, 0), random_orders(50, 0)).values():
        assert (torch.sigmoid(credit) == 0.5).all()


def test_a_planted_difference_is_found_on_held_out_rows_by_every_level(critics, generator):
    real, generated = uniform_rows(600, 0), uniform_rows(600, 1)
    real[:, 1] = torch.where(torch.rand(600, generator=torch.Generator().manual_seed(5)) < 0.7, 0, real[:, 1])
    metrics = teach(critics, generator, real, generated)
    # A level that sees a share of the cells only, or all prefixes of a row, finds the difference in that share.
    floors = {"token": 0.6, "sentence": 0.55, "row": 0.7, "feature": 0.55}
    for level, floor in floors.items():
        assert metrics[f"disc/{level}/auc"] > floor, metrics
        assert metrics[f"disc/{level}/loss"] < np.log(2)
    credits = critics.credits(generated, random_orders(600, 6))
    planted = generated[:, 1] == 0
    for level in ("token", "sentence", "feature"):
        assert credits[level][planted, 1].mean() > credits[level][~planted, 1].mean() + 0.5, level
    assert credits["row"][planted].mean() > credits["row"][~planted].mean() + 0.5


def test_a_dependency_between_cells_is_found_where_the_level_can_see_it(critics, generator):
    real, generated = uniform_rows(800, 0), uniform_rows(800, 1)
    real[:, 1] = real[:, 0]  # as frequent as before, but never apart
    critics.config = CONFIG.model_copy(update={"max_epochs": 15, "learning_rate": 5e-3})
    metrics = teach(critics, generator, real, generated)
    for level in ("token", "row", "feature"):
        assert metrics[f"disc/{level}/auc"] > 0.58, metrics
    assert metrics["disc/sentence/auc"] < 0.55
    credits = critics.credits(generated, random_orders(800, 6))
    agree = generated[:, 0] == generated[:, 1]
    assert credits["row"][agree].mean() > credits["row"][~agree].mean() + 0.5
    assert credits["feature"][agree, :2].mean() > credits["feature"][~agree, :2].mean() + 0.5


def test_equal_distributions_cannot_be_told_apart(critics, generator):
    metrics = teach(critics, generator, uniform_rows(600, 0), uniform_rows(600, 1))
    for level in LEVELS:
        assert metrics[f"disc/{level}/auc"] == pytest.approx(0.5, abs=0.06), metrics


def test_copies_of_real_rows_are_not_believed_for_having_been_seen(critics, generator):
    """The generated rows are the real ones, every row twice: a memorising model would score all as real."""
    real = uniform_rows(300, 0)
    metrics = teach(critics, generator, real, real.repeat(2, 1))
    assert metrics["disc/row/auc"] == pytest.approx(0.5, abs=0.05)


def test_token_credits_are_each_cells_share_of_the_whole_rows_verdict(critics):
    rows, order = uniform_rows(40, 0), random_orders(40, 0)
    level = critics.levels["token"]
    level.scale.fill_(2.0)
    with torch.no_grad():
        prefixes = level.eval()(rows, critics.surprise(rows, order), order, critics.fold_of(rows))
    credits = critics.credits(rows, order)["token"]
    torch.testing.assert_close(credits.sum(1), prefixes[:, -1])
    first = credits.gather(1, order[:, :1]).squeeze(1)
    torch.testing.assert_close(first, prefixes[:, 0])


def test_the_order_of_reading_does_not_give_generated_rows_away():
    """Real rows are of the generator's own distribution; generated ones come in a handful of orders."""
    generator = generator_with(seed=3, spread=0.0)  # the same distribution in every order
    recipe = TrainRecipe.model_validate(
        {"discriminator": {"dim": 16, "depth": 1, "max_epochs": 6, "dropout": 0.0, "generated_per_real": 1.0}}
    )
    real, _ = draw_rows(generator, 900, torch.Generator().manual_seed(8))
    critics = Discriminators(generator, VALUES, recipe.discriminator)
    state = State(generator, generator, critics, None, replay=real[:0])
    loop = SimpleNamespace(
        recipe=recipe, rows=SimpleNamespace(critic=real), device=torch.device("cpu"), stop=SimpleNamespace()
    )
    loop.stop.raise_if_set = lambda note: None
    loop.run = SimpleNamespace(path="run")
    first = teach_discriminators(loop, state, cycle=0)
    assert len(state.replay) == 900
    second = teach_discriminators(loop, state, cycle=1)
    for metrics in (first, second):
        for level in LEVELS:
            assert metrics[f"disc/{level}/auc"] == pytest.approx(0.5, abs=0.05), (level, metrics)


def test_calibration_recovers_log_odds_and_silences_what_says_nothing():
    rng = np.random.default_rng(0)
    # Of N(+1, 1) and N(-1, 1) the log-odds at x are 2x; scores of half that size want a scale of 4.
    scale, shift, loss = calibrate(rng.normal(0.5, 0.5, 20_000), rng.normal(-0.5, 0.5, 5_000))
    assert scale == pytest.approx(4, rel=0.06)
    assert shift == pytest.approx(0, abs=0.06)
    assert loss < np.log(2)
    for real, generated in ((np.ones(50), np.ones(50)), (np.zeros(50), np.ones(50))):
        assert calibrate(real, generated) == (0.0, 0.0, pytest.approx(np.log(2)))


def test_auc_is_the_chance_that_a_real_thing_scores_higher():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(1, 1, 60), rng.normal(0, 1, 40)
    assert roc_auc(real, generated) == pytest.approx((real[:, None] > generated).mean())
