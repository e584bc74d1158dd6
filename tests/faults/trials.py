"""One fault, done once to one training, and what came of it.

`Workshop` holds a training's data and how it ends unbroken. Each trial gets a source of chance that decides the moment
and the details, makes a run in a folder of its own, and returns an `Outcome`; what it lost is told there, never raised.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.nursery import Child, Ended, Nursery
from faults.trainings import Training
from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError
from trainworks.metrics import read_metrics
from trainworks.run import Run

Chance = random.Random


@dataclass
class Outcome:
    """What a trial did.

    Attributes:
        tried: faults that hit.
        resumed: of them, how many a run went on from and ended as if unbroken.
        refused: how many were refused in one line that says why, with everything left as it was.
        lost: what went wrong; empty if nothing.
    """

    tried: int = 0
    resumed: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)

    def expect(self, holds: bool, what: str) -> bool:
        if not holds:
            self.lost.append(" ".join(what.split())[-600:])
        return holds


class Workshop:
    """A training's data, its process with everything imported, and its unbroken run."""

    def __init__(self, training: Training, folder: Path, nursery: Nursery) -> None:
        self.training, self.folder, self._nursery = training, folder, nursery
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(training.recipe)
        training.write(folder)
        if training.prepare:
            _succeed(self._start(*training.prepare).wait())
        self.unbroken = folder / "unbroken" / "run"
        self.cpu = _succeed(self.start(self.unbroken, trap=("count", str(folder / "calls"))).wait()).cpu
        self.calls = int((folder / "calls").read_text())
        self.used = _succeed(self.use(self.unbroken))

    def start(self, run: Path, *options: str, trap: Sequence[Any] = ()) -> Child:
        """Train from the start."""
        fixed = ("--config", "recipe.toml", "--threads", "1", "--device", "cpu", "--out", str(run))
        return self._start(*self.training.train, *fixed, *options, trap=trap)

    def go_on(self, run: Path, trap: Sequence[Any] = ()) -> Child:
        """Train on, or from the start if there is no run yet."""
        return self._start("train", "--resume", str(run), trap=trap) if run.exists() else self.start(run, trap=trap)

    def use(self, run: Path) -> Ended:
        """Let the command that uses a run read it."""
        words = [str(run) if word == "RUN" else word for word in self.training.use]
        return self._start(*words, "--threads", "1").wait()

    def _start(self, *words: str, trap: Sequence[Any] = ()) -> Child:
        return self._nursery.start(self.training.modules[0], [self.training.tool, *words], self.folder, trap)

    def moment(self, chance: Chance) -> int:
        """A call of the training, by its number."""
        return chance.randint(1, self.calls)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """An empty folder for one trial, absolute and removed at its end."""
        room = self.folder / "room"
        room.mkdir()
        try:
            yield room
        finally:
            shutil.rmtree(room)

    @functools.cached_property
    def half_done(self) -> Path:
        """A run that was killed when it had at least one checkpoint and was not yet finished."""
        run = self.folder / "half" / "run"
        child = self.start(run)
        wait_until(child, lambda: (run / "checkpoints" / "best").exists())
        child.send(signal.SIGKILL)
        child.wait()
        return run

    def differences(self, run: Path) -> str:
        """What a finished run has that the unbroken one has not; empty if they are the same."""
        mine, other = Run.open(run), Run.open(self.unbroken)
        if mine.record["status"] != "finished":
            return f"status {mine.record['status']}"
        if mine.record["result"] != other.record["result"]:
            return "another result"
        if self._untimed(run) != self._untimed(self.unbroken):
            return "other metrics"
        for name in ("last", "best"):
            (folder, meta), (expected, expected_meta) = (
                Checkpoints(path / "checkpoints").load(name) for path in (run, self.unbroken)
            )
            if meta["step"] != expected_meta["step"]:
                return f"{name} is of step {meta['step']}, not {expected_meta['step']}"
            if weights(folder) != weights(expected):
                return f"{name} has other weights"
        return ""

    def _untimed(self, run: Path) -> list[dict[str, Any]]:
        clocks = ("time", *self.training.clocks)
        return [{name: value for name, value in record.items() if name not in clocks} for record in records(run)]


