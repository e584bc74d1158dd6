"""Bring one run to its end: begin it, go on with it or leave it alone, as its directory says.

`run_job` works from what is on the disk alone, so that it can be called again after any end of itself, of the run or
of the machine, here or elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from ablate.jobs import (
    TAIL,
    Job,
    JobPaths,
    Record,
    State,
    begin_command,
    child_environment,
    is_trained,
    read_record,
    read_run,
    seconds_trained,
)
from ablate.memory import kernel_kills, said_out_of_memory, smaller
from ablate.suite import flatten
from trainworks.console import UserError
from trainworks.files import write_json

GRACE = 60.0
"""Seconds in which a run that is asked to stop may save its work."""
POLL = 0.5
"""Seconds between looks at whether to stop."""

# The shell writes down its process id and becomes the command: so whoever finds the lock held knows whom to ask.
_NOTE_PID = 'echo $$ > "$0" && exec "$@"'


class Stopped(BaseException):
    """The runner was asked to stop. Not an Exception, so that nothing takes it for a failure of the run."""


def run_job(job: Job, asked_to_stop: Callable[[], bool] = lambda: False) -> Record:
    """Bring a run as far as it gets and write down how it ended.

    A process that an earlier runner left behind is asked to save and end first, so that two never write one run.

    Raises:
        Stopped: `asked_to_stop` said so; the run was given time to save its work.
    """
    paths = job.paths
    paths.runs.mkdir(parents=True, exist_ok=True)
    with open(paths.lock, "a+") as lock:
        _claim(lock)
        if paths.live_log.exists():
            _keep_log(paths, f"{job.name}, left by a runner that was killed", ())
        record = read_record(paths)
        try:
            if not is_trained(paths):
                record = _train(job, record, lock, asked_to_stop)
            if is_trained(paths):
                record = _evaluate(job, record, lock, asked_to_stop)
        finally:
            lock.truncate(0)  # the id of a process that has ended must never be asked to end
        return record


def _train(job: Job, record: Record, lock: IO[str], asked_to_stop: Callable[[], bool]) -> Record:
    paths, retries = job.paths, job.memory.retries
    while True:
        spent = seconds_trained(paths.run)
        if job.timeout and spent >= job.timeout:
            return _remember(paths, record, "timeout", f"trained for {spent:.0f} s without an end")
        command = _next_command(job, record)
        record = Record("running", "", record.attempts + 1, record.for_memory)
        kills, began = kernel_kills(), time.monotonic()
        try:
            ended = _watch(job, command, lock, asked_to_stop, job.timeout - spent if job.timeout else 0.0)
        except BaseException:
            _remember(paths, record, "interrupted", "")
            raise
        finally:
            seconds = time.monotonic() - began
            said = _keep_log(paths, f"{job.name}, attempt {record.attempts}, {seconds:.1f} s", command)
        state, error = _judge(paths, ended, kernel_kills() > kills, said)
        record = _remember(paths, record, state, error)
        if state != "out of memory" or retries == 0:
            return record
        changes = smaller(job.memory, _settings_of(job, record))
        if changes is None:
            return record
        retries -= 1
        # Written before the run goes: a runner that is killed in between finds what was decided.
        record = Record("waiting", "", record.attempts, {**record.for_memory, **changes})
        write_json(paths.record, vars(record))
        shutil.rmtree(paths.run, ignore_errors=True)


def _next_command(job: Job, record: Record) -> list[str]:
    """Go on with what is there, or begin anew where nothing can be gone on with."""
    paths = job.paths
    run = read_run(paths.run)
    saved = (paths.run / "checkpoints" / "last").exists()
    if run is not None and job.go_on and (run.get("status") in ("running", "interrupted") or saved):
        return [*job.go_on, "--resume", str(paths.run)]
    if paths.run.exists():
        shutil.rmtree(paths.run)
    return begin_command(job, record.for_memory)


def _settings_of(job: Job, record: Record) -> dict[str, Any]:
    """The recipe by dotted key: as the run resolved it or, where it came to no run.json, as it was asked for."""
    run = read_run(job.paths.run)
    return {**job.settings, **record.for_memory} | flatten(run.get("config") or {} if run else {})


@dataclass(frozen=True)
class _Ended:
    """How a process ended: its status, negative for a signal, and why we ended it, if we did."""

    status: int
    reason: Literal["", "timeout", "stopped"] = ""


def _watch(
    job: Job, command: Sequence[str], lock: IO[str], asked_to_stop: Callable[[], bool], seconds: float
) -> _Ended:
    """Run the training until it ends, or until there is a reason to end it."""
    began = health_seen = time.monotonic()
    with open(job.paths.live_log, "wb") as log, _started(job, command, lock, log, log) as (process, ended):
        while not ended.wait(POLL):
            now = time.monotonic()
            if asked_to_stop():
                raise Stopped
            if seconds and now - began >= seconds:
                return _Ended(_end(process, ended), "timeout")
            if job.health and now - health_seen >= job.health_every and job.paths.run.exists():
                health_seen = now
                if _is_critical(job):
                    return _Ended(_end(process, ended), "stopped")
        return _Ended(process.returncode)


@contextlib.contextmanager
def _started(
    job: Job, command: Sequence[str], lock: IO[str], stdout: IO[bytes], stderr: IO[bytes]
) -> Iterator[tuple[subprocess.Popen[bytes], threading.Event]]:
    """A process of its own group, which inherits the lock, and the event of its end. None of the group outlives the
    block."""
    ended = threading.Event()
    process = subprocess.Popen(
        ["/bin/sh", "-c", _NOTE_PID, os.fspath(job.paths.lock.resolve()), *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=job.working_directory,
        env=child_environment(job.environment),
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )

    def wait() -> None:
        process.wait()
        ended.set()

    # A thread that waits is woken at once; Popen.wait with a timeout looks only now and then.
    threading.Thread(target=wait, daemon=True).start()
    try:
        yield process, ended
    except BaseException:
        _end(process, ended)
        raise
    finally:
        _signal_group(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], ended: threading.Event) -> int:
    """Ask a process to save its work and end; end it if it doesn't. Returns its status."""
    _signal_group(process.pid, signal.SIGTERM)
    if not ended.wait(GRACE):
        _signal_group(process.pid, signal.SIGKILL)
        ended.wait()
    return process.returncode


