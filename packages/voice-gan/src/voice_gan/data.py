"""A prepared folder and what training reads of it.

    DATA/index.json   rate, hop, and the splits' sizes
    DATA/report.json  what was left out and why
    DATA/train/  valid/  test/  unseen/   each with
        index.json      utterances: id, speaker, text, shard, start, samples; and each speaker's F0 statistics
        wave_000.npy    int16 samples of many utterances one after the other
        f0_000.npy      float16 F0 in Hz of the same, one for `hop` samples, 0 where unvoiced

Shards are memory-mapped. valid and test are held-out utterances of the training speakers, unseen has speakers of its
own. Shape legend: B batch, T samples, F = T // hop frames, R samples that tell a voice.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainworks.console import UserError
from trainworks.files import load_array
from trainworks.seeding import rng

SPLITS = ("train", "valid", "test", "unseen")
INT16 = 32767.0


@dataclass(frozen=True)
class Utterance:
    """One recording of a prepared folder; samples and F0 stay on the disk until they are asked for.

    Attributes:
        id: unique in the folder.
        speaker: whose.
        text: what is said, where that is known.
        shard: (samples, F0), the memory-mapped arrays that hold it.
        start: its first sample in the shard, a multiple of the hop.
        samples: how many, a multiple of the hop.
        rate, hop: of the prepared folder.
    """

    id: str
    speaker: str
    text: str | None
    shard: tuple[np.ndarray, np.ndarray]
    start: int
    samples: int
    rate: int
    hop: int

    @property
    def frames(self) -> int:
        return self.samples // self.hop

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    @property
    def wave_T(self) -> np.ndarray:
        """(T,) float32 in [-1, 1]."""
        return self.wave(0, self.frames)

    @property
    def f0_F(self) -> np.ndarray:
        """(F,) float32 in Hz, 0 where unvoiced."""
        return self.f0(0, self.frames)

    def wave(self, frame: int, frames: int) -> np.ndarray:
        """Samples of `frames` frames from `frame` on, float32; fewer at the utterance's end, where the shard goes on
        with another voice."""
        start, frames = self.start + frame * self.hop, min(frames, self.frames - frame)
        return self.shard[0][start : start + frames * self.hop].astype(np.float32) / INT16

    def f0(self, frame: int, frames: int) -> np.ndarray:
        """F0 of `frames` frames from `frame` on, float32; fewer at the utterance's end."""
        start, frames = self.start // self.hop + frame, min(frames, self.frames - frame)
        return self.shard[1][start : start + frames].astype(np.float32)


def split_folder(folder: str | Path, split: str | None) -> Path:
    """DATA/SPLIT, or the folder itself where it is a split already.

    Raises:
        UserError: it was not made by `voice-gan prepare`, or has no such split.
    """
    folder = Path(folder)
    place = folder if split is None else folder / split
    if not (place / "wave_000.npy").exists():
        splits = [name for name in SPLITS if (folder / name / "wave_000.npy").exists()]
        if not splits:
            if split and (folder / "wave_000.npy").exists():
                raise UserError(f"{folder} is one split; name the folder that it lies in, {folder.parent}")
            raise UserError(f"{folder} holds no prepared sound; voice-gan prepare AUDIO_DIR --out DATA makes it")
        wanted = f"no split {split}" if split else "several splits, so name one"
        raise UserError(f"{folder} has {wanted}: {', '.join(str(folder / name) for name in splits)}")
    return place


