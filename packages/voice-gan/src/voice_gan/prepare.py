"""From sound files to a prepared folder: read, check, normalise, split, write shards.

What can't be used is left out, and report.json says what and why.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainworks.console import UserError, info, progress, warn
from trainworks.files import write_json
from trainworks.run import check_apart, is_taken
from trainworks.seeding import rng
from voice_gan.audio import f0_statistics, frame_powers, fundamental, is_rate_of_sound, resample
from voice_gan.config import AudioConfig
from voice_gan.data import INT16, SPLITS
from voice_gan.loudness import gain_to_target, gating_energies
from voice_gan.voices import write_voices

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".mp3")
SILENCE = 40.0
"""dB under the loudest frame at which the ends count as silence."""
CLIPPED = 0.001
"""Share of samples at full scale above which a recording counts as clipped."""
MIN_SPEAKER_UTTERANCES = 4
"""Speakers with fewer give none to valid, test and unseen."""


@dataclass(frozen=True)
class Source:
    """A sound file and what is known of it."""

    path: Path
    speaker: str
    text: str | None = None


class Unusable(Exception):
    """Why a recording is left out."""


@dataclass(frozen=True)
class Limits:
    """What is left out, and how the rest is dealt to splits.

    Attributes:
        min_seconds, max_seconds: of an utterance, after its silent ends are cut.
        valid, test: shares of each training speaker's utterances.
        unseen: speakers held out whole; None: a tenth of those with 4 utterances or more, at least one where there
            are four such.
        shard_seconds: sound of one shard.
    """

    min_seconds: float = 1.0
    max_seconds: float = 600.0
    valid: float = 0.15
    test: float = 0.2
    unseen: int | None = None
    shard_seconds: float = 1800.0


def find_sources(folders: Sequence[Path]) -> list[Source]:
    """Sound files under FOLDER/SPEAKER/, at any depth.

    Raises:
        UserError: no such folder, or nothing in it that could be sound.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give folders by speaker, or a manifest with path and speaker")
        for path in sorted(folder.rglob("*")):
            below = path.relative_to(folder)
            if path.suffix.lower() in SUFFIXES and path.is_file() and len(below.parts) > 1:
                found.append(Source(path, below.parts[0]))
    if not found:
        names = ", ".join(map(str, folders))
        raise UserError(f"no sound files ({', '.join(SUFFIXES)}) in folders by speaker under {names}")
    return found


def read_manifest(path: Path) -> list[Source]:
    """Rows with path, speaker and, if wanted, text from CSV or JSON Lines; paths are relative to the manifest.

    Raises:
        UserError: unreadable, or a row without path or speaker.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".jsonl", ".json"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise UserError(f"manifest {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"manifest {path} is not UTF-8; convert the file") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"manifest {path} can't be read: {error}") from None
    sources = []
    for number, row in enumerate(rows, start=1):
        told = isinstance(row, dict) and isinstance(row.get("path"), str) and row["path"] and row.get("speaker")
        if not told or not isinstance(row["speaker"], str | int) or not isinstance(row.get("text"), str | None):
            there = f"; there: {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise UserError(f"manifest {path}, row {number}: path and speaker are wanted, text may be there{there}")
        sources.append(Source(path.parent / row["path"], str(row["speaker"]), row.get("text") or None))
    if not sources:
        raise UserError(f"manifest {path} has no rows")
    return sources


def prepare_folder(
    sources: Sequence[Source], out: Path, audio: AudioConfig, limits: Limits, seed: int, overwrite: bool
) -> dict[str, Any]:
    """Make a prepared folder, whole or not at all; returns its report.

    Raises:
        UserError: a taken name, nothing usable left (what was wrong is named), one speaker only.
    """
    if is_taken(out) and not overwrite:
        raise UserError(f"{out} exists; name another --out, or give --overwrite")
    if is_taken(out):
        if not all((out / name).exists() for name in ("report.json", "index.json", "train")):
            raise UserError(
                f"{out} was not made by voice-gan prepare, so --overwrite leaves it alone; name another --out"
            )
        check_apart(out, *(source.path for source in sources))
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.new")
    new.mkdir()
    try:
        report = _fill(new, sources, audio, limits, seed)
        if out.exists():
            shutil.rmtree(out)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    say_report(report)
    return report


def say_report(report: dict[str, Any]) -> None:
    """One line a split on stderr."""
    for split, size in report["splits"].items():
        info(f"{split}: {size['utterances']} utterances, {size['speakers']} speakers, {size['minutes']:.1f} minutes")


def prepare_demo(
    out: Path, voices: int, utterances: int, audio: AudioConfig, limits: Limits, seed: int, overwrite: bool
) -> dict[str, Any]:
    """A prepared folder of built-in voices; returns its report.

    Raises:
        UserError: a taken name, more voices than there are, or espeak-ng is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = [Source(*spoken) for spoken in write_voices(Path(folder), voices, utterances, seed)]
        return prepare_folder(sources, out, audio, limits, seed, overwrite)


