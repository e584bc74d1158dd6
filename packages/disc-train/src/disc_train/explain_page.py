"""One HTML page of an explanation, with its pictures in it; everything that comes from data is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from disc_train.config import LEVELS

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: #fff; }
table { border-collapse: collapse; }
th, td { padding: .2rem .7rem; text-align: right; } th:first-child { text-align: left; }
.row { margin: 1rem 0; } .cell { border-radius: .2rem; padding: 0 .15rem; }
.scroll { overflow-x: auto; }
"""


LESS = ", of which less is better"


def explain_page(found: Mapping[str, Any]) -> str:
    """The page of what `explain` found."""
    parts = [f"<h1>Objectives of {escape(found['run'])}</h1>", f"<p>Status of the run: {escape(found['status'])}.</p>"]
    if found["ablation"]:
        parts += _ablation(found["ablation"])
    if found["rows"]:
        parts += _rows(found["rows"])
    parts += _history(found["history"])
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Objectives of {escape(found['run'])}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _ablation(found: Mapping[str, Any]) -> list[str]:
    metric = escape(found["metric"])
    rows = [(name, effect) for name, effect in found["differences"].items()]
    shares = [(name, effect) for name, effect in found["shapley"].items()]
    seeds = found["seeds"]
    gradients = sorted(found["gradients"].items())
    return [
        "<h2>Which objective matters?</h2>",
        f"<p>By {metric}{LESS if found['metric'].startswith('valid/') else ''}; "
        f"{seeds} seed{'' if seeds == 1 else 's'}, each with a warm start that its "
        "trainings share. Intervals are 95 % by Student's t, and take three seeds at least.</p>",
        f"<h3>Difference from the full recipe</h3>{_effects(rows)}",
        _picture("Differences from the full recipe with their intervals", lambda axes: _draw_effects(axes, rows)),
        "<h3>Shapley values</h3><p>Each objective's share of what all of them together change; they add up to it.</p>"
        f"{_effects(shares)}",
        "<h3>Gradients at the generator, full recipe</h3><p>Means over steps and seeds; the pictures show the first "
        "seed. A cosine below 0 is a conflict.</p>"
        + _table(["", "mean"], [(name, _number(value)) for name, value in gradients]),
        *_curves(found["gradients_along"], _gradients(found["gradients_along"])),
    ]


def _gradients(curves: Mapping[str, Any]) -> dict[str, list[str]]:
    """Curves of gradients, by the picture that they are in."""
    return {
        "Gradient norm at the generator": [name for name in curves if name.startswith("gradient/")],
        "Cosine of gradients at the generator": [name for name in curves if name.startswith("cosine/")],
    }


def _effects(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    cells = []
    for name, effect in rows:
        interval = "-" if effect["low"] is None else f"{_number(effect['low'])} to {_number(effect['high'])}"
        cells.append((name, _number(effect["mean"]), interval))
    return _table(["", "mean", "95 % interval"], cells)


def _draw_effects(axes: Any, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    for place, (_, effect) in enumerate(reversed(rows)):
        if effect["low"] is not None:
            axes.plot([effect["low"], effect["high"]], [place, place], color="C0")
        axes.plot(effect["by_seed"], [place] * len(effect["by_seed"]), "|", color="0.6")
        axes.plot(effect["mean"], place, "o", color="C0")
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [
        "<h2>Single rows</h2>",
        "<p>Score times weight of each objective, in nats: above 0 speaks for a real row. Below, what each cell adds "
        "to the row level's verdict against an average row (integrated gradients): blue for it, red against it.</p>",
        _picture("Contribution of each objective to each row, stacked", lambda axes: _draw_contributions(axes, rows)),
    ]
    for number, row in enumerate(rows):
        most = max(map(abs, row["tokens"].values())) or 1.0
        cells = ", ".join(
            _cell(f"{name} is {row['cells'][name]}", value, most) for name, value in row["tokens"].items()
        )
        figures = ", ".join(f"{level} {_number(row['contributions'][level])}" for level in LEVELS)
        shown.append(f'<div class="row"><strong>{number + 1}.</strong> {cells}<br><small>{figures}</small></div>')
    return shown


def _cell(text: str, value: float, most: float) -> str:
    color = "30,110,220" if value > 0 else "220,50,50"
    shade = f"background: rgba({color},{0.6 * abs(value) / most:.2f})"
    return f'<span class="cell" style="{shade}" title="{_number(value)} nats">{escape(text)}</span>'


def _draw_contributions(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(1, len(rows) + 1)
    above, below = [0.0] * len(rows), [0.0] * len(rows)
    for number, level in enumerate(LEVELS):
        values = [row["contributions"][level] for row in rows]
        bottoms = [above[row] if value > 0 else below[row] for row, value in enumerate(values)]
        axes.bar(places, values, bottom=bottoms, color=f"C{number}", label=level)
        for row, value in enumerate(values):
            if value > 0:
                above[row] += value
            else:
                below[row] += value
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(places)
    axes.set_xlabel("row")
    axes.set_ylabel("score x weight, nats")
    axes.legend()


def _history(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[str]:
    groups = {
        "Loss of each objective": [f"train/{level}_loss" for level in LEVELS],
        "Weight": [f"weight/{level}" for level in LEVELS],
        "Share of the weighted total": [f"share/{level}" for level in LEVELS],
        **_gradients(curves),
        "Held-out AUC of the discriminators": [f"disc/{level}/auc" for level in LEVELS],
        "Validation two-sample AUC": ["valid/two_sample_auc"],
    }
    return ["<h2>Along training</h2>", *_curves(curves, groups)]


def _curves(curves: Mapping[str, Sequence[tuple[int, float]]], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """A picture of each group of curves of which there are any."""
    shown = []
    for title, names in groups.items():
        present = [name for name in names if name in curves]
        if present:

            def draw(axes: Any, present: list[str] = present) -> None:
                for name in present:
                    steps, values = zip(*curves[name], strict=True)
                    axes.plot(steps, values, label=name, marker="." if len(steps) < 30 else None)
                axes.set_xlabel("step")
                axes.legend()

            ends = ", ".join(f"{name} {_number(curves[name][-1][1])}" for name in present)
            shown += [f"<h3>{title}</h3>", _picture(f"{title}; at the end: {ends}", draw)]
    return shown


def _picture(text: str, draw: Callable[[Any], None]) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.subplots())
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float) -> str:
    return f"{value:+.4f}"
