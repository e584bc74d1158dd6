"""Which feedback weights are best? Trials that share their warm starts, judged on validation folds."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from filelock import FileLock
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState

from disc_train.config import LEVELS, TrainRecipe
from disc_train.data import read_table
from disc_train.draws import draw_rows
from disc_train.fork import Family, changed
from disc_train.population import evolve, rounds
from disc_train.privacy import closest
from disc_train.run import describe_input, load_trained
from disc_train.state import encode_rows
from disc_train.study import (
    COMBINATIONS,
    DONE,
    Method,
    Search,
    claim_folder,
    open_study,
    place_of,
    suggest_weights,
    trials_to_do,
)
from disc_train.tune_report import Result, plot_front, write_results
from trainworks.console import NonFinite, UserError, info
from trainworks.files import write_json
from trainworks.metrics import read_metrics
from trainworks.run import Run
from trainworks.seeding import derive
from trainworks.torch import resolve_device, set_threads, torch_generator

TRIALS_OF = {"random": 50, "bayes": 100, "multi": 100, "pbt": 40}
AUC = "valid/two_sample_auc"


@dataclass(frozen=True)
class Bench:
    """Where trials are judged: a family of runs for each validation fold."""

    families: Sequence[Family]
    search: Search

    def judge(self, name: str, weights: Mapping[str, float], fold: int, cycles: int) -> list[float]:
        """Train from the warm start; see `train`. Checkpoints go: only figures are wanted."""
        scores = self.train(fold, name, weights, cycles, None)
        shutil.rmtree(self.families[fold].folder / name / "checkpoints", ignore_errors=True)
        return scores

    def train(self, fold: int, name: str, weights: Mapping[str, float], cycles: int, base: str | None) -> list[float]:
        """Scores, less is better: the two-sample AUC of the validation rows after the last cycle and, where privacy is
        an aim, how far the share of generated rows that lie closer to training than to validation rows is from a half.

        Args:
            fold: which.
            name: of the run; one that is there already and finished isn't trained again.
            weights: by level.
            cycles: of feedback since the warm start.
            base: the run to go on from; None: the warm start.

        Raises:
            UserError: the run that is there has other settings.
            NonFinite: a loss or gradient became NaN or infinite.
        """
        family = self.families[fold]
        settings: dict[str, Any] = {f"feedback.weight_{level}": weight for level, weight in weights.items()}
        settings |= {"feedback.cycles": cycles, "feedback.patience": cycles + 1}
        if cycles == 1 and self.search.method != "pbt":
            settings["feedback.schedule"] = "once"  # nobody goes on with discriminators taught after the only cycle
        run = family.fork(name, settings, None if base is None else family.folder / base)
        file = run.path / "reports" / "scores.json"
        if not file.exists():
            scores = [next(record[AUC] for record in reversed(read_metrics(run.metrics_path)) if AUC in record)]
            if self.search.method == "multi":
                scores.append(abs(closer_to_train(family, run) - 0.5))
            file.parent.mkdir(exist_ok=True)
            write_json(file, scores)
        return json.loads(file.read_text(encoding="utf-8"))


def closer_to_train(family: Family, run: Run) -> float:
    """Share of generated rows that differ in fewer cells from the closest training row than from the closest validation
    row, among as many of each as there are validation rows; ties count half."""
    trained = load_trained(run.path, "last", family.device.type, family.threads)
    rows = encode_rows(family.table, trained.schema, trained.recipe, family.device)
    draws = torch_generator(derive(trained.recipe.seed, "privacy"), "draw", device=family.device)
    generated = draw_rows(trained.generator, len(rows.valid), draws)[0]
    codes = [part.cpu().numpy().astype(np.float32) for part in (generated, rows.train[: len(rows.valid)], rows.valid)]
    to_train, to_valid = (closest(codes[0], records)[0] for records in codes[1:])
    return float(((to_train < to_valid) + 0.5 * (to_train == to_valid)).mean())


def start_search(
    recipe: TrainRecipe,
    data: str,
    format: str | None,
    out: Path,
    *,
    method: str,
    trials: int | None,
    folds: int,
    cycles: int,
    combinations: Sequence[str],
    storage: str | None,
    patience: int,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Work on a search until it is over, and write what is known: best_weights.json and trials.csv in `out`.

    Any number of workers may share a storage; each has the warm starts in its own `out`, or they share that too and the
    first makes them.

    Returns:
        What best_weights.json holds.

    Raises:
        UserError: bad options or data, a storage or folder that cannot be used or holds another search.
        NonFinite: no trial came to an end.
        Interrupted: after SIGINT or SIGTERM; the trial in work goes back to the search.
    """
    if method not in get_args(Method):
        raise UserError(f'--method takes {", ".join(get_args(Method))}, not "{method}"')
    if recipe.feedback.schedule == "none":
        raise UserError("schedule none has no feedback, so there are no weights to tune")
    if not any(recipe.feedback.weights.values()):
        raise UserError("all feedback weights are 0: a search wants some to compare with")
    if recipe.feedback.weighting == "dynamic":
        raise UserError("feedback.weighting dynamic takes no weights, so there are none to tune; set it to fixed")
    if combinations and method != "grid":
        raise UserError("--combination is for --method grid")
    if method == "pbt" and (storage is not None or patience or cycles != 1):
        raise UserError("--method pbt is one worker's, a cycle a round: leave --storage, --patience and --cycles out")
    if folds * recipe.data.valid_fraction > 1:
        raise UserError(
            f"--folds {folds} of {recipe.data.valid_fraction:g} of the rows each are more than all rows; take fewer, "
            "or a smaller data.valid_fraction"
        )
    grid = [read_combination(text) for text in combinations] or COMBINATIONS
    table = read_table(data, format)
    source = describe_input(data, table)
    chosen, num_threads = resolve_device(device), set_threads(threads)
    search = Search(
        method=cast("Method", method),
        trials=min(trials or len(grid), len(grid)) if method == "grid" else trials or TRIALS_OF[method],
        folds=folds,
        cycles=cycles,
        seed=recipe.seed,
        combinations=grid if method == "grid" else (),
        data=source["sha256"],
        recipe=recipe.model_dump(mode="json"),
    )
    families = [
        Family(changed(recipe, {"data.valid_fold": fold}), table, source, out / f"fold_{fold}", chosen, num_threads)
        for fold in range(search.folds)
    ]
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(families, search)
    # A population is one worker's: its rounds are steps of one another.
    study = None if method == "pbt" else open_study(search, storage, out)
    # Members of a population train a cycle a round; what they are compared with has had as many.
    trained = rounds(search.trials) if method == "pbt" else cycles
    with FileLock(out / ".prepare.lock"):  # of workers that share the folder, the first makes what all need
        claim_folder(search, out)
        own, name = own_weights(recipe), f"default_{trained}"
        default = Result(-1, "complete", own, [bench.judge(name, own, fold, trained) for fold in range(folds)])
    about = {"method": method, "seed": recipe.seed, "folds": folds, "data": source["sha256"]}

    def publish(results: Sequence[Result]) -> dict[str, Any]:
        return write_results(results, default, about, out)

    if study is None:

        def step(done: Sequence[Result]) -> None:
            publish(done)
            info(f"trial {done[-1].place}: {in_figures(done[-1].weights)}: {done[-1].mean[0]:.4f}")

        results = evolve(bench.train, trials=search.trials, folds=folds, seed=recipe.seed, step=step)
    else:
        try:
            with contextlib.closing(trials_to_do(study, search, patience)) as given:
                for trial in given:
                    attempt(study, trial, bench)
                    publish(results_of(study))
            results = results_of(study)
        except StorageInternalError as error:
            raise UserError(f"the storage {storage or out} failed: {error}; ask for the same again to go on") from None
    complete = [result for result in results if result.state == "complete"]
    if not complete:
        raise NonFinite(f"none of {len(results)} trials came to an end; a lower feedback.learning_rate may help")
    if method == "multi":
        plot_front(complete, default, out / "plots" / "front.png")
    best = publish(results)
    info(f"best of {len(results)}: {in_figures(best['weights'])}: {in_scores(best['score'])}")
    info(f"default weights: {in_scores(best['default_score'])}")
    return best


