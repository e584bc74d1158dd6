"""How surely does `diag health` see faults, and how often does it cry wolf?

    python tools/calibrate_health.py --seeds 6000:6020 --healthy 6000:6020 --out runs/calibrate-health

Small real trainings, the healthy ones of each of `TASKS`, write a metrics.jsonl, one record a step, as any training
would. Into the faulty ones a fault is planted at a step that the seed draws, or later, when the training has won a
tenth of its first loss: where nothing was learned, a fault does no harm, and some even help. The log is judged as it
stood before that step, where anything critical is a false alarm, and then every 25 steps until the fault's own finding
is there. Widths, depths, learning rates, batch sizes and optimizers are drawn by the seed. Seeds below 6000 set the
thresholds; those from 6000 on were not looked at while they were set. Prints a Markdown table for the README and
writes results.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from diag.diversity import mean_distance
from diag.health import judge
from diag.read import Run, read_log
from diag.thresholds import load_thresholds
from trainworks.files import json_ready, write_json

STEPS, MOST_STEPS = 600, 3000
WITHIN = 200
Step = Callable[[int, bool], dict[str, float]]
"""(step, whether the fault is in force) -> the values of that step."""


@dataclass(frozen=True)
class Fault:
    """What is planted, into which tasks, and the critical findings that name it."""

    name: str
    tasks: tuple[str, ...]
    findings: tuple[str, ...]


FAULTS = [
    Fault("exploding gradients", ("digits", "sequence"), ("exploding_gradients", "diverging_loss", "not_finite")),
    Fault("vanishing gradients", ("digits", "sequence"), ("vanishing_gradients", "dead_layer")),
    Fault("learning rate too high", ("digits", "sequence"), ("diverging_loss", "exploding_gradients", "not_finite")),
    Fault("dead layer", ("digits",), ("dead_layer",)),
    Fault("label leak", ("digits",), ("label_leak",)),
    Fault("NaN", ("digits", "sequence", "gan-bce", "gan-hinge"), ("not_finite",)),
    Fault("stalled loader", ("digits", "gan-bce"), ("stalled_throughput",)),
    Fault("discriminator too strong", ("gan-bce", "gan-hinge", "gan-ls"), ("discriminator_dominates",)),
    Fault("collapse to one mode", ("gan-bce", "gan-hinge", "gan-ls"), ("mode_collapse",)),
]


@dataclass
class Outcome:
    """What was found in one training."""

    task: str
    fault: str
    seed: int
    onset: int
    false_alarms: list[str]
    found_after: int | None
    warnings: list[str]


def digits(rng: np.random.Generator, fault: str) -> Step:
    """Handwritten digits of scikit-learn by a perceptron."""
    images, labels = load_digits(return_X_y=True)
    x_ND, y_N = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x_ND))
    train, valid = order[:1400], order[1400:]
    width, depth, batch = int(rng.choice([48, 64, 128])), int(rng.integers(2, 5)), int(rng.choice([32, 64, 128]))
    sizes = [64, *[width] * depth]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
    model = nn.Sequential(*hidden, nn.Linear(width, 10))
    adam, noise, warm = bool(rng.integers(2)), float(rng.choice([0.0, 0.3])), int(rng.choice([1, 50, 150]))
    rate = float(10 ** (rng.uniform(-3.3, -2.5) if adam else rng.uniform(-1.9, -1.2)))
    optimizer = torch.optim.Adam(model.parameters(), rate) if adam else torch.optim.SGD(model.parameters(), rate, 0.9)
    modules = {f"layer{index}": layer for index, layer in enumerate(model)}
    noise_of = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def forward(inputs: Tensor, faulty: bool) -> Tensor:
        for index, layer in enumerate(model):
            inputs = layer(inputs)
            if index == depth - 1 and faulty and fault == "vanishing gradients":
                inputs = inputs * 1e-5  # a normalisation with the wrong scale
        return inputs

    def step(number: int, faulty: bool) -> dict[str, float]:
        too_high = 300 if faulty and fault == "learning rate too high" else 1
        optimizer.param_groups[0]["lr"] = rate * min(1.0, number / warm) * too_high
        picked = train[torch.randint(len(train), (batch,))]
        inputs = x_ND[picked] + noise * torch.randn(batch, 64, generator=noise_of)
        if faulty and fault == "exploding gradients":
            inputs = inputs * 255  # pixels that nobody scaled
        if faulty and fault == "NaN":
            inputs[0, 0] = math.nan
        if faulty and fault == "label leak":
            inputs[:, :10] = 10.0 * F.one_hot(y_N[picked], 10)
        if faulty and fault == "dead layer":
            with torch.no_grad():
                hidden[-1][0].bias.clamp_(max=-100.0)  # what one huge update leaves behind
        logits = forward(inputs, faulty)
        loss = F.cross_entropy(logits, y_N[picked])
        values = {"train/loss": loss.item(), "train/accuracy": accuracy(logits, y_N[picked])}
        values |= descend(optimizer, loss, modules)
        if number % 25 == 0:
            with torch.no_grad():
                logits = forward(x_ND[valid], faulty)
            values["valid/loss"] = F.cross_entropy(logits, y_N[valid]).item()
        return values

    return step


def accuracy(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(1) == target).float().mean())


def sequence(rng: np.random.Generator, fault: str) -> Step:
    """The next symbol of noisy periodic sequences, by a plain recurrent network with clipping."""
    symbols, length, width = 12, 24, int(rng.choice([32, 48]))
    batch, rate = int(rng.choice([16, 32])), float(10 ** rng.uniform(-3.0, -2.4))
    embed, rnn, head = nn.Embedding(symbols, 16), nn.RNN(16, width, batch_first=True), nn.Linear(width, symbols)
    modules: dict[str, nn.Module] = {"embed": embed, "rnn": rnn, "head": head}
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate)
    clip = float(rng.choice([1.0, 1e9]))

    def make() -> Tensor:
        period, start = torch.randint(2, 7, (batch, 1)), torch.randint(symbols, (batch, 1))
        walk = (start + (torch.arange(length + 1) % period) * 2) % symbols
        noisy = torch.rand(walk.shape) < 0.05
        return torch.where(noisy, torch.randint(symbols, walk.shape), walk)

    def step(number: int, faulty: bool) -> dict[str, float]:
        rows = make()
        if faulty and fault == "exploding gradients":
            with torch.no_grad():  # a recurrence of a spectral radius far above 1
                for weight in (rnn.weight_hh_l0, head.weight):
                    weight.mul_(4.0 / weight.norm().clamp(min=1e-6) * width**0.5)
        optimizer.param_groups[0]["lr"] = rate * (300 if faulty and fault == "learning rate too high" else 1)
        hidden = rnn(embed(rows[:, :-1]))[0]
        if faulty and fault == "vanishing gradients":
            hidden = hidden * 1e-5
        logits = head(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        if faulty and fault == "NaN":
            loss = loss + torch.log(torch.zeros(())) * 0
        return {"loss": loss.item(), **descend(optimizer, loss, modules, clip)}

    return step


def gan(rng: np.random.Generator, fault: str, objective: str) -> Step:
    """A ring of eight Gaussians (Metz et al. 2017), and two features that are zero in all."""
    width, batch, latent = int(rng.choice([64, 128])), int(rng.choice([64, 128])), int(rng.choice([2, 8]))
    generator = perceptron(latent, width, 2)
    discriminator = perceptron(4, width, 1)
    rate = float(10 ** rng.uniform(-3.3, -2.9))
    g_optimizer = torch.optim.Adam(generator.parameters(), rate, betas=(0.5, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), rate, betas=(0.5, 0.99))
    d_loss_of, g_loss_of = OBJECTIVES[objective]

    def padded(points: Tensor, flag: float = 0.0) -> Tensor:
        return torch.cat([points, torch.full_like(points, flag)], 1)

    def step(number: int, faulty: bool) -> dict[str, float]:
        angle = torch.randint(8, (batch,)) * (math.pi / 4)
        real = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(batch, 2)
        if faulty and fault == "NaN":
            real[0] = math.nan
        # Something that only real things carry, such as another normalisation: the generator cannot make it.
        flag = 1.0 if faulty and fault == "discriminator too strong" else 0.0
        noise = torch.randn(2, batch, latent)
        if faulty and fault == "collapse to one mode":
            noise[:] = noise[:, :1].clone()  # one draw for the whole batch: all outputs are the same
        with torch.no_grad():
            fake = generator(noise[0])
        on_real, on_fake = discriminator(padded(real, flag)), discriminator(padded(fake))
        d_loss = d_loss_of(on_real, on_fake)
        values = {"disc/loss": d_loss.item(), "disc/real": on_real.mean().item(), "disc/fake": on_fake.mean().item()}
        values |= {"grad_norm/disc": descend(d_optimizer, d_loss, {"disc": discriminator})["grad_norm/disc"]}
        fake = generator(noise[1])
        g_loss = g_loss_of(discriminator(padded(fake)))
        values |= {"gen/adv_loss": g_loss.item()}
        values |= {"grad_norm/gen": descend(g_optimizer, g_loss, {"gen": generator})["grad_norm/gen"]}
        if number % 10 == 0:
            values |= {
                "diversity/output": mean_distance(fake.detach().numpy()),
                "diversity/input": mean_distance(real.numpy()),
            }
        return values

    return step


OBJECTIVES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "bce": (lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(), lambda f: F.softplus(-f).mean()),
    "hinge": (lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), lambda f: -f.mean()),
    "ls": (lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(), lambda f: ((f - 1) ** 2).mean()),
}
TASKS: dict[str, Callable[[np.random.Generator, str], Step]] = {
    "digits": digits,
    "sequence": sequence,
    "gan-bce": lambda rng, fault: gan(rng, fault, "bce"),
    "gan-hinge": lambda rng, fault: gan(rng, fault, "hinge"),
    "gan-ls": lambda rng, fault: gan(rng, fault, "ls"),
}


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
        nn.Linear(width, outputs),
    )  # fmt: skip


def descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, modules: dict[str, nn.Module], clip: float = 1e9
) -> dict[str, float]:
    """One step; the gradient norms before clipping."""
    optimizer.zero_grad()
    loss.backward()
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    norms = {f"grad_norm/{name}": grad_norm(module) for name, module in modules.items()}
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return norms | {"grad_norm": math.hypot(*norms.values())}


def grad_norm(module: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None))


def train(task: str, fault: str, seed: int, log: Path) -> int:
    """Write the log of one training; returns the onset of the fault, 0 for none."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    earliest = int(rng.integers(150, 400)) if fault else 0
    step = TASKS[task](rng, fault)
    began, usual, onset, losses = time.perf_counter(), 0.0, 0, []
    with open(log, "w") as file:
        for number in itertools.count(1):
            if fault and not onset and number >= earliest and has_learned(losses):
                onset, usual = number, (time.perf_counter() - began) / number
            if onset and fault == "stalled loader":
                time.sleep(max(0.03, 20 * usual))
            values = step(number, onset > 0)
            losses += [value for name, value in values.items() if name in ("loss", "train/loss")]
            record = {"step": number, "time": time.perf_counter() - began, **values}
            file.write(json.dumps(json_ready(record)) + "\n")
            if number == STEPS if not fault else onset and number == onset + WITHIN:
                return onset
            if number == MOST_STEPS:
                raise RuntimeError(f"{task} learns nothing with seed {seed}")
    raise AssertionError


