"""Every threshold of `diag health`, with its source.

"Calibrated" means: set on the tuning seeds of `tools/calibrate_health.py`, judged on its held-out seeds. A point is one
logged value of one metric. A file of the user's (`diag thresholds > mine.toml` makes one to start from) wins
over these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from trainworks.config import Recipe, describe, resolve


class Window(Recipe):
    """How much of the past is compared with how much of the present."""

    baseline_points: int = Field(128, ge=8)
    """Points before the present whose median and MAD are the baseline. Calibrated."""
    min_points: int = Field(12, ge=4)
    """Fewer points before the present give no baseline: the first steps of a training are no measure of it.
    Calibrated."""
    min_steps: int = Field(500, ge=5)
    """Where points lie far apart, the points of so many steps (5 at least) stand for min_points. Convention."""
    sustained_points: int = Field(20, ge=2)
    """A state lasts when it fills its share of so many points. One outlier is a spike. Calibrated."""
    sustained_steps: int = Field(100, ge=2)
    """Where points lie far apart, a window of so many steps (2 points at least) stands for sustained_points.
    Half of the
    200 steps within which a fault is to be found."""
    sustained_share: float = Field(0.7, gt=0, le=1)
    """Share of that window that must show the state. Calibrated."""


class Gradients(Recipe):
    """Gradient and parameter norms, whole or by module."""

    exploding_factor: float = Field(20.0, gt=1)
    """Times the baseline at which gradients explode. Above the spikes of healthy adversarial training. Calibrated."""
    exploding_overall: float = Field(5.0, gt=1)
    """And times the highest baseline of the run so far: what comes back from nearly 0 does not explode. Calibrated."""
    exploding_loss: float = Field(0.9, gt=0, lt=1)
    """And the loss is not below this share of what it was: out of a plateau, large gradients are learning."""
    spike_zscore: float = Field(10.0, gt=0)
    """Robust z-score of a gradient spike. ZClip (Kumar et al. 2025) clips at 2.5; ten is beyond any healthy tail."""
    spike_factor: float = Field(5.0, gt=1)
    """A spike is also this many times the median: steady norms have a MAD near 0, which makes any z-score large."""
    spike_percent: float = Field(3.0, ge=0)
    """Warn where more percent of steps are spikes. AutoClip (Seetharaman et al. 2020) clips at the 10th percentile."""
    vanishing_factor: float = Field(1e-3, gt=0, lt=1)
    """Share of the baseline below which gradients vanish, if the loss has not fallen with them. Calibrated."""
    module_ratio: float = Field(1e-6, gt=0, lt=1)
    """Share of the largest module's gradient below which a module does not learn: float32 has 1.2e-7 of resolution."""
    loss_kept: float = Field(0.5, gt=0, lt=1)
    """Vanishing gradients are a fault while the loss is above this share of what it was; below, it is solved.
    Calibrated."""
    dead: float = Field(1e-12, ge=0)
    """A gradient norm at or below this is dead: exact zeros but for rounding."""
    dead_units: float = Field(0.95, gt=0, le=1)
    """Share of a layer's units that are never active at which it is dead; healthy ReLU layers stay below half
    (Lu et al. 2019, Dying ReLU)."""
    update_ratio_high: float = Field(0.1, gt=0)
    """Update-to-weight norm a step beyond which weights are rewritten; 1e-3 is usual (Karpathy, CS231n notes)."""
    update_ratio_low: float = Field(1e-7, gt=0)
    """Update-to-weight norm a step below which float32 weights no longer move (2**-24 is half a unit in the
    last place)."""


