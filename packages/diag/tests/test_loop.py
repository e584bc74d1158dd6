"""The report inside a PyTorch loop: right figures, right verdict, and a training that does not notice it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diag import generate_diagnostics_report
from diag.diversity import mean_distance, vendi_score


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.decoder = nn.Linear(8, 4)

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.decoder(self.encoder(x_BD))


class MultiScale(nn.Module):
    """Gives (logits of each part, features), as discriminators of sound do."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])

    def forward(self, x_BD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [part(x_BD) for part in self.parts], [x_BD]


def train(folder: Path | None, steps: int = 6) -> tuple[list[float], nn.Module]:
    """Losses and model of a small training, with a report at every second step where a folder is given."""
    torch.manual_seed(0)
    model, critic = Generator(), MultiScale()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(1, steps + 1):
        x_BD = torch.randn(32, 4)
        optimizer.zero_grad()
        loss = (model(x_BD) - x_BD).square().mean()
        loss.backward()
        if folder is not None and step % 2 == 0:
            generate_diagnostics_report(
                model=model, mpd=critic, batch=x_BD, losses={"loss": loss}, step=step, output_dir=folder
            )
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def test_the_training_does_not_notice(tmp_path: Path) -> None:
    alone, model = train(None)
    watched, same = train(tmp_path)
    assert watched == alone
    for (name, value), other in zip(model.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert all(part.training for part in same.modules())


@pytest.fixture
def stepped() -> tuple[Generator, MultiScale, Tensor, Tensor]:
    """A model and a discriminator after a backward pass: (model, discriminator, batch, loss)."""
    torch.manual_seed(1)
    model, critic, x_BD = Generator(), MultiScale(), torch.randn(32, 4)
    loss = (model(x_BD) - x_BD).square().mean()
    loss.backward()
    return model, critic, x_BD, loss


def test_figures_are_those_of_the_tensors(
    tmp_path: Path, stepped: tuple[Generator, MultiScale, Tensor, Tensor]
) -> None:
    model, critic, x_BD, loss = stepped
    metrics, status = generate_diagnostics_report(
        model=model, mpd=critic, batch=(x_BD, None), losses={"adv": loss}, step=100, output_dir=tmp_path
    )
    assert status == "healthy"
    assert metrics["train/adv"] == pytest.approx(loss.item())
    gradient = torch.cat([p.grad.flatten() for p in model.encoder.parameters() if p.grad is not None])
    assert metrics["grad_norm/model.encoder"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    weights = torch.cat([p.detach().flatten() for p in model.decoder.parameters()])
    assert metrics["param_norm/model.decoder"] == pytest.approx(weights.norm().item(), rel=1e-5)
    with torch.no_grad():
        of_real = torch.stack([part(x_BD[:16]).mean() for part in critic.parts]).mean()
        model.eval()
        generated = model(x_BD[:16])
    assert metrics["disc/mpd/real"] == pytest.approx(of_real.item(), abs=1e-5)
    assert metrics["diversity/output"] == pytest.approx(torch.pdist(generated).mean().item(), rel=1e-5)
    assert metrics["diversity/input"] == pytest.approx(torch.pdist(x_BD[:16]).mean().item(), rel=1e-5)
    assert 0 <= metrics["dead/encoder.2"] <= 1
    assert json.loads((tmp_path / "diagnostics.json").read_text())["verdict"] == "healthy"


def test_an_update_is_measured_a_step(tmp_path: Path, stepped: tuple[Generator, MultiScale, Tensor, Tensor]) -> None:
    model = stepped[0]
    generate_diagnostics_report(model=model, losses={}, step=100, output_dir=tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    metrics, _ = generate_diagnostics_report(model=model, losses={}, step=110, output_dir=tmp_path)
    assert metrics["update_ratio/model.decoder"] == pytest.approx(0.5 / 10, rel=1e-5)


def test_nan_is_critical_at_the_first_call_and_at_a_later_one(
    tmp_path: Path, stepped: tuple[Generator, MultiScale, Tensor, Tensor]
) -> None:
    model, _, x_BD, _ = stepped
    _, status = generate_diagnostics_report(
        model=model, losses={"loss": float("nan")}, prev_losses={"loss": 1.0}, step=1, output_dir=tmp_path / "first"
    )
    assert status == "critical"
    for step, value in enumerate((1.0, 0.9, float("nan")), start=1):
        _, status = generate_diagnostics_report(
            model=model, batch=x_BD, losses={"loss": value}, step=step, output_dir=tmp_path / "later"
        )
    assert status == "critical"


@pytest.mark.parametrize("fault", ["exploding_gradients", "mode_collapse", "dead_layer"])
def test_faults_are_found_within_two_reports(
    tmp_path: Path, stepped: tuple[Generator, MultiScale, Tensor, Tensor], fault: str
) -> None:
    model, critic, x_BD, _ = stepped
    for report in range(1, 11):
        if report == 9:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.mul_({"exploding_gradients": 1e4, "dead_layer": 0.0}.get(fault, 1.0))
        generated = x_BD.roll(1, 0) * (1e-3 if fault == "mode_collapse" and report >= 9 else 1.0)
        _, status = generate_diagnostics_report(
            model=model, mpd=critic, batch=x_BD, generated=generated, losses={"loss": 1.0}, step=100 * report,
            output_dir=tmp_path,
        )  # fmt: skip
        if report == 8:
            assert status != "critical"
    assert status == "critical"
    findings = json.loads((tmp_path / "diagnostics.json").read_text())["findings"]
    assert fault in [finding["name"] for finding in findings]


def test_a_resumed_training_forgets_what_comes_again(
    tmp_path: Path, stepped: tuple[Generator, MultiScale, Tensor, Tensor]
) -> None:
    for step in (100, 200, 100):
        generate_diagnostics_report(model=stepped[0], losses={"loss": 1.0}, step=step, output_dir=tmp_path)
    assert json.loads((tmp_path / "diagnostics.json").read_text())["findings"] == []


def test_diversity_of_known_sets() -> None:
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert mean_distance(square) == pytest.approx((4 + 2 * 2**0.5) / 6)
    assert vendi_score(100 * square, bandwidth=1.0) == pytest.approx(4)
    assert vendi_score(0 * square, bandwidth=1.0) == pytest.approx(1)
    assert vendi_score(np.repeat(100 * square[:2], 5, axis=0), bandwidth=1.0) == pytest.approx(2)
