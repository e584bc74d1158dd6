"""Quantisers of embeddings and latents: what else could be done with the same bits.

Letters in names and shapes: V vocabulary rows, N rows of a block, D width, M parts of a product quantiser, C centroids
of a part, d width of a part, B bytes of a code. "..." stands for any leading dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainworks.console import UserError
from trainworks.seeding import rng

_SCALE = np.dtype("<f2")
SCALE_BITS = 8 * _SCALE.itemsize
_NUM_CENTROIDS = 256
"""Centroids of one part, so that a code is one byte."""
_ROWS_PER_CENTROID = 64
_LLOYD_STEPS = 15
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Absmax:
    """Symmetric uniform quantisation with one scale for each vector, its largest magnitude, as float16.

    A code is bytes: 8-bit levels, or 4-bit levels two in a byte (the first low), then the scale. Levels run from
    -127 to 127 or from -7 to 7.

    Attributes:
        bits: 8 or 4.
        width: of the vectors.
    """

    bits: int
    width: int

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    @property
    def bits_per_vector(self) -> int:
        return 8 * (-(-self.width * self.bits // 8) + _SCALE.itemsize)

    @property
    def _peak(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Codes (..., B) uint8 of x (..., width)."""
        x = x.astype(np.float32, copy=False)
        absmax = np.abs(x).max(axis=-1, keepdims=True).astype(_SCALE)
        step = absmax.astype(np.float32) / self._peak
        levels = np.divide(x, step, out=np.zeros_like(x), where=step > 0)
        levels = np.rint(levels).clip(-self._peak, self._peak).astype(np.int8).view(np.uint8)
        if self.bits == 4:
            levels = np.concatenate([levels, np.zeros_like(levels[..., : self.width % 2])], axis=-1)
            levels = levels[..., 0::2] & 15 | levels[..., 1::2] << 4
        return np.concatenate([levels, absmax.view(np.uint8)], axis=-1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors (..., width) float32 of codes (..., B)."""
        packed, scale = codes[..., : -_SCALE.itemsize], codes[..., -_SCALE.itemsize :]
        if self.bits == 4:
            nibbles = np.stack([packed << 4, packed & 0xF0], axis=-1).reshape(*packed.shape[:-1], -1)
            levels = nibbles.view(np.int8)[..., : self.width] >> 4  # shifting down again keeps the sign
        else:
            levels = packed.view(np.int8)
        absmax = np.ascontiguousarray(scale).view(_SCALE).astype(np.float32)
        return levels * (absmax / self._peak)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"width": np.array([self.width])}


@dataclass(frozen=True, eq=False)
class Product:
    """Product quantisation: each of M equal parts of a vector becomes the byte of its nearest centroid.

    Jégou, Douze and Schmid 2011, "Product quantization for nearest neighbor search", equation 8.

    Attributes:
        codebooks: (M, C, D / M) float32, C at most 256.
    """

    codebooks: np.ndarray

    name = "product"

    @property
    def bits_per_vector(self) -> int:
        return 8 * len(self.codebooks)

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Codes (..., M) uint8 of x (..., D)."""
        rows = x.astype(np.float32, copy=False).reshape(-1, x.shape[-1])
        codes = np.empty((len(rows), len(self.codebooks)), np.uint8)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            for part, (rows_part, codebook) in enumerate(
                zip(np.split(rows[block], len(self.codebooks), axis=1), self.codebooks, strict=True)
            ):
                codes[block, part] = _nearest(rows_part, codebook)[0]
        return codes.reshape(*x.shape[:-1], -1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors (..., D) float32 of codes (..., M)."""
        return self.codebooks[np.arange(len(self.codebooks)), codes].reshape(*codes.shape[:-1], -1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"codebooks": self.codebooks}


def fit_product(table: np.ndarray, num_parts: int, seed: int, weights: np.ndarray | None = None) -> Product:
    """Learn the codebooks by Lloyd's k-means, on up to 16,384 rows drawn at random.

    Args:
        table: (V, D), a memory map for instance.
        num_parts: M.
        weights: (V,) such as token frequencies, by which rows are drawn with replacement; None draws each row once.

    Raises:
        UserError: M does not divide D.
    """
    num_rows, width = table.shape
    if width % num_parts:
        raise UserError(f"{num_parts} parts do not divide the width {width} of what is quantised; take a divisor")
    random = rng(seed, "product")
    shares = None if weights is None else np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    wanted = _NUM_CENTROIDS * _ROWS_PER_CENTROID
    drawn = random.choice(num_rows, min(wanted, num_rows) if shares is None else wanted, shares is not None, shares)
    parts = np.split(table[np.sort(drawn)].astype(np.float32), num_parts, axis=1)
    return Product(np.stack([_lloyd(np.ascontiguousarray(part), random) for part in parts]))


def _lloyd(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Centroids (C, d) of rows (N, d) by k-means; a centroid without rows moves to a row that is worst represented."""
    centroids = rows[random.choice(len(rows), min(_NUM_CENTROIDS, len(rows)), replace=False)]
    for _ in range(_LLOYD_STEPS):
        nearest, distance = _nearest(rows, centroids)
        counts = np.bincount(nearest, minlength=len(centroids))
        sums = np.stack([np.bincount(nearest, column, len(centroids)) for column in rows.T], axis=1)
        centroids = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        centroids[empty] = rows[np.argsort(distance)[::-1][: len(empty)]]
    return centroids


def _nearest(rows: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For rows (N, d) the nearest centroids' numbers (N,) and squared distances (N,)."""
    scores = rows @ (-2 * centroids.T)
    scores += np.square(centroids).sum(axis=1)
    nearest = scores.argmin(axis=1)
    return nearest, scores[np.arange(len(rows)), nearest] + np.square(rows).sum(axis=1)
