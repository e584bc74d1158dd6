"""What `ablate run` adds to each run: a suite of trivial variants, beside starting the same processes by hand.

    python tools/bench_scheduling.py [--variants 500] [--jobs 1]

The command of the suite is a shell line that writes a finished run.json and a line of metrics. It is started so many
times by subprocess alone, one after another, then by `ablate run`; the difference, divided by the number, is what
scheduling costs.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from record import add_json_option, beside_budget, write_comparisons

from ablate.plan import Options
from ablate.run import prepare_run, run_suite
from trainworks.console import set_quiet

BUDGET_MS = 20
"""Of scheduling, a run; a loop that only starts processes has none of it."""
TRAINER = """#!/bin/sh
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"
echo '{"step": 1, "epoch": 1, "time": 0.01, "score": 1}' > "$2/metrics.jsonl"
echo '{"status": "finished", "result": {"score": 1}}' > "$2/run.json"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    add_json_option(parser)
    given = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        trainer = root / "trainer.sh"
        trainer.write_text(TRAINER)
        trainer.chmod(0o755)
        began = time.monotonic()
        for index in range(given.variants):
            subprocess.run([str(trainer), "--seed", "0", "--out", str(root / "bare" / str(index))], check=True)
        bare = (time.monotonic() - began) / given.variants
        variants = "".join(
            f'[variants.v{index}]\npurpose = "-"\nset.x = {index}\n' for index in range(given.variants - 1)
        )
        suite = root / "suite.toml"
        suite.write_text(f'command = "{trainer}"\n[metrics]\nscore.direction = "max"\n{variants}')
        options = Options(str(suite), out=root / "out", seeds=1, jobs=given.jobs)
        began = time.monotonic()
        plan = prepare_run(options)
        checked = time.monotonic() - began
        began = time.monotonic()
        run_suite(plan, options, quiet=True)
        scheduled = (time.monotonic() - began) / given.variants
    added = 1000 * (scheduled * given.jobs - bare)
    print(
        f"{given.variants} runs, {given.jobs} at once: {1000 * bare:.1f} ms each by hand, {1000 * scheduled:.1f} ms by "
        f"ablate: {added:.1f} ms of scheduling each; checking the suite took "
        f"{checked:.2f} s",
    )
    measure = f"scheduling a run, {given.variants} runs, {given.jobs} at once"
    write_comparisons(given.json, [beside_budget("ablate", measure, "ms", "lower", [added], BUDGET_MS, 1)])


if __name__ == "__main__":
    main()
