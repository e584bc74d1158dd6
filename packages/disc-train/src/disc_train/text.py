"""Rows as text: "RiskPerformance is Bad, ExternalRiskEstimate is 55", exact for every name and value.

    row    = clause {", " clause}
    clause = atom " is " (atom | "missing")
    atom   = plain text | JSON string

A name or value stands plain where nothing in it could be taken for the grammar's own marks; otherwise it is a
JSON string in ASCII, so that a row is always one line. Clauses may come in any order (GReaT, Borisov et al.
2023, section 3.1, shuffles them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from trainworks.console import UserError

MISSING = "missing"
"""The bare word that stands for a missing cell; the string "missing" itself is quoted."""

_MARKS = re.compile(r'"|, |,$|(?:^| )is(?: |$)|^ | $')
_STRING = json.JSONDecoder()


class TextError(UserError, ValueError):
    """A text is not a row.

    Attributes:
        position: index into the text of the character where it goes wrong.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} at character {position + 1}")
        self.position = position


def row_to_text(names: Sequence[str], values: Sequence[str | None]) -> str:
    """One line of text that `text_to_row` turns back into exactly these names and values.

    Args:
        names: column names, distinct, in the order wanted.
        values: as many cells; None is missing.
    """
    return ", ".join(clause(name, value) for name, value in zip(names, values, strict=True))


def clause(name: str, value: str | None) -> str:
    """One sentence of a row: "column is value"."""
    return f"{name_atom(name)} is {value_atom(value)}"


def name_atom(name: str) -> str:
    """A column name as a row's text holds it."""
    return name if _is_plain(name) else json.dumps(name)


def value_atom(value: str | None) -> str:
    """A cell as a row's text holds it."""
    if value is None:
        return MISSING
    return value if _is_plain(value) and value != MISSING else json.dumps(value)


def _is_plain(text: str) -> bool:
    return text != "" and text.isprintable() and not _MARKS.search(text)


def text_to_row(text: str) -> dict[str, str | None]:
    """Column names to cells (None is missing), in the text's order.

    Raises:
        TextError: the text is not a row; the message and `position` tell where.
    """
    row: dict[str, str | None] = {}
    position = 0
    while True:
        start = position
        name, position, _ = _read_atom(text, start, " is ", "column name")
        if name in row:
            raise TextError(f'column "{name}" stands there twice', start)
        if not text.startswith(" is ", position):
            raise TextError('" is " was wanted', position)
        value, position, quoted = _read_atom(text, position + 4, ", ", "value")
        row[name] = None if value == MISSING and not quoted else value
        if position == len(text):
            return row
        if not text.startswith(", ", position):
            raise TextError('", " or the end was wanted', position)
        position += 2


def _read_atom(text: str, start: int, until: str, what: str) -> tuple[str, int, bool]:
    """An atom, where it ends, and whether it was quoted."""
    if text.startswith('"', start):
        try:
            string, end = _STRING.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise TextError(f"a quoted {what} is broken: {error.msg}", error.pos) from None
        return string, end, True
    end = text.find(until, start)
    end = len(text) if end < 0 else end
    plain = text[start:end]
    if not _is_plain(plain):
        raise TextError(f"a {what} was wanted, quoted if it is not plain,", start)
    return plain, end, False
