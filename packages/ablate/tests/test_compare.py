"""From the runs of a suite to tables, words and pictures."""

import json

import numpy as np
import pytest

from ablate.compare import judge
from ablate.plots import mean_curve
from ablate.results import RunResult
from trainworks.files import write_json

METRICS = (
    '"valid/accuracy" = { direction = "max", effect = 0.02 }\n"valid/error" = { direction = "min", at = "last" }\n'
)


@pytest.fixture
def made(tmp_path):
    """Make a suite's folder of finished runs: `made({variant: [value of each seed]})`."""

    def make(values, metrics=METRICS, lines=None, **changes):
        from ablate.plan import Options, make_plan, settle_changes, write_plan

        suite = tmp_path / "made.toml"
        names = [name for name in values if name != "baseline"]
        tables = "".join(f'[variants.{name}]\npurpose = "-"\nset.x = {index}\n' for index, name in enumerate(names))
        suite.write_text(f'command = "true"\n[metrics]\n{metrics}{tables}')
        count = max(len(found) for found in values.values())
        plan = make_plan(Options(str(suite), out=tmp_path / "out", seeds=count))
        plan.folder.mkdir(exist_ok=True)
        settle_changes(plan)
        write_plan(plan)
        for paths in plan.paths():
            found = values[paths.variant]
            if paths.seed < len(found):
                value = found[paths.seed]
                paths.run.mkdir(parents=True)
                write_json(
                    paths.run / "run.json", {"status": "finished", "result": {"valid/accuracy": value}} | changes
                )
                write_json(paths.record, {"state": "finished"})
                records = (
                    lines(paths.variant, paths.seed) if lines else [(1, 2.0, None if value is None else 1 - value)]
                )
                text = "".join(
                    json.dumps({"step": step, "epoch": step, "time": time, "valid/error": error}) + "\n"
                    for step, time, error in records
                )
                (paths.run / "metrics.jsonl").write_text(text)
        return plan.folder

    return make


BASE = [0.70, 0.72, 0.69, 0.73, 0.71]


def shifted(by, noise=0.001):
    return [value + by + noise * (-1) ** seed * seed for seed, value in enumerate(BASE)]


def test_verdicts_follow_the_direction_of_the_metric(made, ablate):
    out = made({"baseline": BASE, "better": shifted(0.1), "worse": shifted(-0.1), "same": shifted(0.0, 0.02)})
    ended = ablate("compare", out)
    assert ended.status == 0, ended.err
    tables = json.loads((out / "comparison.json").read_text())["metrics"]
    for table in tables:  # an error is judged the other way round
        verdicts = {row["variant"]: row["verdict"] for row in table["variants"]}
        assert list(verdicts) == ["baseline", "better", "same", "worse"]  # ranked
        assert verdicts["better"] == "helps"
        assert verdicts["worse"] == "hurts"
        assert verdicts["same"] == "no detectable effect"
    assert "better helps: valid/accuracy +0.1004, 95 % interval " in ended.out
    assert "p (flip): exact sign-flip test, not adjusted, never below 0.062 at 5 seeds." in ended.out


def test_no_detectable_effect_says_what_would_be_seen(made, ablate):
    out = made({"baseline": BASE, "same": shifted(0.0, 0.02)})
    words = ablate("compare", out).out
    assert "same: no detectable effect at 5 seeds: valid/accuracy +0.008, 95 % interval " in words
    assert "This many seeds show a difference of " in words
    assert "to see one of 0.02 takes " in words
    planned = {
        effect: json.loads(ablate("compare", out, "--effect", effect, "--json").out)["metrics"][0]["variants"][1]
        for effect in (0.01, 0.1)
    }
    assert planned[0.01]["seeds_needed"] > 30 > planned[0.1]["seeds_needed"] >= 3
    assert planned[0.01]["effect"] == 0.01


def test_two_seeds_are_neither_tested_nor_ranked(made, ablate):
    ended = ablate("compare", made({"baseline": BASE[:2], "a": shifted(-0.1)[:2], "b": shifted(0.1)[:2]}))
    assert "a: no test possible with 2 seeds (difference -0.1005); 3 are the least." in ended.out
    assert ended.out.index("\na ") < ended.out.index("\nb ")
    assert "helps" not in ended.out


def test_only_seeds_that_both_finished_are_paired(made, ablate):
    out = made({"baseline": BASE, "fewer": shifted(-0.1)[:3]})
    ended = ablate("compare", out, "--json")
    row = json.loads(ended.out)["metrics"][0]["variants"][1]
    assert (row["test"]["count"], list(row["differences"])) == (3, ["0", "1", "2"])
    assert "fewer seed 3 is left out: waiting" in json.loads(ended.out)["notes"]


def test_differences_without_any_spread_are_not_tested(made, ablate):
    out = made({"baseline": BASE, "shifted": shifted(0.25, 0.0), "copy": BASE})
    words = ablate("compare", out).out
    assert "shifted: no test possible: all 5 differences are exactly +0.25, which leaves no spread" in words
    assert "copy: no detectable effect at 5 seeds: every one gave what the baseline gave." in words


