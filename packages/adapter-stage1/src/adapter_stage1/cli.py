"""The command line of `adapter-stage1`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from trainworks.console import AnswerNo, NonFinite, UserError, entry, set_quiet, version_callback

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads; default: what is free, at most 2.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[
    str | None, typer.Option(help="Where the language model lies now; default: where it lay in training.")
]
Config = Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")]
Preset = Annotated[str | None, typer.Option(help="A named recipe: small, llama-3.1-8b.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")]
Seed = Annotated[int | None, typer.Option(help="The one seed.")]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_callback("adapter-stage1"), is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Example: adapter-stage1 train --data train-v1.1.json --out runs/a && adapter-stage1 evaluate runs/a --data
    dev-v1.1.json

    Can a small adapter rebuild a language model's prompt from an 8x compression?
    """


@app.command(short_help="Fit the compressor and train the adapter.")
def train(
    data: Annotated[Path | None, typer.Option(help="Training questions: SQuAD JSON or JSON Lines.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face model directory, GGUF file, or smollm2 (the built-in one).")
    ] = None,
    ratio: Annotated[int | None, typer.Option(help="Width of embeddings over width of latents.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="recon, token-ce, prompt-ce, teacher-forced, distill or hidden, with weight 1; may be given again."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with; takes its recipe and its data.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run directory if it exists.")] = False,
    seed: Seed = None,
    config: Config = None,
    preset: Preset = None,
    set_: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Annotated[str | None, typer.Option(help="Of the language model: float32, bfloat16, float16.")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Parts that a batch is cut into.")] = None,
    tracker: Annotated[str, typer.Option(help="none, neptune (offline) or trackio.")] = "none",
    dry_run: Annotated[
        bool, typer.Option(help="Check the data, show the recipe and what would be written, and write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: adapter-stage1 train --data train-v1.1.json --ratio 8 --out runs/a

    Fit a compressor to the model's embedding table and train an adapter that undoes it. Prints the run's path.
    """
    from adapter_stage1.config import PRESETS, TrainRecipe
    from trainworks.config import resolve

    set_quiet(quiet)
    flags: dict[str, Any] = {
        "seed": seed,
        "model.name": model,
        "model.dtype": precision,
        "compressor.ratio": ratio,
        "grad_accum": grad_accum,
        **objective_flags(objective),
    }
    if resume is not None:
        given = [name for name, value in flags.items() if value is not None]
        if data or out or config or preset or set_ or given or overwrite or dry_run:
            raise UserError("--resume takes recipe, data and place from the run: leave the other options out")
        from adapter_stage1.run import resume_run

        path = resume_run(resume, device, threads, tracker)
    else:
        if data is None or out is None:
            raise UserError("train wants --data FILE and --out RUN, or --resume RUN; see adapter-stage1 train --help")
        resolved = resolve(
            TrainRecipe,
            file=config,
            preset=preset,
            presets=PRESETS,
            flags=flags,
            sets=set_ or (),
            env_prefix="ADAPTER_STAGE1",
        )
        if dry_run:
            print_dry_run(resolved, data, out, overwrite)
            return
        from adapter_stage1.run import start_run

        path = start_run(resolved, data, out, device, threads, tracker, overwrite)
    print(path)


def objective_flags(names: list[str] | None) -> dict[str, float]:
    """Weights by recipe key for `--objective`: 1 for those that are named, 0 for the others."""
    from adapter_stage1.config import OBJECTIVES

    if not names:
        return {}
    for name in names:
        if name not in OBJECTIVES:
            raise UserError(f'--objective "{name}" is not one of {", ".join(OBJECTIVES)}')
    return {f"objectives.{name.replace('-', '_')}": float(name in names) for name in OBJECTIVES}


@app.command(short_help="Answer questions from rebuilt prompts.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[Path, typer.Option(help="Questions: SQuAD JSON or JSON Lines.")],
    questions: Annotated[int | None, typer.Option(min=1, help="How many, drawn at random; default: all.")] = None,
    rungs: Annotated[
        list[str] | None,
        typer.Option("--rung", help="What to compare; may be given again; default: all. See the README."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: RUN/reports/NAME.")] = None,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit with status 1 if the adapter's retention is below this.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the questions and the bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 16,
    checkpoint: Annotated[str, typer.Option(help="best, last or step_000100.")] = "best",
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: adapter-stage1 evaluate runs/a --data dev-v1.1.json --questions 500 --fail-under 0.854

    Greedy answers from the rebuilt prompt alone, beside the true one and simpler ways to rebuild it.
    """
    import json

    from adapter_stage1.evaluate import console_table, evaluate_run
    from adapter_stage1.report import write_report
    from adapter_stage1.run import load_trained
    from trainworks.files import json_ready

    set_quiet(quiet)
    trained = load_trained(run, checkpoint, device, threads, model)
    if fail_under is not None and rungs:
        rungs = [*rungs, "adapter"]  # whose retention is asked for
    report = evaluate_run(trained, data, rungs or None, questions, seed, batch_size, checkpoint)
    write_report(out or run / "reports" / data.stem, report)
    print(json.dumps(json_ready(report.to_json()), indent=2, ensure_ascii=False) if json_ else console_table(report))
    if fail_under is not None and not report.retention >= fail_under:
        raise AnswerNo(f"retention {report.retention:.3f} is below {fail_under}")


@app.command(short_help="Prompts to latents.")
def compress(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    prompts: Annotated[str, typer.Argument(help="JSON Lines with question and context; - for stdin.")] = "-",
    out: Annotated[str, typer.Option("--out", "-o", help="Safetensors file; - for stdout.")] = "-",
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: adapter-stage1 compress runs/a < prompts.jsonl > latents.safetensors

    The latents of each prompt, float16, one tensor a prompt under its id.
    """
    from adapter_stage1.latents import compress_prompts
    from adapter_stage1.run import load_trained

    set_quiet(quiet)
    data = compress_prompts(load_trained(run, device=device, threads=threads, model=model), prompts)
    if out == "-":
        sys.stdout.buffer.write(data)
    else:
        from trainworks.files import atomic_write

        atomic_write(out, data)


@app.command(short_help="Answers from latents.")
def answer(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    latents: Annotated[str, typer.Argument(help="Safetensors file that compress wrote; - for stdin.")] = "-",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered together.")] = 16,
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: adapter-stage1 answer runs/a latents.safetensors > answers.jsonl

    The model's answer to each prompt, rebuilt from its latents alone; JSON Lines with id and answer.
    """
    import json

    from adapter_stage1.latents import answer_latents
    from adapter_stage1.run import load_trained

    set_quiet(quiet)
    trained = load_trained(run, device=device, threads=threads, model=model)
    for name, text in answer_latents(trained, latents, batch_size):
        print(json.dumps({"id": name, "answer": text}, ensure_ascii=False))


class ManyValues(TyperCommand):
    """A command without arguments whose options may be followed by several values: `--ratios 2 4 8` stands for
    `--ratios 2 --ratios 4 --ratios 8`, which an option that may be given again takes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spelled_out: list[str] = []
        option = None
        for before, arg in zip(["", *args], args, strict=False):
            if arg.startswith("-"):
                option = arg.partition("=")[0] if arg.partition("=")[0] in repeatable else None
            elif option is not None and before != option:
                spelled_out.append(option)
            spelled_out.append(arg)
        return super().parse_args(ctx, spelled_out)


@app.command(short_help="Train and judge ratio by objective by examples by seed.", cls=ManyValues)
def sweep(
    out: Annotated[Path, typer.Option(help="Folder for the runs and what they come to; goes on if it is there.")],
    ratios: Annotated[list[int], typer.Option(help="Width of embeddings over width of latents; one or more.")],
    data: Annotated[
        Path | None, typer.Option(help="Training questions: SQuAD JSON or JSON Lines; default: builtin:facts.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Questions to judge by; default: builtin:facts-test.")] = None,
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            help="Objectives, combinations such as recon+token-ce, default (the recipe's), or all: each alone and "
            "default; one or more. Default: default."
        ),
    ] = None,
    examples: Annotated[
        list[int] | None, typer.Option(help="Training questions; one or more; default: the recipe's number.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="One run for each; default: 0.")] = None,
    rungs: Annotated[
        list[str] | None, typer.Option("--rung", help="What to judge beside raw and adapter; see evaluate.")
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="How many to judge by; default: all.")] = None,
    model: Annotated[str | None, typer.Option(help="Model directory, GGUF file, or smollm2.")] = None,
    config: Config = None,
    preset: Preset = None,
    set_: Set = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 16,
    dry_run: Annotated[bool, typer.Option(help="Name the runs, and write nothing.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what OUT/sweep.json holds.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: adapter-stage1 sweep --data train-v1.1.json --test dev-v1.1.json --questions 200 --ratios 2 4 8 16 32
    --objectives all --seeds 0 1 2 --out runs/sweep

    One run for each ratio, objective, number of examples and seed, in OUT/ratio_08/recon/seed_0, all judged on the same
    questions. The same command goes on where it was stopped. Shows means over seeds; writes sweep.json, pareto.png,
    scaling.png if examples vary, and index.html.
    """
    import json

    from adapter_stage1.config import PRESETS, TrainRecipe
    from adapter_stage1.sweep import objective_names, plan_sweep, run_sweep
    from adapter_stage1.sweep_report import console_table
    from trainworks.config import resolve

    set_quiet(quiet)
    if (data is None) != (test is None):
        raise UserError("sweep wants --data and --test, or neither of them for the built-in questions")

    def recipe(flags: Mapping[str, Any]) -> Any:
        return resolve(
            TrainRecipe,
            file=config,
            preset=preset,
            presets=PRESETS,
            flags={"model.name": model, **flags},
            sets=set_ or (),
            env_prefix="ADAPTER_STAGE1",
        )

    weights = {name: objective_flags(parts) for name, parts in objective_names(objectives or ["default"]).items()}
    cells = plan_sweep(ratios, weights, examples, seeds or [0], recipe)
    if dry_run:
        for cell in cells:
            print(out / cell.name)
        return
    found = run_sweep(
        cells,
        data or Path("builtin:facts"),
        test or Path("builtin:facts-test"),
        out,
        rungs=rungs or [],
        questions=questions,
        batch_size=batch_size,
        device=device,
        threads=threads,
    )
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if json_ else console_table(found))
    if found.diverged:
        raise NonFinite(f"{len(found.diverged)} of {len(cells)} runs diverged and are in no mean")


@app.command(short_help="Find the prompt format that suits a model.", cls=ManyValues)
def search_prompt(
    data: Annotated[Path, typer.Option(help="TRAINING questions, never those that a result is reported on.")],
    model: Annotated[str, typer.Option(help="Model directory, GGUF file, or smollm2.")] = "smollm2",
    questions: Annotated[int, typer.Option(min=1, help="How many, of the data's validation part.")] = 64,
    shots: Annotated[list[int] | None, typer.Option(min=0, help="Worked examples; default: 0 1 3.")] = None,
    formats: Annotated[
        list[str] | None, typer.Option(help="Built-in formats or JSON files; default: all built-in ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="prompt.seed of the recipe: split, questions, worked examples.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 20,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the language model.")
    ] = "bfloat16",
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 16,
    json_: Annotated[bool, typer.Option("--json", help="Print the trials as JSON.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: adapter-stage1 search-prompt --model smollm2 --data train-v1.1.json --questions 64 --shots 0 1 3

    F1 from the true embeddings by format and number of worked examples, the best last. Asks questions of the validation
    part that training sets apart. Never search on the questions that you report on: the baseline would be too good.
    """
    import json
    from dataclasses import asdict

    from adapter_stage1.builtin import load_examples
    from adapter_stage1.language_model import load_language_model
    from adapter_stage1.prompt_search import console_table, search_prompt
    from adapter_stage1.prompts import FORMATS, read_format
    from trainworks.console import info
    from trainworks.torch import resolve_device, set_threads

    set_quiet(quiet)
    set_threads(threads)
    read = {name: read_format(name) for name in formats or FORMATS}
    training_questions = load_examples(data)
    trials, num_questions = search_prompt(
        load_language_model(model, precision, resolve_device(device)),
        training_questions,
        formats=read,
        shots=shots or [0, 1, 3],
        questions=questions,
        seed=seed,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    best = trials[-1]
    if json_:
        found = {"questions": num_questions, "best": asdict(best), "trials": [asdict(trial) for trial in trials]}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print(console_table(trials, num_questions))
    info(f"train with --set prompt.format={best.format} --set prompt.shots={best.shots}")


def print_dry_run(resolved: Any, data: Path, out: Path, overwrite: bool) -> None:
    """The resolved recipe with the source of each value, and what would be written, as JSON on stdout."""
    import json

    from adapter_stage1.builtin import BUILTIN, load_examples
    from trainworks.console import warn
    from trainworks.run import warn_if_taken

    if str(data) in BUILTIN or data.exists():
        load_examples(data)
    else:  # a pipeline may plan before it makes its data
        warn(f"{data} does not exist: only the recipe was checked")
    warn_if_taken(out, "adapter-stage1", overwrite=overwrite)
    names = ("run.json", "metrics.jsonl", "model.json", "prompt.json", "compressor.safetensors", "frequencies.npy")
    plan = {
        "data": str(data),
        "out": str(out),
        "config": resolved.config,
        "config_sources": resolved.provenance,
        "would_write": [f"{out}/{name}" for name in (*names, "checkpoints/", "plots/")],
    }
    print(json.dumps(plan, indent=2, ensure_ascii=False))


main = entry(app)
