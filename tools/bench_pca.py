"""adapter-stage1's streaming PCA beside scikit-learn's on one table, and its memory on a table of Llama's size.

    uv run --no-sync python tools/bench_pca.py

The first table is 50,000 x 576 float32 in memory. Times are of the processor, so that other programs on the machine
count little, and all take turns; differences are the largest between components and those of scikit-learn on float64
rows. The second, 128,256 x 4,096 float16, is made on disk and read block by block in a process of its own, whose peak
memory is told.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import threadpoolctl
from record import add_json_option, beside_budget, beside_peer, write_comparisons
from sklearn.decomposition import PCA, IncrementalPCA

from adapter_stage1.compress import fit_pca

RATIO = 8
BLOCK = 8192
BUDGET_GIB = 6
"""Of the table on disk."""


def make_rows(count: int, width: int) -> Iterator[np.ndarray]:
    """Blocks (BLOCK, width) float32 of rows whose variances fall as those of an embedding table do."""
    chance = np.random.default_rng(0)
    scale = (1 / np.sqrt(np.arange(1, width + 1))).astype(np.float32)
    for begin in range(0, count, BLOCK):
        yield chance.standard_normal((min(BLOCK, count - begin), width), dtype=np.float32) * scale


def seconds(fit: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time, and what `fit` returned."""
    start = time.process_time()
    fitted = fit()
    return time.process_time() - start, fitted


def off(components: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference between components (K, D), whose signs are free."""
    signs = np.sign((components * exact).sum(axis=1, keepdims=True))
    return float(np.abs(components * signs - exact).max())


def fit_on_disk(path: Path) -> None:
    """Fit the table and print what it took as JSON."""
    start = time.process_time()
    table = np.load(path, mmap_mode="r")
    fit_pca((table[begin : begin + BLOCK] for begin in range(0, len(table), BLOCK)), table.shape[1] // RATIO)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.process_time() - start, "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--disk-rows", type=int, default=128_256, help="of the table on disk")
    add_json_option(parser)
    parser.add_argument("--on-disk", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    threadpoolctl.threadpool_limits(args.threads)
    if args.on_disk:
        fit_on_disk(args.on_disk)
        return
    table = np.concatenate(list(make_rows(50_000, 576)))
    width = table.shape[1] // RATIO
    precise = table.astype(np.float64)
    exact = PCA(width, svd_solver="covariance_eigh").fit(precise).components_
    own = "adapter-stage1"
    peers = {
        "PCA, float32": (PCA(width), table),
        "PCA, float64": (PCA(width), precise),
        "IncrementalPCA, float32": (IncrementalPCA(width, batch_size=BLOCK), table),
    }
    fits: dict[str, Callable[[], Any]] = {own: lambda: fit_pca(np.array_split(table, 7), width)}
    fits |= {name: partial(peer.fit, rows) for name, (peer, rows) in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in fits}
    components = {}
    for _ in range(args.repeats):
        for name, fit in fits.items():
            took, fitted = seconds(fit)
            times[name].append(took)
            components[name] = fitted.components if name == own else fitted.components_
    ours, shape = statistics.median(times[own]), f"{len(table):,} x {table.shape[1]}"
    print(f"{shape} to {width}: {ours:.2f} s, difference {off(components[own], exact):.1e}")
    for name in peers:
        theirs, difference = statistics.median(times[name]), off(components[name], exact)
        print(f"scikit-learn {sklearn.__version__} {name}: {theirs:.2f} s, {theirs / ours:.2f} x, {difference:.1e}")
    comparisons = [
        beside_peer(
            own, f"PCA of {shape}", "CPU-s", "lower", times[own], f"scikit-learn {name}", sklearn.__version__,
            times[name], args.threads,
        )
        for name in peers
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float16, (args.disk_rows, 4096))
        for number, block in enumerate(make_rows(*rows.shape)):
            rows[number * BLOCK : number * BLOCK + len(block)] = block
        rows.flush()
        command = [sys.executable, __file__, "--threads", str(args.threads), "--on-disk", str(path)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{rows.shape[0]:,} x {rows.shape[1]:,} float16 to {rows.shape[1] // RATIO}: {told['seconds']:.0f} s of the "
        f"processor, at most {told['peak_bytes'] / 2**30:.1f} GiB"
    )
    measure, peak = f"PCA of {rows.shape[0]:,} x {rows.shape[1]:,} on disk, peak", told["peak_bytes"] / 2**30
    comparisons.append(beside_budget(own, measure, "GiB", "lower", [peak], BUDGET_GIB, args.threads))
    write_comparisons(args.json, comparisons)


if __name__ == "__main__":
    main()
