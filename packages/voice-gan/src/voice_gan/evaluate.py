"""How good is a finished model? Rebuilt and converted utterances, beside what is reached with nothing learned.

Systems, the rows of the table:

- original: the recording itself, what all else is measured against.
- griffin-lim: sound made of the true spectrogram, with the phase guessed and nothing learned.
- reconstruction: the recording through the model, with its own voice.
- unchanged: "conversion" by doing nothing.
- conversion: the recording in another speaker's voice, taken from one utterance of theirs.
- target: another recording of that speaker, what a conversion may hope for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError, progress
from trainworks.files import json_ready, sha256_file, write_json
from trainworks.run import Run
from trainworks.seeding import rng
from voice_gan.baselines import griffin_lim
from voice_gan.convert import convert_wave, wave_voice
from voice_gan.data import Utterance, load_utterances
from voice_gan.evaluate_plots import plot_pairs, plot_similarities
from voice_gan.judge import Judge, Voices, choose_judge
from voice_gan.metrics import compare, log_mels, mos, summary
from voice_gan.model import VoiceModel
from voice_gan.recognise import transcribe, word_error_rate
from voice_gan.run import TOOL, load_trained

UTTERANCES, CONVERSIONS = 100, 200
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
OF_CONVERSION = ("stoi", "f0_correlation", "voicing_error")
"""Of a conversion these alone are measured against its source: the others would measure how much of the old voice is
left."""


@dataclass(frozen=True)
class Trial:
    """A conversion: numbers of the utterance that is converted and of the one that lends its voice."""

    source: int
    target: int


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        judged: run, checkpoint, data, judge and settings that this is about.
        systems: by system and measure the mean, the standard deviation over utterances and their number.
        pairs: for each ordered pair of speakers the conversions, the share that succeeded and their similarities.
        voices: how far the speakers part, by the model's own encoder and by the judge (`Voices.bands`).
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
        """All of them by name: SYSTEM.MEASURE (a mean), own.MEASURE and judge.MEASURE of the voices, speed.MEASURE."""
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
            name, _, limit = bound.partition("=")
            if name not in figures:
                raise UserError(f'--fail-{side} "{bound}" names no figure; there are: {", ".join(figures)}')
            try:
                number = float(limit)
            except ValueError:
                raise UserError(f'--fail-{side} "{bound}": "{limit}" is no number') from None
            value = figures[name]
            if not (value >= number if side == "under" else value <= number):
                found.append(f"{name} is {value:.4f}, {'below' if side == 'under' else 'above'} {limit}")
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
        lines.append(
            f"conversion runs {self.speed['times_real_time']:.0f} times faster than real time "
            f"({self.speed['threads']} threads, {self.speed['device']})"
        )
        return "\n".join(lines)


def evaluate_run(
    path: Path,
    data: Path,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
    judge: str = "auto",
    utterances: int = UTTERANCES,
    conversions: int = CONVERSIONS,
    words: bool = False,
    opinions: bool = False,
    seed: int = 0,
) -> Report:
    """Judge a run's model on a split of prepared data, and write the report into a folder.

    Args:
        path: the run.
        data: one split of a prepared folder, such as data/test or data/unseen.
        out: the folder; None is the run's reports/NAME, NAME being the split's.
        overwrite: replace the report of other data there; that of the same data is always replaced.
        judge: auto, ge2e or statistics: see `judge.choose_judge`.
        utterances: that are rebuilt, at most, taken at even distances; all of them teach the judge the speakers.
        conversions: at most; the ordered pairs of speakers take turns.
        words: also the recogniser's word error rate (extra "words"; seconds an utterance).
        opinions: also the opinion scores of DistillMOS (extra "evaluate"; a second an utterance).
        seed: of the choice of conversions.

    Raises:
        UserError: as `load_trained`, `load_utterances` and `choose_judge`; the data have another rate than the run;
            fewer than two speakers; or the folder holds the report of other data.
    """
    run = Run.open(path, tool=TOOL)
    found = load_utterances(data)
    index = data / "index.json"
    record = {"path": str(data), "sha256": sha256_file(index), "utterances": len(found)}
    folder = path / "reports" / data.resolve().name if out is None else out
    if not overwrite:
        _check_not_of_other_data(folder, record)
    weights, meta = Checkpoints(run.checkpoints_path).load(checkpoint)
    # The folder itself is named from here on: "best" of a run that is still training may move.
    trained = load_trained(path, weights.name, device, threads)
    audio = trained.recipe.audio
    if {(u.rate, u.hop) for u in found} != {(audio.rate, audio.hop)}:
        raise UserError(f"{data} was prepared for another rate or hop than {path}, whose are {audio.rate}, {audio.hop}")
    speakers = [utterance.speaker for utterance in found]
    if len(set(speakers)) < 2:
        raise UserError(f"{data} has one speaker, {speakers[0]}; a conversion wants two")
    chosen = choose_judge(judge, trained.recipe.model.speaker.kind, [u.wave_T for u in found], speakers, audio)
    judged = {
        "run": run.record["id"],
        "checkpoint": checkpoint,
        "step": meta["step"],
        "data": record,
        "judge": chosen.name,
        "words": words,
        "opinions": opinions,
        "seed": seed,
    }
    report = evaluate(trained.model, found, chosen, judged, utterances, conversions, words, opinions, seed)
    write_report(folder, report)
    return report


@torch.no_grad()
def evaluate(
    model: VoiceModel,
    utterances: Sequence[Utterance],
    judge: Judge,
    judged: Mapping[str, Any],
    num_rebuilt: int = UTTERANCES,
    num_conversions: int = CONVERSIONS,
    words: bool = False,
    opinions: bool = False,
    seed: int = 0,
) -> Report:
    """Rebuild and convert utterances, and measure what comes out.

    Args:
        utterances: of two speakers or more.
        judge: of voices.
        judged: what the report says it is about.
    """
    audio, speakers = model.audio, [utterance.speaker for utterance in utterances]
    count = min(num_rebuilt, len(utterances))
    rebuilt = [place * len(utterances) // count for place in range(count)]
    trials = choose_trials(speakers, num_conversions, seed)
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("original", "griffin-lim", "reconstruction", "unchanged", "conversion", "target")
    }
    with progress(len(utterances) + count + len(trials), "evaluating") as bar:
        own, heard = [], []
        for utterance in utterances:
            own.append(wave_voice(model, utterance.wave_T, utterance.f0_F))
            heard.append(judge.embed(utterance.wave_T))
            bar.advance()
        voices = Voices.of(np.stack(heard), speakers)
        texts: dict[int, str] = {}
        content = _content_of(utterances, texts, audio.rate) if words else None

        for number in rebuilt:
            utterance, wave_T, f0_F = utterances[number], utterances[number].wave_T, utterances[number].f0_F
            sounds = {
                "original": wave_T,
                "griffin-lim": griffin_lim(torch.from_numpy(log_mels(wave_T, audio)), audio).numpy(),
                "reconstruction": convert_wave(model, wave_T, own[number], f0_F),
            }
            for name, sound_T in sounds.items():
                row: dict[str, Any] = {"utterance": utterance.id, "speaker": utterance.speaker}
                if name != "original":
                    row |= compare(wave_T, sound_T, audio, f0_F)
                if opinions:
                    row["mos"] = mos(sound_T, audio.rate)
                if content and (name != "original" or utterance.text):
                    row["word_error_rate"] = content(number, sound_T)
                said_D = heard[number] if name == "original" else judge.embed(sound_T)
                row["similarity_target"] = voices.similarity(said_D, utterance.speaker, [number])
                rows[name].append(row)
            bar.advance()

        seconds = wall = 0.0
        for trial in trials:
            source, target = utterances[trial.source], utterances[trial.target]
            wave_T, target_T = source.wave_T, target.wave_T
            began = time.perf_counter()
            converted_T = convert_wave(model, wave_T, own[trial.target])  # F0 is found anew, as for any recording
            wall += time.perf_counter() - began
            seconds += len(wave_T) / audio.rate
            sounds = {"unchanged": wave_T, "conversion": converted_T, "target": target_T}
            said = {
                "unchanged": heard[trial.source],
                "conversion": judge.embed(converted_T),
                "target": heard[trial.target],
            }
            for name, sound_T in sounds.items():
                row = {"utterance": source.id, "source": source.speaker, "target": target.speaker}
                row["voice_from"] = target.id
                row["similarity_target"] = voices.similarity(said[name], target.speaker, [trial.target])
                row["similarity_source"] = voices.similarity(said[name], source.speaker, [trial.source])
                row["success"] = float(row["similarity_target"] > row["similarity_source"])
                if name == "conversion":
                    measured = compare(wave_T, sound_T, audio, source.f0_F)
                    row |= {key: measured[key] for key in OF_CONVERSION}
                    if opinions:
                        row["mos"] = mos(sound_T, audio.rate)
                    if content:
                        row["word_error_rate"] = content(trial.source, sound_T)
                rows[name].append(row)
            bar.advance()
    measures = {name: summary([_numbers(row) for row in found]) for name, found in rows.items()}
    return Report(
        judged={**judged, "utterances": count, "conversions": len(trials)},
        systems=measures,
        pairs=by_pair(rows["conversion"]),
        voices={
            "own": Voices.of(np.stack([voice.embedding_D.float().cpu().numpy() for voice in own]), speakers).bands(),
            "judge": voices.bands(),
        },
        speed={
            "seconds": seconds,
            "wall_seconds": wall,
            "real_time_factor": wall / seconds,
            "times_real_time": seconds / wall,
            "threads": torch.get_num_threads(),
            "device": next(model.parameters()).device.type,
        },
        rows=rows,
    )


def choose_trials(speakers: Sequence[str], count: int, seed: int) -> list[Trial]:
    """`count` conversions at most, no two alike: all ordered pairs of speakers take turns, in an order drawn by `seed`,
    with an utterance each that is drawn by it too."""
    by_speaker: dict[str, list[int]] = {}
    for number, speaker in enumerate(speakers):
        by_speaker.setdefault(speaker, []).append(number)
    draw = rng(seed, "conversions")
    waiting: list[list[Trial]] = []
    for source in by_speaker:
        for target in by_speaker:
            if source != target:
                possible = [Trial(a, b) for a in by_speaker[source] for b in by_speaker[target]]
                wanted = min(len(possible), count)
                waiting.append([possible[place] for place in draw.choice(len(possible), wanted, replace=False)])
    order = [waiting[place] for place in draw.permutation(len(waiting))]
    turns = max(map(len, order), default=0)
    return [trials[turn] for turn in range(turns) for trials in order if turn < len(trials)][:count]


def by_pair(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Conversions of each ordered pair of speakers: how many, share that succeeded, mean similarities and STOI."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        pairs.setdefault((row["source"], row["target"]), []).append(row)
    return [
        {
            "source": source,
            "target": target,
            "conversions": len(found),
            **{
                key: float(np.nanmean([row[key] for row in found]))
                for key in ("success", "similarity_target", "similarity_source")
            },
        }
        for (source, target), found in sorted(pairs.items())
    ]


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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:{'>' if place else '<'}{widths[place]}}" for place, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def _content_of(
    utterances: Sequence[Utterance], heard: dict[int, str], rate: int
) -> Callable[[int, np.ndarray], float]:
    """The word error rate of a sound that should say what an utterance says: its text, or where that isn't known what
    the recogniser hears in the utterance itself."""

    def error(number: int, sound_T: np.ndarray) -> float:
        if number not in heard:
            utterance = utterances[number]
            heard[number] = utterance.text or transcribe(utterance.wave_T, rate)
        return word_error_rate(heard[number], transcribe(sound_T, rate))

    return error


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, float)}


def _mean(measures: Mapping[str, Mapping[str, Any]], key: str) -> float:
    return measures[key]["mean"] if key in measures else math.nan


def _cell(found: Mapping[str, Any] | None, key: str, sign: str = "") -> str:
    if found is None or not math.isfinite(found["mean"]):
        return "" if sign else "-"
    return f"{sign}{found[key]:.3f}" if math.isfinite(found[key]) else ""


def _check_not_of_other_data(folder: Path, data: Mapping[str, Any]) -> None:
    """UserError if the folder holds the report of other data."""
    try:
        there = json.loads((folder / "report.json").read_text(encoding="utf-8"))["judged"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there.get("sha256") != data["sha256"]:
        raise UserError(f"{folder} holds the report of {there.get('path')}; give --overwrite, or --out {folder}-2")
