"""An audit reads a table as training does: the same text, the same label, the same task."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nlpbp.audit.rows import rows_of
from nlpbp.core.errors import DataError
from nlpbp.data.columns import infer_fields
from nlpbp.data.readers import Table

TEXTS = [f"text number {i} of many" for i in range(60)]
UP_DOWN, ZERO_ONE = ["up", "down"] * 30, [0, 1] * 30


@pytest.mark.parametrize(
    "columns",
    [
        {"label": UP_DOWN},
        {"mood": UP_DOWN},  # found by its cells alone
        {"label": [*range(20)] * 3},
        {"value": [number * 7 % 50 for number in range(60)]},
        {"stars": ["1", "3", "5"] * 20},
        {"topics": [["a"], ["a", "b"]] * 30},
        {"genre": ["war|love", "love", "war"] * 20},
        {"id": [*range(60)], "mood": UP_DOWN},
        {"nr": [(7 * number) % 60 for number in range(60)], "mood": UP_DOWN},
        {"source": ["a", "b"] * 30, "toxic": ZERO_ONE},
        {"language": ["en", "de"] * 30},
        {"toxic": ZERO_ONE, "threat": ZERO_ONE[::-1]},
        {"my_label": UP_DOWN, "other_label": UP_DOWN},
        {"toxic": ZERO_ONE, "mood": UP_DOWN},
        {"id": [*range(60)]},
        {},
        {"label": ["up", 1] * 30},
    ],
    ids=lambda columns: "-".join(columns) or "no label",
)
def test_the_audit_and_training_find_the_same_columns_and_the_same_task(columns: dict[str, list[Any]]) -> None:
    table = Table("a.csv", {"text": TEXTS, **columns}, list(range(2, 62)))
    rows = rows_of(table)
    try:
        wanted = infer_fields(table)
    except DataError as error:
        assert rows.labels is None
        assert error.message.startswith("no column") or any("label" in note for note in rows.fields.notes)
    else:
        assert rows.labels is not None
        assert dataclasses.asdict(rows.fields) == dataclasses.asdict(wanted)


def test_a_prediction_takes_no_column_for_labels_by_its_cells() -> None:
    table = Table("a.csv", {"text": TEXTS, "mood": UP_DOWN}, list(range(2, 62)))
    assert infer_fields(table, require_label=False).label is None
    assert rows_of(table).fields.label == "mood"
