"""Remake every figure of the READMEs: just accept DATA_DIR [--only tabular,health] [--against OLD.json]

Runs the recipes of accept_recipes.py one after another, the cheap ones first: over a day of two cores for all. `--list`
shows what each wants, costs and where it stands, and runs nothing. The same command again goes on: a recipe that is
done is kept, and the table says since when, if its code (the commit and what differs from it), the bytes of its data
and its arguments are what they were; a stopped one goes on where its own tool can. Otherwise it begins anew, and what
it had written is moved to runs/accept/old.

Ends with a table: recipe, the README that quotes it, its results, minutes and state. Exit status 1 unless all asked for
were done: one whose data is missing is "not run", never left out. runs/accept/accept.json holds every figure that was
read from the results; --against takes such a file of an earlier run and prints what has moved.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accept_figures import Figures, moved
from accept_recipes import DATA, OUT, RECIPES, Recipe
from record import ROOT, UNKNOWN, aligned, conditions, last_line, read_record, source

from trainworks.console import UserError, info
from trainworks.files import sha256_file, write_json


def digest(path: Path) -> str:
    """SHA-256 of a file, or of names and contents of all files in a folder."""
    if path.is_file():
        return sha256_file(path)
    found = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        found.update(f"{file.relative_to(path)} {sha256_file(file)}\n".encode())
    return found.hexdigest()


def places(folder: Path | None, given: list[str]) -> dict[str, Path]:
    """Where each of `DATA` is to be, absolute.

    Raises:
        UserError: --path names something else, or a path has a space, at which a recipe's arguments are cut.
    """
    found = {name: folder / path for name, path in DATA.items()} if folder else {}
    for option in given:
        name, _, path = option.partition("=")
        if name not in DATA or not path:
            raise UserError(f"--path {option}: NAME=PATH is wanted, NAME one of {', '.join(DATA)}")
        found[name] = Path(path)
    found = {name: path.resolve() for name, path in found.items()}
    if spaced := next((path for path in found.values() if " " in str(path)), None):
        raise UserError(f"{spaced}: recipes take no path with a space; make a link to it")
    return found


def missing(recipe: Recipe, data: Mapping[str, Path]) -> list[str]:
    """What of its data is not there, as people look for it."""
    return [str(data.get(name, DATA[name])) for name in recipe.wants() if name not in data or not data[name].exists()]


def fill(parts: Sequence[str], data: Mapping[str, Path]) -> list[str]:
    """The arguments with paths for {NAME}s."""
    return [part.format(**data) for part in parts]


def identity(recipe: Recipe, data: Mapping[str, Path], source: str, digests: dict[str, str]) -> dict[str, Any]:
    """What must be the same for figures to be kept; `digests` remembers those of the data."""
    for name in recipe.wants():
        if name not in digests:
            digests[name] = digest(data[name])
    inputs = {name: digests[name] for name in recipe.wants()}
    return {"source": source, "inputs": inputs, "arguments": [recipe.recipe, *recipe.arguments]}


def is_same(entry: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an earlier run was of the same code, data and arguments; nobody knows without a commit."""
    return wanted["source"] != UNKNOWN and all(entry.get(key) == value for key, value in wanted.items())


def set_aside(name: str, recipe: Recipe) -> None:
    """Move what other code or data made, so that the recipe doesn't go on with it."""
    folder = ROOT / recipe.folder
    if recipe.folder and folder.exists():
        old = ROOT / OUT / "old" / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        old.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, old)
        info(f"{name}: {recipe.folder} was made by other code or from other data: moved to {old.relative_to(ROOT)}")


def perform(name: str, recipe: Recipe, data: Mapping[str, Path]) -> str:
    """Run it, its standard output to OUT/NAME.txt and its messages to OUT/NAME.log; why it failed, or nothing."""
    output, log = (ROOT / OUT / f"{name}.{kind}" for kind in ("txt", "log"))
    programs = Path(sys.executable).parent
    just = [os.environ.get("JUST", "just"), recipe.recipe, *fill(recipe.arguments, data)]
    steps = [[str(programs / step[0]), *fill(step[1:], data)] for step in recipe.makes] + [just]
    with log.open("w") as messages:
        for step in steps:
            with output.open("w") as told:  # the last one's, the recipe's, stays
                status = subprocess.call(step, cwd=ROOT, stdout=told, stderr=messages)
            if status:
                return f"{last_line(log)} ({log.relative_to(ROOT)})"
    return ""


def figures(recipe: Recipe) -> tuple[list[str], Figures]:
    """The result files that there are, and their figures; those of several files begin with the file's folder."""
    files: list[str] = []
    found: Figures = {}
    for pattern, read in recipe.results:
        paths = sorted(ROOT.glob(pattern))
        for path in paths:
            place = path.relative_to(ROOT)
            prefix = "/".join(place.parts[2:-1]) + ": " if len(paths) > 1 else ""
            found |= {prefix + name: value for name, value in read(path.read_text(encoding="utf-8")).items()}
            files.append(str(place))
    return files, found


