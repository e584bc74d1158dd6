"""One seed for everything: each use derives its own stream from the run's seed and a name.

A stream depends only on (seed, names), so a loop that derives one for each step has no random state to save.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`: the same on every machine, unrelated between streams."""
    path = json.dumps([seed, *names], ensure_ascii=True).encode()
    return int.from_bytes(hashlib.sha256(path).digest()[:8], "big") >> 1


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called `names`, such as `rng(seed, "shuffle", epoch)`."""
    import numpy as np

    return np.random.default_rng(derive(seed, *names))
