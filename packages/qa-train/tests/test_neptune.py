"""The Neptune loggers of both frameworks, and what an offline Neptune folder becomes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qa_train.compare import compare_runs
from qa_train.neptune_import import import_neptune
from qa_train.neptune_log import NeptuneLogger, TransformerNeptuneLogger
from trainworks.config import Recipe, resolve
from trainworks.console import UserError
from trainworks.metrics import read_metrics
from trainworks.run import Run

EPOCHS: list[dict[str, float]] = [
    {
        "metrics/train/loss": 0.69,
        "metrics/valid/accuracy": 0.5,
        "metrics/valid/auc": math.nan,
        "metrics/category/simple/noun_8/accuracy": 0.25,
        "metrics/category/simple/noun_8/count": 4,
    },
    {
        "metrics/train/loss": math.inf,
        "metrics/valid/accuracy": 0.75,
        "metrics/valid/auc": 0.8,
        "metrics/category/simple/noun_8/accuracy": 0.5,
        "metrics/category/simple/noun_8/count": 4,
    },
]


class Network(Recipe):
    dim: int = 64
    kernel: tuple[int, int] = (3, 3)


class Example(Recipe):
    model: str = "lstm"
    network: Network = Network()


def new_run(path: Path) -> Run:
    with Run.create(
        path, tool="qa-train", version="0", resolved=resolve(Example), seed=0, device="cpu", threads=1
    ) as run:
        return run


def tell(logger: NeptuneLogger, epochs: list[dict[str, float]] = EPOCHS) -> None:
    """The events of a training whose accuracy grows with each epoch."""
    top: list[tuple[int, float]] = []
    for epoch, values in enumerate(epochs, start=1):
        logger.on_epoch(epoch, values)
        tell_best(logger, top, epoch, values)


def tell_best(logger: NeptuneLogger, top: list[tuple[int, float]], epoch: int, values: dict[str, float]) -> None:
    top.insert(0, (epoch, values["metrics/valid/accuracy"]))
    logger.on_best(*top[0])
    logger.on_top_epochs(top)


def offline_log(run: Run) -> Path:
    (log,) = (run.path / ".neptune" / "offline").glob("run__*/data-1.log")
    return log


def logged_keys(run: Run) -> set[str]:
    return {"/".join(json.loads(line)["obj"]["path"]) for line in offline_log(run).read_text().splitlines()}


def metrics_of(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "time"} for record in read_metrics(run.metrics_path)]


def write_log(folder: Path, *operations: dict[str, Any], name: str = "data-1.log", first: int = 1) -> Path:
    """A log as clients of others leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [{"obj": obj, "version": at, "at": float(at)} for at, obj in enumerate(operations, start=first)]
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / name


def floats(path: str, *points: tuple[float | None, float]) -> dict[str, Any]:
    values = [{"value": value, "step": step, "ts": 100.0 + place} for place, (step, value) in enumerate(points)]
    return {"type": "LogFloats", "path": path.split("/"), "values": values}


def assign(kind: str, path: str, value: Any) -> dict[str, Any]:
    return {"type": f"Assign{kind}", "path": path.split("/"), "value": value}


