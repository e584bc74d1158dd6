"""What a PyTorch loop needs. Only tools that use PyTorch import this module."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from trainworks.console import NonFinite, UserError
from trainworks.files import atomic_write
from trainworks.seeding import derive
from trainworks.threads import choose_threads


def resolve_device(name: str) -> torch.device:
    """The device for "auto" (CUDA where there is one, else the CPU), "cpu" or "cuda".

    Raises:
        UserError: CUDA was asked for and is not there, or the name is another.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f'--device is auto, cpu or cuda, not "{name}"')
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def set_threads(threads: int | None = None) -> int:
    """Set PyTorch's compute threads, as `choose_threads` says, and return their number."""
    threads = choose_threads(threads)
    torch.set_num_threads(threads)
    return threads


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for the stream called `names`, unrelated to PyTorch's global one."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def seed_torch(seed: int, *names: str | int) -> None:
    """Reseed PyTorch's global generators (dropout draws from them) for the stream called `names`.

    A loop calls it at each step with the step's number; then there is no random state to save.
    """
    torch.manual_seed(derive(seed, *names))


def save_weights(path: str | Path, module: torch.nn.Module) -> None:
    """Publish a module's parameters and buffers as safetensors; tied ones are stored under each name."""
    # Contiguous copies in memory first: the disk then fails in Python, as an OSError that says why.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    atomic_write(path, safetensors.torch.save(tensors))


def load_weights(path: str | Path, module: torch.nn.Module) -> None:
    """Load what `save_weights` wrote.

    Raises:
        UserError: no such file, a damaged file, or weights of another architecture.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UserError(f"no weights at {path}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path} holds weights of another model: {error}") from None


def save_state(path: str | Path, state: Any) -> None:
    """Publish optimizer and loop state: tensors, numbers, strings and containers of them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, buffer.getvalue())


def load_state(path: str | Path, device: str | torch.device = "cpu") -> Any:
    """Load what `save_state` wrote; nothing but plain data and tensors is ever unpickled.

    Raises:
        UserError: no such file, or one that is damaged or holds anything else.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no loop state at {path}") from None
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and more for bad bytes
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged or not a state file: {reason}") from None


def check_finite(
    value: torch.Tensor | float, *, name: str, step: int, batch: Any = None, checkpoint: Path | None = None
) -> None:
    """Stop training before the optimizer step if a loss or gradient norm is NaN or infinite.

    Args:
        value: any shape; every element is looked at.
        name: what it is, such as "loss" or "gradient norm".
        step: optimizer steps finished.
        batch: what tells the batch apart for the reader (an index, row numbers).
        checkpoint: the last good one.

    Raises:
        NonFinite: names the step, the batch and the last good checkpoint.
    """
    value = torch.as_tensor(value)
    if torch.isfinite(value).all():
        return
    shown = f" {value.item()}" if value.numel() == 1 else ""
    where = f"step {step}" if batch is None else f"step {step}, batch {batch}"
    saved = f"last good checkpoint: {checkpoint}" if checkpoint else "no checkpoint was saved yet"
    raise NonFinite(f"non-finite {name}{shown} at {where}; {saved}; a lower learning rate may help")
