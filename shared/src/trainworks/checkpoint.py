"""Checkpoints that are whole or absent, whatever moment a crash picks.

Each is a folder `step_000100/` with the files of the training loop and a meta.json that holds their SHA-256 and its
own.
The relative symlinks `last` and `best` point at one. Which are best is read from the meta.json files, so that
book needs no saving of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainworks.console import UserError
from trainworks.files import fsync_directory, fsync_file, json_ready, sha256_file, write_json

METRICS = "metrics.jsonl"
_UNFINISHED = ".unfinished-"  # prefix of what a crash may leave behind


class Checkpoints:
    """The `checkpoints` folder of a run.

    Args:
        directory: the folder; made by the first `publish`.
        keep: how many of the newest checkpoints stay.
        top_k: how many of the best by `monitor` stay beside them.
        monitor: the metric's name in the "metrics" of each meta; without one `best` follows `last`.
            A checkpoint whose metric is absent or not finite is never among the best.
        mode: "min" if lower is better, "max" if higher is.
        tie_break: a metric that decides between equals, lower is better; without one the earlier checkpoint is better.
        beside: files of the run that its weights mean nothing without, such as a vocabulary. Their SHA-256 is kept and
            checked with those of a checkpoint's own.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 1,
        top_k: int = 1,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        tie_break: str | None = None,
        beside: Sequence[Path] = (),
    ) -> None:
        self.directory, self.beside = Path(directory), beside
        self.keep, self.top_k, self.monitor, self.mode, self.tie_break = keep, top_k, monitor, mode, tie_break
        self._recovered = False

    def publish(self, step: int, write: Callable[[Path], None], meta: Mapping[str, Any]) -> Path:
        """Publish a checkpoint, point `last` and `best` at what they now mean, and prune the others.

        Args:
            step: optimizer steps finished.
            write: writes the files into the empty folder that it is given.
            meta: JSON data kept beside them, {"metrics": {"valid/loss": 0.3}}; "step", "files" and "sha256" are added.
                With "keep": true the checkpoint is never pruned.

        Raises:
            OSError: the disk is full; the earlier checkpoints stand as they were.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._recovered:
            self.recover()
        unfinished = self.directory / f"{_UNFINISHED}{uuid.uuid4().hex[:8]}"
        metrics = self.directory.parent / METRICS
        if metrics.exists():
            fsync_file(metrics)  # after a power cut no checkpoint may be there whose own records are not
        try:
            unfinished.mkdir()
            write(unfinished)
            files = sorted(path for path in unfinished.rglob("*") if path.is_file())
            for path in files:
                fsync_file(path)
            digests = {
                Path(os.path.relpath(path, unfinished)).as_posix(): sha256_file(path) for path in [*files, *self.beside]
            }
            described = json_ready({**meta, "step": step, "files": digests})
            write_json(unfinished / "meta.json", described | {"sha256": _digest(described)})
            published = self._free_name(step)
            os.replace(unfinished, published)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        fsync_directory(self.directory)
        self._point("last", published)
        self._settle()
        return published

    def load(self, name: str = "last") -> tuple[Path, dict[str, Any]]:
        """The folder and meta of a checkpoint, its files checked against their SHA-256.

        Args:
            name: "last", "best" or a folder's name such as "step_000100".

        Raises:
            UserError: there is no such checkpoint, or one of its files is damaged (the file is named).
        """
        path = self.directory / name
        if not path.is_dir():
            links = [path for path in (self.directory / "best", self.directory / "last") if path.exists()]
            there = ", ".join(path.name for path in (*self._published(), *links)) or "none"
            raise UserError(f'no checkpoint "{name}" in {self.directory}; there: {there}')
        path = path.parent / path.resolve().name  # a folder that stays the same while `last` moves on
        meta = _read_meta(path)
        for name, digest in meta["files"].items():
            file = os.path.normpath(path / name)
            advice = "bring it back from a copy of the run" if name.startswith("..") else "choose another checkpoint"
            try:
                whole = sha256_file(file) == digest
            except FileNotFoundError:
                raise UserError(f"{file} is missing; {advice}") from None
            if not whole:
                raise UserError(f"{file} is damaged (SHA-256 differs); {advice}")
        return path, meta

    def recover(self) -> None:
        """Clear what a crashed writer left: unfinished folders, and checkpoints that `last` never came to.

        Only the process that writes the run may call this; the first `publish` does.
        """
        self._recovered = True
        if not self.directory.is_dir():
            return
        for path in self.directory.glob(f"{_UNFINISHED}*"):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
        last = self._step_of("last")
        for path in self._published():
            if _step_in(path) > last:
                self._remove(path)
        if last >= 0:
            self._settle()

    def _settle(self) -> None:
        """Point `best` at the best and remove what is neither among the newest nor among the best."""
        best = self._best()
        last = (self.directory / "last").resolve().name
        self._point("best", best[0] if best else self.directory / last)
        newest = self._published()[-self.keep :]
        kept = {last, *(path.name for path in newest), *(path.name for path in best)}
        for path in self._published():
            if path.name not in kept and not _read_meta(path).get("keep"):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        # Renamed first: a folder of which half is gone must not look like a checkpoint.
        doomed = self.directory / f"{_UNFINISHED}{path.name}"
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _best(self) -> list[Path]:
        """At most `top_k` checkpoints, best first."""
        scored = []
        for path in self._published():
            metrics = _read_meta(path).get("metrics") or {}
            value, tie = (_finite(metrics.get(name)) for name in (self.monitor, self.tie_break))
            if value is not None:
                scored.append((value if self.mode == "min" else -value, math.inf if tie is None else tie, path))
        return [path for *_, path in sorted(scored, key=lambda entry: entry[:2])[: self.top_k]]

    def _published(self) -> list[Path]:
        """Published folders, oldest step first."""
        found = [path for path in self.directory.glob("step_*") if not path.is_symlink()]
        return sorted(found, key=lambda path: (_step_in(path), path.name))

    def _free_name(self, step: int) -> Path:
        """`step_000100`, or `step_000100-2` if that is there: what `last` points at is never replaced."""
        path, copy = self.directory / f"step_{step:06d}", 1
        while path.exists():
            copy += 1
            path = self.directory / f"step_{step:06d}-{copy}"
        return path

    def _step_of(self, pointer: str) -> int:
        path = self.directory / pointer
        return _step_in(path.resolve()) if path.is_dir() else -1

    def _point(self, pointer: str, target: Path) -> None:
        link = self.directory / f"{_UNFINISHED}{pointer}"
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        os.replace(link, self.directory / pointer)
        fsync_directory(self.directory)


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _step_in(path: Path) -> int:
    return int(path.name.removeprefix("step_").partition("-")[0])


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        meta["files"].items()
        digest = meta.pop("sha256", None)  # earlier checkpoints have none
    except FileNotFoundError:
        raise UserError(f"{file} is missing; choose another checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is damaged; choose another checkpoint") from None
    if digest not in (None, _digest(meta)):
        raise UserError(f"{file} is damaged (SHA-256 differs); choose another checkpoint")
    return meta


def _digest(meta: Mapping[str, Any]) -> str:
    """SHA-256 of a meta's content: spaces and the order of keys don't matter."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
