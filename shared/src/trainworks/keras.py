"""What a Keras loop on TensorFlow needs. Only tools that use Keras import this module, and before Keras itself."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainworks.console import UserError
from trainworks.files import atomic_write
from trainworks.seeding import derive
from trainworks.threads import choose_threads, count_cores

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """TensorFlow's C++ side writes notes on GPUs that aren't there straight to file descriptor 2, before any setting of
    its own is read. They are shown only if what follows fails."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(shown, kept.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)


with _without_chatter():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()


def resolve_device(name: str) -> str:
    """ "cpu" or "cuda" for "auto" (a GPU where TensorFlow sees one), "cpu" or "cuda"; "cpu" hides the GPUs.

    Raises:
        UserError: CUDA was asked for and is not there, or the name is another.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f'--device is auto, cpu or cuda, not "{name}"')
    available = bool(tf.config.list_physical_devices("GPU"))
    if name == "cuda" and not available:
        raise UserError("--device cuda: TensorFlow sees no GPU here; use --device cpu")
    if name == "cpu" and available:
        tf.config.set_visible_devices([], "GPU")
    return "cuda" if name != "cpu" and available else "cpu"


def set_threads(threads: int | None = None) -> int:
    """Set TensorFlow's compute threads, as `choose_threads` says, and return their number.

    TensorFlow takes them once, before its first operation; a later call in the same process changes nothing and returns
    the number in force: where nobody had set one, TF_NUM_INTRAOP_THREADS or every core of the process.
    """
    threads = choose_threads(threads)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        from_environment = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
        return tf.config.threading.get_intra_op_parallelism_threads() or from_environment or count_cores()
    return threads


def seed_keras(seed: int, *names: str | int) -> None:
    """Reseed Python's, NumPy's and TensorFlow's global generators for the stream called `names`, and ask for
    operations that give the same bits on each run."""
    keras.utils.set_random_seed(derive(seed, *names) % 2**32)
    tf.config.experimental.enable_op_determinism()


def save_weights(path: str | Path, model: Any) -> None:
    """Publish a model's weights, and with a compiled model its optimizer's state, as `.weights.h5`."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name.removesuffix('.weights.h5')}.unfinished.weights.h5")
    try:
        model.save_weights(unfinished)
        atomic_write(path, unfinished.read_bytes())
    finally:
        unfinished.unlink(missing_ok=True)


def load_weights(path: str | Path, model: Any) -> None:
    """Load what `save_weights` wrote into a built model of the same architecture; a compiled one gets its optimizer's
    state too.

    Raises:
        UserError: no such file, a damaged file, or weights of another architecture.
    """
    if not Path(path).is_file():
        raise UserError(f"no weights at {path}")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)  # else Keras would leave its state out
    try:
        model.load_weights(path)
    except OSError as error:
        raise UserError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from None
    except (ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} holds weights of another model: {reason}") from None
