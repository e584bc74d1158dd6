"""A manifest for `voice-gan prepare` of recordings named as LibriSpeech's and VCTK's are.

    python tools/speech_manifest.py shared/speech --out manifest.csv

The reader is what stands before the first "-" (103-1240-0000.flac) or "_" (p227_019.wav) of a file's name.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from pathlib import Path

from trainworks.files import atomic_write

NAME = re.compile(r"(\d+)-\d+-\d+\.flac|(p\d+)_\d+\.wav")


def recordings(folder: Path) -> list[tuple[Path, str]]:
    """Absolute path and speaker of each, in order."""
    named = [(path.resolve(), NAME.fullmatch(path.name)) for path in sorted(folder.rglob("*.*"))]
    return [(path, found.group(1) or found.group(2)) for path, found in named if found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = recordings(args.folder)
    if not found:
        print(f"error: {args.folder} has no recording named 103-1240-0000.flac or p227_019.wav", file=sys.stderr)
        return 2
    text = io.StringIO()
    csv.writer(text).writerows([("path", "speaker"), *found])
    atomic_write(args.out, text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
