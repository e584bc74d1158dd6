"""Options of the test suites of all packages."""

import os

import hypothesis
import pytest

# The networks of tests are tiny: a second thread gains nothing, and on a busy machine two wait for each other.
# Frameworks read it when they are imported, which is after this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# A deadline would be an assertion on time, which a busy machine fails.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="moments at which a training is killed, then resumed")


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """At how many moments to kill a training."""
    return request.config.getoption("--kills")
