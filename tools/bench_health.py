"""Time and memory of `diag health` on 1,000,000 records of ten numbers, 300 MB.

python tools/bench_health.py [--records 1000000]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import add_json_option, beside_budget, write_comparisons

NAMES = ("train/loss", "train/g_loss", "train/d_loss", "train/grad_norm", "disc/mpd/real", "disc/mpd/fake", "train/lr")
BUDGET_SECONDS, BUDGET_MEGABYTES = 10, 500
"""Of a million records; no other program judges such a log."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    records, threads = arguments.records, arguments.threads
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "metrics.jsonl"
        random.seed(0)
        with open(log, "w") as file:
            for step in range(records):
                values = {name: random.gauss(1, 0.1) for name in NAMES}
                record = {"step": step + 1, "epoch": step / 1000, "time": round(step * 0.05, 3), **values}
                file.write(json.dumps(record) + "\n")
        command = [sys.executable, "-c", "from diag.cli import main; main()", "health", str(log)]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        megabytes = log.stat().st_size / 1e6
        print(
            f"{megabytes:.0f} MB, {records:,} records: {seconds:.1f} s, {usage.ru_utime:.1f} s of a core; "
            f"peak {usage.ru_maxrss / 1024:.0f} MB; exit status {os.waitstatus_to_exitcode(status)}"
        )
    measure = f"health of {records:,} records"
    found = [
        beside_budget("diag", measure, "CPU-s", "lower", [usage.ru_utime + usage.ru_stime], BUDGET_SECONDS, threads),
        beside_budget("diag", f"{measure}, peak", "MB", "lower", [usage.ru_maxrss / 1024], BUDGET_MEGABYTES, threads),
    ]
    write_comparisons(arguments.json, found)
    if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: the log is judged critical
        sys.exit(1)


if __name__ == "__main__":
    main()
