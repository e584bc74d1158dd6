"""How many prompts fit through the language model together."""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST_SHARE = 0.9
"""Of a device's memory that a step may use."""


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest tried batch that fits: 1, 2, 4 and so on up to the limit; 1 if none does.

    Args:
        fits: tries a batch of that size.
    """
    size = 1
    while size < limit and fits(min(2 * size, limit)):
        size = min(2 * size, limit)
    return size


def fits_memory(step: Callable[[], None], device: torch.device) -> bool:
    """Whether a step runs on a CUDA device within `MOST_SHARE` of its memory; what it allocated is given back."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        step()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    used = torch.cuda.max_memory_reserved(device)
    return used <= MOST_SHARE * torch.cuda.get_device_properties(device).total_memory
