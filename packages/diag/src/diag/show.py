"""Health on the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from diag.finding import Finding, Health
from diag.read import Run

if TYPE_CHECKING:
    from rich.console import Console, Group

COLOURS = {"healthy": "green", "warning": "yellow", "critical": "bold red"}
DEFAULT_COLUMNS = 120


def printable(text: str) -> str:
    """Text from data without what would steer a terminal: escape sequences, newlines, bidirectional marks."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def console(file: TextIO | None = None) -> Console:
    """A console on stdout (or `file`) that never breaks figures over lines where no terminal sets the width."""
    from rich.console import Console

    file = file or sys.stdout
    wide = None if file.isatty() or "COLUMNS" in os.environ else DEFAULT_COLUMNS
    return Console(file=file, highlight=False, soft_wrap=False, width=wide)


def health_view(run: Run, health: Health) -> Group:
    """The verdict, a table of the findings, and below what each means."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (printable(str(run.path)), "bold"),
        f"  {printable(run.tool) or 'a log'}, {extent(run)}: ",
        (health.verdict, COLOURS[health.verdict]),
    )
    if not health.findings:
        return Group(head)
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for title in ("level", "finding", run.series.unit, "evidence"):
        table.add_column(title, overflow="fold", no_wrap=title != "evidence")
    for finding in health.findings:
        table.add_row(
            Text(finding.level, COLOURS[finding.level]),
            Text(finding.name),
            Text(span(finding)),
            Text(printable(finding.summary)),
        )
    notes = Text()
    for finding in health.findings:
        notes.append(f"\n{finding.name}", "bold").append(f": {finding.why}\n")
        for number, step in enumerate(finding.try_):
            notes.append(f"  {'try' if number == 0 else '   '}  {step}\n")
    notes.rstrip()
    return Group(head, Text(), table, notes)


def extent(run: Run) -> str:
    """How much was logged: "1,200 records, step 1 to 1,200"."""
    series = run.series
    if not len(series):
        return "0 records"
    return f"{len(series):,} records, {series.unit} {series.steps.min():,} to {series.steps.max():,}"


def span(finding: Finding) -> str:
    first, last = finding.steps
    return f"{first:,}" if first == last else f"{first:,}-{last:,}"
