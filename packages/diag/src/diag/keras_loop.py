"""Diagnostics inside a Keras training loop of one's own; `keras_callback` is for `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from diag.finding import Verdict
from diag.loop_report import diversities, judge_records, publish, read_history
from diag.thresholds import Thresholds, load_thresholds

MOST_FEATURES = 65_536
"""Features of a row that diversity looks at: every word of a vocabulary."""


def generate_diagnostics_report(
    *,
    modules: Mapping[str, keras.Model],
    gradients: Mapping[str, Sequence[Any]],
    losses: Mapping[str, Any],
    step: int,
    output_dir: str | Path,
    real: Any = None,
    generated: Any = None,
    thresholds: Thresholds | None = None,
) -> tuple[dict[str, float], Verdict]:
    """Measure networks in the middle of their training and judge what is seen, with what was seen at earlier calls.

    The twin of `diag.generate_diagnostics_report` for a loop that has its gradients from a tape. Nothing of the
    training changes by it: no network is run, no random state is touched.

    Args:
        modules: the networks by name, such as "model" and "disc".
        gradients: by the names of `modules`, those of each one's `trainable_variables`, in their order; None for a
            variable that the loss doesn't reach. A network without an entry has its weights measured alone.
        losses: numbers or scalar tensors by name, of this step. Names without a slash become "train/NAME"; a GAN's
            "disc/loss", "disc/real", "disc/fake", "disc/accuracy", "train/adversarial_loss" and
            "train/feature_matching" are what the findings on it are told from.
        step: optimizer steps finished.
        output_dir: gets diagnostics.jsonl, a line a call, and diagnostics.json, the last report with its findings.
        real, generated: (B, ...) real things and as many that the model made, whose diversity is compared.
        thresholds: default: those of `diag health`.

    Returns:
        Slash-named metrics, fit to be logged, and "healthy", "warning" or "critical".
    """
    output_dir = Path(output_dir)
    measured = {name if "/" in name else f"train/{name}": tf.reduce_mean(value) for name, value in losses.items()}
    for name, network in modules.items():
        measured |= norms(network, gradients.get(name), name)
    metrics = to_host(measured)
    if real is not None and generated is not None:
        metrics |= diversities(rows_of(real), rows_of(generated))
    record = {"step": step, **metrics}
    health = judge_records([*read_history(output_dir, step), record], output_dir, thresholds or load_thresholds())
    publish(output_dir, record, health)
    return metrics, health.verdict


def norms(network: keras.Model, gradients: Sequence[Any] | None, name: str = "") -> dict[str, Any]:
    """Parameter and gradient norms of every layer of a network, and the gradient's of the whole where it has a name."""
    by_variable = {} if gradients is None else dict(zip(map(id, network.trainable_variables), gradients, strict=True))
    found: dict[str, Any] = {}
    for part, variables in parts_of(network).items():
        full = f"{name}.{part}" if name else part
        found[f"param_norm/{full}"] = tf.linalg.global_norm([variable.value for variable in variables])
        reached = [gradient for gradient in (by_variable.get(id(v)) for v in variables) if gradient is not None]
        if reached:
            found[f"grad_norm/{full}"] = tf.linalg.global_norm(reached)
    whole = [gradient for gradient in by_variable.values() if gradient is not None]
    return found | ({f"grad_norm/{name}": tf.linalg.global_norm(whole)} if name and whole else {})


def parts_of(network: keras.Model) -> dict[str, list[Any]]:
    """Trainable variables by layer; those of no layer, such as a bias of the model's own, under "own"."""
    parts = {layer.name: layer.trainable_variables for layer in network.layers if layer.trainable_variables}
    in_layers = {id(variable) for variables in parts.values() for variable in variables}
    own = [variable for variable in network.trainable_variables if id(variable) not in in_layers]
    return parts | ({"own": own} if own else {})


def to_host(measured: Mapping[str, Any]) -> dict[str, float]:
    """All figures in one transfer."""
    if not measured:
        return {}
    figures = tf.stack([tf.cast(value, tf.float32) for value in measured.values()]).numpy()
    return dict(zip(measured, map(float, figures), strict=True))


def rows_of(things: Any) -> np.ndarray:
    """(B, up to `MOST_FEATURES`) features of a batch, evenly spread over all of them."""
    flat = np.asarray(things, np.float32).reshape(len(things), -1)
    return flat[:, :: -(-flat.shape[1] // MOST_FEATURES)]