def test_both_loggers_write_the_same_keys_and_values(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    pytest.importorskip("tensorflow")
    from qa_train.neptune_log_keras import LSTMNeptuneLogger, keras

    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")

    by_torch = new_run(tmp_path / "t")
    plain = TransformerNeptuneLogger(by_torch)
    tell(plain)

    by_keras = new_run(tmp_path / "l")
    callback = LSTMNeptuneLogger(by_keras)
    fit = keras.callbacks.CallbackList([callback])
    fit.on_train_begin()
    top: list[tuple[int, float]] = []
    for epoch, values in enumerate(EPOCHS):
        fit.on_epoch_begin(epoch)
        tell_best(callback, top, epoch + 1, values)
        fit.on_epoch_end(epoch, {"loss": 1.0, "answer_accuracy": 0.5, **values})
    fit.on_train_end()

    for logger in (plain, callback):
        logger.on_artifact("weights", weights)
        logger.close()

    assert logged_keys(by_torch) == logged_keys(by_keras)
    assert {
        "id",
        "config/network/dim",
        "metrics/train/loss",
        "metrics/category/simple/noun_8/count",
        "best/accuracy",
        "best/epoch",
        "top_epochs/2/epoch",
        "artifacts/weights/sha256",
    } <= logged_keys(by_keras)
    from_torch = import_neptune(by_torch.path, tmp_path / "from_t")
    from_keras = import_neptune(by_keras.path, tmp_path / "from_l")
    assert metrics_of(from_torch) == metrics_of(from_keras)
    assert from_torch.config == from_keras.config
    assert {**from_torch.record["result"], "id": by_keras.record["id"]} == from_keras.record["result"]


def test_an_epoch_that_the_trainer_told_of_is_not_logged_again_by_keras(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    pytest.importorskip("tensorflow")
    from qa_train.neptune_log_keras import LSTMNeptuneLogger

    run = new_run(tmp_path / "run")
    logger = LSTMNeptuneLogger(run)
    logger.on_epoch(1, EPOCHS[0])
    logger.on_epoch_end(0, EPOCHS[0])
    logger.close()
    assert offline_log(run).read_text().count('"metrics", "train", "loss"') == 1


def test_what_was_logged_comes_back_as_a_run(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    run = new_run(tmp_path / "run")
    logger = TransformerNeptuneLogger(run)
    tell(logger)
    logger.close()

    imported = import_neptune(run.path / ".neptune", tmp_path / "imported")

    assert Run.open(tmp_path / "imported").record == imported.record
    assert imported.record["status"] == "finished"
    assert imported.config == {"model": "lstm", "network": {"dim": 64, "kernel": "[3, 3]"}}
    result = imported.record["result"]
    assert result["id"] == run.record["id"]
    assert (result["best/epoch"], result["best/accuracy"]) == (2, 0.75)
    assert [result[f"top_epochs/{rank}/epoch"] for rank in (1, 2)] == [2, 1]
    assert [result[f"top_epochs/{rank}/accuracy"] for rank in (1, 2)] == [0.75, 0.5]
    nulls = {"metrics/valid/auc": None}, {"metrics/train/loss": None}
    assert metrics_of(imported) == [
        {"step": epoch, "epoch": epoch, **values, **null}
        for epoch, values, null in zip((1, 2), EPOCHS, nulls, strict=True)
    ]


def test_neptune_never_gets_what_it_would_drop(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("neptune")
    run = new_run(tmp_path / "run")
    logger = TransformerNeptuneLogger(run)
    logger.on_epoch(1, {"metrics/valid/auc": math.nan, "metrics/train/loss": -math.inf})
    logger.close()
    markers = [json.loads(line)["obj"] for line in offline_log(run).read_text().splitlines() if '"nulls"' in line]
    assert [(marker["path"][-1], marker["values"][0]["value"]) for marker in markers] == [
        ("auc", "nan"),
        ("loss", "-inf"),
    ]
    captured = capfd.readouterr()
    assert "NeptuneUnsupportedValue" not in captured.err
    assert captured.out == "", "stdout is for data"


def test_artifacts_outlive_their_originals_and_compare_reads_the_reports(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    for name, probability in (("a", 0.9), ("b", 0.1)):
        run = new_run(tmp_path / name)
        predictions = run.path / "predictions.jsonl"
        answered = {"id": "q", "answer": "yes", "probability": probability, "category": "simple"}
        predictions.write_text(json.dumps(answered | {"num_actors": 2, "num_sentences": 5, "hops": 1}) + "\n")
        weights = run.path / "epoch_001.weights.h5"
        weights.write_bytes(b"weights")
        logger = TransformerNeptuneLogger(run)
        logger.on_artifact("weights", weights)
        logger.on_artifact("reports/valid", predictions)
        logger.close()
        weights.unlink()
        predictions.unlink()
        imported = import_neptune(run.path, tmp_path / f"imported_{name}")
        assert (imported.path / imported.record["result"]["artifacts/weights/path"]).read_bytes() == b"weights"
    evaluations = compare_runs([tmp_path / "imported_a", tmp_path / "imported_b"]).evaluations
    assert [evaluation.overall["accuracy"] for evaluation in evaluations.values()] == [1, 0]


def test_a_changed_artifact_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    neptune = tmp_path / ".neptune"
    write_log(
        neptune / "offline" / "run__x",
        assign("String", "artifacts/weights/path", "artifacts/weights/w.bin"),
        assign("String", "artifacts/weights/sha256", "0" * 64),
    )
    (neptune / "artifacts" / "weights").mkdir(parents=True)
    (neptune / "artifacts" / "weights" / "w.bin").write_bytes(b"other")
    import_neptune(neptune, tmp_path / "out")
    assert "SHA-256 differs" in capsys.readouterr().err


def test_a_log_names_no_file_outside_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("secret")
    upload = {"type": "UploadFile", "path": ["model"], "ext": "", "file_path": None, "tmp_file_name": "../../../secret"}
    write_log(
        tmp_path / ".neptune" / "offline" / "run__x",
        assign("String", "artifacts/weights/path", "artifacts/../../secret"),
        assign("String", "artifacts/weights/sha256", ""),
        assign("String", "artifacts/other/path", str(tmp_path / "secret")),
        upload,
    )
    import_neptune(tmp_path / ".neptune", tmp_path / "out")
    assert capsys.readouterr().err.count("it is left out") == 3
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "secret" in path.name]


def test_what_a_killed_process_has_logged_is_on_disk(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    run = new_run(tmp_path / "run")
    logger = TransformerNeptuneLogger(run)
    tell(logger)
    imported = import_neptune(run.path, tmp_path / "imported")
    logger.close()
    assert len(metrics_of(imported)) == 2
    assert imported.record["result"]["best/epoch"] == 2


def test_a_last_record_that_was_cut_is_skipped(tmp_path: Path) -> None:
    log = write_log(tmp_path / "run__x", floats("loss", (1, 0.5)), floats("loss", (2, 0.4)))
    whole = log.read_bytes()
    for cut in (1, 2, 40):
        log.write_bytes(whole[:-cut])
        kept = metrics_of(import_neptune(tmp_path / "run__x", tmp_path / f"cut_{cut}"))
        assert [record["loss"] for record in kept] == ([0.5, 0.4] if cut == 1 else [0.5])


def test_a_log_damaged_inside_says_where(tmp_path: Path) -> None:
    log = write_log(tmp_path / "run__x", floats("loss", (1, 0.5)), floats("loss", (2, 0.4)))
    log.write_bytes(log.read_bytes()[20:])
    with pytest.raises(UserError, match=r"data-1\.log line 1 is not an operation"):
        import_neptune(tmp_path / "run__x", tmp_path / "out")
    write_log(tmp_path / "run__x", {"type": "LogFloats", "path": ["loss"], "values": [{"value": "high"}]})
    with pytest.raises(UserError, match='"loss" has a damaged LogFloats'):
        import_neptune(tmp_path / "run__x", tmp_path / "out")
    write_log(tmp_path / "run__x", assign("Int", "config/a", 1), assign("Int", "config/a/b", 1))
    with pytest.raises(UserError, match='"a/b" lies in a field'):
        import_neptune(tmp_path / "run__x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_others_needs_no_neptune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neptune", None)
    folder = tmp_path / "offline" / "run__x"
    write_log(
        folder,
        assign("String", "sys/name", "Untitled"),
        assign("Float", "parameters/lr", 0.1),
        assign("Int", "parameters/net/dim", 8),
        assign("Bool", "frozen", True),
        assign("Datetime", "began", 1000),
        {"type": "AddStrings", "path": ["sys", "tags"], "values": ["b", "a"]},
        {"type": "RemoveStrings", "path": ["sys", "tags"], "values": ["b"]},
        {"type": "UploadFile", "path": ["model"], "ext": "bin", "file_path": None, "tmp_file_name": "model-1.bin"},
        {"type": "UploadFile", "path": ["far"], "ext": "bin", "file_path": "far.bin", "tmp_file_name": None},
        {"type": "LogStrings", "path": ["stdout"], "values": [{"value": "hello", "step": 1, "ts": 100.0}]},
        floats("gone", (0, 1.0)),
        {"type": "DeleteAttribute", "path": ["gone"]},
        floats("train/loss", (None, 0.5), (None, 0.4)),
    )
    write_log(folder, floats("train/loss", (2.0, 0.3), (2.5, 0.2)), name="data-14.log", first=14)
    (folder / "metadata.json").write_text('{"neptuneClientVersion": "1.14.0"}')
    (folder / "upload_path").mkdir()
    (folder / "upload_path" / "model-1.bin").write_bytes(b"model")

    imported = import_neptune(tmp_path, tmp_path / "out")

    assert (imported.record["tool"], imported.record["version"]) == ("neptune", "1.14.0")
    assert imported.config == {"lr": 0.1, "net": {"dim": 8}}
    assert imported.record["result"] == {
        "sys/name": "Untitled",
        "frozen": True,
        "began": "1970-01-01T00:00:01.000+00:00",
        "sys/tags": ["a"],
        "model": "artifacts/model-1.bin",
        "far": "far.bin",
    }
    assert (tmp_path / "out" / "artifacts" / "model-1.bin").read_bytes() == b"model"
    assert metrics_of(imported) == [
        {"step": step, "epoch": None, "train/loss": loss} for step, loss in ((0, 0.5), (1, 0.4), (2, 0.3), (2.5, 0.2))
    ]
    assert [record["time"] for record in read_metrics(imported.metrics_path)] == [0, 1, 0, 1]


def test_the_logs_of_a_resumed_run_are_read_as_one(tmp_path: Path) -> None:
    pytest.importorskip("neptune")
    run = new_run(tmp_path / "run")
    killed = TransformerNeptuneLogger(run)
    tell(killed)
    killed.close()
    resumed = TransformerNeptuneLogger(run)
    resumed.on_epoch(2, {"metrics/train/loss": 0.25})  # the epoch whose checkpoint was not finished
    resumed.on_epoch(3, {"metrics/train/loss": 0.125})
    resumed.close()
    imported = import_neptune(run.path, tmp_path / "imported")
    assert [record["metrics/train/loss"] for record in metrics_of(imported)] == [0.69, 0.25, 0.125]
    assert imported.record["result"]["best/epoch"] == 2


def test_a_folder_that_is_not_one_run_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="nowhere does not exist"):
        import_neptune(tmp_path / "nowhere", out)
    with pytest.raises(UserError, match="holds no offline run"):
        import_neptune(tmp_path, out)
    log = write_log(tmp_path / "offline" / "run__a")
    with pytest.raises(UserError, match="run__a holds no operation"):
        import_neptune(tmp_path, out)
    with pytest.raises(UserError, match="is not a folder"):
        import_neptune(log, out)
    write_log(tmp_path / "offline" / "run__a", floats("loss", (1, 0.5)))
    write_log(tmp_path / "offline" / "run__b", floats("loss", (1, 0.5)))
    with pytest.raises(UserError, match=r"holds 2 runs; name one of them: offline/run__a, offline/run__b"):
        import_neptune(tmp_path, out)
    import_neptune(tmp_path / "offline" / "run__a", out)
    with pytest.raises(UserError, match=r"out exists; name another --out, or give --overwrite$"):
        import_neptune(tmp_path / "offline" / "run__b", out)
    import_neptune(tmp_path / "offline" / "run__b", out, overwrite=True)


def test_overwriting_does_not_remove_what_is_read(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    log = write_log(run.path / ".neptune" / "offline" / "run__a", floats("loss", (1, 0.5)))
    with pytest.raises(UserError, match="which --overwrite would remove"):
        import_neptune(run.path, run.path, overwrite=True)
    assert log.exists()


def test_a_logger_that_fails_warns_once_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("neptune")
    run = new_run(tmp_path / "run")
    logger = TransformerNeptuneLogger(run)
    logger.on_artifact("weights", tmp_path / "missing.bin")
    tell(logger)
    logger.on_artifact("weights", tmp_path / "missing.bin")
    logger.close()
    assert capsys.readouterr().err.count("warning: tracker neptune failed") == 1


def test_a_logger_that_does_not_start_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "neptune", None)
    logger = TransformerNeptuneLogger(new_run(tmp_path / "run"))
    tell(logger)
    logger.close()
    assert capsys.readouterr().err.count("warning: tracker neptune failed") == 1


def test_the_module_needs_no_framework() -> None:
    code = (
        "import sys, qa_train.neptune_log, qa_train.neptune_import; "
        "print([name for name in ('keras', 'tensorflow', 'torch', 'neptune') if name in sys.modules])"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout == "[]\n"
