"""Figures of labelled embeddings: cosines, error rates, clusters, neighbours, geometry.

What is linear in the rows is exact, whatever their number. What is quadratic is exact up to `ALL_PAIRS` pairs and
else estimated from random pairs or random queries, and the result says of how many.

Legend: n rows, d dimensions, L labels. `codes` [n] int gives each row's label as 0 .. L - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ALL_PAIRS = 500_000
"""Up to so many pairs, 1,000 rows, every pair is looked at."""
SAMPLED_PAIRS = 100_000
"""Pairs of one label, and as many of two, that are drawn where there are more."""
QUERIES = 2_500
"""Rows whose nearest neighbours are looked for, among all rows."""
REPLICATES = 200
"""Bootstrap replicates of the equal error rate."""
MOST_LABELS = 2_000
"""Labels, the most frequent ones, for figures that cost the square of their number."""
FEWEST_TO_RESAMPLE = 10
"""With fewer labels than this the bootstrap draws rows: two or three labels say nothing of their spread."""


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows [n, d] divided by their Euclidean norm, which is not zero."""
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@dataclass(frozen=True)
class Groups:
    """Rows by label.

    Attributes:
        codes: [n] label of each row, 0 .. L - 1.
        order: [n] row numbers, those of one label side by side.
        starts: [L] where in `order` a label begins.
        counts: [L] rows of a label.
    """

    codes: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray) -> Groups:
        counts = np.bincount(codes)
        return cls(codes, np.argsort(codes, kind="stable"), np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """Sum of the rows [n, d] of each label, [L, d] float64."""
        return np.add.reduceat(rows[self.order], self.starts, axis=0, dtype=np.float64)


def mean_cosines(unit: np.ndarray, groups: Groups) -> tuple[float, float]:
    """Mean cosine over all pairs of one label and over all pairs of two; NaN where there is no such pair.

    Exact in linear time: the sum of a label's pairwise cosines is the squared norm of its summed unit rows.
    """
    sums = groups.sums(unit)
    n, within = len(unit), float((groups.counts * (groups.counts - 1)).sum())
    same = float((sums**2).sum() - n)
    every = float((sums.sum(axis=0) ** 2).sum() - n)
    between = n * (n - 1) - within
    return same / within if within else np.nan, (every - same) / between if between else np.nan


def draw_pairs(groups: Groups, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of pairs of one label [p, 2] and of two labels [q, 2].

    All of them up to `ALL_PAIRS`; beyond, `SAMPLED_PAIRS` of each kind, drawn uniformly with replacement.
    """
    n, counts = len(groups.codes), groups.counts
    if n * (n - 1) // 2 <= ALL_PAIRS:
        pairs = np.column_stack(np.triu_indices(n, 1))
        is_same = groups.codes[pairs[:, 0]] == groups.codes[pairs[:, 1]]
        return pairs[is_same], pairs[~is_same]
    same = different = np.empty((0, 2), dtype=np.int64)
    within = counts * (counts - 1.0)
    if within.any():
        label = rng.choice(len(counts), SAMPLED_PAIRS, p=within / within.sum())
        first = rng.integers(counts[label])
        second = (first + 1 + rng.integers(counts[label] - 1)) % counts[label]
        same = groups.order[groups.starts[label][:, None] + np.column_stack([first, second])]
    if len(counts) > 1:
        others = (n - counts[groups.codes]).astype(float)
        row = rng.choice(n, SAMPLED_PAIRS, p=others / others.sum())
        label = groups.codes[row]
        place = rng.integers(n - counts[label])  # among the rows of other labels: skip the own block
        place += np.where(place >= groups.starts[label], counts[label], 0)
        different = np.column_stack([row, groups.order[place]])
    return same, different


def pair_cosines(unit: np.ndarray, pairs: np.ndarray, chunk: int = 20_000) -> np.ndarray:
    """Cosine of each pair [p, 2] of unit rows."""
    parts = [pairs[start : start + chunk] for start in range(0, len(pairs), chunk)]
    return np.concatenate([np.einsum("pd,pd->p", unit[part[:, 0]], unit[part[:, 1]]) for part in parts] or [[]])


class ErrorRates:
    """The equal error rate of accepting a pair as "same" when its score passes a threshold.

    Where the two rates cross between two thresholds they are interpolated linearly, which is where the ROC curve
    meets the anti-diagonal.

    Args:
        same: [p] scores of pairs of one label.
        different: [q] scores of pairs of two.
    """

    def __init__(self, same: np.ndarray, different: np.ndarray) -> None:
        scores = np.concatenate([same, different])
        self._order = np.argsort(scores, kind="stable")
        self._scores = scores[self._order]
        self._last_of_tie = np.flatnonzero(np.append(self._scores[1:] > self._scores[:-1], True))
        self._is_same = (np.arange(len(scores)) < len(same)).astype(float)

    def equal(self, weights: np.ndarray | None = None) -> tuple[float, float]:
        """Rate and threshold; with `weights` [p + q], of the pairs counted so many times. NaN without both kinds."""
        counted = np.ones(len(self._order)) if weights is None else weights
        same = (counted * self._is_same)[self._order].cumsum()
        different = (counted * (1 - self._is_same))[self._order].cumsum()
        if not same[-1] or not different[-1]:
            return np.nan, np.nan
        missed = np.append(0.0, same[self._last_of_tie] / same[-1])
        accepted = np.append(1.0, 1 - different[self._last_of_tie] / different[-1])
        after = int(np.argmax(missed >= accepted))
        gap_before, gap_after = (missed - accepted)[after - 1 : after + 1]
        rate = float(np.interp(0, [gap_before, gap_after], missed[after - 1 : after + 1]))
        return rate, float(self._scores[self._last_of_tie[after - 1]])


def equal_error_rate(
    same: np.ndarray,
    different: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    groups: Groups,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Equal error rate with a 95 % bootstrap interval.

    Pairs share embeddings and labels, so not pairs are drawn again but labels (the "subset bootstrap" of Bolle et
    al. 2004): a pair counts as often as both its labels were drawn. With few labels rows are drawn instead.

    Args:
        same, different: scores of the pairs.
        pairs: their row numbers, [p, 2] and [q, 2].
    """
    rates = ErrorRates(same, different)
    rate, threshold = rates.equal()
    by_label = len(groups.counts) >= FEWEST_TO_RESAMPLE
    size = len(groups.counts) if by_label else len(groups.codes)
    first, second = np.concatenate(pairs).T
    if by_label:
        first, second = groups.codes[first], groups.codes[second]
    replicates = []
    for _ in range(REPLICATES):
        drawn = rng.multinomial(size, np.full(size, 1 / size)).astype(float)
        weights = np.where(first == second, drawn[first], drawn[first] * drawn[second])
        replicates.append(rates.equal(weights)[0])
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return {
        "rate": rate,
        "interval": [float(low), float(high)],
        "threshold": threshold,
        "resampled": "labels" if by_label else "rows",
        "replicates": REPLICATES,
    }


def silhouette(unit: np.ndarray, groups: Groups, rng: np.random.Generator) -> float:
    """Mean silhouette (Rousseeuw 1987) by cosine distance; a label's only row counts 0, as in scikit-learn.

    The mean cosine distance of a row to a label is one minus its product with the label's mean unit row, so this
    takes n x L x d operations and no pairs. Rows are drawn where n x L passes 200 million.
    """
    n, counts = len(unit), groups.counts
    means = (groups.sums(unit) / counts[:, None]).astype(np.float32)
    most = max(1, 200_000_000 // len(counts))
    rows = np.arange(n) if n <= most else rng.choice(n, most, replace=False)
    chunk = max(1, 20_000_000 // len(counts))
    total = 0.0
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        codes, place = groups.codes[part], np.arange(len(part))
        distance = 1 - unit[part] @ means.T
        # A row's distance to itself, 0, is in its own label's mean and must not be.
        own = distance[place, codes].astype(float) * counts[codes] / np.maximum(counts[codes] - 1, 1)
        distance[place, codes] = np.inf
        nearest = distance.min(axis=1)
        larger = np.maximum(own, nearest)
        gap = np.divide(nearest - own, larger, out=np.zeros(len(part)), where=larger > 0)
        total += float(gap[counts[codes] > 1].sum())
    return total / len(rows)


def davies_bouldin(embeddings: np.ndarray, groups: Groups) -> dict[str, Any]:
    """Davies-Bouldin index (1979; lower is better) of the most frequent labels, by sums in place of scikit-learn's
    loop over labels, which took most of the time at 1,000 of them.
    """
    kept = frequent(groups)
    means = groups.sums(embeddings) / groups.counts[:, None]
    apart = np.linalg.norm(embeddings - means.astype(np.float32)[groups.codes], axis=1)
    within = (np.bincount(groups.codes, apart) / groups.counts)[kept]
    squares = (means[kept] ** 2).sum(axis=1)
    between = np.sqrt(np.maximum(squares[:, None] + squares - 2 * means[kept] @ means[kept].T, 0))
    np.fill_diagonal(between, np.inf)
    likeness = (within[:, None] + within) / np.maximum(between, 1e-12)
    return {"index": float(likeness.max(axis=1).mean()), "labels": len(kept)}


def frequent(groups: Groups) -> np.ndarray:
    """The `MOST_LABELS` most frequent labels, ascending."""
    return np.sort(np.argsort(-groups.counts, kind="stable")[:MOST_LABELS])


def neighbours(embeddings: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two nearest other rows of up to `QUERIES` random rows, by Euclidean distance among all rows.

    Returns:
        Queries [q] and neighbours [q, 2] as row numbers, and distances [q, 2].
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(embeddings)
    queries = np.arange(n) if n <= QUERIES else np.sort(rng.choice(n, QUERIES, replace=False))
    search = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(embeddings)
    found = search.kneighbors(embeddings[queries], return_distance=False)
    # The row itself is among the three unless it has two twins or more; then any of the three may go.
    is_self = found == queries[:, None]
    is_self[~is_self.any(axis=1), 2] = True
    found = found[~is_self].reshape(-1, 2)
    # Distances anew: by the inner products of float32 those of near twins are noise.
    apart = embeddings[found].astype(float) - embeddings[queries][:, None].astype(float)
    distances = np.linalg.norm(apart, axis=2)
    closest_first = np.argsort(distances, axis=1, kind="stable")
    return queries, np.take_along_axis(found, closest_first, 1), np.take_along_axis(distances, closest_first, 1)


def intrinsic_dimension(distances: np.ndarray, discarded: float = 0.1) -> float:
    """TwoNN (Facco, d'Errico, Rodriguez and Laio 2017): the dimension that explains r2 / r1.

    The slope, through the origin, of -log(1 - F(mu)) on log mu, where mu = r2 / r1 and F is its empirical
    distribution; the largest tenth is left out, as the authors do.

    Args:
        distances: [q, 2], r1 and r2 of each query; queries with a twin (r1 = 0) do not count.

    Returns:
        The dimension, or NaN with fewer than 10 queries.
    """
    r1, r2 = distances[distances[:, 0] > 0].T
    if len(r1) < 10:
        return float("nan")
    log_mu = np.sort(np.log(r2 / r1))
    kept = int(len(log_mu) * (1 - discarded))
    survival = -np.log1p(-np.arange(1, kept + 1) / len(log_mu))
    moment = log_mu[:kept] @ log_mu[:kept]
    return float(log_mu[:kept] @ survival / moment) if moment > 0 else float("nan")


def spectrum(embeddings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Variances along the principal axes, descending; of 4,096 random rows where there are more dimensions."""
    n, d = embeddings.shape
    if d > 4096:
        rows = embeddings if n <= 4096 else embeddings[rng.choice(n, 4096, replace=False)]
        centred = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        products = centred @ centred.T / len(rows)
    else:
        centred = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        products = centred.T @ centred / n
    return np.maximum(np.linalg.eigvalsh(products.astype(np.float64))[::-1], 0)


def geometry(embeddings: np.ndarray, unit: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """How the embeddings fill their space.

    - `mean_cosine`: over all pairs; anisotropy as Ethayarajh (2019) measures it, 0 for none.
    - `spread`: mean standard deviation of the unit rows' components times sqrt(d): 1 when they cover the sphere, 0
      when they are one point (the collapse measure of SimSiam, Chen and He 2021).
    - `effective_rank`: exp of the entropy of the singular values of the centred rows (Roy and Vetterli 2007).
    - `first_axis`: share of the variance on the first principal axis.
    """
    n, d = unit.shape
    total = unit.sum(axis=0, dtype=np.float64)
    variances = spectrum(embeddings, rng)
    singular = np.sqrt(variances)
    share = singular[singular > 0] / max(singular.sum(), 1e-300)
    return {
        "mean_cosine": float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan"),
        "spread": float(unit.std(axis=0, dtype=np.float64).mean() * np.sqrt(d)),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "first_axis": float(variances[0] / variances.sum()) if variances.sum() > 0 else float("nan"),
    }


def confusable(unit: np.ndarray, groups: Groups, most: int = 10) -> list[tuple[int, int, float]]:
    """The pairs of labels whose mean directions are closest: (label, label, cosine), closest first."""
    kept = frequent(groups)
    means = groups.sums(unit)[kept]
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(kept), 1)
    cosines = (means @ means.T)[first, second]
    return [(int(kept[first[at]]), int(kept[second[at]]), float(cosines[at])) for at in np.argsort(-cosines)[:most]]


def outliers(unit: np.ndarray, groups: Groups, most: int = 20, limit: float = 3.5) -> list[dict[str, Any]]:
    """Rows that lie far from the others of their label: perhaps labelled wrongly, or broken.

    A row's cosine to the mean direction of the other rows of its label, as a robust z-score (median and 1.4826 times
    the median absolute deviation, over all rows; Iglewicz and Hoaglin 1993) below -`limit`, farthest first. Labels
    with fewer than 3 rows cannot tell.
    """
    sums = groups.sums(unit)
    products = np.einsum("nd,nd->n", sums.astype(np.float32)[groups.codes], unit)
    # Without the row itself the sum is S - u, of squared norm |S|^2 - 2 S u + 1.
    rest = np.sqrt(np.maximum((sums**2).sum(axis=1)[groups.codes] - 2 * products + 1, 1e-12))
    cosines = (products - 1) / rest
    told = groups.counts[groups.codes] >= 3
    if not told.any():
        return []
    middle = np.median(cosines[told])
    scale = 1.4826 * np.median(np.abs(cosines[told] - middle))
    scores = np.where(told, (cosines - middle) / max(float(scale), 1e-6), 0.0)
    rows = [int(row) for row in np.argsort(scores, kind="stable")[:most] if scores[row] < -limit]
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    nearest = (unit[rows] @ means.T).argmax(axis=1) if rows else []
    return [
        {
            "row": row,
            "label": int(groups.codes[row]),
            "cosine": float(cosines[row]),
            "z": float(scores[row]),
            "nearest": int(near),
        }
        for row, near in zip(rows, nearest, strict=True)
    ]
