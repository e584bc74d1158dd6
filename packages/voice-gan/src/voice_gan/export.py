"""`voice-gan export`: a run's model as ONNX, for programs without PyTorch.

ONNX has no inverse STFT that runtimes agree on, so both transforms are written as convolutions with the windowed sines
and cosines of the Fourier transform.

Legend: B batch, T = F * hop samples, F frames, M mel bands, K = n_fft / 2 + 1 frequency bins, N = n_fft, V voice.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainworks.console import UserError, warn
from trainworks.files import atomic_write
from voice_gan.audio import LOG_FLOOR, hann, mel_bank
from voice_gan.config import AudioConfig
from voice_gan.encoders import SpeakerEncoder, band_levels
from voice_gan.extras import require
from voice_gan.generator import IstftHead
from voice_gan.model import VoiceModel
from voice_gan.run import load_trained

OPSET = 18
SHOWN_FRAMES = 128
"""Length of the example that the model is traced with; what is exported takes any length of `LEAST_FRAMES` or more."""
LEAST_FRAMES = 8
TOLERANCE = 1e-4
"""Largest difference from PyTorch's sound that goes without a warning."""


def export_run(path: Path, out: Path, *, checkpoint: str = "best", threads: int | None = None) -> dict[str, Any]:
    """Write a run's model as ONNX and compare it with PyTorch.

    - `out`: wave [B, T] of what is to be said, T a multiple of the hop; f0 [B, T / hop] in Hz in the range of the
      voice, 0 where unvoiced; voice [B, V]; gives converted [B, T].
    - beside it NAME.speaker.onnx: wave [B, T] to voice [B, V]; not of a model whose speaker encoder is GE2E.

    Waves are at -24 LUFS, as `loudness.gain_to_target` brings them there. The files' metadata tell the run and the
    recipe's audio section, with rate and hop.

    Returns:
        `out` and `speaker`, the files (None where there is none), and `difference`, the largest one between the sounds
        of ONNX Runtime and PyTorch.

    Raises:
        UserError: the extra "export" is not installed, `out` is no .onnx, or as `load_trained`.
    """
    require("export", "onnx", "onnxscript", "onnxruntime")
    if out.suffix != ".onnx":
        raise UserError(f"{out}: models are exported as .onnx")
    trained = load_trained(path, checkpoint, "cpu", threads)
    model, audio = trained.model, trained.recipe.audio
    metadata = {"tool": "voice-gan", "run": path.resolve().name, "audio": json.dumps(audio.model_dump())}
    example = example_inputs(model)
    atomic_write(out, to_onnx(Converter(model), example, "converted", audio.hop, metadata))
    with torch.no_grad():
        expected_BT = model.generate(model.encode_content(Mel(audio)(example["wave"])), example["f0"], example["voice"])
    difference = float(np.abs(run_onnx(out, example) - expected_BT.numpy()).max())
    if not difference < TOLERANCE:
        warn(f"ONNX Runtime's sound differs from PyTorch's by up to {difference:.2g}")
    beside = None
    if isinstance(model.speaker, SpeakerEncoder):
        beside = out.with_suffix(".speaker.onnx")
        wave = {"wave": example["wave"]}
        atomic_write(beside, to_onnx(VoiceEncoder(model.speaker, audio), wave, "voice", audio.hop, metadata))
    return {"out": str(out), "speaker": None if beside is None else str(beside), "difference": difference}


def example_inputs(model: VoiceModel) -> dict[str, Tensor]:
    """Noise of `SHOWN_FRAMES` frames, an F0 that comes and goes, and a voice: inputs of `Converter`."""
    generator = torch.Generator().manual_seed(0)
    f0_BF = 150 + 50 * torch.rand(1, SHOWN_FRAMES, generator=generator)
    f0_BF[:, ::3] = 0
    return {
        "wave": 0.1 * torch.randn(1, SHOWN_FRAMES * model.audio.hop, generator=generator),
        "f0": f0_BF,
        "voice": F.normalize(torch.randn(1, model.voice_dim, generator=generator), dim=1),
    }