def kill(shop: Workshop, chance: Chance, times: int = 4) -> Outcome:
    """kill -9 at some moments: anywhere, right before a file is changed, within the change; or the power is cut.

    The training goes on after each of `times` kills, and is compared at its end.
    """
    done = Outcome()
    with shop.room() as room:
        run = room / "run"
        for _ in range(times):
            how = chance.choice(("anywhere", "kill_at", "tear_at", "cut_power_at"))
            # In the first half, as counted from where it goes on, so that it is killed a few times before it ends.
            child = shop.go_on(run, () if how == "anywhere" else (how, chance.randint(1, shop.calls // 2)))
            if how == "anywhere":
                work_for(child, chance.uniform(0, shop.cpu / 2))
                child.send(signal.SIGKILL)
            ended = child.wait()
            if not done.expect(
                ended.status in (0, -signal.SIGKILL), f"{how}: status {ended.status}: {ended.last_line}"
            ):
                return done
            if ended.status == 0:
                break
            done.tried += 1
            done.expect(not (torn := half_written(run)), f"after {how}: {torn}")
        if _ends_as_unbroken(shop, run, done):
            done.resumed = done.tried
    return done


def full_disk(shop: Workshop, chance: Chance) -> Outcome:
    """The disk fills up at some moment; then there is room again."""
    done = Outcome(tried=1)
    with shop.room() as room, mounted("-t", "tmpfs", "-o", "size=32m", "tmpfs", on=room / "disk") as disk:
        run = disk / "run"
        trap = ("fill_at", shop.moment(chance), str(disk), chance.randint(0, 16))
        ended = shop.start(run, trap=trap).wait()
        if ended.status != 0:
            said = ended.is_one_line() and ended.last_line.startswith("error: no space left on device")
            done.expect(said, f"full at {trap[1]}, {trap[3]} pages: status {ended.status}: {ended.err}")
        done.expect(not (torn := half_written(run)), f"full at {trap[1]}, {trap[3]} pages: {torn}")
        (disk / "ballast").unlink()
        done.resumed = int(_ends_as_unbroken(shop, run, done))
    return done


def read_only(shop: Workshop, chance: Chance) -> Outcome:
    """A place that can't be written: training and resuming are refused, using a run is not."""
    done = Outcome(tried=3)
    with shop.room() as room:
        place = room / "place"
        shutil.copytree(shop.half_done, place / "half" / "run", symlinks=True)
        shutil.copytree(shop.unbroken, place / "whole" / "run", symlinks=True)
        before = contents(place)
        with mounted("--bind", str(place), on=place) as locked:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(locked)], check=True)
            for what, ended in (
                ("train", shop.start(locked / "new").wait()),
                ("resume", shop.go_on(locked / "half" / "run").wait()),
            ):
                done.refused += done.expect(ended.is_one_line(), f"{what}: status {ended.status}: {ended.err}")
            used = shop.use(locked / "whole" / "run")
            same = (used.status, used.out) == (0, shop.used.out)
            done.resumed += done.expect(same, f"use: status {used.status}: {used.err}")
        done.expect(contents(place) == before, "something was changed")
        _ends_as_unbroken(shop, place / "half" / "run", done)
    return done


def two_writers(shop: Workshop, chance: Chance) -> Outcome:
    """While a training runs, others want its folder; then two begin in one folder at once."""
    done = Outcome(tried=3)
    with shop.room() as room:
        run = room / "run"
        first = shop.start(run)
        wait_until(first, lambda: (run / ".lock").exists())
        work_for(first, chance.uniform(0, 0.7 * shop.cpu))
        first.send(signal.SIGSTOP)
        if Run.open(run).record["status"] == "running":
            for second in (shop.go_on(run), shop.start(run, "--overwrite")):
                ended = second.wait()
                refused = ended.is_one_line() and "another process is writing" in ended.last_line
                done.refused += done.expect(refused, f"status {ended.status}: {ended.err}")
        first.send(signal.SIGCONT)
        done.expect(first.wait().status == 0, "the first writer failed")
        done.expect(not (other := shop.differences(run)), f"the first writer: {other}")
        shutil.rmtree(run)
        ended_both = sorted((child.wait() for child in [shop.start(run), shop.start(run)]), key=lambda end: end.status)
        done.expect(ended_both[0].status == 0, f"of two at once, neither ended well: {ended_both[0].err}")
        done.refused += done.expect(ended_both[1].is_one_line(), f"of two at once: {ended_both[1].err}")
        done.expect(not (other := shop.differences(run)), f"of two at once: {other}")
    return done


def clock_back(shop: Workshop, chance: Chance) -> Outcome:
    """A training that is killed goes on after a restart of the machine, with the calendar in the past or the future and
    the files' times in any order."""
    done = Outcome(tried=1)
    with shop.room() as room:
        run = room / "run"
        child = shop.start(run)
        work_for(child, chance.uniform(0, shop.cpu))
        child.send(signal.SIGKILL)
        child.wait()
        for path in sorted(run.rglob("*")):
            os.utime(path, (moment := chance.uniform(0, 4e9), moment), follow_symlinks=False)
        trap = ("wrong_clock", chance.choice((-1, 1)) * chance.uniform(0.01, 4000), chance.uniform(0, 100))
        if run.exists() and Run.open(run).record["status"] == "finished":
            shutil.rmtree(run)
        done.resumed = int(_ends_as_unbroken(shop, run, done, trap))
        times = [0.0, *(record["time"] for record in records(run))]
        done.expect(times == sorted(times) and all(map(math.isfinite, times)), f"time is {times}")
    return done


def damage(shop: Workshop, chance: Chance) -> Outcome:
    """A bit of a checkpoint is flipped, or the end of a file is gone: the file is named, and nothing goes on from it
    unless the content is the same (a last newline that is gone)."""
    done = Outcome(tried=1)
    with shop.room() as room:
        run = room / "run"
        shutil.copytree(shop.half_done, run, symlinks=True)
        file = chance.choice(checkpoint_files(run))
        how = spoil(file, chance)
        before = contents(run / "checkpoints")
        ended = shop.go_on(run).wait()
        if ended.status == 0:
            harmless = not shop.differences(run)
            done.resumed += done.expect(harmless, f"{file.name} {how}: it went on, and ended otherwise")
            return done
        named = ended.is_one_line() and file.name in ended.last_line
        done.refused += done.expect(named, f"{file.name} {how}: status {ended.status}: {ended.err}")
        done.expect(contents(run / "checkpoints") == before, f"{file.name} {how}: the checkpoints were changed")
    return done


def damage_unseen(shop: Workshop, chance: Chance, times: int = 100) -> Outcome:
    """As `damage`, many times, read by what all commands read a checkpoint with."""
    done = Outcome(tried=times)
    whole, whole_meta = Checkpoints(shop.unbroken / "checkpoints").load("last")
    with shop.room() as room:
        for number in range(times):
            run = room / str(number)
            shutil.copytree(shop.unbroken, run, symlinks=True)
            file = chance.choice(checkpoint_files(run))
            how = spoil(file, chance)
            try:
                folder, meta = Checkpoints(run / "checkpoints").load("last")
            except UserError as error:
                done.refused += done.expect(file.name in str(error), f"{file.name} {how}: {error}")
            else:
                same = weights(folder) == weights(whole) and meta | whole_meta == meta
                done.resumed += done.expect(same, f"{file.name} {how} was not seen")
            shutil.rmtree(run)
    return done


FAULTS: dict[str, Callable[[Workshop, Chance], Outcome]] = {
    "kill": kill,
    "full disk": full_disk,
    "read-only": read_only,
    "two writers": two_writers,
    "clock": clock_back,
    "damage": damage,
    "flip or cut": damage_unseen,
}


MOUNTING = ("full disk", "read-only")
"""Faults that need a file system of their own."""


def half_written(run: Path) -> str:
    """What a reader of a run that was stopped hard would stumble on; empty if nothing."""
    if not run.exists():
        return ""
    try:
        Run.open(run)
        read_metrics(run / "metrics.jsonl")
        book = Checkpoints(run / "checkpoints")
        for path in (run / "checkpoints").glob("[!.]*"):
            book.load(path.name)
    except UserError as error:
        return str(error)
    return ""


def records(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


def weights(folder: Path) -> dict[str, bytes]:
    """The numbers in a checkpoint, by file and name."""
    from trainworks.torch import load_state

    found = {}
    for file in sorted(folder.rglob("*")):
        if file.name.endswith(".h5"):  # which holds the time of its making too
            found |= {f"{file.name}/{name}": data for name, data in _datasets(file).items()}
        elif file.suffix == ".pt":  # whose bytes also tell which equal texts in it are one object
            found |= {f"{file.name}{name}": data for name, data in _leaves(load_state(file))}
        elif file.is_file() and file.name != "meta.json":
            found[file.name] = file.read_bytes()
    return found


def _leaves(state: Any, name: str = "") -> Iterator[tuple[str, bytes]]:
    """The tensors and values in nested containers."""
    if isinstance(state, dict | list | tuple):
        yield name, f"{type(state).__name__} of {len(state)}".encode()
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _leaves(value, f"{name}/{key}")
    elif hasattr(state, "numpy"):
        yield name, f"{state.dtype} {tuple(state.shape)}".encode() + state.contiguous().numpy().tobytes()
    else:
        yield name, repr(state).encode()


def _datasets(file: Path) -> dict[str, bytes]:
    import h5py

    found: dict[str, bytes] = {}
    with h5py.File(file) as stored:
        stored.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return found


def checkpoint_files(run: Path) -> list[Path]:
    """All files that the last checkpoint consists of, and those of the run that it means nothing without."""
    folder, meta = Checkpoints(run / "checkpoints").load("last")
    return [folder / "meta.json", *((folder / name).resolve() for name in sorted(meta["files"]))]


def spoil(file: Path, chance: Chance) -> str:
    """Flip a bit of the file or cut its end off; what was done."""
    data = bytearray(file.read_bytes())
    place = chance.randrange(len(data))
    if chance.random() < 0.5:
        data[place] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        return f"with a bit of byte {place} flipped"
    os.truncate(file, place)
    return f"cut to {place} bytes"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wait_until(child: Child, reached: Callable[[], bool]) -> None:
    while child.is_running() and not reached():
        time.sleep(0.01)


def work_for(child: Child, seconds: float) -> None:
    """Let the child compute for so long."""
    wait_until(child, lambda: child.cpu() >= seconds)


@contextlib.contextmanager
def mounted(*what: str, on: Path) -> Iterator[Path]:
    """A file system for a while; only root may, and not in every container."""
    on.mkdir(exist_ok=True)
    subprocess.run(["mount", *what, str(on)], check=True, capture_output=True)
    try:
        yield on
    finally:
        subprocess.run(["umount", str(on)], check=True)


def can_mount(folder: Path) -> bool:
    try:
        with mounted("-t", "tmpfs", "tmpfs", on=folder / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _ends_as_unbroken(shop: Workshop, run: Path, done: Outcome, trap: Sequence[Any] = ()) -> bool:
    ended = shop.go_on(run, trap).wait()
    if not done.expect(ended.status == 0, f"resuming: status {ended.status}: {ended.err}"):
        return False
    return done.expect(not (other := shop.differences(run)), f"resumed, it differs: {other}")


def _succeed(ended: Ended) -> Ended:
    if ended.status != 0:
        raise RuntimeError(f"status {ended.status}: {ended.err}")
    return ended
