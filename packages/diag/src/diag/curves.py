"""The metrics of a run as curves with a role: this one is a discriminator's loss, that one a module's gradient norm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diag.read import Run
from diag.series import Series
from diag.thresholds import Names, Thresholds, Window


@dataclass(frozen=True)
class Curve:
    """One metric.

    Attributes:
        name: as it was logged.
        role: a field of `thresholds.Names`, "" where none fits.
        validation: whether it is of held-out data.
        rows: (k,) records that hold a finite value.
        steps: (k,) int64.
        values: (k,) float64, finite.
        nulls: (m,) records that hold null, NaN or infinity.
    """

    name: str
    role: str
    validation: bool
    rows: np.ndarray
    steps: np.ndarray
    values: np.ndarray
    nulls: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


class Roles:
    """Names to roles."""

    def __init__(self, names: Names) -> None:
        patterns = names.model_dump()
        self._validation = re.compile(patterns.pop("validation"))
        self._roles = [(role, re.compile(pattern)) for role, pattern in patterns.items()]

    def of(self, name: str) -> tuple[str, bool]:
        """Role and whether the metric is of held-out data."""
        lower = name.lower()
        role = next((role for role, pattern in self._roles if pattern.search(lower)), "")
        return role, self._validation.search(lower) is not None


class Log:
    """The curves of a run by role.

    Attributes:
        run: the run.
        thresholds: what is used to judge it.
        series: the run's records.
    """

    def __init__(self, run: Run, thresholds: Thresholds) -> None:
        self.run, self.thresholds, self.series = run, thresholds, run.series
        roles = Roles(thresholds.names)
        self._curves: dict[str, list[Curve]] = {}
        self._baselines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in run.series.names:
            curve = make_curve(run.series, name, *roles.of(name))
            self._curves.setdefault(curve.role, []).append(curve)

    def __iter__(self) -> Iterator[Curve]:
        for curves in self._curves.values():
            yield from curves

    def baseline(self, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
        """`baseline` of a curve, computed once."""
        if curve.name not in self._baselines:
            window = self.thresholds.window
            first = window_points(curve.steps, window.min_points, window.min_steps, least=5)
            self._baselines[curve.name] = baseline(curve.values, window.baseline_points, first)
        return self._baselines[curve.name]

    def curves(self, role: str, *, validation: bool | None = None) -> list[Curve]:
        """The curves of a role that have values, in the order of their first appearance."""
        found = [curve for curve in self._curves.get(role, []) if len(curve)]
        return found if validation is None else [curve for curve in found if curve.validation is validation]

    @cached_property
    def training_loss(self) -> Curve | None:
        """The loss that is minimised, by its name; the one with most points if several could be."""
        found = self.curves("total_loss", validation=False) or self.curves("loss", validation=False)
        return max(found, key=len, default=None)

    @cached_property
    def validation_loss(self) -> Curve | None:
        """The held-out twin of `training_loss`, else any held-out loss."""
        found = self.curves("total_loss", validation=True) or self.curves("loss", validation=True)
        return max(found, key=len, default=None)

    @cached_property
    def adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return any(
            self.curves(role) for role in ("discriminator_loss", "disc_fake", "disc_real", "discriminator_accuracy")
        )

    @cached_property
    def objective(self) -> str:
        """The discriminator's objective, "" where nothing tells it."""
        wanted = self.thresholds.adversarial.objective
        if wanted != "auto":
            return wanted
        losses = self.curves("discriminator_loss")
        if any(np.median(curve.values) < 0 or curve.values.min() < -1 for curve in losses):
            return "wasserstein"  # the only one of them that can be negative
        told = json.dumps(self.run.record["config"]).lower() if self.run.record else ""
        for objective, words in OBJECTIVES.items():
            if re.search(words, told):
                return objective
        outputs = [*self.curves("disc_real"), *self.curves("disc_fake")]
        return "bce" if outputs and all(in_unit_interval(curve) for curve in outputs) else ""


OBJECTIVES = {
    "hinge": r'"hinge"',
    "least-squares": r'"(lsgan|least.squares|ls)"',
    "wasserstein": r'"wgan|wasserstein',
    "bce": r'"(bce|vanilla|non.?saturating|cross.entropy)"',
}


