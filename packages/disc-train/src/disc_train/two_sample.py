"""Can a classifier tell synthetic rows from real ones?

The test is that of Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests".
The families of the evaluation are never used by training, whose discriminators are neural networks and whose
validation (`validation_auc`) uses randomised trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from disc_train.evaluate_features import Features
from trainworks.seeding import derive, rng

FOLDS = 5
FAMILIES = ("xgboost", "logistic", "nearest neighbours")
SOURCES = ("synthetic", "train rows", "independent columns")
XGBOOST = {"n_estimators": 150, "max_depth": 6, "learning_rate": 0.1, "tree_method": "hist"}
"""XGBoost as every section uses it; categories are integer codes."""


def two_sample(
    features: Features,
    train_NC: np.ndarray,
    test_NC: np.ndarray,
    synth_NC: np.ndarray,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    threads: int = 1,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """AUC of telling held-out real rows from as many rows of a source; 0.5 is a perfect source.

    Far below 0.5 means copies: a real row in one fold and its copy in another teach each other's wrong label.

    Sources: the synthetic rows; other real rows, from train (the noise floor); train with each column
    shuffled by itself (a generator that knows no relation). All have as many rows as the smallest table. A
    seed chooses rows, shuffles and folds.

    Args:
        train_NC, test_NC, synth_NC: rows as `Features.numbers` gives them.
        step: called after each of the `len(seeds) * len(SOURCES) * len(FAMILIES)` cross-validations.

    Returns:
        rows (a side), folds, and auc: source -> family -> {mean, std, seeds}.
    """
    rows = min(len(train_NC), len(test_NC), len(synth_NC))
    auc: dict[str, dict[str, list[float]]] = {source: {name: [] for name in FAMILIES} for source in SOURCES}
    for seed in seeds:
        real_NC = choose(test_NC, rows, seed, "test")
        fakes = {
            "synthetic": choose(synth_NC, rows, seed, "synthetic"),
            "train rows": choose(train_NC, rows, seed, "train"),
            "independent columns": choose(independent_columns(train_NC, seed), rows, seed, "independent"),
        }
        for source, fake_NC in fakes.items():
            for family in FAMILIES:
                found = detection_auc(features, real_NC, fake_NC, family, seed=seed, threads=threads)
                auc[source][family].append(found)
                step()
    return {
        "rows": rows,
        "folds": FOLDS,
        "auc": {
            source: {family: spread(aucs) for family, aucs in by_family.items()} for source, by_family in auc.items()
        },
    }


def detection_auc(
    features: Features,
    real_NC: np.ndarray,
    fake_NC: np.ndarray,
    family: str,
    *,
    seed: int = 0,
    threads: int = 1,
) -> float:
    """Out-of-fold AUC of one classifier family, real against fake rows: the mean over stratified folds.

    A mean of folds, since scores of different folds' models are not on one scale: pooling them biases the AUC
    below 0.5 where there is nothing to find.

    Args:
        family: one of `FAMILIES`.
    """
    numbers_NC = np.concatenate([real_NC, fake_NC])
    X = numbers_NC.astype(np.float32) if family == "xgboost" else features.design(numbers_NC)
    is_fake = np.repeat([0, 1], [len(real_NC), len(fake_NC)])
    return _cross_validate(lambda rows: _classifier(family, rows, seed, threads), X, is_fake, seed)


def validation_auc(real_NC: np.ndarray, fake_NC: np.ndarray, *, seed: int = 0) -> float:
    """The two-sample test by which training stops early: extremely randomised trees (Geurts et al. 2006).

    Its family is none of `FAMILIES`, so that the evaluation judges by others than the one that was optimised.

    Args:
        real_NC, fake_NC: integer token codes of rows; equally many rows make 0.5 the score of equal ones.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    def trees(rows: int) -> Any:
        return ExtraTreesClassifier(100, min_samples_leaf=3, random_state=derive(seed, "trees") % 2**32)

    is_fake = np.repeat([0, 1], [len(real_NC), len(fake_NC)])
    return _cross_validate(trees, np.concatenate([real_NC, fake_NC]).astype(np.float32), is_fake, seed)


def _cross_validate(classifier: Callable[[int], Any], X: np.ndarray, is_fake: np.ndarray, seed: int) -> float:
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=derive(seed, "folds") % 2**32)
    aucs = []
    for fit, held_out in folds.split(X, is_fake):
        model = classifier(len(fit)).fit(X[fit], is_fake[fit])
        aucs.append(roc_auc_score(is_fake[held_out], model.predict_proba(X[held_out])[:, 1]))
    return float(np.mean(aucs))


def _classifier(family: str, rows: int, seed: int, threads: int) -> Any:
    if family == "xgboost":
        from xgboost import XGBClassifier

        return XGBClassifier(**XGBOOST, n_jobs=threads, random_state=seed)
    if family == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=1000)
    from sklearn.neighbors import KNeighborsClassifier

    # sqrt(rows) neighbours, as in Lopez-Paz & Oquab 2017, section 5.
    return KNeighborsClassifier(n_neighbors=int(np.sqrt(rows)), algorithm="brute", n_jobs=threads)


def independent_columns(train_NC: np.ndarray, seed: int) -> np.ndarray:
    """The trivial generator: each train column shuffled by itself, (N, C)."""
    return rng(seed, "independent columns").permuted(train_NC, axis=0)


def choose(numbers_NC: np.ndarray, rows: int, seed: int, stream: str) -> np.ndarray:
    """`rows` distinct rows in random order, (rows, C)."""
    return numbers_NC[rng(seed, "rows", stream).permutation(len(numbers_NC))[:rows]]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds; std is None for a single seed."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "seeds": [float(value) for value in values]}
