"""An offline Neptune folder becomes a run directory. Its files are read plainly; Neptune need not be installed.

The format of clients 1.x, by their 1.14: `.neptune/offline/run__<id>__<pid>__<key>/` holds metadata.json (client,
time of creation) and `data-<first version>.log`, a new file after each 64 MiB. A log's line is one operation:
{"obj": {"type": "LogFloats", "path": ["metrics", "loss"], "values": [{"value": 0.5, "step": 1, "ts": <s>}]},
"version": 7, "at": <s>}. The last line of a process that was killed may be cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from trainworks.config import Recipe, Resolved
from trainworks.console import UserError, warn
from trainworks.files import atomic_write, sha256_file
from trainworks.metrics import MetricsWriter
from trainworks.run import Run, check_apart, input_record

Keys = tuple[str, ...]

TOOL = "neptune"
"""What run.json of an imported run names as its tool: `qa-train` has no model for it."""

_PLACES = ("", "*/", "offline/*/", ".neptune/offline/*/")
_CONFIG_ROOTS = ("config", "parameters")


class ImportedConfig(Recipe):
    """A config whose keys are whatever was logged."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class OfflineRun:
    """An offline run's folder and the operations in its log, in order, as plain data."""

    folder: Path
    logs: list[Path]
    operations: list[dict[str, Any]]

    @property
    def id(self) -> str | None:
        """Of the run that our loggers wrote it for; None for a log of others, or one that was cut before the id."""
        ids = (operation.get("value") for operation in self.operations if operation["path"] == ["id"])
        return next((id for id in ids if isinstance(id, str)), None)

    @property
    def client(self) -> str:
        """Version of the Neptune client that wrote it."""
        try:
            return str(json.loads((self.folder / "metadata.json").read_text("utf-8"))["neptuneClientVersion"])
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"


@dataclass
class Logged:
    """What the operations of a run amount to.

    Attributes:
        fields: last value of each field.
        series: values by step of each series of numbers; None where it was not finite.
        times: when each step was logged last, in seconds since 1970.
        uploads: by field, the content that Neptune was given to upload: its folder and file name.
    """

    fields: dict[Keys, Any] = field(default_factory=dict)
    series: dict[Keys, dict[float, float | None]] = field(default_factory=dict)
    times: dict[float, float] = field(default_factory=dict)
    uploads: dict[Keys, tuple[Path, str]] = field(default_factory=dict)

    def apply(self, operation: Mapping[str, Any], folder: Path) -> None:
        """Do to this what the operation, of the log in `folder`, did to Neptune's run.

        Raises:
            KeyError, TypeError, ValueError: not an operation that Neptune writes.
        """
        path, kind = tuple(operation["path"]), operation["type"]
        if kind == "AssignDatetime":
            moment = datetime.fromtimestamp(operation["value"] / 1000, UTC)
            self.fields[path] = moment.isoformat(timespec="milliseconds")
        elif kind in ("AssignFloat", "AssignInt", "AssignBool", "AssignString"):
            self.fields[path] = operation["value"]
        elif kind == "AddStrings":
            self.fields[path] = sorted({*self.fields.get(path, ()), *operation["values"]})
        elif kind == "RemoveStrings":
            self.fields[path] = sorted({*self.fields.get(path, ())} - {*operation["values"]})
        elif kind == "UploadFile":
            self.fields[path] = operation["file_path"] or operation["tmp_file_name"]
            if operation["tmp_file_name"]:
                self.uploads[path] = (folder / "upload_path", operation["tmp_file_name"])
        elif kind == "LogFloats":
            self._append(path, operation["values"], float)
        elif kind == "LogStrings" and path[0] == "nulls" and len(path) > 1:
            self._append(path[1:], operation["values"], lambda _: None)
        elif kind in ("DeleteAttribute", "ClearFloatLog", "ClearStringSet"):
            stores: tuple[dict[Keys, Any], ...] = (self.fields, self.series, self.uploads)
            for store in stores:
                store.pop(path, None)

    def _append(self, path: Keys, entries: Iterable[Mapping[str, Any]], convert: Any) -> None:
        series = self.series.setdefault(path, {})
        for entry in entries:
            step = entry["step"]
            if step is None:  # Neptune counts for itself
                step = max(series, default=-1) + 1
            if not (math.isfinite(step) and math.isfinite(entry["ts"])):
                raise ValueError
            step = int(step) if float(step).is_integer() else float(step)
            series[step] = convert(entry["value"])
            self.times[step] = max(self.times.get(step, 0.0), float(entry["ts"]))


