"""Compressors of embeddings: PCA from a streamed covariance, and its rivals at equal bits.

Letters in names and shapes: V vocabulary rows, N rows of a block, D embedding width, K latent width, M parts of a
product quantiser, C centroids of a part, B bytes of a code. "..." stands for any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from adapter_stage1.quantise import SCALE_BITS, Absmax, Product, fit_product
from trainworks.console import UserError
from trainworks.seeding import rng

_ROWS_AT_ONCE = 2048
"""Rows of a float32 product: few enough that its rounding stays near 1e-7, after which sums are float64."""
_RANK_TOLERANCE = 1e-6
"""Variances below this share of the largest are rounding noise of a float16 or float32 table."""
_LATENT_BITS = 16


class Compressor(Protocol):
    """Turns vectors into codes and back."""

    @property
    def name(self) -> str:
        """What `from_arrays` takes as kind, such as "pca" or "pca+int4"."""

    @property
    def bits_per_vector(self) -> int:
        """What one code takes on the wire: latents as float16, quantised codes with their scale."""

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Codes (..., K) float32 or (..., B) uint8 of vectors (..., D)."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors (..., D) float32 of codes as `encode` makes them."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs to make this compressor again."""


def shared_bits(compressor: Compressor) -> int:
    """Bits of what both ends hold once, whatever is sent: projections, means, codebooks."""
    return 8 * sum(array.nbytes for array in compressor.to_arrays().values())


def latent_width(embedding_width: int, ratio: int) -> int:
    """K = D / ratio.

    Raises:
        UserError: the ratio does not divide D; names those that do.
    """
    if ratio < 1 or embedding_width % ratio:
        fitting = [str(number) for number in range(2, embedding_width + 1) if embedding_width % number == 0]
        raise UserError(
            f"ratio {ratio} does not divide the embedding width {embedding_width}; take one of {', '.join(fitting)}"
        )
    return embedding_width // ratio


