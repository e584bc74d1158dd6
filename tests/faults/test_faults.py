"""Each fault once, on the quickest training; kills and damage on every tool that trains with PyTorch.

`just accept-faults` does hundreds, and those that train with Keras, whose small trainings take ten times as long.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.nursery import Nursery
from faults.trainings import TRAININGS
from faults.trials import FAULTS, MOUNTING, Workshop, can_mount, damage_unseen, kill

CHOSEN = [training for training in TRAININGS if "torch._dynamo" in training.modules]
QUICKEST = CHOSEN[0]


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """The process from which all trainings are forked."""
    modules = dict.fromkeys(module for training in CHOSEN for module in training.modules)
    with Nursery(list(modules), tmp_path_factory.mktemp("logs")) as nursery:
        yield nursery


@pytest.fixture(scope="session", params=CHOSEN, ids=lambda training: training.name)
def shop(request: pytest.FixtureRequest, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(request.param, tmp_path_factory.mktemp("shop"), nursery)


def test_a_killed_training_ends_as_if_unbroken(shop: Workshop) -> None:
    outcome = kill(shop, random.Random(1), times=2)
    assert outcome.lost == []
    assert outcome.resumed == outcome.tried > 0


def test_a_damaged_checkpoint_is_named(shop: Workshop) -> None:
    outcome = damage_unseen(shop, random.Random(1), times=20)
    assert outcome.lost == []
    assert outcome.resumed + outcome.refused == outcome.tried


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in ("kill", "flip or cut")])
@pytest.mark.parametrize("shop", [QUICKEST], indirect=True, ids=[QUICKEST.name])
def test_nothing_is_lost(shop: Workshop, fault: str, tmp_path: Path) -> None:
    if fault in MOUNTING and not can_mount(tmp_path):
        pytest.skip("file systems are mounted, which needs root")
    outcome = FAULTS[fault](shop, random.Random(1))
    assert outcome.lost == []
    assert outcome.resumed + outcome.refused == outcome.tried > 0
