import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainworks import files

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def with_null(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [with_null(item) for item in value]
    if isinstance(value, dict):
        return {key: with_null(item) for key, item in value.items()}
    return value


@given(json_values)
def test_json_ready_only_changes_what_json_cannot_say(value: object) -> None:
    ready = files.json_ready(value)
    assert json.loads(json.dumps(ready, allow_nan=False)) == with_null(value)


def test_write_json_takes_numpy_and_keeps_the_key_of_a_nan(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    files.write_json(path, {"auc": np.float32("nan"), "n": np.int64(3), "all": np.array([1.5, np.inf])})
    assert json.loads(path.read_text()) == {"auc": None, "n": 3, "all": [1.5, None]}


def test_an_unknown_object_is_not_written_as_its_repr() -> None:
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        files.json_ready({"a": object()})


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    files.atomic_write(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file_though_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    script = (
        "import sys; from trainworks.files import atomic_write\n"
        "for i in range(10**6): atomic_write(sys.argv[1], str(i % 10) * 300_000)"
    )
    for pause in (0.02, 0.05, 0.08):
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(pause)
        writer.kill()
        writer.wait()
        text = path.read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1
        path.unlink()


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_file(path) == expected


@pytest.mark.parametrize("mmap", [False, True])
def test_an_array_is_read_or_refused(tmp_path: Path, mmap: bool) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.arange(6).reshape(2, 3))
    assert files.load_array(path, mmap=mmap).tolist() == [[0, 1, 2], [3, 4, 5]]
    whole = path.read_bytes()
    for damaged in (b"", whole[:40], whole[:-1], whole.replace(b"'shape'", b"'shape(")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError):  # noqa: PT011  (the words are NumPy's)
            files.load_array(path, mmap=mmap)
    np.save(path, np.array([{}]))
    with pytest.raises(ValueError):  # noqa: PT011  (the words are NumPy's)
        files.load_array(path, mmap=mmap)
