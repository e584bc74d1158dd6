"""Sound files that are read, and written, a stretch at a time: an hour takes no more memory than a minute.

Legend: T samples at the model's rate.
"""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from trainworks.console import UserError
from trainworks.files import fsync_directory, fsync_file
from voice_gan.audio import is_rate_of_sound, resample

if TYPE_CHECKING:
    import soundfile

FILTER_SECONDS = 0.05
"""Reach of the resampling filter to each side, generously: it is read along with every stretch."""
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}


class Recording:
    """A sound file as [T] float32 at one rate, its channels averaged; a context manager.

    Attributes:
        num_samples: T of the whole file.

    Raises:
        UserError: no such file, none that libsndfile reads, or one without samples.
    """

    def __init__(self, path: Path, rate: int) -> None:
        import soundfile

        if not path.exists():
            raise UserError(f"{path} does not exist; give a WAV, FLAC or OGG file")
        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.SoundFileError, OSError) as error:
            raise UserError(f"{path} is no sound file that can be read: {error}") from None
        if not is_rate_of_sound(self._file.samplerate):
            self._file.close()
            raise UserError(f"{path} says that it has {self._file.samplerate:,} samples a second; is it damaged?")
        self.path, self.rate = path, rate
        divisor = math.gcd(self._file.samplerate, rate)
        self._up, self._down = rate // divisor, self._file.samplerate // divisor
        self.num_samples = -(-self._file.frames * self._up // self._down)
        if not self.num_samples:
            self._file.close()
            raise UserError(f"{path} has no samples")

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, first: int, last: int) -> np.ndarray:
        """Samples `first` to `last` (not included), fewer at the end of the file.

        They are the same whatever stretch they are read in: a stretch is resampled with what stands around it, on
        the grid on which the two rates meet.

        Raises:
            UserError: a sample is not finite, or the file is damaged.
        """
        last = min(last, self.num_samples)
        # The grid's cells are `up` samples of the wanted rate, `down` of the file's.
        margin = -(-int(FILTER_SECONDS * self.rate) // self._up) if self._up != self._down else 0
        begin = max(0, first // self._up - margin)
        end = -(-last // self._up) + margin
        wave_T = self._read_file(begin * self._down, end * self._down)
        if self._up != self._down:
            wave_T = resample(wave_T, self._file.samplerate, self.rate)
        start = first - begin * self._up
        return wave_T[start : start + last - first]

    def _read_file(self, first: int, last: int) -> np.ndarray:
        import soundfile

        try:
            self._file.seek(first)
            found = self._file.read(last - first, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise UserError(f"{self.path} is damaged: {error}") from None
        if not np.isfinite(found).all():
            second = (first + int(np.argmin(np.isfinite(found).all(axis=1)))) / self._file.samplerate
            raise UserError(f"{self.path} holds NaN or infinity at second {second:.2f}; repair it, or write it anew")
        return found.mean(axis=1)


@contextlib.contextmanager
def new_recording(path: Path, rate: int) -> Iterator[soundfile.SoundFile]:
    """A sound file to be written, 16 bits, which appears under its name once it is whole.

    Raises:
        UserError: the name's ending is no format of `FORMATS`, or it cannot be written to its end.
        OSError: the folder is missing or read-only.
    """
    import soundfile

    format = FORMATS.get(path.suffix.lower())
    if format is None:
        raise UserError(f"{path}: sounds are written as {', '.join(FORMATS)}")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.touch()  # libsndfile doesn't tell why it can't; this does
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        subtype = "VORBIS" if format == "OGG" else "PCM_16"
        with soundfile.SoundFile(temporary, "w", rate, 1, subtype, format=format) as file:
            yield file
        fsync_file(temporary)
        os.replace(temporary, path)
    except soundfile.SoundFileError as error:
        raise UserError(f"{path} cannot be written to its end: {error}; is the disk full?") from None
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
