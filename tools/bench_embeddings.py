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
from record import add_json_option, beside_budget, write_comparisons

WIDTH, LABELS = 256, 1000
BUDGET_SECONDS, BUDGET_MEGABYTES = 2 * 60, 2000
"""Of 100,000 embeddings: a minute of two cores; no other program makes this report."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows, threads = arguments.rows, arguments.threads
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
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        _, status, usage = os.wait4(process.pid, 0)
        seconds, megabytes = time.perf_counter() - began, usage.ru_maxrss / 1024
        print(
            f"{rows:,} x {WIDTH}: {seconds:.1f} s, {usage.ru_utime:.1f} s of a core; "
            f"peak {megabytes:.0f} MB; exit status {os.waitstatus_to_exitcode(status)}"
        )
    measure = f"embeddings, {rows:,} x {WIDTH}"
    found = [
        beside_budget("diag", measure, "CPU-s", "lower", [usage.ru_utime + usage.ru_stime], BUDGET_SECONDS, threads),
        beside_budget("diag", f"{measure}, peak", "MB", "lower", [megabytes], BUDGET_MEGABYTES, threads),
    ]
    write_comparisons(arguments.json, found)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
