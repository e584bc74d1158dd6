"""Run a suite: check it, begin what is missing, go on with what was interrupted, compare."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout

from ablate.executors import Executor, Shares, open_executor, require_executor
from ablate.jobs import Job, JobPaths, Record, begin_command, child_environment, is_done, read_record
from ablate.plan import (
    HEALTH,
    Options,
    Plan,
    check_changes,
    filled,
    gpus_of,
    jobs_of,
    make_plan,
    needs_preparing,
    require_command,
    settle_changes,
    write_plan,
)
from ablate.results import collect, require_metrics
from ablate.suite import check_metrics
from ablate.table import Progress
from trainworks.console import AnswerNo, UserError, info
from trainworks.signals import StopFlag

LOOK = 0.2
"""Seconds that the runner waits for a run to end before it looks at signals and at the table again."""
LOCK = ".lock"
MOST_TOLD = 5
"""Runs that the last message names."""


def prepare_run(options: Options) -> Plan:
    """Everything that can be wrong is found here, before anything starts or is written.

    Raises:
        UserError: see `ablate.suite`, `make_plan`, `require_command` and `require_executor`; a variant that the command
            refuses.
    """
    plan = make_plan(options)
    suite = plan.suite
    check_metrics(suite, plan.variants)
    require_command(suite.command, "the suite")
    require_command(suite.evaluate, "`evaluate`")
    require_command(suite.prepare, "`prepare`")
    require_executor(options.executor)
    if options.stop_on:
        if options.stop_on != "critical":
            raise UserError(f'--stop-on takes critical, not "{options.stop_on}"')
        require_command(HEALTH, "--stop-on, which judges a run's health,")
    if not options.rerun_changed:
        check_changes(plan)
        check_finished_runs(plan)
    if suite.dry_run:
        _try_variants(plan, options)
    return plan


def check_finished_runs(plan: Plan) -> None:
    """
    Raises:
        UserError: a run that is finished lacks one of the metrics.
    """
    for paths in plan.paths():
        if is_done(paths) and read_record(paths).state == "finished":
            require_metrics(collect(paths, plan.suite.metrics), plan.suite.metrics, plan.folder)


def _try_variants(plan: Plan, options: Options) -> None:
    """
    Raises:
        UserError: the command's --dry-run refuses a variant; its own words are told.
    """
    jobs = [job for job in jobs_of(plan, options) if job.seed == 0 and not job.paths.run.exists()]

    def tried(job: Job) -> subprocess.CompletedProcess[str]:
        command = [*begin_command(job, {}), "--dry-run"]
        return subprocess.run(command, capture_output=True, text=True, env=child_environment(job.environment))

    with ThreadPoolExecutor(max_workers=2) as pool:
        for job, ended in zip(jobs, pool.map(tried, jobs), strict=True):
            if ended.returncode:
                said = (ended.stderr.strip().splitlines() or ["nothing was said"])[-1].removeprefix("error: ")
                # What the baseline's recipe lacks, all lack.
                whose = "" if job.variant == plan.suite.baseline else f'variant "{job.variant}": '
                raise UserError(f"{whose}{said}")


def commands(plan: Plan, options: Options) -> list[list[str]]:
    """The command lines of all runs from their start, in their order; first that which makes the data, if any."""
    made = [filled(plan.suite.prepare, {"{data}": plan.data})] if needs_preparing(plan) else []
    return made + [begin_command(job, read_record(job.paths).for_memory) for job in jobs_of(plan, options)]


def run_suite(plan: Plan, options: Options, quiet: bool) -> None:
    """Bring all runs to their end.

    Raises:
        UserError: another runner is at work in the folder, data that can't be made, a metric that the first finished
            run lacks.
        Interrupted: a signal came; the runs were asked to save their work.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder), StopFlag() as stop:
        settle_changes(plan)
        write_plan(plan)
        if needs_preparing(plan):
            _make_data(plan)
        waiting, done = [], {}
        for job in jobs_of(plan, options):
            record = read_record(job.paths)
            stopped = record.state == "stopped" and bool(options.stop_on)
            if (record.state == "finished" and is_done(job.paths)) or stopped:
                done[job.name] = record
            else:
                waiting.append(job)
        if done:
            info(f"{len(done)} of {len(done) + len(waiting)} runs are done already")
        if waiting:
            _execute(plan, options, waiting, done, stop, quiet)


