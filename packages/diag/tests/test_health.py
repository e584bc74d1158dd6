"""Each fault is found by its own name, and calm trainings are left alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from diag.finding import Finding, Health
from diag.health import judge
from diag.read import read_run
from diag.thresholds import as_toml, load_thresholds
from trainworks.console import UserError

Log = Callable[..., Path]


def health(path: Path, *sets: str) -> Health:
    return judge(read_run(path), load_thresholds(sets=sets))


def names(path: Path, level: str = "critical") -> set[str]:
    return {finding.name for finding in health(path).findings if finding.level == level}


def the(path: Path, name: str) -> Finding:
    return next(finding for finding in health(path).findings if finding.name == name)


def noisy(rng: np.random.Generator, center: Any, steps: int = 400, share: float = 0.1) -> np.ndarray:
    return np.broadcast_to(center, steps) * rng.lognormal(0, share, steps)


@pytest.fixture
def descent() -> np.ndarray:
    return 0.4 + 2 * np.exp(-np.arange(400) / 60)


def test_a_calm_training_is_healthy(write_log: Log, rng: np.random.Generator, descent: np.ndarray) -> None:
    log = write_log(train__loss=noisy(rng, descent), train__grad_norm=noisy(rng, 1.0), time=np.arange(400) * 0.1)
    assert health(log).verdict == "healthy"


def test_exploding_gradients_name_module_and_onset(write_log: Log, rng: np.random.Generator) -> None:
    encoder = noisy(rng, 1.0)
    encoder[300:] *= 500
    log = write_log(grad_norm__encoder=encoder, grad_norm__decoder=noisy(rng, 1.0))
    finding = the(log, "exploding_gradients")
    assert (finding.level, finding.metric) == ("critical", "grad_norm/encoder")
    assert 300 <= finding.steps[0] <= 303
    assert finding.evidence["factor"] > 100
    assert finding.try_


def test_weights_explode_too(write_log: Log, rng: np.random.Generator) -> None:
    weights = noisy(rng, 10.0, share=0.01)
    weights[300:] *= 1000
    assert names(write_log(param_norm__head=weights)) == {"exploding_weights"}


def test_a_few_spikes_are_nothing_and_many_are_a_warning(write_log: Log, rng: np.random.Generator) -> None:
    few, many = noisy(rng, 1.0), noisy(rng, 1.0)
    few[[100, 250]] *= 100
    many[100::12] *= 100
    assert health(write_log(grad_norm=few)).verdict == "healthy"
    assert names(write_log(grad_norm=many), "warning") == {"gradient_spikes"}


def test_small_gradients_are_a_fault_only_while_the_loss_is_high(write_log: Log, rng: np.random.Generator) -> None:
    gradients, high, solved = noisy(rng, 1.0), noisy(rng, 2.0), noisy(rng, 2.0)
    gradients[250:] *= 1e-6
    solved[250:] *= 1e-4
    assert names(write_log(loss=high, grad_norm=gradients)) == {"vanishing_gradients"}
    assert "vanishing_gradients" not in names(write_log(loss=solved, grad_norm=gradients))


def test_a_module_that_never_got_a_gradient_to_speak_of(write_log: Log, rng: np.random.Generator) -> None:
    log = write_log(grad_norm__first=noisy(rng, 1e-9), grad_norm__last=noisy(rng, 1.0), loss=noisy(rng, 2.3))
    assert the(log, "vanishing_gradients").metric == "grad_norm/first"


def test_dead_is_what_lived_before_and_unused_what_never_did(write_log: Log, rng: np.random.Generator) -> None:
    died, never = noisy(rng, 1.0), np.zeros(400)
    died[200:] = 0
    log = write_log(grad_norm__a=died, grad_norm__b=never, loss=noisy(rng, 2.0))
    assert the(log, "dead_layer").metric == "grad_norm/a"
    assert (the(log, "unused_module").level, the(log, "unused_module").metric) == ("warning", "grad_norm/b")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_stops_being_a_number(write_log: Log, descent: np.ndarray, value: float) -> None:
    descent[-1] = value  # one record is enough
    finding = the(write_log(train__loss=descent), "not_finite")
    assert (finding.level, finding.steps) == ("critical", (400, 400))


def test_null_where_a_metric_is_not_measured_is_no_fault(write_log: Log, descent: np.ndarray) -> None:
    sparse, late = np.full(400, np.nan), np.full(400, np.nan)
    sparse[::50] = 1.0
    late[200:] = 1.0
    assert health(write_log(loss=descent, valid__loss=sparse, feedback__loss=late)).verdict == "healthy"


def test_a_loss_that_was_never_a_number(write_log: Log) -> None:
    assert names(write_log(train__loss=None, lr=0.1)) == {"not_finite"}


def test_diverging_gives_back_what_was_won(write_log: Log, rng: np.random.Generator, descent: np.ndarray) -> None:
    descent[300:] = 2.4
    finding = the(write_log(loss=noisy(rng, descent, share=0.02)), "diverging_loss")
    assert finding.level == "critical"
    assert finding.steps[0] == pytest.approx(301, abs=2)


def test_a_leak_is_told_from_learning_by_the_validation_loss(write_log: Log, rng: np.random.Generator) -> None:
    train, flat, follows = noisy(rng, 1.0), np.full(400, np.nan), np.full(400, np.nan)
    train[300:] *= 0.01
    flat[::20] = 1.1
    follows[::20] = 1.1
    follows[300:] *= 0.05
    assert names(write_log(train__loss=train, valid__loss=flat)) == {"label_leak"}
    assert names(write_log(train__loss=train, valid__loss=follows)) == set()


def test_a_loss_that_no_batch_changes_is_critical_unless_it_is_the_lowest(
    write_log: Log, rng: np.random.Generator
) -> None:
    saturated, converged = noisy(rng, 1.0), noisy(rng, 1.0)
    saturated[250:] = 100.0  # the clamp of PyTorch's BCELoss
    converged[250:] = 0.0
    assert "frozen_loss" in names(write_log(Loss_D=saturated), "critical")
    assert "frozen_loss" in names(write_log(train__loss=converged), "warning")
    assert "frozen_loss" not in names(write_log(Loss_D=noisy(rng, 1.0)), "warning")


def test_a_smaller_fall_after_a_short_peak_is_a_leak_if_the_validation_loss_rises(
    write_log: Log, rng: np.random.Generator
) -> None:
    train, rises, stays = noisy(rng, 1.0), np.full(400, np.nan), np.full(400, np.nan)
    train[300:310] *= 4  # the new input confuses at first
    train[310:] *= 0.3
    rises[::20] = stays[::20] = 1.1
    rises[300:] *= 1.4
    assert names(write_log(train__loss=train, valid__loss=rises)) == {"label_leak"}
    assert names(write_log(train__loss=train, valid__loss=stays)) == set()


def test_overfitting_is_a_warning_with_the_best_step(write_log: Log, descent: np.ndarray) -> None:
    valid = np.full(400, np.nan)
    valid[::20] = 0.5 + np.abs(np.arange(20) - 8) * 0.1
    finding = the(write_log(train__loss=descent, valid__loss=valid), "overfitting")
    assert (finding.level, finding.evidence["best_step"]) == ("warning", 161)


def test_not_learning_and_having_learned_are_not_the_same(write_log: Log, rng: np.random.Generator) -> None:
    early = 0.4 + 2 * np.exp(-np.arange(400) / 5)
    assert names(write_log(loss=noisy(rng, 2.3, share=0.01)), "warning") == {"not_learning"}
    assert names(write_log(loss=early * noisy(rng, 1.0, share=0.001)), "warning") == {"plateau"}


def balanced(rng: np.random.Generator, **changes: Any) -> dict[str, Any]:
    """A cross-entropy GAN near its equilibrium, changed from step 200 on."""
    metrics = {"disc__loss": noisy(rng, 1.386), "gen__adv_loss": noisy(rng, 0.7)}
    for name, value in changes.items():
        metrics.setdefault(name, noisy(rng, 1.0))
        metrics[name][200:] = noisy(rng, value, 200)
    return metrics


def test_a_discriminator_near_equilibrium_is_healthy(write_log: Log, rng: np.random.Generator) -> None:
    assert health(write_log(**balanced(rng))).verdict == "healthy"


def test_a_discriminator_dominates_by_a_low_loss_not_by_a_high_one(write_log: Log, rng: np.random.Generator) -> None:
    assert names(write_log(**balanced(rng, disc__loss=0.01, gen__adv_loss=6.0))) == {"discriminator_dominates"}
    assert names(write_log(**balanced(rng, disc__loss=4.0, gen__adv_loss=0.2))) == set()
    assert names(write_log(disc__loss=noisy(rng, 0.01), train__adversarial=noisy(rng, 6.0))) == {
        "discriminator_dominates"
    }


def test_wasserstein_losses_mean_nothing_of_the_kind(write_log: Log, rng: np.random.Generator) -> None:
    assert names(write_log(d_loss=-noisy(rng, 3.0), g_loss=noisy(rng, 5.0))) == set()


@pytest.mark.parametrize(("real", "fake"), [("D(x)", "D(G(z))"), ("disc/mpd/real", "disc/mpd/fake"), ("D_x", "D_G_z1")])
def test_probabilities_tell_dominance_too(write_log: Log, rng: np.random.Generator, real: str, fake: str) -> None:
    log = write_log(**{real: 1 - noisy(rng, 0.005), fake: noisy(rng, 0.005)})
    assert names(log) == {"discriminator_dominates"}


def test_a_discriminator_that_prefers_fakes(write_log: Log, rng: np.random.Generator) -> None:
    log = write_log(**{"D(x)": noisy(rng, 0.3, share=0.01), "D(G(z))": noisy(rng, 0.7, share=0.01)})
    assert names(log, "warning") == {"generator_dominates"}


def test_collapse_is_seen_in_diversity_and_never_in_a_flat_loss(write_log: Log, rng: np.random.Generator) -> None:
    output = noisy(rng, 1.0)
    flat = write_log(g_loss=0.69, d_loss=1.386, diversity__output=output.copy(), diversity__input=1.1)
    assert health(flat).verdict == "healthy"
    output[300:] *= 0.01
    assert names(write_log(diversity__output=output, diversity__input=1.1)) == {"mode_collapse"}


def test_an_untrained_generator_is_no_collapsed_one(write_log: Log) -> None:
    grows = np.linspace(0.01, 1.0, 15)
    assert names(write_log(steps=15, diversity__output=grows, diversity__input=1.0)) == set()


def test_terms_stuck_at_zero_are_bugs(write_log: Log) -> None:
    assert names(write_log(train__feature_matching=0.0)) == {"feature_matching_idle"}
    assert names(write_log(train__gradient_penalty=0.0)) == {"gradient_penalty_idle"}


def test_losses_that_chase_each_other(write_log: Log) -> None:
    turn = 2 * np.pi * np.arange(400) / 40
    log = write_log(g_loss=1.5 + 1.2 * np.sin(turn), d_loss=1.5 + 1.2 * np.cos(turn))
    assert the(log, "oscillation").evidence["period_points"] == pytest.approx(40, abs=2)


def test_conditions_similarity_and_signs(write_log: Log, rng: np.random.Generator) -> None:
    falls = np.linspace(0.8, 0.5, 400)
    log = write_log(swap_effect=0.001, valid__speaker_similarity=falls, signs__real=noisy(rng, 0.97, share=0.001))
    assert names(log, "warning") == {"condition_ignored", "speaker_similarity_lost", "discriminator_overfits"}


def test_a_stall_is_critical_and_a_new_phase_is_not(write_log: Log) -> None:
    a_step = np.full(400, 0.1)
    a_step[200:] = 3.0
    second_phase = np.full(400, np.nan)
    second_phase[200:] = 1.0
    assert names(write_log(loss=1.0, time=np.cumsum(a_step))) == {"stalled_throughput"}
    log = write_log(loss=1.0, feedback=second_phase, time=np.cumsum(a_step))
    assert names(log) == set()
    assert "throughput_drop" in names(log, "warning")


def test_pauses_for_evaluation_are_no_stall(write_log: Log, descent: np.ndarray) -> None:
    a_step = np.full(400, 0.1)
    a_step[::50] = 30.0
    assert health(write_log(loss=descent, time=np.cumsum(a_step))).verdict == "healthy"


def test_order_and_gaps(tmp_path: Path) -> None:
    def log(steps: list[int], times: list[float]) -> Path:
        path = tmp_path / "metrics.jsonl"
        rows = [{"step": step, "time": time, "grad_norm": 1.0} for step, time in zip(steps, times, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    count = list(range(100))
    assert names(log([*count, *range(50, 150)], [*range(200)]), "warning") == {"steps_go_back"}
    assert names(log([*count, *range(500, 600)], [*range(200)]), "warning") >= {"missing_records"}
    assert "time_goes_back" in names(log(count, [*range(50), *range(50)]), "warning")
    woven = [step for pair in zip(range(100), range(60, 160), strict=True) for step in pair]
    assert names(log(woven, [*range(200)]), "warning") == {"interleaved_writers"}


def test_what_run_json_says_counts(tmp_path: Path) -> None:
    error = "NonFinite: non-finite loss\nat step 7"
    record = {"schema": 1, "tool": "some-tool", "config": {}, "status": "failed", "error": error}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "metrics.jsonl").write_text("")
    assert "non-finite loss at step 7" in the(tmp_path, "failed_run").summary
    assert names(tmp_path, "warning") == {"no_records"}


def test_a_table_that_is_no_log_is_not_called_healthy(tmp_path: Path) -> None:
    table = tmp_path / "customers.csv"
    table.write_text("age,income\n" + "".join(f"{age},{age * 100}\n" for age in range(20, 60)))
    found = the(table, "nothing_to_judge")
    assert "age, income" in found.summary
    assert health(table).verdict == "warning"


def test_a_run_that_says_it_runs_must_have_a_writer_that_writes(tmp_path: Path) -> None:
    record = {"schema": 1, "tool": "some-tool", "config": {}, "status": "running"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": step, "time": step * 2.0, "loss": 1.0}) + "\n" for step in range(20)))
    assert names(tmp_path, "warning") == {"abandoned_run"}
    with FileLock(tmp_path / ".lock"):
        assert health(tmp_path).verdict == "healthy"
        os.utime(log, (0, log.stat().st_mtime - 1000))
        finding = the(tmp_path, "silent_run")
    assert (finding.level, finding.evidence["process"]) == ("critical", os.getpid())


def test_one_finding_for_ten_thousand_metrics(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [{f"grad_norm/m{index}": 1.0 for index in range(10_000)} | {"step": step} for step in range(3)]
    lines.append({f"grad_norm/m{index}": None for index in range(10_000)} | {"step": 3})
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (finding,) = health(log).findings
    assert finding.name == "not_finite"
    assert finding.summary.endswith("and 9,996 more")
    assert len(json.dumps(finding.to_json())) < 2000


def test_thresholds_come_from_a_file_and_say_where_they_are_from(
    tmp_path: Path, write_log: Log, rng: np.random.Generator
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(as_toml())
    assert load_thresholds(file) == load_thresholds()
    gradients = noisy(rng, 1.0)
    gradients[300:] *= 8
    log = write_log(grad_norm=gradients)
    assert names(log) == set()
    file.write_text("[gradients]\nexploding_factor = 3.0\n")
    assert judge(read_run(log), load_thresholds(file)).verdict == "critical"
    with pytest.raises(UserError, match=r'did you mean "gradients\.exploding_factor"'):
        load_thresholds(sets=["gradients.exploding_facto=3"])


def test_names_of_other_code_can_be_taught(write_log: Log) -> None:
    log = write_log(kritik_verlust=0.01, erzeuger_verlust=5.0)
    sets = ("names.discriminator_loss='kritik'", "names.generator_loss='erzeuger'")
    assert health(log, *sets).findings[0].name == "discriminator_dominates"
