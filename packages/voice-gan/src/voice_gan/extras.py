"""Libraries that come with an extra."""

from __future__ import annotations

import importlib.util

from trainworks.console import UserError


def require(extra: str, *modules: str) -> None:
    """Check that modules are there before work begins.

    Raises:
        UserError: one is not installed; it names the extra that brings it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed; pip install 'voice-gan[{extra}]'")
