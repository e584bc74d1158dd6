"""The command line of `disc-train`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trainworks.console import UserError, entry, set_quiet, version_callback

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads; default: what is free, at most 2.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same rows.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="csv or jsonl, in and out; default: as the file's name says, else csv."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(help='A condition such as "Age>=30", "Class=Good" or "Class=Good|Bad"; may be given again.'),
]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_callback("disc-train"), is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Example: disc-train train builtin:fair --out runs/fair && disc-train sample runs/fair -n 1000 > synth.csv

    Synthetic table rows from a generator that token, sentence, row and feature discriminators teach.
    """


@app.command(short_help="Learn a table.")
def train(
    data: Annotated[
        str | None,
        typer.Argument(help="CSV or JSON Lines, - for stdin, or builtin:fair, builtin:anes96, builtin:breast_cancer."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make.")] = None,
    target: Annotated[str | None, typer.Option(help="The column that users of the table predict.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with; takes its recipe and its data.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run directory if it exists.")] = False,
    schedule: Annotated[str | None, typer.Option(help="alternate, once or none.")] = None,
    cycles: Annotated[int | None, typer.Option(help="Rounds of discriminators, then generator.")] = None,
    kind: Annotated[str | None, typer.Option(help="columns or text.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Text kind: directory of a causal language model.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the levels: best_weights.json as tune writes it, or dynamic.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named recipe: small, text.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")] = None,
    format_: Format = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Parts that a batch is cut into.")] = None,
    tracker: Annotated[str, typer.Option(help="none, neptune (offline) or trackio.")] = "none",
    run_diagnostics: Annotated[
        bool, typer.Option("--run-diagnostics", help="Reports by diag into RUN/diagnostics (extra diagnostics).")
    ] = False,
    diagnostics_interval: Annotated[int | None, typer.Option(help="Steps between reports.")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Check the data, show the recipe and what would be written, and write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train train heloc.csv --target RiskPerformance --out runs/heloc

    Learn a table: likelihood first, then generator and discriminators in turns. Prints the run's path.
    """
    from disc_train.config import PRESETS, TrainRecipe
    from trainworks.config import resolve

    set_quiet(quiet)
    flags: dict[str, Any] = {
        "target": target,
        "seed": seed,
        "precision": precision,
        "grad_accum": grad_accum,
        "feedback.schedule": schedule,
        "feedback.cycles": cycles,
        "model.kind": kind,
        "model.base_model": base_model,
        "diagnostics.enabled": run_diagnostics or None,
        "diagnostics.interval": diagnostics_interval,
        "feedback.weighting": "dynamic" if weights == "dynamic" else None,
    }
    if weights not in (None, "dynamic"):
        flags |= read_weights(Path(weights))
    if resume is not None:
        given = [name for name, value in flags.items() if value is not None]
        if out or config or preset or set_ or given or overwrite or dry_run:
            raise UserError("--resume takes recipe and place from the run: leave the other options out")
        from disc_train.run import resume_run

        path = resume_run(resume, data, format_, device, threads, tracker)
    else:
        if data is None or out is None:
            raise UserError("train wants DATA and --out RUN, or --resume RUN; see disc-train train --help")
        resolved = resolve(
            TrainRecipe,
            file=config,
            preset=preset,
            presets=PRESETS,
            flags=flags,
            sets=set_ or (),
            env_prefix="DISC_TRAIN",
        )
        if dry_run:
            print_dry_run(resolved, data, out, format_, overwrite)
            return
        from disc_train.run import start_run

        path = start_run(resolved, data, out, format_, device, threads, tracker, overwrite)
    print(path)


@app.command(short_help="Find the best feedback weights.")
def tune(
    data: Annotated[str, typer.Argument(help="CSV or JSON Lines, - for stdin, or builtin:NAME: training rows alone.")],
    out: Annotated[Path, typer.Option(help="Folder for trials.csv, best_weights.json and the trials' runs.")],
    method: Annotated[str, typer.Option(help="grid, random, bayes, multi (fidelity and privacy) or pbt.")] = "bayes",
    trials: Annotated[int | None, typer.Option(min=1, help="Default: random 50, pbt 40, others 100, grid all.")] = None,
    folds: Annotated[int, typer.Option(min=1, max=9, help="Validation sets that a trial is judged on.")] = 2,
    cycles: Annotated[int, typer.Option(min=1, help="Feedback cycles of a trial.")] = 1,
    combination: Annotated[
        list[str] | None,
        typer.Option(help="For the grid: four weights such as 0.2,0.3,0.3,0.2; may be given again."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna URL or journal file that workers share; default: a journal in --out.")
    ] = None,
    patience: Annotated[int, typer.Option(min=0, help="Trials without a better one before it ends; 0: never.")] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same trials; default: the recipe's.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named recipe: small, text.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="The best weights as JSON on stdout.")] = False,
    format_: Format = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train tune train.csv --method random --trials 50 --out tuned/

    Search for the weights of the four levels, for train --weights OUT/best_weights.json: short trainings that share a
    warm start, judged on validation rows. Goes on with a search that was interrupted; more workers join by the same
    command on the same --storage.
    """
    import json

    from disc_train.config import PRESETS, TrainRecipe
    from disc_train.tune import start_search
    from disc_train.tune_report import BEST
    from trainworks.config import resolve
    from trainworks.files import json_ready

    set_quiet(quiet)
    resolved = resolve(
        TrainRecipe,
        file=config,
        preset=preset,
        presets=PRESETS,
        flags={"seed": seed},
        sets=set_ or (),
        env_prefix="DISC_TRAIN",
    )
    best = start_search(
        resolved.recipe,
        data,
        format_,
        out,
        method=method,
        trials=trials,
        folds=folds,
        cycles=cycles,
        combinations=combination or (),
        storage=storage,
        patience=patience,
        device=device,
        threads=threads,
    )
    print(json.dumps(json_ready(best)) if json_ else out / BEST)


@app.command(short_help="Show which objective says and does what.")
def explain(
    run: Annotated[Path, typer.Argument(help="Run directory, finished or not.")],
    rows: Annotated[
        str | None, typer.Option(help="Rows to explain: CSV or JSON Lines, - for stdin; default: generated ones.")
    ] = None,
    num_rows: Annotated[int, typer.Option("--num-rows", "-n", min=1, max=200, help="Rows, at most.")] = 12,
    ablate: Annotated[
        int, typer.Option(min=0, help="Seeds of 16 trainings each, one for every subset of the objectives; 0: none.")
    ] = 0,
    cycles: Annotated[int | None, typer.Option(min=1, help="Cycles of those trainings; default: the run's.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What they are compared by: valid/... or evaluation/..., any figure of evaluate's report; default: "
            "valid/two_sample_auc."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for explain.html; default: RUN/reports/explain.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="What was found as JSON on stdout.")] = False,
    format_: Format = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train explain runs/heloc --ablate 3

    One page: what each objective says of single rows, cell by cell too, its history and, with --ablate, what it is
    worth: ablation, exact Shapley values and gradients, from trainings that share their warm starts.
    """
    import json

    from disc_train.explain import explain as explain_run
    from trainworks.files import json_ready

    set_quiet(quiet)
    if not ablate and (metric or cycles):
        raise UserError("--metric and --cycles are of the trainings of --ablate: give --ablate 3 as well")
    out = out or run / "reports" / "explain"
    found = explain_run(
        run,
        rows=rows,
        num_rows=num_rows,
        format=format_,
        ablate=ablate,
        cycles=cycles,
        metric=metric or "valid/two_sample_auc",
        out=out,
        device=device,
        threads=threads,
    )
    print(json.dumps(json_ready(found)) if json_ else out / "explain.html")


@app.command(short_help="Draw new rows.")
def sample(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    num_rows: Annotated[int, typer.Option("--num-rows", "-n", min=1, help="Rows to draw.")] = 100,
    where: Where = None,
    balance: Annotated[str | None, typer.Option(help="Column whose values shall be equally frequent.")] = None,
    resample: Annotated[bool, typer.Option(help="Filter rows by the row discriminator (rejection sampling).")] = False,
    max_tries: Annotated[int, typer.Option(min=1, help="Draws a wanted row, at most, before it gives up.")] = 100,
    seed: Seed = 0,
    format_: Format = None,
    checkpoint: Annotated[str, typer.Option(help="best, last or step_000100.")] = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train sample runs/heloc -n 10000 --where RiskPerformance=Bad > synth.csv

    Draw new rows to stdout, batch by batch. Counts of rejected rows go to stderr.
    """
    from disc_train.run import load_trained
    from disc_train.sample import Wanted, sample_rows, write_stream

    set_quiet(quiet)
    trained = load_trained(run, checkpoint, device, threads)
    wanted = Wanted(num_rows, tuple(where or ()), balance, resample, max_tries)
    write_stream(sample_rows(trained, wanted, seed), sys.stdout, format_ or "csv")


@app.command(short_help="Fill in missing cells.")
def impute(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[str, typer.Argument(help="Rows with missing cells: CSV or JSON Lines, - for stdin.")],
    seed: Seed = 0,
    format_: Format = None,
    checkpoint: Annotated[str, typer.Option(help="best, last or step_000100.")] = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train impute runs/heloc partial.csv > full.csv

    Draw every missing cell from its distribution given the row's other cells; given cells stay as they are.
    """
    from disc_train.data import format_of_rows, read_table
    from disc_train.run import load_trained
    from disc_train.sample import impute as impute_rows
    from disc_train.sample import write_stream

    set_quiet(quiet)
    trained = load_trained(run, checkpoint, device, threads)
    table = read_table(data, format_, min_rows=1)
    write_stream(impute_rows(trained, table, seed), sys.stdout, format_of_rows(data, format_))


@app.command(short_help="Judge rows at four levels.")
def feedback(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[str, typer.Argument(help="Rows: CSV or JSON Lines, - for stdin.")],
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a row, with every token and feature.")] = False,
    format_: Format = None,
    checkpoint: Annotated[str, typer.Option(help="best, last or step_000100.")] = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train feedback runs/heloc rows.csv --json

    For each row the calibrated probability that it is real, at token, sentence, row and feature level.
    """
    from disc_train.data import read_table
    from disc_train.feedback import Judge, feedback_lines
    from disc_train.run import load_trained

    set_quiet(quiet)
    judge = Judge(load_trained(run, checkpoint, device, threads))
    for line in feedback_lines(judge, read_table(data, format_, min_rows=1), json_):
        print(line)


@app.command(short_help="Measure synthetic rows against real ones.")
def evaluate(
    synth: Annotated[str, typer.Argument(help="Synthetic rows: CSV or JSON Lines, - for stdin.")],
    train: Annotated[str, typer.Option("--train", help="The real rows that the generator saw.")],
    test: Annotated[str, typer.Option("--test", help="Real rows that it never saw.")],
    target: Annotated[str | None, typer.Option(help="The column to predict; without it utility is left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for report.json and plots.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions, whose mean and spread are shown.")] = 3,
    json_: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
    fail_over: Annotated[float | None, typer.Option(help="Exit 1 if XGBoost's two-sample AUC is above this.")] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train evaluate --train train.csv --test test.csv synth.csv --target Class --out eval/

    Validity, two-sample tests, usefulness for prediction, privacy and marginals, beside trivial baselines.
    """
    from disc_train.evaluate import evaluate_files

    set_quiet(quiet)
    evaluate_files(train, test, synth, target, out, seeds, json_, fail_over, threads)


@app.command(short_help="Cut a table into train and test rows.")
def split(
    data: Annotated[str, typer.Argument(help="CSV or JSON Lines, - for stdin, or builtin:NAME.")],
    out: Annotated[Path, typer.Option(help="Directory that gets train.csv and test.csv.")],
    test: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the rows that become test rows.")] = 0.2,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    seed: Seed = 0,
    format_: Format = None,
    quiet: Quiet = False,
) -> None:
    """Example: disc-train split heloc.csv --out data/ --test 0.2

    Cut a table at random into train.csv and test.csv. Prints the directory.
    """
    from disc_train.data import split_table

    set_quiet(quiet)
    split_table(data, out, test, seed, format_, overwrite)
    print(out)


def print_dry_run(resolved: Any, data: str, out: Path, format: str | None, overwrite: bool) -> None:
    """The resolved recipe with the source of each value, and what would be written, as JSON on stdout."""
    import json

    from disc_train.data import read_table
    from trainworks.console import warn
    from trainworks.run import warn_if_taken

    if data == "-" or data.startswith("builtin:") or Path(data).exists():
        table = read_table(data, format)
        if resolved.recipe.target:
            table.column(resolved.recipe.target)
    else:  # a pipeline may plan before it makes its data
        warn(f"{data} does not exist: only the recipe was checked")
    warn_if_taken(out, "disc-train", overwrite=overwrite)
    plan = {
        "data": data,
        "out": str(out),
        "config": resolved.config,
        "config_sources": resolved.provenance,
        "would_write": [
            f"{out}/{name}" for name in ("run.json", "metrics.jsonl", "schema.json", "checkpoints/", "plots/")
        ],
    }
    print(json.dumps(plan, indent=2, ensure_ascii=False))


def read_weights(file: Path) -> dict[str, Any]:
    """The settings that a best_weights.json stands for: fixed weights.

    Raises:
        UserError: no such file, or no weights of the four levels in it.
    """
    import json

    from disc_train.config import LEVELS

    try:
        weights = json.loads(file.read_text(encoding="utf-8"))["weights"]
        settings = {f"feedback.weight_{level}": float(weights[level]) for level in LEVELS}
        return settings | {"feedback.weighting": "fixed"}
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; disc-train tune makes one") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{file} holds no weights of {', '.join(LEVELS)}; disc-train tune makes one") from None


main = entry(app)