def accept(name: str, recipe: Recipe, data: Mapping[str, Path], wanted: dict[str, Any], record: dict[str, Any]) -> None:
    """Run one recipe and publish what came of it; its entry says "stopped" until it has ended."""
    before = record["recipes"].get(name, {})
    if not is_same(before, wanted):
        set_aside(name, recipe)
    began = time.monotonic()
    spent = before.get("minutes", 0.0) if is_same(before, wanted) and before["state"] == "stopped" else 0.0
    entry = {**wanted, "state": "stopped", "minutes": spent, "results": [], "figures": {}, "why": ""}
    record["recipes"][name] = entry
    write_json(ROOT / OUT / "accept.json", record)
    try:
        why = perform(name, recipe, data)
        if not why:
            entry["results"], entry["figures"] = figures(recipe)
            if not entry["figures"]:
                why = f"it left no figures in {', '.join(pattern for pattern, _ in recipe.results)}"
        entry |= {"state": "failed" if why else "done", "why": why}
        entry["date"] = datetime.now(UTC).isoformat(timespec="minutes")
    finally:
        entry["minutes"] = spent + (time.monotonic() - began) / 60
        write_json(ROOT / OUT / "accept.json", record)


def standing(entry: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    """What an earlier run has left: "kept from DATE" if it need not be run again."""
    if not entry:
        return "not run"
    if not is_same(entry, wanted):
        return "not run: its code, data or arguments have changed since"
    if entry["state"] == "done":
        return f"kept from {entry['date']}"
    return f"{entry['state']}: {entry['why']}" if entry["why"] else entry["state"]


def table(states: Mapping[str, str], record: Mapping[str, Any]) -> str:
    """A row for each recipe."""
    rows = [["recipe", "README", "data", "results", "figures", "minutes (about)", "state"]]
    for name, told in states.items():
        recipe, entry = RECIPES[name], record["recipes"].get(name, {})
        files = entry.get("results") or [pattern for pattern, _ in recipe.results]
        shown = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        took = f"{entry['minutes']:.0f}" if entry.get("minutes") else "-"
        count = str(len(entry.get("figures", {})) or "-")
        wants = ", ".join(recipe.wants()) or "-"
        rows.append([name, recipe.readme or "(root)", wants, shown, count, f"{took} ({recipe.minutes})", told])
    return aligned(rows, left=(0, 1, 2, 3, 6))


def changes(names: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What has moved since an earlier run, of the recipes that were done."""
    lines = []
    for name in names:
        before, after = old["recipes"].get(name, {}).get("figures"), new["recipes"][name]["figures"]
        if before:
            told = moved(before, after)
            lines += [f"{name}: {len(told)} of {len(after)} figures moved", *(f"  {line}" for line in told)]
        else:
            lines.append(f"{name}: no figures in the earlier run")
    return "\n".join(lines)


def choose(names: str | None) -> list[str]:
    """The recipes of --only, in the order of `RECIPES`.

    Raises:
        UserError: there is none of a name.
    """
    wanted = set(RECIPES) if names is None else set(names.split(","))
    if unknown := sorted(wanted - set(RECIPES)):
        raise UserError(f"there is no recipe {unknown[0]!r}; there are {', '.join(RECIPES)}")
    return [name for name in RECIPES if name in wanted]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help=f"folder with {', '.join(DATA.values())}")
    parser.add_argument("--path", action="append", default=[], metavar="NAME=PATH", help=f"of {', '.join(DATA)}")
    parser.add_argument("--only", metavar="A,B", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--list", action="store_true", help="show the table and run nothing")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="an earlier runs/accept/accept.json")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        against = read_record(args.against, "recipes") if args.against else None
        chosen, data = choose(args.only), places(args.data, args.path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (ROOT / OUT).mkdir(parents=True, exist_ok=True)
    book = ROOT / OUT / "accept.json"
    earlier = read_record(book, "recipes")["recipes"] if book.exists() else {}
    record: dict[str, Any] = {"conditions": conditions(), "recipes": earlier}
    digests: dict[str, str] = {}
    states = {}
    for name in chosen:
        recipe = RECIPES[name]
        if absent := missing(recipe, data):
            states[name] = f"not run: wants {', '.join(absent)}"
            continue
        wanted = identity(recipe, data, source(), digests)
        states[name] = standing(record["recipes"].get(name), wanted)
        if not (args.list or states[name].startswith("kept")):
            info(f"{name}, about {recipe.minutes} minutes of one core")
            accept(name, recipe, data, wanted, record)
            entry = record["recipes"][name]
            states[name] = f"failed: {entry['why']}" if entry["why"] else "done"
    good = [name for name, told in states.items() if told.startswith(("done", "kept"))]
    print(table(states, record))
    if len(chosen) < len(RECIPES):
        print(f"{len(RECIPES) - len(chosen)} other recipes were not asked for")
    if against:
        print(changes(good, against, record))
    return int(not args.list and len(good) < len(chosen))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
