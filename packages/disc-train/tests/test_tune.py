"""Searches: the same trials whoever does them, none lost, none twice; and weights that a training takes."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from disc_train.config import LEVELS
from disc_train.study import (
    Search,
    claim_folder,
    give_out_again,
    is_lost,
    open_study,
    place_of,
    suggest_weights,
    this_machine,
    trials_to_do,
)
from disc_train.tune import attempt, results_of
from trainworks.metrics import read_metrics

WORKER = """
import contextlib, pathlib, sys, time
from disc_train.study import Search, open_study, place_of, suggest_weights, trials_to_do
storage, folder, name, seconds = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
search = Search("random", 12, 1, 1, 5, (), "data", {})
study = open_study(search, storage, folder)
with contextlib.closing(trials_to_do(study, search)) as trials:
    for trial in trials:
        weights = suggest_weights(trial, search)
        place = place_of(study, trial)
        print(place, flush=True)
        time.sleep(seconds)
        with (folder / "did.txt").open("a") as file:
            print(place, name, *(f"{weight:.6f}" for weight in weights.values()), file=file)
        study.tell(trial, weights["row"])
"""


def worker(storage, folder, name, seconds=0.05):
    command = [sys.executable, "-c", WORKER, str(storage), str(folder), name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def did(folder):
    """By place: who did it, and its weights."""
    return sorted(
        (int(place), name, tuple(weights))
        for place, name, *weights in (line.split() for line in (folder / "did.txt").read_text().splitlines())
    )


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request, tmp_path):
    """Where workers meet; of PostgreSQL an empty database that TRAINWORKS_TEST_POSTGRESQL names, if it does."""
    if request.param == "journal":
        return tmp_path / "shared.journal"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    server = os.environ.get("TRAINWORKS_TEST_POSTGRESQL")
    if not server:
        pytest.skip("set TRAINWORKS_TEST_POSTGRESQL to the URL of an empty database")
    return server


def test_workers_share_the_trials_and_a_killed_one_loses_none(storage, tmp_path):
    """Two workers and, once the first has begun a long trial and was killed, a third: each trial is done exactly once,
    with the weights that one worker alone would have drawn."""
    doomed = worker(storage, tmp_path, "doomed", seconds=600)
    lost = int(doomed.stdout.readline())
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    others = [worker(storage, tmp_path, name) for name in ("first", "second")]
    assert [other.wait(timeout=120) for other in others] == [0, 0]
    shared = did(tmp_path)
    assert lost == 0
    assert [place for place, _, _ in shared] == list(range(12))
    alone = tmp_path / "alone"
    alone.mkdir()
    assert worker(alone / "own.journal", alone, "alone").wait(timeout=120) == 0
    assert [weights for _, _, weights in did(alone)] == [weights for _, _, weights in shared]
    assert all(sum(map(float, weights)) == pytest.approx(1, abs=1e-5) for _, _, weights in shared)


def asked(search, folder, count):
    """A study and trials that as many workers have asked for at once."""
    study = open_study(search, None, folder)
    workers = [trials_to_do(study, search) for _ in range(count)]
    return study, workers, [next(worker) for worker in workers]


def search_of(method="random", trials=4, **changed):
    return replace(Search(method, trials, 1, 1, 5, (), "data", {}), **changed)


@pytest.mark.parametrize("method", ["random", "bayes", "multi"])
def test_workers_that_ask_at_once_get_trials_of_their_own(method, tmp_path):
    search = search_of(method)
    _, workers, given = asked(search, tmp_path, 2)
    first, second = (suggest_weights(trial, search) for trial in given)
    assert first != second
    for worker in workers:
        worker.close()
    # Both were given up: the same two are there for the next.
    _, _, again = asked(search, tmp_path, 2)
    assert [suggest_weights(trial, search) for trial in again] == [first, second]


def test_no_place_is_lost_or_done_twice_whatever_a_race_leaves(tmp_path):
    """An asked-for trial too many, which becomes one of the search when that is made longer; a trial that failed and
    was put back by two workers at once."""
    search = search_of(trials=2)
    study = open_study(search, None, tmp_path)

    def work(search):
        done = []
        with contextlib.closing(trials_to_do(study, search)) as trials:
            for trial in trials:
                done.append(place_of(study, trial))
                trial.set_user_attr("scores", [[0.5]])
                study.tell(trial, suggest_weights(trial, search)["row"])
        return done

    study.tell(study.ask(), state=TrialState.FAIL)
    give_out_again(study, search)
    give_out_again(study, search)
    study.enqueue_trial({}, user_attrs={"place": 0})
    assert work(search) == [0, 1]
    study.tell(study.ask(), state=TrialState.FAIL)
    assert work(search_of(trials=4)) == [2, 3]
    assert [result.place for result in results_of(study)] == [0, 1, 2, 3]


def test_who_is_silent_is_lost_and_comes_back_to_a_trial_that_is_anothers(tmp_path, monkeypatch):
    monkeypatch.setattr("disc_train.study.BEAT", 3600)
    search = search_of()
    study, _, (trial,) = asked(search, tmp_path, 1)

    def lost(worker, ago):
        trial.set_user_attr("worker", worker)
        trial.set_user_attr("alive", time.time() - ago)
        return is_lost(study.get_trials()[0])

    assert not lost(f"{this_machine()}:{os.getpid()}", 1)
    assert not lost("elsewhere:1", 1)
    assert lost("elsewhere:1", 1000)
    assert lost(f"{this_machine()}:{os.getpid()}", 1000)  # hangs, or another process has its number since

    class Slow:
        def __init__(self):
            self.search = search

        def judge(self, name, weights, fold, cycles):
            give_out_again(study, search)  # as another worker does
            return [0.5]

    attempt(study, trial, Slow())
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_a_search_ends_when_nothing_better_comes(tmp_path):
    search = search_of(trials=50)
    study = open_study(search, None, tmp_path)
    scores = iter([0.7, 0.5, 0.6, 0.6, 0.6, 0.1])
    with contextlib.closing(trials_to_do(study, search, patience=3)) as trials:
        for trial in trials:
            suggest_weights(trial, search)
            study.tell(trial, next(scores))
    assert next(scores) == 0.1


@pytest.fixture
def tune(disc_train, table_csv, recipe_file, tmp_path, quick_validation):
    """Search in a folder; gives back how it ended."""

    def start(*options, out=tmp_path / "tuned"):
        quick = ["--set", "warm_start.min_steps=8", "--set", "feedback.steps_per_cycle=2"]
        quick += ["--set", "discriminator.max_epochs=1", "--threads", 1, "--device", "cpu"]
        return disc_train("tune", table_csv, "--config", recipe_file, "--out", out, *quick, *options)

    return start


def trials(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_random_search_writes_weights_that_train_takes(tune, disc_train, table_csv, recipe_file, tmp_path):
    ended = tune("--method", "random", "--trials", 3, "--folds", 2, "--set", "seed=3")
    assert (ended.status, ended.out) == (0, f"{tmp_path}/tuned/best_weights.json\n"), ended.err
    best = json.loads((tmp_path / "tuned/best_weights.json").read_text())
    found = trials(tmp_path / "tuned")
    assert [int(trial["trial"]) for trial in found] == [0, 1, 2]
    complete = [trial for trial in found if trial["state"] == "complete"]
    least = min(complete, key=lambda trial: float(trial["two_sample_auc"]))
    assert [float(least[level]) for level in LEVELS] == pytest.approx(
        [best["weights"][level] for level in LEVELS], abs=1e-6
    )
    assert (best["method"], best["seed"], best["folds"], best["trials"]) == ("random", 3, 2, 3)
    assert best["spread"]["two_sample_auc"] > 0
    run = tmp_path / "run"
    trained = disc_train(
        "train", table_csv, "--config", recipe_file, "--weights", tmp_path / "tuned/best_weights.json", "--out", run,
        "--threads", 1, "--device", "cpu", "--set", "warm_start.min_steps=8",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    steps = [record for record in read_metrics(run / "metrics.jsonl") if record.get("weight/row") is not None]
    assert steps
    for record in steps:
        assert [record[f"weight/{level}"] for level in LEVELS] == pytest.approx([best["weights"][n] for n in LEVELS])
        assert sum(record[f"share/{level}"] for level in LEVELS) == pytest.approx(1)


def test_a_search_goes_on_where_it_was_and_is_never_mixed_with_another(tune, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert tune("--method", "bayes", "--trials", 3, "--folds", 1, out=whole).status == 0
    assert tune("--method", "bayes", "--trials", 2, "--folds", 1, out=broken).status == 0
    assert len(trials(broken)) == 2
    assert tune("--method", "bayes", "--trials", 3, "--folds", 1, out=broken).status == 0
    assert trials(broken) == trials(whole)
    other = tune("--method", "random", "--trials", 3, "--folds", 1, out=broken)
    assert (other.status, other.err.count("\n")) == (2, 1)
    assert "holds a search with another method" in other.err


def test_a_grid_is_done_in_its_order_and_two_aims_have_a_front(tune, tmp_path):
    options = ["--combination", "1,0,0,0", "--combination", "0,0,2,2"]
    assert tune("--method", "grid", "--folds", 1, *options, out=tmp_path / "grid").status == 0
    weights = [[float(trial[level]) for level in LEVELS] for trial in trials(tmp_path / "grid")]
    assert weights == [[1, 0, 0, 0], [0, 0, 0.5, 0.5]]
    ended = tune("--method", "multi", "--trials", 2, "--folds", 1, "--json", out=tmp_path / "multi")
    assert ended.status == 0, ended.err
    best = json.loads(ended.out)
    assert set(best["score"]) == {"two_sample_auc", "privacy_gap"}
    assert 0 <= best["score"]["privacy_gap"] <= 0.5
    assert (tmp_path / "multi/plots/front.png").read_bytes().startswith(b"\x89PNG")


def test_of_a_population_the_worst_take_over_from_the_best():
    from disc_train.population import evolve

    calls = []

    def train(fold, name, weights, cycles, base):
        calls.append((name, weights, cycles, base))
        return [1 - weights["row"]]  # the more weight the row level has, the better

    results = evolve(train, trials=16, folds=1, seed=3, step=lambda done: None)
    first, second = calls[:8], calls[8:]
    ranking = sorted(range(8), key=lambda index: results[index].mean)
    best = {f"round_0_member_{index}" for index in ranking[:2]}
    for index, (name, weights, cycles, base) in enumerate(second):
        assert (name, cycles) == (f"round_1_member_{index}", 2)
        if index in ranking[6:]:
            winner = next(weights for name, weights, _, _ in first if name == base)
            ratios = {weights[level] / winner[level] / (weights["row"] / winner["row"]) for level in LEVELS}
            assert base in best
            assert {round(ratio, 6) for ratio in ratios} <= {1.0, 1.5, 0.666667}
        else:
            assert (weights, base) == (first[index][1], f"round_0_member_{index}")


def test_a_member_that_goes_non_finite_is_the_worst_and_taken_over():
    from disc_train.population import evolve
    from trainworks.console import NonFinite

    bases = []

    def train(fold, name, weights, cycles, base):
        bases.append(base)
        if name == "round_0_member_3":
            raise NonFinite("loss")
        return [0.6]

    results = evolve(train, trials=16, folds=1, seed=3, step=lambda done: None)
    assert [result.place for result in results if result.state == "pruned"] == [3]
    assert "round_0_member_3" not in bases


def test_what_a_run_inherits_has_no_scores_in_it(tmp_path):
    from disc_train.fork import inherit
    from trainworks.run import Run

    base, run = tmp_path / "base", Run(tmp_path / "run", {})
    for file in ("run.json", "schema.json", "reports/scores.json", "checkpoints/last/model.safetensors"):
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).touch()
    run.path.mkdir()
    inherit(base, run)
    there = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert there == {"schema.json", "checkpoints/last/model.safetensors"}


def test_a_population_trains_on_from_its_members_and_can_be_interrupted(tune, tmp_path, monkeypatch):
    monkeypatch.setattr("disc_train.population.POPULATION", 2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert tune("--method", "pbt", "--trials", 4, "--folds", 1, out=whole).status == 0
    assert tune("--method", "pbt", "--trials", 3, "--folds", 1, out=broken).status == 0
    assert tune("--method", "pbt", "--trials", 4, "--folds", 1, out=broken).status == 0
    assert trials(broken) == trials(whole)
    steps = [read_metrics(whole / f"fold_0/round_{turn}_member_0/metrics.jsonl")[-1]["step"] for turn in range(2)]
    assert steps[1] - steps[0] == 2


def test_the_front_has_what_nothing_beats_in_both_aims():
    from disc_train.tune_report import Result, choose, front

    results = [
        Result(place, "complete", {}, [scores]) for place, scores in enumerate([[0.6, 0.1], [0.5, 0.3], [0.7, 0.2]])
    ]
    assert [result.place for result in front(results)] == [1, 0]
    assert choose(results, [0.6, 0.1]).place == 0  # as private as the default weights
    assert choose(results, [0.6, 0.3]).place == 1
    assert choose(results, [0.6, 0.05]).place == 0  # none is: the most private
    assert choose([], [0.6]) is None


def test_a_fork_ends_with_the_bits_of_a_whole_training(disc_train, table_csv, recipe_file, tmp_path):
    from disc_train.config import TrainRecipe
    from disc_train.data import read_table
    from disc_train.fork import Family, changed
    from disc_train.run import describe_input
    from trainworks.run import Run
    from trainworks.torch import resolve_device, set_threads

    options = ["--set", "warm_start.min_steps=8", "--set", "feedback.weight_row=0.7", "--threads", 1, "--device", "cpu"]
    whole = tmp_path / "whole"
    assert disc_train("train", table_csv, "--config", recipe_file, "--out", whole, *options).status == 0
    recipe = changed(TrainRecipe.model_validate(Run.open(whole).config), {"feedback.weight_row": 0.25})
    table = read_table(str(table_csv))
    source = describe_input(str(table_csv), table)
    family = Family(recipe, table, source, tmp_path / "family", resolve_device("cpu"), set_threads(1))
    forked = family.fork("heavy", {"feedback.weight_row": 0.7})
    last = "checkpoints/last/model.safetensors"
    assert (forked.path / last).read_bytes() == (whole / last).read_bytes()
    assert family.fork("heavy", {"feedback.weight_row": 0.7}).record["finished"] == forked.record["finished"]


def test_weights_that_adapt_are_logged_and_stay_in_bounds(disc_train, table_csv, recipe_file, tmp_path):
    run = tmp_path / "run"
    options = ["--config", recipe_file, "--weights", "dynamic", "--threads", 1, "--device", "cpu"]
    assert disc_train("train", table_csv, "--out", run, *options, "--set", "warm_start.min_steps=8").status == 0
    weights = [
        [record[f"weight/{level}"] for level in LEVELS]
        for record in read_metrics(run / "metrics.jsonl")
        if record.get("weight/row") is not None
    ]
    assert len({tuple(step) for step in weights}) > 1
    for step in weights:
        assert sum(step) == pytest.approx(1)
        assert 0.04 < min(step) <= max(step) < 0.9
    explained = disc_train("explain", run, "-n", 1, "--json", "--threads", 1, "--device", "cpu")
    assert [json.loads(explained.out)["weights"][level] for level in LEVELS] == weights[-1]
    fixed = tmp_path / "best.json"
    fixed.write_text(json.dumps({"weights": dict.fromkeys(LEVELS, 0.25)}))
    plan = disc_train("train", table_csv, "--config", run, "--weights", fixed, "--out", tmp_path / "new", "--dry-run")
    assert json.loads(plan.out)["config"]["feedback"]["weighting"] == "fixed"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--method", "best"], "--method takes grid, random, bayes, multi, pbt"),
        (["--combination", "1,2,3,4"], "--combination is for --method grid"),
        (
            ["--method", "grid", "--combination", "1,2,3"],
            "--combination wants weights of token, sentence, row, feature",
        ),
        (["--set", "feedback.schedule=none"], "no weights to tune"),
        ([f"--set=feedback.weight_{level}=0" for level in LEVELS], "all feedback weights are 0"),
        (["--storage", "nosuch://host/db"], "cannot be opened"),
        (["--set", "feedback.weighting=dynamic"], "none to tune"),
        (["--method", "pbt", "--patience", 3], "leave --storage, --patience and --cycles out"),
        (["--folds", 9, "--set", "data.valid_fraction=0.2"], "--folds 9 of 0.2 of the rows each are more than all"),
    ],
)
def test_bad_searches_are_one_line(tune, options, told, tmp_path):
    ended = tune(*options)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert told in ended.err


def test_a_folder_takes_trials_of_one_search_alone(tune, tmp_path):
    (tmp_path / "tuned").mkdir()
    claim_folder(search_of("random"), tmp_path / "tuned")
    for options in (["--method", "pbt"], ["--method", "bayes", "--storage", tmp_path / "other.journal"]):
        ended = tune(*options)
        assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
        assert "holds a search with another method; name another --out" in ended.err


def test_folds_that_would_overlap_are_refused(disc_train, table_csv, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("".join(table_csv.read_text().splitlines(keepends=True)[:21]))
    ended = disc_train("train", few, "--out", tmp_path / "run", "--set", "data.valid_fold=4", "--threads", 1)
    assert (ended.status, ended.out) == (2, "")
    assert "20 rows hold no 5 folds of 5 validation rows" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "no json", '{"weights": {"token": 1}}'])
def test_weights_that_are_none_are_one_line(disc_train, table_csv, tmp_path, content):
    file = tmp_path / "weights.json"
    if content is not None:
        file.write_text(content)
    ended = disc_train("train", table_csv, "--weights", file, "--out", tmp_path / "run")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "disc-train tune makes one" in ended.err
    assert not (tmp_path / "run").exists()
