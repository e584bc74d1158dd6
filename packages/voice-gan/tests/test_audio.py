"""Sound to spectrograms and F0, on one grid of frames."""

import numpy as np
import pytest
import soundfile
import torch

from trainworks.console import UserError
from voice_gan.audio import f0_statistics, fundamental, log_mel, mel_bank, read_audio, resample, shift_f0, write_wav
from voice_gan.config import AudioConfig
from voice_gan.prepare import Limits, Unusable, read_utterance
from voice_gan.recording import Recording

AUDIO = AudioConfig()


def hum(hertz: float, seconds: float = 1.0, rate: int = 16000) -> np.ndarray:
    phase = 2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate
    return (0.1 * sum(np.sin(n * phase) / n for n in range(1, 8))).astype(np.float32)


def test_a_mel_has_one_frame_a_hop() -> None:
    for samples in (1024, 16000, 16001, 16255):
        assert log_mel(torch.zeros(1, samples), AUDIO).shape == (1, 80, samples // 256)


def test_mel_bands_are_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    for n_fft, mels in ((1024, 80), (512, 40)):
        bank = mel_bank(n_fft, mels, 16000, 0.0, 8000.0, torch.device("cpu"))
        expected = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=mels, fmin=0, fmax=8000)
        np.testing.assert_allclose(bank.numpy(), expected, atol=1e-7)


def test_a_click_is_loudest_in_the_frame_it_is_in() -> None:
    wave = torch.zeros(1, 8192)
    wave[0, 10 * 256 + 128] = 1.0
    assert log_mel(wave, AUDIO)[0].mean(0).argmax() == 10


def test_f0_of_a_hum_and_none_of_silence() -> None:
    wave = np.concatenate([hum(140.0), np.zeros(16000, np.float32)])
    f0 = fundamental(wave, AUDIO)
    assert len(f0) == len(wave) // 256
    np.testing.assert_allclose(f0[5:55], 140, rtol=0.01)
    assert not f0[70:].any()


def test_too_short_for_a_pitch_is_unvoiced() -> None:
    assert fundamental(hum(140.0)[:600], AUDIO).tolist() == [0.0, 0.0]


def test_shifted_f0_has_the_targets_mean_and_spread() -> None:
    random = np.random.default_rng(0)
    f0 = np.exp(random.normal(4.7, 0.2, 500)).astype(np.float32)
    f0[::5] = 0
    target = (5.3, 0.3)
    shifted = shift_f0(f0, f0_statistics(f0), target)
    assert f0_statistics(shifted) == pytest.approx(target, abs=1e-3)
    assert not shifted[::5].any()
    pair = torch.tensor([f0_statistics(f0)]), torch.tensor([target])
    in_a_batch = shift_f0(torch.from_numpy(f0)[None], *pair)
    np.testing.assert_allclose(in_a_batch[0].numpy(), shifted, rtol=1e-4)


def test_a_flat_voice_is_not_stretched_beyond_twice_its_spread() -> None:
    f0 = np.array([100.0, 101.0], np.float32)
    shifted = shift_f0(f0, f0_statistics(f0), (5.0, 1.0))
    assert np.log(shifted[1] / shifted[0]) <= 2.001 * np.log(1.01)


def test_resampling_keeps_a_tone() -> None:
    there = resample(hum(440.0, rate=48000), 48000, 16000)
    np.testing.assert_allclose(there[500:-500], hum(440.0)[500:-500], atol=2e-3)


def test_stereo_is_mixed_and_written_sound_comes_back(tmp_path) -> None:
    wave = hum(200.0, rate=192000)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, 0 * wave], 1), 192000, subtype="FLOAT")
    mixed, rate = read_audio(tmp_path / "a.wav")
    assert rate == 192000
    np.testing.assert_allclose(mixed, wave / 2, atol=1e-6)
    write_wav(tmp_path / "b.wav", mixed, rate)
    np.testing.assert_allclose(read_audio(tmp_path / "b.wav")[0], mixed, atol=1e-4)


def test_what_is_no_sound_is_said_in_one_line(tmp_path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "header.wav", np.zeros(9), 2**31 - 1)
    reasons = {"text": "not a sound file", "nan": "NaN", "empty": "no samples", "none": "no sound", "header": "damaged"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            read_audio(tmp_path / f"{name}.wav")
    with pytest.raises(UserError, match="2,147,483,647 samples a second; is it damaged"):
        Recording(tmp_path / "header.wav", 16_000)
    with pytest.raises(Unusable, match="its header says 2,147,483,647 samples a second"):
        read_utterance(tmp_path / "header.wav", AudioConfig(), Limits())
