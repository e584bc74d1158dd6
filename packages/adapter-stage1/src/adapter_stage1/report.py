"""An evaluation on disk: JSON, the answers, plots and one HTML page."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from adapter_stage1.evaluate import BASELINE, FAILURE, RUNGS, SUCCESS, TARGET, Report, Rung
from adapter_stage1.evaluate_plots import plot_f1_by_bits, plot_f1_by_rung
from adapter_stage1.score import score
from trainworks.files import atomic_write, write_json

NUM_MISSES = 5
AT_LATENT_WIDTH = ("adapter", "adapter-unsnapped", "adapter-snapped", "decoded", "linear", "lookup")
"""Rungs that are rebuilt from the run's latents."""
BANDS = {
    "target": "on target",
    "success": "a success short of the target",
    "between": "neither a success nor a failure",
    "failure": "a failure",
}


def write_report(folder: Path, report: Report) -> None:
    """Write an evaluation into the folder, which is made if absent, each file whole, report.json last.

    - predictions.jsonl: a line a question with the answers of all rungs
    - f1.png, bits.png, and index.html, which holds them
    - report.json: `Report.to_json`
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, example in enumerate(report.examples):
        answers = {name: rung.answers[number] for name, rung in report.rungs.items()}
        record = {"id": example.id, "question": example.question, "gold": example.answers, "answers": answers}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    atomic_write(folder / "predictions.jsonl", "".join(lines))
    by_rung = plot_f1_by_rung(report.rungs)
    by_bits = plot_f1_by_bits(report.rungs, report.token_id_bits)
    atomic_write(folder / "f1.png", by_rung)
    atomic_write(folder / "bits.png", by_bits)
    atomic_write(folder / "index.html", report_page(report, by_rung, by_bits))
    write_json(folder / "report.json", report.to_json())


def report_page(report: Report, by_rung: bytes, by_bits: bytes) -> str:
    """The evaluation as one HTML page that needs no other file.

    Args:
        by_rung, by_bits: PNGs of F1 by rung and against bits.
    """
    judged, raw = report.judged, report.rungs["raw"]
    title = f"Prompts rebuilt from {judged['ratio']}x fewer numbers"
    facts = [
        ("run", judged["run"]),
        ("checkpoint", judged["checkpoint"]),
        ("model", f"{judged['model']['path']} (SHA-256 {judged['model']['sha256'][:12]}…)"),
        ("questions", f"{len(report.examples):,} of {judged['data']['path']}"),
        ("data", f"SHA-256 {judged['data']['sha256'][:12]}…"),
        ("ratio", f"{judged['ratio']}"),
        ("seed", f"{judged['seed']}, which draws the questions and the bootstrap"),
    ]
    header = [
        "rung",
        "F1",
        "exact match",
        "retention",
        "tokens found",
        "variance",
        "cosine",
        "perplexity",
        "bits/token",
    ]
    rows = [[name, *_cells(rung), RUNGS[name]] for name, rung in report.rungs.items()]
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            *(f"<p class=lead>{escape(line)}</p>" for line in _verdict_lines(report)),
            definitions(facts),
            "<h2>Bits, counted honestly</h2>",
            f"<p>{escape(_honest_bits(report))}</p>",
            "<h2>Ways to rebuild the prompt</h2>",
            figure(by_rung, _described("F1 by rung with 95 % bootstrap intervals", report)),
            table([*header, "what it is"], rows),
            "<p>Retention is F1 over the F1 of the true embeddings on the same questions; tokens found, variance and "
            "cosine are over the prompts' tokens by how often they occur; perplexity is that of the first gold answer. "
            "In brackets: 95 % bootstrap intervals over questions.</p>",
            figure(by_bits, _described("F1 against bits a token", report)),
            "<h2>Worst misses</h2>",
            *_misses(report),
            f"<p>The bands come from the original experiment, whose true embeddings got F1 {BASELINE:g}: target "
            f"{TARGET:g}, success {SUCCESS:g}, failure below {FAILURE:g}. Scaled bands are these times "
            f"{_number(raw.f1, 1)} / {BASELINE:g}, since this baseline is {_number(raw.f1, 1)}.</p>",
        ],
    )


def _verdict_lines(report: Report) -> list[str]:
    raw = report.rungs["raw"]
    beside = f"The model answers with F1 {_interval(raw.f1, raw.f1_interval, 1)} from the true embeddings"
    verdict = report.verdict()
    if not verdict:
        return [f"{beside}. The adapter was not among the rungs, so there is no verdict."]
    adapter = report.rungs["adapter"]
    return [
        f"{beside} and with F1 {_interval(adapter.f1, adapter.f1_interval, 1)} from what the adapter rebuilds: "
        f"retention {_interval(adapter.retention, adapter.retention_interval, 3)}.",
        f"By the bands scaled to this baseline that is {BANDS[verdict['scaled']]}; by the absolute bands it is "
        f"{BANDS[verdict['absolute']]}.",
    ]


def _honest_bits(report: Report) -> str:
    """What the compression is worth: the token's id takes fewer bits, and a lookup needs no training."""
    name = next((name for name in AT_LATENT_WIDTH if name in report.rungs), None)
    said = "A prompt is a sequence of rows of the model's embedding table. "
    if name is None:
        return said + f"The id of a token takes {report.token_id_bits} bits."
    bits = report.rungs[name].bits_per_token
    said += (
        f"So its latents, at 16 bits a number, cost {bits:,} bits a token against {report.token_id_bits} for the "
        f"token's id, from which the embedding is read off without loss: {bits / report.token_id_bits:.0f} times as "
        "much. It is not a way to send text cheaply; it tests whether a model can be fed from a compressed wire, "
        "which matters for vectors that are no row of a table. "
    )
    lookup = report.rungs.get("lookup")
    if lookup is not None:
        said += (
            f"The rung “lookup” takes the row whose latents are nearest and needs no training at all; its F1 is "
            f"{_number(lookup.f1, 1)}. "
        )
    else:
        said += "A lookup of the row whose latents are nearest needs no training at all (rung “lookup”). "
    return said + "An adapter is worth something on prompts only where it does better than that, by more than chance."


