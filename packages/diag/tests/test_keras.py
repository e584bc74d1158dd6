"""The Keras callback, and event files as TensorFlow writes them: the oracle of the reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diag.read import read_run
from trainworks.console import NonFinite

keras_module = pytest.importorskip("trainworks.keras")
keras, tf = keras_module.keras, keras_module.tf


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="out")]
    )
    made.compile("sgd", "mse")
    return made


def test_reports_are_made_and_the_training_does_not_notice(tmp_path: Path, model: keras.Model) -> None:
    from diag.keras_callback import DiagnosticsCallback

    x, y = np.ones((8, 3), "float32"), np.zeros((8, 1), "float32")
    before = model.get_weights()
    model.fit(x, y, batch_size=1, verbose=0, shuffle=False)
    alone = model.get_weights()
    model.set_weights(before)
    diagnostics = DiagnosticsCallback(tmp_path, interval=4, probe=(x, y))
    model.fit(x, y, batch_size=1, verbose=0, shuffle=False, callbacks=[diagnostics])
    for one, other in zip(alone, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert diagnostics.status == "healthy"
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    kernel, bias = tape.gradient(loss, [variable.value for variable in model.layers[-1].trainable_variables])
    expected = float(tf.sqrt(tf.reduce_sum(kernel**2) + tf.reduce_sum(bias**2)))
    assert diagnostics.metrics["grad_norm/out"] == pytest.approx(expected, rel=1e-4)
    lines = (tmp_path / "diagnostics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8]


def test_a_critical_training_is_stopped(tmp_path: Path, model: keras.Model) -> None:
    from diag.keras_callback import DiagnosticsCallback

    x = np.full((8, 3), np.nan, "float32")
    diagnostics = DiagnosticsCallback(tmp_path, interval=2, stop_on="critical")
    with pytest.raises(NonFinite, match="stopped at step 2"):
        model.fit(x, np.zeros((8, 1)), batch_size=1, verbose=0, callbacks=[diagnostics])


def test_a_loop_of_ones_own_is_measured_and_judged(tmp_path: Path, model: keras.Model) -> None:
    from diag.keras_loop import generate_diagnostics_report

    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x)))
    gradients = tape.gradient(loss, variables)
    seen = {"modules": {"model": model}, "gradients": {"model": gradients}, "output_dir": tmp_path}
    metrics, status = generate_diagnostics_report(losses={"mse": loss}, step=100, real=x, generated=0 * x, **seen)
    assert status == "healthy"
    assert metrics["train/mse"] == pytest.approx(float(loss))
    kernel, bias = gradients[2:]
    assert metrics["grad_norm/model.out"] == pytest.approx(np.hypot(tf.norm(kernel), tf.norm(bias)), rel=1e-5)
    assert metrics["grad_norm/model"] == pytest.approx(float(tf.linalg.global_norm(gradients)), rel=1e-5)
    assert metrics["param_norm/model.hidden"] == pytest.approx(float(tf.norm(variables[0])), rel=1e-5)  # its bias is 0
    assert metrics["diversity/output"] == 0 < metrics["diversity/input"]
    assert generate_diagnostics_report(losses={"mse": np.nan}, step=200, **seen)[1] == "critical"


def test_scalars_of_tensorflow_are_read(tmp_path: Path) -> None:
    with tf.summary.create_file_writer(str(tmp_path / "train")).as_default():
        for step in range(300):
            tf.summary.write("loss", 1 / (step + 1), step=step)
            tf.summary.write("count", tf.constant(step, tf.int64), step=step)
        tf.summary.write("note", "words", step=1)
        tf.summary.write("weights", [1.0, 2.0], step=1)
    series = read_run(tmp_path).series
    steps, values = series.curve("train/loss")
    assert steps.tolist() == list(range(300))
    np.testing.assert_allclose(values, 1 / np.arange(1, 301), rtol=1e-6)
    assert set(series.names) == {"train/loss", "train/count"}
    assert series.notes == []
