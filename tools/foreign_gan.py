"""Does `diag health` judge a training right that knows nothing of it?

    python tools/foreign_gan.py --out runs/foreign-gan

The public DCGAN example of PyTorch (github.com/pytorch/examples, dcgan/main.py, BSD-3-Clause): its networks, losses,
optimizers, loop and the names that it prints, on the handwritten digits that scikit-learn carries, at 32 x 32. It
writes a CSV and nothing else. Trained as it is, and with two faults: a generator whose step size is 2,000 times too
small, so that the discriminator wins, and a step size that is far too high for both. Prints verdicts and findings as
a Markdown table; --out gets the logs and a picture of the last digits of each. Exit status 1: one was judged wrong.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

LATENT, FILTERS, BATCH, RATE = 100, 16, 64, 2e-4
FAULTS = {
    "none": (RATE, RATE, ""),
    "idle generator": (RATE, RATE / 2000, "discriminator_dominates"),
    "step size 1": (1.0, 1.0, "frozen_loss"),
}
"""Step sizes of discriminator and generator, and the critical finding that names the fault."""


def generator() -> nn.Sequential:
    """(B, 100, 1, 1) -> (B, 1, 32, 32) in -1 to 1."""
    layers: list[nn.Module] = []
    widths = (LATENT, 4 * FILTERS, 2 * FILTERS, FILTERS)
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(FILTERS, 1, 4, 2, 1, bias=False), nn.Tanh())


def discriminator() -> nn.Sequential:
    """(B, 1, 32, 32) -> (B, 1, 1, 1) in 0 to 1."""
    layers: list[nn.Module] = [nn.Conv2d(1, FILTERS, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for inputs in (FILTERS, 2 * FILTERS):
        layers += [nn.Conv2d(inputs, 2 * inputs, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * inputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * FILTERS, 1, 4, 1, 0, bias=False), nn.Sigmoid())


def weights_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def digits() -> Tensor:
    """(1797, 1, 32, 32) in -1 to 1."""
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    return nn.functional.interpolate(images, size=32, mode="bilinear").clamp(-1, 1)


def train(images: Tensor, rate_d: float, rate_g: float, seed: int, steps: int, log: Path) -> None:
    """The example's loop; a row of the CSV a step, and a picture beside it at the end."""
    torch.manual_seed(seed)
    net_g, net_d = generator().apply(weights_init), discriminator().apply(weights_init)
    criterion = nn.BCELoss()
    optimizer_d = torch.optim.Adam(net_d.parameters(), rate_d, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(net_g.parameters(), rate_g, betas=(0.5, 0.999))
    real_label, fake_label = torch.ones(BATCH), torch.zeros(BATCH)
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "Loss_D", "Loss_G", "D(x)", "D(G(z))"])
        for iteration in range(1, steps + 1):
            real = images[torch.randint(len(images), (BATCH,))]
            net_d.zero_grad()
            output = net_d(real).view(-1)
            loss_real = criterion(output, real_label)
            loss_real.backward()
            d_x = output.mean().item()
            fake = net_g(torch.randn(BATCH, LATENT, 1, 1))
            output = net_d(fake.detach()).view(-1)
            loss_fake = criterion(output, fake_label)
            loss_fake.backward()
            d_g_z = output.mean().item()
            optimizer_d.step()
            net_g.zero_grad()
            loss_g = criterion(net_d(fake).view(-1), real_label)
            loss_g.backward()
            optimizer_g.step()
            writer.writerow([iteration, (loss_real + loss_fake).item(), loss_g.item(), d_x, d_g_z])
    with torch.no_grad():
        made = net_g(torch.randn(32, LATENT, 1, 1)).view(4, 8, 32, 32)
    grid = np.concatenate(np.concatenate(made.numpy(), 1), 1)
    matplotlib.image.imsave(log.with_suffix(".png"), grid, cmap="gray")


def judge(log: Path) -> tuple[str, list[str]]:
    """Verdict and the critical findings, as the command gives them."""
    command = [Path(sys.executable).with_name("diag"), "health", log, "--json"]
    health = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    return health["verdict"], [finding["name"] for finding in health["findings"] if finding["level"] == "critical"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images, wrong = digits(), 0
    print("| fault | seed | verdict | critical findings |\n| --- | ---: | --- | --- |")
    for fault, (rate_d, rate_g, expected) in FAULTS.items():
        for seed in arguments.seeds:
            log = arguments.out / f"{fault.replace(' ', '-')}-{seed}.csv"
            train(images, rate_d, rate_g, seed, arguments.steps, log)
            verdict, criticals = judge(log)
            wrong += expected not in criticals if expected else bool(criticals)
            print(f"| {fault} | {seed} | {verdict} | {', '.join(criticals) or '-'} |", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