def in_unit_interval(curve: Curve) -> bool:
    """Whether all values could be probabilities."""
    return bool(curve.values.min() >= 0 and curve.values.max() <= 1)


def make_curve(series: Series, name: str, role: str, validation: bool) -> Curve:
    """The finite points of one metric, and where it was not finite."""
    rows, values = series.points(name)
    finite = np.isfinite(values)
    if finite.all():
        return Curve(name, role, validation, rows, series.steps[rows], values, rows[:0])
    kept = rows[finite]
    return Curve(name, role, validation, kept, series.steps[kept], values[finite], rows[~finite])


def sustained(mask: np.ndarray, steps: np.ndarray, window: Window, points: int | None = None) -> tuple[int, int] | None:
    """The first stretch in which a state lasts: indices of its first point and of its last.

    Args:
        mask: (k,) bool, whether a point shows the state.
        steps: (k,) their steps.
        window: what lasting means.
        points: instead of `window.sustained_points` and steps alike.
    """
    if not mask.any():
        return None
    width = window_points(steps, points or window.sustained_points, points or window.sustained_steps)
    if len(mask) < width:
        return None
    total = np.concatenate([[0], np.cumsum(mask)])
    share = (total[width:] - total[:-width]) / width
    full = np.flatnonzero(share >= window.sustained_share)
    if not len(full):
        return None
    # The stretch goes on as long as windows keep touching: one calm point does not end it.
    broken = np.flatnonzero(np.diff(full) > width)
    last = full[broken[0]] if len(broken) else full[-1]
    inside = np.flatnonzero(mask[full[0] : last + width]) + full[0]
    return int(inside[0]), int(inside[-1])


def window_points(steps: np.ndarray, points: int, in_steps: int, least: int = 2) -> int:
    """How many points make `points`, or where they lie apart `in_steps` steps: `least` at least."""
    spacing = max(1.0, float(np.median(np.diff(steps)))) if len(steps) > 1 else 1.0
    return int(np.clip(round(in_steps / spacing), least, points))


def baseline(values: np.ndarray, width: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and scaled MAD (k,) of the points before each one; NaN where there are too few.

    They are taken anew every quarter of the window, so that a million points take a second: a point's own block is
    never part of its baseline.

    Args:
        values: (k,) finite.
        width: how many points before.
        least: with fewer of them there is no baseline.
    """
    k = len(values)
    center, spread = np.full(k, np.nan), np.full(k, np.nan)
    # While there are few points, each has a baseline of its own.
    early = np.arange(least, min(width, k))
    starts = np.concatenate([early, np.arange(width, k, max(1, width // 4))])
    if not len(starts):
        return center, spread
    medians, deviations = np.empty(len(starts)), np.empty(len(starts))
    for index, start in enumerate(early):
        medians[index] = np.median(values[:start])
        deviations[index] = np.median(np.abs(values[:start] - medians[index]))
    if len(early) < len(starts):
        views = np.lib.stride_tricks.sliding_window_view(values, width)
        for begin in range(len(early), len(starts), 1024):
            part = slice(begin, begin + 1024)
            past = views[starts[part] - width]
            medians[part] = np.median(past, axis=1)
            deviations[part] = np.median(np.abs(past - medians[part, None]), axis=1)
    sizes = np.diff(np.append(starts, k))
    center[starts[0] :] = np.repeat(medians, sizes)
    spread[starts[0] :] = np.repeat(1.4826 * deviations, sizes)
    return center, spread


def smooth(values: np.ndarray, points: int) -> np.ndarray:
    """(k,) mean of up to `points` points that end at each one."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - points)
    return (total[ends] - total[starts]) / (ends - starts)


def figure(value: float) -> float:
    """A figure for people: four significant digits."""
    return float(f"{value:.4g}")


def shown(value: Any) -> str:
    """A figure in a sentence: three significant digits, without a power of ten where it can be."""
    return f"{value:,.0f}" if abs(value) >= 1000 and abs(value) < 1e7 else f"{value:.3g}"
