"""How varied a batch is.

Shape legend: n things, d features.
"""

from __future__ import annotations

import numpy as np


def mean_distance(x_nd: np.ndarray) -> float:
    """Mean Euclidean distance of two different rows; 0 for less than two."""
    n = len(x_nd)
    if n < 2:
        return 0.0
    return float(np.sqrt(squared_distances(x_nd)).sum() / (n * (n - 1)))


def vendi_score(x_nd: np.ndarray, bandwidth: float) -> float:
    """Effective number of different rows, 1 to n (Friedman & Dieng 2023, definition 3.1), with a Gaussian kernel.

    Args:
        x_nd: the rows.
        bandwidth: distance beyond which rows count as different: of the real things, so that both scores compare.
    """
    kernel = np.exp(-squared_distances(x_nd) / (2 * max(bandwidth, 1e-12) ** 2))
    eigenvalues = np.linalg.eigvalsh(kernel / len(x_nd))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def squared_distances(x_nd: np.ndarray) -> np.ndarray:
    """(n, n) squared Euclidean distances."""
    x_nd = np.asarray(x_nd, dtype=np.float64)
    x_nd = x_nd - x_nd.mean(0)  # distances don't change, cancellation does
    squares = (x_nd**2).sum(1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * x_nd @ x_nd.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances
