"""The words and the melody of one recording in the voice of another, piece by piece.

A first pass over the recording finds what the model wants to know of the whole: loudness, fundamental frequency, the
mean and spread of each mel band, and the voice that is to be left behind. The second one converts pieces, each with as
much around it as the networks see, so that the pieces are those of the whole, and ten hours take no more memory than a
minute.

Legend: B batch, T samples, F frames, M mel bands, D speaker embedding, V = D + L voice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainworks.console import UserError, progress
from voice_gan.audio import f0_statistics, fundamental, log_mel, shift_f0
from voice_gan.config import AudioConfig
from voice_gan.encoders import STD_FLOOR
from voice_gan.generator import source_phase
from voice_gan.loudness import STEPS_A_BLOCK, STEPS_A_SECOND, WARM_UP_SECONDS, gain_to_target, gating_energies
from voice_gan.model import VoiceModel
from voice_gan.recording import Recording, new_recording

CHUNK_SECONDS = 20.0
GUIDANCE = 0.5
"""How far a conversion's voice is moved away from the content's own, as a share of the way between the two."""
BLOCK_SECONDS, BLOCK_MARGIN_SECONDS = 30.0, 1.0
"""F0 is looked for in blocks of the one length, with the other to either side, whatever the pieces are."""
VOICE_SECONDS, LEAST_VOICE_SECONDS = 60.0, 0.5
"""At most and at least so much of a recording tells a voice."""


class Sound(Protocol):
    """Something that is read a stretch at a time."""

    @property
    def num_samples(self) -> int:
        """Of the whole."""

    def read(self, first: int, last: int) -> np.ndarray:
        """Samples `first` to `last` (not included), fewer at the end."""


@dataclass(frozen=True)
class Wave:
    """A sound in memory, [T] at the model's rate."""

    wave_T: np.ndarray

    @property
    def num_samples(self) -> int:
        return len(self.wave_T)

    def read(self, first: int, last: int) -> np.ndarray:
        return self.wave_T[first:last]


@dataclass(frozen=True)
class Voice:
    """A voice to speak with.

    Attributes:
        embedding_D: what the speaker encoder says, norm 1.
        levels_L: of the mel bands, `encoders.band_levels`.
        f0: mean and standard deviation of log F0.
    """

    embedding_D: Tensor
    levels_L: Tensor
    f0: tuple[float, float]

    @property
    def vector_BV(self) -> Tensor:
        """(1, V), as `VoiceModel.encode_voice` has it."""
        return torch.cat([self.embedding_D, self.levels_L])[None]


@dataclass(frozen=True)
class Survey:
    """What the model wants to know of a whole recording.

    Attributes:
        gain: factor to the loudness that the model was trained on.
        f0_F: Hz, 0 where unvoiced.
        statistics: mean and standard deviation of each mel band over time, (1, M, 1) each.
        voice_BV: its own voice, (1, V), as `VoiceModel.encode_voice` hears it in the block that is voiced most.
    """

    gain: float
    f0_F: np.ndarray
    statistics: tuple[Tensor, Tensor]
    voice_BV: Tensor