class Losses(Recipe):
    """Losses over time."""

    lost_progress: float = Field(0.4, gt=0)
    """Share of all progress, start less best, that a loss must give back to count as diverging. Calibrated."""
    unsteady: float = Field(2.0, gt=1)
    """Mean step-to-step change of a loss, in units of its usual noise, from which half of that share is enough.
    Calibrated."""
    progress_zscore: float = Field(6.0, gt=0)
    """Progress in units of the loss's own noise below which there was none to lose. Calibrated."""
    sudden_drop: float = Field(0.2, gt=0, lt=1)
    """Share of its baseline to which a training loss falls at once where the answer has leaked. A stepped learning rate
    gives two- to threefold drops (He et al. 2016, figure 4). Calibrated."""
    drop_zscore: float = Field(6.0, gt=0)
    """Robust z-score of that fall among the changes before it: in steep descent they are large. Calibrated."""
    valid_follows: float = Field(0.6, gt=0, lt=1)
    """The validation loss follows such a drop if it falls to this share; if not, the drop was no learning.
    Calibrated."""
    apart_drop: float = Field(0.4, gt=0, lt=1)
    """Share of its baseline to which a training loss falls at once where the validation loss rises: then less
    of a fall is enough for a leak. Calibrated."""
    apart_rise: float = Field(1.2, gt=1)
    """That rise, over the best of the last three values before. Calibrated."""
    jump_zscore: float = Field(8.0, gt=0)
    """Robust z-score of a lasting rise (a change point), with jump_factor. Calibrated."""
    jump_factor: float = Field(1.5, gt=1)
    """A change point is also a rise to this many times the median. Calibrated."""
    overfit_rise: float = Field(0.15, gt=0)
    """Rise of the validation loss over its best, as a share of its whole descent, that tells overfitting.
    Calibrated."""
    overfit_evaluations: int = Field(3, ge=1)
    """So many evaluations in a row must show it: Prechelt (1998) stops after several strips for the same reason."""
    plateau_share: float = Field(0.6, gt=0, lt=1)
    """Share of the run, counted from its end, without a better loss. Convention."""
    plateau_gain: float = Field(0.02, gt=0, lt=1)
    """Share of the level by which a loss must fall over the whole run to be learning at all. Calibrated."""


class Adversarial(Recipe):
    """Generator against discriminators."""

    objective: Literal["auto", "bce", "hinge", "least-squares", "wasserstein"] = "auto"
    """The discriminator's loss; auto looks at names, the recipe and values. At equilibrium hinge is 2.0 (Lim &
    Ye 2017),
    least squares 0.5 (Mao et al. 2017, targets 0 and 1), cross-entropy 2 log 2 = 1.386 (Goodfellow et al. 2014)."""
    dominant_loss: float = Field(0.1, gt=0)
    """A discriminator whose loss is below this while the generator's adversarial loss is above dominant_adversarial
    tells all apart. A high discriminator loss is none of that: equilibrium has one."""
    dominant_adversarial: float = Field(0.9, gt=0)
    """See dominant_loss. At equilibrium cross-entropy gives the generator log 2 = 0.69 and least squares 0.25; before a
    discriminator that is always right it has 1 and more."""
    dominant_accuracy: float = Field(0.98, gt=0.5, lt=1)
    """Accuracy or AUC of a discriminator that tells all apart; ProGAN-like trainings live between .5 and .9.
    Calibrated."""
    dominant_probability: float = Field(0.95, gt=0.5, lt=1)
    """D(real) above and D(fake) below one minus this, where outputs are probabilities. Calibrated."""
    dominant_points: int = Field(100, ge=5)
    """Points for which it must last, steps where points lie apart: early in a training the discriminator is ahead for
    a while. Calibrated."""
    sign_target: float = Field(0.6, gt=0, lt=1)
    """E[sign D(real)] that StyleGAN2-ADA (Karras et al. 2020) steers at; near 1 the discriminator overfits."""
    sign_overfits: float = Field(0.9, gt=0, lt=1)
    """E[sign D(real)] from which a warning is due: halfway and more from the target to 1."""
    fooled_probability: float = Field(0.1, gt=0)
    """By how much D(fake) must stay above D(real) for the discriminator to be misled: it no longer teaches.
    Calibrated."""
    idle_penalty: float = Field(1e-8, ge=0)
    """A gradient penalty or feature-matching loss at or below this is not connected to anything: a bug."""
    large_penalty: float = Field(10.0, gt=0)
    """A gradient penalty (mean of (norm - 1)**2, Gulrajani et al. 2017, before its weight) that stays above
    this fails."""
    oscillation: float = Field(0.6, gt=0, lt=1)
    """Autocorrelation at the swing's own period from which losses circle each other. Calibrated."""
    oscillation_amplitude: float = Field(1.0, gt=0)
    """Swing (5th to 95th percentile) over the mean size from which it matters. Calibrated."""
    collapse_ratio: float = Field(0.25, gt=0, lt=1)
    """Diversity of outputs over that of inputs below which the generator has collapsed. Calibrated."""
    collapse_from_best: float = Field(0.4, gt=0, lt=1)
    """It must also have fallen to this share of its own best: an untrained generator is no collapsed one.
    Calibrated."""
    collapse_evaluations: int = Field(2, ge=1)
    """Evaluations in a row that must show it."""
    never_diverse_evaluations: int = Field(20, ge=2)
    """A generator whose outputs have been alike in all of so many evaluations never began to vary. Calibrated."""
    swap_effect: float = Field(0.05, gt=0, lt=1)
    """Movement of the output when the condition is swapped, over the outputs' spread, below which it is ignored."""
    similarity_drop: float = Field(0.1, gt=0)
    """Fall of a speaker similarity (cosine) below its own best that is worth a warning: a quarter of the gap between
    same and different speakers that encoders of the GE2E kind show."""


