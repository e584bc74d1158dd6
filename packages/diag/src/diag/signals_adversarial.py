"""Adversarial runs: who dominates, and does the generator still vary?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diag.curves import Curve, Log, figure, in_unit_interval, shown, sustained
from diag.finding import Finding

TAME_DISCRIMINATOR = (
    "lower the discriminator's learning rate, or update it less often",
    "gradient penalty 10 (R1 or WGAN-GP), or spectral normalisation",
    "lower the adversarial weight to 0.5",
    "instance noise or augmentation of the discriminator's inputs",
)
EQUILIBRIUM = {"hinge": 2.0, "bce": 1.386, "least-squares": 0.5}


def adversarial_findings(log: Log) -> Iterator[Finding]:
    """All findings on generator and discriminators."""
    yield from dominant(log)
    yield from fooled(log)
    yield from sign_overfit(log)
    for curve in log.curves("gradient_penalty"):
        yield from penalty(log, curve)
    for curve in log.curves("feature_matching"):
        yield from idle(log, curve, "feature_matching_idle", "the features compared are the same tensor, or detached")
    yield from circling(log)
    yield from collapse(log)
    for curve in log.curves("swap_effect"):
        yield from condition_ignored(log, curve)
    for curve in log.curves("speaker_similarity"):
        yield from similarity_lost(log, curve)


def aligned(first: Curve, second: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps and both values at the records that both have; where they have none in common, the second's last value."""
    rows, a, b = np.intersect1d(first.rows, second.rows, assume_unique=True, return_indices=True)
    if len(rows):
        return first.steps[a], first.values[a], second.values[b]
    at = np.searchsorted(second.rows, first.rows) - 1
    known = at >= 0
    return first.steps[known], first.values[known], second.values[at[known]]


def lasting(log: Log, mask: np.ndarray, steps: np.ndarray) -> tuple[int, int] | None:
    """`sustained` with the longer window of dominance."""
    return sustained(mask, steps, log.thresholds.window, log.thresholds.adversarial.dominant_points)


