"""What an evaluation found: the table, JSON, figures, bounds, files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainworks.config import nearest
from trainworks.console import UserError
from trainworks.files import json_ready, write_json
from voice_gan.evaluate_plots import plot_pairs, plot_similarities

FEW_SPEAKERS = 6
"""The mean of S speakers holds a share of each, so that strangers' cosines centre on -1 / (S - 1)."""
TABLE = (
    ("mel", "mel_distance"),
    ("STFT", "stft_distance"),
    ("STOI", "stoi"),
    ("PESQ", "pesq"),
    ("MOS", "mos"),
    ("MCD dB", "mcd"),
    ("F0 corr", "f0_correlation"),
    ("voicing", "voicing_error"),
    ("words", "word_error_rate"),
    ("target", "similarity_target"),
    ("source", "similarity_source"),
    ("success", "success"),
)


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        judged: run, checkpoint, data, judge and settings that this is about.
        systems: by system and measure the mean, the standard deviation over utterances and their number.
        pairs: for each ordered pair of speakers the conversions, the share that succeeded and their similarities.
        voices: how far the speakers part, by the model's own encoder, by the judge, and by what is left of them in
            the content (`Voices.bands`).
        speed: seconds of sound and of work, `real_time_factor` and its inverse, `times_real_time`.
        rows: by system a row an utterance.
    """

    judged: dict[str, Any]
    systems: dict[str, dict[str, dict[str, Any]]]
    pairs: list[dict[str, Any]]
    voices: dict[str, dict[str, Any]]
    speed: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]

    def figures(self) -> dict[str, float]:
        """All of them by name: SYSTEM.MEASURE (a mean); own.MEASURE, judge.MEASURE and content.MEASURE of the voices;
        speed.MEASURE."""
        named = {
            f"{system}.{measure}": found["mean"]
            for system, measures in self.systems.items()
            for measure, found in measures.items()
        }
        for section, found in (*self.voices.items(), ("speed", self.speed)):
            named |= {f"{section}.{key}": value for key, value in found.items() if isinstance(value, float | int)}
        return named

    def missed(self, minima: Sequence[str], maxima: Sequence[str] = ()) -> list[str]:
        """Which bounds, each "FIGURE=NUMBER" such as "reconstruction.stoi=0.8", are not kept. A figure that isn't a
        number keeps none.

        Raises:
            UserError: no such figure, or no number.
        """
        found, figures = [], self.figures()
        bounds = [("under", bound) for bound in minima] + [("over", bound) for bound in maxima]
        for side, bound in bounds:
            name, number = parse_bound(side, bound)
            if name not in figures:
                raise UserError(f'--fail-{side} "{bound}" names no figure{nearest(name, list(figures))}')
            value = figures[name]
            if not (value >= number if side == "under" else value <= number):
                found.append(f"{name} is {value:.4f}, {'below' if side == 'under' else 'above'} {number:g}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data without the rows, NaN as null."""
        return json_ready(
            {
                "judged": self.judged,
                "systems": self.systems,
                "voices": self.voices,
                "speed": self.speed,
                "pairs": self.pairs,
            }
        )

    def table(self) -> str:
        """The systems as text for a console, means with the spread over utterances below."""
        shown = [
            (title, key) for title, key in TABLE if any(math.isfinite(_mean(m, key)) for m in self.systems.values())
        ]
        rows = [["", *(title for title, _ in shown)]]
        for name, measures in self.systems.items():
            rows.append([name, *(_cell(measures.get(key), "mean") for _, key in shown)])
            rows.append(["", *(_cell(measures.get(key), "std", "±") for _, key in shown)])
        own, judge = self.voices["own"], self.voices["judge"]
        lines = [
            *aligned(rows),
            f"{self.judged['utterances']} utterances of {own['speakers']} speakers, "
            f"{self.judged['conversions']} conversions over {len(self.pairs)} pairs; judge: {self.judged['judge']}.",
        ]
        if own["speakers"] < FEW_SPEAKERS:
            lines.append(f"of {own['speakers']} speakers centring alone puts the cosine of different ones below zero")
        for name, bands in (("own encoder", own), (f"judge {self.judged['judge']}", judge)):
            lines.append(
                f"{name}: same speaker {bands['same']:.3f}, different {bands['different']:.3f}, separation "
                f"{bands['separation']:.3f} ({bands['band']}), equal error rate {bands['equal_error_rate']:.3f}; "
                f"before centring {bands['raw_same']:.3f}/{bands['raw_different']:.3f}"
            )
        left = self.voices["content"]
        lines.append(
            f"voice left in the content: separation {left['separation']:.3f}, equal error rate "
            f"{left['equal_error_rate']:.3f} (0 and 0.5 would be none)"
        )
        lines.append(
            f"conversion runs {self.speed['times_real_time']:.0f} times faster than real time "
            f"({self.speed['threads']} threads, {self.speed['device']})"
        )
        return "\n".join(lines)


def parse_bound(side: str, bound: str) -> tuple[str, float]:
    """The figure and the number of a bound such as "reconstruction.stoi=0.8".

    Args:
        side: under or over, for the message.

    Raises:
        UserError: no number.
    """
    name, _, limit = bound.partition("=")
    try:
        return name, float(limit)
    except ValueError:
        raise UserError(f'--fail-{side} "{bound}" is not FIGURE=NUMBER, such as reconstruction.stoi=0.8') from None


def write_report(folder: Path, report: Report) -> None:
    """Write an evaluation into the folder, which is made if absent, each file whole, report.json last.

    - similarity.png: cosines of conversions with target and source, beside those of real pairs.
    - pairs.png: similarity and success of each pair of speakers.
    - utterances.json: a row an utterance and system.
    - report.json: `Report.to_json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot_similarities(folder / "similarity.png", report.rows, report.judged["judge"])
    plot_pairs(folder / "pairs.png", report.pairs)
    write_json(folder / "utterances.json", report.rows)
    write_json(folder / "report.json", report.to_json())


def check_not_of_other_data(folder: Path, data: Mapping[str, Any]) -> None:
    """UserError if the folder holds the report of other data."""
    try:
        there = json.loads((folder / "report.json").read_text(encoding="utf-8"))["judged"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there.get("sha256") != data["sha256"]:
        raise UserError(f"{folder} holds the report of {there.get('path')}; give --overwrite, or --out {folder}-2")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:{'>' if place else '<'}{widths[place]}}" for place, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def _mean(measures: Mapping[str, Mapping[str, Any]], key: str) -> float:
    return measures[key]["mean"] if key in measures else math.nan


def _cell(found: Mapping[str, Any] | None, key: str, sign: str = "") -> str:
    if found is None or not math.isfinite(found["mean"]):
        return "" if sign else "-"
    return f"{sign}{found[key]:.3f}" if math.isfinite(found[key]) else ""
