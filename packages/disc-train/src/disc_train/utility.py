"""Is a model that learned from synthetic rows as good on real ones?

"Train on synthetic, test on real" of Esteban et al. (2017), beside training on the real rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from disc_train.evaluate_features import Features
from disc_train.two_sample import XGBOOST, choose, independent_columns, spread
from trainworks.console import UserError

LEARNERS = ("xgboost", "linear", "random forest")
SOURCES = ("train rows", "synthetic", "independent columns")
METRICS = {"classification": ("auc", "accuracy", "f1"), "regression": ("r2", "mae")}
MAX_CLASSES = 100
REGRESSION_ABOVE = 10
"""A numeric target with more distinct values than this is predicted as a number, with fewer as a class."""


def utility(
    features: Features,
    target: str,
    train_NC: np.ndarray,
    test_NC: np.ndarray,
    synth_NC: np.ndarray,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    threads: int = 1,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Scores on the real test rows of learners that were fitted on each source of rows.

    All sources have as many rows, at most train's; a seed chooses them and drives the learners. "linear" is a
    logistic regression, or a ridge regression of a number. Rows whose target is missing or a special code are
    left out.

    Args:
        step: called after each of the `len(seeds) * len(SOURCES) * len(LEARNERS)` fits.

    Returns:
        target, task, rows (of a source), scores: source -> learner -> metric -> {mean, std, seeds}, and
        majority: metric -> value, what the most frequent class (or the mean) of the train rows scores.

    Raises:
        UserError: the target is constant in the train or the test rows, or has more than `MAX_CLASSES`
            classes.
    """
    index = [column.name for column in features.columns].index(target)
    train_NC, test_NC = _usable(features, index, train_NC), _usable(features, index, test_NC)
    for rows_NC, which in ((train_NC, "train"), (test_NC, "test")):
        if len(np.unique(rows_NC[:, index])) < 2:
            raise UserError(f'column "{target}" is constant in the {which} rows: choose another target, or none')
    classes = np.unique(train_NC[:, index])
    numeric = not features.columns[index].categorical and len(classes) > REGRESSION_ABOVE
    task = "regression" if numeric else "classification"
    if len(classes) > MAX_CLASSES and not numeric:
        count = f"{len(classes):,} classes, more than {MAX_CLASSES}"
        raise UserError(f'column "{target}" has {count}: choose another target, or none')
    rows = min(len(train_NC), len(synth_NC))
    score = _Scorer(features.without(index), index, task, classes, test_NC, threads)
    found: dict[str, dict[str, list[dict[str, float]]]] = {s: {name: [] for name in LEARNERS} for s in SOURCES}
    for seed in seeds:
        fits = {
            "train rows": choose(train_NC, rows, seed, "train"),
            "synthetic": _usable(features, index, choose(synth_NC, rows, seed, "synthetic")),
            "independent columns": choose(independent_columns(train_NC, seed), rows, seed, "independent"),
        }
        for source, fit_NC in fits.items():
            for learner in LEARNERS:
                found[source][learner].append(score(learner, fit_NC, seed))
                step()
    scores = {
        source: {
            learner: {metric: spread([run[metric] for run in runs]) for metric in METRICS[task]}
            for learner, runs in by_learner.items()
        }
        for source, by_learner in found.items()
    }
    majority = score.majority(train_NC)
    return {"target": target, "task": task, "rows": rows, "scores": scores, "majority": majority}


def _usable(features: Features, index: int, rows_NC: np.ndarray) -> np.ndarray:
    """Rows whose target holds a category or a measurement."""
    column, target_N = features.columns[index], rows_NC[:, index]
    if column.categorical:
        missing = column.number.get(None)
        return rows_NC if missing is None else rows_NC[target_N != missing]
    return rows_NC[column.measured(target_N)]


