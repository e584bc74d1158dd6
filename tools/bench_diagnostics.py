"""What `generate_diagnostics_report` costs a training of a 10 M-parameter model that calls it every 100 steps.

    python tools/bench_diagnostics.py [--device cuda]

Median seconds of a training step (forward, backward, Adam; a batch of 32) and of a report, in turns. The budget is 1 %
of the time of training: a report may cost as much as one step.
"""

import argparse
import statistics
import tempfile
import time

import torch
from record import add_json_option, beside_budget, write_comparisons
from torch import nn

from diag import generate_diagnostics_report

EVERY = 100
"""Steps between reports."""
BUDGET_PERCENT = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(512, 512)).to(device)
    critic = nn.Linear(512, 1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    batch = torch.randn(32, 64, 512, device=device)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    steps, reports = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            began = clock()
            optimizer.zero_grad()
            output = model(batch)
            loss = output.square().mean()
            loss.backward()
            optimizer.step()
            steps.append(clock() - began)
            began = clock()
            generate_diagnostics_report(
                model=model, mpd=critic, batch=batch, device=device, losses={"loss": loss}, step=EVERY * (number + 1),
                output_dir=folder,
            )  # fmt: skip
            reports.append(clock() - began)
    step, report = statistics.median(steps), statistics.median(reports)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{count / 1e6:.1f} M parameters on {device}: a step {1000 * step:.0f} ms, a report {1000 * report:.0f} ms: "
        f"{100 * report / step / EVERY:.2f} % of the time when called every {EVERY} steps"
    )
    shares = [100 * told / trained / EVERY for trained, told in zip(steps, reports, strict=True)]
    measure = f"report every {EVERY} steps of a {count / 1e6:.0f} M model, share of time"
    write_comparisons(
        arguments.json, [beside_budget("diag", measure, "%", "lower", shares, BUDGET_PERCENT, arguments.threads)]
    )


if __name__ == "__main__":
    main()
