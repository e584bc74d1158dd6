"""Are these embeddings good? Do those of one label lie together, those of two apart, and do they fill their space?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diag.embedding_metrics import (
    Groups,
    confusable,
    davies_bouldin,
    draw_pairs,
    equal_error_rate,
    geometry,
    intrinsic_dimension,
    mean_cosines,
    neighbours,
    outliers,
    pair_cosines,
    silhouette,
    unit_rows,
)
from diag.embeddings_findings import console_text, findings
from diag.embeddings_read import Labelled, checked, read_embeddings
from diag.extras import require
from trainworks.console import UserError
from trainworks.files import write_json

__all__ = ["analyse", "analyze_embeddings", "console_text", "embeddings_cli"]

if TYPE_CHECKING:
    import torch

BANDS = ((0.6, "excellent"), (0.4, "good"), (0.2, "fair"))
"""Separation, mean same-label minus mean different-label cosine, that earns a word; below all it is "poor"."""
LABEL_KEYS = ("labels", "label", "speaker_id", "speaker", "target", "y")
INPUT_KEYS = ("inputs", "input", "mel", "audio", "features", "input_ids", "x")


def band(separation: float) -> str:
    """The word for a separation: excellent above .6, good above .4, fair above .2, else poor."""
    return next((word for least, word in BANDS if separation > least), "poor")


def analyse(found: Labelled, seed: int = 0) -> dict[str, Any]:
    """All figures of a set of embeddings, ready for JSON.

    Rows that are not finite or zero have no direction: they are counted, named in a finding and left out. `raw` has
    the figures of plain cosines, `centred` those after the mean embedding was taken away, as many encoders share a
    large common direction (Mu and Viswanath 2018). Figures that want labels, two labels or two rows of one are None
    where they are missing.

    Args:
        found: embeddings [n, d] and labels.
        seed: of the draws of pairs, queries and bootstrap replicates.

    Raises:
        UserError: fewer than 3 usable rows.
    """
    rng = np.random.default_rng(seed)
    finite = np.isfinite(found.embeddings).all(axis=1)
    usable = finite & found.embeddings.any(axis=1)
    rows = np.flatnonzero(usable)
    if len(rows) < 3:
        raise UserError(f"{found.source}: {len(rows)} usable embeddings of {len(finite):,}; at least 3 are wanted")
    embeddings = found.embeddings[rows]
    unit = unit_rows(embeddings)
    near = neighbours(unit, rng)
    # Of embeddings that are unit rows already the nearest by distance are those by cosine.
    is_unit = np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    distances = (near if is_unit else neighbours(embeddings, rng))[2]
    result: dict[str, Any] = {
        "source": found.source,
        "rows": len(finite),
        "dimensions": int(embeddings.shape[1]),
        "not_finite": int((~finite).sum()),
        "zero": int((finite & ~usable).sum()),
        "labels": None,
        "geometry": {
            **geometry(embeddings, unit, rng),
            "intrinsic_dimension": intrinsic_dimension(distances),
            "twins": float((distances[:, 0] == 0).mean()),
        },
    }
    if found.labels is not None:
        result |= _by_label(embeddings, unit, found.labels[rows], rows, near[:2], rng)
    result["findings"] = findings(result)
    return result


def _by_label(
    embeddings: np.ndarray,
    unit: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    near: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, Any]:
    names, codes = np.unique(labels, return_inverse=True)
    groups = Groups.of(codes)
    centred = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    pairs = draw_pairs(groups, rng)
    raw = _cosines(unit, groups, pairs, rng)
    several = len(names) > 1 and bool((groups.counts > 1).any())
    pairs_of_labels = confusable(centred, groups) if len(names) > 1 else []
    strays = outliers(centred, groups) if len(names) > 1 else []
    return {
        "labels": {
            "count": len(names),
            "smallest": int(groups.counts.min()),
            "largest": int(groups.counts.max()),
            "alone": int((groups.counts == 1).sum()),
        },
        "same_speaker_similarity": raw["same"],
        "different_speaker_similarity": raw["different"],
        "separation": raw["separation"],
        "band": raw["band"],
        "pairs": {"same": len(pairs[0]), "different": len(pairs[1])},
        "raw": raw,
        "centred": _cosines(centred, groups, pairs, rng),
        "davies_bouldin": davies_bouldin(embeddings, groups) if several else None,
        "nearest_neighbour": _nearest_neighbour(*near, groups) if several else None,
        "confusable": [
            {"labels": [str(names[first]), str(names[second])], "cosine": cosine}
            for first, second, cosine in pairs_of_labels
        ],
        "outliers": [
            {
                **stray,
                "row": int(rows[stray["row"]]),
                "label": str(names[stray["label"]]),
                "nearest": str(names[stray["nearest"]]),
            }
            for stray in strays
        ],
    }


def _cosines(
    unit: np.ndarray, groups: Groups, pairs: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> dict[str, Any]:
    """Means over all pairs; quantiles and error rate over the pairs that were drawn."""
    same, different = mean_cosines(unit, groups)
    scores = [pair_cosines(unit, part) for part in pairs]
    both = np.isfinite(same) and np.isfinite(different)
    return {
        "same": same,
        "different": different,
        "separation": same - different,
        "band": band(same - different) if both else None,
        "same_quantiles": _quantiles(scores[0]),
        "different_quantiles": _quantiles(scores[1]),
        "eer": equal_error_rate(scores[0], scores[1], pairs, groups, rng) if both else None,
        "silhouette": silhouette(unit, groups, rng) if both else None,
    }


def _quantiles(scores: np.ndarray) -> dict[str, float]:
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    values = np.quantile(scores, levels) if len(scores) else [np.nan] * len(levels)
    return {f"{level:g}": float(value) for level, value in zip(levels, values, strict=True)}


def _nearest_neighbour(queries: np.ndarray, nearest: np.ndarray, groups: Groups) -> dict[str, Any]:
    """How often the nearest other embedding, by cosine, has the same label; of queries whose label has another row."""
    codes = groups.codes[queries]
    able = groups.counts[codes] > 1
    hits = codes[able] == groups.codes[nearest[able, 0]]
    chance = (groups.counts[codes[able]] - 1) / (len(groups.codes) - 1)
    return {"accuracy": _mean(hits), "chance": _mean(chance), "queries": int(able.sum())}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def embeddings_cli(
    source: Path,
    *,
    labels: Path | None = None,
    label_column: str | None = None,
    out: Path | None = None,
    plots: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Analyse the embeddings in a file; `diag embeddings` prints `console_text` of what this returns.

    Args:
        source, labels, label_column: as in `read_embeddings`.
        out: folder that gets embeddings.json and, with `plots`, the pictures; nothing is written without it.
        plots: draw them.
        seed: of all draws.

    Raises:
        UserError: the input is no set of embeddings, or the extra is not installed.
    """
    require("embeddings", "sklearn", *(["matplotlib"] if plots and out is not None else []))
    found = read_embeddings(source, labels, label_column)
    result = analyse(found, seed)
    if out is not None:
        _publish(found, result, out, plots, seed)
    return result


