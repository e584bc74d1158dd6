"""Whose voice is it? Judges of voices that training never saw.

Legend: N utterances, D dimensions of an embedding, T samples, S speakers. Cosines are of embeddings from which the mean
voice was taken away: GE2E's raw cosines are all positive, so that strangers look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainworks.console import UserError, warn
from voice_gan.audio import fundamental, resample
from voice_gan.config import AudioConfig
from voice_gan.encoders import Ge2e
from voice_gan.metrics import JUDGED_RATE, cepstra, log_mels

BANDS = ((0.6, "excellent"), (0.4, "good"), (0.2, "fair"))
"""Separation, same-speaker minus different-speaker cosine, that earns a word; below all it is "poor"."""
SHRINKAGE = 0.1
"""Share of the diagonal in the within-speaker covariance of `statistics_judge`: utterances are few."""
LEAST_LEVEL = 10 ** (-30 / 20)
"""Root mean square to which softer sounds are raised for GE2E."""
JUDGES = ("auto", "ge2e", "statistics")


@dataclass(frozen=True)
class Judge:
    """An embedding of voices.

    Attributes:
        name: ge2e or statistics.
        embed: from a sound [T] at the recipe's rate to [D], finite and not zero.
    """

    name: str
    embed: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Voices:
    """Real utterances as a judge hears them.

    Attributes:
        centred_ND: unit rows, after the mean over speakers was taken away.
        speakers: [N] who speaks.
        centre_D: that mean.
        raw_ND: unit rows before.
    """

    centred_ND: np.ndarray
    speakers: np.ndarray
    centre_D: np.ndarray
    raw_ND: np.ndarray

    @classmethod
    def of(cls, embeddings_ND: np.ndarray, speakers: Sequence[str]) -> Voices:
        labels = np.asarray(speakers)
        raw_ND = unit(embeddings_ND)
        centre_D = np.mean([raw_ND[labels == name].mean(axis=0) for name in np.unique(labels)], axis=0)
        return cls(unit(raw_ND - centre_D), labels, centre_D, raw_ND)

    def similarity(self, embedding_D: np.ndarray, speaker: str, without: Sequence[int] = ()) -> float:
        """Cosine of a voice with the mean of a speaker's utterances, -1 to 1.

        Args:
            without: numbers of utterances to leave out, such as the one that the voice was made from. If the speaker
                has no other, they stay.
        """
        own = np.flatnonzero(self.speakers == speaker)
        others = np.setdiff1d(own, without)
        mean_D = self.centred_ND[others if len(others) else own].mean(axis=0)
        return float(unit(unit(embedding_D) - self.centre_D) @ unit(mean_D))

    def bands(self) -> dict[str, float | str | int]:
        """How far the speakers part: mean centred cosine over all pairs of one speaker (`same`) and of two
        (`different`), their difference (`separation`) with its word (`band`), the same before centring, and the equal
        error rate of telling the two kinds of pair apart. NaN where there are no such pairs."""
        first, second = np.triu_indices(len(self.speakers), 1)
        alike = self.speakers[first] == self.speakers[second]
        centred, raw = ((rows @ rows.T)[first, second] for rows in (self.centred_ND, self.raw_ND))
        same, different = _mean(centred[alike]), _mean(centred[~alike])
        return {
            "same": same,
            "different": different,
            "separation": same - different,
            "band": band(same - different),
            "equal_error_rate": equal_error_rate(centred[alike], centred[~alike]),
            "raw_same": _mean(raw[alike]),
            "raw_different": _mean(raw[~alike]),
            "speakers": len(np.unique(self.speakers)),
            "utterances": len(self.speakers),
        }


def choose_judge(
    name: str, own_encoder: str, waves: Sequence[np.ndarray], speakers: Sequence[str], audio: AudioConfig
) -> Judge:
    """The judge of that name, or for "auto" GE2E where it is installed and not the model's own encoder.

    Args:
        own_encoder: the recipe's model.speaker_encoder.
        waves, speakers: the real utterances, which fit the judge "statistics".

    Raises:
        UserError: GE2E would judge a model that was trained on it, is not installed, or there is no such judge.
    """
    if name not in JUDGES:
        raise UserError(f'--judge is {", ".join(JUDGES)}, not "{name}"')
    if name == "ge2e" and own_encoder == "ge2e":
        raise UserError("this run's own speaker encoder is GE2E, which would judge itself; use --judge statistics")
    if name == "ge2e":
        return ge2e_judge(audio.rate)
    if name == "auto":
        if own_encoder == "ge2e":
            warn("this run's own speaker encoder is GE2E: voices are judged by their statistics instead")
        else:
            try:
                return ge2e_judge(audio.rate)
            except UserError as error:
                warn(f"{error}; voices are judged by their statistics instead, which is a weaker judge")
    return statistics_judge(waves, speakers, audio)


def ge2e_judge(rate: int) -> Judge:
    """GE2E (Wan et al. 2018) with the weights that the package resemblyzer carries, which other speech made.

    Raises:
        UserError: the extra "ge2e" is not installed.
    """
    encoder = Ge2e(JUDGED_RATE).eval()

    def embed(wave_T: np.ndarray) -> np.ndarray:
        wave_T = wave_T if rate == JUDGED_RATE else resample(wave_T, rate, JUDGED_RATE)
        # resemblyzer raises soft sounds as well, and leaves loud ones.
        gain = max(1.0, LEAST_LEVEL / max(float(np.sqrt((wave_T.astype(np.float64) ** 2).mean())), 1e-9))
        with torch.no_grad():
            return encoder(torch.from_numpy(np.float32(gain) * wave_T)[None])[0].numpy()

    return Judge("ge2e", embed)


def statistics_judge(waves: Sequence[np.ndarray], speakers: Sequence[str], audio: AudioConfig) -> Judge:
    """Mean and spread of cepstra and of log F0 over voiced frames, whitened by how they vary within a speaker
    (within-class covariance normalisation, Hatch et al. 2006).

    Nothing in it was trained but that covariance, of the real utterances: a second opinion where GE2E cannot judge.

    Raises:
        UserError: fewer than two speakers with two utterances, which show how a voice varies.
    """
    labels = np.asarray(speakers)
    features_ND = np.stack([voice_statistics(wave_T, audio) for wave_T in waves])
    repeated = [name for name in np.unique(labels) if (labels == name).sum() > 1]
    if len(repeated) < 2:
        raise UserError("the judge wants two speakers of two utterances each; give more data, or --judge ge2e")
    deviations_ND = np.concatenate(
        [features_ND[labels == name] - features_ND[labels == name].mean(axis=0) for name in repeated]
    )
    within_DD = deviations_ND.T @ deviations_ND / (len(deviations_ND) - len(repeated))
    within_DD = (1 - SHRINKAGE) * within_DD + SHRINKAGE * np.diag(np.diag(within_DD)) + 1e-6 * np.eye(len(within_DD))
    whitening_DD = np.linalg.inv(np.linalg.cholesky(within_DD))
    middle_D = np.mean([features_ND[labels == name].mean(axis=0) for name in np.unique(labels)], axis=0)

    def embed(wave_T: np.ndarray) -> np.ndarray:
        return whitening_DD @ (voice_statistics(wave_T, audio) - middle_D)

    return Judge("statistics", embed)


def voice_statistics(wave_T: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """Mean and standard deviation of each cepstral coefficient and of log F0 over voiced frames, [D]; over all frames,
    and with F0 at 100 Hz, of what has no voiced ones."""
    f0_F = fundamental(wave_T, audio)
    cepstra_KF = cepstra(log_mels(wave_T, audio))
    voiced = f0_F[: cepstra_KF.shape[1]] > 0
    if voiced.sum() < 2:
        voiced, f0_F = np.ones_like(voiced), np.full_like(f0_F, 100.0)
    rows_KF = np.vstack([cepstra_KF[:, voiced], np.log(f0_F[: len(voiced)][voiced])])
    return np.concatenate([rows_KF.mean(axis=1), rows_KF.std(axis=1)])


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Where the share of `same` scores below a threshold equals the share of `different` ones at or above it,
    interpolated linearly between thresholds; NaN without scores of both kinds."""
    if not len(same) or not len(different):
        return float("nan")
    thresholds = np.unique(np.concatenate([same, different, [np.inf]]))
    missed = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    after = int(np.argmax(missed >= accepted))  # at infinity everything is missed and nothing accepted
    gaps = (missed - accepted)[after - 1 : after + 1]
    return float(np.interp(0, gaps, missed[after - 1 : after + 1]))


def band(separation: float) -> str:
    """The word for a separation: excellent above .6, good above .4, fair above .2, else poor."""
    return next((word for least, word in BANDS if separation > least), "poor")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [..., D] divided by their Euclidean norm."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
