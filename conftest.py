"""Options of the test suites of all packages."""

import hypothesis
import pytest

# A deadline would be an assertion on time, which a busy machine fails.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="moments at which a training is killed, then resumed")


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """At how many moments to kill a training."""
    return request.config.getoption("--kills")
