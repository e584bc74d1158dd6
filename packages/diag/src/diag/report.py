"""One HTML file about any number of runs of any tool: results, curves with their health, what differs, samples."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

from diag.compare import about, differences, results, settings, unique_names
from diag.finding import Finding, Health
from diag.health import judge
from diag.page import Section, render, table
from diag.read import Run, read_run
from diag.report_data import charts
from diag.samples_page import Budget, cards
from diag.show import extent
from diag.thresholds import Thresholds, load_thresholds
from trainworks.console import UserError
from trainworks.files import atomic_write

EXPORT = '<p><button type="button" id="export">Export the checklist as JSON</button></p>'


def write_report(paths: Sequence[str | Path], out: Path, thresholds: Thresholds | None = None) -> Path:
    """Write the report and return its path.

    Args:
        paths: run directories or logs.
        out: the HTML file, replaced if it is there.
        thresholds: of the health findings; default: those of `diag thresholds`.

    Raises:
        UserError: no run, a run cannot be read, or `out` is a folder or no HTML.
    """
    if not paths:
        raise UserError("no run to report; name at least one run directory or log")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file such as {out / 'report.html'}")
    _check_page(out)
    runs = [read_run(path) for path in paths]
    judged = [judge(run, thresholds or load_thresholds()) for run in runs]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, report_html(runs, judged))
    return out


def _check_page(out: Path) -> None:
    """UserError if something else than a page, or an empty file, would be replaced."""
    if out.exists():
        with open(out, "rb") as file:
            begins = file.read(15).lower()
        if begins and not begins.startswith(b"<!doctype html"):
            raise UserError(f"{out} is there and is no HTML page, so it is left alone; name another --out")


def write_page(path: Path, html: str) -> None:
    """Publish a page as UTF-8. Half a surrogate pair, as a hostile name may hold, becomes a question mark."""
    atomic_write(path, html.encode("utf-8", "replace"))


def report_html(runs: Sequence[Run], judged: Sequence[Health]) -> str:
    """The page, of runs and what `judge` says of each."""
    names = unique_names(runs)
    findings = [(number, finding) for number, health in enumerate(judged) for finding in health.findings]
    drawn, left_out = charts(runs, names, findings)
    sections = [
        Section("runs", "Runs", _runs(runs, names, judged)),
        Section("results", "Results", _side_by_side("metric", names, results(runs))),
        Section("curves", "Curves", _curves(drawn, left_out)),
        Section("health", "Health", _findings(findings, names)),
        Section("configuration", "What differs", _configuration(runs, names)),
        Section("samples", "Samples", _samples(runs, names)),
    ]
    title = f"{names[0]}" if len(runs) == 1 else f"{len(runs)} runs"
    footer = f"Made by diag {version('diag')}. This page loads nothing from elsewhere."
    return render(f"Report: {title}", sections, {"runs": names, "charts": drawn}, footer)


def _runs(runs: Sequence[Run], names: Sequence[str], judged: Sequence[Health]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" data-run="{number}" checked><span class="swatch" data-swatch="{number}"></span>'
        f"{escape(name)} <span class={health.verdict}>{health.verdict}</span></label>"
        for number, (name, health) in enumerate(zip(names, judged, strict=True))
    )
    rows = []
    for run, name in zip(runs, names, strict=True):
        told = about(run, name)
        tool = f"{run.tool} {told['version'] or ''}".strip() or "a log"
        rows.append([name, tool, told["status"], told["started"], told["seconds"], extent(run), str(run.path)])
    shown = table(("run", "tool", "status", "started", "seconds", "logged", "path"), rows)
    return f'<div class="runs" role="group" aria-label="Runs to show">{boxes}</div>{shown}'


def _side_by_side(what: str, names: Sequence[str], rows: Sequence[dict]) -> str:
    return table((what, *names), [[row["name"], *row["values"]] for row in rows])


def _curves(drawn: Sequence[dict], left_out: int) -> str:
    if not drawn:
        return '<p class="soft">Nothing was logged.</p>'
    controls = (
        '<div class="controls"><label>Filter <input type="search" id="filter" autocomplete="off"></label>'
        '<label>Smoothing <input type="range" id="smoothing" min="0" max="0.99" step="0.01" value="0">'
        '<span id="smoothing-value">0.00</span></label>'
        '<label>Along <select id="axis"><option value="x">steps</option><option value="t">seconds</option></select>'
        "</label>"
        '<label><input type="checkbox" id="log"> logarithmic</label>'
        f'<span id="filter-count" role="status">{len(drawn)} of {len(drawn)} charts</span></div>'
    )
    made = "".join(_chart(number, chart) for number, chart in enumerate(drawn))
    note = f'<p class="soft">{left_out:,} more metrics are not drawn.</p>' if left_out else ""
    return f'{controls}<div class="charts">{made}</div>{note}<noscript><p>Curves are drawn by a script.</p></noscript>'


def _chart(number: int, chart: dict) -> str:
    splits = {line["split"] for line in chart["lines"]} - {""}
    signs = {"train": "line: training", "valid": "dashes: validation", "test": "dots: test"}
    key = "; ".join(sign for split, sign in signs.items() if split in splits)
    return (
        f'<figure class="chart" data-chart="{number}"><figcaption><h3>{escape(chart["title"])}</h3></figcaption>'
        f'<svg tabindex="0" role="group" aria-label="{escape(chart["alt"])}"></svg>'
        f'<div class="readout" aria-live="polite"></div><div class="key">{key}</div></figure>'
    )


def _findings(findings: Sequence[tuple[int, Finding]], names: Sequence[str]) -> str:
    if not findings:
        return '<p class="healthy">No findings.</p>'
    items = []
    for index, (number, finding) in enumerate(findings):
        first, last = finding.steps
        span = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
        tries = "".join(f"<li>{escape(step)}</li>" for step in finding.try_)
        items.append(
            f'<article class="card" id="finding-{index}" tabindex="-1" data-of-run="{number}">'
            f'<h3><span class="{finding.level}">{finding.level}</span> {escape(finding.name.replace("_", " "))}, '
            f"{escape(names[number])}, {span}</h3><p>{escape(finding.summary)}</p><p>{escape(finding.why)}</p>"
            f"<ul>{tries}</ul></article>"
        )
    return f'<div class="cards">{"".join(items)}</div>'


def _configuration(runs: Sequence[Run], names: Sequence[str]) -> str:
    if len(runs) == 1:
        return ""
    return (
        _side_by_side("setting", names, differences([settings(run) for run in runs])) or "<p>Nothing that is told.</p>"
    )


def _samples(runs: Sequence[Run], names: Sequence[str]) -> str:
    budget = Budget()
    parts = [
        cards(run.path / "samples", number, name, budget)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
        if run.path.is_dir()
    ]
    made = "\n".join(part for part in parts if part)
    note = f'<p class="soft">{budget.left_out} files were too large for this page.</p>' if budget.left_out else ""
    export = EXPORT if 'class="checklist"' in made else ""
    return f'{export}<div class="cards">{made}</div>{note}' if made else ""
