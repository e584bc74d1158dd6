"""Pictures of embeddings: maps by PCA, t-SNE and UMAP, cosines by kind of pair, likeness of labels."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diag.embedding_metrics import Groups, draw_pairs, pair_cosines, unit_rows
from trainworks.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from diag.embeddings_read import Labelled

MOST_POINTS = 2_000
"""Points of a t-SNE or UMAP map, drawn at random: beyond, it costs minutes and the dots hide each other."""
NAMED = 100
"""Labels, the most frequent ones, that a map tells apart; the others are grey."""
MARKERS = "osD^vP"
"""With twenty colors, enough for `NAMED` labels to look each like no other."""


def draw(found: Labelled, out: Path, seed: int = 0) -> list[Path]:
    """Write embeddings_pca.png, embeddings_tsne.png, embeddings_umap.png (where umap-learn is installed) and, with two
    labels or more, embeddings_cosines.png and embeddings_labels.png into `out`, and return their paths. Embeddings that
    are all the same have a place in the PCA alone.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(np.isfinite(found.embeddings).all(axis=1) & found.embeddings.any(axis=1))
    embeddings = found.embeddings[usable]
    total = len(usable)
    labels = np.full(total, "") if found.labels is None else found.labels[usable]
    few = np.sort(rng.choice(total, min(total, MOST_POINTS), replace=False))
    written = [_map(out, "pca", *_pca(embeddings, few), labels[few], total)]
    spread = np.ptp(embeddings[few], axis=0).any()  # t-SNE's start divides by it: with none the process dies
    if spread:
        written.append(_map(out, "tsne", _tsne(embeddings[few], seed), ("t-SNE 1", "t-SNE 2"), labels[few], total))
    if spread and importlib.util.find_spec("umap") is not None:
        written.append(_map(out, "umap", _umap(embeddings[few], seed), ("UMAP 1", "UMAP 2"), labels[few], total))
    if len(set(labels)) > 1:
        names, codes = np.unique(labels, return_inverse=True)
        groups = Groups.of(codes)
        centred = embeddings - embeddings.mean(axis=0)
        keep = np.linalg.norm(centred, axis=1) > 0
        if keep.all():
            written.append(
                _cosines(out, {"raw": unit_rows(embeddings), "mean-centred": unit_rows(centred)}, groups, rng)
            )
            written.append(_label_likeness(out, unit_rows(centred), groups, names))
    return written


