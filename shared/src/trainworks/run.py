"""The run directory, the contract between the tools: DESIGN section 2 describes its files.

`Run.create` and `Run.resume` hold the run's lock until the `with` block ends; `Run.open` only reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from trainworks.config import AnyRecipe, Resolved
from trainworks.console import Interrupted, UserError, warn
from trainworks.files import atomic_write, fsync_directory, json_ready, sha256_file, write_json

__all__ = [
    "SCHEMA",
    "Run",
    "atomic_write",
    "check_replaceable",
    "input_record",
    "json_ready",
    "sha256_file",
    "write_json",
]

SCHEMA = 1
"""Version of run.json's layout."""


class Run:
    """One training run on disk.

    Attributes:
        path: the run directory.
        record: the content of run.json.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: FileLock | None = None) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @property
    def config(self) -> dict[str, Any]:
        """The resolved recipe as plain data."""
        return self.record["config"]

    def recipe(self, kind: type[AnyRecipe]) -> AnyRecipe:
        """The resolved recipe, checked.

        Raises:
            UserError: it is not of that kind: another version wrote it, or it is damaged.
        """
        try:
            return kind.model_validate(self.config)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where, reason = ".".join(map(str, first["loc"])) or "config", first["msg"]
            raise UserError(f"{self.path / 'run.json'} holds no recipe of this version: {where}: {reason}") from None

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        tool: str,
        version: str,
        resolved: Resolved[Any],
        seed: int,
        inputs: Sequence[Mapping[str, Any]] = (),
        device: str,
        threads: int,
        overwrite: bool = False,
    ) -> Run:
        """Make a run directory, whole or not at all, and lock it.

        Args:
            path: where; its parents are made. An empty directory there is taken over.
            tool: the tool's command, which is also its distribution's name.
            version: the tool's version.
            resolved: the recipe and where each value came from.
            seed: the seed that all randomness derives from.
            inputs: one `input_record` for each file that was read.
            device: "cpu" or "cuda", as it was resolved.
            threads: compute threads.
            overwrite: replace a run of the same tool that is there (and nothing else).

        Raises:
            UserError: the name is taken, the run there is another tool's or holds an input, or another process is
                writing it.
        """
        path = Path(path)
        taken = is_taken(path)
        check_replaceable(path, tool, overwrite=overwrite)
        record = {
            "schema": SCHEMA,
            "id": f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}",
            "tool": tool,
            "version": version,
            "argv": sys.argv,
            "config": resolved.config,
            "config_sources": resolved.provenance,
            "seed": seed,
            "inputs": list(inputs),
            "environment": _environment(tool, device, threads),
            "status": "running",
            "started": _now(),
            "finished": None,
            "result": None,
        }
        if taken:
            check_apart(path, *(record["path"] for record in inputs))
            _acquire(path).release()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
        old = new.with_suffix(".old")
        try:
            new.mkdir()
            (new / "checkpoints").mkdir()
            (new / "metrics.jsonl").touch()
            write_json(new / "run.json", record)
            if taken:
                path.rename(old)
            new.rename(path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        fsync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)
        return cls(path, json_ready(record), _acquire(path))

    @classmethod
    def resume(cls, path: str | Path, *, tool: str) -> Run:
        """Lock a run that was made before and mark it as running again.

        Raises:
            UserError: not a run of this tool, or another process is writing it.
        """
        run = cls.open(path, tool=tool)
        run._lock = _acquire(run.path)
        run.record = cls.open(path, tool=tool).record  # what it says now that nobody else can change it
        resumed = [*run.record.get("resumed", []), {"at": _now(), "argv": sys.argv}]
        run._update(status="running", finished=None, resumed=resumed)
        return run

    @classmethod
    def open(cls, path: str | Path, *, tool: str | None = None) -> Run:
        """Read a run, whatever its status and whoever is writing it.

        Raises:
            UserError: not a run directory, or with `tool` given, the run of another tool.
        """
        path = Path(path)
        file = path / "run.json"
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            what = "has no run.json, so it is not a run directory" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; a training command makes one with --out") from None
        except (ValueError, RecursionError):
            raise UserError(f"{file} is damaged: it is not JSON") from None
        if not isinstance(record, dict) or not {"schema", "tool", "config"} <= record.keys():
            raise UserError(f"{file} does not describe a run: schema, tool or config is missing")
        if record["schema"] != SCHEMA:
            raise UserError(f"{file} has schema {record['schema']}; this version reads schema {SCHEMA}")
        if tool is not None and record["tool"] != tool:
            raise UserError(f"{path} is a run of {record['tool']}, not of {tool}")
        if tool is not None:  # runs of foreign commands may hold less, or more
            for name, is_sound in _SOUND.items():
                if not is_sound(record.get(name)):
                    raise UserError(f'{file} is damaged: its "{name}" is not what a run has there')
        return cls(path, record)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the run as finished with its headline metrics."""
        self._update(status="finished", finished=_now(), result=dict(result), error=None)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if exception is None:
                if self.record["status"] == "running":
                    self.finish({})
            else:
                stopped = isinstance(exception, Interrupted | KeyboardInterrupt)
                with contextlib.suppress(OSError):  # a full disk: the first error is the one to report
                    self._update(
                        status="interrupted" if stopped else "failed",
                        finished=_now(),
                        error=" ".join(f"{type(exception).__name__}: {exception}".split()),
                    )
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _update(self, **changes: Any) -> None:
        if self._lock is None:
            raise RuntimeError(f"{self.path} is open for reading")
        self.record = json_ready({**self.record, **changes})
        write_json(self.path / "run.json", self.record)


