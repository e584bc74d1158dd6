"""What the model answers from rebuilt prompts, beside the true prompt and simpler ways to rebuild it.

Shape legend: N questions, U different tokens of all prompts, D embedding width, V vocabulary rows, K latent width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapter_stage1.builtin import load_examples, source_record
from adapter_stage1.compress import Compressor, StreamingCovariance, explained_variance, rivals
from adapter_stage1.data import Example, sample
from adapter_stage1.generate import answer_perplexity, answer_prompts, fits_window
from adapter_stage1.model import ROWS_AT_ONCE, closeness, nearest_rows
from adapter_stage1.prompts import build_prompt
from adapter_stage1.run import ROWS_AT_ONCE as TABLE_ROWS_AT_ONCE
from adapter_stage1.run import Trained
from adapter_stage1.score import bootstrap_interval, bootstrap_ratio_interval, score
from trainworks.console import UserError, info, progress
from trainworks.files import json_ready

RUNGS = {
    "raw": "the true embeddings: the baseline",
    "decoded": "the compressor's own decoding",
    "linear": "least squares from latents to embeddings, by token frequency",
    "adapter": "what the run puts out",
    "adapter-unsnapped": "the same before its soft snap",
    "adapter-snapped": "the same, replaced by the nearest row of the table",
    "lookup": "the row whose latents are nearest; nothing is trained",
    "random-projection": "a random projection to as many latents, decoded by its pseudo-inverse",
    "product": "product quantisation of the embeddings at the latents' bits",
    "int4": "principal components at 4 bits, as many as the latents' bits allow",
    "int8": "principal components at 8 bits, as many as the latents' bits allow",
    "product-snapped": "product, replaced by the nearest row",
    "int4-snapped": "int4, replaced by the nearest row",
    "int8-snapped": "int8, replaced by the nearest row",
}
"""Ways to rebuild a prompt, and what each is."""
PERPLEXITY_QUESTIONS = 100
"""Questions that the perplexity of gold answers is taken over, at most: it costs as much as answering them."""
TARGET, SUCCESS, FAILURE, BASELINE = 70.0, 65.0, 50.0, 82.0
"""F1 bands of the original experiment, whose raw embeddings got `BASELINE`."""


@dataclass(frozen=True)
class Rung:
    """One way to rebuild prompts, judged.

    Attributes:
        f1, exact_match: percent, means over the questions, each with its 95 % bootstrap interval.
        retention: F1 over the raw embeddings' F1 on the same questions.
        token_recovery: share of the prompts' tokens whose nearest row is their own.
        explained_variance, cosine: of rebuilt embeddings, weighted by how often a token occurs in the prompts.
        perplexity: of the first gold answer after the rebuilt prompt, over the first `PERPLEXITY_QUESTIONS`.
        bits_per_token: what a token takes on the wire.
        answers: one a question.
    """

    f1: float
    f1_interval: tuple[float, float]
    exact_match: float
    exact_match_interval: tuple[float, float]
    retention: float
    retention_interval: tuple[float, float]
    token_recovery: float
    explained_variance: float
    cosine: float
    perplexity: float
    bits_per_token: int
    answers: list[str]


@dataclass(frozen=True)
class Report:
    """An evaluation of a run.

    Attributes:
        judged: run, checkpoint, model and data that this is about.
        rungs: by name, "raw" first.
        token_id_bits: what sending the tokens themselves would take.
    """

    judged: dict[str, Any]
    rungs: dict[str, Rung]
    examples: list[Example]
    token_id_bits: int

    @property
    def retention(self) -> float:
        """The adapter's; NaN if it was not among the rungs."""
        return self.rungs["adapter"].retention if "adapter" in self.rungs else math.nan

    def verdict(self) -> dict[str, str]:
        """The adapter's F1 in the bands of the original experiment, as they stand and scaled to this baseline."""
        if "adapter" not in self.rungs:
            return {}
        f1, raw = self.rungs["adapter"].f1, self.rungs["raw"].f1
        return {"absolute": band(f1, 1.0), "scaled": band(f1, raw / BASELINE)}

    def to_json(self) -> dict[str, Any]:
        """Plain data without the answers, NaN as null."""
        rungs = {name: {k: v for k, v in asdict(rung).items() if k != "answers"} for name, rung in self.rungs.items()}
        return json_ready(
            {
                "judged": self.judged,
                "questions": len(self.examples),
                "verdict": self.verdict(),
                "token_id_bits": self.token_id_bits,
                "rungs": rungs,
            }
        )