def _fill(folder: Path, sources: Sequence[Source], audio: AudioConfig, limits: Limits, seed: int) -> dict[str, Any]:
    """Read everything, then deal what is usable to splits: a speaker's share of them counts no broken files."""
    pool = folder / "pool"
    usable, left_out = read_all(sources, pool, audio, limits, seed)
    if not usable:
        raise UserError(
            f"none of {len(sources)} files can be used; the first: {left_out[0]['path']}: {left_out[0]['reason']}"
        )
    for entry in left_out[:5]:
        warn(f"left out {entry['path']}: {entry['reason']}")
    if len(left_out) > 5:
        warn(f"left out {len(left_out) - 5} more; report.json names them")
    counts = Counter(recording.source.speaker for recording in usable)
    if len(counts) < 2:
        raise UserError(f"all usable sound is of one speaker ({', '.join(counts)}); conversion needs at least two")

    samples = np.memmap(pool, dtype=np.int16, mode="r")
    writers = {split: ShardWriter(folder / split, audio, limits.shard_seconds) for split in SPLITS}
    splits = deal([recording.source for recording in usable], limits, seed)
    named: Counter[str] = Counter()
    for recording, split in zip(usable, splits, strict=True):
        name = f"{recording.source.speaker}/{recording.source.path.stem}"
        named[name] += 1
        unique = name if named[name] == 1 else f"{name}-{named[name]}"
        wave = samples[recording.start : recording.start + len(recording.f0_F) * audio.hop]
        writers[split].add(unique, recording.source, wave, recording.f0_F)
    sizes = {split: writer.close() for split, writer in writers.items() if writer.entries}
    pool.unlink()
    report = {
        "files": len(sources),
        "kept": len(usable),
        "left_out": sorted(left_out, key=lambda entry: entry["path"]),
        "splits": sizes,
        "single_utterance_speakers": sorted(name for name, count in counts.items() if count == 1),
    }
    write_json(folder / "report.json", report)
    write_json(folder / "index.json", {"audio": audio.model_dump(mode="json"), "seed": seed, "splits": sizes})
    return report


@dataclass(frozen=True)
class Usable:
    """A recording that passed: where its samples start in the pool, and its F0 (F,) float16."""

    source: Source
    start: int
    f0_F: np.ndarray


def read_all(
    sources: Sequence[Source], pool: Path, audio: AudioConfig, limits: Limits, seed: int
) -> tuple[list[Usable], list[dict[str, str]]]:
    """Write the samples of every usable recording to `pool`, one after the other; gives them and what was left out."""
    usable: list[Usable] = []
    left_out: list[dict[str, str]] = []
    length = 0
    order = rng(seed, "shards").permutation(len(sources))  # neighbours in a shard are of different speakers
    with open(pool, "wb") as file, progress(len(sources), "preparing") as bar:
        for number in order.tolist():
            source = sources[number]
            try:
                wave = read_utterance(source.path, audio, limits)
            except Unusable as reason:
                left_out.append({"path": str(source.path), "speaker": source.speaker, "reason": str(reason)})
            else:
                np.rint(wave * INT16).astype(np.int16).tofile(file)
                usable.append(Usable(source, length, fundamental(wave, audio).astype(np.float16)))
                length += len(wave)
            bar.advance(1)
    return usable, left_out


def deal(sources: Sequence[Source], limits: Limits, seed: int) -> list[str]:
    """Each source's split: some speakers unseen; of the others, shares of the utterances valid and test."""
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        by_speaker[source.speaker].append(number)
    rich = sorted(name for name, numbers in by_speaker.items() if len(numbers) >= MIN_SPEAKER_UTTERANCES)
    unseen = limits.unseen
    if unseen is None:
        unseen = max(1, round(len(rich) / 10)) if len(rich) >= 4 else 0
    if unseen and (unseen > len(rich) - 1 or unseen > len(by_speaker) - 2):
        raise UserError(
            f"--unseen {unseen} speakers, of {len(by_speaker)} in all and {len(rich)} with {MIN_SPEAKER_UTTERANCES} "
            "utterances or more, leaves too few to train on: lower it"
        )
    hidden = set(rng(seed, "unseen").permutation(rich)[:unseen].tolist())
    splits = ["train"] * len(sources)
    for name, numbers in by_speaker.items():
        shuffled = rng(seed, "split", name).permutation(numbers).tolist()
        if name in hidden:
            for number in numbers:
                splits[number] = "unseen"
        elif name in rich:
            valid, test = math.ceil(limits.valid * len(numbers)), math.ceil(limits.test * len(numbers))
            for number in shuffled[:valid]:
                splits[number] = "valid"
            for number in shuffled[valid : valid + test]:
                splits[number] = "test"
    return splits


