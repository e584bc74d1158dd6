"""Gradients, parameters and updates: exploding, spiking, vanishing, dead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diag.curves import Curve, Log, figure, shown, sustained
from diag.finding import Finding


def gradient_findings(log: Log) -> Iterator[Finding]:
    """All findings on gradients."""
    norms = [curve for curve in log.curves("grad_norm") if not curve.validation]
    for curve in norms:
        yield from exploding(log, curve)
        yield from spiking(log, curve)
        yield from vanishing(log, curve)
        yield from dead(log, curve)
    yield from starved(log, norms)
    for curve in log.curves("param_norm"):
        yield from exploding(log, curve, "exploding_weights")
    for curve in log.curves("dead_units"):
        yield from dead_units(log, curve)
    for curve in log.curves("update_ratio"):
        yield from update_ratio(log, curve)


def exploding(log: Log, curve: Curve, name: str = "exploding_gradients") -> Iterator[Finding]:
    limits = log.thresholds.gradients
    center, _ = log.baseline(curve)
    # Near a solved loss norms are tiny and swing widely: exploding is to be large beside all that was usual before.
    highest = np.fmax.accumulate(center)
    above = (curve.values > limits.exploding_factor * center) & (curve.values > limits.exploding_overall * highest)
    found = sustained(above & (center > limits.dead), curve.steps, log.thresholds.window)
    # Out of a plateau gradients grow a hundredfold and the loss falls: that is learning.
    if found is None or loss_fell(log, int(curve.steps[found[0]]), limits.exploding_loss):
        return
    first, last = found
    usual, worst = center[first], curve.values[first : last + 1].max()
    yield Finding(
        name,
        "critical",
        (int(curve.steps[first]), int(curve.steps[last])),
        {"metric": curve.name, "usual": figure(usual), "worst": figure(worst), "factor": figure(worst / usual)},
        f"{curve.name} went from {shown(usual)} to {shown(worst)}",
        "Updates of this size throw the weights far from where the loss was measured; NaN often follows.",
        ("lower the learning rate by 3 to 10 times", "clip the gradient norm at 1", "lengthen the warm-up"),
        curve.name,
    )


def spiking(log: Log, curve: Curve) -> Iterator[Finding]:
    limits = log.thresholds.gradients
    center, spread = log.baseline(curve)
    known = np.isfinite(center)
    spikes = known & (curve.values > center + limits.spike_zscore * spread)
    spikes &= curve.values > limits.spike_factor * center
    percent = 100 * spikes.sum() / max(1, known.sum())
    at = np.flatnonzero(spikes)
    if percent <= limits.spike_percent or len(at) < 3:
        return
    yield Finding(
        "gradient_spikes",
        "warning",
        (int(curve.steps[at[0]]), int(curve.steps[at[-1]])),
        {"metric": curve.name, "spikes": len(at), "percent": figure(percent), "worst": figure(curve.values[at].max())},
        f"{curve.name}: {percent:.1f} % of the steps are spikes, up to {shown(curve.values[at].max())}",
        "Single batches overrule many others; with Adam a spike also spoils the second moments for long.",
        ("clip by the norm's running z-score or percentile", "look at the batches of those steps", "larger batches"),
        curve.name,
    )


def vanishing(log: Log, curve: Curve) -> Iterator[Finding]:
    limits, window = log.thresholds.gradients, log.thresholds.window
    center, _ = log.baseline(curve)
    below = (curve.values < limits.vanishing_factor * center) & (curve.values > limits.dead)
    found = sustained(below, curve.steps, window)
    if found is None or loss_fell(log, int(curve.steps[found[0]]), log.thresholds.gradients.loss_kept):
        return
    first, last = found
    now = float(np.median(curve.values[first : last + 1]))
    yield Finding(
        "vanishing_gradients",
        "critical",
        (int(curve.steps[first]), int(curve.steps[last])),
        {"metric": curve.name, "usual": figure(center[first]), "now": figure(now)},
        f"{curve.name} fell from {shown(center[first])} to {shown(now)} while the loss did not fall",
        "Nothing before this point of the network learns any more.",
        (
            "look for saturated activations (sigmoid, tanh, softmax)",
            "add normalisation or residual connections",
            "go back to the checkpoint before and lower the learning rate",
        ),
        curve.name,
    )


def loss_fell(log: Log, step: int, share: float) -> bool:
    """Whether the training loss after `step` is below `share` of what it was: then the gradients did their work."""
    loss = log.training_loss
    if loss is None:
        return False
    before, after = loss.values[loss.steps < step][-50:], loss.values[loss.steps >= step][-50:]
    if not len(before) or not len(after):
        return False
    return bool(np.median(after) < share * np.median(before))


def dead(log: Log, curve: Curve) -> Iterator[Finding]:
    limits = log.thresholds.gradients
    zero = curve.values <= limits.dead
    if not zero[-1]:
        return
    found = sustained(zero, curve.steps, log.thresholds.window)
    if found is None or loss_fell(log, int(curve.steps[found[0]]), log.thresholds.gradients.loss_kept):
        return
    first, last = found
    lived = bool((~zero[:first]).sum() >= 3)
    yield Finding(
        "dead_layer" if lived else "unused_module",
        "critical" if lived else "warning",
        (int(curve.steps[first]), int(curve.steps[last])),
        {"metric": curve.name, "zero_points": int(zero.sum()), "lived_before": lived},
        f"{curve.name} is exactly 0 " + ("since" if lived else "from") + f" step {curve.steps[first]:,}",
        "No gradient reaches these parameters: they are dead units, cut off by a detach, or not part of the loss.",
        (
            "look for units that are never active; LeakyReLU or a lower learning rate",
            "look for detach() and no_grad()",
            "freeze the module openly if that is meant",
        ),
        curve.name,
    )


def starved(log: Log, norms: list[Curve]) -> Iterator[Finding]:
    """A module whose gradient is nothing beside the others', all along: vanishing from the first step on."""
    limits, window = log.thresholds.gradients, log.thresholds.window
    if len(norms) < 2:
        return
    sizes = {curve.name: curve for curve in norms if len(curve) >= window.min_points}
    longest = max(map(len, sizes.values()), default=0)
    alike = [curve for curve in sizes.values() if len(curve) == longest]
    if len(alike) < 2:
        return
    largest = np.max([curve.values for curve in alike], axis=0)
    for curve in alike:
        below = (curve.values < limits.module_ratio * largest) & (curve.values > limits.dead)
        found = sustained(below, curve.steps, window)
        # What went down on the way is `vanishing`'s to tell.
        if found is None or found[0] > window.min_points:
            continue
        first, last = found
        ratio = float(np.median(curve.values[first : last + 1] / largest[first : last + 1]))
        yield Finding(
            "vanishing_gradients",
            "critical",
            (int(curve.steps[first]), int(curve.steps[last])),
            {"metric": curve.name, "ratio_to_largest": figure(ratio)},
            f"{curve.name} is {shown(ratio)} of the largest module's from the beginning",
            "This module does not learn: its gradients drown in rounding.",
            ("use ReLU-like activations and a matching initialisation", "add normalisation or residual connections"),
            curve.name,
        )


