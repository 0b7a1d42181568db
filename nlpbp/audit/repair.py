"""Clean the training set by a plan that names findings, with a log of each row that was dropped or changed.

You write the plan after reading the findings; only what it names is dropped, and nothing from the validation and test sets,
because scores are only meaningful on data as they will be (practice D3).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from nlpbp.audit.rows import AuditFinding, Rows
from nlpbp.audit.texts import repair_text
from nlpbp.core.errors import ConfigError, escape
from nlpbp.data.decoding import nearest
from nlpbp.data.readers import Table

DROPPING = (
    "exact_duplicates",
    "near_duplicates",
    "leaks",
    "near_leaks",
    "conflicting_labels",
    "near_conflicting_labels",
    "label_errors",
)
ACTIONS = (*DROPPING, "encoding")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Change:
    """One entry of the log: what was done to the row at `reference`, for which finding, and why."""

    reference: str
    action: str
    finding: str
    reason: str
    text: str


def read_plan(path: Path) -> tuple[str, ...]:
    """Read the ids of findings to act on from a YAML or JSON file: a list, or `train:` with a list.

    Raises `ConfigError` for a part other than training, for anything that is not a plan, and for a finding that has no action.
    """
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"the plan cannot be read: {error}", file=str(path), hint="write a list of findings, as YAML or JSON"
        ) from error
    return check_plan(plan, file=str(path))


def check_plan(plan: Any, *, file: str | None = None) -> tuple[str, ...]:
    """Return the ids that a plan names; raises as `read_plan` does.

    >>> check_plan(["leaks", "encoding"]), check_plan({"train": ["leaks"]})
    (('leaks', 'encoding'), ('leaks',))
    """
    if isinstance(plan, dict):
        for part in plan:
            if part != "train":
                message = f"a plan is for the training set, and never for '{part}': scores are only meaningful on unchanged data"
                raise ConfigError(message, file=file, hint="name findings under `train` only")
        plan = plan.get("train")
    if not isinstance(plan, list) or not plan or not all(isinstance(name, str) for name in plan):
        raise ConfigError("a plan is a list of findings to act on", file=file, excerpt=plan, hint=f"from {', '.join(ACTIONS)}")
    for name in plan:
        if name not in ACTIONS:
            hint = f"{nearest(name, ACTIONS, kind='finding')}; all others are for information only"
            raise ConfigError("no finding of this name has an action", file=file, excerpt=name, hint=hint)
    return tuple(plan)


def clean(train: Rows, findings: Sequence[AuditFinding], plan: Sequence[str]) -> tuple[Table, list[Change]]:
    """Return the training table after the plan, and the log; the given table is not changed.

    Rows are dropped for the first finding of the plan that names them. Findings are about the original data: a duplicate of another
    row is dropped even if that row is dropped too, for another finding.

    >>> from nlpbp.audit.copies import exact_duplicates
    >>> from nlpbp.audit.rows import rows_of
    >>> rows = rows_of(Table("a.csv", {"text": ["so good", "So good", "bad"], "label": [1, 1, 0]}, [2, 3, 4]))
    >>> table, log = clean(rows, [exact_duplicates([rows])], ["exact_duplicates"])
    >>> table.columns["text"], log[0].reference, log[0].reason
    (['so good', 'bad'], 'a.csv:3', 'equal to a.csv:2')
    """
    by_id = {finding.id: finding for finding in findings}
    dropped: dict[int, Change] = {}
    for name in plan:
        for row, reason in by_id[name].rows.items() if name in DROPPING else ():
            dropped.setdefault(row, Change(train.references[row], "dropped", name, reason, escape(train.texts[row])))
    columns, changed = dict(train.table.columns), {}
    if "encoding" in plan:
        columns |= {name: [_repaired(cell) for cell in columns[name]] for name in train.fields.text}
        changed = {
            row: Change(train.references[row], "changed", "encoding", reason, escape(train.texts[row]))
            for row, reason in by_id["encoding"].rows.items()
            if row not in dropped
        }
    kept = [row for row in range(len(train)) if row not in dropped]
    table = replace(
        train.table,
        columns={name: [cells[row] for row in kept] for name, cells in columns.items()},
        rows=[train.table.rows[row] for row in kept],
        files=[train.table.files[row] for row in kept] if train.table.files else None,
    )
    return table, [change for _, change in sorted((dropped | changed).items())]


def _repaired(cell: Any) -> Any:
    return repair_text(cell) if isinstance(cell, str) else cell


def check_clean_file(path: Path, *, sources: Sequence[str]) -> None:
    """Raise `ConfigError` for a file that `write_table` cannot write, and for one that is a source of the data."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} has no known suffix", column="out", hint=f"end it in one of {', '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written", column="out", hint="name a file in an existing folder")
    if any(path.resolve() == Path(source).resolve() for source in sources):
        raise ConfigError(f"{path} is the data itself", column="out", hint="name another file: the copy is written beside the data")


def write_table(table: Table, path: Path) -> None:
    """Write a table as .csv, .tsv, .jsonl or .parquet, with all texts unchanged.

    A text such as `=1+1` is not escaped, so a .csv file is meant for reading back, not for a spreadsheet. Raises `ConfigError` for
    values that the format cannot represent.
    """
    try:
        _write(table, path)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise ConfigError(
            f"{path} cannot be written: {error}", column="out", hint="name a .jsonl file in another folder"
        ) from error


def _write(table: Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table.columns), path)
        return
    records = zip(*table.columns.values(), strict=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(
                json.dumps(dict(zip(table.columns, record, strict=True)), ensure_ascii=False) + "\n" for record in records
            )
            return
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(table.columns)
        writer.writerows([_cell(value) for value in record] for record in records)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple | dict):
        raise ValueError("a cell holds several values")
    if value is None or isinstance(value, str):
        return value or ""
    return str(value).lower() if isinstance(value, bool) else str(getattr(value, "spelled", value))


def write_log(changes: Sequence[Change], path: Path) -> None:
    """Write the log as JSON lines: reference, action, finding, reason and the beginning of the text.

    Raises `ConfigError` for a file that cannot be written.
    """
    lines = (json.dumps(vars(change), ensure_ascii=False) + "\n" for change in changes)
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", column="out", hint="name another file") from error
