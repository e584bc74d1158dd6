"""ONNX: the same sound as PyTorch's, at any length."""

from pathlib import Path

import pytest
import torch

from trainworks.console import UserError
from voice_gan.audio import log_mel
from voice_gan.config import AudioConfig
from voice_gan.export import ConvolutionHead, Mel, export_run, run_onnx
from voice_gan.generator import IstftHead
from voice_gan.run import load_trained

for module in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(module, reason="extra export")


def test_the_spectrogram_as_a_convolution_is_the_spectrogram():
    wave = 0.1 * torch.randn(2, 40 * 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Mel(AudioConfig())(wave), log_mel(wave, AudioConfig()), atol=1e-4, rtol=0)


def test_the_inverse_transform_as_a_convolution_is_the_inverse_transform():
    torch.manual_seed(0)
    head = IstftHead(16, 1024, 256)
    torch.nn.init.normal_(head.out.weight, std=0.5)
    features = torch.randn(2, 30, 16)
    expected = head(features)
    assert expected.std() > 0.05
    torch.testing.assert_close(ConvolutionHead(head)(features), expected, atol=1e-5, rtol=0)


def test_onnx_makes_the_sound_of_pytorch_at_any_length_and_batch(finished: Path, tmp_path: Path):
    told = export_run(finished, tmp_path / "voice.onnx", threads=1)
    assert told["difference"] < 1e-4
    model = load_trained(finished, device="cpu").model
    wave, voice = 0.1 * torch.randn(3, 77 * 256), 0.1 * torch.randn(3, 50 * 256)
    f0 = torch.full((3, 77), 180.0)
    f0[:, :20] = 0
    with torch.no_grad():
        expected_voice = model.encode_voice(voice)
        expected = model.generate(model.encode_content(log_mel(wave, model.audio)), f0, expected_voice)
    found_voice = run_onnx(Path(told["speaker"]), {"wave": voice})
    assert found_voice == pytest.approx(expected_voice.numpy(), abs=1e-4)
    found = run_onnx(tmp_path / "voice.onnx", {"wave": wave, "f0": f0, "voice": expected_voice})
    assert found.shape == (3, 77 * 256)
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_another_ending_is_refused(finished: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"models are exported as \.onnx"):
        export_run(finished, tmp_path / "voice.pt")
