"""How a column writes its numbers or dates, and the grid that they lie on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Any

import numpy as np

EXACT = 2**53
"""Integers beyond this are not all exact as 64-bit floats, so they are no numbers here."""

MAX_TEXT = 400
"""Characters of a number; a longer one is beyond any float."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.([0-9]+))?(?:([eE])([+-]?)([0-9]{1,3}))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_integer(text: str) -> float | None:
    """An integer of at most 2^53, without leading zeros, "+", blanks or separators; None for anything
    else."""
    if len(text) > 17 or not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return float(value) if abs(value) <= EXACT else None


def parse_decimal(text: str) -> float | None:
    """A plain or scientific number, without leading zeros, "+", blanks or separators; None for anything
    else."""
    if len(text) > MAX_TEXT or not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def parse_date(text: str) -> float | None:
    """The ordinal day of an ISO date such as 2024-02-29; None for anything else."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return float(date.fromisoformat(text).toordinal())
    except ValueError:
        return None


PARSERS = {"integer": parse_integer, "decimal": parse_decimal, "date": parse_date}
"""Kind of column -> text to float or None."""


@dataclass(frozen=True)
class NumberFormat:
    """How a column's numbers are written.

    Where all numbers are multiples of a step, such as 1, 0.01, 500 or a week, that grid is kept: a number's
    unit is then its place on the grid, a whole number. Without a grid (step 0) the unit is the number itself.

    Attributes:
        kind: integer, decimal or date.
        notation: "fixed" (12.50), "scientific" (1.25e+01) or "general" (either, as Python's repr chooses).
        digits, min_digits: most and fewest digits after the point; in general notation `digits` counts
            significant ones.
        step, origin: the grid, in units of 10^-digits; step 0 is no grid.
        exponent: scientific notation: "e" or "E", then "+" if plus signs are written, then the least digits.
    """

    kind: str
    notation: str = "fixed"
    digits: int = 0
    min_digits: int = 0
    step: int = 1
    origin: int = 0
    exponent: str = "e2"

    @classmethod
    def fit(cls, kind: str, texts: Sequence[str]) -> NumberFormat:
        """The format that writes all of `texts`, each of which parses as `kind`."""
        values = np.array([PARSERS[kind](text) for text in texts], dtype=np.float64)
        if kind != "decimal":
            return cls(kind)._with_grid(values)
        matches = [match for match in map(_DECIMAL.fullmatch, texts) if match]
        fractions = [len(match[1] or "") for match in matches]
        digits, min_digits = max(fractions, default=0), min(fractions, default=0)
        exponents = [match for match in matches if match[2]]
        if exponents and len(exponents) == len(matches):
            letter = "E" if any(match[2] == "E" for match in exponents) else "e"
            plus = "+" * any(match[3] == "+" for match in exponents)
            width = min(len(match[4]) for match in exponents)
            return cls(kind, "scientific", digits, min_digits, 0, 0, f"{letter}{plus}{width}")
        if exponents or digits > 15 or np.abs(values).max(initial=0) * 10.0**digits > EXACT:
            significant = max(len(re.split("[eE]", text)[0].lstrip("-0.").replace(".", "")) for text in texts)
            return cls(kind, "general", max(1, min(significant, 17)), min_digits, 0)
        return cls(kind, "fixed", digits, min_digits)._with_grid(values)

    def _with_grid(self, values: np.ndarray) -> NumberFormat:
        steps = np.unique(np.rint(values * 10.0**self.digits).astype(np.int64))
        origin = int(steps[0]) if len(steps) else 0
        step = int(np.gcd.reduce(steps - origin)) if len(steps) > 1 else 1
        return NumberFormat(self.kind, "fixed", self.digits, self.min_digits, step, origin)

    @property
    def on_grid(self) -> bool:
        return self.step > 0

    def parse(self, text: str) -> float | None:
        """The number that a text stands for, if it is one of this kind."""
        return PARSERS[self.kind](text)

    def is_written_so(self, text: str) -> bool:
        """Whether a text that parses has this format's digits."""
        if self.notation != "fixed" or self.kind == "date":
            return True
        match = _DECIMAL.fullmatch(text)
        return match is not None and not match[2] and self.min_digits <= len(match[1] or "") <= self.digits

    def units(self, values: np.ndarray) -> np.ndarray:
        """Numbers (N,) to units; what lies off the grid gets a broken unit."""
        if not self.on_grid:
            return np.asarray(values, dtype=np.float64)
        units = (np.asarray(values, dtype=np.float64) * 10.0**self.digits - self.origin) / self.step
        near = np.rint(units)
        # A decimal fraction times a power of ten is off by rounding errors alone.
        return np.where(np.abs(units - near) <= 1e-9 + 1e-15 * np.abs(units), near, units)

    def exact_unit(self, value: float) -> Any:
        """A number's unit: on the grid an exact Fraction, so that bounds are rounded to the right side, else
        a float.

        Units beyond any that a column has are cut down to 2^60.
        """
        if not self.on_grid:
            return value
        unit = (Fraction(repr(value)) * 10**self.digits - self.origin) / self.step
        return max(Fraction(-(2**60)), min(Fraction(2**60), unit))

    def values(self, units: np.ndarray) -> np.ndarray:
        """Units (N,) to numbers."""
        return self._steps(units) / 10.0**self.digits if self.on_grid else np.asarray(units, dtype=np.float64)

    def _steps(self, units: np.ndarray) -> np.ndarray:
        return self.origin + self.step * np.rint(units).astype(np.int64)

    def texts(self, units: np.ndarray) -> np.ndarray:
        """Units (N,) as this column writes them: an object array (N,) of str."""
        if not self.on_grid:
            return _object_array(map(self._broken_text, units.tolist()), len(units))
        distinct, inverse = np.unique(self._steps(units), return_inverse=True)
        return _object_array(map(self._grid_text, distinct.tolist()), len(distinct))[inverse]

    def _grid_text(self, step: int) -> str:
        if self.kind == "date":
            return date.fromordinal(step).isoformat()
        if self.digits == 0:
            return str(step)
        return _strip_zeros(f"{step / 10.0**self.digits:.{self.digits}f}", self.min_digits)

    def _broken_text(self, value: float) -> str:
        if self.notation == "general":
            rounded = float(f"{value:.{self.digits - 1}e}")
            text = repr(0.0 if rounded == 0 else rounded)
            return text.removesuffix(".0") if self.min_digits == 0 else text
        mantissa, exponent = f"{value:.{self.digits}e}".split("e")
        sign = "-" if exponent.startswith("-") else self.exponent[1:-1]
        power = exponent.lstrip("+-0").rjust(int(self.exponent[-1]), "0")
        return f"{_strip_zeros(mantissa, self.min_digits)}{self.exponent[0]}{sign}{power}"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _strip_zeros(text: str, min_digits: int) -> str:
    """Drop closing zeros of a fraction as long as `min_digits` digits are left."""
    whole, point, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(min(min_digits, len(fraction)), "0")
    return whole + point + fraction if fraction else whole


def _object_array(texts: Iterable[str], length: int) -> np.ndarray:
    return np.fromiter(texts, dtype=object, count=length)
