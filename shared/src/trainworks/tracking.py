"""Trackers as sinks beside `metrics.jsonl`, never instead of it.

A sink that fails warns once and is then silent: training goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from trainworks.console import UserError, warn
from trainworks.run import Run


class Tracker(Protocol):
    """What a tracker's library does for us."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Sink:
    """Passes finite metrics on to a tracker, if there is one."""

    def __init__(self, name: str, tracker: Tracker | None) -> None:
        self._name, self._tracker = name, tracker

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Pass the finite numbers among `values` (slash-named) on under their names."""
        tracker = self._tracker
        if tracker is None:
            return
        numbers = {name: float(value) for name, value in values.items() if _is_finite(value)}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # trackers chat; stdout is for data
                tracker.log(step, numbers)
        except Exception as error:
            self._tracker = None
            self._tell(error)
            # Left open, Trackio would end itself when Python exits, and say so on stdout.
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                tracker.close()

    def close(self) -> None:
        """Let the tracker finish writing."""
        tracker, self._tracker = self._tracker, None
        try:
            with contextlib.redirect_stdout(sys.stderr):
                if tracker is not None:
                    tracker.close()
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        warn(f"tracker {self._name} failed and is left out from here on: {error}")

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_tracker(name: str) -> None:
    """Refuse a tracker that `open_sink` could not open, before anything is written.

    Raises:
        UserError: an unknown name, or the tracker's package is not installed.
    """
    if name == "none":
        return
    if name not in _TRACKERS:
        raise UserError(f'--tracker is none, {" or ".join(_TRACKERS)}, not "{name}"')
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--tracker {name} needs its package: pip install 'trainworks[{name}]'")


def open_sink(name: str, run: Run) -> Sink:
    """The sink for `--tracker NAME`.

    Args:
        name: "none"; "neptune" (offline files in RUN/.neptune, nothing is sent); "trackio" (its local
            dashboard's database, under the tool's name as the project).
        run: the run whose config and id the tracker is told.

    Raises:
        UserError: as `check_tracker`.
    """
    check_tracker(name)
    if name == "none":
        return Sink(name, None)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            tracker = _TRACKERS[name](run)
    except Exception as error:
        warn(f"tracker {name} did not start and is left out: {error}")
        return Sink(name, None)
    return Sink(name, tracker)


def offline_neptune_run(folder: Path, tool: str) -> Any:
    """A new `neptune.Run` of project offline/TOOL that keeps its files in `folder` and sends nothing."""
    # The environment alone tells neptune where to keep offline runs; it is read when a run starts.
    before = os.environ.get("NEPTUNE_DATA_DIRECTORY")
    os.environ["NEPTUNE_DATA_DIRECTORY"] = str(folder.resolve())
    try:
        import neptune

        logging.getLogger("neptune").setLevel(logging.WARNING)  # it would invite to an app that is closed
        return neptune.init_run(
            project=f"offline/{tool}",
            mode="offline",
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
            capture_hardware_metrics=False,
            source_files=[],
            git_ref=False,
        )
    finally:
        del os.environ["NEPTUNE_DATA_DIRECTORY"]
        if before is not None:
            os.environ["NEPTUNE_DATA_DIRECTORY"] = before


class _Neptune:
    def __init__(self, run: Run) -> None:
        self._run = offline_neptune_run(run.path / ".neptune", run.record["tool"])
        from neptune.utils import stringify_unsupported

        self._run["id"] = run.record["id"]
        self._run["config"] = stringify_unsupported(run.config)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run[name].append(value, step=step)

    def close(self) -> None:
        self._run.stop()


class _Trackio:
    def __init__(self, run: Run) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(
            project=run.record["tool"],
            name=run.record["id"],
            config=run.config,
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


_TRACKERS: dict[str, Callable[[Run], Tracker]] = {"neptune": _Neptune, "trackio": _Trackio}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