def in_figures(weights: Mapping[str, float]) -> str:
    return " ".join(f"{level} {weight:.2f}" for level, weight in weights.items())


def in_scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{aim} {score:.4f}" for aim, score in scores.items())


def results_of(study: Study) -> list[Result]:
    """The trials that have ended, by place."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state in DONE]
    results = [
        Result(
            place_of(study, trial), trial.state.name.lower(), trial.user_attrs["weights"], trial.user_attrs["scores"]
        )
        for trial in ended
    ]
    return sorted(results, key=lambda result: result.place)


def read_combination(text: str) -> tuple[float, ...]:
    """Four weights.

    Raises:
        UserError: not four numbers of which none is negative and one is positive.
    """
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != len(LEVELS) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise UserError(f'--combination wants weights of {", ".join(LEVELS)} such as 0.2,0.3,0.3,0.2, not "{text}"')
    return weights


def own_weights(recipe: TrainRecipe) -> dict[str, float]:
    """The recipe's own weights, to sum to 1: what a search is to beat."""
    total = sum(recipe.feedback.weights.values())
    return {level: weight / total for level, weight in recipe.feedback.weights.items()}


def attempt(study: Study, trial: Trial, bench: Bench) -> None:
    """Judge a trial fold by fold, unless its first folds say that it is hopeless."""
    try:
        _attempt(study, trial, bench)
    except UpdateFinishedTrialError:
        info(f"trial {place_of(study, trial)} went to another worker, since this one gave no sign of life for long")


def _attempt(study: Study, trial: Trial, bench: Bench) -> None:
    search = bench.search
    weights, place = suggest_weights(trial, search), place_of(study, trial)
    result = Result(place, "complete", weights, [])
    trial.set_user_attr("scores", result.scores)
    for fold in range(search.folds):
        try:
            result.scores.append(bench.judge(f"trial_{place:04d}", weights, fold, search.cycles))
        except NonFinite as error:
            info(f"trial {place}: {in_figures(weights)}: {error}")
            study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            return
        trial.set_user_attr("scores", result.scores)
        if len(search.directions) == 1 and fold + 1 < search.folds:
            trial.report(result.mean[0], fold)
            if trial.should_prune():
                info(f"trial {place}: {in_figures(weights)}: stopped at {result.mean[0]:.4f}")
                study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
                return
    study.tell(trial, result.mean, skip_if_finished=True)
    info(f"trial {place}: {in_figures(weights)}: " + ", ".join(f"{value:.4f}" for value in result.mean))