def has_learned(losses: list[float]) -> bool:
    """Whether the mean of the last losses is a tenth below that of the first; of GANs, which log none, always."""
    return not losses or float(np.mean(losses[-20:])) < 0.9 * float(np.mean(losses[:5]))


def criticals(log: Path, until: int) -> tuple[list[str], list[str]]:
    """Names of the critical findings and of the warnings on the log as it stood after step `until`."""
    health = judge(Run(log, log.stem, "", None, read_log(log).until(until)), load_thresholds())
    return tuple([f.name for f in health.findings if f.level == level] for level in ("critical", "warning"))  # type: ignore[return-value]


def try_one(task: str, fault: Fault | None, seed: int, folder: Path) -> Outcome:
    name = fault.name if fault else ""
    log = folder / f"{task}-{(name or 'healthy').replace(' ', '-')}-{seed}.jsonl"
    onset = train(task, name, seed, log)
    if fault is None:
        # While it runs and at its end: a watcher looks all the time.
        looks = [criticals(log, until) for until in range(100, STEPS + 1, 50)]
        alarms = sorted({alarm for look in looks for alarm in look[0]})
        return Outcome(task, "", seed, 0, alarms, None, looks[-1][1])
    alarms, warnings = criticals(log, onset - 1)
    after = None
    for later in range(25, WITHIN + 1, 25):
        if set(criticals(log, onset + later - 1)[0]) & set(fault.findings):
            after = later
            break
    return Outcome(task, name, seed, onset, alarms, after, warnings)


