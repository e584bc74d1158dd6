"""Diagnostics inside a PyTorch training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diag.finding import Verdict
from diag.loop_report import diversities, judge_records, publish, read_history
from diag.thresholds import Thresholds, load_thresholds

PROBE_ROWS = 16
SAMPLED = 1024
"""Values of a parameter that are remembered to measure its update."""

Forward = Callable[[nn.Module, Any], Tensor]


def generate_diagnostics_report(
    *,
    model: nn.Module,
    mpd: nn.Module | None = None,
    mrd: nn.Module | None = None,
    batch: Any = None,
    device: str | torch.device = "cpu",
    losses: Mapping[str, float | Tensor],
    prev_losses: Mapping[str, float | Tensor] | None = None,
    step: int,
    output_dir: str | Path,
    real: Tensor | None = None,
    generated: Tensor | None = None,
    forward: Forward | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[dict[str, float], Verdict]:
    """Measure a model in the middle of its training and judge what is seen, with what was seen at earlier calls.

    Call it every hundred steps or so, after `backward` and before the optimizer's step, while the gradients are there.
    Nothing of the training changes by it: modes, gradients, buffers and random states are as before. All figures come
    to the host in one transfer; on other steps nothing is computed at all.

    Args:
        model: the generator, or any model.
        mpd, mrd: discriminators, of a module that takes what the model makes; several outputs are averaged.
        batch: what `forward` takes: a tensor, or a sequence or mapping whose first tensor is the model's input. None
            leaves out whatever needs a forward pass.
        device: where the model is.
        losses: by name, of this step.
        prev_losses: those of the step before: judged as well where this is the first call.
        step: optimizer steps finished.
        output_dir: gets diagnostics.jsonl, a line a call, and diagnostics.json, the last report with its findings.
        real, generated: (B, ...) real things and the model's outputs for them, where the loop has them already; else
            the batch's first tensor and a forward pass of up to 16 rows of it.
        forward: calls the model on a batch; default: on the batch's first tensor.
        thresholds: default: those of `diag health`.

    Returns:
        Slash-named metrics, fit to be logged, and "healthy", "warning" or "critical".
    """
    output_dir = Path(output_dir)
    modules = {"model": model} | {name: module for name, module in (("mpd", mpd), ("mrd", mrd)) if module is not None}
    measured = dict(named_tensors("train", losses))
    measured |= norms(modules)
    measured |= updates(model, modules, step)
    if batch is not None or generated is not None:
        with probing(*modules.values()), torch.no_grad():
            measured |= outputs(model, modules, batch, device, real, generated, forward)
    metrics = to_host(measured)
    metrics |= diversities(metrics.pop("rows/real", None), metrics.pop("rows/generated", None))
    history = read_history(output_dir, step)
    if not history and prev_losses:
        history = [{"step": step - 1, **to_host(dict(named_tensors("train", prev_losses)))}]
    record = {"step": step, **metrics}
    health = judge_records([*history, record], output_dir, thresholds or load_thresholds())
    publish(output_dir, record, health)
    return metrics, health.verdict


def named_tensors(prefix: str, values: Mapping[str, float | Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        full = name if "/" in name else f"{prefix}/{name}"
        yield full, torch.as_tensor(value).detach().float().mean()


def parts_of(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by child module; by the module itself where it has no children."""
    children = {name: [p for p in child.parameters() if p.requires_grad] for name, child in module.named_children()}
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    parts = {name: parameters for name, parameters in children.items() if parameters}
    return parts | ({"own": own} if own else {})


def norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm over all of them, without leaving the device."""
    if not tensors:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


@torch.no_grad()
def norms(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Gradient and parameter norms of every child of every module, and of the whole."""
    found: dict[str, Tensor] = {}
    for name, module in modules.items():
        whole = []
        for part, parameters in parts_of(module).items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                found[f"grad_norm/{name}.{part}"] = norm(gradients)
                whole.append(found[f"grad_norm/{name}.{part}"])
            found[f"param_norm/{name}.{part}"] = norm([p.detach() for p in parameters])
        if whole:
            found[f"grad_norm/{name}"] = torch.linalg.vector_norm(torch.stack(whole))
    return found