class Flow(Recipe):
    """Time and order of the records."""

    slow_factor: float = Field(2.0, gt=1)
    """Times the usual seconds a step, kept up: a throughput drop. Calibrated."""
    stall_factor: float = Field(10.0, gt=1)
    """Times the usual seconds a step, kept up: a stalled loader. Calibrated."""
    stall_seconds: float = Field(0.02, ge=0)
    """Steps shorter than this are never a stall: clocks and schedulers are that coarse."""
    silent_factor: float = Field(20.0, gt=1)
    """Times the longest usual pause after which a running training that writes nothing is called silent."""
    silent_seconds: float = Field(120.0, gt=0)
    """And at least so many seconds: evaluations and checkpoints take their time."""
    gap_factor: float = Field(20.0, gt=1)
    """Times the usual distance of two records' steps that is a gap: records are missing."""


class Names(Recipe):
    """Which metric is what: regular expressions, looked for in the lower-cased name; the first row that fits
    decides."""

    discriminator_loss: str = (
        r"(^|[/_.])(loss|err)[/_. ]?(d|disc|discriminator|critic)$|^err_?d$|"
        r"(^|[/_.])(d|disc|discriminator|critic|mpd|mrd|msd)([/_.](mpd|mrd|msd|total))?[/_. ]?loss$"
    )
    """Loss of a discriminator."""
    generator_loss: str = (
        r"(^|[/_.])(loss|err)[/_. ]?(g|gen|generator|adv|adversarial)$|^err_?g$|"
        r"(^|[/_.])(g|gen|generator)([/_.](adv\w*|gan|total))?[/_. ]?loss$|(^|[/_.])(adv\w*|gan)[/_. ]?loss$|"
        r"(^|[/_.])adversarial$"
    )
    """Adversarial loss of the generator."""
    sign_real: str = r"signs?[/_.]real$|real[/_.]signs?$|(^|[/_.])r_t$"
    """E[sign D(real)]."""
    discriminator_accuracy: str = (
        r"(^|[/_.])(d|disc|discriminator|critic|mpd|mrd|msd)([/_.]\w+)?[/_. ](acc(uracy)?|auc)"
    )
    """Accuracy or AUC of a discriminator, 0 to 1."""
    disc_fake: str = (
        r"d\(g\(z\)\)|(^|[/_.])d_?g_?z|(^|[/_.])(d|disc|discriminator|critic|mpd|mrd|msd|scores?|logits?|outputs?|out)"
        r"([/_.]\w+)?[/_.](fake|gen|generated)([/_.](score|logits?|mean|output|prob\w*))?$|"
        r"(fake|generated)[/_.](scores?|logits?|outputs?|prob\w*)(_mean)?$"
    )
    """Mean discriminator output on generated things."""
    disc_real: str = (
        r"d\(x\)|(^|[/_.])d_?x$|(^|[/_.])(d|disc|discriminator|critic|mpd|mrd|msd|scores?|logits?|outputs?|out)"
        r"([/_.]\w+)?[/_.]real([/_.](score|logits?|mean|output|prob\w*))?$|"
        r"real[/_.](scores?|logits?|outputs?|prob\w*)(_mean)?$"
    )
    """Mean discriminator output on real things."""
    gradient_penalty: str = r"(^|[/_.])(gp|r1|(gradient|grad)[/_. ]penalty)([/_.]loss)?$"
    """Gradient penalty."""
    feature_matching: str = r"(^|[/_.])(fm|(feature|feat)[/_. ]?match\w*)([/_.]?loss)?$"
    """Feature-matching loss."""
    output_diversity: str = r"diversity[/_.](outputs?|generated|fake)$|(output|generated|fake)[/_.]diversity$"
    """Diversity of generated things, in the same unit as input_diversity."""
    input_diversity: str = r"diversity[/_.](inputs?|real)$|(input|real)[/_.]diversity$"
    """Diversity of the real things or inputs of the same batches."""
    swap_effect: str = r"swap[/_.]?effect$"
    """Movement of the output when the condition is swapped, over the outputs' spread."""
    speaker_similarity: str = r"(speaker|spk)[/_. ]?sim(ilarity)?$|same_speaker_similarity$"
    """Cosine of a conversion to its target speaker."""
    update_ratio: str = r"update[/_. ]?(to[/_. ]weight[/_. ]?)?ratio([/_.]|$)"
    """Norm of an update over that of the weights."""
    dead_units: str = r"(^|[/_.])dead([/_. ]units)?[/_.]"
    """Share of a layer's units that are never active."""
    grad_norm: str = r"(^|[/_.])grad(ient)?s?[/_. ]?norm([/_.]|$)"
    """Gradient norm; what follows the name is the module."""
    param_norm: str = r"(^|[/_.])(param(eter)?|weight)s?[/_. ]?norm([/_.]|$)"
    """Parameter norm; what follows the name is the module."""
    total_loss: str = (
        r"^((train|training|valid|val|validation|eval|dev|test)[/_. ])?"
        r"(epoch_)?((total|combined|overall|lm|model|batch)[/_. ])?(loss|nll|objective|cross_entropy|ce|mse)"
        r"([/_. ](train|valid|val|total|epoch|step))?$"
    )
    """A loss that is the whole of what is minimised."""
    loss: str = r"loss|nll|perplexity|cross_entropy|(^|[/_.])(ce|mse|mae|ppl)$"
    """Any other loss."""
    validation: str = r"(^|[/_. ])(val|valid|validation|eval|dev|test)([/_. ]|$)"
    """Marks a loss as one of held-out data."""

    @field_validator("*")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


class Thresholds(Recipe):
    """All of it, by section."""

    window: Window = Window()
    gradients: Gradients = Gradients()
    losses: Losses = Losses()
    adversarial: Adversarial = Adversarial()
    flow: Flow = Flow()
    names: Names = Names()


def load_thresholds(path: str | Path | None = None, sets: Sequence[str] = ()) -> Thresholds:
    """The defaults, with what a TOML file and then `sets` ("section.key=value") change of them.

    Raises:
        UserError: an unknown key, a value out of range, an unreadable file.
    """
    return resolve(Thresholds, file=None if path is None else Path(path), sets=sets).recipe


def as_toml() -> str:
    """All thresholds as TOML with their documentation as comments: a file to start from."""
    import json
    import textwrap

    lines: list[str] = []
    section = ""
    for doc in describe(Thresholds):
        here, _, key = doc.key.rpartition(".")
        if here != section:
            section = here
            lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        lines += textwrap.wrap(doc.description, 110, initial_indent="# ", subsequent_indent="# ")
        value = f"'{doc.default}'" if section == "names" else json.dumps(doc.default)
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"