def table(outcomes: list[Outcome]) -> str:
    """Markdown: detection by fault, false alarms by task."""
    lines = ["| planted fault | found within 200 steps | median steps until found |", "| --- | --- | --- |"]
    for fault in FAULTS:
        mine = [outcome for outcome in outcomes if outcome.fault == fault.name]
        after = [outcome.found_after for outcome in mine if outcome.found_after is not None]
        if mine:
            lines.append(f"| {fault.name} | {len(after)} of {len(mine)} | {np.median(after) if after else '-'} |")
    healthy = [outcome for outcome in outcomes if not outcome.fault]
    alarmed = [outcome for outcome in healthy if outcome.false_alarms]
    before = [outcome for outcome in outcomes if outcome.fault and outcome.false_alarms]
    warned = [outcome for outcome in healthy if outcome.warnings]
    lines += [
        "",
        f"Healthy trainings: {len(healthy)}; with a false critical finding at any of 11 looks: {len(alarmed)}; "
        f"with a warning at the end: {len(warned)}. Faulty ones with a critical finding before the fault: "
        f"{len(before)} of {len(outcomes) - len(healthy)}.",
    ]
    return "\n".join(lines)


def span(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=range(6000, 6020), help="of each fault, over its tasks in turn")
    parser.add_argument("--healthy", type=span, default=range(6000, 6020), help="of each task without a fault")
    parser.add_argument("--only", default="", help="a fault, or healthy")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logs = arguments.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for fault in FAULTS:
        if arguments.only in ("", fault.name):
            for index, seed in enumerate(arguments.seeds):
                outcomes.append(try_one(fault.tasks[index % len(fault.tasks)], fault, seed, logs))
            missed = [f"{o.task} {o.seed}" for o in outcomes if o.fault == fault.name and o.found_after is None]
            print(f"{fault.name}: missed {missed}", flush=True)
    if arguments.only in ("", "healthy"):
        for task in TASKS:
            for seed in arguments.healthy:
                outcomes.append(try_one(task, None, seed, logs))
            print(task, Counter(name for o in outcomes if o.task == task for name in o.false_alarms), flush=True)
    write_json(arguments.out / "results.json", [asdict(outcome) for outcome in outcomes])
    print(table(outcomes))


if __name__ == "__main__":
    main()
