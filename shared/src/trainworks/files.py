"""Files that are published whole: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tokenize
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replace `path` with `data`: temporary sibling, fsync, rename. Text is written as UTF-8.

    Raises:
        OSError: the disk is full or the folder is missing or read-only; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Publish `value` as indented JSON; NaN and infinity become null with their key kept."""
    atomic_write(path, json.dumps(json_ready(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_ready(value: Any) -> Any:
    """Plain JSON data from mappings, sequences, paths and NumPy values; NaN and infinity become null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # a NumPy scalar or array, or a tensor
        return json_ready(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def load_array(path: str | os.PathLike[str], *, mmap: bool = False) -> np.ndarray:
    """The array of an .npy file; pickled objects are never loaded.

    Args:
        mmap: leave the numbers on the disk until they are asked for.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or holds no array of numbers or text.
    """
    import numpy as np

    try:
        if mmap:
            return np.lib.format.open_memmap(path, mode="r")
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (EOFError, OverflowError, SyntaxError, TypeError, tokenize.TokenError) as error:  # of NumPy's header parser
        raise ValueError(f"its header can't be read: {error}") from None


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_file(path: str | os.PathLike[str]) -> None:
    """Push a finished file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


fsync_directory = fsync_file
"""Push a folder's names (what was created, renamed, removed in it) to the disk."""
