"""Embeddings in files: .npz, .npy, CSV and Parquet, with the label of each row."""

from __future__ import annotations

import csv
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diag.extras import require
from trainworks.console import UserError
from trainworks.files import load_array

SUFFIXES = (".npz", ".npy", ".parquet", ".csv")
EMBEDDING_NAMES = ("embeddings", "embedding", "emb", "features", "x", "latents")
UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)
LABEL_NAMES = ("labels", "label", "speaker", "speakers", "speaker_id", "class", "target", "y")


@dataclass(frozen=True)
class Labelled:
    """Embeddings and what each of them is of.

    Attributes:
        embeddings: [rows, dimensions] float32.
        labels: [rows] of str, or None where nothing tells them.
        source: what they were read from, for messages.
    """

    embeddings: np.ndarray
    labels: np.ndarray | None
    source: str


def read_embeddings(source: str | Path, labels: str | Path | None = None, label_column: str | None = None) -> Labelled:
    """Read embeddings and their labels.

    Args:
        source: an .npz (a 2-D array, and a 1-D array of labels), an .npy (2-D), a CSV or Parquet file (a column of
            labels, the others numbers; Parquet may also hold one column of lists), or a folder with one of these.
        labels: a file of labels, one a row: .npy, or text with one a line. Wins over labels in `source`.
        label_column: name of the array or column that holds the labels; default: the first of `LABEL_NAMES`.

    Raises:
        UserError: no such file, nothing in it that is embeddings, or labels that do not match them.
    """
    path = _file_of(Path(source))
    try:
        read = _READERS[path.suffix](path, label_column)
    except UNREADABLE as error:
        # NumPy takes whatever it doesn't know for a pickle, and would have it loaded "unsafely".
        reason = "no array, or pickled objects, which are never loaded" if "pickle" in str(error) else error
        raise UserError(f"{path} cannot be read as {path.suffix[1:]}: {reason}") from None
    found = Labelled(*read, str(path))
    if labels is not None:
        found = Labelled(found.embeddings, _read_labels(Path(labels)), str(path))
    return checked(found)


def checked(found: Labelled) -> Labelled:
    """The same as float32 and text, once shapes and lengths agree.

    Raises:
        UserError: not a table of numbers, no rows, or another number of labels.
    """
    embeddings, labels = np.asarray(found.embeddings), found.labels
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.number) or np.iscomplexobj(embeddings):
        raise UserError(
            f"{found.source}: embeddings are rows of real numbers, [rows, dimensions]; {_shape(embeddings)}"
        )
    if 0 in embeddings.shape:
        raise UserError(f"{found.source} holds no embeddings: {_shape(embeddings)}")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.ndim != 1 or len(labels) != len(embeddings):
            shape = f"{len(embeddings):,} embeddings but labels of shape {labels.shape}"
            raise UserError(f"{found.source}: {shape}; one label a row is wanted")
        labels = labels.astype(str)
    return Labelled(np.ascontiguousarray(embeddings, dtype=np.float32), labels, found.source)


def _shape(array: np.ndarray) -> str:
    return f"this is {array.dtype} of shape {array.shape}"


def _file_of(path: Path) -> Path:
    """The file that holds the embeddings: the path itself, or in a folder `embeddings.*`, or the only candidate."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give an .npz, .npy, .csv or .parquet file, or a folder with one")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        named = [file for file in files if file.stem == "embeddings"]
        if len(named or files) != 1:
            names = ", ".join(file.name for file in files[:5]) or "none"
            raise UserError(f"{path} is a folder with no single file of embeddings (found: {names}); name the file")
        return (named or files)[0]
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: embeddings are read from {', '.join(SUFFIXES)}")
    return path


def _pick(names: Sequence[str], wanted: str | None, known: Sequence[str], path: Path) -> str | None:
    """The name among `names` that holds the labels."""
    if wanted is not None:
        if wanted not in names:
            listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise UserError(f"{path} has no column or array {wanted!r}; it has {listed}")
        return wanted
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in known if name in lowered), None)


def _read_npz(path: Path, label_column: str | None) -> tuple[Any, Any]:
    with np.load(path, allow_pickle=False) as file:
        label = _pick(file.files, label_column, LABEL_NAMES, path)
        tables = [name for name in file.files if name != label and file[name].ndim == 2]
        chosen = _pick(tables, None, EMBEDDING_NAMES, path) or (tables[0] if len(tables) == 1 else None)
        if chosen is None:
            found = ", ".join(f"{name} {file[name].shape}" for name in file.files[:8]) or "nothing"
            raise UserError(
                f"{path} has no one array of embeddings, [rows, dimensions]; name it 'embeddings' ({found})"
            )
        return file[chosen], None if label is None else file[label]


def _read_npy(path: Path, label_column: str | None) -> tuple[Any, Any]:
    if label_column is not None:
        raise UserError(f"{path} has no columns; give its labels as a file with --labels")
    return load_array(path), None


def _read_csv(path: Path, label_column: str | None) -> tuple[Any, Any]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        names = next(csv.reader(file), [])
    if not names:
        raise UserError(f"{path} is empty; its first line names the columns")
    label = _pick(names, label_column, LABEL_NAMES, path)
    columns = [index for index, name in enumerate(names) if name != label]

    def load(usecols: list[int], dtype: type) -> np.ndarray:
        with open(path, encoding="utf-8-sig") as file:
            return np.loadtxt(
                file, delimiter=",", skiprows=1, usecols=usecols, dtype=dtype, ndmin=2, quotechar='"', comments=None
            )

    return load(columns, np.float32), None if label is None else load([names.index(label)], str)[:, 0]


def _read_parquet(path: Path, label_column: str | None) -> tuple[Any, Any]:
    require("embeddings", "pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path)
    label = _pick(table.column_names, label_column, LABEL_NAMES, path)
    labels = None if label is None else np.array([str(value) for value in table[label].to_pylist()])
    table = table.drop_columns([label]) if label is not None else table
    lists = [
        field.name for field in table.schema if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
    ]
    if lists:
        chosen = _pick(lists, None, EMBEDDING_NAMES, path) or lists[0]
        column = table[chosen].combine_chunks()
        return np.asarray(column.flatten()).reshape(len(column), -1), labels
    numbers = [
        field.name for field in table.schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]
    if not numbers:
        return np.empty((len(table), 0)), labels
    return np.column_stack([np.asarray(table[name]) for name in numbers]), labels


def _read_labels(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return load_array(path)
        return np.array(path.read_text(encoding="utf-8-sig").splitlines())
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as labels: {error}") from None


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}
