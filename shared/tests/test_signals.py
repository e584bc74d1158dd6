import signal
import subprocess
import sys
import threading

import pytest

from trainworks.console import Interrupted
from trainworks.signals import StopFlag

LOOP = """
import sys, time
from trainworks.console import Interrupted
from trainworks.signals import StopFlag
with StopFlag() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    while sys.argv[1] == "deaf":
        print("asked", flush=True)
        time.sleep(0.01)
    try:
        stop.raise_if_set("saved")
    except Interrupted as end:
        print(end)
        sys.exit(end.exit_status)
"""


def start(kind: str) -> subprocess.Popen[str]:
    loop = subprocess.Popen(
        [sys.executable, "-c", LOOP, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert loop.stdout is not None
    assert loop.stdout.readline() == "ready\n"
    return loop


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_the_loop_save(signum: signal.Signals, status: int) -> None:
    loop = start("polling")
    loop.send_signal(signum)
    out, err = loop.communicate(timeout=30)
    assert loop.returncode == status
    assert out == f"interrupted by {signum.name}; saved\n"
    assert "a second signal ends at once" in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(signum: signal.Signals) -> None:
    loop = start("deaf")
    loop.send_signal(signal.SIGTERM)
    assert loop.stdout is not None
    assert loop.stdout.readline() == "asked\n"
    loop.send_signal(signum)
    loop.communicate(timeout=30)
    assert loop.returncode == -signum


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted):
        stop.raise_if_set()


def test_in_another_thread_the_flag_stays_unset() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopFlag() as stop:
            stop.raise_if_set()
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