def read_utterance(path: Path, audio: AudioConfig, limits: Limits) -> np.ndarray:
    """(T,) float32, T a multiple of the hop: read, checked, mixed to mono, resampled, trimmed, at `loudness.TARGET`.

    Raises:
        Unusable: why it is left out.
    """
    import soundfile

    if not path.is_file():
        raise Unusable("there is no such file")
    try:
        header = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        raise Unusable(f"not a sound file that can be read: {reason.rstrip('.')}") from None
    seconds = header.frames / header.samplerate
    if not header.frames:
        raise Unusable("no samples")
    if not is_rate_of_sound(header.samplerate):
        raise Unusable(f"its header says {header.samplerate:,} samples a second")
    if seconds > limits.max_seconds:
        raise Unusable(
            f"{seconds / 60:.0f} minutes are more than --max-seconds {limits.max_seconds:g}: cut it up first"
        )
    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise Unusable(f"damaged after its header: {error.error_string.rstrip('.')}") from None
    if not np.isfinite(channels).all():
        raise Unusable("NaN or infinite samples")
    if (np.abs(channels) >= 0.999).mean() > CLIPPED:
        raise Unusable(f"clipped: {(np.abs(channels) >= 0.999).mean():.2%} of the samples are at full scale")
    wave = trim(resample(channels.mean(axis=1), rate, audio.rate), audio)
    wave = wave[: len(wave) // audio.hop * audio.hop]
    if len(wave) < max(limits.min_seconds * audio.rate, audio.n_fft):
        raise Unusable(f"{len(wave) / audio.rate:.2f} s of sound are less than --min-seconds {limits.min_seconds:g}")
    return wave * gain_to_target(gating_energies(wave, audio.rate), float(np.abs(wave).max()))


def trim(wave: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """Without its ends that are `SILENCE` dB under the loudest frame, but for a frame's margin."""
    power = frame_powers(wave, audio)
    loud = np.flatnonzero(power > max(power.max(initial=0.0) * 10 ** (-SILENCE / 10), 1e-10))
    if not len(loud):
        return wave[:0]
    return wave[max(0, loud[0] - 2) * audio.hop : (loud[-1] + 3) * audio.hop]


class ShardWriter:
    """Writes a split's utterances one after the other, some 60 MB a file."""

    def __init__(self, folder: Path, audio: AudioConfig, shard_seconds: float) -> None:
        self.folder, self.audio = folder, audio
        self.limit = int(shard_seconds * audio.rate)
        self.entries: list[dict[str, Any]] = []
        self.f0_of: dict[str, list[np.ndarray]] = defaultdict(list)
        self._waves: list[np.ndarray] = []
        self._f0s: list[np.ndarray] = []
        self._number = self._length = 0

    def add(self, name: str, source: Source, wave: np.ndarray, f0: np.ndarray) -> None:
        """Append an utterance: (T,) int16, T a multiple of the hop, and its F0 (F,) float16."""
        if self._length and self._length + len(wave) > self.limit:
            self._flush()
        self.entries.append(
            {
                "id": name,
                "speaker": source.speaker,
                "text": source.text,
                "shard": self._number,
                "start": self._length,
                "samples": len(wave),
            }
        )
        self._waves.append(wave)
        self._f0s.append(f0)
        self.f0_of[source.speaker].append(f0)
        self._length += len(wave)

    def close(self) -> dict[str, Any]:
        """Write what is left and the index; returns the split's size."""
        self._flush()
        statistics = {
            name: f0_statistics(np.concatenate(parts).astype(np.float32)) for name, parts in sorted(self.f0_of.items())
        }
        index = {"rate": self.audio.rate, "hop": self.audio.hop, "f0": statistics, "utterances": self.entries}
        write_json(self.folder / "index.json", index)
        samples = sum(entry["samples"] for entry in self.entries)
        size = {"utterances": len(self.entries), "speakers": len(statistics)}
        return {**size, "minutes": round(samples / self.audio.rate / 60, 2)}

    def _flush(self) -> None:
        self.folder.mkdir(exist_ok=True)
        np.save(self.folder / f"wave_{self._number:03d}.npy", np.concatenate(self._waves))
        np.save(self.folder / f"f0_{self._number:03d}.npy", np.concatenate(self._f0s))
        self._waves, self._f0s, self._length = [], [], 0
        self._number += 1
