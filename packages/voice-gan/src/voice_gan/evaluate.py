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

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError, progress
from trainworks.files import sha256_file
from trainworks.run import Run
from trainworks.seeding import rng
from voice_gan.audio import log_mel
from voice_gan.baselines import griffin_lim
from voice_gan.convert import GUIDANCE, convert_wave, wave_voice
from voice_gan.data import Utterance, load_utterances
from voice_gan.extras import require
from voice_gan.judge import Judge, Voices, choose_judge
from voice_gan.metrics import compare, load_distillmos, log_mels, mos, summary
from voice_gan.model import VoiceModel
from voice_gan.recognise import EXTRA, transcribe, word_error_rate
from voice_gan.report import Report, check_not_of_other_data, write_report
from voice_gan.run import TOOL, load_trained

UTTERANCES, CONVERSIONS = 100, 200
OF_CONVERSION = ("stoi", "f0_correlation", "voicing_error")
"""Of a conversion these alone are measured against its source: the others would measure how much of the old voice is
left."""


@dataclass(frozen=True)
class Trial:
    """A conversion: numbers of the utterance that is converted and of the one that lends its voice."""

    source: int
    target: int


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
    guidance: float = GUIDANCE,
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
        guidance: as `convert.convert` has it.
        words: also the recogniser's word error rate (extra "words"; seconds an utterance).
        opinions: also the opinion scores of DistillMOS (extra "evaluate"; a second an utterance).
        seed: of the choice of conversions.

    Raises:
        UserError: an extra that is wanted is not installed; as `load_trained`, `load_utterances` and `choose_judge`;
            the data have another rate than the run, or one speaker; or the folder holds the report of other data.
    """
    run = Run.open(path, tool=TOOL)
    if words:
        require(*EXTRA)
    if opinions:
        load_distillmos()
    found = load_utterances(data)
    index = data / "index.json"
    record = {"path": str(data), "sha256": sha256_file(index), "utterances": len(found)}
    folder = path / "reports" / data.resolve().name if out is None else out
    if not overwrite:
        check_not_of_other_data(folder, record)
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
        "guidance": guidance,
        "words": words,
        "opinions": opinions,
        "seed": seed,
    }
    report = evaluate(trained.model, found, chosen, judged, utterances, conversions, guidance, words, opinions, seed)
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
    guidance: float = GUIDANCE,
    words: bool = False,
    opinions: bool = False,
    seed: int = 0,
) -> Report:
    """Rebuild and convert utterances, and measure what comes out.

    Args:
        utterances: of two speakers or more.
        judge: of voices.
        guidance: as `convert.convert` has it.
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
        own, heard, contents = [], [], []
        for utterance in utterances:
            own.append(wave_voice(model, utterance.wave_T, utterance.f0_F))
            heard.append(judge.embed(utterance.wave_T))
            contents.append(content_summary(model, utterance.wave_T))
            bar.advance()
        voices = Voices.of(np.stack(heard), speakers)
        word_errors = _word_errors(utterances, audio.rate) if words else None

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
                if word_errors and (name != "original" or utterance.text):
                    row["word_error_rate"] = word_errors(number, sound_T)
                said_D = heard[number] if name == "original" else judge.embed(sound_T)
                row["similarity_target"] = voices.similarity(said_D, utterance.speaker, [number])
                rows[name].append(row)
            bar.advance()

        seconds = wall = 0.0
        for trial in trials:
            source, target = utterances[trial.source], utterances[trial.target]
            wave_T, target_T = source.wave_T, target.wave_T
            began = time.perf_counter()
            # F0 is found anew, as for any recording.
            converted_T = convert_wave(model, wave_T, own[trial.target], guidance=guidance)
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
                    if word_errors:
                        row["word_error_rate"] = word_errors(trial.source, sound_T)
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
            "content": Voices.of(np.stack(contents), speakers).bands(),
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


def content_summary(model: VoiceModel, wave_T: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of a sound's content, [2 C]. Where they part speakers, content still holds
    the voice."""
    wave_BT = torch.from_numpy(wave_T)[None].to(next(model.parameters()).device)
    content_CF = model.encode_content(log_mel(wave_BT, model.audio))[0].float()
    return torch.cat([content_CF.mean(1), content_CF.std(1)]).cpu().numpy()


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


def _word_errors(utterances: Sequence[Utterance], rate: int) -> Callable[[int, np.ndarray], float]:
    """The word error rate of a sound that should say what an utterance says: its text, or where that isn't known what
    the recogniser hears in the utterance itself."""

    heard: dict[int, str] = {}

    def error(number: int, sound_T: np.ndarray) -> float:
        if number not in heard:
            utterance = utterances[number]
            heard[number] = utterance.text or transcribe(utterance.wave_T, rate)
        return word_error_rate(heard[number], transcribe(sound_T, rate))

    return error


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, float)}
