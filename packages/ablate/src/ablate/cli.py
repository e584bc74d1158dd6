"""The command line of `ablate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainworks.console import UserError, entry, set_quiet, version_callback

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

SEVERAL = ("--ablations", "--gpu-ids")
"""Options that take all words up to the next option."""


class SeveralWords(typer.core.TyperCommand):
    """A command whose options in `SEVERAL` need not be repeated for each word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, repeated(args))


def repeated(arguments: list[str]) -> list[str]:
    """`--ablations a b` as `--ablations a --ablations b`."""
    spread: list[str] = []
    option = ""
    for word in arguments:
        if word.startswith("-"):
            option = word if word in SEVERAL else ""
            if not option:
                spread.append(word)
        else:
            spread += [option, word] if option else [word]
    return spread


Suite = Annotated[str, typer.Argument(help="Suite file, or the name of a built-in suite.")]
Folder = Annotated[Path, typer.Argument(help="The folder that `ablate run` made.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Equal = Annotated[str | None, typer.Option(help="time or steps: compare at the largest budget that all runs reached.")]
Effect = Annotated[
    float | None, typer.Option(min=0, help="Difference of the first metric to plan seeds for; default: the suite's.")
]
Json = Annotated[bool, typer.Option("--json", help="The comparison as JSON on stdout.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value of the base recipe; may be given again.")]
Ablations = Annotated[list[str] | None, typer.Option(help="Variants to run, several after one another; default: all.")]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_callback("ablate"), is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Example: ablate run qa-train --seeds 3 --jobs 2 --out runs/ab && ablate compare runs/ab --equal time

    Which part of a recipe matters? Runs variants of a training command and compares them with statistics that hold up.
    """


@app.command(cls=SeveralWords, short_help="Run a suite and compare its variants.")
def run(
    suite: Suite,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default: runs/ablate-SUITE.")] = None,
    ablations: Ablations = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each variant, with seeds 0, 1, 2 ...")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data, of every variant.")] = None,
    set_: Set = None,
    data: Annotated[str | None, typer.Option(help="Fills in {data} in the suite's command.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: 1, beyond this machine all.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute threads of a run; default: the cores divided by --jobs.")
    ] = None,
    gpu_ids: Annotated[list[str] | None, typer.Option(help="GPUs to use, several after one another.")] = None,
    ddp: Annotated[bool, typer.Option("--ddp", help="Run the suite's `ddp` command: several processes a run.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds that a run may take.")] = None,
    stop_on: Annotated[str | None, typer.Option(help="critical: end runs whose health `diag` finds critical.")] = None,
    executor: Annotated[str, typer.Option(help="local, ray, slurm, or a module of your own.")] = "local",
    executor_option: Annotated[
        list[str] | None, typer.Option(help="key=value for the executor; may be given again.")
    ] = None,
    rerun_changed: Annotated[
        bool, typer.Option("--rerun-changed", help="Run variants again that have changed since.")
    ] = False,
    compare_only: Annotated[bool, typer.Option("--compare-only", help="Run nothing, compare what is there.")] = False,
    equal: Equal = None,
    effect: Effect = None,
    json_: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands, one a line, and run nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: ablate run qa-train --seeds 3 --jobs 2 --ablations lstm_pointer lstm_baseline --epochs 10

    Run every variant with every seed, each in a process of its own, and compare them with the baseline. The same
    command again goes on where it was stopped. Prints the comparison; exit status 1 if a run did not finish.
    """
    import shlex

    from ablate.plan import Options
    from ablate.run import commands, prepare_run, require_all_finished, run_suite, some_finished

    set_quiet(quiet)
    options = Options(
        suite=suite,
        out=out,
        ablations=ablations or (),
        seeds=seeds,
        epochs=epochs,
        sets=set_ or (),
        data=data,
        timeout=timeout,
        jobs=jobs,
        threads=threads,
        gpu_ids=gpu_ids or (),
        ddp=ddp,
        stop_on=stop_on,
        executor=executor,
        executor_options=dict(split_option(item) for item in executor_option or ()),
        rerun_changed=rerun_changed,
    )
    if compare_only:
        from ablate.plan import folder_of

        show_comparison(folder_of(options), equal, effect, json_)
        return
    plan = prepare_run(options)
    if dry_run:
        for command in commands(plan, options):
            print(shlex.join(command))
        return
    run_suite(plan, options, quiet)
    if some_finished(plan):
        show_comparison(plan.folder, equal, effect, json_)
    require_all_finished(plan)


@app.command(short_help="Show how far a suite's runs are.")
def status(
    folder: Folder,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a run.")] = False,
) -> None:
    """Example: ablate status runs/ablate-qa-train

    Variant, seed, state, epoch, metric and time left of every run, while they go on or afterwards.
    """
    import json
    from dataclasses import asdict

    from ablate.plan import read_plan
    from ablate.table import curve_of, plain_table, status_lines

    plan = read_plan(folder)
    lines = status_lines(plan)
    if json_:
        for line in lines:
            print(json.dumps(asdict(line)))
    else:
        print(plain_table(lines, curve_of(plan)))


@app.command(short_help="Compare the variants of a suite that was run.")
def compare(
    folder: Folder,
    equal: Equal = None,
    effect: Effect = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Example: ablate compare runs/ablate-qa-train --equal time

    Differences from the baseline, paired by seed, with intervals and tests adjusted for the number of variants; what
    they allow to be said. Writes comparison.json, comparison.csv and ablation_comparison.png into the folder.
    """
    set_quiet(quiet)
    show_comparison(folder, equal, effect, json_)


@app.command(short_help="List the variants of a suite.")
def show(suite: Suite) -> None:
    """Example: ablate show qa-train

    Every variant with what it changes over the base recipe, and its purpose.
    """
    from ablate.suite import load_suite, shown, variants_of

    for variant in variants_of(load_suite(suite)):
        changes = "  ".join(f"{key}={shown(value)}" for key, value in variant.changes.items())
        print(f"{variant.name}\n    {changes or '(the base recipe)'}\n    {variant.purpose}")


@app.command(short_help="Write a suite file to start from.")
def init(
    tool: Annotated[str, typer.Argument(help="A built-in suite, or any training command.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: TOOL.toml.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Example: ablate init qa-train --out suites/mine.toml

    A copy of the tool's built-in suite or, for a command that has none, a commented template. Prints its path.
    """
    from ablate.suite import suite_text
    from trainworks.files import atomic_write

    path = out or Path(f"{Path(tool.split()[0]).stem}.toml")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; name another --out, or give --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, suite_text(tool))
    print(path)


def show_comparison(folder: Path, equal: str | None, effect: float | None, json_: bool) -> None:
    """Compare, write the files, and print the comparison."""
    import json

    from ablate.compare import compare as compare_plan
    from ablate.comparison_report import comparison_json, comparison_text, write_comparison
    from ablate.plan import read_plan
    from trainworks.files import json_ready

    comparison = compare_plan(read_plan(folder), equal or "", effect)
    write_comparison(comparison)
    print(json.dumps(json_ready(comparison_json(comparison))) if json_ else comparison_text(comparison))


def split_option(item: str) -> tuple[str, str]:
    """The two sides of key=value."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise UserError(f'--executor-option wants key=value, not "{item}"')
    return key, value


main = entry(app)