class Mel(nn.Module):
    """`audio.log_mel` as a convolution."""

    def __init__(self, audio: AudioConfig) -> None:
        super().__init__()
        self.hop, self.pad = audio.hop, (audio.n_fft - audio.hop) // 2
        cosines_KN, sines_KN = fourier(audio.n_fft)
        basis_KN = torch.cat([cosines_KN, sines_KN]) * hann(audio.n_fft, torch.device("cpu")).double()
        self.register_buffer("basis", basis_KN.float()[:, None])
        bank_MK = mel_bank(audio.n_fft, audio.mels, audio.rate, audio.fmin, audio.fmax, torch.device("cpu"))
        self.register_buffer("bank", bank_MK)

    def forward(self, wave_BT: Tensor) -> Tensor:
        """(B, T) to (B, M, F)."""
        padded = F.pad(wave_BT[:, None], (self.pad, self.pad), mode="reflect")
        real_BKF, imaginary_BKF = F.conv1d(padded, self.basis, stride=self.hop).chunk(2, dim=1)
        magnitude_BKF = (real_BKF.square() + imaginary_BKF.square() + 1e-9).sqrt()
        return (self.bank @ magnitude_BKF).clamp(min=LOG_FLOOR).log()


class ConvolutionHead(nn.Module):
    """`generator.IstftHead` with the inverse STFT as a transposed convolution."""

    def __init__(self, head: IstftHead) -> None:
        super().__init__()
        self.head, self.hop, self.cut = head, head.hop, (head.n_fft - head.hop) // 2
        window_N = hann(head.n_fft, torch.device("cpu")).double()
        cosines_KN, sines_KN = fourier(head.n_fft)
        # Each bin but the first and the last stands for its mirror image as well.
        weight_K = torch.full((head.n_fft // 2 + 1, 1), 2.0, dtype=torch.float64)
        weight_K[0] = weight_K[-1] = 1.0
        basis_KN = torch.cat([weight_K * cosines_KN, weight_K * sines_KN]) / head.n_fft * window_N
        self.register_buffer("basis", basis_KN.float()[:, None])
        self.register_buffer("envelope", window_N.square().float()[None, None])

    def forward(self, x_BFC: Tensor, source: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, F, C) to sound (B, T)."""
        spectrum_BKF = torch.cat(self.head.spectrum(x_BFC, source), dim=2).transpose(1, 2)
        wave = F.conv_transpose1d(spectrum_BKF, self.basis, stride=self.hop)
        envelope = F.conv_transpose1d(torch.ones_like(spectrum_BKF[:, :1]), self.envelope, stride=self.hop)
        inner = slice(self.cut, -self.cut)
        return wave[:, 0, inner] / envelope[:, 0, inner]


class Converter(nn.Module):
    """Wave, F0 and voice to the converted wave."""

    def __init__(self, model: VoiceModel) -> None:
        super().__init__()
        self.mel, self.model = Mel(model.audio), copy.deepcopy(model)
        if isinstance(self.model.generator.head, IstftHead):
            self.model.generator.head = ConvolutionHead(self.model.generator.head)

    def forward(self, wave: Tensor, f0: Tensor, voice: Tensor) -> Tensor:
        """(B, T), (B, F), (B, V) to (B, T)."""
        return self.model.generate(self.model.encode_content(self.mel(wave)), f0, voice)


class VoiceEncoder(nn.Module):
    """Wave to voice."""

    def __init__(self, encoder: SpeakerEncoder, audio: AudioConfig) -> None:
        super().__init__()
        self.mel, self.encoder = Mel(audio), encoder

    def forward(self, wave: Tensor) -> Tensor:
        """(B, T) to (B, V)."""
        mel_BMF = self.mel(wave)
        return torch.cat([self.encoder.encode_mel(mel_BMF), band_levels(mel_BMF)], 1)


def fourier(size: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the Fourier transform of `size` samples, [K, N] float64 each."""
    # Reduced before it is multiplied, so that the sine of a whole turn is 0.
    turns_KN = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)) % size
    angle_KN = 2 * math.pi * turns_KN.double() / size
    return angle_KN.cos(), -angle_KN.sin()


def to_onnx(
    module: nn.Module, example: Mapping[str, Tensor], output: str, hop: int, metadata: Mapping[str, str]
) -> bytes:
    """An ONNX file of a module that takes "wave" [B, T] and, if it likes, "f0" [B, F] and "voice" [B, V]; any B and
    F, T = F * hop.

    Args:
        example: inputs to trace with, by name.
        output: what the result is called.
    """
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames", min=LEAST_FRAMES)
    shapes = {"wave": {0: batch, 1: hop * frames}, "f0": {0: batch, 1: frames}, "voice": {0: batch}}
    # An example of one row would fix the batch at one.
    rows = tuple(torch.cat([tensor, tensor]) for tensor in example.values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of libraries that it could have used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            module.eval(),
            rows,
            input_names=list(example),
            output_names=[output],
            opset_version=OPSET,
            dynamic_shapes=tuple(shapes[name] for name in example),
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """The one output of an ONNX file, by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
