"""The command line of `diversity-finetune`."""

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
Columns = Annotated[
    list[str] | None,
    typer.Option(help="WHAT=NAME: what the file calls customer, agent, previous, dialogue or intent."),
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")]
DecodingSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram, best_of, ...=value."
    ),
]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_callback("diversity-finetune"), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Example: diversity-finetune prepare --demo --out data/ && diversity-finetune train data/ --out runs/d &&
    diversity-finetune evaluate runs/d data/test.jsonl

    Replies to customers that answer and don't repeat themselves: a hybrid GAN + VAE with diversity losses.
    """


def check_run(run: Path) -> None:
    """Refuse what is no run of this tool before TensorFlow is loaded, which takes a while.

    Raises:
        UserError: as `Run.open`.
    """
    from trainworks.run import Run

    Run.open(run, tool="diversity-finetune")


def named_columns(given: list[str] | None) -> dict[str, str]:
    """What --column says, WHAT to NAME."""
    named = dict(item.partition("=")[::2] for item in given or ())
    if not all(named.values()):
        raise UserError("--column wants WHAT=NAME, such as previous=prev_agent")
    return named


@app.command(short_help="Make a data directory.")
def prepare(
    source: Annotated[str | None, typer.Argument(help="Conversations: JSON Lines or CSV, - for stdin.")] = None,
    out: Annotated[Path | None, typer.Option(help="Data directory to make.")] = None,
    demo: Annotated[bool, typer.Option(help="The built-in IT-support tickets, without SOURCE.")] = False,
    dialogues: Annotated[int, typer.Option(min=10, help="Dialogues of --demo.")] = 2000,
    column: Columns = None,
    val: Annotated[float, typer.Option(help="Share of the dialogues for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the dialogues for the test.")] = 0.1,
    duplicates: Annotated[
        str,
        typer.Option(
            help="What leaves val and test: pairs whose message and reply are in training (pairs), whose reply is "
            "(replies), or none (keep)."
        ),
    ] = "pairs",
    tokenizer: Annotated[str, typer.Option(help="word or bpe.")] = "word",
    vocabulary: Annotated[int, typer.Option(min=300, help="Words or merges, at most.")] = 10_000,
    length: Annotated[int, typer.Option(min=4, help="Tokens of a text, at most; the rest is cut.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same split.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: diversity-finetune prepare star_pairs.jsonl --out data/ --column previous=prev_agent

    Split conversations by dialogue, learn a vocabulary, encode. Prints the directory.
    """
    set_quiet(quiet)
    if out is None or demo == (source is not None):
        raise UserError("prepare wants SOURCE or --demo, and --out DIRECTORY; see diversity-finetune prepare --help")
    for name, value, known in (
        ("--duplicates", duplicates, ("pairs", "replies", "keep")),
        ("--tokenizer", tokenizer, ("word", "bpe")),
    ):
        if value not in known:
            raise UserError(f'{name} is {", ".join(known[:-1])} or {known[-1]}, not "{value}"')
    named = named_columns(column)

    from diversity_finetune.data import read_pairs, write_directory
    from diversity_finetune.tickets import make_tickets

    if demo:
        pairs, settings = make_tickets(dialogues, seed), {"source": "tickets", "dialogues": dialogues}
    else:
        assert source is not None
        pairs, settings = read_pairs(source, named), {"source": source, "columns": named}
    path = write_directory(
        out,
        pairs,
        settings,
        val=val,
        test=test,
        seed=seed,
        duplicates=duplicates,  # type: ignore[arg-type]
        tokenizer=tokenizer,  # type: ignore[arg-type]
        vocabulary=vocabulary,
        length=length,
        overwrite=overwrite,
    )
    print(path)


