"""The objectives against plain loops, and what balancing keeps in sight."""

import math

import pytest
import torch
import torch.nn.functional as F

from adapter_stage1.losses import Balance, distill_loss, hidden_loss, next_token_loss, recon_loss, token_ce_loss

B, S, V, D = 3, 6, 11, 5
LENGTHS = (6, 4, 2)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def is_token():
    return torch.arange(S) < torch.tensor(LENGTHS)[:, None]


def test_recon_is_the_mean_over_positions_of_squared_errors_per_number():
    rebuilt, true = torch.randn(4, D), torch.randn(4, D)
    positions = [0, 0, 0, 1, 2, 2, 3, 3]  # a token that occurs three times counts three times
    counts = torch.tensor([3.0, 1.0, 2.0, 2.0])
    wanted = sum(float((rebuilt[n] - true[n]).square().mean()) for n in positions) / len(positions)
    assert recon_loss(rebuilt, true, counts / counts.sum()).item() == pytest.approx(wanted, rel=1e-6)


def test_token_ce_is_the_negative_log_probability_of_the_true_row():
    logits, rows, weights = torch.randn(4, 7), torch.tensor([3, 0, 6, 3]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    wanted = 0.0
    for weight, line, row in zip(weights.tolist(), logits.tolist(), rows.tolist(), strict=True):
        wanted -= weight * math.log(math.exp(line[row]) / sum(map(math.exp, line)))
    assert token_ce_loss(logits, rows, weights).item() == pytest.approx(wanted, rel=1e-5)


def test_next_token_judges_each_token_by_the_logits_before_it():
    logits, tokens = torch.randn(B, S, V), torch.randint(V, (B, S))
    losses = [
        -logits[b, s - 1].log_softmax(0)[tokens[b, s]] for b, length in enumerate(LENGTHS) for s in range(1, length)
    ]
    found = next_token_loss(logits, tokens, is_token())
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_next_token_takes_nothing_from_what_is_no_target():
    logits, tokens = torch.randn(B, S, V, requires_grad=True), torch.randint(V, (B, S))
    is_answer = is_token() & (torch.arange(S) >= 2)
    next_token_loss(logits, tokens, is_answer).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(-1) > 0
    assert touched.tolist() == F.pad(is_answer[:, 1:], (0, 1)).tolist()
    other = torch.where(is_answer, tokens, (tokens + 1) % V)
    assert next_token_loss(logits, other, is_answer).item() == next_token_loss(logits, tokens, is_answer).item()


def test_distill_is_the_divergence_from_the_teacher_at_the_prompts_tokens():
    student, teacher = torch.randn(B, S, V), torch.randn(B, S, V)
    divergences = []
    for b, length in enumerate(LENGTHS):
        for s in range(length):
            p, q = teacher[b, s].double().softmax(0), student[b, s].double().softmax(0)
            divergences.append((p * (p / q).log()).sum())
    wanted = torch.stack(divergences).mean().item()
    assert distill_loss(student, teacher, is_token()).item() == pytest.approx(wanted, rel=1e-5)
    assert distill_loss(teacher, teacher, is_token()).item() == pytest.approx(0, abs=1e-6)


def test_hidden_is_relative_to_the_teachers_states_and_a_mean_over_layers():
    teacher = [torch.randn(B, S, D), 1000 * torch.randn(B, S, D)]
    student = [states * 1.5 for states in teacher]
    assert hidden_loss(student, teacher, is_token()).item() == pytest.approx(0.25, rel=1e-5)
    for states in student:
        states[~is_token()] = 1e6  # padding
    assert hidden_loss(student, teacher, is_token()).item() == pytest.approx(0.25, rel=1e-5)


def weigh(balance, layer, **scales):
    """One step of a balance on losses that are `scale` times two different directions of a layer."""
    losses = {name: scale * (layer[n] ** 2 + 1.0) for n, (name, scale) in enumerate(scales.items())}
    weighted = balance.weigh(losses, dict.fromkeys(losses, 1.0), layer)
    balance.end_step()
    return weighted


def layer_of_ones():
    return torch.ones(2, requires_grad=True)


def test_fixed_balance_multiplies_by_the_weights_and_nothing_else():
    layer = layer_of_ones()
    balance = Balance("fixed", {"recon": 0.5, "token-ce": 3.0})
    for _ in range(3):
        weighted = weigh(balance, layer, **{"recon": 1.0, "token-ce": 1e6})
    assert {name: loss.item() for name, loss in weighted.items()} == {"recon": 1.0, "token-ce": 6e6}


def test_magnitude_balance_keeps_both_terms_in_sight():
    layer = layer_of_ones()
    balance = Balance("magnitude", {"recon": 1.0, "token-ce": 2.0})
    for _ in range(5):
        weighted = weigh(balance, layer, **{"recon": 1e-6, "token-ce": 1.0})
    assert weighted["recon"].item() == pytest.approx(1.0)
    assert weighted["token-ce"].item() == pytest.approx(2.0)
    gradients = torch.autograd.grad(weighted["recon"] + weighted["token-ce"], layer)[0]
    assert (gradients[1] / gradients[0]).item() == pytest.approx(2.0)


def test_magnitude_balance_follows_the_running_mean_and_still_shows_progress():
    layer = layer_of_ones()
    balance = Balance("magnitude", {"recon": 1.0})
    weigh(balance, layer, recon=1.0)
    weighted = weigh(balance, layer, recon=0.1)
    assert weighted["recon"].item() == pytest.approx(0.1)
    assert balance.running["recon"] == pytest.approx(0.98 * 2.0 + 0.02 * 0.2)


def test_gradient_balance_gives_each_loss_the_same_norm_at_the_output_layer():
    layer = layer_of_ones()
    balance = Balance("gradient", {"recon": 1.0, "token-ce": 1.0})
    weighted = weigh(balance, layer, **{"recon": 1e-6, "token-ce": 1.0})
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm().item() for loss in weighted.values()]
    assert norms == pytest.approx([1.0, 1.0])


def test_a_balance_goes_on_from_what_it_saved():
    layer = layer_of_ones()
    first = Balance("magnitude", {"recon": 1.0})
    weigh(first, layer, recon=1.0)
    second = Balance("magnitude", {"recon": 1.0})
    second.running = dict(first.running)
    assert weigh(second, layer, recon=0.3)["recon"].item() == weigh(first, layer, recon=0.3)["recon"].item()
    assert second.running == first.running