def import_neptune(folder: Path, out: Path, *, overwrite: bool = False) -> Run:
    """Turn an offline Neptune run into a finished run directory.

    Series of numbers become metrics.jsonl by step, with null where the loggers of this tool marked one; fields under
    `config` (or else `parameters`) become run.json's config and other fields its result, under their slash-names.
    Other series (of text, of images) are left out. Copies that lie in the Neptune folder go to out/artifacts, and
    those named `reports/...` to out/reports, where `compare` reads them; files elsewhere are not touched.

    Args:
        folder: the offline run's own folder, or one that holds it: RUN, RUN/.neptune, RUN/.neptune/offline. The
            logs of a run that was resumed are read as one.
        out: run directory to make.
        overwrite: replace a run directory that is there.

    Raises:
        UserError: no such folder, no run in it or several, a damaged log, a taken name.
    """
    folder, out = Path(folder), Path(out)
    parts = find_offline_runs(folder)
    taken = out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir())))
    if taken and not overwrite:
        raise UserError(f"{out} exists; name another --out, or give --overwrite")
    if overwrite:
        check_apart(out, folder)
    logged = Logged()
    for part in parts:
        _apply_all(logged, part)
    values = logged.fields
    root = next((root for root in _CONFIG_ROOTS if any(path[0] == root for path in values)), None)
    config = _nest({path[1:]: value for path, value in values.items() if path[0] == root and len(path) > 1}, folder)
    result = {"/".join(path): value for path, value in values.items() if path[0] != root or len(path) == 1}
    run = Run.create(
        out,
        tool=TOOL,
        version=parts[-1].client,
        resolved=Resolved(
            ImportedConfig.model_validate(config),
            {".".join(path[1:]): "file" for path in values if path[0] == root and len(path) > 1},
        ),
        seed=config["seed"] if isinstance(config.get("seed"), int) else 0,
        inputs=[input_record(log, rows=None) for part in parts for log in part.logs],
        device="unknown",
        threads=0,
        overwrite=overwrite,
    )
    with run:
        _write_metrics(run, logged, by_epoch=result.get("step_unit") == "epoch")
        run.finish(result | _copy_files(logged, parts[0].folder.parent.parent, run.path))
    return run


def find_offline_runs(folder: Path) -> list[OfflineRun]:
    """The offline run in a folder: one, or the several of a training that was resumed, in their order.

    Raises:
        UserError: no such folder, no run in it or several, a damaged log.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name a run of Neptune's, such as RUN/.neptune/offline/run__...")
    found = sorted({log.parent for place in _PLACES for log in folder.glob(f"{place}data-*.log")})
    if not found:
        raise UserError(f"{folder} holds no offline run of Neptune's, which is a folder with data-1.log")
    runs = [run for run in map(_read, found) if run.operations]
    if not runs:
        raise UserError(f"{found[0]} holds no operation: its process ended before it logged anything")
    if len(runs) > 1 and (runs[0].id is None or len({run.id for run in runs}) > 1):
        names = ", ".join(str(run.folder.relative_to(folder)) for run in runs)
        raise UserError(f"{folder} holds {len(runs)} runs; name one of them: {names}")
    return sorted(runs, key=lambda run: run.operations[0].get("at") or 0.0)


def _read(folder: Path) -> OfflineRun:
    def first_version(log: Path) -> tuple[int, str]:
        number = log.stem.removeprefix("data-")
        return (int(number) if number.isdecimal() else 0, log.name)

    logs = sorted(folder.glob("data-*.log"), key=first_version)
    operations = []
    for log in logs:
        lines = log.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                record = json.loads(line)
                operation = {**record["obj"], "at": record.get("at")}
                path = operation["path"]
                if not path or not all(isinstance(key, str) for key in (operation["type"], *path)):
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                if log == logs[-1] and number == len(lines):  # no newline: cut when the process died
                    continue
                raise UserError(f"{log} line {number} is not an operation of Neptune's; the log is damaged") from None
            operations.append(operation)
    return OfflineRun(folder, logs, operations)


def _apply_all(logged: Logged, run: OfflineRun) -> None:
    for operation in run.operations:
        try:
            logged.apply(operation, run.folder)
        except (KeyError, TypeError, ValueError, OverflowError, OSError, AttributeError):
            name = "/".join(operation["path"])
            raise UserError(f'{run.folder}: "{name}" has a damaged {operation["type"]}') from None


def _write_metrics(run: Run, logged: Logged, by_epoch: bool) -> None:
    records: dict[float, dict[str, float | None]] = {}
    for path, series in logged.series.items():
        for step, value in series.items():
            records.setdefault(step, {})["/".join(path)] = value
    now = min(logged.times.values(), default=0.0)
    with MetricsWriter(run.metrics_path, clock=lambda: now) as writer:
        for step in sorted(records):
            now = logged.times[step]
            steps: Any = step  # others may count in fractions
            writer.write(steps, records[step], epoch=step if by_epoch else None)


def _copy_files(logged: Logged, neptune: Path, out: Path) -> dict[str, str]:
    """Copy the files that lie in the Neptune folder (RUN/.neptune).

    Returns:
        Of each field whose file was copied, the new path relative to `out`.
    """
    copied = {}
    for (*names, last), path in logged.fields.items():
        if names[:1] == ["artifacts"] and last == "path" and isinstance(path, str):
            target = _copy(neptune / "artifacts", path.removeprefix("artifacts/"), out)
            if target is not None:
                copied["/".join((*names, last))] = target
                if logged.fields.get((*names, "sha256")) != sha256_file(out / target):
                    warn(f"{neptune / path} is not the file that was logged (SHA-256 differs)")
    for keys, (folder, name) in logged.uploads.items():
        target = _copy(folder, name, out)
        if target is not None:
            copied["/".join(keys)] = target
    return copied


def _copy(source_folder: Path, name: str, out: Path) -> str | None:
    source_folder = source_folder.resolve()
    source = (source_folder / name).resolve()
    if not source.is_relative_to(source_folder) or not source.is_file():
        warn(f"no file {name} in {source_folder}: it is left out")
        return None
    inside = source.relative_to(source_folder)
    target = inside if inside.parts[0] == "reports" else "artifacts" / inside
    (out / target).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out / target, source.read_bytes())
    return target.as_posix()


def _nest(values: Mapping[Keys, Any], folder: Path) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for keys, value in values.items():
        inner = nested
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UserError(f'{folder}: "{"/".join(keys)}" lies in a field, not in a namespace; the log is damaged')
        inner[keys[-1]] = value
    return nested
