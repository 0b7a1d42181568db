"""Escaping of text from data: in spreadsheets, where it must not run as a formula, and on terminals, which it must not control.

JSON Lines and Parquet need no escaping.
"""

from __future__ import annotations

import re
from typing import Any

from nlpbp.core.errors import escape

# OWASP, "CSV injection": what spreadsheets take as the start of a formula, also as full-width characters.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def spreadsheet_cell(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula; numbers, also as text, are left unchanged.

    >>> [spreadsheet_cell(value) for value in ("=1+1", "-cmd", "fine", "-1", -0.5, None)]
    ["'=1+1", "'-cmd", 'fine', '-1', -0.5, None]
    """
    if isinstance(value, str) and value.startswith(FORMULA_STARTS) and not PLAIN_NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def printable(text: str) -> str:
    r"""Escape control characters but keep line breaks, for messages that contain names from data.

    >>> printable("labels: a\x1b[2J\nrows: 3")
    'labels: a\\x1b[2J\nrows: 3'
    """
    return "\n".join(escape(line, limit=None) for line in text.split("\n"))


def code_span(text: str) -> str:
    r"""Format `text` as inline code in Markdown, whatever backticks, tags or line breaks it contains.

    >>> code_span("pos"), code_span("a`b"), code_span("<b>\n")
    ('`pos`', '`` a`b ``', '`<b>\\n`')
    """
    shown = escape(text, limit=None)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    return f"{'`' * (longest + 1)} {shown} {'`' * (longest + 1)}" if longest else f"`{shown}`"
