"""Is what `ablate` says of a suite true? Simulated suites whose effects are known, judged as real ones are.

    python tools/simulate_suites.py [--suites 2000] [--variants 10] [--seeds 3 5 10] [--noise normal laplace skewed]

A run's metric is its variant's effect plus what its seed does to all variants plus noise of its own. Of the variants
four in ten have no effect, the others one of 1, 2 or 4 standard deviations of that noise, of either sign. Prints a
table: how often at least one variant without effect is said to have one, how often the 95 % intervals hold the true
difference, and how many effects of each size are found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ablate.compare import judge

EFFECTS = (0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)
"""In standard deviations of a run's own noise; taken in turn by the variants."""
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(scale=np.sqrt(0.5), size=shape),
    "skewed": lambda rng, shape: rng.gamma(2.0, size=shape) / np.sqrt(2) - np.sqrt(2),
}
"""Of mean 0 and standard deviation 1. Differences of two skewed ones are symmetric, if the noise is the same."""


@dataclass(frozen=True)
class Simulated:
    """Shares over the simulated suites.

    Attributes:
        false_positive_rate: suites in which a variant without effect was said to help or to hurt.
        wrong_sign_rate: suites in which a variant was said to hurt that helps, or the other way round.
        t_coverage, bootstrap_coverage: intervals that hold the true difference; NaN where there are none.
        found: by size of the effect, the share of variants that were found.
    """

    false_positive_rate: float
    wrong_sign_rate: float
    t_coverage: float
    bootstrap_coverage: float
    found: dict[float, float]


def simulate(
    num_suites: int, num_seeds: int, num_variants: int = len(EFFECTS), noise: str = "normal", seed: int = 0
) -> Simulated:
    """Judge so many suites of `num_variants` variants beside the baseline."""
    rng = np.random.default_rng(seed)
    effects = [EFFECTS[index % len(EFFECTS)] for index in range(num_variants)]
    false_positives, wrong_signs = [], []
    covered_by_t, covered_by_bootstrap = [], []
    found: dict[float, list[bool]] = {abs(effect): [] for effect in effects if effect}
    for _ in range(num_suites):
        common_S = 2 * rng.normal(size=num_seeds)
        own_VS = NOISE[noise](rng, (num_variants + 1, num_seeds))
        metric_VS = np.array([0.0, *effects])[:, None] + common_S + own_VS
        values = {str(index): dict(enumerate(metric_S)) for index, metric_S in enumerate(metric_VS.tolist())}
        judged = judge(values, baseline="0", direction="max")
        positives, signs = [], []
        for effect, (test, _, verdict) in zip(effects, judged.values(), strict=True):
            if effect:
                found[abs(effect)].append(verdict == ("helps" if effect > 0 else "hurts"))
                signs.append(verdict == ("hurts" if effect > 0 else "helps"))
            else:
                positives.append(verdict in ("helps", "hurts"))
            for interval, covered in (
                (test.t_interval, covered_by_t),
                (test.bootstrap_interval, covered_by_bootstrap),
            ):
                if interval is not None:
                    covered.append(interval[0] <= effect <= interval[1])
        false_positives.append(any(positives))
        wrong_signs.append(any(signs))
    return Simulated(
        _share(false_positives),
        _share(wrong_signs),
        _share(covered_by_t),
        _share(covered_by_bootstrap),
        {size: _share(hits) for size, hits in found.items()},
    )


def _share(hits: list[bool]) -> float:
    return float(np.mean(hits)) if hits else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=2000)
    parser.add_argument("--variants", type=int, default=len(EFFECTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--noise", nargs="+", choices=NOISE, default=list(NOISE))
    given = parser.parse_args()
    print("| noise | seeds | false positives | wrong sign | t interval | bootstrap | effect 1 sd | 2 sd | 4 sd |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for noise in given.noise:
        for seeds in given.seeds:
            outcome = simulate(given.suites, seeds, given.variants, noise)
            shares = [
                outcome.false_positive_rate,
                outcome.wrong_sign_rate,
                outcome.t_coverage,
                outcome.bootstrap_coverage,
                *outcome.found.values(),
            ]
            told = " | ".join("-" if np.isnan(share) else f"{share:.3f}" for share in shares)
            print(f"| {noise} | {seeds} | {told} |", flush=True)


if __name__ == "__main__":
    main()
