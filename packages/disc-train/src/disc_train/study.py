"""A search that many workers share through an Optuna storage: which trial is next, whose is it, is its worker alive?

No trial is lost: one whose worker is gone is given out again. None is done twice: a worker owns its trial in the
storage from the moment that it asks for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from disc_train.config import LEVELS
from trainworks.console import UserError
from trainworks.seeding import derive, rng

Method = Literal["grid", "random", "bayes", "multi", "pbt"]
COMBINATIONS = [
    (0.2, 0.3, 0.3, 0.2),
    (0.25, 0.25, 0.25, 0.25),
    (0.4, 0.2, 0.2, 0.2),
    (0.1, 0.2, 0.5, 0.2),
    (0.1, 0.2, 0.2, 0.5),
]
"""Classic weights of token, sentence, row and feature level: the usual guess, and what leans to one side."""
STARTUP = 10
"""Random trials before a model of the scores is fitted."""
LEAST = 1e-6
"""Of the uniform numbers that weights are made of: the logarithm of 0 is none."""
BEAT = 10.0
"""Seconds between a worker's signs of life."""
SILENCE = 60.0
"""Seconds without one after which a worker on another machine is taken for gone."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Search:
    """What all workers of a search have to agree on.

    Attributes:
        method: how trials are chosen.
        trials: how many.
        folds: validation sets that each is judged on.
        cycles: of feedback a trial trains for.
        seed: of the trials.
        combinations: of the grid, one weight a level.
        data: SHA-256 of the table.
        recipe: settings that are not searched.
    """

    method: Method
    trials: int
    folds: int
    cycles: int
    seed: int
    combinations: Sequence[Sequence[float]]
    data: str
    recipe: Mapping[str, Any]

    @property
    def directions(self) -> list[Literal["minimize"]]:
        return ["minimize"] * (2 if self.method == "multi" else 1)


def open_study(search: Search, storage: str | None, folder: Path) -> Study:
    """The study of a search, made by whichever worker comes first.

    Args:
        search: what is searched.
        storage: an Optuna URL such as sqlite:///tune.db or postgresql://..., the path of a journal file, or None for a
            journal in `folder`.
        folder: of the search.

    Raises:
        UserError: the storage cannot be opened, or holds another search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=_storage(storage, folder),
            study_name="disc-train tune",
            directions=search.directions,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
    except (OSError, ValueError, ImportError, optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        raise UserError(f"the storage {storage or folder} cannot be opened: {_first_line(error)}") from None
    wanted = json.loads(json.dumps(asdict(search)))
    begun = study.user_attrs.get("search")
    if begun is None:
        study.set_user_attr("search", wanted)
    else:
        differing = [key for key in wanted if key != "trials" and wanted[key] != begun.get(key)]
        if differing:
            raise UserError(
                f"the storage {storage or folder} holds a search with another {differing[0]}; name another --storage, "
                "or ask for the same"
            )
    return study


def _storage(storage: str | None, folder: Path) -> Any:
    if storage is not None and "://" in storage:
        options = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {"pool_pre_ping": True}
        return optuna.storages.RDBStorage(storage, engine_kwargs=options)
    path = folder / "study.journal" if storage is None else Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NumberedSampler(BaseSampler):
    """Independent uniform draws that depend on the seed and the trial's place alone: any workers in any order make the
    same trials. A grid's `combination` is the place itself."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        place = place_of(study, trial)
        if param_name == "combination":
            return place
        return float(rng(self.seed, "trial", place, param_name).uniform(LEAST, 1.0))


def sampler(search: Search, done: int) -> BaseSampler:
    """The sampler of the next trial; what it draws follows from the seed and the trials that are done."""
    seed = derive(search.seed, "sampler", done) % 2**32
    if search.method == "bayes":
        return optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=True, seed=seed)
    if search.method == "multi":
        return optuna.samplers.NSGAIISampler(population_size=STARTUP, seed=seed)
    return NumberedSampler(search.seed)


def place_of(study: Study, trial: FrozenTrial | Trial) -> int:
    """Which of the search's trials this is, from 0: retries of trials whose worker was lost don't count."""
    if "retry_of" in trial.user_attrs:
        return int(trial.user_attrs["place"])
    before = study.get_trials(deepcopy=False)[: trial.number]
    return sum("retry_of" not in other.user_attrs for other in before)


def suggest_weights(trial: Trial, search: Search) -> dict[str, float]:
    """Weights of the four levels, which sum to 1.

    Logarithms of uniform numbers, normalised, are uniform on the simplex (Dirichlet(1, 1, 1, 1); Devroye 1986, chapter
    11, theorem 4.1); the sampler sees the uniform numbers, which have no constraint.
    """
    if search.method == "grid":
        numbers = np.asarray(search.combinations[trial.suggest_int("combination", 0, len(search.combinations) - 1)])
    else:
        numbers = -np.log([trial.suggest_float(level, LEAST, 1.0) for level in LEVELS])
    weights = dict(zip(LEVELS, (float(weight) for weight in numbers / numbers.sum()), strict=True))
    trial.set_user_attr("weights", weights)
    return weights


def trials_to_do(study: Study, search: Search, patience: int = 0) -> Generator[Trial]:
    """Trials for this worker until the search is over; it takes over from workers that are gone.

    To be closed (`contextlib.closing`): a trial that was not told the end of goes back to the search.

    Args:
        study, search: of `open_study`.
        patience: finished trials without a better score after which the search is over; 0: never.
    """
    while True:
        trials = study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for found in running:
            if is_lost(found):
                retry(study, found)
        done = sum(trial.state in DONE for trial in trials)
        waiting = any(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        over = done >= search.trials or (patience and without_better(study) >= patience)
        if over or (done + len(running) >= search.trials and not waiting):
            if over or not running:
                return
            time.sleep(1.0)
            continue
        study.sampler = sampler(search, done)
        trial = study.ask()
        if place_of(study, trial) >= search.trials:  # another worker was faster
            study.tell(trial, state=TrialState.FAIL)
            continue
        with signs_of_life(trial):
            try:
                yield trial
            except GeneratorExit:
                retry(study, study.get_trials(deepcopy=False)[trial.number])
                raise


@contextlib.contextmanager
def signs_of_life(trial: Trial) -> Iterator[None]:
    """Tell the storage now and then that the trial's worker is alive."""
    ended = threading.Event()
    trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
    trial.set_user_attr("alive", time.time())

    def beat() -> None:
        while not ended.wait(BEAT):
            trial.set_user_attr("alive", time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a running trial's worker is gone: its process here, or elsewhere its signs of life."""
    assert trial.datetime_start is not None
    host, _, pid = str(trial.user_attrs.get("worker", ":")).rpartition(":")
    if host == socket.gethostname():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        return False
    return time.time() - trial.user_attrs.get("alive", trial.datetime_start.timestamp()) > SILENCE


def retry(study: Study, trial: FrozenTrial) -> None:
    """Give a lost trial out again, once."""
    place = place_of(study, trial)
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another worker has done so
        return
    study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, "place": place})


def without_better(study: Study) -> int:
    """Finished trials since the best one; of several aims, since the front last changed."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state in DONE]
    best = {trial.number for trial in study.best_trials}
    return next((index for index, trial in enumerate(reversed(finished)) if trial.number in best), len(finished))