def convert_file(
    model: VoiceModel,
    content: Path,
    voices: Sequence[Path],
    out: Path,
    *,
    guidance: float = GUIDANCE,
    chunk_seconds: float = CHUNK_SECONDS,
) -> dict[str, Any]:
    """Write what is said in `content`, in the voice of `voices`, at the loudness of `content`.

    Args:
        content: a recording of any length.
        voices: recordings of one speaker, of which the first minute each is listened to.
        guidance: as `convert` has it.
        out: .wav, .flac or .ogg; it appears when it is whole.
        chunk_seconds: length of a piece; memory grows with it, the sound doesn't depend on it.

    Returns:
        `out`, `seconds` of sound, `wall_seconds` of work and `real_time_factor`, the one over the other.

    Raises:
        UserError: a recording that can't be used, or a format or place that can't be written.
    """
    if chunk_seconds <= 0:
        raise UserError(f"--chunk-seconds is more than 0, not {chunk_seconds:g}")
    audio = model.audio
    voice = mean_voice([file_voice(model, path) for path in voices])
    with Recording(content, audio.rate) as recording, new_recording(out, audio.rate) as file:
        began = time.perf_counter()
        survey = survey_of(model, recording)
        with progress(len(survey.f0_F), "converting frames") as bar:
            chunk_frames = round(chunk_seconds * audio.rate / audio.hop)
            for piece_T in convert(model, recording, survey, voice, chunk_frames, guidance):
                file.write(piece_T)
                bar.advance(len(piece_T) // audio.hop)
        wall = time.perf_counter() - began
    seconds = recording.num_samples / audio.rate
    return {"out": str(out), "seconds": seconds, "wall_seconds": wall, "real_time_factor": wall / seconds}


def file_voice(model: VoiceModel, path: Path) -> Voice:
    """The voice of a recording.

    Raises:
        UserError: it can't be read, is silent or too short.
    """
    rate = model.audio.rate
    with Recording(path, rate) as recording:
        wave_T = recording.read(0, int(VOICE_SECONDS * rate))
    if len(wave_T) < LEAST_VOICE_SECONDS * rate:
        seconds = f"{len(wave_T) / rate:.2f} s"
        raise UserError(f"{path} is {seconds} long; at least {LEAST_VOICE_SECONDS} s tell a voice, better 5")
    if not wave_T.any():
        raise UserError(f"{path} is digital silence, which has no voice")
    return wave_voice(model, wave_T)


@torch.no_grad()
def wave_voice(model: VoiceModel, wave_T: np.ndarray, f0_F: np.ndarray | None = None) -> Voice:
    """The voice of a sound [T] at the model's rate; `f0_F` as `audio.fundamental` gives it, if that is known."""
    audio = model.audio
    gain = loudness_gain(Wave(wave_T), audio)
    vector_V = model.encode_voice(_batch(model, wave_T * np.float32(gain)))[0]
    embedding_D, levels_L = vector_V.tensor_split([model.speaker_dim])
    return Voice(embedding_D, levels_L, f0_statistics(fundamental(wave_T, audio) if f0_F is None else f0_F))


def mean_voice(voices: Sequence[Voice]) -> Voice:
    """The mean direction of several voices, and the means of their levels and F0 statistics."""
    mean_D = torch.stack([voice.embedding_D for voice in voices]).mean(dim=0)
    means, deviations = zip(*(voice.f0 for voice in voices), strict=True)
    mean_L = torch.stack([voice.levels_L for voice in voices]).mean(dim=0)
    return Voice(
        torch.nn.functional.normalize(mean_D, dim=0), mean_L, (float(np.mean(means)), float(np.mean(deviations)))
    )


@torch.no_grad()
def survey_of(model: VoiceModel, sound: Sound, f0_F: np.ndarray | None = None) -> Survey:
    """What the model wants to know of a whole recording, read in blocks.

    Args:
        f0_F: what `fundamental_in_blocks` would find, if that is known.
    """
    audio = model.audio
    frames = num_frames(sound, audio)
    gain = loudness_gain(sound, audio)
    if f0_F is None:
        f0_F = fundamental_in_blocks(sound, audio)
    f0_F = np.pad(f0_F, (0, frames - len(f0_F)))
    sums_M, squares_M = torch.zeros(2, audio.mels, dtype=torch.float64)
    most_voiced, voice_T = -1, np.empty(0, np.float32)
    for start, wave_T in _blocks(sound, audio):
        voiced = int(np.count_nonzero(f0_F[start : start + len(wave_T) // audio.hop]))
        if voiced > most_voiced:
            most_voiced, voice_T = voiced, wave_T
        mel_MF = mel_piece(model, sound, gain, start, start + len(wave_T) // audio.hop)[0].double().cpu()
        sums_M += mel_MF.sum(dim=1)
        squares_M += mel_MF.square().sum(dim=1)
    mean_M = sums_M / frames
    std_M = (squares_M / frames - mean_M.square() + STD_FLOOR).sqrt()
    mean_BM1, std_BM1 = (values_M.float()[None, :, None].to(_device(model)) for values_M in (mean_M, std_M))
    return Survey(gain, f0_F, (mean_BM1, std_BM1), model.encode_voice(_batch(model, voice_T * np.float32(gain))))


def loudness_gain(sound: Sound, audio: AudioConfig) -> float:
    """The factor that brings a recording to the loudness of the training data."""
    rate = audio.rate
    step = rate // STEPS_A_SECOND
    block, warm_up = (int(seconds * STEPS_A_SECOND) * step for seconds in (BLOCK_SECONDS, WARM_UP_SECONDS))
    energies, peak = [], 0.0
    for start in range(0, sound.num_samples, block):
        before = min(start, warm_up)
        # A gating block belongs to the stretch that it begins in.
        wave_T = sound.read(start - before, start + block + (STEPS_A_BLOCK - 1) * step)
        energies.append(gating_energies(wave_T, rate)[before // step :])
        peak = max(peak, float(np.abs(wave_T).max()))
    return gain_to_target(np.concatenate(energies), peak)


def fundamental_in_blocks(sound: Sound, audio: AudioConfig) -> np.ndarray:
    """`audio.fundamental` of a recording, [F]: of the whole up to `BLOCK_SECONDS`, else block by block."""
    margin = int(BLOCK_MARGIN_SECONDS * audio.rate / audio.hop)
    found = []
    for start, wave_T in _blocks(sound, audio):
        before, count = min(start, margin), len(wave_T) // audio.hop
        f0_F = fundamental(_read(sound, start - before, start + count + margin, audio), audio)
        found.append(f0_F[before : before + count])
    return np.concatenate(found)


@torch.no_grad()
def convert(
    model: VoiceModel,
    sound: Sound,
    survey: Survey,
    voice: Voice,
    chunk_frames: int | None = None,
    guidance: float = GUIDANCE,
) -> Iterator[np.ndarray]:
    """The sound in another voice, [T] in all, in pieces.

    Some of the source's voice leaks through the content. So the generator is told a voice that lies beyond the
    target's, seen from the source's, by `guidance` times the way between them, as classifier-free guidance (Ho &
    Salimans 2022) goes beyond what a condition changes. What is given its own voice stays as it is.

    Args:
        survey: of this sound.
        voice: whose F0 range, embedding and levels are taken.
        chunk_frames: frames of a piece; None converts the whole at once, to the same sound.
        guidance: 0 leaves the target's voice as it is.
    """
    hop, frames = model.audio.hop, num_frames(sound, model.audio)
    chunk_frames = frames if chunk_frames is None else max(1, chunk_frames)
    context = 0 if chunk_frames >= frames else receptive_frames(model)
    f0_F = shift_f0(survey.f0_F, f0_statistics(survey.f0_F), voice.f0).astype(np.float32)
    phase_BF = source_phase(_batch(model, f0_F), model.audio)
    voice_BV = voice.vector_BV + guidance * (voice.vector_BV - survey.voice_BV)
    for start in range(0, frames, chunk_frames):
        stop = min(start + chunk_frames, frames)
        begin, end = max(0, start - context), min(stop + context, frames)
        mel_BMF = mel_piece(model, sound, survey.gain, begin, end)
        content_BCF = model.encode_content(mel_BMF, survey.statistics)
        f0_BF = _batch(model, f0_F[begin:end])
        wave_BT = model.generate(content_BCF, f0_BF, voice_BV, phase_BF[:, begin:end])
        wave_T = wave_BT[0, (start - begin) * hop : (stop - begin) * hop].float().cpu().numpy()
        yield (wave_T / survey.gain)[: sound.num_samples - start * hop]


def convert_wave(
    model: VoiceModel, wave_T: np.ndarray, voice: Voice, f0_F: np.ndarray | None = None, guidance: float = GUIDANCE
) -> np.ndarray:
    """A sound [T] of some seconds at the model's rate in another voice; `f0_F` is the sound's, if that is known."""
    sound = Wave(wave_T)
    return next(convert(model, sound, survey_of(model, sound, f0_F), voice, guidance=guidance))


def receptive_frames(model: VoiceModel) -> int:
    """To how many frames before and after it the sound of a frame owes something, found by backpropagation."""
    audio, device = model.audio, _device(model)
    reach = 32
    while True:
        mel_BMF = torch.randn(1, audio.mels, 2 * reach + 1, device=device, requires_grad=True)
        f0_BF = torch.full((1, 2 * reach + 1), 150.0, device=device, requires_grad=True)
        statistics = torch.zeros(1, audio.mels, 1, device=device), torch.ones(1, audio.mels, 1, device=device)
        voice_BV = torch.nn.functional.normalize(torch.randn(1, model.voice_dim, device=device), dim=1)
        with torch.enable_grad():
            wave_BT = model.generate(model.encode_content(mel_BMF, statistics), f0_BF, voice_BV)
            middle = wave_BT[:, reach * audio.hop : (reach + 1) * audio.hop].square().sum()
            gradients = torch.autograd.grad(middle, (mel_BMF, f0_BF))
        touched = torch.cat([gradient.abs().flatten(0, -2) for gradient in gradients]).sum(dim=0).nonzero()
        found = int((touched - reach).abs().max())
        if found < reach:
            return found
        reach *= 2


def num_frames(sound: Sound, audio: AudioConfig) -> int:
    """Frames of a sound, the last ones filled with silence, at least those of one window."""
    return max(-(-sound.num_samples // audio.hop), -(-audio.n_fft // audio.hop))


def mel_piece(model: VoiceModel, sound: Sound, gain: float, start: int, stop: int) -> Tensor:
    """Frames `start` to `stop` (not included) of the log-mel spectrogram of the whole sound, (1, M, F)."""
    audio = model.audio
    margin = -(-audio.n_fft // (2 * audio.hop))
    begin, end = max(0, start - margin), min(stop + margin, num_frames(sound, audio))
    mel_BMF = log_mel(_batch(model, np.float32(gain) * _read(sound, begin, end, audio)), audio)
    return mel_BMF[:, :, start - begin : stop - begin]


def _blocks(sound: Sound, audio: AudioConfig) -> Iterator[tuple[int, np.ndarray]]:
    """First frame and samples of each block."""
    frames, block = num_frames(sound, audio), int(BLOCK_SECONDS * audio.rate / audio.hop)
    for start in range(0, frames, block):
        yield start, _read(sound, start, min(start + block, frames), audio)


def _read(sound: Sound, start: int, stop: int, audio: AudioConfig) -> np.ndarray:
    """Samples of the frames `start` to `stop` (not included) as far as the sound has frames, the last filled up."""
    stop = min(stop, num_frames(sound, audio))
    wave_T = sound.read(start * audio.hop, stop * audio.hop)
    return np.pad(wave_T, (0, (stop - start) * audio.hop - len(wave_T)))


def _batch(model: VoiceModel, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None].to(_device(model))


def _device(model: VoiceModel) -> torch.device:
    return next(model.parameters()).device
