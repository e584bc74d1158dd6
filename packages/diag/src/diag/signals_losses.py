"""Losses over time: not finite, diverging, leaking, jumping, overfitting, not learning."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from diag.curves import Curve, Log, figure, shown, smooth, sustained, window_points
from diag.finding import Finding

SMOOTHING_POINTS = 16


def loss_findings(log: Log) -> Iterator[Finding]:
    """All findings on losses, and on any metric that stops being a number."""
    for curve in log:
        yield from not_finite(log, curve)
    yield from never_finite(log)
    for curve in (*log.curves("discriminator_loss"), *log.curves("generator_loss")):
        yield from frozen(log, curve)
    loss, valid = log.training_loss, log.validation_loss
    if loss is not None:
        yield from frozen(log, loss)
        yield from diverging(log, loss)
        yield from sudden_drop(log, loss, valid)
        yield from not_learning(log, loss)
        yield from jump(log, loss)
    if valid is not None:
        yield from overfitting(log, valid, loss)


def not_finite(log: Log, curve: Curve) -> Iterator[Finding]:
    """Null, NaN or infinity where numbers were, and no number since.

    Null can also mean "not measured here": a metric that has come and gone before is told lost only when it stays away
    for much longer than it ever did.
    """
    if not len(curve.nulls) or not len(curve):
        return
    after = curve.nulls[curve.nulls > curve.rows[0]]
    if not len(after):
        return
    tail = after[after > curve.rows[-1]]
    gaps = longest_run(curve.rows, after[after < curve.rows[-1]])
    if len(tail) > 3 * gaps:
        step = int(log.series.steps[tail[0]])
        critical = curve.role != ""
        yield Finding(
            "not_finite",
            "critical" if critical else "warning",
            (step, int(log.series.steps[tail[-1]])),
            {"metric": curve.name, "last_value": figure(curve.values[-1]), "records": len(tail)},
            f"{curve.name} is NaN or infinite since step {step:,}; it was {shown(curve.values[-1])}",
            "The weights are most likely lost: everything computed with NaN is NaN.",
            (
                "go back to the last good checkpoint",
                "lower the learning rate and clip gradients",
                "look for log(0), division by 0, overflow of float16 in the batch of that step",
            ),
            curve.name,
        )
    elif curve.role in ("loss", "total_loss", "grad_norm") and 0 < len(after) <= 0.1 * len(curve):
        steps = log.series.steps[after]
        yield Finding(
            "skipped_steps",
            "warning",
            (int(steps[0]), int(steps[-1])),
            {"metric": curve.name, "records": len(after)},
            f"{curve.name} was not a number {len(after):,} times, and came back",
            "With a gradient scaler some skipped steps are usual; otherwise these are batches that break the loss.",
            ("look at the batches of those steps", "bfloat16 instead of float16"),
            curve.name,
        )


def longest_run(rows: np.ndarray, nulls: np.ndarray) -> int:
    """The most nulls between two finite values."""
    if not len(nulls):
        return 0
    return int(np.bincount(np.searchsorted(rows, nulls)).max())


def never_finite(log: Log) -> Iterator[Finding]:
    """A run whose every loss has only ever been NaN."""
    losses = [curve for curve in log if curve.role in ("loss", "total_loss") and not curve.validation]
    if losses and not any(map(len, losses)):
        rows = losses[0].nulls
        yield Finding(
            "not_finite",
            "critical",
            (int(log.series.steps[rows[0]]), int(log.series.steps[rows[-1]])),
            {"metric": losses[0].name, "records": len(rows)},
            f"{losses[0].name} has never been a finite number",
            "The training never had a loss to descend.",
            ("look for NaN in the data and at log(0) or division by 0 in the loss",),
            losses[0].name,
        )


def frozen(log: Log, loss: Curve) -> Iterator[Finding]:
    """One batch after another has exactly the same loss, after it had moved; at its lowest it may have converged."""
    window = log.thresholds.window
    moved = np.flatnonzero(np.diff(loss.values))
    if not len(moved):
        return
    first = int(moved[-1]) + 1
    if len(loss) - first < window.sustained_points or loss.steps[-1] - loss.steps[first] < window.sustained_steps:
        return
    yield Finding(
        "frozen_loss",
        "critical" if loss.values[first] > loss.values.min() else "warning",
        (int(loss.steps[first]), int(loss.steps[-1])),
        {"metric": loss.name, "value": figure(loss.values[first])},
        f"{loss.name} is exactly {shown(loss.values[first])} since step {loss.steps[first]:,}",
        "No batch changes it any more: an activation is saturated or a clamp is reached, and the gradient is zero.",
        (
            "go back to a checkpoint before that step",
            "lower the learning rate",
            "losses from logits, not from probabilities",
            "look whether the same batch is read again and again",
        ),
        loss.name,
    )


def diverging(log: Log, loss: Curve) -> Iterator[Finding]:
    """The loss gives back what it had won, or goes beyond where it began."""
    limits, window = log.thresholds.losses, log.thresholds.window
    if len(loss) < window.min_points:
        return
    smoothed = smooth(loss.values, SMOOTHING_POINTS)
    begin = loss.values[: max(3, min(10, len(loss) // 10))]
    start = float(np.median(begin))
    best = np.minimum.accumulate(smoothed)
    # Noise from differences: neither a trend nor a level moves it.
    differences = np.abs(np.diff(loss.values[: 4 * window.baseline_points]))
    noise = 1.4826 * float(np.median(differences)) / np.sqrt(2)
    progress = start - best
    won = progress > limits.progress_zscore * noise
    # Less of a loss is enough where the loss has become unsteady as well.
    unsteady = smooth(np.abs(np.diff(loss.values, prepend=loss.values[0])), SMOOTHING_POINTS) > limits.unsteady * noise
    share = np.where(unsteady, limits.lost_progress / 2, limits.lost_progress)
    lost = won & (loss.values - best > share * progress)
    beyond = loss.values - start > np.maximum(np.abs(progress), limits.progress_zscore * noise + 0.5 * abs(start))
    found = sustained(lost | beyond, loss.steps, window)
    if found is None:
        return
    first, last = found
    # A loss that has come back since is a jump's tale, not this one's.
    if not (lost | beyond)[-window.sustained_points :].mean() >= 0.5:
        return
    level = "warning" if log.adversarial and not beyond[first : last + 1].any() else "critical"
    now = float(np.median(loss.values[first : last + 1]))
    yield Finding(
        "diverging_loss",
        "critical" if level == "critical" else "warning",
        (int(loss.steps[first]), int(loss.steps[last])),
        {"metric": loss.name, "start": figure(start), "best": figure(best[last]), "now": figure(now)},
        f"{loss.name} began at {shown(start)}, reached {shown(best[last])} and is at {shown(now)}",
        "The optimizer leaves what it had learned; waiting does not bring it back.",
        (
            "lower the learning rate by 3 to 10 times",
            "lengthen the warm-up",
            "go back to the best checkpoint",
            "look whether the data changed at that step",
        ),
        loss.name,
    )


def sudden_drop(log: Log, loss: Curve, valid: Curve | None) -> Iterator[Finding]:
    """The training loss falls at once and the validation loss does not, or it falls by less and that one rises."""
    limits, window = log.thresholds.losses, log.thresholds.window
    width = window_points(loss.steps, window.sustained_points, window.sustained_steps)
    first = drop_at(loss.values, width, limits.sudden_drop, limits.drop_zscore)
    before, after = around(valid, loss, first)
    apart = after > limits.valid_follows * before
    if not apart:
        first_apart = drop_at(loss.values, width, limits.apart_drop, limits.drop_zscore)
        low, high = around(valid, loss, first_apart)
        if high > limits.apart_rise * low:
            first, before, after, apart = first_apart, low, high, True
    if first is None:
        return
    step = int(loss.steps[first])
    usual = float(np.median(loss.values[first - width : first]))
    now = float(np.median(loss.values[first : first + width]))
    evidence = {"metric": loss.name, "usual": figure(usual), "now": figure(now)}
    if after:
        evidence |= {"valid_before": figure(before), "valid_after": figure(after)}
    yield Finding(
        "label_leak" if apart else "sudden_drop",
        "critical" if apart else "warning",
        (step, int(loss.steps[first + width - 1])),
        evidence,
        f"{loss.name} fell from {shown(usual)} to {shown(now)} at step {step:,}"
        + (f" while {valid.name} went from {shown(before)} to {shown(after)}" if apart and valid else ""),
        "A loss does not fall so fast by learning: the input most likely gives the answer away."
        if apart
        else "Either the learning rate was stepped down, or the input gives the answer away.",
        (
            "look for the target, or a function of it, among the inputs",
            "look for duplicated or cached batches",
            "check masks and shifts of the targets by one",
        ),
        loss.name,
    )


def around(valid: Curve | None, loss: Curve, first: int | None) -> tuple[float, float]:
    """The best of the last three validation losses before a point of the training loss, and the median of the last
    three after it; (inf, 0) where there are none on both sides."""
    if valid is None or first is None:
        return math.inf, 0.0
    earlier, later = valid.values[valid.steps < loss.steps[first]], valid.values[valid.steps > loss.steps[first]]
    if not len(earlier) or not len(later):
        return math.inf, 0.0
    return float(earlier[-3:].min()), float(np.median(later[-3:]))


def drop_at(values: np.ndarray, width: int, share: float, zscore: float) -> int | None:
    """The first point from which `width` values are, in the geometric mean, below `share` of both windows of `width`
    before, and by far more than such windows differed before; None where there is none."""
    if len(values) < 4 * width or values.min() < 0:
        return None
    total = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(values, 1e-30)))])
    means = (total[width:] - total[:-width]) / width
    level = means[:-width].copy()  # level[i]: of the window before point i + width, or of the one before a short peak
    level[width:] = np.minimum(level[width:], level[:-width])
    change = means[width:] - level
    low = np.flatnonzero(change < np.log(share))
    for group in np.split(low, np.flatnonzero(np.diff(low) > width) + 1):
        if not len(group):
            continue
        at = int(group[np.argmin(change[group])])
        before = slice(max(0, at - 8 * width), max(0, at - width))
        past = change[before]
        # A fall from a longer peak is a return.
        if len(past) < width or level[at] > np.median(means[before]) + np.log(2):
            continue
        usual = np.median(past)
        spread = 1.4826 * np.median(np.abs(past - usual))
        if change[at] < usual - zscore * max(spread, 0.1):
            return at + width
    return None


def not_learning(log: Log, loss: Curve) -> Iterator[Finding]:
    """No descent over the whole run, or none any more for most of it."""
    limits, window = log.thresholds.losses, log.thresholds.window
    if log.adversarial or len(loss) < 4 * window.min_points:
        return
    smoothed = smooth(loss.values, SMOOTHING_POINTS)[SMOOTHING_POINTS - 1 :]
    steps = loss.steps[SMOOTHING_POINTS - 1 :]
    start, best = float(np.median(loss.values[:SMOOTHING_POINTS])), float(smoothed.min())
    if start - best < limits.plateau_gain * abs(start):
        yield Finding(
            "not_learning",
            "warning",
            (int(loss.steps[0]), int(loss.steps[-1])),
            {"metric": loss.name, "start": figure(start), "best": figure(best)},
            f"{loss.name} has hardly moved: {shown(start)} at the start, {shown(best)} at best",
            "The model learns nothing from this loss.",
            (
                "overfit one batch first: if that fails too, the code is wrong",
                "raise the learning rate",
                "look whether the parameters are in the optimizer",
            ),
            loss.name,
        )
        return
    # Within 1 % of the descent counts as reached: noise alone finds a new minimum now and then.
    reached = int(np.argmax(smoothed <= best + 0.01 * (start - best)))
    share = 1 - reached / len(smoothed)
    if share >= limits.plateau_share:
        yield Finding(
            "plateau",
            "warning",
            (int(steps[reached]), int(steps[-1])),
            {"metric": loss.name, "best": figure(best), "share_of_run": figure(share)},
            f"{loss.name} is no better since step {steps[reached]:,}: {100 * share:.0f} % of the run",
            "Either it is done, and the rest of the time is wasted, or the learning rate is too high to go on.",
            ("stop here if the validation metric agrees", "decay the learning rate"),
            loss.name,
        )


def jump(log: Log, loss: Curve) -> Iterator[Finding]:
    """A lasting rise from one record to the next: a change point (Page 1954), found by robust z-score."""
    limits, window = log.thresholds.losses, log.thresholds.window
    center, spread = log.baseline(loss)
    high = (loss.values > center + limits.jump_zscore * spread) & (center > 0)
    found = sustained(high & (loss.values > limits.jump_factor * center), loss.steps, window)
    if found is None:
        return
    first, last = found
    now = float(np.median(loss.values[first : last + 1]))
    yield Finding(
        "loss_jump",
        "warning",
        (int(loss.steps[first]), int(loss.steps[last])),
        {"metric": loss.name, "before": figure(center[first]), "after": figure(now)},
        f"{loss.name} rose from {shown(center[first])} to {shown(now)} at step {loss.steps[first]:,} and stayed",
        "Something changed at that step: the data, a loss weight, a schedule, or the weights after one bad batch.",
        ("look at what happens at that step: epoch, schedule, resume", "clip gradients"),
        loss.name,
    )


def overfitting(log: Log, valid: Curve, loss: Curve | None) -> Iterator[Finding]:
    limits = log.thresholds.losses
    if len(valid) < limits.overfit_evaluations + 2:
        return
    best = int(np.argmin(valid.values))
    rise = valid.values[best + 1 :] - valid.values[best]
    descent = float(valid.values[0] - valid.values[best])
    over = rise > limits.overfit_rise * descent
    if len(over) < limits.overfit_evaluations or descent <= 0 or not over[-limits.overfit_evaluations :].all():
        return
    falls = loss is None or falling_since(loss, int(valid.steps[best]))
    if not falls:
        return
    begin = best + 1 + len(over) - int(np.argmax(~over[::-1])) if not over.all() else best + 1
    yield Finding(
        "overfitting",
        "warning",
        (int(valid.steps[min(begin, len(valid) - 1)]), int(valid.steps[-1])),
        {
            "metric": valid.name,
            "best": figure(valid.values[best]),
            "best_step": int(valid.steps[best]),
            "last": figure(valid.values[-1]),
        },
        f"{valid.name} rose from {shown(valid.values[best])} at step {valid.steps[best]:,} to "
        f"{shown(valid.values[-1])} while training goes on to improve",
        "From there on the model learns the training rows by heart.",
        ("use the checkpoint of the best validation", "stop early", "more data, dropout, weight decay"),
        valid.name,
    )


def falling_since(loss: Curve, step: int) -> bool:
    """Whether the training loss is lower now than at `step`."""
    at = int(np.searchsorted(loss.steps, step))
    then = loss.values[max(0, at - 20) : at + 1]
    return bool(len(then) and np.median(loss.values[-20:]) < np.median(then))