def _publish(found: Labelled, result: dict[str, Any], out: Path, plots: bool, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if plots:
        from diag.embeddings_plots import draw

        result["plots"] = [path.name for path in draw(found, out, seed)]
    write_json(out / "embeddings.json", result)


def analyze_embeddings(
    model: torch.nn.Module,
    dataloader: Iterable[Any],
    device: str | torch.device,
    output_dir: str | Path,
    max_samples: int = 1000,
    visualize: bool = True,
    *,
    embed: Callable[[torch.nn.Module, Any], tuple[torch.Tensor, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Embed batches with a PyTorch model and analyse the result.

    Args:
        model: gives [batch, dimensions], or [batch, time, dimensions], which is averaged over time. It is put into
            evaluation mode meanwhile and back into the mode that each of its modules had.
        dataloader: yields (inputs, labels, ...), or mappings with one of `INPUT_KEYS` and one of `LABEL_KEYS`.
        device: where the inputs are moved to; the model is there already.
        output_dir: gets embeddings.npz, embeddings.json and, with `visualize`, the pictures.
        max_samples: embeddings to take at most.
        visualize: draw them.
        embed: (model, batch) -> (embeddings, labels) for models and batches of another shape.
        seed: of all draws.

    Returns:
        What `analyse` returns: `same_speaker_similarity`, `different_speaker_similarity`, `separation` (of raw
        cosines) and the rest.

    Raises:
        UserError: a batch has no labels or inputs that are understood, or there are fewer than 3 embeddings.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    embeddings, labels, count = [], [], 0
    try:
        with torch.no_grad():
            for batch in dataloader:
                output, names = (embed or _embed)(model, _moved(batch, device))
                embeddings.append(output.float().cpu().numpy())
                labels.append(np.asarray(names.cpu() if isinstance(names, torch.Tensor) else names).astype(str))
                count += len(embeddings[-1])
                if count >= max_samples:
                    break
    finally:
        for module, training in modes.items():
            module.training = training
    if not count:
        raise UserError("the data loader yields nothing to embed")
    found = checked(
        Labelled(
            np.concatenate(embeddings)[:max_samples], np.concatenate(labels)[:max_samples], "the model's embeddings"
        )
    )
    out = Path(output_dir)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "embeddings.npz", embeddings=found.embeddings, labels=found.labels)  # type: ignore[arg-type]
    result = analyse(found, seed)
    _publish(found, result, out, visualize, seed)
    return result


def _embed(model: torch.nn.Module, batch: Any) -> tuple[torch.Tensor, Any]:
    if isinstance(batch, Mapping):
        inputs = next((batch[key] for key in INPUT_KEYS if key in batch), None)
        labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        keys = ", ".join(map(str, batch))
    else:
        inputs, labels = (batch[0], batch[1]) if isinstance(batch, tuple | list) and len(batch) > 1 else (None, None)
        keys = type(batch).__name__
    if inputs is None or labels is None:
        raise UserError(f"a batch ({keys}) has no inputs and labels that are understood; give embed=")
    output = model(inputs)
    return (output.mean(dim=1) if output.ndim == 3 else output), labels


def _moved(batch: Any, device: str | torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [_moved(value, device) for value in batch]
    return batch.to(device) if hasattr(batch, "to") else batch