class _Scorer:
    """Fits a learner on some rows and scores it on the test rows."""

    def __init__(
        self,
        features: Features,
        index: int,
        task: str,
        classes: np.ndarray,
        test_NC: np.ndarray,
        threads: int,
    ) -> None:
        self.features, self.index, self.task = features, index, task
        self.classes, self.threads = classes, threads
        self.truth_N = test_NC[:, index]
        self.test = np.delete(test_NC, index, axis=1)
        self.test_design = features.design(self.test)

    def __call__(self, learner: str, fit_NC: np.ndarray, seed: int) -> dict[str, float]:
        if self.task == "classification":
            # A class that the real rows never show cannot be right.
            fit_NC = fit_NC[np.isin(fit_NC[:, self.index], self.classes)]
        y_N = fit_NC[:, self.index]
        known, label_N = np.unique(y_N, return_inverse=True)
        if len(known) < 2:
            return self._constant(known[0] if len(known) else self.classes[0])
        fit = np.delete(fit_NC, self.index, axis=1)
        test = self.test.astype(np.float32)
        if learner == "linear":
            X, test = self.features.design(fit), self.test_design
        else:
            X = fit.astype(np.float32)
        model = _learner(learner, self.task, seed, self.threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a linear model that needs more steps has still learned
            if self.task == "regression":
                return regression_scores(self.truth_N, model.fit(X, y_N).predict(test))
            known_probability = model.fit(X, label_N).predict_proba(test)
        probability_NK = np.zeros((len(test), len(self.classes)))
        probability_NK[:, np.searchsorted(self.classes, known)] = known_probability
        return classification_scores(self.truth_N, probability_NK, self.classes)

    def majority(self, train_NC: np.ndarray) -> dict[str, float]:
        y_N = train_NC[:, self.index]
        if self.task == "regression":
            return self._constant(float(y_N.mean()))
        values, counts = np.unique(y_N, return_counts=True)
        return self._constant(values[counts.argmax()])

    def _constant(self, value: float) -> dict[str, float]:
        if self.task == "regression":
            return regression_scores(self.truth_N, np.full(len(self.truth_N), value))
        certain_NK = np.tile(self.classes == value, (len(self.truth_N), 1))
        return classification_scores(self.truth_N, certain_NK, self.classes)


def _learner(learner: str, task: str, seed: int, threads: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from xgboost import XGBClassifier, XGBRegressor

    regression = task == "regression"
    if learner == "xgboost":
        return (XGBRegressor if regression else XGBClassifier)(
            **XGBOOST, subsample=0.8, colsample_bytree=0.8, n_jobs=threads, random_state=seed
        )
    if learner == "linear":
        return Ridge() if regression else LogisticRegression(max_iter=1000)
    forest = RandomForestRegressor if regression else RandomForestClassifier
    return forest(100, min_samples_leaf=5, max_features="sqrt", n_jobs=threads, random_state=seed)


def classification_scores(truth_N: np.ndarray, probability_NK: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """AUC and F1, each the mean of one class against the rest over the classes that occur, and accuracy.

    Args:
        truth_N: true class values.
        probability_NK: a score for each of `classes`, (N, K).
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    aucs = [
        roc_auc_score(truth_N == value, probability_NK[:, k])
        for k, value in enumerate(classes)
        if 0 < (truth_N == value).sum() < len(truth_N)
    ]
    predicted_N = classes[probability_NK.argmax(1)]
    f1 = f1_score(truth_N, predicted_N, labels=np.unique(truth_N), average="macro", zero_division=0)
    return {
        "auc": float(np.mean(aucs)) if aucs else float("nan"),
        "accuracy": float(accuracy_score(truth_N, predicted_N)),
        "f1": float(f1),
    }


def regression_scores(truth_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
    """Coefficient of determination, and mean absolute error in the target's own unit."""
    from sklearn.metrics import mean_absolute_error, r2_score

    error = mean_absolute_error(truth_N, predicted_N)
    return {"r2": float(r2_score(truth_N, predicted_N)), "mae": float(error)}
