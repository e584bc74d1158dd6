"""Each fault once, on the quickest training; kills and damage on every tool. `just accept-faults` does hundreds."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.nursery import Nursery
from faults.trainings import TRAININGS
from faults.trials import FAULTS, MOUNTING, Workshop, can_mount

QUICKEST = TRAININGS[0].name
EVERY = ("kill", "flip or cut")
"""What is done to every tool."""


@pytest.fixture(scope="module", params=TRAININGS, ids=lambda training: training.name)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("faults")
    with Nursery(request.param.modules, folder / "logs") as nursery:
        yield Workshop(request.param, folder / "shop", nursery)


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(shop: Workshop, fault: str, tmp_path: Path) -> None:
    if shop.training.name != QUICKEST and fault not in EVERY:
        pytest.skip("just accept-faults")
    if fault in MOUNTING and not can_mount(tmp_path):
        pytest.skip("file systems are mounted, which needs root")
    outcome = FAULTS[fault](shop, random.Random(1))
    assert outcome.lost == []
    assert outcome.tried == outcome.resumed + outcome.refused > 0
