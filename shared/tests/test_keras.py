import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainworks.console import UserError
from trainworks.threads import choose_threads, count_cores

keras = pytest.importorskip("keras")

from trainworks import keras as core  # noqa: E402


def compiled(seed: int, units: int = 3) -> object:
    core.seed_keras(seed, "init")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=False)
    return model


def test_weights_and_optimizer_state_come_back(tmp_path: Path) -> None:
    saved, loaded = compiled(0), compiled(1)
    inputs, targets = keras.ops.ones((8, 2)), keras.ops.ones((8, 1))
    saved.fit(inputs, targets, verbose=0)
    core.save_weights(tmp_path / "model.weights.h5", saved)
    core.load_weights(tmp_path / "model.weights.h5", loaded)
    for model in (saved, loaded):
        model.fit(inputs, targets, verbose=0)
    for one, other in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        assert (one == other).all()
    assert [path.name for path in tmp_path.iterdir()] == ["model.weights.h5"]


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    with pytest.raises(UserError, match="no weights at"):
        core.load_weights(path, compiled(0))
    core.save_weights(path, compiled(0))
    with pytest.raises(UserError, match=r"weights of another model: [^\n]+$"):
        core.load_weights(path, compiled(0, units=5))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="is damaged"):
        core.load_weights(path, compiled(0))


def test_the_same_stream_gives_the_same_first_weights() -> None:
    first, again, other = (compiled(seed).get_weights()[0] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_threads_are_counted_and_refused_below_one() -> None:
    assert choose_threads(3) == 3
    assert choose_threads() >= 1
    with pytest.raises(UserError, match="at least 1"):
        choose_threads(0)


@pytest.mark.parametrize(("variable", "in_force"), [("", count_cores()), ("3", 3)])
def test_threads_asked_for_after_the_first_operation_are_those_in_force(variable: str, in_force: int) -> None:
    code = "from trainworks import keras as c; c.keras.ops.ones(2); print(c.set_threads(), c.set_threads(1))"
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": variable}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(in_force)] * 2
