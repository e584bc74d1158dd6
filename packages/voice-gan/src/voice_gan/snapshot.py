"""Samples of a model for people: folders of sounds, their pictures and what they are.

A folder holds original.wav, reconstruction.wav, for each target converted_to_SPEAKER.wav and voice_of_SPEAKER.wav (what
the voice was taken from), a .png of each, and metadata.json: the layout that `diag samples` shows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainworks.files import atomic_write, write_json
from trainworks.seeding import rng
from voice_gan.audio import fundamental, write_wav
from voice_gan.config import AudioConfig
from voice_gan.convert import convert_wave, wave_voice
from voice_gan.data import Utterance
from voice_gan.metrics import compare, log_mels
from voice_gan.model import VoiceModel

MANY_VOICES = 6
"""Targets of one content, at most."""
LONG_SECONDS, PAUSE_SECONDS = 30.0, 0.25
"""Length that shows whether a voice stays the same, and what is between the utterances that make it up."""
LOUDEST, SILENCE = 2.0, -9.0
"""Log-mel amplitudes at the ends of the colour scale."""


def write_samples(
    model: VoiceModel, utterances: Sequence[Utterance], folder: Path, num_samples: int = 4, seed: int = 0
) -> list[Path]:
    """Rebuild and convert some utterances, in folders sample_000, sample_001, ... of `folder`.

    Args:
        utterances: to choose from; the speakers take turns, and each is converted to another one by an utterance of
            theirs. With one speaker there is no conversion.
        seed: of the choices.

    Returns:
        The folders.
    """
    was_training = model.training
    model.eval()
    folders = []
    for number, source in enumerate(in_turns(utterances, num_samples, seed)):
        targets = other_voices(utterances, source.speaker, rng(seed, "samples", number))[:1]
        folders.append(folder / f"sample_{number:03}")
        _write_sample(model, source, targets, folders[-1])
    model.train(was_training)
    return folders


def write_many_voices(model: VoiceModel, utterances: Sequence[Utterance], folder: Path, seed: int = 0) -> None:
    """One utterance in the voices of up to `MANY_VOICES` other speakers; the model in evaluation mode."""
    (source,) = in_turns(utterances, 1, seed)
    targets = other_voices(utterances, source.speaker, rng(seed, "many voices"))[:MANY_VOICES]
    _write_sample(model, source, targets, folder)


def write_long_form(model: VoiceModel, utterances: Sequence[Utterance], folder: Path, seed: int = 0) -> None:
    """`LONG_SECONDS` or more of one speaker, who has the most to say, in another's voice; less where there is less."""
    seconds: dict[str, float] = {}
    for utterance in utterances:
        seconds[utterance.speaker] = seconds.get(utterance.speaker, 0.0) + utterance.seconds
    speaker = max(sorted(seconds), key=seconds.__getitem__)
    own = [utterance for utterance in utterances if utterance.speaker == speaker]
    source = joined(own, model.audio)
    _write_sample(model, source, other_voices(utterances, speaker, rng(seed, "long form"))[:1], folder)


def joined(utterances: Sequence[Utterance], audio: AudioConfig) -> Utterance:
    """The first utterances, of one speaker, one after the other until there are `LONG_SECONDS`."""
    pause = round(PAUSE_SECONDS * audio.rate / audio.hop)
    used: list[Utterance] = []
    for utterance in utterances:
        if sum(each.seconds for each in used) >= LONG_SECONDS:
            break
        used.append(utterance)
    waves, f0s = [], []
    for utterance in used:
        first, last = utterance.start, utterance.start + utterance.samples
        samples, f0 = utterance.shard
        waves += [samples[first:last], np.zeros(pause * audio.hop, samples.dtype)]
        f0s += [f0[first // audio.hop : last // audio.hop], np.zeros(pause, f0.dtype)]
    whole = np.concatenate(waves), np.concatenate(f0s)
    texts = [utterance.text for utterance in used if utterance.text]
    names = " + ".join(utterance.id for utterance in used)
    return replace(used[0], id=names, text=" ".join(texts) or None, shard=whole, start=0, samples=len(whole[0]))


def other_voices(utterances: Sequence[Utterance], speaker: str, chance: np.random.Generator) -> list[Utterance]:
    """An utterance of each other speaker, in random order."""
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.speaker != speaker:
            by_speaker.setdefault(utterance.speaker, []).append(utterance)
    drawn = [own[int(chance.integers(len(own)))] for own in by_speaker.values()]
    return [drawn[place] for place in chance.permutation(len(drawn))]


def in_turns(utterances: Sequence[Utterance], count: int, seed: int) -> list[Utterance]:
    """`count` utterances, or all, the speakers taking turns in an order drawn by `seed`."""
    order = rng(seed, "samples").permutation(len(utterances))
    turns: dict[str, int] = {}
    keyed = []
    for place, number in enumerate(order):
        speaker = utterances[number].speaker
        keyed.append((turns.get(speaker, 0), place, number))
        turns[speaker] = turns.get(speaker, 0) + 1
    return [utterances[number] for _, _, number in sorted(keyed)[:count]]


def _write_sample(model: VoiceModel, source: Utterance, targets: Sequence[Utterance], folder: Path) -> None:
    audio, wave_T, f0_F = model.audio, source.wave_T, source.f0_F
    sounds = {"original": wave_T, "reconstruction": convert_wave(model, wave_T, wave_voice(model, wave_T, f0_F), f0_F)}
    record = {
        "utterance": source.id,
        "speaker": source.speaker,
        "text": source.text,
        "seconds": len(wave_T) / audio.rate,
        "rate": audio.rate,
        "reconstruction": compare(wave_T, sounds["reconstruction"], audio, f0_F),
        "converted_to": [{"speaker": target.speaker, "voice_from": target.id} for target in targets],
    }
    for target in targets:
        name = re.sub(r"[^\w.-]+", "_", target.speaker)
        voice = wave_voice(model, target.wave_T, target.f0_F)
        sounds[f"converted_to_{name}"] = convert_wave(model, wave_T, voice, f0_F)
        sounds[f"voice_of_{name}"] = target.wave_T
    folder.mkdir(parents=True, exist_ok=True)
    for name, sound_T in sounds.items():
        write_wav(folder / f"{name}.wav", sound_T, audio.rate)
        draw_spectrogram(folder / f"{name}.png", sound_T, audio)
    write_json(folder / "metadata.json", record)


def draw_spectrogram(path: Path, wave_T: np.ndarray, audio: AudioConfig) -> None:
    """Publish a PNG of the log-mel spectrogram with F0 on it."""
    from matplotlib.figure import Figure

    mel_MF, f0_F = log_mels(wave_T, audio), fundamental(wave_T, audio)
    seconds = len(wave_T) / audio.rate
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.add_subplot()
    extent = (0, seconds, 0, audio.mels)
    axes.imshow(mel_MF, origin="lower", aspect="auto", cmap="magma", extent=extent, vmin=SILENCE, vmax=LOUDEST)
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel band")
    over = axes.twinx()
    times = (np.arange(len(f0_F)) + 0.5) * audio.hop / audio.rate
    over.plot(times, np.where(f0_F > 0, f0_F, np.nan), color="#4fd1ff", linewidth=1.2)
    over.set_ylim(0, audio.f0_max)
    over.set_xlim(0, seconds)
    over.set_ylabel("F0, Hz")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    atomic_write(path, image.getvalue())
