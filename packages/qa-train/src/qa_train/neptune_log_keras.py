"""The Neptune logger of the LSTM: a Keras callback."""

from __future__ import annotations

from collections.abc import Mapping

import trainworks.keras  # noqa: F401  (chooses Keras' backend, so it comes before Keras)
from qa_train.neptune_log import NeptuneLogger
from trainworks.run import Run

import keras  # isort: skip


class LSTMNeptuneLogger(keras.callbacks.Callback, NeptuneLogger):
    """The logger that Keras' `fit` calls. It writes what `neptune_log.TransformerNeptuneLogger` writes.

    It stays open after `fit`, for the artifacts.
    """

    def __init__(self, run: Run) -> None:
        """Start Neptune offline and tell it the run's id and config."""
        keras.callbacks.Callback.__init__(self)
        NeptuneLogger.__init__(self, run)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Append the slash-named ones among Keras' `logs`; its own names ("loss") have no slash.

        Args:
            epoch: counted from 0, as Keras does.
            logs: what callbacks before this one have put there too.
        """
        if epoch + 1 != self.last_epoch:  # else the trainer has told `on_epoch` already
            self.on_epoch(epoch + 1, {name: value for name, value in (logs or {}).items() if "/" in name})
