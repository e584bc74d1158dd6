import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from trainworks import torch as core  # noqa: E402
from trainworks.console import NonFinite, UserError  # noqa: E402
from trainworks.threads import MOST_THREADS  # noqa: E402


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mean", torch.arange(3.0))


def test_weights_come_back_and_tied_ones_stay_tied(tmp_path: Path) -> None:
    saved, loaded = Tied(), Tied()
    core.save_weights(tmp_path / "model.safetensors", saved)
    core.load_weights(tmp_path / "model.safetensors", loaded)
    assert torch.equal(saved.head.weight, loaded.head.weight)
    assert loaded.head.weight is loaded.embed.weight


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="no weights at"):
        core.load_weights(path, Tied())
    core.save_weights(path, torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="weights of another model"):
        core.load_weights(path, Tied())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="is damaged"):
        core.load_weights(path, torch.nn.Linear(2, 2))


def test_optimizer_state_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    core.save_state(tmp_path / "state.pt", {"optimizer": optimizer.state_dict(), "step": 1})
    state = core.load_state(tmp_path / "state.pt")
    again = torch.optim.AdamW(model.parameters())
    again.load_state_dict(state["optimizer"])
    assert torch.equal(again.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert state["step"] == 1


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled_but_plain_data(tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "exploded"), tmp_path / "state.pt")
    with pytest.raises(UserError, match="damaged or not a state file"):
        core.load_state(tmp_path / "state.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04"])
def test_a_damaged_state_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        core.load_state(tmp_path / "state.pt")
    assert "\n" not in str(caught.value)


def test_check_finite_names_step_batch_and_checkpoint() -> None:
    core.check_finite(torch.tensor([0.0, 1e30]), name="loss", step=3)
    with pytest.raises(NonFinite, match=r"loss nan at step 3, batch 5; last good checkpoint: run/last"):
        core.check_finite(torch.tensor(float("nan")), name="loss", step=3, batch=5, checkpoint=Path("run/last"))
    with pytest.raises(NonFinite, match="gradient norm inf at step 3; no checkpoint"):
        core.check_finite(float("inf"), name="gradient norm", step=3)
    with pytest.raises(NonFinite):
        core.check_finite(torch.tensor([1.0, float("-inf")]), name="loss", step=3)


def test_reseeding_at_each_step_needs_no_saved_state() -> None:
    core.seed_torch(0, "step", 5)
    straight = torch.rand(3)
    core.seed_torch(0, "step", 4)
    torch.rand(100)
    core.seed_torch(0, "step", 5)
    assert torch.equal(torch.rand(3), straight)
    generator = core.torch_generator(0, "step", 5)
    assert torch.equal(torch.rand(3, generator=generator), straight)
    assert not torch.equal(torch.rand(3, generator=core.torch_generator(0, "step", 6)), straight)


def test_threads_and_device() -> None:
    before = torch.get_num_threads()
    try:
        assert core.set_threads(1) == torch.get_num_threads() == 1
        assert 1 <= core.set_threads() <= MOST_THREADS
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UserError, match="--threads is at least 1"):
        core.set_threads(0)
    assert core.resolve_device("cpu").type == "cpu"
    assert core.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match='not "gpu"'):
        core.resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="--device cpu"):
        core.resolve_device("cuda")