def _pca(embeddings: np.ndarray, few: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Two principal axes, of every so many-th row where there are more than 5,000; the places of a few rows on them."""
    centred = embeddings - embeddings.mean(axis=0)
    if embeddings.shape[1] == 1:
        return np.column_stack([centred[few], np.zeros(len(few))]), ("the one component", "")
    basis = centred if len(centred) <= 5_000 else centred[:: len(centred) // 5_000 + 1]
    _, singular, axes = np.linalg.svd(basis, full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), 1e-30)
    return centred[few] @ axes[:2].T, (f"axis 1 ({share[0]:.0%} of the variance)", f"axis 2 ({share[1]:.0%})")


def _tsne(embeddings: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if min(embeddings.shape) > 50:
        embeddings = PCA(50, random_state=seed).fit_transform(embeddings)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(
        perplexity=perplexity, init="pca" if embeddings.shape[1] > 1 else "random", random_state=seed
    ).fit_transform(embeddings)


def _umap(embeddings: np.ndarray, seed: int) -> np.ndarray:
    import umap

    return umap.UMAP(n_neighbors=min(15, len(embeddings) - 1), random_state=seed).fit_transform(embeddings)


def _map(out: Path, name: str, places: np.ndarray, axes_names: tuple[str, str], labels: np.ndarray, total: int) -> Path:
    """A scatter plot. Up to 12 labels are told in a legend; up to `NAMED` also by their names at their middles."""
    from matplotlib.figure import Figure

    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    named = np.argsort(-counts, kind="stable")[:NAMED]
    columns = 0 if len(names) == 1 else 1 + (len(named) - 1) // 34
    figure = Figure(figsize=(8 + 1.6 * columns, 7.5), layout="constrained")
    axes = figure.add_subplot()
    rest = ~np.isin(codes, named)
    if rest.any():
        axes.scatter(
            places[rest, 0],
            places[rest, 1],
            s=8,
            color="#bbbbbb",
            linewidths=0,
            label=f"{len(names) - len(named)} more labels",
        )
    for index, code in enumerate(sorted(named)):
        color, marker = _look(index)
        of_label = places[codes == code]
        axes.scatter(
            of_label[:, 0],
            of_label[:, 1],
            s=14,
            color=color,
            marker=marker,
            linewidths=0,
            alpha=0.8,
            label=plain(names[code]),
        )
        if len(names) > 12:
            _name_at_middle(axes, of_label, plain(names[code]))
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    axes.spines[["top", "right"]].set_visible(False)
    shown = f"{len(places):,} of {total:,}" if len(places) < total else f"{total:,}"
    axes.set_title(f"{shown} embeddings", loc="left", fontsize=10)
    if columns:
        figure.legend(loc="outside right upper", ncols=columns, frameon=False, fontsize=8, markerscale=1.6)
    return save(figure, out / f"embeddings_{name}.png")


def _look(index: int) -> tuple[Any, str]:
    """Color and marker number `index`: of tab20 the strong colors first, then its light ones, then another marker."""
    from matplotlib import colormaps

    return colormaps["tab20"]((2 * index) % 20 + index // 10 % 2), MARKERS[index // 20 % len(MARKERS)]


def _name_at_middle(axes: Axes, places: np.ndarray, name: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        name,
        np.median(places, axis=0),
        fontsize=6.5,
        ha="center",
        va="center",
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _cosines(out: Path, spaces: dict[str, np.ndarray], groups: Groups, rng: np.random.Generator) -> Path:
    from matplotlib.figure import Figure

    pairs = draw_pairs(groups, rng)
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (title, unit) in zip(figure.subplots(1, 2, sharey=True), spaces.items(), strict=True):
        for part, label, color in ((pairs[0], "same label", "#2a7f3f"), (pairs[1], "different labels", "#c0392b")):
            if len(part):
                scores = pair_cosines(unit, part)
                axes.hist(scores, bins=np.linspace(-1, 1, 101), density=True, alpha=0.55, color=color, label=label)
                axes.axvline(scores.mean(), color=color, linewidth=1.2)
        axes.set_title(f"{title} cosines", loc="left", fontsize=10)
        axes.set_xlabel("cosine")
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("density")
    return save(figure, out / "embeddings_cosines.png")


def _label_likeness(out: Path, unit: np.ndarray, groups: Groups, names: np.ndarray) -> Path:
    """Cosines of the labels' mean directions, labels ordered so that like ones stand together."""
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    kept = np.sort(np.argsort(-groups.counts, kind="stable")[:NAMED])
    means = unit_rows(groups.sums(unit)[kept] + 1e-12)
    cosines = means @ means.T
    distances = np.clip(1 - cosines, 0, None)
    np.fill_diagonal(distances, 0)
    order = leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))
    size = 3.5 + 0.12 * len(kept)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(cosines[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
    shown = [plain(names[kept[index]]) for index in order]
    axes.set_xticks(range(len(kept)), shown, rotation=90, fontsize=7)
    axes.set_yticks(range(len(kept)), shown, fontsize=7)
    axes.set_title("cosines of the labels' mean directions, centred", loc="left", fontsize=10)
    figure.colorbar(image, shrink=0.7)
    return save(figure, out / "embeddings_labels.png")


def plain(name: str) -> str:
    """A label as matplotlib shall show it: no mathematics, no hiding by an underscore, no control codes, not long."""
    visible = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(name))
    short = visible if len(visible) <= 24 else visible[:23] + "…"
    return short.replace("$", r"\$").lstrip("_") or "(empty)"


def save(figure: Figure, path: Path) -> Path:
    """Publish a figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    atomic_write(path, image.getvalue())
    return path
