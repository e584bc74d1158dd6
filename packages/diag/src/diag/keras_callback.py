"""Diagnostics inside a Keras training: a callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from diag.finding import Verdict
from diag.keras_loop import norms, to_host
from diag.loop_report import judge_records, publish, read_history
from diag.thresholds import Thresholds, load_thresholds
from trainworks.console import NonFinite, warn


class DiagnosticsCallback(keras.callbacks.Callback):
    """Measures and judges a model every `interval` batches, as `generate_diagnostics_report` does in PyTorch.

    ```
    model.fit(x, y, callbacks=[DiagnosticsCallback("runs/v/diagnostics", probe=(x[:32], y[:32]))])
    ```

    Attributes:
        status: "healthy", "warning" or "critical", as of the last report.
        metrics: the figures of the last report.

    Args:
        output_dir: gets diagnostics.jsonl, a line a report, and diagnostics.json, the last one with its findings.
        interval: batches between reports.
        probe: (inputs, targets) on which gradients are taken, since Keras shows nobody those of the step; None leaves
            them out. A forward and a backward pass of it is what a report costs.
        stop_on: "critical" ends the training there.
        thresholds: default: those of `diag health`.

    Raises:
        NonFinite: from `fit`, where `stop_on` is met.
    """

    def __init__(
        self,
        output_dir: str | Path,
        interval: int = 100,
        probe: tuple[Any, Any] | None = None,
        stop_on: str = "",
        thresholds: Thresholds | None = None,
    ) -> None:
        super().__init__()
        self.output_dir, self.interval, self.probe, self.stop_on = Path(output_dir), interval, probe, stop_on
        self.thresholds = thresholds or load_thresholds()
        self.status: Verdict = "healthy"
        self.metrics: dict[str, float] = {}
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step += 1
        if self._step % self.interval:
            return
        self.metrics = {f"train/{name}": float(value) for name, value in (logs or {}).items()} | self._norms()
        record = {"step": self._step, **self.metrics}
        records = [*read_history(self.output_dir, self._step), record]
        health = judge_records(records, self.output_dir, self.thresholds)
        publish(self.output_dir, record, health)
        if health.verdict != self.status and health.findings:
            warn(f"step {self._step}: {health.verdict}: {health.findings[0].summary}")
        self.status = health.verdict
        if self.status == self.stop_on:
            raise NonFinite(f"stopped at step {self._step}: {health.findings[0].summary}")

    def _norms(self) -> dict[str, float]:
        """Parameter norms by layer and, with a probe, gradient norms."""
        if self.probe is None:
            return to_host(norms(self.model, None))
        inputs, targets = self.probe
        with tf.GradientTape() as tape:
            # As in evaluation: batch statistics and dropout's random state stay as they are.
            loss = self.model.compute_loss(inputs, targets, self.model(inputs, training=False), training=False)
        gradients = tape.gradient(loss, [variable.value for variable in self.model.trainable_variables])
        return to_host(norms(self.model, gradients))
