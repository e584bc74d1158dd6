"""The figures of voice-gan's README: trained models, judged on held-out utterances and on unseen speakers.

    uv run --no-sync python tools/accept_voices.py data/ --seeds 0 1 2 --jobs 2 --out runs/accept-voices

DATA is what `voice-gan prepare` made. Each seed trains one model with preset cpu, then judges it with the extras that
can be imported: PESQ, GE2E, opinion scores and, with --words, the recogniser, which takes longer than all else. What is
there already is not done again, and a training that was interrupted goes on. --variants adds recipes without a part, by
the same seeds; --jobs trains so many at once. Of each seed also a Vocos without a bottleneck (copy_synthesis.py), and
of the first model: peak memory of converting half an hour beside a minute, how far pieces are from the whole, and ONNX
from PyTorch. --out gets table.md and results.json; runs lie in a folder a variant and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from copy_synthesis import copy_synthesis

from trainworks.console import UserError
from trainworks.torch import set_threads
from voice_gan.data import load_utterances
from voice_gan.export import export_run
from voice_gan.metrics import load_distillmos

VARIANTS = {
    "full": (),
    # The generator must then teach the speaker encoder, which would learn nothing else.
    "no_contrastive": ("--set", "losses.contrastive=0", "--set", "model.speaker.generator_share=1"),
    "no_gan": ("--set", "losses.lambda_adv=0"),
}
SYSTEMS = ("original", "griffin-lim", "reconstruction", "unchanged", "unguided", "conversion", "target")
MEASURES = {
    "STOI": "stoi",
    "PESQ": "pesq",
    "DistillMOS": "mos",
    "mel": "mel_distance",
    "MCD dB": "mcd",
    "F0 corr": "f0_correlation",
    "word errors": "word_error_rate",
    "to target": "similarity_target",
    "to source": "similarity_source",
    "success": "success",
}
MINUTES = (1, 30)


def voice_gan(*arguments: object, threads: int) -> tuple[str, float]:
    """What a command says, and the peak of its memory in MiB."""
    command = [str(Path(sys.executable).with_name("voice-gan")), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit status {process.returncode}")
    return said, usage.ru_maxrss / 1024


def train(data: Path, run: Path, options: list[object], threads: int) -> None:
    """Train, or go on with a training; a finished one is left alone."""
    if not (run / "run.json").exists():
        voice_gan("train", data, "--out", run, *options, "--threads", threads, threads=threads)
    elif json.loads((run / "run.json").read_text())["status"] != "finished":
        voice_gan("train", "--resume", run, threads=threads)


def opinions() -> list[str]:
    """The option for DistillMOS, where it can be imported."""
    try:
        load_distillmos()
    except UserError as error:
        print(f"no opinion scores: {error}", file=sys.stderr)
        return []
    return ["--opinions"]


def judge(run: Path, split: Path, words: bool, threads: int) -> dict[str, Any]:
    """The report on one split; its system "unguided" is the conversion without guidance."""

    def report(name: str, *options: str) -> dict[str, Any]:
        finished = run.with_name(f"{run.name}_{split.name}{name}.json")
        if not finished.exists():
            told, _ = voice_gan("evaluate", run, split, *options, "--json", threads=threads)
            finished.write_text(told)
        return json.loads(finished.read_text())

    whole = report("", *(["--words"] if words else []), *opinions())
    out = run / "reports" / f"{split.name}_unguided"
    unguided = report("_unguided", "--guidance", "0", "--utterances", "1", "--out", str(out))
    whole["systems"]["unguided"] = unguided["systems"]["conversion"]
    return whole


def recording(data: Path, minutes: float, path: Path) -> Path:
    """A file of that length, made of held-out utterances over and over."""
    if not path.exists():
        wave_T = np.concatenate([utterance.wave_T for utterance in load_utterances(data, "test")[:40]])
        soundfile.write(path, np.resize(wave_T, int(minutes * 60 * 16_000)), 16_000)
    return path


def limits(run: Path, data: Path, folder: Path, threads: int) -> dict[str, float]:
    """Peak memory by length of the recording, and differences between ways to the same sound."""
    voice = recording(data, 0.1, folder / "voice.wav")

    def convert(content: Path, out: Path, *options: object) -> float:
        arguments = ("--content", content, "--voice", voice, "-o", out, "--quiet", "--threads", threads, *options)
        return voice_gan("convert", run, *arguments, threads=threads)[1]

    found = {}
    for minutes in MINUTES:
        content = recording(data, minutes, folder / f"content_{minutes}.wav")
        found[f"peak MiB, {minutes} min"] = convert(content, folder / f"converted_{minutes}.wav")
    sounds = []
    for seconds in (0.5, 3600):
        pieces = folder / f"pieces_{seconds}.wav"
        convert(folder / f"content_{MINUTES[0]}.wav", pieces, "--chunk-seconds", seconds)
        sounds.append(soundfile.read(pieces)[0])
    found["pieces from whole (16-bit files)"] = float(np.abs(sounds[0] - sounds[1]).max())
    return found


def mean(values: list[float | None], shown: Callable[[float], str] = "{:.3f}".format) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {shown(statistics.stdev(known))}" if len(known) > 1 else ""
    return shown(statistics.mean(known)) + spread


def systems_table(reports: list[dict[str, Any]], copies: list[dict[str, float]]) -> str:
    """The systems of one split, mean ± standard deviation over seeds, with copy synthesis among them if it is given."""
    lines = ["| system | " + " | ".join(MEASURES) + " |", "| --- |" + " ---: |" * len(MEASURES)]
    for system in SYSTEMS:
        cells = [
            mean([report["systems"][system].get(measure, {"mean": None})["mean"] for report in reports])
            for measure in MEASURES.values()
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
        if system == "griffin-lim" and copies:
            cells = [mean([copy.get(measure) for copy in copies]) for measure in MEASURES.values()]
            lines.append("| copy synthesis | " + " | ".join(cells) + " |")
    for name in ("own", "judge"):
        bands = [report["voices"][name] for report in reports]
        told = ", ".join(f"{key.replace('_', ' ')} {mean([band[key] for band in bands])}" for key in BANDS)
        lines.append(
            f"\n{name} encoder: {told}." if name == "own" else f"Judge {reports[0]['judged']['judge']}: {told}."
        )
    return "\n".join(lines)


BANDS = ("same", "different", "separation", "equal_error_rate")


def bars(reports: list[dict[str, Any]]) -> str:
    """What was wanted of held-out utterances, and what was reached."""

    def of(system: str, measure: str) -> list[float]:
        return [report["systems"][system][measure]["mean"] for report in reports]

    lost = [(1 - c) / (1 - r) for c, r in zip(of("conversion", "stoi"), of("reconstruction", "stoi"), strict=True)]
    rows = [
        ("reconstruction, STOI", ">= 0.80", of("reconstruction", "stoi")),
        ("reconstruction, PESQ", ">= 1.6", of("reconstruction", "pesq")),
        ("conversion nearer to target", ">= 0.90", of("conversion", "success")),
        ("STOI lost by conversion over reconstruction's", "<= 2", lost),
        ("separation of the own encoder", "> 0.6", [report["voices"]["own"]["separation"] for report in reports]),
        ("conversion, times real time", ">= 50", [report["speed"]["times_real_time"] for report in reports]),
    ]
    if "word_error_rate" in reports[0]["systems"]["conversion"]:
        errors = of("conversion", "word_error_rate"), of("reconstruction", "word_error_rate")
        ratios = [converted / rebuilt for converted, rebuilt in zip(*errors, strict=True)]
        rows.append(("word errors of conversion over reconstruction's", "<= 2", ratios))
    lines = ["| bar | wanted | found |", "| --- | ---: | ---: |"]
    return "\n".join(lines + [f"| {name} | {wanted} | {mean(list(found))} |" for name, wanted, found in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=["full"])
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--copy-steps", type=int, default=1500, help="training of copy synthesis")
    parser.add_argument("--words", action="store_true", help="also a recogniser's word error rate")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--threads", type=int, default=2, help="of each")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    splits = []
    for split in (args.data / name for name in ("test", "unseen") if (args.data / name).is_dir()):
        if len({utterance.speaker for utterance in load_utterances(split)}) > 1:
            splits.append(split)
        else:
            print(f"{split} is not judged: it has one speaker, and a conversion wants two", file=sys.stderr)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def train_one(variant: str, seed: int) -> None:
        print(f"seed {seed}: {variant}", file=sys.stderr)
        epochs = [] if args.epochs is None else ["--epochs", args.epochs]
        options = ["--preset", args.preset, "--seed", seed, *epochs, *VARIANTS[variant]]
        train(args.data, args.out / f"{variant}_{seed}", options, args.threads)

    with ThreadPoolExecutor(args.jobs) as pool:
        pairs = [(variant, seed) for seed in args.seeds for variant in args.variants]
        list(pool.map(lambda pair: train_one(*pair), pairs))
    set_threads(args.threads)
    copies = [copy_synthesis(args.data, args.copy_steps, seed, args.out) for seed in args.seeds]
    for variant, seed in pairs:
        for split in splits:
            report = judge(args.out / f"{variant}_{seed}", split, args.words, args.threads)
            results.setdefault(variant, {}).setdefault(split.name, []).append(report)
    first = args.out / f"{args.variants[0]}_{args.seeds[0]}"
    found = limits(first, args.data, args.out, args.threads)
    found["ONNX from PyTorch"] = export_run(first, args.out / "voice.onnx", threads=args.threads)["difference"]
    parts = []
    for variant, reports in results.items():
        for split, of_seeds in reports.items():
            beside = copies if split == "test" else []
            parts.append(f"{variant}, {split}, {len(of_seeds)} seeds\n\n{systems_table(of_seeds, beside)}")
    if "full" in results:
        parts.append(bars(results["full"]["test"]))
    parts.append("\n".join(f"- {name}: {value:.6g}" for name, value in found.items()))
    (args.out / "results.json").write_text(json.dumps({"reports": results, "limits": found}, indent=2) + "\n")
    (args.out / "table.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
