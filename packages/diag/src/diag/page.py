"""The frame of an HTML page that needs nothing beside itself: no network, no file, one script of our own.

Its Content-Security-Policy names the hashes of that script and style, so that nothing else in the page can run or be
fetched, even if something escaped the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from diag.compare import cell
from trainworks.files import json_ready


@dataclass(frozen=True)
class Section:
    """A part of a page: `html` is finished, with everything from data escaped; `title` is plain text."""

    anchor: str
    title: str
    html: str


def render(title: str, sections: Sequence[Section], data: Mapping[str, Any], footer: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: in their order; those without content are left out.
        data: what the script reads: `runs` (names) and `charts`.
        footer: plain text.
    """
    sections = [section for section in sections if section.html]
    script, style = (_part(name) for name in ("page.js", "page.css"))
    return Template(_part("page.html")).substitute(
        title=escape(title),
        script=script,
        script_hash=_hash(script),
        style=style,
        style_hash=_hash(style),
        navigation=" ".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections),
        body="\n".join(
            f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">'
            f'<h2 id="{section.anchor}-title">{escape(section.title)}</h2>\n{section.html}\n</section>'
            for section in sections
        ),
        footer=escape(footer),
        data=embedded(data),
    )


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: no "<" can end it."""
    text = json.dumps(json_ready(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a MIME type as the address of an image or a sound."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def table(head: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    """An HTML table of plain cells, each row's first being its heading; numbers keep four digits."""
    if not rows:
        return ""
    titles = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in head)
    body = "".join(f'<tr><th scope="row">{escape(str(row[0]))}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in rows)
    rows_of = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{rows_of}</div>'


def _cell(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = ' class="number"' if is_number else ""
    return f"<td{kind}>{escape(cell(value))}</td>"


def _part(name: str) -> str:
    return files("diag").joinpath("page_parts", name).read_text(encoding="utf-8").rstrip("\n")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