def _holds(record: Any, **kinds: type) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())


_SOUND: dict[str, Callable[[Any], bool]] = {
    "id": lambda value: isinstance(value, str),
    "status": lambda value: isinstance(value, str),
    "config": lambda value: isinstance(value, dict),
    "inputs": lambda value: isinstance(value, list) and all(_holds(one, path=str, sha256=str) for one in value),
    "environment": lambda value: _holds(value, device=str, threads=int),
    "resumed": lambda value: value is None or isinstance(value, list),
}
"""What a tool's own run.json holds, as far as it relies on it."""


def is_taken(path: Path) -> bool:
    """Whether a run can't be made there without --overwrite: an empty directory is taken over."""
    return path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir())))


def check_replaceable(path: Path, tool: str, *, overwrite: bool) -> None:
    """Refuse a name that `Run.create` would refuse; for tools that prepare a while before it, too.

    Raises:
        UserError: the name is taken, and `overwrite` is False or what is there is no run of this tool.
    """
    if not is_taken(path):
        return
    if not overwrite:
        raise UserError(f"{path} exists; name another --out, or give --resume or --overwrite")
    other = Run.open(path).record["tool"]
    if other != tool:
        raise UserError(f"{path} is a run of {other}, so --overwrite leaves it alone; name another --out")


def warn_if_taken(path: Path, tool: str, *, overwrite: bool) -> None:
    """Say in a dry run that a name is taken, which is no error there: what is planned may stand already."""
    try:
        check_replaceable(path, tool, overwrite=overwrite)
    except UserError as error:
        warn(str(error))


def is_made_by(tool: str, file: Path) -> bool:
    """Whether a JSON file is there and names the tool that made the folder around it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["tool"] == tool
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def check_apart(out: str | Path, *sources: str | Path) -> None:
    """Refuse to replace a folder that holds what is read.

    Raises:
        UserError: a source lies in `out`.
    """
    for source in sources:
        if Path(source).resolve().is_relative_to(Path(out).resolve()):
            raise UserError(f"{source} is in {out}, which --overwrite would remove; name another --out")


def input_record(path: str | Path, *, rows: int | None = None) -> dict[str, Any]:
    """What run.json says of a file that was read: path, SHA-256 and number of rows."""
    return {"path": os.fspath(path), "sha256": sha256_file(path), "rows": rows}


def _acquire(path: Path) -> FileLock:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is writing {path}; wait for it or name another --out") from None
    return lock


def _environment(tool: str, device: str, threads: int) -> dict[str, Any]:
    return {
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "libraries": _library_versions(tool),
        "device": device,
        "threads": threads,
        "git_commit": _git_commit(),
    }


def _library_versions(tool: str) -> dict[str, str]:
    """Versions of what the tool's distribution and its extras require directly and is installed, read without
    importing anything."""
    versions: dict[str, str] = {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires(tool) or []:
            name = re.match(r"[\w.-]+", requirement)
            if name:
                with contextlib.suppress(metadata.PackageNotFoundError):
                    versions[name.group()] = metadata.version(name.group())
    return versions


def _git_commit() -> str | None:
    """The commit of the repository around the working directory, if there is one."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
