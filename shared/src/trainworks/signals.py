"""Stopping on request: SIGINT and SIGTERM set a flag that the loop polls."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from trainworks.console import Interrupted


class StopFlag:
    """Within the `with` block a first SIGINT or SIGTERM sets the flag; a second one ends the process at once.

    Outside the main thread, where Python lets nobody install a handler, the flag simply stays unset.

    ```
    with StopFlag() as stop:
        for step in range(steps):
            train(step)
            if stop:
                save(step)
                stop.raise_if_set()
    ```
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._handlers: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signum is not None

    def raise_if_set(self, note: str = "") -> None:
        """Raise `Interrupted` if a signal has come; `note` tells the user what was saved."""
        if self.signum is not None:
            raise Interrupted(self.signum, note)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._handlers[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers.clear()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.signum = signum
        # Not print(): a handler may run in the middle of a write to the same buffered stream.
        os.write(2, b"stopping at the next step; a second signal ends at once\n")
