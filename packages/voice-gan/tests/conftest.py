"""Four made voices, a prepared folder of them, and one finished run on it, for all tests of this package."""

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

VOICES = {"alto": (190, 0.4), "bass": (100, 0.7), "soprano": (250, 0.25), "tenor": (140, 0.5)}
"""F0 in Hz, and how fast the harmonics fade."""
TINY = """
[data]
segment_seconds = 0.5
batch_size = 8
[model.content]
dim = 16
layers = 1
bottleneck = 8
[model.speaker]
channels = 16
layers = 2
dim = 16
[model.generator]
dim = 24
layers = 1
[discriminators]
mpd_channels = [2, 4]
periods = [2, 3]
mrd_channels = 2
segment_seconds = 0.25
resolutions = [[256, 64, 256]]
[training]
epochs = 1
valid_utterances = 2
[diagnostics]
num_samples = 1
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


def run_command(*arguments: object) -> Ended:
    """Run `voice-gan` in this process, through its entry point."""
    from voice_gan.cli import main

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["voice-gan", *map(str, arguments)]
    status: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.argv = before
    return Ended(int(str(status)), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def voice_gan() -> Callable[..., Ended]:
    return run_command


def spoken(voice: str, take: int, seconds: float = 1.5, rate: int = 16_000) -> np.ndarray:
    """A hum of a voice, whose melody and rhythm are another in each take."""
    hertz, fading = VOICES[voice]
    rng = np.random.default_rng([take, hertz])
    time = np.arange(int(seconds * rate)) / rate
    melody = hertz * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(melody) / rate
    rhythm = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 6))
    harmonics = sum(np.exp(-fading * h) * np.sin(h * phase) for h in range(1, 12))
    return (0.2 * rhythm * harmonics + 0.003 * rng.normal(size=len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sound by speaker: ten takes of each voice."""
    import soundfile

    folder = tmp_path_factory.mktemp("corpus")
    for voice in VOICES:
        (folder / voice).mkdir()
        for take in range(10):
            soundfile.write(folder / voice / f"{take}.wav", spoken(voice, take), 16_000)
    return folder


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, prepared: per voice 6 takes in train, 2 in valid, 2 in test."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    ended = run_command("prepare", corpus, "--out", folder, "--unseen", 0, "--quiet")
    assert ended.status == 0, ended.err
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe so small that an epoch takes seconds."""
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="session")
def finished(data: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for an epoch: it knows next to nothing, and has everything that a run has."""
    folder = tmp_path_factory.mktemp("runs")
    ended = run_command("train", data, "--out", folder / "run", "--config", recipe_file, "--threads", 1, "--quiet")
    assert ended.status == 0, ended.err
    return folder / "run"
