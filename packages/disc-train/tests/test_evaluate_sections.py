"""Each section's figures against brute force, scikit-learn, SciPy, and cases whose answer is known."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm
from scipy.stats.contingency import association
from sklearn.metrics import f1_score, roc_auc_score

from disc_train.data import Table
from disc_train.evaluate_features import Features
from disc_train.marginals import associations, column_distance
from disc_train.privacy import closest, copies, privacy
from disc_train.schema import Schema
from disc_train.two_sample import FAMILIES, detection_auc, independent_columns, two_sample, validation_auc
from disc_train.utility import classification_scores, utility
from trainworks.console import UserError


def table(**columns: list[str | None]) -> Table:
    return Table(tuple(columns), [np.array(cells, dtype=object) for cells in columns.values()])


def gaussians(rows: int, seed: int, shift: float = 0.0) -> Table:
    values = np.random.default_rng(seed).normal(size=(rows, 3)) + np.array([shift, 0, 0])
    return table(**{name: [f"{value:.6f}" for value in values[:, i]] for i, name in enumerate("abc")})


def mixed(rows: int, seed: int) -> Table:
    """A number with special codes and gaps, a category with gaps."""
    rng = np.random.default_rng(seed)
    months = rng.choice(np.array([*map(str, range(40)), *["-9", "-8", None] * 5], dtype=object), rows)
    colour = rng.choice(np.array(["red", "blue", "green", None], dtype=object), rows)
    return table(months=list(months), colour=list(colour), size=[f"{x:.2f}" for x in rng.random(rows) * 10])


def encoded(*tables: Table) -> tuple[Features, list[np.ndarray]]:
    features = Features.fit(Schema.infer(tables[0]), tables)
    return features, [features.numbers(one) for one in tables]


def test_design_standardises_numbers_and_tells_special_missing_and_rare_cells_apart():
    names = [f"n{i // 3}" if i < 300 else f"rare{i}" for i in range(304)]  # more categories than indicators
    months = [*map(str, range(100)), "-9", None, "50", "50"]
    features, (numbers_NC,) = encoded(table(months=(months * 3)[:304], name=names))
    design = features.design(numbers_NC)
    assert design.shape == (304, 1 + 2 + 100 + 1)
    value, special, missing, rare = design[:, [0, 1, 2, -1]].T
    assert list(np.flatnonzero(special)) == [100, 204]
    assert list(np.flatnonzero(missing)) == [101, 205]
    assert list(np.flatnonzero(rare)) == [300, 301, 302, 303]
    assert np.all(value[[100, 101]] == 0)
    measured = (special == 0) & (missing == 0)
    assert value[measured].mean() == pytest.approx(0, abs=1e-5)
    assert value[measured].std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_detection_finds_a_planted_shift_as_well_as_theory_allows(family):
    shift = 1.5
    features, (real_NC, fake_NC) = encoded(gaussians(500, 0), gaussians(500, 1, shift))
    best = norm.cdf(shift / np.sqrt(2))  # AUC of the likelihood ratio between two unit Gaussians
    oracle = roc_auc_score(np.repeat([0, 1], 500), np.append(real_NC[:, 0], fake_NC[:, 0]))
    found = detection_auc(features, real_NC, fake_NC, family)
    assert oracle == pytest.approx(best, abs=0.03)
    assert oracle - 0.06 < found < oracle + 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_distributions_are_a_coin_toss(family):
    features, (real_NC, *fakes) = encoded(gaussians(150, 0), *(gaussians(150, seed) for seed in range(1, 7)))
    aucs = [detection_auc(features, real_NC, fake_NC, family, seed=seed) for seed, fake_NC in enumerate(fakes)]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_that_real_rows_never_show_is_seen(family):
    real, fake = mixed(150, 0), mixed(150, 1)
    fake.cells[1][:] = "mauve"
    features, (real_NC, fake_NC) = encoded(real, fake)
    assert detection_auc(features, real_NC, fake_NC, family) > 0.95


def test_sources_share_one_size_and_shuffled_columns_are_found_out():
    rng = np.random.default_rng(0)

    def line(rows: int) -> Table:
        x = rng.normal(size=rows)
        return table(x=[f"{v:.4f}" for v in x], y=[f"{v:.4f}" for v in x + 0.1 * rng.normal(size=rows)])

    features, numbers = encoded(line(300), line(150), line(200))
    report = two_sample(features, *numbers, seeds=(0, 1))
    assert report["rows"] == 150
    auc = report["auc"]
    assert auc["independent columns"]["xgboost"]["mean"] > 0.9
    assert abs(auc["synthetic"]["xgboost"]["mean"] - 0.5) < 0.1
    assert abs(auc["train rows"]["xgboost"]["mean"] - 0.5) < 0.1
    values = auc["synthetic"]["xgboost"]["seeds"]
    assert auc["synthetic"]["xgboost"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_validation_auc_finds_what_only_a_pair_of_tokens_tells():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (2, 200))
    real, related, fresh = (np.column_stack(pair) for pair in ((first, second), (first, first), (second, first)))
    assert validation_auc(real, related) > 0.7
    assert validation_auc(real, fresh) == pytest.approx(0.5, abs=0.1)


def test_independent_columns_keep_every_column_and_break_the_rows():
    numbers_NC = np.arange(300.0).reshape(100, 3)
    shuffled = independent_columns(numbers_NC, 0)
    assert np.array_equal(np.sort(shuffled, axis=0), numbers_NC)
    assert abs(np.corrcoef(shuffled.T)[0, 1]) < 0.3


def answers(rows: int, seed: int, classes: tuple[str, ...]) -> Table:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(classes), rows)
    x = kind * 2 + rng.normal(size=rows)
    return table(x=[f"{v:.4f}" for v in x], noise=[f"{v:.4f}" for v in rng.random(rows)],
                 answer=[classes[k] for k in kind])  # fmt: skip


def test_train_rows_as_synthetic_rows_score_the_same():
    train, test = answers(120, 0, ("no", "yes")), answers(80, 1, ("no", "yes"))
    features, (train_NC, test_NC) = encoded(train, test)
    report = utility(features, "answer", train_NC, test_NC, train_NC.copy(), seeds=[0])
    # Every row is drawn, in another order: what is left is how an order moves a forest's bootstrap.
    for learner, metrics in report["scores"]["train rows"].items():
        synthetic = report["scores"]["synthetic"][learner]["auc"]["mean"]
        assert synthetic == pytest.approx(metrics["auc"]["mean"], abs=0.03)
        assert report["scores"]["independent columns"][learner]["auc"]["mean"] < metrics["auc"]["mean"] - 0.1
    linear = report["scores"]["train rows"]["linear"]["auc"]["mean"]
    assert linear == pytest.approx(roc_auc_score(test.column("answer") == "yes", test_NC[:, 0]), abs=0.02)
    assert report["majority"]["auc"] == 0.5


def test_scores_of_many_classes_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, classes = rng.integers(0, 4, 200).astype(float), np.arange(4.0)
    probability = rng.dirichlet(np.ones(4), 200) + 0.3 * np.eye(4)[truth.astype(int)]
    probability /= probability.sum(1, keepdims=True)
    scores = classification_scores(truth, probability, classes)
    assert scores["auc"] == pytest.approx(roc_auc_score(truth, probability, multi_class="ovr"))
    assert scores["f1"] == pytest.approx(f1_score(truth, probability.argmax(1), average="macro"))
    assert scores["accuracy"] == np.mean(truth == probability.argmax(1))


def test_classes_that_synthetic_rows_lack_or_invent_are_no_obstacle():
    train, test = answers(120, 0, ("a", "b", "c")), answers(80, 1, ("a", "b", "c"))
    features, numbers = encoded(train, test, answers(100, 2, ("a", "b", "zzz")))
    scores = utility(features, "answer", *numbers, seeds=[0])["scores"]
    for learner in scores["synthetic"]:
        assert scores["synthetic"][learner]["accuracy"]["mean"] < scores["train rows"][learner]["accuracy"]["mean"]


def test_synthetic_rows_of_one_class_teach_nothing():
    train, test = answers(60, 0, ("no", "yes")), answers(60, 1, ("no", "yes"))
    features, numbers = encoded(train, test, answers(60, 2, ("yes",)))
    scores = utility(features, "answer", *numbers, seeds=[0])["scores"]["synthetic"]
    assert {metrics["auc"]["mean"] for metrics in scores.values()} == {0.5}


def test_a_numeric_target_is_a_regression_without_its_special_codes():
    rng = np.random.default_rng(0)

    def line(rows: int) -> Table:
        x = rng.integers(0, 500, rows)
        y = [str(2 * v + 3) if v % 10 else "-9" for v in x]
        return table(x=[str(v) for v in x], y=y)

    features, numbers = encoded(line(300), line(100), line(300))
    report = utility(features, "y", *numbers, seeds=[0])
    assert report["task"] == "regression"
    assert report["scores"]["synthetic"]["linear"]["r2"]["mean"] > 0.999
    assert report["majority"]["r2"] < 0.1


def test_a_target_of_names_is_refused():
    rows = table(name=[f"n{i}" for i in range(150)], x=[str(i) for i in range(150)])
    features, (numbers_NC,) = encoded(rows)
    with pytest.raises(UserError, match='"name" has 150 classes'):
        utility(features, "name", numbers_NC, numbers_NC, numbers_NC, seeds=[0])


def gower(a: list[str | None], b: list[str | None], spans: list[float | None]) -> float:
    """Gower's distance of two rows of text, cell by cell; a span of None marks a category."""
    total = 0.0
    for left, right, span in zip(a, b, spans, strict=True):
        measured = span is not None and not {left, right} & {None, "-8", "-9"}
        total += abs(float(left) - float(right)) / span if measured else left != right
    return total / len(spans)


