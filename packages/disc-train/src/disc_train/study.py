"""A search that many workers share through an Optuna storage: which trial is next, whose is it, is its worker alive?

No trial is lost: one whose worker is gone is given out again. None is done twice: a worker owns its trial in the
storage from the moment that it asks for it, and of several trials for one place of the search the first counts.
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
from trainworks.files import write_json
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
"""Seconds without one after which a worker is taken for gone, unless its process is seen to be gone before."""
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

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

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
    begun = study.user_attrs.get("search")
    if begun is None:
        study.set_user_attr("search", search.to_json())
    else:
        check_same(search, begun, f"the storage {storage or folder}", "--storage")
    study.sampler = PlaceSampler(search)
    return study


def claim_folder(search: Search, folder: Path) -> None:
    """Write down whose trials the folder holds: a trial that is there already is taken as it is.

    Raises:
        UserError: those of another search.
    """
    file = folder / "search.json"
    if file.exists():
        check_same(search, json.loads(file.read_text(encoding="utf-8")), str(folder), "--out")
    else:
        write_json(file, search.to_json())


def check_same(search: Search, begun: Mapping[str, Any], where: str, option: str) -> None:
    """Refuse to mix two searches; one may have more trials than it was begun with."""
    wanted = search.to_json()
    differing = [key for key in wanted if key != "trials" and wanted[key] != begun.get(key)]
    if differing:
        raise UserError(
            f"{where} holds a search with another {differing[0]}; name another {option}, or ask for the same"
        )


def _storage(storage: str | None, folder: Path) -> Any:
    if storage is not None and "://" in storage:
        options = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {"pool_pre_ping": True}
        return optuna.storages.RDBStorage(storage, engine_kwargs=options)
    path = folder / "study.journal" if storage is None else Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class PlaceSampler(BaseSampler):
    """A sampler that is seeded anew for every trial, by the search's seed and the trial's place.

    So two workers that ask at once never get the same trial, and a search that was interrupted goes on as it would
    have. What `random` and `grid` draw depends on nothing else: any workers in any order make the same trials.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.model: BaseSampler | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The first that Optuna asks for a new trial."""
        seed = derive(self.search.seed, "sampler", place_of(study, trial)) % 2**32
        if self.search.method == "bayes":
            self.model = optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=True, seed=seed)
        elif self.search.method == "multi":
            self.model = optuna.samplers.NSGAIISampler(population_size=STARTUP, seed=seed)
        return {} if self.model is None else self.model.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {} if self.model is None else self.model.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self.model is not None:
            return self.model.sample_independent(study, trial, param_name, param_distribution)
        place = place_of(study, trial)
        if param_name == "combination":
            return place
        return float(rng(self.search.seed, "trial", place, param_name).uniform(LEAST, 1.0))


def place_of(study: Study, trial: FrozenTrial | Trial) -> int:
    """Which of the search's trials this is, from 0: one that is given out again keeps its place."""
    if "place" in trial.user_attrs:
        return int(trial.user_attrs["place"])
    return count_places(study.get_trials(deepcopy=False)[: trial.number])


def count_places(trials: Sequence[FrozenTrial]) -> int:
    """Places that were given out."""
    return sum("place" not in trial.user_attrs for trial in trials)


def by_place(study: Study) -> dict[int, FrozenTrial]:
    """For each place that was given out the trial that counts: the first that hasn't failed, or else the first."""
    found: dict[int, FrozenTrial] = {}
    new = 0
    for trial in study.get_trials(deepcopy=False):
        place = trial.user_attrs.get("place", new)
        new += "place" not in trial.user_attrs
        if place not in found or (found[place].state == TrialState.FAIL and trial.state != TrialState.FAIL):
            found[place] = trial
    return found


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
    while not is_over(study, search, patience):
        give_out_again(study, search)
        trials = study.get_trials(deepcopy=False)
        if count_places(trials) >= search.trials and not any(trial.state == TrialState.WAITING for trial in trials):
            time.sleep(1.0)  # others are still at the last trials, and may be lost
            continue
        trial = study.ask()
        place = place_of(study, trial)
        if place >= search.trials or by_place(study)[place].number != trial.number:  # another worker was faster
            study.tell(trial, state=TrialState.FAIL)
            continue
        with signs_of_life(trial):
            try:
                yield trial
            except GeneratorExit:
                fail(study, trial.number)  # whoever works on the search next gives it out again
                raise


def is_over(study: Study, search: Search, patience: int) -> bool:
    """Whether all trials have ended, or `patience` of them since the best."""
    done = sum(trial.state in DONE and place < search.trials for place, trial in by_place(study).items())
    return done >= search.trials or bool(patience and without_better(study) >= patience)


def give_out_again(study: Study, search: Search) -> None:
    """Put trials back into the search that failed, or whose worker is gone. Two workers that do it at once do no harm:
    the first trial of a place counts."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.RUNNING and is_lost(trial):
            fail(study, trial.number)
    for place, trial in by_place(study).items():
        if trial.state == TrialState.FAIL and place < search.trials:
            study.enqueue_trial(trial.params, user_attrs={"place": place})


def fail(study: Study, number: int) -> None:
    """Tell that a trial failed, unless another worker has done so."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


@contextlib.contextmanager
def signs_of_life(trial: Trial) -> Iterator[None]:
    """Tell the storage now and then that the trial's worker is alive."""
    ended = threading.Event()
    trial.set_user_attr("worker", f"{this_machine()}:{os.getpid()}")
    trial.set_user_attr("alive", time.time())

    def beat() -> None:
        while not ended.wait(BEAT):
            try:
                trial.set_user_attr("alive", time.time())
            except optuna.exceptions.UpdateFinishedTrialError:  # its end was told while this was on its way
                return
            except (optuna.exceptions.StorageInternalError, OSError):  # the next one may get through
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def this_machine() -> str:
    """Where a process's number means the same process: the host, and on Linux its boot and the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a running trial's worker is gone: its process, if that ran here, or its signs of life."""
    assert trial.datetime_start is not None
    machine, _, process = str(trial.user_attrs.get("worker", ":")).rpartition(":")
    if machine == this_machine() and not process_exists(int(process)):
        return True
    return time.time() - trial.user_attrs.get("alive", trial.datetime_start.timestamp()) > SILENCE


def process_exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def without_better(study: Study) -> int:
    """Finished trials since the best one; of several aims, since the front last changed."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state in DONE]
    best = {trial.number for trial in study.best_trials}
    return next((index for index, trial in enumerate(reversed(finished)) if trial.number in best), len(finished))
