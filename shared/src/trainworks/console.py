"""What a tool says and how it ends: messages on stderr, progress, one-line errors, exit statuses.

stdout belongs to data, so nothing here writes to it except `--version`. Importing this module is cheap: rich
and typer are imported by the functions that need them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.progress import Progress
    from typer import Typer

INTERNAL_ERROR = 70
"""Exit status of a bug in the tool itself (EX_SOFTWARE of sysexits.h)."""


class UserError(Exception):
    """Bad usage or bad input, said in one line: what is wrong, where, what to do. Exit status 2."""

    exit_status = 2


class AnswerNo(Exception):
    """The command worked and the answer, which the message tells, is "no". Exit status 1."""

    exit_status = 1


class NonFinite(Exception):
    """Training met NaN or infinity, or a health check stopped it. Exit status 3."""

    exit_status = 3


class Interrupted(Exception):
    """A signal asked the program to stop and it has saved its work. Exit status 128 + signum: 130 or 143.

    Args:
        signum: the signal, such as `signal.SIGTERM`.
        note: what was saved and how to go on, shown to the user.
    """

    def __init__(self, signum: int, note: str = "") -> None:
        super().__init__(signum, note)
        self.signum = signum
        self.note = note

    @property
    def exit_status(self) -> int:
        return 128 + self.signum

    def __str__(self) -> str:
        message = f"interrupted by {signal.Signals(self.signum).name}"
        return f"{message}; {self.note}" if self.note else message


_quiet = False
_live: Progress | None = None  # the bar on screen, which messages must not tear


def set_quiet(quiet: bool) -> None:
    """With quiet on, only warnings and errors are written."""
    global _quiet
    _quiet = quiet


def info(message: str) -> None:
    """Tell the user something on stderr; silent under `--quiet`."""
    if not _quiet:
        _say(message)


def warn(message: str) -> None:
    """Warn on stderr, under `--quiet` too."""
    _say(f"{_tint('warning:', '33')} {message}")


def _say(line: str) -> None:
    # A reader of stderr that went away must not stop the work.
    with contextlib.suppress(BrokenPipeError):
        if _live is not None:
            from rich.text import Text

            _live.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)


def _tint(text: str, code: str) -> str:
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


class Bar:
    """Counts finished units of a long job. `progress` makes one."""

    def __init__(self, total: int | None, label: str, done: int, show: Callable[[Bar], None]) -> None:
        self.total, self.label, self.done, self.note = total, label, done, ""
        self._show = show

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count `units` as done; `note` (such as "loss 0.41") stands beside the bar until the next one."""
        self.done += units
        if note is not None:
            self.note = note
        self._show(self)


@contextlib.contextmanager
def progress(total: int | None, label: str, *, every: float = 10.0, start: int = 0) -> Iterator[Bar]:
    """Show on stderr how far a job is: a bar on a terminal, else a plain line now and then.

    Args:
        total: units in the whole job; None where nobody knows.
        label: what is being done, such as "training".
        every: seconds between plain lines.
        start: units that were done before, by the run that is being resumed; the rate leaves them out.
    """
    if _quiet:
        yield Bar(total, label, start, lambda bar: None)
    elif not sys.stderr.isatty():
        yield Bar(total, label, start, _plain_lines(every, start))
    else:
        with _rich_bar(total, label, start) as show:
            yield Bar(total, label, start, show)


@contextlib.contextmanager
def _rich_bar(total: int | None, label: str, start: int) -> Iterator[Callable[[Bar], None]]:
    global _live
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=total, completed=start, rate="", note="")
        began = time.monotonic()
        outer, _live = _live, shown

        def show(bar: Bar) -> None:
            rate = _rate(bar.done - start, time.monotonic() - began)
            shown.update(task, completed=bar.done, rate=f"{rate}/s", note=bar.note)

        try:
            yield show
        finally:
            _live = outer


def _plain_lines(every: float, start: int) -> Callable[[Bar], None]:
    began = said = time.monotonic()

    def show(bar: Bar) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= every:
            said = now
            _say(_plain_line(bar, bar.done - start, now - began))

    return show