def read_index(path: Path) -> dict[str, Any]:
    """An index.json of a prepared folder.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return json.loads((path / "index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} has no index.json; voice-gan prepare AUDIO_DIR --out DIR makes it") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path / 'index.json'} is damaged; prepare the sound again") from None


def load_utterances(folder: str | Path, split: str | None = None) -> list[Utterance]:
    """The utterances of a split, in the order in which they lie on the disk.

    Args:
        folder: what `voice-gan prepare` made, with `split` given; or one of its splits, such as data/test.

    Raises:
        UserError: no prepared folder, no such split, a damaged index.
    """
    place = split_folder(folder, split)
    index = read_index(place)

    @functools.cache
    def shard(number: int) -> tuple[np.ndarray, np.ndarray]:
        names = (f"wave_{number:03d}.npy", f"f0_{number:03d}.npy")
        try:
            wave, f0 = (load_array(place / name, mmap=True) for name in names)
        except (OSError, ValueError) as error:
            raise UserError(f"{place}: shard {number} can't be read ({error}); prepare the sound again") from None
        return wave, f0

    try:
        found = [
            Utterance(
                id=entry["id"],
                speaker=entry["speaker"],
                text=entry["text"],
                shard=shard(entry["shard"]),
                start=entry["start"],
                samples=entry["samples"],
                rate=index["rate"],
                hop=index["hop"],
            )
            for entry in index["utterances"]
        ]
        whole = all(map(_lies_in_its_shard, found))
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{place / 'index.json'} is damaged, or of other sound; prepare the sound again")
    return found


def _lies_in_its_shard(utterance: Utterance) -> bool:
    place = (utterance.start, utterance.samples, utterance.rate, utterance.hop)
    return (
        all(type(number) is int for number in place)
        and isinstance(utterance.speaker, str)
        and utterance.start >= 0
        and min(utterance.samples, utterance.rate, utterance.hop) > 0
        and utterance.start + utterance.samples <= len(utterance.shard[0]) <= len(utterance.shard[1]) * utterance.hop
    )


@dataclass(frozen=True)
class Batch:
    """What one step reads; rows belong together.

    Attributes:
        wave_BT: segments, float32.
        f0_BF: their F0 in Hz.
        reference_BR: other sound of the same speakers: another utterance, or else another part of the same one, so
            that what is said can't pass through the voice.
        target_BR: sound of another speaker, whose voice the segment is converted to.
        speakers_B, targets_B: numbers of the speakers, int64.
        f0_source_B2, f0_target_B2: mean and spread of log F0 of both.
        rows: the rows' places in the whole step's batch, over all processes.
    """

    wave_BT: np.ndarray
    f0_BF: np.ndarray
    reference_BR: np.ndarray
    target_BR: np.ndarray
    speakers_B: np.ndarray
    targets_B: np.ndarray
    f0_source_B2: np.ndarray
    f0_target_B2: np.ndarray
    rows: range


class Segments:
    """Batches of training segments, each derived from (seed, step) alone.

    An epoch has one segment of every `frames` frames of every utterance, its place moved at random. It goes through
    the shards one after the other, and within a shard in random order, so that a disk reads what lies together.

    Raises:
        UserError: fewer than two speakers, or not enough segments for a batch.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        f0: dict[str, Sequence[float]],
        frames: int,
        reference_frames: int,
        batch: int,
        seed: int,
    ) -> None:
        self.utterances, self.batch, self.seed = utterances, batch, seed
        self.frames, self.reference_frames = frames, reference_frames
        self.speakers = sorted({utterance.speaker for utterance in utterances})
        if len(self.speakers) < 2:
            raise UserError(f"all sound is of one speaker ({', '.join(self.speakers)}); conversion needs at least two")
        self.number_of = {name: number for number, name in enumerate(self.speakers)}
        self.by_speaker: dict[str, list[int]] = {name: [] for name in self.speakers}
        for number, utterance in enumerate(utterances):
            self.by_speaker[utterance.speaker].append(number)
        self.f0_of = np.array([f0[name] for name in self.speakers], dtype=np.float32)
        shards: dict[int, list[int]] = {}
        for number, utterance in enumerate(utterances):
            shards.setdefault(id(utterance.shard[0]), []).extend([number] * max(1, utterance.frames // frames))
        self.shards = [np.array(items) for items in shards.values()]
        self.steps_an_epoch = max(1, sum(map(len, self.shards)) // batch)

    def batch_of(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of process `rank` of `world` in the batch of a step."""
        epoch, place = divmod(step, self.steps_an_epoch)
        order = self._order(epoch)
        items = order.take(np.arange(place * self.batch, (place + 1) * self.batch), mode="wrap")
        size = self.batch // world
        rows = range(rank * size, (rank + 1) * size)
        random = rng(self.seed, "segments", step)
        draws = random.random((self.batch, 6))
        made = [self._row(int(items[row]), draws[row]) for row in rows]
        waves, f0s, references, targets, speakers, others = zip(*made, strict=True)
        return Batch(
            wave_BT=np.stack(waves),
            f0_BF=np.stack(f0s),
            reference_BR=np.stack(references),
            target_BR=np.stack(targets),
            speakers_B=np.array(speakers),
            targets_B=np.array(others),
            f0_source_B2=self.f0_of[list(speakers)],
            f0_target_B2=self.f0_of[list(others)],
            rows=rows,
        )

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_epoch", None) != epoch:
            random = rng(self.seed, "order", epoch)
            shards = [random.permutation(self.shards[n]) for n in random.permutation(len(self.shards))]
            self._epoch, self._items = epoch, np.concatenate(shards)
        return self._items

    def _row(self, item: int, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, int]:
        utterance = self.utterances[item]
        start = int(draw[0] * (max(0, utterance.frames - self.frames) + 1))
        speaker = self.number_of[utterance.speaker]
        target = int(draw[1] * (len(self.speakers) - 1))
        target += target >= speaker
        wave = tile(utterance.wave(start, self.frames), self.frames * utterance.hop)
        return (
            wave,
            tile(utterance.f0(start, self.frames), self.frames),
            self._reference(item, start, draw[2], draw[3]),
            self._anywhere(self.speakers[target], draw[4], draw[5]),
            speaker,
            target,
        )

    def _reference(self, item: int, start: int, which: float, where: float) -> np.ndarray:
        """Sound of the same speaker from elsewhere."""
        utterance = self.utterances[item]
        others = [number for number in self.by_speaker[utterance.speaker] if number != item]
        if others:
            return self._voice(self.utterances[others[int(which * len(others))]], where)
        before, after = start, max(0, utterance.frames - start - self.frames)
        # The longer side, and of it as much as tells a voice if it has that.
        first, room = (0, before) if before >= after else (start + self.frames, after)
        if room * utterance.hop < utterance.rate // 2:  # no room: the other half of what there is
            half = utterance.frames // 2
            first, room = (0, half) if start >= half else (half, utterance.frames - half)
        offset = int(where * (max(0, room - self.reference_frames) + 1))
        heard = utterance.wave(first + offset, min(room, self.reference_frames))
        return tile(heard, self.reference_frames * utterance.hop)

    def _anywhere(self, speaker: str, which: float, where: float) -> np.ndarray:
        numbers = self.by_speaker[speaker]
        return self._voice(self.utterances[numbers[int(which * len(numbers))]], where)

    def _voice(self, utterance: Utterance, where: float) -> np.ndarray:
        start = int(where * (max(0, utterance.frames - self.reference_frames) + 1))
        return tile(utterance.wave(start, self.reference_frames), self.reference_frames * utterance.hop)


def tile(values: np.ndarray, length: int) -> np.ndarray:
    """`values` again and again up to `length`: an utterance shorter than a segment is repeated."""
    return values if len(values) == length else np.resize(values, length)
