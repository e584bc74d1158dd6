"""Conversion: pieces are those of the whole, whatever the file is like, and bad files are named."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from trainworks.console import UserError
from voice_gan import convert as converting
from voice_gan.audio import log_mel, resample
from voice_gan.config import PRESETS, VoiceRecipe
from voice_gan.convert import (
    Voice,
    Wave,
    convert,
    convert_file,
    convert_wave,
    fundamental_in_blocks,
    loudness_gain,
    receptive_frames,
    survey_of,
    wave_voice,
)
from voice_gan.model import VoiceModel
from voice_gan.recording import Recording, new_recording

RATE = 16_000


def vowel(hertz: float = 150.0, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """A voiced sound whose pitch rises and falls by a tenth, with a little noise."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / rate
    noise = np.random.default_rng(0).normal(size=len(time))
    return (sum(np.sin(h * phase) / h for h in range(1, 9)) / 8 + 0.003 * noise).astype(np.float32)


def loud_model(**generator: object) -> VoiceModel:
    """A small model with random weights so large that everything that goes in comes out."""
    recipe = VoiceRecipe.model_validate(PRESETS["small"])
    recipe = recipe.model_validate(
        {**recipe.model_dump(), "model": {"generator": {"dim": 48, "layers": 2, **generator}}}
    )
    torch.manual_seed(0)
    model = VoiceModel(recipe).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def model() -> VoiceModel:
    return loud_model()


@pytest.fixture(scope="module")
def voice(model: VoiceModel) -> Voice:
    return wave_voice(model, vowel(220))


