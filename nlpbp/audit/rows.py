"""The input and output of an audit: the rows of each part of a dataset, and findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np

from nlpbp.core.errors import escape
from nlpbp.data.columns import Fields, infer_fields
from nlpbp.data.find_columns import column_of
from nlpbp.data.labels import cell_names, is_missing, label_name
from nlpbp.data.readers import Table

Level = Literal["warning", "note", "fine"]
MAX_EXAMPLES = 5
WARNING_SHARE = 0.01  # of rows: what is rarer is worth a note


@dataclass(frozen=True)
class Rows:
    """One part of a dataset with all its rows: `texts` ("" if missing), `labels` (`None` if missing), `references`.

    A pair of texts is joined by a line break, several labels by `|`. Without a label column `labels` is `None`.
    """

    part: str
    table: Table
    fields: Fields
    texts: list[str]
    labels: list[str | None] | None
    references: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def others(self) -> dict[str, list[Any]]:
        """The columns that are neither text nor label."""
        used = (*self.fields.text, self.fields.label)
        return {name: values for name, values in self.table.columns.items() if name not in used}


@dataclass(frozen=True)
class Example:
    """One example of a finding."""

    reference: str
    excerpt: str


@dataclass(frozen=True)
class AuditFinding:
    """The result of one check of the data.

    It concerns `count` rows, a `share` of those checked. A "warning" is for problems that harm training or invalidate a score; a
    "note" for what is worth reading; "fine" if nothing was found. `rows` are the training rows that a plan may drop or repair, each
    with the reason. If something could not be checked, the message says why, and `was_looked_at` is false.

    >>> print(AuditFinding("leaks", "leaks", "warning", 3, 0.1, "3 test texts stand in training", "drop them there"))
    warning leaks: 3 test texts stand in training. Fix: drop them there
    """

    id: str
    title: str
    level: Level
    count: int
    share: float
    message: str
    fix: str = ""
    examples: tuple[Example, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[int, str] = field(default_factory=dict)
    was_looked_at: bool = True

    def __str__(self) -> str:
        level = self.level if self.was_looked_at else "skipped,"
        return f"{level} {self.id}: {self.message}" + (f". Fix: {self.fix}" if self.fix and self.level != "fine" else "")


def audited_fields(table: Table, *, text: Sequence[str] = (), label: str | None = None, task: str = "auto") -> Fields:
    """Return the columns and the task that training finds in a table; where it would refuse the label, there is none, and a note.

    >>> audited_fields(Table("a.csv", {"text": ["so good", "bad"], "mood": ["up", None]}, [2, 3])).label is None
    True
    """
    return infer_fields(table, text=text, label=label, task=task, require_label=False, guess_label=True)


def rows_of(table: Table, *, fields: Fields | None = None, part: str = "train") -> Rows:
    """Convert a table to the rows of a part; `fields` are those of the training table, or inferred from it.

    Cells that training would reject are kept, to be counted. Raises `DataError` if there is no text column.

    >>> rows = rows_of(Table("a.csv", {"text": ["so good", None], "label": ["pos", ""]}, [2, 3]))
    >>> rows.texts, rows.labels, rows.references
    (['so good', ''], ['pos', None], ['a.csv:2', 'a.csv:3'])
    """
    fields = fields or audited_fields(table)
    name = table.name.rpartition("/")[2]
    texts = [[_cell_text(value) for value in column_of(table, column)] for column in fields.text]
    return Rows(
        part=part,
        table=table,
        fields=fields,
        texts=["\n".join(halves) if any(halves) else "" for halves in zip(*texts, strict=True)],
        labels=_labels(table, fields),
        references=list(table.files) if table.files else [f"{name}:{row}" for row in table.rows],
    )


def _cell_text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        return str(getattr(value, "spelled", value))
    # Half of a surrogate pair, which JSON can hold, has no hash and no bytes.
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _labels(table: Table, fields: Fields) -> list[str | None] | None:
    if fields.label is None or fields.label not in table.columns:
        return None
    cells = table.columns[fields.label]
    if fields.target_type != "multilabel-indicator":
        return [None if is_missing(value) else label_name(value) for value in cells]
    return [
        None if value is None else "|".join(sorted(cell_names(table, index, fields.label, separator=fields.separator)))
        for index, value in enumerate(cells)
    ]


def has_classes(parts: Sequence[Rows]) -> bool:
    """Tell whether each row has at most one class, and labels are there."""
    return parts[0].labels is not None and parts[0].fields.target_type == "multiclass"


def no_classes(parts: Sequence[Rows]) -> str:
    """Return the reason why there are no classes to check."""
    return "there are no labels" if parts[0].labels is None else "the rows are not of one class each"


def num_rows(parts: Sequence[Rows]) -> int:
    """Count the rows of all parts."""
    return sum(map(len, parts))


def all_rows(parts: Sequence[Rows]) -> Iterator[tuple[Rows, int]]:
    """Iterate over the rows of all parts in order, as (part, index)."""
    return ((part, index) for part in parts for index in range(len(part)))


def part_numbers(parts: Sequence[Rows]) -> np.ndarray[Any, Any]:
    """Return for each row of all parts the number of its part."""
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def level_of(count: int, share: float, *, most: Level = "warning") -> Level:
    """Return "fine" for no rows, "note" for few, and `most` from one row in a hundred.

    >>> level_of(0, 0.0), level_of(3, 0.001), level_of(3, 0.02)
    ('fine', 'note', 'warning')
    """
    return "fine" if not count else most if share >= WARNING_SHARE else "note"


def examples_of(rows: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> tuple[Example, ...]:
    """Make examples of the first few (reference, text), shortened and escaped for printing."""
    return tuple(Example(escape(reference, limit=None), escape(text)) for reference, text in islice(rows, MAX_EXAMPLES))


def counted(counts: Mapping[str, int]) -> str:
    """Format counts by name, the largest first, without zeros.

    >>> counted({"tabs": 0, "tags": 3, "entities": 1200})
    'entities 1,200, tags 3'
    """
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count)


def percent(share: float) -> str:
    """Format a share as a percentage with two significant digits.

    >>> percent(0.5), percent(0.0123), percent(0.00012)
    ('50 %', '1.2 %', '0.012 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def nothing(name: str, title: str, message: str) -> AuditFinding:
    """Return the finding that there was nothing to check, and why."""
    return AuditFinding(name, title, "fine", 0, 0.0, message, was_looked_at=False)