def dead_units(log: Log, curve: Curve) -> Iterator[Finding]:
    limit = log.thresholds.gradients.dead_units
    found = sustained(curve.values >= limit, curve.steps, log.thresholds.window)
    if found is None or curve.values[-1] < limit:
        return
    first, last = found
    yield Finding(
        "dead_layer",
        "critical",
        (int(curve.steps[first]), int(curve.steps[last])),
        {"metric": curve.name, "share": figure(curve.values[last])},
        f"{curve.name}: {100 * curve.values[last]:.0f} % of the units are never active",
        "A layer without active units passes neither signal nor gradient.",
        ("lower the learning rate", "LeakyReLU or GELU instead of ReLU", "look at the layer's biases and input scale"),
        curve.name,
    )


def update_ratio(log: Log, curve: Curve) -> Iterator[Finding]:
    limits, window = log.thresholds.gradients, log.thresholds.window
    # The first steps rewrite fresh weights, biases of zero above all.
    late = np.arange(len(curve)) >= window.min_points
    for name, mask, text, tries in (
        (
            "large_updates",
            curve.values > limits.update_ratio_high,
            "large",
            ("lower the learning rate", "lengthen the warm-up"),
        ),
        (
            "tiny_updates",
            curve.values < limits.update_ratio_low,
            "small",
            ("raise the learning rate", "keep float32 master weights"),
        ),
    ):
        found = sustained(mask & late, curve.steps, window)
        if found is not None:
            first, last = found
            usual = float(np.median(curve.values[first : last + 1]))
            yield Finding(
                name,
                "warning",
                (int(curve.steps[first]), int(curve.steps[last])),
                {"metric": curve.name, "ratio": figure(usual)},
                f"{curve.name} is {shown(usual)}; about 1e-3 is usual",
                f"Updates so {text} beside the weights mean a learning rate or a scale that is off.",
                tries,
                curve.name,
            )
