"""The command line of `voice-gan`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainworks.console import AnswerNo, UserError, entry, info, set_quiet, version_callback

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads; default: what is free, at most 2.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Checkpoint = Annotated[str, typer.Option(help="best, last or step_000100.")]
Guidance = Annotated[
    float, typer.Option(min=0, help="How far the voice is moved away from the content's own; 0 is the voice as it is.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace what is there.")]


@app.callback(epilog="Full documentation: the README of this package.")
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_callback("voice-gan"), is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Example: voice-gan convert runs/v --content a.wav --voice b.wav -o c.wav

    One voice speaks another's words: many-speaker reconstruction and voice conversion, trained adversarially.
    """


@app.command(short_help="Make sound ready for training.")
def prepare(
    audio_dirs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of sound by speaker: DIR/SPEAKER/.../x.wav.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Instead: CSV or JSON Lines with path, speaker and, if known, text.")
    ] = None,
    demo: Annotated[bool, typer.Option(help="Instead: built-in voices by espeak-ng (extra voices).")] = False,
    voices: Annotated[int, typer.Option(min=2, help="Built-in voices.")] = 16,
    utterances: Annotated[int, typer.Option(min=1, help="Sentences of each built-in voice.")] = 40,
    rate: Annotated[int, typer.Option(min=8000, help="Samples a second.")] = 16000,
    min_seconds: Annotated[float, typer.Option(min=0.1, help="Leave out shorter recordings.")] = 1.0,
    max_seconds: Annotated[float, typer.Option(min=1, help="Leave out longer recordings.")] = 600.0,
    unseen: Annotated[
        int | None, typer.Option(min=0, help="Speakers to hold out; default: a tenth of those with 4 recordings.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Deals recordings to splits.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan prepare LibriSpeech/train-clean-100 --out data/

    Read, check, resample, trim and level recordings, split them, and write shards. Prints the folder; report.json in
    it says what was left out and why.
    """
    set_quiet(quiet)
    if out is None or sum((bool(audio_dirs), manifest is not None, demo)) != 1:
        raise UserError("prepare wants --out, and AUDIO_DIR or --manifest or --demo; see voice-gan prepare --help")
    from voice_gan.config import AudioConfig
    from voice_gan.prepare import Limits, find_sources, prepare_demo, prepare_folder, read_manifest

    audio = AudioConfig(rate=rate, fmax=min(8000.0, rate / 2))
    limits = Limits(min_seconds=min_seconds, max_seconds=max_seconds, unseen=unseen)
    if demo:
        prepare_demo(out, voices, utterances, audio, limits, seed, overwrite)
    else:
        sources = read_manifest(manifest) if manifest else find_sources(audio_dirs or [])
        prepare_folder(sources, out, audio, limits, seed, overwrite)
    print(out)


@app.command(short_help="Train a model.")
def train(
    data: Annotated[Path | None, typer.Argument(help="Folder that voice-gan prepare made.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with; takes its recipe and its data.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run directory if it exists.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Segments a step, over all processes.")] = None,
    unfreeze_speaker_encoder: Annotated[
        bool, typer.Option("--unfreeze-speaker-encoder", help="Fine-tune GE2E (model.speaker.kind=ge2e).")
    ] = False,
    run_diagnostics: Annotated[
        bool, typer.Option("--run-diagnostics", help="Reports by diag into RUN/diagnostics (extra diagnostics).")
    ] = False,
    diagnostics_interval: Annotated[int | None, typer.Option(help="Steps between reports.")] = None,
    sample_interval: Annotated[int | None, typer.Option(help="Epochs between samples; 0: at the end alone.")] = None,
    ddp: Annotated[bool, typer.Option("--ddp", help="One of the processes that torchrun started.")] = False,
    seed: Annotated[int | None, typer.Option(help="The one seed.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: TOML, JSON, or a run directory.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named recipe: cpu (over an hour), base, small.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given again.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Parts that a process's batch is cut into.")] = None,
    tracker: Annotated[str, typer.Option(help="none, neptune (offline) or trackio.")] = "none",
    dry_run: Annotated[
        bool, typer.Option(help="Check the data, show the recipe and what would be written, and write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan train data/ --out runs/v --preset cpu

    Train encoders and generator on reconstruction and conversion, then with discriminators. Prints the run's path.
    """
    from trainworks.config import resolve
    from voice_gan.config import PRESETS, VoiceRecipe

    set_quiet(quiet)
    flags: dict[str, Any] = {
        "seed": seed,
        "data.batch_size": batch_size,
        "model.speaker.unfreeze": unfreeze_speaker_encoder or None,
        "training.epochs": epochs,
        "training.precision": precision,
        "training.grad_accum": grad_accum,
        "diagnostics.enabled": run_diagnostics or None,
        "diagnostics.interval": diagnostics_interval,
        "diagnostics.sample_interval": sample_interval,
    }
    if resume is not None:
        given = [name for name, value in flags.items() if value is not None]
        if data or out or config or preset or set_ or given or overwrite or dry_run:
            raise UserError("--resume takes recipe, data and place from the run: leave the other options out")
        from voice_gan.run import Options, resume_run

        path = resume_run(resume, Options(device, threads, tracker, ddp))
    else:
        if data is None or out is None:
            raise UserError("train wants DATA and --out RUN, or --resume RUN; see voice-gan train --help")
        resolved = resolve(
            VoiceRecipe,
            file=config,
            preset=preset,
            presets=PRESETS,
            flags=flags,
            sets=set_ or (),
            env_prefix="VOICE_GAN",
        )
        if dry_run:
            print_dry_run(resolved, data, out, overwrite)
            return
        from voice_gan.run import Options, start_run

        path = start_run(resolved, data, out, Options(device, threads, tracker, ddp), overwrite)
    if path is not None:
        print(path)


@app.command(short_help="Let a voice speak another's words.")
def convert(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    content: Annotated[Path, typer.Option(help="Recording of what is to be said, of any length.")],
    voice: Annotated[list[Path], typer.Option(help="Recording of the voice; may be given again.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Sound file to write: .wav, .flac or .ogg.")],
    guidance: Guidance = 0.5,
    chunk_seconds: Annotated[float, typer.Option(help="Length of a piece; memory grows with it.")] = 20.0,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan convert runs/v --content a.wav --voice b.wav -o c.wav

    Say what is said in one recording in the voice of another. Prints the file's path.
    """
    from voice_gan.convert import convert_file
    from voice_gan.run import load_trained

    set_quiet(quiet)
    model = load_trained(run, checkpoint, device, threads).model
    done = convert_file(model, content, voice, out, guidance=guidance, chunk_seconds=chunk_seconds)
    info(f"{done['seconds']:.1f} s of sound in {done['wall_seconds']:.1f} s")
    print(out)


@app.command(short_help="Write samples to listen to.")
def samples(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: RUN/samples/final.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Utterances.")] = 10,
    data: Annotated[
        Path | None, typer.Option(help="A split that prepare made; default: the test split of the run's own data.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses utterances and target voices.")] = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan samples runs/v --num-samples 10 --out samples/

    Write originals, reconstructions and conversions with spectrograms and metadata. Prints the folder.
    """
    from voice_gan.samples import samples_run

    set_quiet(quiet)
    place = samples_run(
        run,
        out=out,
        num_samples=num_samples,
        data=data,
        checkpoint=checkpoint,
        device=device,
        threads=threads,
        seed=seed,
    )
    print(place)


@app.command(short_help="Measure a model on held-out sound.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[Path, typer.Argument(help="A split that prepare made, such as data/test or data/unseen.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: RUN/reports/NAME.")] = None,
    overwrite: Overwrite = False,
    judge: Annotated[str, typer.Option(help="auto, ge2e (extra ge2e) or statistics.")] = "auto",
    utterances: Annotated[int, typer.Option(min=1, help="Utterances rebuilt, at most.")] = 100,
    conversions: Annotated[int, typer.Option(min=1, help="Conversions, at most.")] = 200,
    guidance: Guidance = 0.5,
    words: Annotated[bool, typer.Option("--words", help="Also a recogniser's word error rate (extra words).")] = False,
    opinions: Annotated[bool, typer.Option("--opinions", help="Also DistillMOS (extra evaluate).")] = False,
    fail_under: Annotated[
        list[str] | None, typer.Option(help="FIGURE=NUMBER: exit 1 if it is below; may be given again.")
    ] = None,
    fail_over: Annotated[
        list[str] | None, typer.Option(help="FIGURE=NUMBER: exit 1 if it is above; may be given again.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the conversions.")] = 0,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan evaluate runs/v data/test --fail-under reconstruction.stoi=0.8

    Reconstruction and conversion beside baselines, judged by a speaker encoder that training never saw.
    """
    import json

    from voice_gan.evaluate import evaluate_run
    from voice_gan.report import parse_bound

    set_quiet(quiet)
    for side, bounds in (("under", fail_under), ("over", fail_over)):
        for bound in bounds or ():
            parse_bound(side, bound)
    report = evaluate_run(
        run,
        data,
        out=out,
        overwrite=overwrite,
        checkpoint=checkpoint,
        device=device,
        threads=threads,
        judge=judge,
        utterances=utterances,
        conversions=conversions,
        guidance=guidance,
        words=words,
        opinions=opinions,
        seed=seed,
    )
    missed = report.missed(fail_under or (), fail_over or ())
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if json_ else report.table())
    if missed:
        raise AnswerNo("; ".join(missed))


@app.command(short_help="Write embeddings of voices.")
def embed(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[Path, typer.Argument(help="A split that prepare made, such as data/test.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .npz.")],
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan embed runs/v data/test -o emb.npz && diag embeddings emb.npz

    An embedding of norm 1 for each utterance, with its speaker. Prints the file's path.
    """
    from voice_gan.embed import embed_run

    set_quiet(quiet)
    embed_run(run, data, out, checkpoint=checkpoint, device=device, threads=threads)
    print(out)


@app.command(short_help="Write the model as ONNX.")
def export(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .onnx.")],
    checkpoint: Checkpoint = "best",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Example: voice-gan export runs/v -o voice.onnx

    Sound, F0 and a voice to sound, and beside it sound to a voice (extra export), compared with PyTorch.
    """
    from voice_gan.export import export_run

    set_quiet(quiet)
    done = export_run(run, out, checkpoint=checkpoint, threads=threads)
    info(f"differs from PyTorch by at most {done['difference']:.1e}")
    print(out)


def print_dry_run(resolved: Any, data: Path, out: Path, overwrite: bool) -> None:
    """The resolved recipe with the source of each value, and what would be written, as JSON on stdout."""
    import json

    from trainworks.console import warn
    from trainworks.run import warn_if_taken
    from voice_gan.data import load_utterances

    if data.exists():
        load_utterances(data, "train")
    else:  # a pipeline may plan before it makes its data
        warn(f"{data} does not exist: only the recipe was checked")
    warn_if_taken(out, "voice-gan", overwrite=overwrite)
    names = ("run.json", "metrics.jsonl", "checkpoints/", "plots/", "samples/")
    plan = {
        "data": str(data),
        "out": str(out),
        "config": resolved.config,
        "config_sources": resolved.provenance,
        "would_write": [f"{out}/{name}" for name in names],
    }
    print(json.dumps(plan, indent=2, ensure_ascii=False))


main = entry(app)