def _signal_group(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(pid, signum)


def _is_critical(job: Job) -> bool:
    looked = subprocess.run(
        [*job.health, str(job.paths.run)], capture_output=True, env=child_environment(job.environment)
    )
    return looked.returncode == 1


def _judge(paths: JobPaths, ended: _Ended, kernel_killed: bool, said: str) -> tuple[State, str]:
    """State and error of a run whose process has ended and has `said` that."""
    run = read_run(paths.run)
    status = run.get("status") if run else None
    if status == "finished":
        return "finished", ""
    if ended.reason == "timeout":
        return "timeout", "stopped at the time limit"
    if ended.reason == "stopped":
        return "stopped", "its health was critical"
    if ended.status and said_out_of_memory(said):
        return "out of memory", _last_words(said)
    signum = -ended.status if ended.status < 0 else ended.status - 128
    if signum == signal.SIGKILL:
        return ("out of memory", "killed by the kernel for memory") if kernel_killed else ("killed", "by SIGKILL")
    if signum in (signal.SIGINT, signal.SIGTERM):
        return "interrupted", f"by {signal.Signals(signum).name}"
    if ended.status == 0:
        found = f"its status is {status}" if run else "there is no run.json"
        return "failed", f"the command ended with 0, but {found}"
    return "failed", f"exit status {ended.status}: {_last_words(said)}"


def _evaluate(job: Job, record: Record, lock: IO[str], asked_to_stop: Callable[[], bool]) -> Record:
    paths = job.paths
    if not job.evaluate or paths.evaluation.exists():
        return _remember(paths, record, "finished", "")
    printed = paths.runs / f"seed_{paths.seed}.stdout"
    try:
        with (
            open(paths.live_log, "wb") as log,
            open(printed, "wb") as out,
            _started(job, job.evaluate, lock, out, log) as (process, ended),
        ):
            while not ended.wait(POLL):
                if asked_to_stop():
                    raise Stopped
        text = printed.read_text(encoding="utf-8", errors="replace")
    except BaseException:
        _remember(paths, record, "interrupted", "")
        raise
    finally:
        printed.unlink(missing_ok=True)
        said = _keep_log(paths, f"{job.name}, evaluation", job.evaluate)
    if process.returncode:
        return _remember(paths, record, "failed", f"evaluate: exit status {process.returncode}: {_last_words(said)}")
    try:
        measured = json.loads(text)
    except ValueError:
        measured = None
    if not isinstance(measured, dict):
        return _remember(paths, record, "failed", "evaluate: it printed no JSON object")
    paths.evaluation.parent.mkdir(exist_ok=True)
    write_json(paths.evaluation, measured)
    return _remember(paths, record, "finished", "")


def _claim(lock: IO[str]) -> None:
    """Hold the lock of a run; a process that still holds it is asked to end, as it has no runner any more.

    Raises:
        UserError: it does not end.
    """
    began, asked = time.monotonic(), ""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.seek(0)
            pid, waited = lock.read().strip(), time.monotonic() - began
            if waited > 2 * GRACE:
                raise UserError(f"process {pid} holds {lock.name} and does not end; end it by hand") from None
            if pid and (pid != asked or waited > GRACE):
                asked = pid
                _signal_group(int(pid), signal.SIGKILL if waited > GRACE else signal.SIGTERM)
            time.sleep(0.05)
    lock.truncate(0)


def _keep_log(paths: JobPaths, title: str, command: Sequence[str]) -> str:
    """Move what a process said to the end of the variant's log; returns the last of it."""
    with open(paths.live_log, "rb") as said, open(paths.log, "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)  # runs of several seeds share the log
        log.write(f"== {title}\n== {' '.join(command)}\n".encode())
        shutil.copyfileobj(said, log)
        log.write(b"\n")
        said.seek(max(0, said.tell() - TAIL))
        tail = said.read().decode(errors="replace")
    paths.live_log.unlink()
    return tail


def _last_words(said: str) -> str:
    """The last error that was told or else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["nothing was said"])[-1].removeprefix("error: ")[:500]


def _remember(paths: JobPaths, record: Record, state: State, error: str) -> Record:
    """Write the record with another state and error. What the run's directory says itself is not written: publishing a
    file costs more than all else that is done for a short run."""
    changed = Record(state, error, record.attempts, record.for_memory)
    tells_itself = state == "finished" and record.attempts <= 1 and not record.for_memory
    if paths.record.exists() or not tells_itself:
        write_json(paths.record, vars(changed))
    return changed
