"""Time, order and integrity of the records; how the run ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np

from diag.curves import Log, baseline, figure, shown, sustained
from diag.finding import Finding
from diag.holder import writer_of

NOTES = {
    "no_records": ("no_records", "nothing has been logged", "There is nothing to judge."),
    "damaged": (
        "damaged_records",
        "lines that are no records were left out",
        "Several writers in one file, or a disk that failed.",
    ),
    "truncated": (
        "truncated_log",
        "the last line was cut off and left out",
        "The writer was killed in the middle of a line, or is writing it now.",
    ),
}


def flow_findings(log: Log) -> Iterator[Finding]:
    """All findings on the log itself and its pace."""
    yield from ended(log)
    yield from unattended(log)
    yield from damaged(log)
    yield from unknown(log)
    if len(log.series) > 1:
        yield from steps_back(log)
        yield from step_gaps(log)
        yield from time_back(log)
        yield from pace(log)


def ended(log: Log) -> Iterator[Finding]:
    """A run that says itself that it failed."""
    record = log.run.record
    if record is None or record.get("status") != "failed":
        return
    last = int(log.series.steps[-1]) if len(log.series) else 0
    error = " ".join(str(record.get("error") or "no error was recorded").split())[:300]
    yield Finding(
        "failed_run",
        "critical",
        (last, last),
        {"error": error, "finished": record.get("finished")},
        f"the run failed: {error}",
        "It did not come to its end.",
        ("see the error",)
        if "NonFinite" not in error
        else ("go back to the last good checkpoint", "lower the learning rate and clip gradients"),
    )


def unattended(log: Log) -> Iterator[Finding]:
    """A run that says that it runs, but nobody writes it, or whoever does has been silent for long."""
    limits, run = log.thresholds.flow, log.run
    if run.record is None or run.record.get("status") != "running" or not sys.platform.startswith("linux"):
        return
    last = int(log.series.steps[-1]) if len(log.series) else 0
    writer = writer_of(run.path)
    if writer is None:
        yield Finding(
            "abandoned_run",
            "warning",
            (last, last),
            {"status": "running"},
            "run.json says that it runs, but no process on this machine writes it",
            "It was killed without a word (out of memory, power), or runs on another machine.",
            ("go on with --resume", "look at the kernel's log for an out-of-memory kill"),
        )
        return
    times = log.series.times[np.isfinite(log.series.times)]
    pause = float(np.diff(times).max()) if len(times) > 1 else 0.0
    silence = time.time() - (run.path / "metrics.jsonl").stat().st_mtime
    if silence > max(limits.silent_seconds, limits.silent_factor * pause):
        yield Finding(
            "silent_run",
            "critical",
            (last, last),
            {"seconds": figure(silence), "longest_pause": figure(pause), "process": writer},
            f"process {writer} has logged nothing for {shown(silence)} s; its longest pause was {shown(pause)} s",
            "It hangs: most often in a loader, a lock or a collective operation.",
            (f"look where it hangs (py-spy dump --pid {writer})", "stop it and go on with --resume"),
        )


def damaged(log: Log) -> Iterator[Finding]:
    last = int(log.series.steps[-1]) if len(log.series) else 0
    for note in log.series.notes:
        if note.kind in NOTES:
            name, text, why = NOTES[note.kind]
            yield Finding(
                name,
                "warning",
                (0, last),
                {"count": note.count, "first": note.where},
                f"{text}: {note.count:,}, first {note.where}" if note.count > 1 else f"{text}: {note.where}",
                why,
                ("one file a process",) if note.kind == "damaged" else (),
            )


def unknown(log: Log) -> Iterator[Finding]:
    """Records without a single metric that any signal looks at, such as those of a table that is no log."""
    names = log.series.names
    if not len(log.series) or any(curve.role and len(curve) for curve in log):
        return
    yield Finding(
        "nothing_to_judge",
        "warning",
        (int(log.series.steps[0]), int(log.series.steps[-1])),
        {"metrics": len(names), "first": names[:5]},
        f"none of its metrics is known: {', '.join(names[:5]) or 'it has none'}{', ...' if len(names) > 5 else ''}",
        "What isn't known as a loss, a gradient norm and so on isn't judged; it may not be a training's log at all.",
        ("teach the names of your metrics: diag thresholds > mine.toml, its section names", "look at the path"),
    )


def steps_back(log: Log) -> Iterator[Finding]:
    steps = log.series.steps
    back = np.flatnonzero(np.diff(steps) < 0)
    if not len(back):
        return
    many = len(back) > 3 and len(back) > 0.01 * len(steps)
    yield Finding(
        "interleaved_writers" if many else "steps_go_back",
        "warning",
        (int(steps[back[0] + 1]), int(steps[back[-1]])),
        {
            "times": len(back),
            "first_record": int(back[0]) + 2,
            "from": int(steps[back[0]]),
            "to": int(steps[back[0] + 1]),
        },
        f"steps go back {len(back):,} times, first from {steps[back[0]]:,} to {steps[back[0] + 1]:,}",
        "Two processes write to one file: no curve in it can be trusted."
        if many
        else "A resumed run wrote steps again without cutting the log back: they count twice here.",
        ("one file a process; log from rank 0 alone",) if many else ("cut the log back to the checkpoint on resume",),
    )


def step_gaps(log: Log) -> Iterator[Finding]:
    steps = log.series.steps
    forward = np.diff(steps)
    usual = float(np.median(forward[forward > 0])) if (forward > 0).any() else 0.0
    gaps = np.flatnonzero(forward > log.thresholds.flow.gap_factor * usual)
    if not len(gaps) or len(gaps) > 0.05 * len(steps):
        return
    yield Finding(
        "missing_records",
        "warning",
        (int(steps[gaps[0]]), int(steps[gaps[-1] + 1])),
        {"gaps": len(gaps), "usual": figure(usual), "largest": int(forward.max())},
        f"no records between steps {steps[gaps[0]]:,} and {steps[gaps[0] + 1]:,}; {shown(usual)} apart is usual",
        "Records are lost, or the logging interval changed.",
    )


def time_back(log: Log) -> Iterator[Finding]:
    known = np.flatnonzero(np.isfinite(log.series.times))
    back = np.flatnonzero(np.diff(log.series.times[known]) < 0)
    if not len(back):
        return
    steps = log.series.steps[known]
    yield Finding(
        "time_goes_back",
        "warning",
        (int(steps[back[0] + 1]), int(steps[back[-1] + 1])),
        {"times": len(back)},
        f"the clock goes back {len(back):,} times, first at step {steps[back[0] + 1]:,}",
        "Two writers, a restart that began counting anew, or a clock that was set.",
        ("count with a monotonic clock, and on from the last record on resume",),
    )


def pace(log: Log) -> Iterator[Finding]:
    """Seconds a step: a lasting slowdown, or a stall."""
    limits, window = log.thresholds.flow, log.thresholds.window
    series = log.series
    known = np.isfinite(series.times)
    # A record without a new step (an evaluation's) belongs to the step before it.
    rows = np.flatnonzero(known)
    rows = rows[np.append(np.diff(series.steps[rows]) != 0, True)] if len(rows) else rows
    seconds, count = np.diff(series.times[rows]), np.diff(series.steps[rows])
    forward = (count > 0) & (seconds >= 0)
    steps = series.steps[rows[1:]][forward]
    a_step = seconds[forward] / count[forward]
    if len(a_step) < window.min_points:
        return
    center, _ = baseline(a_step, window.baseline_points, window.min_points)
    slow = a_step > limits.slow_factor * center
    stalled = (a_step > limits.stall_factor * center) & (a_step > limits.stall_seconds)
    for name, mask in (("stalled", stalled), ("slow", slow)):
        found = sustained(mask, steps, window)
        if found is None:
            continue
        first, last = found
        if name == "slow" and np.median(a_step[first : last + 1]) < limits.stall_seconds:
            return
        now = float(np.median(a_step[first : last + 1]))
        began = sustained(slow, steps, window)
        phase = new_phase(log, steps, min(first, began[0] if began else first))
        stall = name == "stalled" and not phase
        yield Finding(
            "stalled_throughput" if stall else "throughput_drop",
            "critical" if stall else "warning",
            (int(steps[first]), int(steps[last])),
            {"usual_seconds": figure(center[first]), "now_seconds": figure(now), "factor": figure(now / center[first])},
            f"a step takes {shown(now)} s since step {steps[first]:,}; {shown(center[first])} s was usual"
            + (f"; {phase} begins there" if phase else ""),
            "The device waits: most often for the data loader, a full disk or another job on the machine.",
            (
                "more loader workers, or a faster disk",
                "look at what else runs on the machine",
                "look for growing lists and for graphs that are kept",
            ),
        )
        return


def new_phase(log: Log, steps: np.ndarray, at: int) -> str:
    """The metric that has its first value where a slowdown begins, "" if none has: other work, not a fault."""
    near = log.thresholds.window.sustained_points * max(1, int(np.median(np.diff(steps))))
    for curve in log:
        if len(curve) and curve.rows[0] > 0 and abs(int(curve.steps[0]) - int(steps[at])) <= near:
            return curve.name
    return ""
