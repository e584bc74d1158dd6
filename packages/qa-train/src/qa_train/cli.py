"""The command line of `qa-train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainworks.console import UserError, entry, set_quiet, version_callback

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads; default: what is free, at most 2.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what is there.")]
Checkpoint = Annotated[str, typer.Option(help="best, last or step_000100.")]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_callback("qa-train"), is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Example: qa-train make-stories --out data/ && qa-train train data/ --out runs/t && qa-train evaluate runs/t
    data/test.jsonl

    Yes/no questions about stories: an LSTM (Keras, TensorFlow) and a Transformer (PyTorch) behind one trainer.
    """


@app.command(short_help="Make the built-in stories.")
def make_stories(
    out: Annotated[Path, typer.Option(help="Data directory to make.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same stories.")] = 0,
    directions: Annotated[int, typer.Option(help="4, or 2 for north and south alone.")] = 4,
    category: Annotated[
        list[str] | None,
        typer.Option(help="simple, deeper, less_dense, dense or superdense; may be given again; default: all."),
    ] = None,
    balance_hops: Annotated[
        bool, typer.Option(help="As many questions of each number of hops; else most need none.")
    ] = False,
    train: Annotated[int, typer.Option(min=1, help="Stories a category and number of actors, 2 to 8.")] = 400,
    valid: Annotated[int, typer.Option(min=1, help="The same, for validation.")] = 60,
    valid_b: Annotated[int, typer.Option(min=1, help="Stories a category and number of actors, 9 to 20.")] = 30,
    test: Annotated[int, typer.Option(min=1, help="Stories a category and number of actors, 21 to 30.")] = 100,
    overwrite: Annotated[bool, typer.Option(help="Replace the directory if it exists.")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train make-stories --out data/ --seed 0

    Stories of actors who walk, turn and follow one another, balanced; train and valid have small casts, valid-b and
    test large ones. Prints the directory.
    """
    from qa_train.stories import CATEGORIES, default_splits
    from qa_train.stories import make_stories as make

    set_quiet(quiet)
    splits = default_splits(
        train=train,
        valid=valid,
        valid_b=valid_b,
        test=test,
        categories=category or tuple(CATEGORIES),
        directions=directions,
        balance_hops=balance_hops,
    )
    print(make(out, splits, seed=seed, overwrite=overwrite))


@app.command(short_help="Make a data directory of other files.")
def prepare(
    kind: Annotated[str, typer.Argument(help="babi, then TASK and DIR; or file, then one JSON Lines or CSV file.")],
    out: Annotated[Path, typer.Option(help="Data directory to make.")],
    sources: Annotated[
        list[str] | None, typer.Argument(help="qa6 and a folder with qa6_train.txt and so on; or a file.")
    ] = None,
    valid: Annotated[float, typer.Option(help="Share of a file's examples for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of a file's examples for the test.")] = 0.2,
    seed: Annotated[int, typer.Option(help="The same seed gives the same split of a file.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace the directory if it exists.")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train prepare babi qa6 tasks/en-valid --out data/

    Yes/no tasks of bAbI (qa6, qa17, qa18), or stories of one's own: qa-train prepare file mine.csv --out data/.
    Prints the directory.
    """
    set_quiet(quiet)
    sources = sources or []
    if kind == "babi" and len(sources) == 2:
        from qa_train.babi import prepare_babi

        print(prepare_babi(sources[0], Path(sources[1]), out, overwrite=overwrite))
    elif kind == "file" and len(sources) == 1:
        from qa_train.data import prepare_jsonl

        print(prepare_jsonl(sources[0], out, valid=valid, test=test, seed=seed, overwrite=overwrite))
    else:
        raise UserError("prepare wants babi TASK DIR, or file FILE; see qa-train prepare --help")


@app.command(short_help="Learn to answer.")
def train(
    data: Annotated[Path | None, typer.Argument(help="Data directory with train.jsonl and valid.jsonl.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make.")] = None,
    model: Annotated[str | None, typer.Option(help="transformer (PyTorch) or lstm (Keras, TensorFlow).")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with; takes its recipe and its data.")
    ] = None,
    overwrite: Overwrite = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training stories.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named recipe: pointer, baseline, babi.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (transformer).")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Parts that a batch is cut into (transformer).")] = None,
    tracker: Annotated[
        str | None,
        typer.Option(help="none, neptune (offline) or trackio; default: none, or what --resume goes on with."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Check the data, show the recipe and what would be written, and write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train train data/ --model transformer --out runs/t

    Train on train.jsonl, choose the epoch on valid.jsonl. Prints the run's path.
    """
    from qa_train.config import PRESETS, TrainRecipe
    from trainworks.config import resolve

    set_quiet(quiet)
    flags: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "precision": precision,
        "grad_accum": grad_accum,
        "training.epochs": epochs,
    }
    if resume is not None:
        given = [name for name, value in flags.items() if value is not None]
        if data or out or config or preset or set_ or given or overwrite or dry_run:
            raise UserError("--resume takes recipe, data and place from the run: leave the other options out")
        from qa_train.train import resume_run

        path = resume_run(resume, device, threads, tracker or last_tracker(resume))
    else:
        if data is None or out is None:
            raise UserError("train wants DATA and --out RUN, or --resume RUN; see qa-train train --help")
        resolved = resolve(
            TrainRecipe,
            file=config,
            preset=preset,
            presets=PRESETS,
            flags=flags,
            sets=set_ or (),
            env_prefix="QA_TRAIN",
        )
        if dry_run:
            print_dry_run(resolved, data, out, overwrite)
            return
        from qa_train.train import start_run

        path = start_run(resolved, data, out, device, threads, tracker or "none", overwrite)
    print(path)


@app.command(short_help="Measure a model's answers.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[str, typer.Argument(help="Examples with answers: JSON Lines or CSV, - for stdin.")],
    out: Annotated[Path | None, typer.Option(help="Report directory; default: RUN/reports/NAME.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
    fail_under: Annotated[float | None, typer.Option(help="Exit 1 if the accuracy is below this.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a report that is of another file.")] = False,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train evaluate runs/t data/test.jsonl

    Accuracy, loss, F1, AUC, calibration by category, actors and hops with intervals, beside the shortcuts.
    """
    import json

    from qa_train.predict import evaluate as evaluate_run
    from trainworks.console import AnswerNo

    set_quiet(quiet)
    report = evaluate_run(
        run, data, out=out, overwrite=overwrite, checkpoint=checkpoint, device=device, threads=threads
    )
    print(json.dumps(report.to_json()) if json_ else report.text())
    accuracy = report.evaluation.overall["accuracy"]
    if fail_under is not None and not accuracy >= fail_under:  # NaN is never reached
        raise AnswerNo(f"accuracy {accuracy:.4f} is under {fail_under:g}")


@app.command(short_help="Answer questions.")
def predict(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[str, typer.Argument(help="Stories and questions: JSON Lines or CSV, - for stdin.")] = "-",
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train predict runs/t < stories.jsonl > answers.jsonl

    One JSON object a question, in their order: id, answer, probability of yes.
    """
    from qa_train.predict import predict as predict_file
    from qa_train.train import load_trained

    set_quiet(quiet)
    for line in predict_file(load_trained(run, checkpoint, device, threads), data):
        print(line)


@app.command(short_help="Compare runs by McNemar tests.")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, two or more, that were evaluated.")],
    set_name: Annotated[
        str | None, typer.Option("--on", help="Which reports to compare, such as test; default: what all have.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for comparison.json and a plot.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="The comparison as JSON on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train compare runs/t runs/l

    Paired differences of accuracy on the same questions, with McNemar tests, Holm-adjusted.
    """
    import json

    from qa_train.compare import compare_runs, write_comparison
    from trainworks.files import json_ready

    set_quiet(quiet)
    comparison = compare_runs(runs, set_name)
    if out is not None:
        write_comparison(out, comparison)
    print(json.dumps(json_ready(comparison.to_json())) if json_ else comparison.table())


@app.command(short_help="Turn an offline Neptune folder into a run directory.")
def import_neptune(
    folder: Annotated[Path, typer.Argument(help="RUN/.neptune, or one run__... folder of its offline runs.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: qa-train import-neptune elsewhere/.neptune --out runs/imported

    Series become metrics.jsonl, fields run.json; reports that were logged can be compared. Prints the run's path.
    """
    from qa_train.neptune_import import import_neptune as convert

    set_quiet(quiet)
    print(convert(folder, out, overwrite=overwrite).path)


def print_dry_run(resolved: Any, data: Path, out: Path, overwrite: bool) -> None:
    """The resolved recipe with the source of each value, the data as training would read it, and what would be written,
    as JSON on stdout."""
    import json

    from qa_train.data import read_splits
    from qa_train.encoding import Vocabulary, encode
    from qa_train.train import max_words
    from trainworks.console import warn
    from trainworks.run import warn_if_taken

    inputs: list[dict[str, Any]] = []
    num_words: int | None = None
    if data.exists():
        splits, inputs = read_splits(data.resolve())
        vocabulary = Vocabulary.of(splits["train"])
        for examples, record in zip(splits.values(), inputs, strict=True):
            encode(examples, vocabulary, record["path"], max_words(resolved.recipe))
        num_words = len(vocabulary) - 1
    else:  # a pipeline may plan before it makes its data
        warn(f"{data} does not exist: only the recipe was checked")
    warn_if_taken(out, "qa-train", overwrite=overwrite)
    written = ("run.json", "metrics.jsonl", "vocabulary.json", "checkpoints/", "plots/", "reports/valid/")
    plan = {
        "data": str(data),
        "inputs": inputs,
        "words": num_words,
        "out": str(out),
        "config": resolved.config,
        "config_sources": resolved.provenance,
        "would_write": [f"{out}/{name}" for name in written],
    }
    print(json.dumps(plan, indent=2))


def last_tracker(run: Path) -> str:
    """The tracker of a run that is to be resumed: what its command lines, the last one first, said."""
    from trainworks.run import Run

    record = Run.open(run).record
    for argv in [*(again["argv"] for again in reversed(record.get("resumed", []))), record["argv"]]:
        for place in reversed(range(len(argv))):
            name, equals, value = argv[place].partition("=")
            if name == "--tracker":
                return value if equals else argv[place + 1]
    return "none"


main = entry(app)
