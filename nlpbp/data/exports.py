"""Text from data on its way out: into a spreadsheet, where it must not run, and onto a terminal, which it must not command.

JSON Lines and Parquet need neither: they keep values as they are.
"""

from __future__ import annotations

import re
from typing import Any

from nlpbp.core.errors import escape

# OWASP, "CSV injection": what a spreadsheet takes for the beginning of a formula, also in the wide forms of East Asian keyboards.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def spreadsheet_cell(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run; numbers, and texts that are numbers, stay as they are.

    >>> [spreadsheet_cell(value) for value in ("=1+1", "-cmd", "fine", "-1", -0.5, None)]
    ["'=1+1", "'-cmd", 'fine', '-1', -0.5, None]
    """
    if isinstance(value, str) and value.startswith(FORMULA_STARTS) and not PLAIN_NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def printable(text: str) -> str:
    r"""Escape what could command a terminal, and keep line breaks: for text of ours with names from data in it.

    >>> printable("labels: a\x1b[2J\nrows: 3")
    'labels: a\\x1b[2J\nrows: 3'
    """
    return "\n".join(escape(line, limit=None) for line in text.split("\n"))


def code_span(text: str) -> str:
    r"""Write `text` as code in one line of Markdown, whatever backticks, tags or line breaks it holds.

    >>> code_span("pos"), code_span("a`b"), code_span("<b>\n")
    ('`pos`', '`` a`b ``', '`<b>\\n`')
    """
    shown = escape(text, limit=None)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    return f"{'`' * (longest + 1)} {shown} {'`' * (longest + 1)}" if longest else f"`{shown}`"