def _plain_line(bar: Bar, fresh: int, seconds: float) -> str:
    count = f"{bar.done:,}" if bar.total is None else f"{bar.done:,}/{bar.total:,}"
    parts = [f"{bar.label}: {count}", f"{_rate(fresh, seconds)}/s"]
    if bar.total is not None and fresh > 0:
        left = int(seconds / fresh * max(bar.total - bar.done, 0))
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return ", ".join([*parts, bar.note] if bar.note else parts)


def _rate(units: int, seconds: float) -> str:
    rate = units / max(seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def version_callback(distribution: str) -> Callable[[bool], None]:
    """The callback of an eager `--version` option: prints "NAME VERSION" on stdout and exits with 0."""

    def show_version(wanted: bool) -> None:
        if wanted:
            from importlib.metadata import version

            import typer

            print(f"{distribution} {version(distribution)}")
            raise typer.Exit

    return show_version


def entry(app: Typer) -> Callable[[], NoReturn]:
    """Make the function that a console script calls: it runs the app and exits with the status that fits.

    `TOOL help COMMAND` shows what `TOOL COMMAND --help` shows. Every error becomes one line "error: ..." on stderr.
    TRAINWORKS_DEBUG=1 puts the traceback before it.
    """

    def main() -> NoReturn:
        arguments = sys.argv[1:]
        if arguments[:1] == ["help"]:
            arguments = [*arguments[1:], "--help"]
        try:
            status = app(arguments, standalone_mode=False)
            sys.stdout.flush()  # here, where a full disk can still be reported
        except BaseException as exception:
            sys.exit(_end(exception))
        sys.exit(status if isinstance(status, int) else 0)

    return main


def _end(exception: BaseException) -> int:
    """Say what ended the program and return its exit status."""
    import typer

    if isinstance(exception, SystemExit):
        if not isinstance(exception.__context__, BrokenPipeError):  # Typer makes 1 of it, which here means "no"
            raise exception
        exception = exception.__context__
    if os.environ.get("TRAINWORKS_DEBUG") == "1":
        import traceback

        traceback.print_exception(exception)
    if isinstance(exception, BrokenPipeError):
        _drop_stdout()
        return 128 + signal.SIGPIPE
    if isinstance(exception, AnswerNo | Interrupted):
        _say(str(exception))
        return exception.exit_status
    if isinstance(exception, KeyboardInterrupt):
        _say("interrupted")
        return 128 + signal.SIGINT
    if isinstance(exception, OSError):
        _drop_stdout()
        return _error(_os_error(exception), UserError.exit_status)
    if isinstance(exception, UserError | NonFinite):
        return _error(str(exception), exception.exit_status)
    if isinstance(exception, typer.Abort):
        return _error("aborted", UserError.exit_status)
    if isinstance(exception, typer.TyperException):
        return _end_usage(exception)
    if isinstance(exception, MemoryError):
        return _error(f"out of memory: {exception}".rstrip(": "), UserError.exit_status)
    message = f"this is a bug: {type(exception).__name__}: {exception}; TRAINWORKS_DEBUG=1 shows where"
    return _error(message, INTERNAL_ERROR)


def _end_usage(exception: Any) -> int:
    message = exception.format_message()
    if type(exception).__name__ == "NoArgsIsHelpError":
        _say(message)
    else:
        context = getattr(exception, "ctx", None)
        sentence = message if message.endswith((".", "?")) else f"{message}."
        _error(f"{sentence} Try '{context.command_path} --help'." if context else message, exception.exit_code)
    return exception.exit_code


def _os_error(exception: OSError) -> str:
    where = f": {exception.filename}" if exception.filename else ""
    if exception.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on device{where}; free some space and run it again"
    return f"{exception.strerror or exception}{where}"


def _error(message: str, status: int) -> int:
    _say(f"{_tint('error:', '31')} {' '.join(message.split())}")
    return status


def _drop_stdout() -> None:
    # What is still buffered cannot be written, and Python would fail once more on flushing it at exit.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