def band(f1: float, scale: float) -> str:
    """target, success, between or failure: F1 against the bands times `scale`."""
    for name, least in (("target", TARGET), ("success", SUCCESS), ("between", FAILURE)):
        if f1 >= least * scale:
            return name
    return "failure"


def evaluate_run(
    trained: Trained,
    data: Path,
    rungs: Sequence[str] | None = None,
    questions: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    checkpoint: str = "best",
    raw: Rung | None = None,
) -> Report:
    """Answer questions from each rung's rebuilt prompts.

    Args:
        rungs: names in `RUNGS`; "raw", the baseline, is always there. None for all.
        questions: how many, drawn by the seed; None for all.
        raw: the baseline, if another run with the same prompts was judged on the same questions already.

    Raises:
        UserError: bad data, an unknown rung, more questions than there are.
    """
    wanted = list(dict.fromkeys(["raw", *(rungs or RUNGS)]))
    unknown = next((name for name in wanted if name not in RUNGS), None)
    if unknown is not None:
        raise UserError(f'no rung "{unknown}"; there are {", ".join(RUNGS)}')
    examples = load_examples(data)
    source = source_record(data, len(examples))
    prompt, language_model = trained.recipe.prompt, trained.language_model
    examples = fits_window(language_model, trained.format, trained.shots, examples, prompt.max_new_tokens)
    if questions is not None:
        examples = sample(examples, questions, seed)
    prompts = [language_model.tokens(build_prompt(trained.format, trained.shots, example)) for example in examples]
    golds = [language_model.continuation(f" {example.answers[0]}") for example in examples]
    rows, counts = np.unique(np.concatenate(prompts), return_counts=True)
    rows_U = torch.from_numpy(rows).to(language_model.device)
    true_UD = language_model.table[rows_U]
    rebuilders = Rebuilders(trained, seed)
    place_V = torch.zeros(len(language_model.table), dtype=torch.int64, device=language_model.device)
    place_V[rows_U] = torch.arange(len(rows_U), device=language_model.device)
    found: dict[str, Rung] = {}
    answered: list[tuple[Tensor, list[str], float]] = []
    for name in wanted:
        if name == "raw" and raw is not None:
            found[name] = raw
            continue
        try:
            rebuilt_UD, bits = rebuilders.rebuild(name, rows_U)
        except UserError as error:
            if rungs:
                raise
            info(f"left out: {error}")
            continue
        # What rebuilds the same embeddings gets the same answers.
        same = next((entry for entry in answered if torch.equal(entry[0], rebuilt_UD)), None)
        if same is None:

            def embed(tokens: Tensor, rebuilt_UD: Tensor = rebuilt_UD) -> Tensor:
                return rebuilt_UD[place_V[tokens]]

            with progress(len(prompts), name) as bar:
                answers = answer_prompts(
                    language_model,
                    prompts,
                    embed,
                    trained.format,
                    max_new_tokens=prompt.max_new_tokens,
                    batch_size=batch_size,
                    bar=bar,
                )
            part = slice(PERPLEXITY_QUESTIONS)
            perplexity = answer_perplexity(language_model, prompts[part], golds[part], embed, batch_size)
            same = (rebuilt_UD, [answer.text for answer in answers], perplexity)
            answered.append(same)
        _, texts, perplexity = same
        scores = score(texts, examples)
        raw_f1_N = scores["f1_N"] if name == "raw" else score(found["raw"].answers, examples)["f1_N"]
        weights = counts / counts.sum()
        right = (nearest_rows(rebuilt_UD, language_model.table) == rows_U).cpu().numpy()
        cosine = torch.cosine_similarity(rebuilt_UD, true_UD).cpu().numpy()
        found[name] = Rung(
            f1=scores["f1"],
            f1_interval=bootstrap_interval(scores["f1_N"], seed),
            exact_match=scores["exact_match"],
            exact_match_interval=bootstrap_interval(scores["exact_match_N"], seed),
            retention=scores["f1"] / raw_f1_N.mean() if raw_f1_N.any() else math.nan,
            retention_interval=bootstrap_ratio_interval(scores["f1_N"], raw_f1_N, seed),
            token_recovery=float(weights @ right),
            explained_variance=explained_variance(true_UD.cpu().numpy(), rebuilt_UD.cpu().numpy(), weights),
            cosine=float(weights @ cosine),
            perplexity=perplexity,
            bits_per_token=bits,
            answers=texts,
        )
        info(f"{name}: F1 {found[name].f1:.1f}, retention {found[name].retention:.3f}")
    judged = {
        "run": trained.run_id,
        "checkpoint": checkpoint,
        "model": {"path": str(language_model.path), "sha256": language_model.digest},
        "data": source,
        "ratio": trained.recipe.compressor.ratio,
        "seed": seed,
    }
    return Report(judged, found, examples, math.ceil(math.log2(len(language_model.table))))


