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

NAMES = ("train/loss", "train/g_loss", "train/d_loss", "train/grad_norm", "disc/mpd/real", "disc/mpd/fake", "train/lr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records
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
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        megabytes = log.stat().st_size / 1e6
        print(
            f"{megabytes:.0f} MB, {records:,} records: {seconds:.1f} s, {usage.ru_utime:.1f} s of a core; "
            f"peak {usage.ru_maxrss / 1024:.0f} MB; exit status {os.waitstatus_to_exitcode(status)}"
        )


if __name__ == "__main__":
    main()
