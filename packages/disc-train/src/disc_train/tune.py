"""Which feedback weights are best? Trials that share their warm starts, judged on validation folds."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from filelock import FileLock
from optuna.study import Study
from optuna.trial import Trial, TrialState

from disc_train.config import LEVELS, TrainRecipe
from disc_train.data import read_table
from disc_train.draws import draw_rows
from disc_train.fork import Family, changed
from disc_train.privacy import closest
from disc_train.run import describe_input, load_trained
from disc_train.state import encode_rows
from disc_train.study import COMBINATIONS, Method, Search, open_study, place_of, suggest_weights, trials_to_do
from trainworks.console import NonFinite, UserError, info
from trainworks.files import atomic_write, write_json
from trainworks.metrics import read_metrics
from trainworks.run import Run
from trainworks.seeding import derive
from trainworks.torch import resolve_device, set_threads, torch_generator

BEST = "best_weights.json"
TRIALS = "trials.csv"
TRIALS_OF = {"random": 50, "bayes": 100, "multi": 100}
AUC = "valid/two_sample_auc"


@dataclass(frozen=True)
class Bench:
    """Where trials are judged: a family of runs for each validation fold."""

    families: Sequence[Family]
    search: Search

    def judge(self, name: str, weights: Mapping[str, float], fold: int) -> list[float]:
        """Scores, less is better: the two-sample AUC of the validation rows after the last cycle and, where privacy is
        an aim, how far the share of generated rows that lie closer to training than to validation rows is from a half.

        Args:
            name: of the run.
            weights: by level.
            fold: which.
        """
        family = self.families[fold]
        file = family.folder / name / "scores.json"
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        settings: dict[str, Any] = {f"feedback.weight_{level}": weight for level, weight in weights.items()}
        settings |= {"feedback.cycles": self.search.cycles, "feedback.patience": self.search.cycles + 1}
        if self.search.cycles == 1:  # the discriminators of the warm start are all that a single cycle needs
            settings["feedback.schedule"] = "once"
        run = family.fork(name, settings)
        aucs = [record["valid/two_sample_auc"] for record in read_metrics(run.metrics_path) if AUC in record]
        scores = [float(aucs[-1])]
        if self.search.method == "multi":
            scores.append(abs(closer_to_train(family, run) - 0.5))
        write_json(file, scores)
        shutil.rmtree(run.checkpoints_path)  # a search has many runs, and only their figures are wanted
        return scores


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
        UserError: bad options or data, a storage that cannot be opened or holds another search.
        Interrupted: after SIGINT or SIGTERM; the trial in work goes back to the search.
    """
    if method not in get_args(Method):
        raise UserError(f'--method takes {", ".join(get_args(Method))}, not "{method}"')
    if recipe.feedback.schedule == "none":
        raise UserError("schedule none has no feedback, so there are no weights to tune")
    if combinations and method != "grid":
        raise UserError("--combination is for --method grid")
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
    study = open_study(search, storage, out)
    bench = Bench(families, search)
    with FileLock(out / ".prepare.lock"):  # of workers that share the folder, the first makes what all need
        default = [bench.judge("default", own_weights(recipe), fold) for fold in range(search.folds)]
    with contextlib.closing(trials_to_do(study, search, patience)) as given:
        for trial in given:
            attempt(study, trial, bench)
            publish(study, search, default, out)
    return publish(study, search, default, out)


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
    search = bench.search
    weights, scores = suggest_weights(trial, search), []
    place = place_of(study, trial)
    told = " ".join(f"{level} {weight:.2f}" for level, weight in weights.items())
    for fold in range(search.folds):
        try:
            scores.append(bench.judge(f"trial_{place:04d}", weights, fold))
        except NonFinite as error:
            info(f"trial {place}: {told}: {error}")
            study.tell(trial, state=TrialState.PRUNED)
            return
        trial.set_user_attr("scores", scores)
        if len(search.directions) == 1 and fold + 1 < search.folds:
            trial.report(mean(scores)[0], fold)
            if trial.should_prune():
                info(f"trial {place}: {told}: stopped at {mean(scores)[0]:.4f}")
                study.tell(trial, state=TrialState.PRUNED)
                return
    study.tell(trial, mean(scores))
    info(f"trial {place}: {told}: " + ", ".join(f"{value:.4f}" for value in mean(scores)))


def mean(scores: Sequence[Sequence[float]]) -> list[float]:
    """Over the folds."""
    return [float(value) for value in np.mean(scores, axis=0)]


def publish(study: Study, search: Search, default: Sequence[Sequence[float]], out: Path) -> dict[str, Any]:
    """Write the table of all trials and the best weights so far."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if "weights" in trial.user_attrs]
    text = io.StringIO()
    names = ["two_sample_auc", "privacy_gap"][: len(search.directions)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *LEVELS, *names, *(f"{name}_sd" for name in names), "folds"])
    for trial in sorted(trials, key=lambda trial: place_of(study, trial)):
        scores = trial.user_attrs.get("scores", [])
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            weights = [f"{trial.user_attrs['weights'][level]:.6f}" for level in LEVELS]
            figures = [*mean(scores), *spread(scores)] if scores else [math.nan] * 2 * len(names)
            row = [place_of(study, trial), trial.state.name.lower(), *weights]
            writer.writerow([*row, *("" if math.isnan(value) else f"{value:.6f}" for value in figures), len(scores)])
    atomic_write(out / TRIALS, text.getvalue())
    best = choose(study, mean(default))
    found = {
        "weights": best["weights"],
        "score": dict(zip(names, best["score"], strict=True)),
        "spread": dict(zip(names, best["spread"], strict=True)),
        "default_score": dict(zip(names, mean(default), strict=True)),
        "method": search.method,
        "seed": search.seed,
        "folds": search.folds,
        "trials": sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials),
        "data": search.data,
    }
    if best["weights"]:
        write_json(out / BEST, found)
    return found


def choose(study: Study, default: Sequence[float]) -> dict[str, Any]:
    """The best trial; of two aims the most faithful one of the front that is no less private than the default weights,
    or else the most private."""
    front = study.best_trials
    if not front:
        return {"weights": {}, "score": [], "spread": []}
    if len(default) == 1:
        best = front[0]
    else:
        private = [trial for trial in front if trial.values[1] <= default[1]]
        best = min(private, key=lambda trial: trial.values[0]) if private else min(front, key=lambda t: t.values[1])
    scores = best.user_attrs["scores"]
    return {"weights": best.user_attrs["weights"], "score": mean(scores), "spread": spread(scores)}


def spread(scores: Sequence[Sequence[float]]) -> list[float]:
    """Standard deviation over the folds; NaN for one fold."""
    if len(scores) < 2:
        return [math.nan] * len(scores[0])
    return [float(value) for value in np.std(scores, axis=0, ddof=1)]
