"""Samples of a run: ask the tool that wrote it to make some, measure them, and lay them out on a page.

A tool's samples are folders of `original.wav`, `reconstruction.wav`, `converted_to_<speaker>.wav` and
`voice_of_<speaker>.wav`, that speaker's own with other words (any of them), and `metadata.json`; or rows and texts on
its standard output.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diag.audio import against, draw_spectrogram, measure, read_sound, resampled, speaker_embedding
from diag.compare import cell, table
from diag.extras import require
from diag.page import Section, render
from diag.report import EXPORT, write_page
from diag.samples_page import SOUNDS, Budget, cards, sample_folders
from trainworks.console import Bar, UserError, info, progress
from trainworks.files import atomic_write, write_json
from trainworks.run import Run


@dataclass(frozen=True)
class Asking:
    """How a tool whose samples are rows on its standard output is asked for them.

    Attributes:
        arguments: of its command.
        file: what its output becomes.
        reads: a file beside the data that the run was trained on, whose first rows it gets on standard input; they
            stand beside its answers.
    """

    arguments: tuple[str, ...]
    file: str
    reads: str = ""


ASKINGS = {
    "disc-train": Asking(("sample", "{run}", "-n", "{count}", "--quiet"), "rows.csv"),
    "diversity-finetune": Asking(("generate", "{run}", "--quiet"), "replies.jsonl", "test.jsonl"),
    "qa-train": Asking(("predict", "{run}", "--quiet"), "answers.jsonl", "test.jsonl"),
}
FOLDERS = Asking(("samples", "{run}", "--num-samples", "{count}", "--out", "{out}"), "")
"""Every other tool writes folders of its own."""
DISTANT = 1.0
"""Log-mel distance of a reconstruction that is worth a warning: VCTK speech has .5 under white noise at 30 dB, 1.7 at
10 dB, 2.3 with its upper three quarters of the band gone."""
REFERENCE, CONVERTED, VOICE = "original", "converted_to_", "voice_of_"


def make_samples(source: str | Path, *, num_samples: int = 10, out: Path | None = None) -> dict[str, Any]:
    """Samples of a run, or of a folder that holds some already, measured; ready for JSON.

    Writes measures.json and a spectrogram of each sound into each folder of samples, and samples.html and samples.json
    beside them.

    Args:
        source: a run directory, or a folder of samples that were made before.
        num_samples: how many to ask for.
        out: where they go; default: RUN/samples/diag, or the folder itself.

    Raises:
        UserError: no run and no samples there, or the tool is not installed, cannot make samples, or made none.
    """
    source = Path(source)
    if (source / "run.json").exists():
        run = Run.open(source)
        out = out or source / "samples" / "diag"
        out.mkdir(parents=True, exist_ok=True)
        generate(run, num_samples, out)
        name = source.resolve().name
    elif sample_folders(source):
        out, name = copied(source, out), source.resolve().name
    else:
        what = "is neither a run directory nor a folder of samples" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}; name a run that a training command wrote")
    folders = sample_folders(out)
    if not folders:
        raise UserError(f"{out} holds no sounds, pictures, tables or texts after the tool ended; look at its messages")
    with progress(len(folders), "measuring") as bar:
        measured = {folder.relative_to(out).as_posix(): _measured(folder, bar) for folder in sorted(folders)}
    result = {"source": str(source), "out": str(out), "samples": measured, "findings": findings(measured)}
    write_json(out / "samples.json", result)
    write_page(out / "samples.html", _page(name, out, result))
    return result


def copied(source: Path, out: Path | None) -> Path:
    """`source`, or a copy of it at `out`.

    Raises:
        UserError: `out` is inside `source`.
    """
    if out is None or out.resolve() == source.resolve():
        return source
    if source.resolve() in out.resolve().parents:
        raise UserError(f"{out} is inside {source}, which would be copied into itself; name another --out")
    shutil.copytree(source, out, dirs_exist_ok=True)
    return out


def generate(run: Run, count: int, out: Path) -> None:
    """Let the tool that wrote the run make samples into `out`, by its command on PATH.

    Raises:
        UserError: it is not there, or it failed; its own last line tells why.
    """
    tool = run.record["tool"]
    beside = Path(sys.executable).parent  # where the tools of one environment are, whatever PATH says
    command = shutil.which(tool) or shutil.which(tool, path=str(beside))
    if command is None or Path(tool).name != tool:
        raise UserError(f"{run.path} was written by {tool}, which is not on PATH; install it, or make samples yourself")
    asking = ASKINGS.get(tool, FOLDERS)
    words = [command, *(word.format(run=run.path, count=count, out=out) for word in asking.arguments)]
    given = first_rows(run, asking.reads, count) if asking.reads else []
    info(f"asking {tool}: {shlex.join(words[1:])}")
    asked = subprocess.run(words, capture_output=True, check=False, input="".join(given).encode())
    if asked.returncode != 0:
        said = asked.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise UserError(
            f"{tool} {words[1]} failed with exit status {asked.returncode}: {said[-1].removeprefix('error: ')}"
        )
    if given:
        answers = asked.stdout.decode().splitlines()
        rows = [json.loads(row) | json.loads(answer) for row, answer in zip(given, answers, strict=True)]
        atomic_write(out / asking.file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif asking.file:
        atomic_write(out / asking.file, asked.stdout)


def first_rows(run: Run, name: str, count: int) -> list[str]:
    """The first `count` lines of a file beside the run's training data.

    Raises:
        UserError: it is not there any more.
    """
    path = Path(run.record["inputs"][0]["path"]).parent / name
    try:
        with path.open(encoding="utf-8") as file:
            return list(itertools.islice(file, count))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {run.path} was trained beside it, and samples need it") from None


def _measured(folder: Path, bar: Bar) -> dict[str, Any]:
    sounds = sorted(path for path in folder.iterdir() if path.suffix.lower() in SOUNDS)
    if sounds:
        require("samples", "soundfile", "pystoi", "scipy", "matplotlib")
    found: dict[str, Any] = {}
    reference = next((path for path in sounds if path.stem == REFERENCE), None)
    original = None if reference is None else _heard(reference)
    for path in sounds:
        other_words = path == reference or path.stem.startswith(VOICE)
        found[path.name] = measure_sound(path, None if other_words else original)
    for name, told in speaker_similarities([path for path in sounds if "problem" not in found[path.name]]).items():
        found[name]["speaker"] = told
    if sounds:
        write_json(folder / "measures.json", {"sounds": found})
    bar.advance()
    return {"sounds": found, "metadata": _metadata(folder / "metadata.json")}


def _heard(path: Path) -> Any:
    """Samples and rate, or None for what cannot be heard: `measure_sound` tells why."""
    try:
        samples, rate = read_sound(path)
    except UserError:
        return None
    return (samples, rate) if "problem" not in measure(samples, rate) else None


def measure_sound(path: Path, original: Any) -> dict[str, Any]:
    """Figures of one file, `against_original` where there is one to compare with; draws its spectrogram beside it.

    A conversion keeps the words and the melody, and changes the voice: of it F0 correlation is told, which does not
    depend on the voice, while mel distance, STOI and PESQ would measure how much of the old voice is left.
    """
    try:
        samples, rate = read_sound(path)
    except UserError as error:
        return {"problem": str(error)}
    found = measure(samples, rate)
    if "problem" in found:
        return found
    draw_spectrogram(path.with_suffix(".png"), samples, rate)
    if original is not None:
        beside = against(original[0], resampled(samples, rate, original[1]), original[1])
        if path.stem.startswith(CONVERTED):
            beside = {key: beside[key] for key in ("f0_correlation", "voicing_error", "length_ratio")}
        found["against_original"] = beside
    return found


def speaker_similarities(sounds: Sequence[Path]) -> dict[str, dict[str, float]]:
    """How alike the voices of a folder are, by file; nothing where no speaker encoder is installed.

    The cosine of a sound's speaker embedding with that of the original is `similarity_source`; of a conversion, that
    with the voice it was to get is `similarity_target`. GE2E's cosines of two strangers are .5 and more: compare the
    two.
    """
    by_stem = {path.stem: path for path in sounds}
    if REFERENCE not in by_stem or len(by_stem) == 1:
        return {}
    heard = {stem: speaker_embedding(*read_sound(path)) for stem, path in by_stem.items()}
    voices = {stem: embedding for stem, embedding in heard.items() if embedding is not None}
    told: dict[str, dict[str, float]] = {}
    for stem, voice in voices.items():
        if stem == REFERENCE or stem.startswith(VOICE):
            continue
        told[by_stem[stem].name] = {"similarity_source": float(voice @ voices[REFERENCE])}
        target = voices.get(VOICE + stem.removeprefix(CONVERTED))
        if target is not None:
            told[by_stem[stem].name]["similarity_target"] = float(voice @ target)
    return told


def findings(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """What is wrong with the sounds: name, level, where, summary."""
    found = []
    for sample, told in measured.items():
        for file, figures in told["sounds"].items():
            for name, level, summary in _problems(figures):
                found.append({"name": name, "level": level, "where": f"{sample}/{file}", "summary": summary})
    return found


def _problems(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if "problem" in figures:
        return [("unusable", "critical", figures["problem"])]
    beside, voice = figures.get("against_original", {}), figures.get("speaker", {})
    source, target = voice.get("similarity_source"), voice.get("similarity_target")
    looked = (
        ("clipping", figures["clipped"] > 1e-3, f"{figures['clipped']:.2%} of the samples are at full scale"),
        ("direct current", abs(figures["dc"]) > 0.1, f"the mean is {figures['dc']:.2f} of the level"),
        ("silence", figures["silence"] > 0.9, f"{figures['silence']:.0%} of it is silent"),
        (
            "length",
            abs(beside.get("length_ratio", 1) - 1) > 0.05,
            f"{beside.get('length_ratio', 1):.2f} times the original",
        ),
        (
            "conversion",
            target is not None and target < source,
            f"the voice is nearer to the original's ({source or 0:.2f}) than to the target's ({target or 0:.2f})",
        ),
        ("distance", beside.get("mel_distance", 0) > DISTANT, f"log-mel distance {beside.get('mel_distance', 0):.2f}"),
    )
    return [(name, "warning", summary) for name, wrong, summary in looked if wrong]


def _metadata(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {"problem": f"{path.name} is not JSON"}


def _page(name: str, out: Path, result: Mapping[str, Any]) -> str:
    from diag import page

    budget = Budget()
    body = cards(out, 0, name, budget)
    export = EXPORT if 'class="checklist"' in body else ""
    rows = [[found["where"], found["level"], found["name"], found["summary"]] for found in result["findings"]]
    sections = [
        Section("findings", "Findings", page.table(("sound", "level", "finding", "evidence"), rows)),
        Section("samples", "Samples", f'{export}<div class="cards">{body}</div>'),
    ]
    return render(f"Samples of {name}", sections, {"runs": [name], "charts": []}, f"Made by diag {version('diag')}.")


def console_text(result: Mapping[str, Any]) -> str:
    """The measures for a terminal."""
    beside = ("mel_distance", "stoi", "pesq", "f0_correlation", "similarity_source", "similarity_target")
    columns = ("seconds", *beside, "clipped", "silence", "problem")
    rows = []
    for sample, told in result["samples"].items():
        for file, figures in told["sounds"].items():
            flat = {**figures, **figures.get("against_original", {}), **figures.get("speaker", {})}
            rows.append((file if sample == "." else f"{sample}/{file}", [flat.get(column) for column in columns]))
    parts = [table("sound", [column.replace("_", " ") for column in columns], rows)]
    parts += [f"{found['level'].upper()} {found['where']}: {found['summary']}" for found in result["findings"]]
    parts.append(f"{len(result['samples'])} folders of samples in {cell(result['out'])}; open samples.html there")
    return "\n".join(part for part in parts if part)
