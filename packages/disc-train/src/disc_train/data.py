"""Rows in and out: CSV and JSON Lines as a table of raw text, so that every value leaves as it came.

Legend: N rows, C columns.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from trainworks.console import UserError
from trainworks.files import atomic_write
from trainworks.seeding import rng

BUILTINS = ("fair", "anes96", "breast_cancer")
"""Tables that a dependency's wheel carries: two from statsmodels, one from scikit-learn."""

_BATCH_ROWS = 8192
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_CELL_END = re.compile(r",|\r?\n|\r?\Z")
_NEEDS_QUOTES = re.compile('[,"\r\n\ufeff]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_LITERAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false")


@dataclass(eq=False)
class Table:
    """Rows as raw text, column by column.

    Attributes:
        columns: C distinct names.
        cells: for each column an object array (N,) of `str | None`; None is a missing cell.
        text_columns: columns whose cells are always strings in JSON. In the others a cell that reads as a
            JSON number or boolean is written bare.
        source: where the rows come from, for messages; empty for rows made here.
    """

    columns: tuple[str, ...]
    cells: list[np.ndarray]
    text_columns: frozenset[str] = frozenset()
    source: str = ""

    def __len__(self) -> int:
        return len(self.cells[0]) if self.cells else 0

    def __eq__(self, other: object) -> bool:
        """Same names and the same text in every cell; how JSON wrote it does not matter."""
        if not isinstance(other, Table):
            return NotImplemented
        return self.columns == other.columns and all(map(np.array_equal, self.cells, other.cells))

    def column(self, name: str) -> np.ndarray:
        """Cells (N,) of one column.

        Raises:
            UserError: there is no such column; the nearest one is named.
        """
        if name not in self.columns:
            where = f"{self.source} has " if self.source else "there is "
            raise UserError(f'{where}no column "{name}"{did_you_mean(name, self.columns)}')
        return self.cells[self.columns.index(name)]

    def take(self, rows: Any) -> Table:
        """The rows that an index array, a boolean mask or a slice names, in its order."""
        return Table(self.columns, [column[rows] for column in self.cells], self.text_columns)

    def concat(self, *others: Table) -> Table:
        """These rows, then those of `others`, which must have the same columns in the same order."""
        if any(other.columns != self.columns for other in others):
            raise ValueError("the tables differ in their columns")
        parts = zip(*(table.cells for table in (self, *others)), strict=True)
        return Table(self.columns, [np.concatenate(column) for column in parts], self.text_columns)

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the names and cells, whatever file held them."""
        sha = hashlib.sha256()
        for name, cells in zip(self.columns, self.cells, strict=True):
            sha.update(json.dumps([name, *cells.tolist()]).encode())
        return sha.hexdigest()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """How a message about an unknown name ends: the nearest known one, or all of them where none is near."""
    known = list(known)
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f'; did you mean "{near[0]}"?'
    if near := [other for other in known if other.casefold() == name.casefold()]:
        return f'; did you mean "{near[0]}"?'
    shown = ", ".join(f'"{other}"' for other in known[:8])
    return f"; known: {shown}{', ...' if len(known) > 8 else ''}" if known else ""


def cell_array(cells: Sequence[str | None]) -> np.ndarray:
    """An object array (N,) of these cells."""
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


def read_table(source: str | Path, format: str | None = None, *, min_rows: int = 2) -> Table:
    """Read rows.

    In CSV an empty cell is missing and a quoted empty one, `""`, is an empty string. A blank line is skipped,
    except in a table of one column, where it is a missing cell. In JSON Lines null and an absent key are
    missing, numbers keep their own text and the columns are the union of the keys.

    Args:
        source: a path, `-` for stdin, or `builtin:NAME` with a name of `BUILTINS`.
        format: "csv" or "jsonl"; by default the file's extension tells, and the first character where that is
            silent.
        min_rows: rows below which the table is refused; one row is no table to learn from.

    Raises:
        UserError: no such file, or what is wrong in it, with the line.
    """
    name = str(source)
    if name.startswith("builtin:"):
        return _read_builtin(name)
    data = _read_bytes(name)
    where = "stdin" if name == "-" else name
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: not UTF-8; convert the file, for example with iconv") from None
    del data
    if not text.strip():
        raise UserError(f"{where} is empty; a header and rows were wanted")
    table = (_read_jsonl if _format_of(name, text, format) == "jsonl" else _read_csv)(text, where)
    if len(table) < min_rows:
        have = "only a header and no rows" if len(table) == 0 else f"only {len(table)} row"
        raise UserError(f"{where} has {have}; at least {min_rows} rows are needed")
    return table


def _read_bytes(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except FileNotFoundError:
        known = ", ".join(f"builtin:{builtin}" for builtin in BUILTINS)
        raise UserError(
            f"no such file: {name}; a CSV or JSON Lines file of rows was wanted, or one of {known}"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{name} is a directory; a CSV or JSON Lines file of rows was wanted") from None


def _format_of(name: str, text: str, format: str | None) -> str:
    if format is not None:
        if format not in ("csv", "jsonl"):
            raise UserError(f'unknown format "{format}" of rows; use csv or jsonl')
        return format
    extension = Path(name).suffix.lower()
    if extension in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    return "csv" if extension == ".csv" or not text.lstrip().startswith("{") else "jsonl"


class _Columns:
    """Gathers rows into columns, with one string object for all equal cells of a column."""

    def __init__(self, num_columns: int) -> None:
        self._parts: list[list[np.ndarray]] = [[] for _ in range(num_columns)]
        self._seen: list[dict[Any, Any]] = [{} for _ in range(num_columns)]

    def add(self, rows: Sequence[Sequence[str | None]]) -> None:
        for parts, seen, cells in zip(self._parts, self._seen, zip(*rows, strict=True), strict=True):
            parts.append(cell_array(list(map(seen.setdefault, cells, cells))))

    def arrays(self) -> list[np.ndarray]:
        return [np.concatenate(parts) if parts else cell_array([]) for parts in self._parts]

    def distinct(self) -> list[set[str]]:
        return [seen.keys() - {None} for seen in self._seen]


def _check_separator(columns: tuple[str, ...], where: str) -> None:
    """Refuse a table whose one column is many that something else than commas parts."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and separator in columns[0]:
            raise UserError(f"{where}: one column, with {name} in its name; if they part columns, write commas")


def _read_csv(text: str, where: str) -> Table:
    records = _csv_records(text, where)
    line, header = next(records)
    columns = _check_names(["" if name is None else name for name in header], f"{where}, line {line}")
    _check_separator(columns, f"{where}, line {line}")
    gathered = _Columns(len(columns))
    while batch := list(itertools.islice(records, _BATCH_ROWS)):
        rows = [cells for line, cells in batch if _is_row(cells, len(columns), f"{where}, line {line}")]
        if rows:
            gathered.add(rows)
    literal = (all(map(_JSON_LITERAL.fullmatch, cells)) for cells in gathered.distinct())
    text_columns = frozenset(name for name, bare in zip(columns, literal, strict=True) if not bare)
    return Table(columns, gathered.arrays(), text_columns, where)


def _is_row(cells: list[str | None], num_columns: int, where: str) -> bool:
    """False for a blank line.

    Raises:
        UserError: the row is longer or shorter than the header.
    """
    if len(cells) == num_columns:
        return True
    if cells == [None]:
        return False
    count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
    raise UserError(f"{where}: {count} where the header names {num_columns}; mend that row or its quotes")


def _csv_records(text: str, where: str) -> Iterator[tuple[int, list[str | None]]]:
    """Line number and cells of each record (RFC 4180). Unlike the csv module it tells `""` from an empty
    cell."""
    if "\n" not in text:
        text = text.replace("\r", "\n")
    start, line = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        record = text[start:end]
        if '"' not in record:
            yield line, [cell or None for cell in record.removesuffix("\r").split(",")]
            start, line = end + 1, line + 1
        else:
            cells, after = _quoted_record(text, start, f"{where}, line {line}")
            yield line, cells
            start, line = after, line + text.count("\n", start, after)


def _quoted_record(text: str, start: int, where: str) -> tuple[list[str | None], int]:
    """Cells of the record that begins at `start`, and where the next one begins."""
    cells: list[str | None] = []
    while True:
        if text.startswith('"', start):
            quoted = _QUOTED.match(text, start)
            if quoted is None:
                raise UserError(f"{where}: a quote opens cell {len(cells) + 1} and nothing closes it")
            cells.append(quoted[1].replace('""', '"'))
            end = _CELL_END.match(text, quoted.end())
            if end is None:
                raise UserError(f"{where}: text follows the closing quote of cell {len(cells)}; double inner quotes")
        else:
            end = _CELL_END.search(text, start)
            assert end is not None  # the pattern matches at the end of the text
            cells.append(text[start : end.start()] or None)
        if end[0] != ",":
            return cells, end.end()
        start = end.end()


def _check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if not name.strip():
            raise UserError(f"{where}: the name of column {index + 1} is empty; give it one")
        if _SURROGATE.search(name):
            raise UserError(f"{where}: the name of column {index + 1} holds half a surrogate pair; mend it")
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise UserError(f'{where}: two columns are named "{twice}"; rename one')
    return tuple(names)


class _Bare(str):
    """The source text of a JSON number."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key "{next(key for key in keys if keys.count(key) > 1)}" stands there twice')
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; write null")


def _read_jsonl(text: str, where: str) -> Table:
    decoder = json.JSONDecoder(
        parse_float=_Bare, parse_int=_Bare, parse_constant=_no_constant, object_pairs_hook=_unique_keys
    )
    rows: list[dict[str, str | None]] = []
    forms: dict[str, set[str]] = {}  # per column the forms that its values took: bare, string, ambiguous string
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line.strip())
            if not isinstance(row, dict):
                raise ValueError("one JSON object a line was wanted")
            rows.append({key: _json_cell(value, key, forms.setdefault(key, set())) for key, value in row.items()})
        except json.JSONDecodeError as error:
            raise UserError(f"{where}, line {number}: not JSON: {error.msg} at character {error.pos + 1}") from None
        except RecursionError:
            raise UserError(f"{where}, line {number}: values are nested; a row has one text or number a key") from None
        except ValueError as error:
            raise UserError(f"{where}, line {number}: {error}") from None
    columns = _check_names(list(forms), where)
    gathered = _Columns(len(columns))
    for start in range(0, len(rows), _BATCH_ROWS):
        gathered.add([[row.get(name) for name in columns] for row in rows[start : start + _BATCH_ROWS]])
    text_columns = {name for name, seen in forms.items() if "ambiguous" in seen or seen == {"string"}}
    return Table(columns, gathered.arrays(), frozenset(text_columns), where)


def _json_cell(value: Any, key: str, forms: set[str]) -> str | None:
    if isinstance(value, _Bare):
        forms.add("bare")
        return str(value)
    if isinstance(value, bool):
        forms.add("bare")
        return "true" if value else "false"
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise ValueError(f'the value of "{key}" holds half a surrogate pair; mend it')
        forms.add("ambiguous" if _JSON_LITERAL.fullmatch(value) else "string")
        return value
    if value is None:
        return None
    raise ValueError(f'the value of "{key}" is nested; a row has one text or number a key')


def write_rows(table: Table, stream: TextIO, format: str, header: bool = True) -> None:
    """Write rows so that `read_table` gives back the same table; call it again with `header=False` to add
    rows.

    Args:
        format: "csv" or "jsonl".
        header: CSV alone: begin with the column names.
    """
    if format == "csv":
        if header:
            stream.write(",".join(map(_csv_cell, table.columns)) + "\n")
        forms: list[Callable[[str | None], str]] = [_csv_cell] * len(table.columns)
        joint, open_row, close_row = ",", "", "\n"
    elif format == "jsonl":
        forms = [_json_form(name, name in table.text_columns) for name in table.columns]
        joint, open_row, close_row = ", ", "{", "}\n"
    else:
        raise UserError(f'unknown format "{format}" of rows; use csv or jsonl')
    for start in range(0, len(table), _BATCH_ROWS):
        columns = [
            map(_Memo(form).__getitem__, cells[start : start + _BATCH_ROWS].tolist())
            for form, cells in zip(forms, table.cells, strict=True)
        ]
        rows = map(joint.join, zip(*columns, strict=True))
        stream.write(open_row + (close_row + open_row).join(rows) + close_row)


class _Memo(dict[Any, str]):
    """Remembers what `form` made of each distinct cell."""

    def __init__(self, form: Callable[[str | None], str]) -> None:
        super().__init__()
        self._form = form

    def __missing__(self, cell: str | None) -> str:
        self[cell] = formed = self._form(cell)
        return formed


def _csv_cell(cell: str | None) -> str:
    if cell is None:
        return ""
    if cell == "" or _NEEDS_QUOTES.search(cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _json_form(name: str, text: bool) -> Callable[[str | None], str]:
    key = json.dumps(name, ensure_ascii=False) + ": "

    def form(cell: str | None) -> str:
        if cell is None:
            return key + "null"
        if not text and _JSON_LITERAL.fullmatch(cell):
            return key + cell
        return key + json.dumps(cell, ensure_ascii=False)

    return form


def _read_builtin(name: str) -> Table:
    wanted = name.removeprefix("builtin:")
    if wanted not in BUILTINS:
        raise UserError(f'no built-in table "{wanted}"{did_you_mean(wanted, BUILTINS)}')
    if wanted == "breast_cancer":
        from sklearn.datasets import load_breast_cancer

        loaded = load_breast_cancer(as_frame=True)
        frame = loaded.frame
        frame["target"] = loaded.target_names[frame["target"]]
    else:
        import statsmodels.datasets

        frame = getattr(statsmodels.datasets, wanted).load_pandas().data
    # Every number is a float there; whole ones are written as the source's own CSV has them.
    cells = [cell_array([str(cell).removesuffix(".0") for cell in frame[name].tolist()]) for name in frame]
    return Table(tuple(frame), cells, source=name)


def format_of_rows(source: str, format: str | None) -> str:
    """The format in which rows that came from `source` go out: the one asked for, else the file's own, else CSV."""
    return format or ("jsonl" if source.endswith((".jsonl", ".ndjson")) else "csv")


def split_table(
    source: str, out: Path, test_share: float, seed: int, format: str | None, overwrite: bool = False
) -> None:
    """Deal a table's rows at random into `train` and `test` files in the directory `out`.

    Args:
        test_share: share of the rows that become test rows; both parts get at least one row.
        overwrite: replace parts that exist.

    Raises:
        UserError: as `read_table`, or a part exists already, or is the table itself.
    """
    table = read_table(source, format)
    kind = format_of_rows(source, format)
    paths = [out / f"{part}.{kind}" for part in ("train", "test")]
    for path in paths:
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; name another --out, or --overwrite")
        if path.resolve() == Path(source).resolve():
            raise UserError(f"{path} is the table that is read; name another --out")
    shuffled = rng(seed, "test split").permutation(len(table))
    num_test = min(max(1, round(test_share * len(table))), len(table) - 1)
    out.mkdir(parents=True, exist_ok=True)
    for path, rows in zip(paths, (shuffled[num_test:], shuffled[:num_test]), strict=True):
        text = io.StringIO()
        write_rows(table.take(np.sort(rows)), text, kind)
        atomic_write(path, text.getvalue())