def dominant(log: Log) -> Iterator[Finding]:
    """The discriminator tells everything apart: the generator gets no gradient that would help."""
    limits = log.thresholds.adversarial
    candidates = []
    generators = log.curves("generator_loss")
    if generators and log.objective != "wasserstein":
        # The one named adversarial, if there is one: a generator's whole loss has other terms in it.
        adversarial = next((curve for curve in generators if "adv" in curve.name.lower()), generators[0])
        for loss in log.curves("discriminator_loss"):
            steps, of_discriminator, of_generator = aligned(loss, adversarial)
            low = of_discriminator < limits.dominant_loss
            high = of_generator > limits.dominant_adversarial
            candidates.append(
                (loss.name, steps, low & high, {loss.name: of_discriminator, adversarial.name: of_generator})
            )
    for real, fake in pairs(log):
        if in_unit_interval(real) and in_unit_interval(fake):
            steps, of_real, of_fake = aligned(real, fake)
            apart = (of_real > limits.dominant_probability) & (of_fake < 1 - limits.dominant_probability)
            candidates.append((real.name, steps, apart, {real.name: of_real, fake.name: of_fake}))
    for curve in log.curves("discriminator_accuracy"):
        candidates.append(
            (curve.name, curve.steps, curve.values > limits.dominant_accuracy, {curve.name: curve.values})
        )
    for name, steps, mask, shown_by in candidates:
        found = lasting(log, mask, steps)
        if found is None:
            continue
        first, last = found
        figures = {key: figure(np.median(values[first : last + 1])) for key, values in shown_by.items()}
        told = ", ".join(f"{key} {shown(value)}" for key, value in figures.items())
        recovered = not mask[-len(mask[first : last + 1]) // 4 - 1 :].mean() > 0.5
        equilibrium = EQUILIBRIUM.get(log.objective)
        yield Finding(
            "discriminator_dominates",
            "warning" if recovered else "critical",
            (int(steps[first]), int(steps[last])),
            figures | ({"equilibrium_loss": equilibrium, "objective": log.objective} if equilibrium else {}),
            f"the discriminator tells all apart: {told} from step {steps[first]:,} to {steps[last]:,}"
            + (", then recovered" if recovered else ""),
            "A discriminator that is always right has a flat output: the generator's gradient carries no direction.",
            TAME_DISCRIMINATOR,
            name,
        )
        return


def pairs(log: Log) -> list[tuple[Curve, Curve]]:
    """Outputs on real and on fake of the same discriminator, paired by the order of their names."""
    return list(zip(log.curves("disc_real"), log.curves("disc_fake"), strict=False))


def fooled(log: Log) -> Iterator[Finding]:
    """The discriminator rates generated things above real ones, for long: it no longer teaches."""
    limits = log.thresholds.adversarial
    for real, fake in pairs(log):
        steps, of_real, of_fake = aligned(real, fake)
        size = 1.0 if in_unit_interval(real) else max(1.0, float(np.median(np.abs(of_real)))) if len(of_real) else 1.0
        found = lasting(log, of_fake - of_real > limits.fooled_probability * size, steps)
        if found is None:
            continue
        first, last = found
        figures = {
            curve.name: figure(np.median(values[first : last + 1]))
            for curve, values in ((real, of_real), (fake, of_fake))
        }
        yield Finding(
            "generator_dominates",
            "warning",
            (int(steps[first]), int(steps[last])),
            figures,
            "the discriminator rates generated things above real ones: "
            + ", ".join(f"{key} {shown(value)}" for key, value in figures.items()),
            "Its gradient now points away from the data.",
            (
                "raise the discriminator's learning rate or give it more updates",
                "a larger discriminator",
                "look whether real and generated batches are mixed up",
            ),
            real.name,
        )


def sign_overfit(log: Log) -> Iterator[Finding]:
    limits = log.thresholds.adversarial
    for curve in log.curves("sign_real"):
        found = lasting(log, curve.values > limits.sign_overfits, curve.steps)
        if found is None:
            continue
        first, last = found
        usual = float(np.median(curve.values[first : last + 1]))
        yield Finding(
            "discriminator_overfits",
            "warning",
            (int(curve.steps[first]), int(curve.steps[last])),
            {"metric": curve.name, "value": figure(usual), "target": limits.sign_target},
            f"{curve.name} is {shown(usual)}; about {limits.sign_target} is wanted",
            "The discriminator knows the real examples by heart (Karras et al. 2020).",
            ("augment what the discriminator sees, adaptively", *TAME_DISCRIMINATOR[:2]),
            curve.name,
        )


def penalty(log: Log, curve: Curve) -> Iterator[Finding]:
    limit = log.thresholds.adversarial.large_penalty
    yield from idle(log, curve, "gradient_penalty_idle", "the penalty is computed on tensors without a graph")
    found = lasting(log, curve.values > limit, curve.steps)
    if found is not None:
        first, last = found
        usual = float(np.median(curve.values[first : last + 1]))
        yield Finding(
            "gradient_penalty_fails",
            "warning",
            (int(curve.steps[first]), int(curve.steps[last])),
            {"metric": curve.name, "value": figure(usual)},
            f"{curve.name} stays at {shown(usual)}",
            "The discriminator's gradient is far from what the penalty asks for: it does not bind.",
            ("raise its weight to 10", "lower the discriminator's learning rate"),
            curve.name,
        )


def idle(log: Log, curve: Curve, name: str, cause: str) -> Iterator[Finding]:
    """A term that is exactly 0 and stays there is connected to nothing."""
    zero = np.abs(curve.values) <= log.thresholds.adversarial.idle_penalty
    found = sustained(zero, curve.steps, log.thresholds.window)
    if found is None or not zero[-1]:
        return
    first, last = found
    yield Finding(
        name,
        "critical",
        (int(curve.steps[first]), int(curve.steps[last])),
        {"metric": curve.name, "zero_points": int(zero.sum())},
        f"{curve.name} is stuck at 0 since step {curve.steps[first]:,}",
        f"A term of the loss that is exactly 0 teaches nothing; most often {cause}.",
        ("follow the term's tensors to the parameters: requires_grad, detach(), no_grad()",),
        curve.name,
    )


def circling(log: Log) -> Iterator[Finding]:
    """Generator and discriminator chase each other: their losses swing with a period of their own."""
    limits = log.thresholds.adversarial
    for curve in [*log.curves("generator_loss"), *log.curves("discriminator_loss")][:2]:
        values = curve.values[-2048:]
        if len(values) < 200:
            continue
        low, high = np.percentile(values, (5, 95))
        amplitude = float(high - low) / max(1e-12, float(np.mean(np.abs(values))))
        strength, period = swing(values)
        if strength > limits.oscillation and amplitude > limits.oscillation_amplitude:
            steps = curve.steps[-len(values) :]
            yield Finding(
                "oscillation",
                "warning",
                (int(steps[0]), int(steps[-1])),
                {
                    "metric": curve.name,
                    "period_points": period,
                    "autocorrelation": figure(strength),
                    "low": figure(low),
                    "high": figure(high),
                },
                f"{curve.name} swings between {shown(low)} and {shown(high)} every {period} records",
                "Both chase each other around the equilibrium instead of reaching it.",
                (
                    "average the generator's weights (EMA)",
                    "lower both learning rates, or Adam's beta1 to 0 or 0.5",
                    "gradient penalty (R1) with weight 10",
                ),
                curve.name,
            )
            return


def swing(values: np.ndarray) -> tuple[float, int]:
    """The height of the first peak of the autocorrelation past its first zero, and its lag in points."""
    n = len(values)
    trend = np.polyval(np.polyfit(np.arange(n), values, 1), np.arange(n))
    centred = values - trend
    spectrum = np.fft.rfft(centred, 2 * n)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum))[: n // 2]
    if correlation[0] <= 0:
        return 0.0, 0
    correlation = correlation / correlation[0] * n / np.arange(n, n - len(correlation), -1)
    below = np.flatnonzero(correlation < 0)
    if not len(below):
        return 0.0, 0
    lag = int(below[0] + np.argmax(correlation[below[0] :]))
    return float(correlation[lag]), lag


def collapse(log: Log) -> Iterator[Finding]:
    """Outputs vary far less than inputs, and less than they did: never told from a flat loss."""
    limits = log.thresholds.adversarial
    for output, inputs in zip(log.curves("output_diversity"), log.curves("input_diversity"), strict=False):
        steps, of_output, of_input = aligned(output, inputs)
        ratio = of_output / np.maximum(of_input, 1e-12)
        low = ratio < limits.collapse_ratio
        fallen = low & (ratio < limits.collapse_from_best * np.maximum.accumulate(ratio))
        since = run_at_end(fallen)
        if since < limits.collapse_evaluations:
            since = run_at_end(low) if low.all() and len(low) >= limits.never_diverse_evaluations else 0
        if not since:
            continue
        first = len(ratio) - since
        best = float(ratio.max())
        yield Finding(
            "mode_collapse",
            "critical",
            (int(steps[first]), int(steps[-1])),
            {
                "ratio": figure(ratio[-1]),
                "best_ratio": figure(best),
                output.name: figure(of_output[-1]),
                inputs.name: figure(of_input[-1]),
            },
            f"outputs vary {shown(ratio[-1])} times as much as real things; at best it was {shown(best)}",
            "The generator answers everything with nearly the same thing.",
            (
                "go back to a checkpoint before",
                "gradient penalty 10, or a lower generator learning rate",
                "minibatch discrimination or a diversity term",
                "lower the adversarial weight to 0.5",
            ),
            output.name,
        )


def run_at_end(mask: np.ndarray) -> int:
    """How many of the last values are all true."""
    return int(np.argmin(mask[::-1])) if not mask.all() else len(mask)


def condition_ignored(log: Log, curve: Curve) -> Iterator[Finding]:
    limits = log.thresholds.adversarial
    since = run_at_end(curve.values < limits.swap_effect)
    if since < max(limits.collapse_evaluations, 3):
        return
    yield Finding(
        "condition_ignored",
        "warning",
        (int(curve.steps[-since]), int(curve.steps[-1])),
        {"metric": curve.name, "value": figure(curve.values[-1])},
        f"swapping the condition moves the output by {shown(curve.values[-1])} of its spread",
        "The generator does not use what it is told: conditional collapse.",
        ("a discriminator that sees the condition (projection)", "stop other inputs from carrying the condition"),
        curve.name,
    )


def similarity_lost(log: Log, curve: Curve) -> Iterator[Finding]:
    limits = log.thresholds.adversarial
    best = np.maximum.accumulate(curve.values)
    since = run_at_end(best - curve.values > limits.similarity_drop)
    if since < 3:
        return
    yield Finding(
        "speaker_similarity_lost",
        "warning",
        (int(curve.steps[-since]), int(curve.steps[-1])),
        {"metric": curve.name, "best": figure(best[-1]), "last": figure(curve.values[-1])},
        f"{curve.name} fell from {shown(best[-1])} to {shown(curve.values[-1])}",
        "Conversions sound less like their target speaker than they did.",
        ("use the best checkpoint", "raise the weight of the speaker loss", "lower the adversarial weight"),
        curve.name,
    )
