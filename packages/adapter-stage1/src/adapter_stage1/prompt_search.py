"""Which prompt format and how many worked examples suit a model? Asked of training data, never of test questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapter_stage1.config import TrainingConfig
from adapter_stage1.data import Example, by_article_split, choose_shots, sample
from adapter_stage1.generate import answer_prompts, fits_window
from adapter_stage1.language_model import LanguageModel
from adapter_stage1.prompts import PromptFormat, build_prompt
from adapter_stage1.score import bootstrap_interval, score
from trainworks.console import info, progress, warn


@dataclass(frozen=True)
class Trial:
    """A format with a number of worked examples.

    Attributes:
        f1, exact_match: percent, from the true embeddings; F1 with its 95 % bootstrap interval.
        prompt_tokens: mean length of a prompt.
    """

    format: str
    shots: int
    f1: float
    f1_interval: tuple[float, float]
    exact_match: float
    prompt_tokens: float


def search_prompt(
    language_model: LanguageModel,
    examples: Sequence[Example],
    *,
    formats: Mapping[str, PromptFormat],
    shots: Sequence[int],
    questions: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
) -> tuple[list[Trial], int]:
    """Try each format with each number of worked examples on the validation part that training would set apart.

    Args:
        examples: training questions.
        formats: by name.
        questions: how many, at most; those that some prompt has no room for are left out of all trials.
        seed: of the split, the questions and the worked examples: `prompt.seed` of a recipe.

    Returns:
        The trials, best F1 last, of equals the shortest prompt; and the number of questions.

    Raises:
        UserError: fewer contexts than worked examples, or no prompt fits.
    """
    train_examples, valid = by_article_split(examples, TrainingConfig().valid_share, seed)
    worked = {number: choose_shots(train_examples, number, seed) for number in dict.fromkeys(shots)}
    if len(valid) < questions:
        warn(f"the validation part has {len(valid):,} questions, and {questions:,} were asked for")
    asked = sample(valid, min(questions, len(valid)), seed)
    for format in formats.values():
        asked = fits_window(language_model, format, worked[max(worked)], asked, max_new_tokens)
    trials = []
    for name, format in formats.items():
        for number, shown in worked.items():
            prompts = [language_model.tokens(build_prompt(format, shown, example)) for example in asked]
            with progress(len(prompts), f"{name}, {number} shots") as bar:
                answers = answer_prompts(
                    language_model,
                    prompts,
                    lambda tokens: language_model.table[tokens],
                    format,
                    max_new_tokens=max_new_tokens,
                    batch_size=batch_size,
                    bar=bar,
                )
            scores = score([answer.text for answer in answers], asked)
            trials.append(
                Trial(
                    name,
                    number,
                    scores["f1"],
                    bootstrap_interval(scores["f1_N"], seed),
                    scores["exact_match"],
                    sum(map(len, prompts)) / len(prompts),
                )
            )
            info(f"{name}, {number} shots: F1 {scores['f1']:.1f}")
    return sorted(trials, key=lambda trial: (trial.f1, -trial.prompt_tokens)), len(asked)


def console_table(trials: Sequence[Trial], num_questions: int) -> str:
    """The trials as a plain table, the best last and marked."""
    width = max(len("format"), *(len(trial.format) for trial in trials))
    lines = [f"{'format':{width}}  shots     F1        95 %     EM  tokens/prompt"]
    for trial in trials:
        low, high = trial.f1_interval
        lines.append(
            f"{trial.format:{width}}  {trial.shots:5}  {trial.f1:5.1f}  {f'{low:.1f}-{high:.1f}':>10}  "
            f"{trial.exact_match:5.1f}  {trial.prompt_tokens:13.0f}"
        )
    lines[-1] += "  <- best"
    return "\n".join([*lines, f"{num_questions} questions of the validation part of the training data"])
