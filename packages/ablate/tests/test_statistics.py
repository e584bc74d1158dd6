"""Against SciPy and statsmodels, and on simulated results whose effects are known."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from ablate.statistics import (
    bootstrap_interval,
    detectable_effect,
    holm,
    paired_test,
    power_of_t_test,
    seeds_needed,
    sign_flip_p_value,
    smallest_sign_flip_p_value,
    t_quantile,
)

differences = st.lists(st.floats(-10, 10).map(lambda value: round(value, 3)), min_size=3, max_size=10, unique=True)


@given(differences)
def test_the_t_test_and_its_interval_are_those_of_scipy(numbers):
    found, expected = paired_test(np.array(numbers)), stats.ttest_1samp(numbers, 0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.t_interval == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6, abs=1e-9)
    assert found.effect_size == pytest.approx(np.mean(numbers) / np.std(numbers, ddof=1))


@given(differences)
def test_the_permutation_test_is_that_of_scipy(numbers):
    # Whole numbers, whose sums are exact whatever their order.
    whole = np.round(np.array(numbers) * 1000)
    expected = stats.permutation_test((whole,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p_value(whole) == expected.pvalue


@pytest.mark.parametrize("count", [3, 5, 8])
def test_the_permutation_test_has_a_smallest_p_value_however_large_the_effect(count):
    assert sign_flip_p_value(np.linspace(100, 101, count)) == smallest_sign_flip_p_value(count) == 2 / 2**count


@pytest.mark.parametrize("p_values", [[0.04], [0.03, 0.001, 0.03, 0.9], [0.6, 0.5, 0.0, 1.0, 0.012, 0.011]])
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 61, 999])
def test_quantiles_of_t_are_those_of_scipy(freedom):
    for confidence in (0.5, 0.95, 0.999):
        assert t_quantile(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


@pytest.mark.parametrize("effect_size", [0.0, 0.2, 0.8, 2.0])
@pytest.mark.parametrize("count", [3, 4, 10, 40])
def test_power_is_that_of_statsmodels(effect_size, count):
    assert power_of_t_test(effect_size, count, 0.01) == pytest.approx(
        TTestPower().power(effect_size, count, 0.01), abs=1e-6
    )


@pytest.mark.parametrize(("effect", "sd"), [(0.3, 1.0), (0.02, 0.02), (1.0, 4.0)])
def test_seeds_are_as_many_as_statsmodels_wants(effect, sd):
    wanted = np.ceil(TTestPower().solve_power(effect / sd, power=0.8, alpha=0.005))
    assert seeds_needed(effect, sd, alpha=0.005) == wanted
    assert detectable_effect(int(wanted), sd, alpha=0.005) <= effect
    assert detectable_effect(int(wanted) - 1, sd, alpha=0.005) > effect


def test_nobody_trains_more_than_a_thousand_seeds():
    assert seeds_needed(0.001, 1.0) is None


def test_the_bootstrap_interval_is_that_of_its_definition():
    numbers = np.array([0.1, 0.25, 0.15, 0.3, 0.12, 0.2])
    found = stats.bootstrap((numbers,), np.mean, method="BCa", rng=0).confidence_interval
    low, high = bootstrap_interval(numbers)
    assert low < found.low < numbers.mean() < found.high < high  # BCa is too narrow at six seeds
    assert bootstrap_interval(numbers) == (low, high)
    assert bootstrap_interval(numbers * 10 + 1) == pytest.approx((low * 10 + 1, high * 10 + 1))


def test_few_or_equal_differences_are_not_tested():
    two = paired_test(np.array([0.1, 0.2]))
    assert (two.p_value, two.p_permutation, two.t_interval, two.mean) == (None, None, None, pytest.approx(0.15))
    equal = paired_test(np.array([0.1, 0.2, 0.3]) - np.array([0.0, 0.1, 0.2]))
    assert (equal.p_value, equal.sd, equal.effect_size) == (None, 0.0, None)
    assert paired_test(np.zeros(3)).p_value == 1
    assert np.isnan(paired_test(np.array([])).mean)


@pytest.fixture(scope="module")
def simulate():
    """Of tools/simulate_suites.py, whose 2,000 suites `just accept-statistics` judges."""
    file = Path(__file__).parents[3] / "tools" / "simulate_suites.py"
    spec = importlib.util.spec_from_file_location("simulate_suites", file)
    module = sys.modules["simulate_suites"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_known_effects_are_judged_as_promised(simulate, seeds):
    found = simulate(num_suites=200, num_seeds=seeds)
    # Three standard errors of 200 suites beside the promise; without a correction the rate is .15 and above.
    assert found.false_positive_rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert found.t_coverage == pytest.approx(0.95, abs=0.02)
    if seeds >= 5:
        assert found.bootstrap_coverage == pytest.approx(0.95, abs=0.02)
    assert found.found[4.0] > found.found[2.0] > found.found[1.0]
