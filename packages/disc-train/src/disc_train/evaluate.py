"""How good are synthetic rows? Validity, detection, usefulness, privacy and marginals in one report.

Each figure stands beside a baseline: other real rows, and a generator that knows no relation between columns.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainworks.console import AnswerNo, UserError, progress
from trainworks.files import json_ready, write_json

if TYPE_CHECKING:
    import pandas as pd

    from disc_train.data import Table
    from disc_train.schema import Schema

REPORT = "report.json"
MIN_ROWS = 20
"""Below this, five folds have too few rows a side for any figure to mean something."""

MAX_EXAMPLES = 5


def evaluate_files(
    train: str,
    test: str,
    synth: str,
    target: str | None,
    out: Path | None,
    seeds: int,
    as_json: bool,
    fail_over: float | None,
    threads: int | None,
) -> None:
    """The command `evaluate`: tables come from files, the report goes to stdout, as text or as JSON.

    Args:
        seeds: number of repetitions.
        fail_over: the highest two-sample AUC of XGBoost that counts as success.
        threads: None for what is free.

    Raises:
        UserError: as `evaluate` and `read_table`, or `out` holds the report of another tool.
        AnswerNo: the AUC is above `fail_over`.
    """
    from disc_train.data import read_table
    from trainworks.torch import set_threads

    if [train, test, synth].count("-") > 1:
        raise UserError("only one of the three tables can come from stdin")
    if out is not None and (out / REPORT).exists():
        _check_ours(out / REPORT)
    tables = [read_table(source) for source in (train, test, synth)]
    report = evaluate(*tables, target=target, seeds=range(seeds), out=out, threads=set_threads(threads))
    print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) if as_json else format_report(report))
    auc = report["two_sample"]["auc"]["synthetic"]["xgboost"]["mean"]
    if fail_over is not None and auc > fail_over:
        raise AnswerNo(f"XGBoost's two-sample AUC is {auc:.3f}, above {fail_over}")


def _check_ours(file: Path) -> None:
    try:
        ours = "two_sample" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise UserError(f"{file} is no report of disc-train evaluate; name another --out")


def evaluate(
    train: Table,
    test: Table,
    synth: Table,
    *,
    target: str | None,
    seeds: Sequence[int] = (0, 1, 2),
    out: Path | None,
    threads: int = 1,
    quality_report: bool = True,
) -> dict[str, Any]:
    """Compare synthetic rows with the real rows that the generator saw (train) and with others (test).

    Args:
        target: column that the utility section predicts; None leaves that section out.
        seeds: one repetition each of the sections that draw rows, shuffle or fit; spreads are over these.
        out: folder for report.json and plots/*.png; None writes nothing.
        threads: most threads that any fit uses.
        quality_report: run sdmetrics' reports too.

    Returns:
        What report.json holds: rows, seeds, validity, two_sample, utility, privacy, marginals, quality; the
        function of each section says more. NaN is None.

    Raises:
        UserError: the tables have different columns, or fewer than `MIN_ROWS` rows; the target is not a
            column, is constant, or has too many classes.
    """
    from threadpoolctl import threadpool_limits

    from disc_train import evaluate_plots, marginals, privacy, two_sample, utility
    from disc_train.evaluate_features import Features
    from disc_train.schema import Schema

    test, synth = _check_tables(train, test, synth)
    _check_target(target, train, test)
    if not seeds:
        raise UserError("no seeds are given: name at least one")
    fits = len(seeds) * len(two_sample.SOURCES) * len(two_sample.FAMILIES)
    fits += len(seeds) * len(utility.SOURCES) * len(utility.LEARNERS) if target else 0
    with progress(fits + 5, "evaluating") as bar, threadpool_limits(threads):
        schema = Schema.infer(train)
        features = Features.fit(schema, [train, test, synth])
        numbers = [features.numbers(table) for table in (train, test, synth)]
        report: dict[str, Any] = {
            "rows": {"train": len(train), "test": len(test), "synthetic": len(synth)},
            "seeds": list(seeds),
            "validity": {"synthetic": validity(schema, synth), "test rows": validity(schema, test)},
        }
        bar.advance()
        # The target is checked by this section, so it goes before the slower one.
        report["utility"] = target and utility.utility(
            features, target, *numbers, seeds=seeds, threads=threads, step=bar.advance
        )
        report["two_sample"] = two_sample.two_sample(features, *numbers, seeds=seeds, threads=threads, step=bar.advance)
        report["privacy"], distances = privacy.privacy(features, *numbers, seeds=seeds, step=bar.advance)
        report["marginals"], association_differences = marginals.marginals(features, *numbers)
        report["quality"] = quality(schema, features, *numbers) if quality_report else None
        report = json_ready(report)
        bar.advance()
        if out is not None:
            (out / "plots").mkdir(parents=True, exist_ok=True)
            evaluate_plots.plot_all(out / "plots", features, numbers, report, distances, association_differences)
            write_json(out / REPORT, report)
    return report


def _check_tables(train: Table, test: Table, synth: Table) -> tuple[Table, Table]:
    """The test and the synthetic table with their columns in the train table's order."""
    for table, which in ((train, "train"), (test, "test"), (synth, "synthetic")):
        if len(table) < MIN_ROWS:
            raise UserError(f"the {which} table has {len(table)} rows: at least {MIN_ROWS} are needed")
    ordered = []
    for table, which in ((test, "test"), (synth, "synthetic")):
        lacks = [f'"{name}"' for name in train.columns if name not in table.columns]
        adds = [f'"{name}"' for name in table.columns if name not in train.columns]
        if lacks or adds:
            lack, add = f"it lacks {_some(lacks)}", f"only it has {_some(adds)}"
            how = "; ".join([lack] * bool(lacks) + [add] * bool(adds))
            raise UserError(f"the {which} table has other columns than the train table: {how}")
        ordered.append(replace(table, columns=train.columns, cells=[table.column(name) for name in train.columns]))
    return ordered[0], ordered[1]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_EXAMPLES:,} more" if len(names) > MAX_EXAMPLES else ""
    return ", ".join(names[:MAX_EXAMPLES]) + more


def _check_target(target: str | None, train: Table, test: Table) -> None:
    if target is None:
        return
    for table, which in ((train, "train"), (test, "test")):
        if len(set(table.column(target).tolist()) - {None}) < 2:
            raise UserError(f'column "{target}" is constant in the {which} rows: choose another target, or none')


def validity(schema: Schema, table: Table) -> dict[str, Any]:
    """Share of rows whose every cell the schema of the train rows allows, and the cells that it does not.

    Returns:
        valid_rows (share), and columns: name -> {cells, examples: [{row (counted from 1), value, reason}]}.
    """
    columns: dict[str, dict[str, Any]] = {}
    invalid_rows = set()
    for row, name, reason in schema.validate(table):
        invalid_rows.add(row)
        found = columns.setdefault(name, {"cells": 0, "examples": []})
        found["cells"] += 1
        if len(found["examples"]) < MAX_EXAMPLES:
            found["examples"].append({"row": row + 1, "value": table.column(name)[row], "reason": reason})
    return {"valid_rows": 1 - len(invalid_rows) / len(table), "columns": columns}


def quality(schema: Schema, features: Any, train_NC: Any, test_NC: Any, synth_NC: Any) -> dict[str, Any]:
    """Scores of sdmetrics' quality and diagnostic reports (1 is best) against the train rows.

    Returns:
        source (synthetic, test rows) -> report (quality, diagnostic) -> property -> score; "overall" is the
        report's own.
    """
    kinds = {name: schema.column(name).kind for name in schema.names}
    sdtypes = {"categorical": "categorical", "boolean": "categorical"}
    columns = {name: {"sdtype": sdtypes.get(kind, "numerical")} for name, kind in kinds.items()}
    metadata = {"tables": {"rows": {"columns": columns}}}
    real = _frame(features, train_NC)
    scores: dict[str, Any] = {}
    for source, rows_NC in (("synthetic", synth_NC), ("test rows", test_NC)):
        scores[source] = _sdmetrics_scores(real, _frame(features, rows_NC), metadata)
    return scores


def _frame(features: Any, numbers_NC: Any) -> pd.DataFrame:
    import pandas as pd

    names = [column.name for column in features.columns]
    frame = pd.DataFrame(numbers_NC, columns=names)
    codes = [column.name for column in features.columns if column.categorical]
    return frame.astype(dict.fromkeys(codes, "int64")).astype(dict.fromkeys(codes, "str"))


def _sdmetrics_scores(real: pd.DataFrame, synth: pd.DataFrame, metadata: dict[str, Any]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    # It prints, shows bars and warns about constant columns; a report has no say about stdout.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from sdmetrics.reports import DiagnosticReport, QualityReport

        for name, kind in (("quality", QualityReport), ("diagnostic", DiagnosticReport)):
            made = kind()
            made.generate({"rows": real}, {"rows": synth}, metadata, verbose=False)
            properties = made.get_properties()
            scores[name] = {"overall": float(made.get_score())} | {
                str(row.Property): float(row.Score) for row in properties.dropna().itertuples()
            }
    return scores


def format_report(report: dict[str, Any]) -> str:
    """The report as plain text for a terminal: one table a section, mean +- deviation over the seeds."""
    counts = ", ".join(f"{count:,} {which}" for which, count in report["rows"].items())
    sections = [
        [f"rows: {counts}; {len(report['seeds'])} seeds"],
        _format_validity(report["validity"]),
        _format_two_sample(report["two_sample"]),
        _format_utility(report["utility"]) if report["utility"] else [],
        _format_privacy(report["privacy"]),
        _format_marginals(report["marginals"], report["quality"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _format_validity(section: dict[str, Any]) -> list[str]:
    shares = [f"{source} {found['valid_rows']:.2%}" for source, found in section.items()]
    lines = [f"valid rows, by the rules of the train rows: {', '.join(shares)}"]
    for name, found in section["synthetic"]["columns"].items():
        example = found["examples"][0]
        where = f"{example['value']!r} in row {example['row']:,}"
        lines.append(f"  {name}: {found['cells']:,} cells, such as {where}: {example['reason']}")
    return lines


def _format_two_sample(section: dict[str, Any]) -> list[str]:
    families = list(section["auc"]["synthetic"])
    body = {source: [_mean(by[family]) for family in families] for source, by in section["auc"].items()}
    return [
        f"two-sample test, AUC of telling rows from {section['rows']:,} test rows (0.5 is best)",
        *_table(families, body),
    ]


def _format_utility(section: dict[str, Any]) -> list[str]:
    task = f"{section['task']} of {section['target']}"
    title = f"utility, {task} on the test rows after learning from {section['rows']:,} rows of"
    metrics = list(section["majority"])
    body = {
        f"{learner}: {source}": [_mean(by[metric]) for metric in metrics]
        for learner in next(iter(section["scores"].values()))
        for source, by in ((source, learners[learner]) for source, learners in section["scores"].items())
    }
    constant = "majority class" if section["task"] == "classification" else "mean"
    body[constant] = [_number(value) for value in section["majority"].values()]
    return [title, *_table(metrics, body)]


def _format_privacy(section: dict[str, Any]) -> list[str]:
    body = {
        source: [
            _number(section[source]["median"]),
            _number(section[source]["q05"]),
            _mean(section[source]["closer_to_train"]) if "closer_to_train" in section[source] else "-",
        ]
        for source in ("synthetic", "test rows", "independent columns")
    }
    copies = section["copies"]
    return [
        "privacy, distance to the closest train row; share closer to train than to test rows (0.5 is best)",
        *_table(["median", "5 % quantile", "closer to train"], body),
        f"exact copies of train rows: {copies['count']:,} of {copies['rows']:,}; the test rows' own rate "
        f"of {copies['test_share']:.2%} gives {copies['expected']:,.1f} +- {copies['expected_std']:,.1f}",
    ]


def _format_marginals(section: dict[str, Any], sdmetrics: dict[str, Any] | None) -> list[str]:
    titles, means = (
        ["column distance", "association difference"],
        ("mean_distance", "mean_association_difference"),
    )
    body = {source: [_number(section[mean][source]) for mean in means] for source in ("synthetic", "test rows")}
    if sdmetrics:
        titles += ["sdmetrics quality", "sdmetrics diagnostic"]
        for source, cells in body.items():
            cells += [_number(sdmetrics[source][name]["overall"]) for name in ("quality", "diagnostic")]
    worst = [f"{name} {by['synthetic']:.3f}" for name, by in list(section["columns"].items())[:3]]
    return ["marginals, against train rows", *_table(titles, body), f"farthest columns: {', '.join(worst)}"]


def _table(titles: list[str], body: dict[str, list[str]]) -> list[str]:
    first = max(map(len, body))
    widths = [max(len(title), *(len(cells[i]) for cells in body.values())) for i, title in enumerate(titles)]
    grid = {"": titles, **body}
    lines = []
    for name, cells in grid.items():
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(["", name.ljust(first), *padded]))
    return lines


def _mean(figure: dict[str, Any]) -> str:
    spread = "" if figure["std"] is None else f" +- {figure['std']:.3f}"
    return _number(figure["mean"]) + spread


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