@app.command(short_help="Learn to reply.")
def train(
    data: Annotated[Path | None, typer.Argument(help="Data directory of diversity-finetune prepare.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with; takes its recipe and its data.")
    ] = None,
    overwrite: Overwrite = False,
    architecture: Annotated[str | None, typer.Option(help="separate or combined.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pairs, at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named recipe: tiny, small or full.")] = None,
    set_: Sets = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Parts that a batch is cut into.")] = None,
    run_diagnostics: Annotated[
        bool, typer.Option("--run-diagnostics", help="Reports by diag into RUN/diagnostics (extra diagnostics).")
    ] = False,
    diagnostics_interval: Annotated[int | None, typer.Option(help="Steps between reports.")] = None,
    sample_interval: Annotated[int | None, typer.Option(help="Epochs between samples; 0: at the end alone.")] = None,
    tracker: Annotated[str, typer.Option(help="none, neptune (offline) or trackio.")] = "none",
    dry_run: Annotated[
        bool, typer.Option(help="Check the data, show the recipe and what would be written, and write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: diversity-finetune train data/ --out runs/d

    Train on the training pairs, choose the epoch by the validation loss. Prints the run's path.
    """
    set_quiet(quiet)
    flags: dict[str, Any] = {
        "seed": seed,
        "precision": precision,
        "grad_accum": grad_accum,
        "model.architecture": architecture,
        "training.epochs": epochs,
        "diagnostics.enabled": run_diagnostics or None,
        "diagnostics.interval": diagnostics_interval,
        "diagnostics.sample_interval": sample_interval,
    }
    if resume is not None:
        given = [name for name, value in flags.items() if value is not None]
        if data or out or config or preset or set_ or given or overwrite or dry_run:
            raise UserError("--resume takes recipe, data and place from the run: leave the other options out")
        from diversity_finetune.run import resume_run

        print(resume_run(resume, device, threads, tracker))
        return
    if data is None or out is None:
        raise UserError("train wants DATA and --out RUN, or --resume RUN; see diversity-finetune train --help")
    from diversity_finetune.config import PRESETS, TrainRecipe
    from trainworks.config import resolve

    resolved = resolve(
        TrainRecipe,
        file=config,
        preset=preset,
        presets=PRESETS,
        flags=flags,
        sets=set_ or (),
        env_prefix="DIVERSITY_FINETUNE",
    )
    if dry_run:
        print_dry_run(resolved, data, out, overwrite)
        return
    from diversity_finetune.run import start_run

    print(start_run(resolved, data, out, device, threads, tracker, overwrite))


def print_dry_run(resolved: Any, data: Path, out: Path, overwrite: bool) -> None:
    """The resolved recipe with the source of each value, the data as training would read it, and what would be written,
    as JSON on stdout."""
    import json

    from diversity_finetune.config import FINAL_WEIGHTS
    from trainworks.console import warn
    from trainworks.run import warn_if_taken

    found = None
    if data.exists():
        from diversity_finetune.run import read_data

        found = read_data(data)
    else:  # a pipeline may plan before it makes its data
        warn(f"{data} does not exist: only the recipe was checked")
    warn_if_taken(out, "diversity-finetune", overwrite=overwrite)
    folders = ("checkpoints/", "logs/", "plots/", "samples/")
    written = ("run.json", "metrics.jsonl", "tokenizer.json", *folders, FINAL_WEIGHTS)
    plan = {
        "data": str(data),
        "pairs": {"train": len(found.train), "val": len(found.val)} if found else None,
        "vocabulary": found.tokenizer.size if found else None,
        "out": str(out),
        "config": resolved.config,
        "config_sources": resolved.provenance,
        "would_write": [f"{out}/{name}" for name in written],
    }
    print(json.dumps(plan, indent=2))


@app.command(short_help="Measure a model's replies.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[str, typer.Argument(help="Pairs: JSON Lines or CSV, - for stdin.")],
    out: Annotated[Path | None, typer.Option(help="Report directory; default: RUN/reports/NAME.")] = None,
    column: Columns = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Pairs at most; default: all.")] = None,
    sweep: Annotated[bool, typer.Option(help="Sample at several temperatures.")] = True,
    candidates: Annotated[int, typer.Option(min=1, help="k of best-of-k; 1: none.")] = 4,
    json_: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
    fail_under: Annotated[
        list[str] | None, typer.Option(help="SYSTEM.METRIC=NUMBER, such as greedy.bleu_4=0.42: exit 1 if below.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a report that is of another file.")] = False,
    set_: DecodingSets = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: diversity-finetune evaluate runs/d data/test.jsonl

    BLEU, ROUGE, diversity and quality of greedy, sampled and best-of-k replies over temperatures, beside the human
    references, the nearest neighbour and a random reply of the same intent.
    """
    import json

    from diversity_finetune.decoding import Decoding
    from trainworks.config import resolve
    from trainworks.console import AnswerNo

    set_quiet(quiet)
    check_run(run)
    decoding = resolve(Decoding, sets=set_ or ()).recipe

    from diversity_finetune.evaluate import TEMPERATURES, evaluate_run

    report = evaluate_run(
        run,
        data,
        columns=named_columns(column),
        out=out,
        overwrite=overwrite,
        checkpoint=checkpoint,
        device=device,
        threads=threads,
        decoding=decoding,
        temperatures=TEMPERATURES if sweep else (),
        candidates=candidates,
        examples=examples,
    )
    print(json.dumps(report.to_json()) if json_ else report.table())
    if missed := report.missed(fail_under or ()):
        raise AnswerNo("; ".join(missed))


@app.command(short_help="Reply to messages.")
def generate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    source: Annotated[str, typer.Argument(help="Messages: JSON Lines or CSV, - for stdin.")] = "-",
    quality: Annotated[bool, typer.Option(help="Add quality_metrics to each reply.")] = False,
    set_: DecodingSets = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: diversity-finetune generate runs/d < messages.jsonl > replies.jsonl

    Each line is {"message": ..., "previous": ..., "id": ...}, of which the message alone is needed. One JSON object a
    message, in their order: id and response.
    """
    from diversity_finetune.decoding import Decoding
    from trainworks.config import resolve

    set_quiet(quiet)
    check_run(run)
    decoding = resolve(Decoding, sets=set_ or ()).recipe

    from diversity_finetune.inference import generate_lines
    from diversity_finetune.run import load_trained

    for line in generate_lines(load_trained(run, checkpoint, device, threads), source, decoding, quality):
        print(line, flush=True)


@app.command(short_help="Reply over HTTP.")
def serve(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are told to come again (503).")] = 64,
    set_: DecodingSets = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: diversity-finetune serve runs/d --port 8000

    /generate, /generate_batch, /v1/chat/completions (not streaming) and /health. Needs the extra "serve".
    """
    import importlib.util

    set_quiet(quiet)
    check_run(run)
    if not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("uvicorn")):
        raise UserError("serve needs FastAPI and uvicorn: install diversity-finetune[serve]")
    from diversity_finetune.decoding import Decoding
    from diversity_finetune.generate import Decoder
    from diversity_finetune.run import load_trained
    from diversity_finetune.serve import serve as listen
    from trainworks.config import resolve

    decoding = resolve(Decoding, sets=set_ or ()).recipe
    trained = load_trained(run, checkpoint, device, threads)
    listen(Decoder(trained), decoding, run.resolve().name, host, port, queue)


@app.command(short_help="Separate against combined input.")
def compare(
    data: Annotated[Path, typer.Argument(help="Data directory of diversity-finetune prepare.")],
    out: Annotated[Path, typer.Option(help="Directory of the runs; what is there already is gone on with.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each architecture, with the seeds 0, 1, ...")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pairs, at most.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named recipe: tiny, small or full.")] = None,
    set_: Sets = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Test pairs at most; default: all.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="The comparison as JSON on stdout.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: diversity-finetune compare data/ --out runs/cmp

    Train both architectures with several seeds, judge them on the test pairs, show means and spreads.
    """
    import json

    from diversity_finetune.compare import compare as compare_architectures
    from diversity_finetune.config import PRESETS, TrainRecipe
    from trainworks.config import resolve

    set_quiet(quiet)
    comparison = compare_architectures(
        data,
        out,
        lambda flags: resolve(
            TrainRecipe,
            file=config,
            preset=preset,
            presets=PRESETS,
            flags={**flags, "training.epochs": epochs},
            sets=set_ or (),
            env_prefix="DIVERSITY_FINETUNE",
        ),
        seeds=range(seeds),
        examples=examples,
        device=device,
        threads=threads,
    )
    print(json.dumps(comparison.to_json()) if json_ else comparison.table())


main = entry(app)
