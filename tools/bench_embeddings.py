"""Time and memory of `diag embeddings` on 100,000 embeddings of 256 numbers with 1,000 labels, plots and all.

python tools/bench_embeddings.py [--rows 100000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, LABELS = 256, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    rng = np.random.default_rng(0)
    labels = rng.integers(LABELS, size=rows)
    centres = rng.normal(size=(LABELS, WIDTH))
    embeddings = centres[labels] + rng.normal(scale=2, size=(rows, WIDTH)) + 1  # with a common direction
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "embeddings.npz"
        np.savez(source, embeddings=embeddings.astype(np.float32), labels=np.char.mod("speaker %d", labels))
        program = "from diag.cli import main; main()"
        command = [sys.executable, "-c", program, "embeddings", str(source), "--out", str(Path(folder) / "report")]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        print(
            f"{rows:,} x {WIDTH}: {time.perf_counter() - began:.1f} s, {usage.ru_utime:.1f} s of a core; "
            f"peak {usage.ru_maxrss / 1024:.0f} MB; exit status {os.waitstatus_to_exitcode(status)}"
        )


if __name__ == "__main__":
    main()