def _misses(report: Report) -> list[str]:
    """Questions that lose most of what the true embeddings get."""
    name = "adapter" if "adapter" in report.rungs else list(report.rungs)[-1]
    true_N = score(report.rungs["raw"].answers, report.examples)["f1_N"]
    lost_N = true_N - score(report.rungs[name].answers, report.examples)["f1_N"]
    worst = [number for number in (-lost_N).argsort(kind="stable")[:NUM_MISSES].tolist() if lost_N[number] > 0]
    if not worst:
        return [f"<p>No question is answered worse from “{escape(name)}” than from the true embeddings.</p>"]
    shown = [
        f"<p>{int((lost_N > 0).sum()):,} of {len(lost_N):,} questions are answered worse from “{escape(name)}” than "
        f"from the true embeddings, {int((lost_N < 0).sum()):,} better. The {len(worst)} that lose most:</p>"
    ]
    for number in worst:
        example = report.examples[number]
        answers = [(rung, report.rungs[rung].answers[number]) for rung in report.rungs]
        shown += [
            f"<h3>{escape(example.question)}</h3>",
            definitions([("gold", " / ".join(example.answers)), *answers]),
        ]
    return shown


def _cells(rung: Rung) -> list[str]:
    return [
        _interval(rung.f1, rung.f1_interval, 1),
        _interval(rung.exact_match, rung.exact_match_interval, 1),
        _interval(rung.retention, rung.retention_interval, 3),
        f"{rung.token_recovery:.2%}",
        _number(rung.explained_variance, 3),
        _number(rung.cosine, 3),
        _number(rung.perplexity, 2),
        f"{rung.bits_per_token:,}",
    ]


def _described(what: str, report: Report) -> str:
    """The text for whoever can't see a figure: its numbers."""
    values = ", ".join(
        f"{name} {_number(rung.f1, 1)} at {rung.bits_per_token:,} bits" for name, rung in report.rungs.items()
    )
    return f"{what}: {values}; the token's id takes {report.token_id_bits} bits"


def _interval(value: float, interval: tuple[float, float], digits: int) -> str:
    low, high = interval
    return f"{_number(value, digits)} [{_number(low, digits)}, {_number(high, digits)}]"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML page, light or dark as the reader's system is, without script; `body` is HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def figure(png: bytes, alt: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}"></figure>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells of plain text; the first of each row is its heading."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    ]
    body = "\n".join(lines)
    return f"<div class=wide><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, plain text both."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in pairs)}</dl>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5b6674; --line: #d8dde4; --back: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #a3adba; --line: #3a4450; --back: #14181d; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.lead { font-size: 1.1rem; max-width: 46rem; } p { max-width: 46rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; } tbody th { white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: #ffffff; border-radius: .4rem; padding: .6rem; }
img { max-width: 100%; height: auto; display: block; margin: auto; }
"""
