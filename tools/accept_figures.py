"""The headline figures of what an acceptance recipe wrote: a name for each, and a number or, in a table, its text."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from typing import Any

Figures = dict[str, float | str]
Reader = Callable[[str], Figures]

REPLY_METRICS = (
    "bleu_4",
    "rouge_l",
    "distinct_1",
    "distinct_2",
    "corpus_distinct_2",
    "repetition_rate",
    "quality_score",
)


def markdown(text: str) -> Figures:
    """Every cell of every Markdown table by "row | column"; where there are several tables, by "title: row | column".

    The title is the last line of prose above. A row is named by its first cell, or by the first two if several rows
    have the same first one.
    """
    tables: list[tuple[str, list[list[str]]]] = []
    title, above = "", ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not above.startswith("|"):
                tables.append((title, []))
            tables[-1][1].append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif line.strip():
            title = line.strip().rstrip(":")
        above = line
    figures: Figures = {}
    for title, (head, _, *rows) in tables:
        firsts = [row[0] for row in rows]
        named_by = 1 if len(set(firsts)) == len(firsts) else 2
        prefix = f"{title}: " if title and len(tables) > 1 else ""
        for row in rows:
            name = " ".join(row[:named_by])
            for column, cell in list(zip(head, row, strict=True))[named_by:]:
                figures[f"{prefix}{name} | {column}"] = number(cell)
    return figures


def number(cell: str) -> float | str:
    """The cell as a number where it is nothing but one, as it stands otherwise ("0.582 ± 0.004", "81 %", "-")."""
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return cell


def leaves(value: Any, name: str = "") -> Figures:
    """Every number in nested JSON objects by its dotted name."""
    if isinstance(value, Mapping):
        found: Figures = {}
        for key, item in value.items():
            found |= leaves(item, f"{name}.{key}" if name else key)
        return found
    return {name: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def numbers(text: str) -> Figures:
    """Every number of a JSON file."""
    return leaves(json.loads(text))


def faults(text: str) -> Figures:
    """Of tools/accept_faults.py, by fault: how many were tried, and what came of them."""
    return leaves(json.loads(text)["totals"])


def voice_limits(text: str) -> Figures:
    """Of tools/accept_voices.py, what stands below its tables: memory, pieces, ONNX."""
    return leaves(json.loads(text)["limits"])


def sweep(text: str) -> Figures:
    """Of adapter-stage1's sweep.json: means and, over several seeds, deviations by ratio, objective, examples, rung."""
    record = json.loads(text)
    found = {f"raw.{key}": value for key, value in leaves(record["baseline"]).items() if key in ("f1", "perplexity")}
    for group in record["summary"]:
        name = f"{group['ratio']}x.{group['objective']}.{group['examples']}.{group['rung']}"
        found |= leaves({name: group["mean"]}) | leaves({f"{name}.deviation": group["deviation"]})
    return found


def replies(text: str) -> Figures:
    """Of diversity-finetune's report.json: what is quoted of each system."""
    systems = json.loads(text)["systems"]
    return leaves({name: {key: found.get(key) for key in REPLY_METRICS} for name, found in systems.items()})


def variants(text: str) -> Figures:
    """Of ablate's comparison.json: by metric and variant the mean over the seeds and what its words say."""
    found: Figures = {}
    for table in json.loads(text)["metrics"]:
        for row in table["variants"]:
            name = f"{table['metric']} | {row['variant']}"
            found |= leaves({name: {"mean": row["mean"]}}) | {f"{name}.words": row["words"]}
    return found


def benches(text: str) -> Figures:
    """Of tools/bench.py: ratios, and what they are of."""
    found: Figures = {}
    for bench in json.loads(text)["benches"].values():
        found |= comparisons(json.dumps(bench["comparisons"]))
    return found


def comparisons(text: str) -> Figures:
    """Of one bench script's --json: ratio, ours and theirs."""
    found: Figures = {}
    for one in json.loads(text):
        shown = {key: one[key] for key in ("ratio", "ours", "theirs")}
        found |= leaves({f"{one['tool']}, {one['measure']}, beside {one['peer']}": shown})
    return found


def health(text: str) -> Figures:
    """Of tools/calibrate_health.py: faults found in time, and false alarms among healthy trainings."""
    outcomes = json.loads(text)
    found: Figures = {}
    for fault in dict.fromkeys(outcome["fault"] for outcome in outcomes if outcome["fault"]):
        after = [outcome["found_after"] for outcome in outcomes if outcome["fault"] == fault]
        seen = [steps for steps in after if steps is not None]
        found[f"{fault}, found"] = f"{len(seen)} of {len(after)}"
        if seen:
            found[f"{fault}, median steps"] = statistics.median(seen)
    healthy = [outcome for outcome in outcomes if not outcome["fault"]]
    found["healthy, with a false alarm"] = f"{sum(bool(one['false_alarms']) for one in healthy)} of {len(healthy)}"
    found["healthy, with a warning"] = f"{sum(bool(one['warnings']) for one in healthy)} of {len(healthy)}"
    return found


def two_sample(text: str) -> Figures:
    """Of disc-train's evaluation: the AUC of telling rows from test rows."""
    return leaves(json.loads(text)["two_sample"]["auc"])


def moved(old: Mapping[str, float | str], new: Mapping[str, float | str]) -> list[str]:
    """A line for each figure that is not what it was, that is gone, or that is new."""
    lines = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = (shown(figures[name]) if name in figures else "nothing" for figures in (old, new))
        if before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines


def shown(figure: float | str) -> str:
    """Four digits of a number: less is noise of the last bits."""
    return figure if isinstance(figure, str) else f"{figure:.4g}"
