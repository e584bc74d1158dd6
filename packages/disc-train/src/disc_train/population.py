"""Population-based training (Jaderberg et al. 2017) of the feedback weights: members train, the worst take over the
weights of network and feedback from the best, and the latter are perturbed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from disc_train.config import LEVELS
from disc_train.tune_report import Result
from trainworks.console import NonFinite, info
from trainworks.seeding import rng

POPULATION = 8
"""Members, all of which train one cycle a round."""
REPLACED = 0.25
"""Share of the population that is replaced after a round, by as many of the best (section 4.1.1, truncation)."""
FACTORS = (0.8, 1.2)
"""A weight that is taken over is multiplied by one of them (section 4.1.1, perturb)."""

WORST = 1.0
"""Of two-sample AUCs."""

Train = Callable[[int, str, dict[str, float], int, str | None], list[float]]
"""(fold, name of the run, weights, cycles, name of the run to go on from) -> scores."""


@dataclass(frozen=True)
class Member:
    """One of the population: its weights, and the run whose network it has."""

    weights: dict[str, float]
    run: str | None


def evolve(train: Train, *, trials: int, folds: int, seed: int, step: Callable[[list[Result]], None]) -> list[Result]:
    """Rounds of training and taking over, until as many members as `trials` have been trained a cycle.

    Every choice derives from the seed, and a member that was trained is not trained again: a search that was
    interrupted repeats the unbroken one.

    Args:
        train: trains a member for a cycle and scores it.
        trials: rounds times members.
        folds: each member has a network for each.
        seed: of the first weights and of what is perturbed.
        step: called with all results after each member.

    Returns:
        In the order of training. A member whose training went non-finite counts as pruned and as the worst.
    """
    first = rng(seed, "population").dirichlet([1.0] * len(LEVELS), POPULATION)
    members = [Member(dict(zip(LEVELS, map(float, weights), strict=True)), None) for weights in first]
    results: list[Result] = []
    for turn in range(rounds(trials)):
        ranked: list[tuple[float, int]] = []
        trained: list[Member] = []
        for index, member in enumerate(members[: trials - turn * POPULATION]):
            name = f"round_{turn}_member_{index}"
            try:
                scores = [train(fold, name, member.weights, turn + 1, member.run) for fold in range(folds)]
                state = "complete"
            except NonFinite as error:
                info(f"{name}: {error}")
                scores, state = [[WORST]] * folds, "pruned"
            results.append(Result(len(results), state, member.weights, scores))
            ranked.append((results[-1].mean[0], index))
            trained.append(Member(member.weights, name))
            step(results)
        members = taken_over(trained, [index for _, index in sorted(ranked)], seed, turn)
    return results


def rounds(trials: int) -> int:
    """In which that many members are trained; the last may be short of some."""
    return math.ceil(trials / POPULATION)


def taken_over(members: Sequence[Member], ranking: Sequence[int], seed: int, turn: int) -> list[Member]:
    """The next round's members: the last of the ranking with what the first have, their weights perturbed."""
    chooser = rng(seed, "exploit", turn)
    count = max(1, round(REPLACED * len(members))) if len(members) > 1 else 0
    found = list(members)
    for loser in ranking[len(ranking) - count :]:
        winner = members[ranking[int(chooser.integers(count))]]
        weights = np.array([winner.weights[level] for level in LEVELS]) * chooser.choice(FACTORS, len(LEVELS))
        found[loser] = Member(dict(zip(LEVELS, map(float, weights / weights.sum()), strict=True)), winner.run)
    return found
