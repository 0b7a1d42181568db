"""The catalogue is whole: 150 rows, each injected by a test here or saying why it is not."""

from __future__ import annotations

import re
from pathlib import Path

from catalogue import GROUPS, ROWS

HERE = Path(__file__).parent
SIZES = {"A": 27, "B": 23, "C": 18, "D": 38, "E": 13, "F": 15, "G": 16}
MARK = re.compile(r'^@pytest\.mark\.fault\("(\w+)"\)$', re.MULTILINE)


def injected() -> set[str]:
    return {row for file in HERE.glob("test_*.py") for row in MARK.findall(file.read_text(encoding="utf-8"))}


def test_there_are_150_rows_in_order() -> None:
    assert SIZES.keys() == GROUPS.keys()
    assert [row.id for row in ROWS] == [f"{group}{number}" for group, size in SIZES.items() for number in range(1, size + 1)]
    assert len(ROWS) == 150


def test_every_row_is_injected_or_says_why_not() -> None:
    marked = injected()
    assert marked <= {row.id for row in ROWS}
    for row in ROWS:
        assert (row.id in marked) == (row.cannot_run_here is None), f"{row.id} ({row.fault}): a test or a reason, not both"