def _execute(
    plan: Plan, options: Options, waiting: list[Job], done: dict[str, Record], stop: StopFlag, quiet: bool
) -> None:
    queue, running, checked, ending = deque(waiting), 0, False, False
    refused: UserError | None = None
    progress = Progress(plan, done)
    with _executor(plan, options) as executor, progress.shown(quiet):
        while running or (queue and not ending):
            while queue and running < executor.slots and not ending:
                job = queue.popleft()
                executor.submit(job)
                progress.began(job.name)
                running += 1
            for job, record in executor.wait(LOOK):
                running -= 1
                progress.ended(job.name, record)
                if record.state == "finished" and not checked:
                    checked, refused = True, _lacks_metrics(plan, job.paths)
            if (stop or refused) and not ending:
                ending = True
                info("asking the runs that go on to save their work")
                executor.stop()
            progress.refresh()
    if refused is not None:
        raise refused
    stop.raise_if_set("the same command goes on")


def _lacks_metrics(plan: Plan, paths: JobPaths) -> UserError | None:
    """The first run that finishes tells whether the suite's metrics are written at all."""
    try:
        require_metrics(collect(paths, plan.suite.metrics), plan.suite.metrics, plan.folder)
    except UserError as error:
        return error
    return None


@contextlib.contextmanager
def _executor(plan: Plan, options: Options) -> Iterator[Executor]:
    budget = plan.suite.budget
    jobs = options.jobs or (1 if options.executor == "local" else None)
    shares = Shares(jobs, plan.threads, tuple(options.gpu_ids), gpus_of(plan, options), budget.memory_gib)
    executor = open_executor(options.executor, shares, options.executor_options)
    try:
        yield executor
    except BaseException:
        executor.stop()
        raise
    finally:
        executor.close()


def _make_data(plan: Plan) -> None:
    """Make the suite's own data, whole or not at all.

    Raises:
        UserError: the command failed.
    """
    new = plan.folder / ".new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    command = filled(plan.suite.prepare, {"{data}": str(new / "data")})
    info(f"making the data: {' '.join(command)}")
    log = plan.folder / "logs_prepare.log"
    with open(log, "wb") as said:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=child_environment({})
        ).returncode
    if ended or not (new / "data").exists():
        words = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        raise UserError(f"`prepare` made no data (exit status {ended}): {words[-1].removeprefix('error: ')}; see {log}")
    (new / "data").rename(plan.data)
    new.rmdir()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a suite's folder.

    Raises:
        UserError: another runner does.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another `ablate run` is at work in {folder}; wait for it or name another --out") from None
    try:
        yield
    finally:
        lock.release()


def some_finished(plan: Plan) -> bool:
    """Whether there is anything to compare."""
    return any(read_record(paths).state == "finished" for paths in plan.paths())


def require_all_finished(plan: Plan) -> None:
    """
    Raises:
        AnswerNo: some runs are not; they are told with their state.
    """
    records = {paths: read_record(paths) for paths in plan.paths()}
    open_ = {paths: record for paths, record in records.items() if record.state != "finished"}
    if open_:
        told = [
            f"{paths.variant} seed {paths.seed} {record.state}{': ' + record.error if record.error else ''}"
            for paths, record in list(open_.items())[:MOST_TOLD]
        ]
        more = f" and {len(open_) - MOST_TOLD} more" if len(open_) > MOST_TOLD else ""
        raise AnswerNo(
            f"{len(open_)} of {len(records)} runs did not finish: {'; '.join(told)}{more}; logs are in "
            f"{plan.folder}, and the same command tries again"
        )
