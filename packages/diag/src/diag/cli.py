"""The command line of `diag`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainworks.console import AnswerNo, UserError, entry, set_quiet, version_callback

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

LOG = "Run directory, metrics.jsonl, CSV or TensorBoard event file"
Config = Annotated[
    Path | None, typer.Option(help="Thresholds over the defaults: TOML; `diag thresholds` prints one to start from.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value of the thresholds; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_callback("diag"), is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Example: diag health runs/v && diag report runs/v --out report.html

    Is this run healthy, are these embeddings good, what do these samples sound and look like? Reads run directories of
    any tool here, and logs of any other training: metrics.jsonl, CSV, TensorBoard event files.
    """


@app.command(short_help="Judge a run: table, verdict, exit status.")
def health(
    run: Annotated[Path, typer.Argument(help=f'{LOG}; "-" for standard input.')],
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 on warnings too.")] = False,
    config: Config = None,
    set_: Set = None,
    json_: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table: the exit status tells.")] = False,
) -> None:
    """Example: diag health runs/v || echo "look at it"

    Findings with their evidence, why they matter and what to try. Exit status 0: healthy, or warnings without
    --strict; 1: critical.
    """
    import json

    from diag.health import judge
    from diag.read import read_run
    from diag.show import console, health_view
    from diag.thresholds import load_thresholds
    from trainworks.files import json_ready

    set_quiet(quiet)
    thresholds = load_thresholds(config, set_ or ())
    found = read_run(run)
    judged = judge(found, thresholds)
    if json_:
        print(json.dumps(json_ready({"run": run, "tool": found.tool, **judged.to_json()}), ensure_ascii=False))
    elif not quiet:
        console().print(health_view(found, judged))
    if judged.verdict == "critical" or (strict and judged.verdict == "warning"):
        worst = [finding.name for finding in judged.findings if finding.level == judged.verdict]
        raise AnswerNo(f"{run} is not healthy: {', '.join(worst)}")


@app.command(short_help="Follow a training that runs; can ask it to stop.")
def watch(
    run: Annotated[Path, typer.Argument(help="Run directory, or a metrics.jsonl or CSV that grows.")],
    stop_on: Annotated[
        str | None, typer.Option(help="critical: send the training SIGTERM at the first critical finding.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option(min=1, help="The training's process; default: the one that locks the run.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
    config: Config = None,
    set_: Set = None,
    json_: Annotated[bool, typer.Option("--json", help="Findings as JSON Lines, as they come.")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: diag watch runs/v --stop-on critical

    A live view until the training ends; where stdout is no terminal, a line for each new finding. Judges the last
    4 MiB of the log. Exit status 1 if anything critical was found.
    """
    from diag.thresholds import load_thresholds
    from diag.watch import watch as follow

    set_quiet(quiet)
    if stop_on not in (None, "critical"):
        raise UserError(f'--stop-on is critical, not "{stop_on}"')
    thresholds = load_thresholds(config, set_ or ())
    follow(run, thresholds, stop_on=stop_on or "", pid=pid, every=every, as_json=json_)


@app.command(short_help="Judge embeddings by their labels.")
def embeddings(
    source: Annotated[Path, typer.Argument(help=".npz or .npy, CSV or Parquet, or a folder that holds one.")],
    labels: Annotated[
        Path | None, typer.Option(help="File of labels, .npy or a line each, where the source has none.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column or array of the labels; default: label, speaker or class.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for embeddings.json and the plots; default: none.")] = None,
    plots: Annotated[bool, typer.Option(help="Draw PCA, t-SNE, and UMAP if it is installed.")] = True,
    seed: Annotated[int, typer.Option(help="Of the rows drawn where all pairs would be too many.")] = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Example: diag embeddings emb.npz --out report/

    Cosines of same and different labels, separation, cluster measures, equal error rate, nearest neighbours, intrinsic
    dimension, confusable labels, outliers. Exit status 1: critical. Wants the extra: pip install 'diag[embeddings]'.
    """
    import json

    from diag.embeddings import console_text, embeddings_cli
    from trainworks.files import json_ready

    set_quiet(quiet)
    result = embeddings_cli(source, labels=labels, label_column=label_column, out=out, plots=plots, seed=seed)
    print(json.dumps(json_ready(result), ensure_ascii=False) if json_ else console_text(result))
    refuse_critical(source, result["findings"])


@app.command(short_help="Have a run make samples, and measure them.")
def samples(
    source: Annotated[Path, typer.Argument(help="Run directory, or a folder of samples that were made before.")],
    num_samples: Annotated[int, typer.Option(min=1, help="How many to ask the run's tool for.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Where they go; default: RUN/samples/diag.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Example: diag samples runs/v --num-samples 10 --out samples/epoch_10/

    Asks the tool that wrote the run, by its command on the PATH, for samples; measures and draws each; makes a page to
    listen to. Exit status 1: a sound that is none. Audio wants the extra: pip install 'diag[samples]'.
    """
    import json

    from diag.samples import console_text, make_samples
    from trainworks.files import json_ready

    set_quiet(quiet)
    result = make_samples(source, num_samples=num_samples, out=out)
    print(json.dumps(json_ready(result), ensure_ascii=False) if json_ else console_text(result))
    refuse_critical(source, result["findings"])


def refuse_critical(source: Path, findings: list[dict[str, Any]]) -> None:
    """Raises AnswerNo, exit status 1, if a finding is critical."""
    names = sorted({finding["name"] for finding in findings if finding["level"] == "critical"})
    if names:
        raise AnswerNo(f"{source} is not healthy: {', '.join(names)}")


@app.command(short_help="Put runs side by side.")
def compare(
    runs: Annotated[list[Path], typer.Argument(help=f"{LOG}s, of any tools.")],
    json_: Json = False,
) -> None:
    """Example: diag compare runs/a runs/b

    Results, what differs in the configuration, and the curves at the last step and the last second that all reached.
    """
    import json

    from diag.compare import compare_runs, console_text
    from trainworks.files import json_ready

    compared = compare_runs(runs)
    print(json.dumps(json_ready(compared), ensure_ascii=False) if json_ else console_text(compared))


@app.command(short_help="Make one HTML file of runs.")
def report(
    runs: Annotated[list[Path], typer.Argument(help=f"{LOG}s, of any tools.")],
    out: Annotated[Path, typer.Option(help="The HTML file; a page that is there is replaced.")] = Path("report.html"),
    config: Config = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Example: diag report runs/a runs/b --out report.html

    Results, curves on shared axes, findings placed on them, differences in configuration, samples with players: one
    file that needs no network. Prints its path.
    """
    from diag.report import write_report
    from diag.thresholds import load_thresholds

    set_quiet(quiet)
    print(write_report(runs, out, load_thresholds(config, set_ or ())))


@app.command(short_help="Print every threshold with its source.")
def thresholds() -> None:
    """Example: diag thresholds > mine.toml && diag health runs/v --config mine.toml

    The thresholds of `diag health` as TOML, each with its source or the calibration that set it.
    """
    from diag.thresholds import as_toml

    print(as_toml(), end="")


main = entry(app)
