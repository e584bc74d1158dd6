"""Did a run go out of memory, and what to change so that it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.suite import Memory

_SAID = re.compile(
    "|".join(
        (
            r"CUDA out of memory",  # PyTorch, also in torch.OutOfMemoryError
            r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDA error: out of memory",
            r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
            r"HIP out of memory|MPS backend out of memory",
            r"ResourceExhaustedError|RESOURCE_EXHAUSTED: Out of memory|OOM when allocating tensor",  # TensorFlow, JAX
            r"DefaultCPUAllocator: (can't allocate|not enough) memory",  # PyTorch on a processor
            r"^(\w+\.)*_?(Array)?MemoryError\b|Unable to allocate .* for an array",  # Python, NumPy
            r"std::bad_alloc",
            r"^error: out of memory",  # the tools of this family
        )
    ),
    re.MULTILINE,
)


def said_out_of_memory(log: str) -> bool:
    """Whether a failed run's log has the message of a failed allocation."""
    return _SAID.search(log) is not None


def kernel_kills() -> int:
    """How many processes this machine's kernel has killed for memory since it started, in any control group; 0 where
    the kernel doesn't tell."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(found.group(1)) if found else 0


def smaller(memory: Memory, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that need less memory than `config` does, by dotted key.

    Args:
        memory: what may be halved or doubled.
        config: the recipe that was too large, by dotted key; keys that it lacks are left alone.

    Returns:
        None if nothing is left to change: no key is named, or all that may be halved is 1.
    """
    halved = {key: config[key] // 2 for key in memory.halve if _is_count(config.get(key)) and config[key] > 1}
    if memory.halve and not halved:
        return None
    doubled = {key: config[key] * 2 for key in memory.double if _is_count(config.get(key))}
    return halved | doubled or None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