def test_a_seed_that_changes_nothing_is_noticed(made, ablate):
    words = ablate("compare", made({"baseline": [0.5] * 3, "a": [0.6] * 3})).out
    assert "note: all seeds of the baseline gave the same figures: does the command use --seed?" in words


def test_what_is_not_finite_is_left_out_and_told(made, ablate):
    out = made({"baseline": BASE, "a": [None, *shifted(-0.1)[1:]]})
    ended = ablate("compare", out, "--json")
    assert json.loads(ended.out)["metrics"][0]["variants"][1]["test"]["count"] == 4
    assert "valid/accuracy is not finite in a seed 0, which is left out of its table" in json.loads(ended.out)["notes"]


def curve(variant, seed):
    """An error that falls by .1 a step; the slow variant takes two seconds a step, the other one."""
    seconds = 2.0 if variant == "slow" else 1.0
    better = 0.05 if variant == "slow" else 0.0
    return [
        (step, step * seconds, 1 - 0.1 * step - better + 0.001 * seed * (variant == "slow")) for step in range(1, 9)
    ]


def test_equal_compute_compares_where_all_were_at_that_time(made, ablate):
    out = made({"baseline": BASE, "slow": BASE}, lines=curve)

    def difference(*options):
        found = json.loads(ablate("compare", out, "--json", *options).out)
        table = next(table for table in found["metrics"] if table["metric"] == "valid/error")
        return round(table["variants"][1]["test"]["mean"], 6), found["budget"], found["notes"]

    assert difference()[0] == -0.048
    by_steps, budget, notes = difference("--equal", "steps")
    assert (by_steps, budget) == (-0.048, 8)
    assert "left out, as metrics.jsonl does not have them along training: valid/accuracy" in notes
    by_time, budget, notes = difference("--equal", "time")
    assert (by_time, budget) == (0.352, 8.0)  # eight steps against four
    assert "metrics at equal time: 8 seconds" in notes
    assert ablate("compare", out, "--equal", "money").err == 'error: --equal takes time or steps, not "money"\n'


@pytest.mark.parametrize(("at", "expected"), [("last", 0.4), ("best", 0.2)])
def test_a_metric_of_the_log_is_its_last_or_best_value(made, ablate, at, expected):
    metric = f'"valid/error" = {{ direction = "min", at = "{at}" }}\n'
    lines = [(1, 1.0, 0.5), (2, 2.0, 0.2), (3, 3.0, None), (4, 4.0, 0.4)]
    out = made({"baseline": BASE}, metrics=metric, lines=lambda variant, seed: lines)
    found = json.loads(ablate("compare", out, "--json").out)
    assert found["metrics"][0]["variants"][0]["mean"] == pytest.approx(expected)


def test_runs_of_different_data_are_told(made, ablate, tmp_path):
    out = made({"baseline": BASE, "a": shifted(0.1)}, inputs=[{"sha256": "1"}])
    other = out / "checkpoints_a" / "seed_0" / "run.json"
    write_json(other, json.loads(other.read_text()) | {"inputs": [{"sha256": "2"}]})
    assert "note: the runs read different files (SHA-256)" in ablate("compare", out).out


def test_a_folder_that_is_none_says_what_makes_one(ablate, tmp_path):
    ended = ablate("compare", tmp_path)
    assert (ended.status, ended.err) == (
        2,
        f"error: {tmp_path} is no suite's folder: it has no suite.json; `ablate run` makes one\n",
    )
    (tmp_path / "suite.json").write_text("{")
    assert "suite.json is damaged or of another version" in ablate("status", tmp_path).err


def test_p_values_are_adjusted_for_the_variants_that_were_tested():
    values = {name: dict(enumerate(shifted(by))) for name, by in (("a", 0.004), ("b", 0.1), ("c", -0.1))}
    judged = judge({"baseline": dict(enumerate(BASE)), **values, "few": {0: 0.3, 1: 0.4}}, "baseline", "max")
    (least, lowest), (middle, second), (largest, highest) = sorted(
        (test.p_value, p_holm) for test, p_holm, _ in judged.values() if p_holm is not None
    )
    assert (lowest, second, highest) == (3 * least, max(3 * least, 2 * middle), largest)
    assert (judged["few"][1], judged["few"][2]) == (None, "no test possible")


def test_a_mean_curve_is_over_the_steps_that_all_seeds_cover():
    def run(pairs):
        records = [{"step": step, "loss": value} for step, value in pairs]
        return RunResult("a", 0, "finished", "", {}, 1.0, 1, {}, (), records)

    runs = [run([(0, 0.0), (10, 1.0)]), run([(2, 1.2), (6, 1.6), (8, None), (12, 2.2)]), run([(3, 3.0)])]
    steps, mean, spread = mean_curve(runs, "loss")
    assert (steps[0], steps[-1]) == (2, 10)
    assert mean == pytest.approx(0.1 * steps + 0.5)
    assert spread == pytest.approx(np.full(len(steps), np.sqrt(0.5)))
    assert mean_curve(runs[2:], "loss") is None