@torch.no_grad()
def updates(model: nn.Module, modules: Mapping[str, nn.Module], step: int) -> dict[str, Tensor]:
    """Change of the weights a step since the last call over their norm, from up to 1,024 values of each parameter.

    A lower bound of the update-to-weight ratio, since updates cancel each other in part. The values of the last call
    are kept on the model, outside its state.
    """
    now = {
        f"{name}.{part}": torch.cat([sampled(p) for p in parameters])
        for name, module in modules.items()
        for part, parameters in parts_of(module).items()
    }
    before_step, before = model.__dict__.get("_diag_weights", (step, {}))
    model.__dict__["_diag_weights"] = (step, now)
    return {
        f"update_ratio/{name}": (values - before[name]).norm()
        / before[name].norm().clamp(min=1e-12)
        / (step - before_step)
        for name, values in now.items()
        if name in before and step > before_step
    }


def sampled(parameter: nn.Parameter) -> Tensor:
    """Up to `SAMPLED` values, evenly spread, as a copy."""
    flat = parameter.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLED)].float().clone()


@contextlib.contextmanager
def probing(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode meanwhile, and random states as they were: a probe must not change the training."""
    modes = {part: part.training for module in modules for part in module.modules()}
    devices = [p.device for module in modules for p in module.parameters() if p.device.type == "cuda"][:1]
    try:
        for module in modules:
            module.eval()
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def outputs(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Any,
    device: str | torch.device,
    real: Tensor | None,
    generated: Tensor | None,
    forward: Forward | None,
) -> dict[str, Tensor]:
    """The discriminators' outputs on real and generated things, how many units are dead, and rows to compare."""
    found: dict[str, Tensor] = {}
    if real is None and batch is not None:
        real = first_tensor(batch)
    real = None if real is None else real[:PROBE_ROWS].to(device)
    if generated is None:
        with active_units(model) as active:
            part = take(batch, PROBE_ROWS, device)
            generated = first_tensor(forward(model, part) if forward else model(first_tensor(part)))
        found |= {f"dead/{name}": 1 - share for name, share in active().items()}
    generated = generated[:PROBE_ROWS].detach()
    found["rows/generated"] = rows_of(generated)
    if real is None:
        return found
    found["rows/real"] = rows_of(real)
    for name, module in modules.items():
        if name == "model":
            continue
        for side, things in (("real", real), ("fake", generated)):
            scores = scores_of(module(things))
            found[f"disc/{name}/{side}"] = torch.stack([score.mean() for score in scores]).mean()
            found[f"disc/{name}/sign/{side}"] = torch.stack([score.sign().mean() for score in scores]).mean()
    return found


def scores_of(output: Any) -> list[Tensor]:
    """The logits in what a discriminator gives: a tensor, or (logits, features), each with one for each part."""
    if isinstance(output, Tensor):
        return [output.float()]
    first = output[0]
    return [first.float()] if isinstance(first, Tensor) else [score for part in first for score in scores_of(part)]


def first_tensor(value: Any) -> Tensor:
    """The first tensor in a batch or in a model's output."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return value


def take(batch: Any, rows: int, device: str | torch.device) -> Any:
    """The first rows of every tensor of a batch, on the device."""
    if isinstance(batch, Tensor):
        return batch[:rows].to(device)
    if isinstance(batch, Mapping):
        return {name: take(value, rows, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [take(value, rows, device) for value in batch]
    return batch


def rows_of(things: Tensor) -> Tensor:
    """(n, up to 4,096) features of a batch, evenly spread over all of them."""
    flat = things.detach().float().flatten(1)
    return flat[:, :: max(1, flat.shape[1] // 4096)]


@contextlib.contextmanager
def active_units(model: nn.Module) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Share of units that were above 0 for any row, by each ReLU of the model that ran meanwhile."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            units = output.detach().movedim(1, -1) if output.dim() > 2 else output.detach()
            seen[name] = (units.flatten(0, -2) > 0).any(0).float().mean()

        return hook

    hooks = [
        part.register_forward_hook(watch(name)) for name, part in model.named_modules() if isinstance(part, nn.ReLU)
    ]
    try:
        yield lambda: seen
    finally:
        for hook in hooks:
            hook.remove()


def to_host(measured: Mapping[str, Tensor]) -> dict[str, Any]:
    """All figures in one transfer: numbers for scalars, arrays for rows."""
    if not measured:
        return {}
    by_device: dict[torch.device, list[str]] = {}
    for name, value in measured.items():
        by_device.setdefault(value.device, []).append(name)
    found: dict[str, Any] = {}
    for names in by_device.values():
        flat = torch.cat([measured[name].flatten().double() for name in names]).cpu().numpy()
        at = 0
        for name in names:
            shape = measured[name].shape
            values = flat[at : at + shape.numel()]
            at += shape.numel()
            found[name] = values.reshape(shape) if shape else float(values[0])
    return {name: found[name] for name in measured}