@pytest.mark.parametrize("generator", [{}, {"conditioning": "cross-attention"}, {"kind": "hifigan"}])
def test_pieces_are_those_of_the_whole(generator: dict[str, str]):
    model = loud_model(**generator)
    sound, voice = Wave(vowel()[:31_111]), wave_voice(model, vowel(220))
    survey = survey_of(model, sound)
    (whole,) = convert(model, sound, survey, voice)
    assert whole.shape == sound.wave_T.shape
    assert whole.std() > 1e-3
    for chunk_frames in (7, 50):
        pieces = list(convert(model, sound, survey, voice, chunk_frames))
        assert len(pieces) == -(-122 // chunk_frames)
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


def test_the_whole_is_what_the_model_makes(model: VoiceModel, voice: Voice):
    wave_T = vowel()[: 120 * 256]
    gain = np.float32(loudness_gain(Wave(wave_T), model.audio))
    f0_F = np.full(120, 100, np.float32)
    content = model.encode_content(log_mel(torch.from_numpy(gain * wave_T)[None], model.audio))
    # A flat melody stays flat, at the mean of the other voice.
    other = torch.full((1, 120), float(np.exp(voice.f0[0])))
    made = model.generate(content, other, voice.vector_BV)[0].numpy() / gain
    np.testing.assert_allclose(convert_wave(model, wave_T, voice, f0_F, guidance=0), made, atol=1e-5)


def test_guidance_leads_away_from_the_voice_of_the_source_and_leaves_it_alone_in_its_own(
    model: VoiceModel, voice: Voice
):
    wave_T = vowel()[: 120 * 256]
    own = wave_voice(model, wave_T)
    beyond = Voice(1.5 * voice.embedding_D - 0.5 * own.embedding_D, 1.5 * voice.levels_L - 0.5 * own.levels_L, voice.f0)
    np.testing.assert_allclose(
        convert_wave(model, wave_T, voice, guidance=0.5), convert_wave(model, wave_T, beyond, guidance=0), atol=1e-5
    )
    np.testing.assert_allclose(
        convert_wave(model, wave_T, own, guidance=0.5), convert_wave(model, wave_T, own, guidance=0), atol=1e-5
    )


def test_the_voice_that_is_left_behind_is_heard_where_there_is_one(model: VoiceModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(converting, "BLOCK_SECONDS", 2.0)
    pause, speech = np.full(2 * RATE, 1e-4, np.float32), vowel(seconds=2)
    alone, after = (survey_of(model, Wave(wave_T)) for wave_T in (speech, np.concatenate([pause, speech])))
    torch.testing.assert_close(after.voice_BV, alone.voice_BV, atol=1e-2, rtol=0)


def test_nothing_farther_away_than_the_receptive_field_matters(model: VoiceModel):
    reach = receptive_frames(model)
    mel = torch.randn(1, model.audio.mels, 2 * reach + 3)
    statistics = torch.zeros(1, model.audio.mels, 1), torch.ones(1, model.audio.mels, 1)
    f0, voice = torch.full((1, mel.shape[2]), 150.0), torch.ones(1, model.voice_dim) / model.voice_dim**0.5

    def middle(changed: int) -> torch.Tensor:
        other = mel.clone()
        other[:, :, changed] += 3
        made = model.generate(model.encode_content(other, statistics), f0, voice)
        return made[0, (reach + 1) * 256 : (reach + 2) * 256]

    unchanged = middle(slice(0, 0))
    assert torch.equal(middle(0), unchanged)
    assert not torch.equal(middle(1), unchanged)


def test_a_survey_in_blocks_is_that_of_the_whole(model: VoiceModel, monkeypatch: pytest.MonkeyPatch):
    sound = Wave(vowel(seconds=4) * np.linspace(0.01, 1, 4 * RATE, dtype=np.float32))
    whole = survey_of(model, sound)
    monkeypatch.setattr(converting, "BLOCK_SECONDS", 1.0)
    blocks = survey_of(model, sound)
    assert blocks.gain == pytest.approx(whole.gain, rel=1e-6)
    mel = log_mel(torch.from_numpy(np.float32(whole.gain) * sound.wave_T)[None], model.audio)
    for found, expected in zip(blocks.statistics, model.content_statistics(mel), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    voiced = (blocks.f0_F > 0) & (whole.f0_F > 0)
    assert voiced.mean() > 0.9
    np.testing.assert_allclose(blocks.f0_F[voiced], whole.f0_F[voiced], rtol=0.02)


def test_a_long_recording_is_never_in_memory(model: VoiceModel, voice: Voice):
    class Watched(Wave):
        longest = 0

        def read(self, first: int, last: int) -> np.ndarray:
            Watched.longest = max(Watched.longest, last - first)
            return super().read(first, last)

    sound = Watched(np.tile(vowel(), 50))
    seconds = sum(map(len, convert(model, sound, survey_of(model, sound), voice, chunk_frames=300))) / RATE
    assert seconds == 100
    assert Watched.longest < 33 * RATE


def test_any_rate_and_channels_make_a_file_of_the_same_length_and_loudness(model: VoiceModel, tmp_path: Path):
    content = np.stack([vowel(rate=192_000), vowel(100, rate=192_000)], axis=1)
    soundfile.write(tmp_path / "a.wav", content, 192_000, subtype="FLOAT")
    soundfile.write(tmp_path / "soft.wav", 0.1 * content, 192_000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.flac", vowel(220, rate=44_100), 44_100)
    made = convert_file(model, tmp_path / "a.wav", [tmp_path / "b.flac"], tmp_path / "c.wav")
    assert made["seconds"] == 2
    samples, rate = soundfile.read(tmp_path / "c.wav", dtype="float32")
    assert (samples.shape, rate) == ((2 * RATE,), RATE)
    convert_file(model, tmp_path / "soft.wav", [tmp_path / "b.flac"], tmp_path / "soft.flac", chunk_seconds=0.3)
    soft, _ = soundfile.read(tmp_path / "soft.flac", dtype="float32")
    within = np.abs(samples) < 0.9
    np.testing.assert_allclose(10 * soft[within], samples[within], atol=2e-3)


def test_several_recordings_make_one_voice(model: VoiceModel, tmp_path: Path):
    for name, hertz in (("a", 150), ("b", 200), ("c", 240)):
        soundfile.write(tmp_path / f"{name}.wav", vowel(hertz), RATE)
    convert_file(model, tmp_path / "a.wav", [tmp_path / "b.wav"], tmp_path / "one.wav")
    convert_file(model, tmp_path / "a.wav", [tmp_path / "b.wav", tmp_path / "c.wav"], tmp_path / "two.wav")
    assert (tmp_path / "one.wav").read_bytes() != (tmp_path / "two.wav").read_bytes()


def test_a_stretch_of_a_resampled_file_is_that_of_the_whole(tmp_path: Path):
    wave = vowel(rate=44_100)
    soundfile.write(tmp_path / "a.wav", wave, 44_100, subtype="FLOAT")
    with Recording(tmp_path / "a.wav", RATE) as recording:
        whole = recording.read(0, recording.num_samples)
        np.testing.assert_allclose(whole, resample(wave, 44_100, RATE), atol=1e-6)
        stretches = [recording.read(first, first + 1234) for first in range(0, recording.num_samples, 1234)]
    np.testing.assert_allclose(np.concatenate(stretches), whole, atol=1e-5)


def test_the_sound_of_a_file_at_once_has_one_block(model: VoiceModel):
    from voice_gan.audio import fundamental

    wave_T = vowel()
    np.testing.assert_array_equal(fundamental_in_blocks(Wave(wave_T), model.audio), fundamental(wave_T, model.audio))


@pytest.mark.parametrize(
    ("content", "voice", "out", "message"),
    [
        ("none.wav", "good.wav", "c.wav", "none.wav does not exist"),
        ("text.wav", "good.wav", "c.wav", "text.wav is no sound file that can be read"),
        ("empty.wav", "good.wav", "c.wav", "empty.wav has no samples"),
        ("nan.wav", "good.wav", "c.wav", "nan.wav holds NaN or infinity at second 1.00"),
        ("good.wav", "nan.wav", "c.wav", "nan.wav holds NaN or infinity"),
        ("good.wav", "silent.wav", "c.wav", "silent.wav is digital silence"),
        ("good.wav", "short.wav", "c.wav", r"short.wav is 0.20 s long"),
        ("good.wav", "good.wav", "c.mp4", r"c.mp4: sounds are written as .wav, .flac, .ogg"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(
    model: VoiceModel, tmp_path: Path, content: str, voice: str, out: str, message: str
):
    sounds = {
        "good": vowel(),
        "empty": np.zeros(0, np.float32),
        "nan": np.where(np.arange(2 * RATE) == RATE, np.nan, vowel()),
        "silent": np.zeros(RATE, np.float32),
        "short": vowel(seconds=0.2),
    }
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is no sound")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        convert_file(model, tmp_path / content, [tmp_path / voice], tmp_path / out)
    assert sorted(tmp_path.iterdir()) == before


def test_silence_and_a_moment_can_be_converted(model: VoiceModel, voice: Voice):
    for content in (np.zeros(RATE, np.float32), vowel(seconds=0.01)):
        made = convert_wave(model, content, voice)
        assert made.shape == content.shape
        assert np.isfinite(made).all()


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path):
    with pytest.raises(OSError, match=r"c\.wav"), new_recording(tmp_path / "none" / "c.wav", RATE):
        pass


def test_the_command_prints_the_file_or_one_line_of_what_is_wrong(
    voice_gan, finished: Path, corpus: Path, tmp_path: Path
):
    content, voice = corpus / "bass" / "0.wav", corpus / "alto" / "0.wav"
    words = ("convert", finished, "--content", content, "--voice", voice, "--threads", 1, "--quiet")
    ended = voice_gan(*words, "-o", tmp_path / "c.ogg")
    assert (ended.status, ended.out, ended.err) == (0, f"{tmp_path / 'c.ogg'}\n", "")
    assert soundfile.info(tmp_path / "c.ogg").duration == 1.5
    (tmp_path / "text.wav").write_text("this is no sound")
    for out, said in (("none/c.wav", "none/c.wav"), ("c.mp4", "sounds are written as")):
        ended = voice_gan(*words, "-o", tmp_path / out)
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert said in ended.err
    ended = voice_gan(*words[:3], tmp_path / "text.wav", *words[4:], "-o", tmp_path / "d.wav")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "text.wav is no sound file" in ended.err
    assert not (tmp_path / "d.wav").exists()