def test_distance_to_closest_record_is_gowers():
    train, queries = mixed(40, 0), mixed(25, 1)
    # The train rows span all values: queries beyond their range would count as its end.
    train.cells[0][:2], train.cells[2][:2] = ["0", "39"], ["0.00", "10.00"]
    features, (train_NC, query_NC) = encoded(train, queries)
    spans = [39, None, 10]
    records = list(zip(*train.cells, strict=True))
    expected = [[gower(row, record, spans) for row in zip(*queries.cells, strict=True)] for record in records]
    each = [np.array([record]) for record in range(len(train))]
    nearest_N, of_each_MN = closest(features.positions(query_NC), features.positions(train_NC), each)
    assert of_each_MN == pytest.approx(np.array(expected), abs=1e-6)
    assert nearest_N == pytest.approx(np.min(expected, axis=0), abs=1e-6)


def test_copies_of_train_rows_stand_out_and_fresh_rows_do_not():
    train, test, fresh = gaussians(300, 0), gaussians(300, 1), gaussians(300, 2)
    features, numbers = encoded(train, test, train)
    copied, _ = privacy(features, *numbers, seeds=(0, 1))
    assert copied["copies"]["share"] == 1
    assert copied["copies"]["expected"] == 0
    assert copied["synthetic"]["closer_to_train"]["mean"] == 1
    assert copied["synthetic"]["median"] == 0
    assert copied["test rows"]["median"] > 0

    features, numbers = encoded(train, test, fresh)
    honest, distances = privacy(features, *numbers, seeds=(0, 1))
    assert honest["copies"]["count"] == 0
    assert honest["synthetic"]["closer_to_train"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert honest["synthetic"]["median"] == pytest.approx(np.median(distances["synthetic"]))


def test_ties_between_train_and_test_count_half():
    rows = table(colour=["red", "blue"] * 20)
    features, (numbers_NC,) = encoded(rows)
    report, _ = privacy(features, numbers_NC, numbers_NC, numbers_NC, seeds=[0])
    assert report["synthetic"]["closer_to_train"]["mean"] == 0.5


def test_copies_are_judged_against_the_duplicates_of_the_data():
    train_NC = np.array([[0.0], [1.0], [np.nan]])
    test_NC = np.array([[0.0], [7.0], [np.nan], [8.0]])  # half of the real rows repeat a train row
    synth_NC = np.array([[1.0], [np.nan], [9.0], [0.0], [5.0], [6.0]])
    found = copies(train_NC, test_NC, synth_NC)
    assert (found["count"], found["share"]) == (3, 0.5)
    assert (found["test_share"], found["expected"]) == (0.5, 3)
    assert found["expected_std"] == pytest.approx(np.sqrt(6 * 0.25 * (1 + 6 / 4)))


def test_column_distances_agree_with_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    real, other = rng.integers(0, 20, 300).astype(float), rng.integers(4, 25, 200).astype(float)
    assert column_distance(real, other, categorical=False) == pytest.approx(ks_2samp(real, other).statistic)
    assert column_distance(np.array([0.0, 0, 1, 2]), np.array([0.0, 1]), categorical=True) == pytest.approx(0.25)
    missing = np.array([np.nan, np.nan, 1.0, 2.0])
    assert column_distance(missing, missing, categorical=False) == 0
    assert column_distance(missing, np.array([1.0, 2.0]), categorical=False) == pytest.approx(0.5)


def test_associations_are_cramers_v_and_see_relations_that_are_not_linear():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 600)
    other = np.where(rng.random(600) < 0.5, kind, rng.integers(0, 3, 600))
    x = rng.normal(size=600)
    numbers_NC = np.column_stack([kind, other, x, x**2]).astype(float)
    (v_CC,) = associations([numbers_NC], np.array([True, True, False, False]))
    counts = np.array([[np.sum((kind == a) & (other == b)) for b in range(3)] for a in range(3)])
    assert v_CC[0, 1] == pytest.approx(association(counts, method="cramer"))
    assert v_CC[2, 3] > 0.5  # a correlation would say 0
    assert v_CC[0, 2] < 0.2
