"""Several processes, one training: what they share after every backward pass.

Gradients are averaged by hand: a step calls each network several times, with parts of it frozen, which the hooks of
DistributedDataParallel don't follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainworks.console import UserError

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it takes them for dead."""


class LostProcess(UserError):
    """Another process of the job died or hangs."""


@dataclass(frozen=True)
class Team:
    """This process among the others; alone, everything is as if there were none."""

    rank: int = 0
    world: int = 1

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient the mean over all processes, so that it is that of one process on the whole batch."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.world == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._call(lambda: dist.all_reduce(flat))
        flat /= self.world
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            self._call(lambda: dist.all_reduce(values))
            values = values / self.world
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """(B, ...) of each process, one after the other in the order of ranks: (world * B, ...)."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        self._call(lambda: dist.all_gather(parts, rows.contiguous()))
        return torch.cat(parts)

    def any(self, flag: bool) -> bool:
        """Whether it holds for any process."""
        if self.world == 1:
            return flag
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        value = torch.tensor([float(flag)], device=device)
        self._call(lambda: dist.all_reduce(value, op=dist.ReduceOp.MAX))
        return bool(value.item())

    def first(self, action: Callable[[], Any]) -> Any:
        """What `action` gives on the writer, told to all; an error of it ends every process, said once."""
        if self.world == 1:
            return action()
        told: list[Any] = [None, None]
        if self.is_writer:
            try:
                told[0] = action()
            except UserError as error:
                told = [None, str(error)]
                self._call(lambda: dist.broadcast_object_list(told, src=0))
                raise
        self._call(lambda: dist.broadcast_object_list(told, src=0))
        if told[1] is not None:
            raise SystemExit(UserError.exit_status)
        return told[0]

    def _call(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:  # gloo and NCCL say it in many ways
            reason = str(error).partition("\n")[0]
            raise LostProcess(f"another process of the job died or hangs ({reason})") from None


@contextmanager
def join_team(ddp: bool, device: torch.device) -> Iterator[Team]:
    """The processes that torchrun started, or this one alone.

    Raises:
        UserError: `ddp` without torchrun, or torchrun without `ddp`.
    """
    launched = "WORLD_SIZE" in os.environ and "RANK" in os.environ
    if not ddp:
        if launched and int(os.environ["WORLD_SIZE"]) > 1:
            raise UserError("torchrun started several processes: give --ddp, or they would train the same run")
        yield Team()
        return
    if not launched:
        raise UserError("--ddp wants torchrun: torchrun --nproc_per_node=2 -m voice_gan train DATA --out RUN --ddp")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