def explained_variance(x: np.ndarray, rebuilt: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The share of the rows' variance that reconstructions keep: 1 - weighted SSE / weighted total variance.

    It is 0 for the mean everywhere, 1 for the rows themselves, and negative for what is worse than the mean.

    Args:
        x, rebuilt: (N, D).
        weights: (N,), not negative; None weighs all rows alike.
    """
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    mean = np.zeros(x.shape[1])
    for block in _row_slices(len(x)):
        mean += weights[block] @ x[block].astype(np.float64)
    mean /= weights.sum()
    error = total = 0.0
    for block in _row_slices(len(x)):
        rows = x[block].astype(np.float64)
        error += float(weights[block] @ np.square(rows - rebuilt[block]).sum(axis=1))
        total += float(weights[block] @ np.square(rows - mean).sum(axis=1))
    return 1 - error / total


def _row_slices(num_rows: int) -> list[slice]:
    return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, num_rows, _ROWS_AT_ONCE)]


@dataclass(frozen=True, eq=False)
class Linear:
    """Projection on orthonormal rows; decoding by their transpose, which is their pseudo-inverse.

    Attributes:
        components: (K, D) float32, orthonormal rows.
        mean: (D,) float32, taken off before the projection.
        scale: (K,) float32, by which latents are divided.
    """

    name: str
    components: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @property
    def bits_per_vector(self) -> int:
        return _LATENT_BITS * len(self.components)

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Latents (..., K) float32 of x (..., D)."""
        return (x.astype(np.float32, copy=False) - self.mean) @ (self.components / self.scale[:, None]).T

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors (..., D) float32 of latents (..., K), which may be float16."""
        return codes.astype(np.float32, copy=False) @ (self.components * self.scale[:, None]) + self.mean

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"components": self.components, "mean": self.mean, "scale": self.scale}


@dataclass(frozen=True, eq=False)
class Pca(Linear):
    """Principal components, those of most variance first; each one's entry of largest magnitude is positive.

    Named "pca", or "pca-whitened" where `scale` is the latents' standard deviation instead of 1.

    Attributes:
        explained_variance: (K,) float64, variance of each latent before whitening.
        total_variance: of all D dimensions.
    """

    explained_variance: np.ndarray
    total_variance: float

    def truncated(self, width: int) -> Pca:
        """The first components only, which is the PCA of that width.

        Raises:
            UserError: there are fewer.
        """
        rank = len(self.components)
        if not 1 <= width <= rank:
            raise UserError(
                f"a PCA of width {width} is not possible: the embeddings, {len(self.mean)} wide, have rank {rank}; "
                f"take a ratio of at least {-(-len(self.mean) // rank)}"
            )
        return replace(
            self,
            components=self.components[:width],
            scale=self.scale[:width],
            explained_variance=self.explained_variance[:width],
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {
            **super().to_arrays(),
            "explained_variance": self.explained_variance,
            "total_variance": np.array([self.total_variance]),
        }


class StreamingCovariance:
    """Weighted mean and covariance of rows that come block by block, in memory O(D^2).

    Rows are shifted by the first block's mean, so that a mean far from 0 costs no digits (Chan, Golub and LeVeque 1983,
    "Algorithms for computing the sample variance"). Products of 2,048 rows are taken in the rows' own precision
    (float16 rows in float32) and summed in float64: against float64 throughout, a float32 table's covariance differs
    by about 1e-7 of its largest entry. Float64 rows stay float64.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self._weight = self._squared_weight = 0.0
        self._shift = np.zeros(width, np.float32)
        self._sum = np.zeros(width)
        self._scatter = np.zeros((width, width))

    def update(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Take in rows (N, D), a memory map for instance, of which only some are held at once.

        Args:
            weights: (N,), not negative, in any unit; None weighs each row with 1.
        """
        kind = np.promote_types(rows.dtype, np.float32)
        if self._weight == 0:
            self._shift = rows[:_ROWS_AT_ONCE].mean(axis=0, dtype=np.float64).astype(np.float32)
        shift = self._shift.astype(kind)
        buffer = np.empty((min(_ROWS_AT_ONCE, len(rows)), rows.shape[1]), kind)
        for block in _row_slices(len(rows)):
            shifted = np.subtract(rows[block], shift, out=buffer[: len(rows[block])])
            roots = np.ones(len(shifted), kind)
            if weights is not None:
                roots = np.sqrt(weights[block]).astype(kind)
                shifted *= roots[:, None]
            self._scatter += shifted.T @ shifted
            self._sum += roots @ shifted
            self._weight += float(np.square(roots, dtype=np.float64).sum())
            self._squared_weight += float(np.square(np.square(roots, dtype=np.float64)).sum())

    @property
    def mean(self) -> np.ndarray:
        """(D,) float64."""
        return self._shift + self._sum / self._weight

    def covariance(self) -> np.ndarray:
        """(D, D) float64, unbiased: scatter / (W - sum of squared weights / W), which is N - 1 for equal weights.

        As `np.cov` with aweights, and blind to the weights' unit.

        Raises:
            UserError: a row was not finite.
        """
        scatter = self._scatter - np.outer(self._sum, self._sum) / self._weight
        if not np.isfinite(scatter).all():
            raise UserError("the embeddings hold NaN or infinity; the model's file is damaged, fetch it anew")
        return scatter / (self._weight - self._squared_weight / self._weight)

    def pca(self, whiten: bool = False) -> Pca:
        """All components that have variance, as many as the rank; `truncated` takes the first of them.

        Args:
            whiten: give each latent variance 1 over the fitted rows.

        Raises:
            UserError: a row was not finite.
        """
        covariance = self.covariance()
        total = float(np.trace(covariance))
        values, vectors = np.linalg.eigh(covariance)
        values, components = values[::-1], vectors.T[::-1]
        rank = int((values > _RANK_TOLERANCE * values[0]).sum())
        values, components = values[:rank], components[:rank]
        largest = np.abs(components).argmax(axis=1)
        components = components * np.sign(components[np.arange(rank), largest])[:, None]
        return Pca(
            name="pca-whitened" if whiten else "pca",
            components=np.ascontiguousarray(components, np.float32),  # safetensors writes memory as it lies
            mean=self.mean.astype(np.float32),
            scale=np.sqrt(values).astype(np.float32) if whiten else np.ones(rank, np.float32),
            explained_variance=values.copy(),
            total_variance=total,
        )


def fit_pca(
    blocks: Iterable[np.ndarray], width: int, *, weights: np.ndarray | None = None, whiten: bool = False
) -> Pca:
    """Fit a PCA of K components to a table that comes in blocks; `[table]` for one that is in memory or mapped.

    Args:
        blocks: arrays (N, D), V rows in all.
        width: K.
        weights: (V,) such as token frequencies, not negative, in any unit; None weighs all rows alike.
        whiten: give each latent variance 1 over the fitted rows.

    Raises:
        UserError: K is above the rank, or a row is not finite.
    """
    covariance, done = None, 0
    for block in blocks:
        covariance = covariance or StreamingCovariance(block.shape[1])
        covariance.update(block, None if weights is None else weights[done : done + len(block)])
        done += len(block)
    if covariance is None:
        raise ValueError("no rows to fit a PCA to")
    return covariance.pca(whiten).truncated(width)


def random_projection(embedding_width: int, width: int, seed: int, mean: np.ndarray | None = None) -> Linear:
    """Gaussian projection D -> K, orthonormalised, so that its pseudo-inverse decodes: the floor under any method.

    Args:
        mean: (D,) of the embeddings, so that only what differs from it is projected; None for 0.
    """
    gaussian = rng(seed, "random-projection").standard_normal((embedding_width, width))
    return Linear(
        name="random-projection",
        components=np.ascontiguousarray(np.linalg.qr(gaussian)[0].T, np.float32),
        mean=np.zeros(embedding_width, np.float32) if mean is None else mean.astype(np.float32),
        scale=np.ones(width, np.float32),
    )


@dataclass(frozen=True, eq=False)
class Chain:
    """A linear compressor whose latents are quantised, such as "pca+int4"."""

    linear: Linear
    quantiser: Absmax | Product

    @property
    def name(self) -> str:
        return f"{self.linear.name}+{self.quantiser.name}"

    @property
    def bits_per_vector(self) -> int:
        return self.quantiser.bits_per_vector

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Codes (..., B) uint8 of x (..., D)."""
        return self.quantiser.encode(self.linear.encode(x))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors (..., D) float32 of codes (..., B)."""
        return self.linear.decode(self.quantiser.decode(codes))

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {
            **{f"linear.{key}": array for key, array in self.linear.to_arrays().items()},
            **{f"quantiser.{key}": array for key, array in self.quantiser.to_arrays().items()},
        }


def rivals(table: np.ndarray, pca: Pca, width: int, seed: int, weights: np.ndarray | None = None) -> list[Compressor]:
    """What else could be done with the 16 K bits that K float16 latents take; none takes more.

    Random projection to K; product quantisation of the embeddings; int4 and int8 of as many principal components as
    fit beside their scale, at most as many as there are.

    Args:
        table: (V, D) to learn codebooks from.
        pca: of the table, as wide as its rank allows.
        width: K.
        weights: (V,), as those that the PCA was fitted with.
    """
    embedding_width = table.shape[1]
    bits = _LATENT_BITS * width
    num_parts = max(parts for parts in range(1, bits // 8 + 1) if embedding_width % parts == 0)
    found: list[Compressor] = [
        random_projection(embedding_width, width, seed, pca.mean),
        fit_product(table, num_parts, seed, weights),
    ]
    for level_bits in (4, 8):
        fitting = min((bits - SCALE_BITS) // level_bits, len(pca.components))
        if fitting > 0:
            found.append(Chain(pca.truncated(fitting), Absmax(level_bits, fitting)))
    return found


def from_arrays(kind: str, arrays: Mapping[str, np.ndarray]) -> Compressor:
    """Make a compressor again from its name and what its `to_arrays` gave.

    Raises:
        UserError: a kind that this version does not know.
    """
    linear, plus, quantiser = kind.rpartition("+")
    if quantiser in _LINEAR and not plus:
        return _linear_from(kind, arrays)
    if quantiser not in _QUANTISERS or (plus and linear not in _LINEAR):
        raise UserError(f'"{kind}" is no compressor that this version knows; use the version that made the run')
    if not plus:
        return _quantiser_from(kind, arrays)
    parts = {
        side: {key.removeprefix(f"{side}."): array for key, array in arrays.items() if key.startswith(f"{side}.")}
        for side in ("linear", "quantiser")
    }
    return Chain(_linear_from(linear, parts["linear"]), _quantiser_from(quantiser, parts["quantiser"]))


_LINEAR = ("pca", "pca-whitened", "random-projection")
_QUANTISERS = ("int4", "int8", "product")


def _linear_from(kind: str, arrays: Mapping[str, np.ndarray]) -> Linear:
    if kind == "random-projection":
        return Linear(kind, **arrays)
    fields: dict[str, Any] = {**arrays, "total_variance": float(arrays["total_variance"][0])}
    return Pca(kind, **fields)


def _quantiser_from(kind: str, arrays: Mapping[str, np.ndarray]) -> Absmax | Product:
    if kind == "product":
        return Product(arrays["codebooks"])
    return Absmax(int(kind.removeprefix("int")), int(arrays["width"][0]))
