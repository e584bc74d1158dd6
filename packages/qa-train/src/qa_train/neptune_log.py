"""Neptune's offline files beside `metrics.jsonl`: what both frameworks' loggers write, and the Transformer's logger.

The LSTM's logger, a Keras callback, is in `neptune_log_keras`, so that this module needs no framework. Neptune itself
is imported when a logger starts. The hosted service is closed, so nothing is ever sent or fetched.

What a run's log holds, and `neptune_import` reads:

- `id`, `config/...`: of run.json; values that Neptune has no type for are strings.
- `step_unit`: "epoch", what the steps of all series are.
- `metrics/...`: series under the names of metrics.jsonl.
- `nulls/<name of a metric>`: Neptune drops NaN and infinity without a word; this series of strings ("nan", "inf")
  marks the epochs at which the metric was one.
- `best/epoch`, `best/accuracy`, `top_epochs/<rank>/epoch`, `top_epochs/<rank>/accuracy`: fields, overwritten.
- `artifacts/<name>/path`, `artifacts/<name>/sha256`: of a copy, relative to RUN/.neptune, since Neptune's own
  `upload` keeps the path alone.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainworks.console import warn
from trainworks.files import atomic_write, sha256_file
from trainworks.run import Run
from trainworks.tracking import offline_neptune_run


class NeptuneLogger:
    """Writes a training's events into RUN/.neptune.

    If Neptune does not start or fails, that is warned of once, and the logger is silent from there on: training
    goes on. After each event all is on disk as far as a killed process is concerned.
    """

    def __init__(self, run: Run) -> None:
        """Start Neptune offline and tell it the run's id and config."""
        self.last_epoch = 0
        self._folder = (run.path / ".neptune").resolve()
        self._tracked: Any = None
        self._try(lambda: self._start(run))

    def on_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Append the metrics (slash-named) of an epoch, counted from 1."""

        def append() -> None:
            for name, value in values.items():
                if math.isfinite(value):
                    self._tracked[name].append(float(value), step=epoch)
                else:
                    self._tracked[f"nulls/{name}"].append(str(float(value)), step=epoch)

        self.last_epoch = epoch
        self._log(append)

    def on_best(self, epoch: int, accuracy: float) -> None:
        """Set the best epoch so far and its validation accuracy."""
        self._assign({"best/epoch": epoch, "best/accuracy": float(accuracy)})

    def on_top_epochs(self, top: Sequence[tuple[int, float]]) -> None:
        """Set the best epochs so far, best first, each with its validation accuracy."""
        fields: dict[str, Any] = {}
        for rank, (epoch, accuracy) in enumerate(top, start=1):
            fields |= {f"top_epochs/{rank}/epoch": epoch, f"top_epochs/{rank}/accuracy": float(accuracy)}
        self._assign(fields)

    def on_artifact(self, name: str, path: Path) -> None:
        """Keep a copy of a file in RUN/.neptune/artifacts/<name>/, under the file's own name.

        Args:
            name: slash-named, such as "weights" or "reports/valid"; the last file logged under a name counts.
            path: the file.
        """

        def copy() -> None:
            target = self._folder / "artifacts" / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, path.read_bytes())
            self._tracked[f"artifacts/{name}/path"] = target.relative_to(self._folder).as_posix()
            self._tracked[f"artifacts/{name}/sha256"] = sha256_file(target)

        self._log(copy)

    def close(self) -> None:
        """Let Neptune finish writing. Later events are ignored."""
        tracked, self._tracked = self._tracked, None
        if tracked is not None:
            self._try(tracked.stop)

    def _assign(self, fields: Mapping[str, Any]) -> None:
        def assign() -> None:
            for name, value in fields.items():
                self._tracked[name] = value

        self._log(assign)

    def _log(self, action: Callable[[], None]) -> None:
        def act_and_flush() -> None:
            action()
            self._tracked.wait(disk_only=True)  # Neptune's buffer would die with the process

        if self._tracked is not None:
            self._try(act_and_flush)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # Neptune chats; stdout is for data
                action()
        except Exception as error:
            tracked, self._tracked = self._tracked, None
            warn(f"tracker neptune failed and is left out from here on: {error}")
            if tracked is not None:  # left alone, it would stop when the process ends, and chat on stdout
                with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                    tracked.stop()

    def _start(self, run: Run) -> None:
        tracked = offline_neptune_run(self._folder, run.record["tool"])

        def describe() -> None:
            from neptune.utils import stringify_unsupported

            tracked["id"] = run.record["id"]
            tracked["config"] = stringify_unsupported(run.config)
            tracked["step_unit"] = "epoch"

        self._tracked = tracked
        self._log(describe)


class TransformerNeptuneLogger(NeptuneLogger):
    """The logger that the explicit PyTorch loop calls. It writes what `neptune_log_keras.LSTMNeptuneLogger` writes."""
