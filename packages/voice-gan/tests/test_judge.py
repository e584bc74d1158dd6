"""Judges of voices: figures of known truths, and a judge that no model can have been trained on."""

from importlib.util import find_spec

import numpy as np
import pytest

from trainworks.console import UserError
from voice_gan.config import AudioConfig
from voice_gan.judge import Voices, band, choose_judge, equal_error_rate, statistics_judge

RATE, AUDIO = 16_000, AudioConfig()
SPEAKERS = {"low": (110, 0.8), "middle": (170, 0.5), "high": (240, 0.2)}
"""F0 in Hz, and how fast the harmonics fade."""


def spoken(speaker: str, take: int) -> np.ndarray:
    """Two seconds of a vowel whose pitch wanders differently in each take."""
    hertz, fading = SPEAKERS[speaker]
    rng = np.random.default_rng([take, hertz])
    time = np.arange(2 * RATE) / RATE
    melody = hertz * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(melody) / RATE
    sound = sum(np.exp(-fading * h) * np.sin(h * phase) for h in range(1, 12)) + 0.01 * rng.normal(size=len(time))
    return (0.2 * sound).astype(np.float32)


@pytest.fixture(scope="module")
def corpus() -> tuple[list[np.ndarray], list[str]]:
    speakers = [name for name in SPEAKERS for _ in range(3)]
    return [spoken(name, take) for take, name in enumerate(speakers)], speakers


def test_similarity_is_centred_and_leaves_the_own_recording_out():
    rows = np.array([[3.0, 1.0], [3.0, 2.0], [3.0, -1.0], [3.0, -2.0]])
    voices = Voices.of(rows, ["a", "a", "b", "b"])
    assert voices.similarity(rows[0], "a") == pytest.approx(1, abs=0.05)
    assert voices.similarity(rows[0], "b") == pytest.approx(-1, abs=0.05)
    alone = Voices.of(np.array([[1.0, 0.2], [1.0, 0.1], [1.0, -1.0]]), ["a", "a", "b"])
    # The speaker's only recording stays, since there is no other.
    assert alone.similarity(np.array([1.0, -1.0]), "b", without=[2]) == pytest.approx(1)
    assert alone.similarity(np.array([1.0, 0.1]), "a", without=[1]) == pytest.approx(
        alone.centred_ND[0] @ alone.centred_ND[1]
    )


def test_bands_are_means_over_all_pairs():
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(20, 8)), 4, axis=0)
    rows = 5 + centres + 0.3 * rng.normal(size=(80, 8))  # a common direction, as GE2E has
    speakers = [f"s{number // 4}" for number in range(80)]
    found = Voices.of(rows, speakers).bands()
    assert found["raw_different"] > 0.8
    assert found["same"] > 0.7
    assert abs(found["different"]) < 0.1
    assert found["separation"] == pytest.approx(found["same"] - found["different"])
    assert found["band"] == "excellent"
    assert found["equal_error_rate"] < 0.1
    assert [band(value) for value in (0.5, 0.3, 0.1)] == ["good", "fair", "poor"]


def test_equal_error_rate_is_where_the_roc_meets_the_antidiagonal():
    metrics = pytest.importorskip("sklearn.metrics")
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    same, different = rng.normal(1, 1, 300), rng.normal(-0.5, 1.3, 900)
    accepted, found, _ = metrics.roc_curve(np.repeat([1, 0], [300, 900]), np.concatenate([same, different]))
    expected = optimize.brentq(lambda x: 1 - x - np.interp(x, accepted, found), 0, 1)
    assert equal_error_rate(same, different) == pytest.approx(expected, abs=2e-3)
    assert equal_error_rate(np.array([1.0, 2.0]), np.array([-1.0, 0.0])) == 0
    assert equal_error_rate(np.array([0.0]), np.array([1.0])) == 1
    assert np.isnan(equal_error_rate(np.array([]), np.array([1.0])))


def test_statistics_part_voices(corpus: tuple[list[np.ndarray], list[str]]):
    waves, speakers = corpus
    judge = statistics_judge(waves, speakers, AUDIO)
    voices = Voices.of(np.stack([judge.embed(wave) for wave in waves]), speakers)
    assert voices.bands()["separation"] > 0.6
    fresh = judge.embed(spoken("high", 99))
    assert voices.similarity(fresh, "high") > 0.5 > voices.similarity(fresh, "low")
    assert np.isfinite(judge.embed(np.zeros(RATE, np.float32))).all()
    assert np.isfinite(judge.embed(0.01 * np.random.default_rng(0).normal(size=RATE).astype(np.float32))).all()


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="its weights are an extra")
def test_ge2e_hears_speakers(corpus: tuple[list[np.ndarray], list[str]]):
    waves, speakers = corpus
    judge = choose_judge("auto", "own", waves, speakers, AUDIO)
    assert judge.name == "ge2e"
    voices = Voices.of(np.stack([judge.embed(wave) for wave in waves]), speakers)
    assert voices.bands()["equal_error_rate"] < 0.2
    # However soft a recording is.
    np.testing.assert_allclose(judge.embed(0.01 * waves[0]), judge.embed(0.001 * waves[0]), atol=1e-3)


def test_a_model_is_not_judged_by_its_own_encoder(
    corpus: tuple[list[np.ndarray], list[str]], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(UserError, match="this run's own speaker encoder is GE2E, which would judge itself"):
        choose_judge("ge2e", "ge2e", *corpus, AUDIO)
    assert choose_judge("auto", "ge2e", *corpus, AUDIO).name == "statistics"
    assert "voices are judged by their statistics instead" in capsys.readouterr().err


def test_a_judge_that_cannot_be_is_told(corpus: tuple[list[np.ndarray], list[str]]):
    waves, speakers = corpus
    with pytest.raises(UserError, match='--judge is auto, ge2e, statistics, not "me"'):
        choose_judge("me", "own", waves, speakers, AUDIO)
    with pytest.raises(UserError, match="two speakers of two utterances each"):
        choose_judge("statistics", "own", waves[2:5], speakers[2:5], AUDIO)
