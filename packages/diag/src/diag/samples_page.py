"""Folders of samples as HTML: players, pictures, tables, texts, and the listener's checklist."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from diag.page import data_uri, table

SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
TABLES = (".csv", ".jsonl")
TEXTS = (".txt", ".md")
KINDS = (*SOUNDS, *PICTURES, *TABLES, *TEXTS)
SHOWN_ROWS = 50
SHOWN_CHARACTERS = 20_000
MOST_BYTES = 40_000_000
"""Sounds and pictures of one page; beyond, a browser takes long to open it."""
CHECKLIST = {
    "fidelity": "Fidelity: the reconstruction sounds like the original",
    "conversion": "Conversion: same words, and the other speaker's voice",
    "long_form_coherence": "Long-form coherence: voice and level stay the same to the end",
    "naturalness": "Naturalness: no metal, no buzz, no clicks",
}


@dataclass
class Budget:
    """Bytes that a page may still take."""

    left: int = MOST_BYTES
    left_out: int = 0

    def take(self, path: Path) -> bytes | None:
        """The file, or None if it is too large for what is left."""
        if path.stat().st_size > self.left:
            self.left_out += 1
            return None
        self.left -= path.stat().st_size
        return path.read_bytes()


def sample_folders(root: Path) -> list[Path]:
    """Folders at or under `root` that hold something to show, newest first."""
    if not root.is_dir():
        return []
    folders = {path.parent for path in root.rglob("*") if path.suffix.lower() in KINDS and path.is_file()}
    return sorted(folders, key=lambda folder: (-folder.stat().st_mtime_ns, folder))


def cards(root: Path, run_number: int, run_name: str, budget: Budget) -> str:
    """All samples under a folder: a card for each folder that holds some."""
    made = [
        card(folder, folder.relative_to(root).as_posix(), run_number, run_name, budget)
        for folder in sample_folders(root)
    ]
    return "\n".join(made)


def card(folder: Path, name: str, run_number: int, run_name: str, budget: Budget) -> str:
    """One folder of samples, with a checklist if there is something to hear."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in KINDS)
    sounds = sorted((path for path in files if path.suffix.lower() in SOUNDS), key=_order)
    drawn = {path.stem: path for path in files if path.suffix.lower() in PICTURES}
    measured = _json(folder / "measures.json")
    parts = [_sound(path, drawn.pop(path.stem, None), budget) for path in sounds]
    body = f'<div class="sounds">{"".join(parts)}</div>' if parts else ""
    body += measures_table(measured)
    body += "".join(f"<figure>{_picture(path, f'{path.stem} of {name}', budget)}</figure>" for path in drawn.values())
    body += "".join(_table(path) for path in files if path.suffix.lower() in TABLES)
    body += "".join(_text(path) for path in files if path.suffix.lower() in TEXTS)
    metadata = _json(folder / "metadata.json")
    if metadata:
        shown = [
            (key, value if isinstance(value, str | int | float | None) else json.dumps(value))
            for key, value in metadata.items()
        ]
        body += f"<details><summary>metadata</summary>{table(('name', 'value'), shown)}</details>"
    title = f"{run_name}: {name}" if name != "." else run_name
    checklist = _checklist(run_name, name) if sounds else ""
    return f'<article class="card" data-of-run="{run_number}"><h3>{escape(title)}</h3>{body}{checklist}</article>'


def _order(path: Path) -> tuple[int, str]:
    """The original first, then its reconstruction, then the others by name."""
    return (
        ("original", "reconstruction").index(path.stem) if path.stem in ("original", "reconstruction") else 2,
        path.name,
    )


def measures_table(measured: Mapping[str, Any]) -> str:
    """Figures of each sound of a folder, as `diag samples` leaves them in measures.json."""
    sounds = measured.get("sounds")
    if not isinstance(sounds, dict):
        return ""
    figures = {name: _plain_figures(found) for name, found in sounds.items() if isinstance(found, dict)}
    columns = list(dict.fromkeys(key for found in figures.values() for key in found))
    rows = [[name, *(found.get(key) for key in columns)] for name, found in figures.items()]
    return table(("sound", *(column.replace("_", " ") for column in columns)), rows)


def _plain_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    flat = {**found, **(found["against_original"] if isinstance(found.get("against_original"), dict) else {})}
    return {key: value for key, value in flat.items() if isinstance(value, str | int | float | None)}


def _sound(path: Path, picture: Path | None, budget: Budget) -> str:
    content = budget.take(path)
    name = escape(path.name)
    if content is None:
        return f"<figure><figcaption>{name} is too large for this page</figcaption></figure>"
    shown = _picture(picture, f"Spectrogram of {path.name}", budget) if picture else ""
    kind = SOUNDS[path.suffix.lower()]
    return (
        f"<figure><figcaption>{escape(path.stem.replace('_', ' '))}</figcaption>{shown}"
        f'<audio controls preload="metadata" aria-label="{name}" src="{data_uri(content, kind)}"></audio></figure>'
    )


def _picture(path: Path, alternative: str, budget: Budget) -> str:
    content = budget.take(path)
    if content is None:
        return f"<p>{escape(path.name)} is too large for this page</p>"
    return f'<img alt="{escape(alternative)}" src="{data_uri(content, PICTURES[path.suffix.lower()])}">'


def _table(path: Path) -> str:
    """The first rows of a CSV or JSON Lines file."""
    rows: list[list[Any]] = []
    head: list[str] = []
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        if path.suffix.lower() == ".csv":
            reader = csv.reader(file)
            head = next(reader, [])
            rows = [row for row, _ in zip(reader, range(SHOWN_ROWS), strict=False)]
        else:
            records = [record for line, _ in zip(file, range(SHOWN_ROWS), strict=False) if (record := _record(line))]
            head = list(dict.fromkeys(key for record in records for key in record))
            rows = [[record.get(key) for key in head] for record in records]
    numbered = [[index, *row] for index, row in enumerate(rows, start=1)]
    caption = (
        f"<p>{escape(path.name)}, the first {len(rows)} rows</p>" if rows else f"<p>{escape(path.name)} has no rows</p>"
    )
    return caption + table(("row", *head), numbered)


def _text(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(SHOWN_CHARACTERS + 1)
    more = "\n…" if len(text) > SHOWN_CHARACTERS else ""
    return f"<p>{escape(path.name)}</p><pre>{escape(text[:SHOWN_CHARACTERS] + more)}</pre>"


def _checklist(run_name: str, name: str) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="{key}"> {escape(text)}</label>' for key, text in CHECKLIST.items()
    )
    return (
        f'<fieldset class="checklist" data-run-name="{escape(run_name)}" data-sample="{escape(name)}">'
        f'<legend>What do you hear?</legend>{boxes}<label>Note <input type="text" name="note"></label></fieldset>'
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _record(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