class Rebuilders:
    """The rungs' embeddings of vocabulary rows; what several share is made once."""

    def __init__(self, trained: Trained, seed: int):
        self.trained, self.seed = trained, seed
        self._rivals: dict[str, Compressor] = {}

    @torch.no_grad()
    def rebuild(self, name: str, rows_U: Tensor) -> tuple[Tensor, int]:
        """Rebuilt embeddings (U, D) of the rows, and the bits that each took on the wire."""
        trained = self.trained
        table_VD, latents_VK = trained.vocabulary
        latents_UK, bits = latents_VK[rows_U], trained.compressor.bits_per_vector
        base = name.removesuffix("-snapped")
        if name == "raw":
            return table_VD[rows_U], 8 * table_VD.shape[1] * trained.language_model.model.dtype.itemsize
        if name == "decoded":
            return self._as_tensor(trained.compressor.decode(latents_UK.cpu().numpy())), bits
        if name == "linear":
            return self._least_squares(latents_UK), bits
        if name == "lookup":
            parts = [closeness(part, latents_VK).argmax(1) for part in latents_UK.split(ROWS_AT_ONCE)]
            return table_VD[torch.cat(parts)], bits
        if name == "adapter-unsnapped":
            rebuilt = trained.adapter.rebuild(latents_UK)
        elif base == "adapter":
            rebuilt = trained.adapter(latents_UK, trained.vocabulary)
        else:
            rival = self._rival(base)
            decoded = rival.decode(rival.encode(table_VD[rows_U].cpu().numpy()))
            rebuilt, bits = self._as_tensor(decoded), rival.bits_per_vector
        return (table_VD[nearest_rows(rebuilt, table_VD)] if base != name else rebuilt), bits

    def _least_squares(self, latents_UK: Tensor) -> Tensor:
        """Solved for all rows, weighted by the training prompts' token frequencies."""
        table_VD, latents_VK = self.trained.vocabulary
        weights = np.sqrt(self.trained.frequencies_V)[:, None]
        seen = np.flatnonzero(self.trained.frequencies_V)
        inputs = np.hstack([latents_VK[seen].cpu().numpy(), np.ones((len(seen), 1))])
        solution, *_ = np.linalg.lstsq(inputs * weights[seen], table_VD[seen].cpu().numpy() * weights[seen])
        asked = latents_UK.cpu().numpy()
        return self._as_tensor(np.hstack([asked, np.ones((len(asked), 1))]) @ solution)

    def _rival(self, name: str) -> Compressor:
        if not self._rivals:
            table = self.trained.vocabulary.embeddings_CD.cpu().numpy()
            weights = self.trained.frequencies_V + 1
            covariance = StreamingCovariance(table.shape[1])
            for start in range(0, len(table), TABLE_ROWS_AT_ONCE):
                part = slice(start, start + TABLE_ROWS_AT_ONCE)
                covariance.update(table[part], weights[part])
            width = len(self.trained.compressor.components)
            made = rivals(table, covariance.pca(), width, self.seed, weights)
            self._rivals = {rival.name.removeprefix("pca+"): rival for rival in made}
        if name not in self._rivals:
            raise UserError(f"rung {name} needs more bits than the latents have")
        return self._rivals[name]

    def _as_tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.trained.language_model.device)


def console_table(report: Report) -> str:
    """The rungs as a plain table, with what the bits say and the verdict under it."""
    header = ("rung", "F1", "95 %", "EM", "retention", "tokens", "variance", "perplexity", "bits/token")
    lines = [header]
    for name, rung in report.rungs.items():
        low, high = rung.f1_interval
        lines.append(
            (
                name,
                f"{rung.f1:.1f}",
                f"{low:.1f}-{high:.1f}",
                f"{rung.exact_match:.1f}",
                f"{rung.retention:.3f}",
                f"{rung.token_recovery:.2%}",
                f"{rung.explained_variance:.3f}",
                f"{rung.perplexity:.2f}",
                f"{rung.bits_per_token:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in lines
    ]
    shown.append(f"{len(report.examples)} questions; the token ids themselves take {report.token_id_bits} bits a token")
    for kind, name in report.verdict().items():
        shown.append(f"verdict, {kind} bands: {name}")
    return "\n".join(shown)
