"""Convert a table to examples: find the text and label columns, and the task that the labels imply.

What is not given is inferred from the training table, and every choice is noted for printing. Other tables are read with the fields
of the training table, so that class ids mean the same everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nlpbp.core.errors import ConfigError, DataError, escape
from nlpbp.core.task import TASKS, TargetType, target_type
from nlpbp.data.decoding import nearest
from nlpbp.data.fields import compose_fields, infer_kinds, read_column
from nlpbp.data.find_columns import column_of, find_label, find_text, given_fields, given_text, note_other_texts
from nlpbp.data.labels import (
    MAX_CLASSES,
    InferredTask,
    are_printed_lists,
    as_number,
    cell_error,
    cell_names,
    class_notes,
    find_separator,
    infer_task,
    is_missing,
    label_name,
    refuse_mixed_types,
    sort_names,
)
from nlpbp.data.readers import Table

MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Fields:
    """The roles of the columns, determined from the training table and used for every other one.

    `text` is one column, or two for a pair. `task` is one of `nlpbp.core.task.TASKS`; `labels` are the class
    names in the order of their ids; `separator` stands between labels in one cell (`None` if cells are lists). `notes`
    says what was inferred and why; `task_warning`, which is among them, that the task may be another one, and by which flag.

    If `kinds` is not empty, the columns of `text` are joined to one text by `compose_fields`, with these kinds and `statistics`.
    """

    text: tuple[str, ...]
    label: str | None
    task: str
    labels: tuple[str, ...]
    separator: str | None
    notes: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    task_warning: str = ""

    @property
    def target_type(self) -> TargetType:
        """What the targets are, in scikit-learn's words."""
        return target_type(self.task)


@dataclass(frozen=True)
class Examples:
    """Texts and targets, each with its location in the source.

    `targets` is int64 [n] class ids, float32 [n, num_labels] zeros and ones, float32 [n] numbers, or `None` if there are no labels.
    `references` are like `reviews.csv:17` (the line) or `films/pos/3.txt`.
    """

    source: str
    texts: list[str]
    pairs: list[str] | None
    targets: np.ndarray[Any, Any] | None
    references: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Sequence[int] | np.ndarray[Any, Any]) -> Examples:
        """Return the examples at `indices`, in that order.

        >>> Examples("list", ["a", "b"], None, None, ["list:1", "list:2"]).select([1]).texts
        ['b']
        """
        chosen = np.asarray(indices, dtype=np.int64)
        return Examples(
            self.source,
            [self.texts[index] for index in chosen],
            None if self.pairs is None else [self.pairs[index] for index in chosen],
            None if self.targets is None else self.targets[chosen],
            [self.references[index] for index in chosen],
        )


def empty_texts(examples: Examples) -> list[str]:
    """Return the references of examples whose text, or one text of whose pair, is empty or white space.

    >>> empty_texts(Examples("list", ["a", " "], None, None, ["list:1", "list:2"]))
    ['list:2']
    """
    halves = zip(examples.texts, examples.pairs or examples.texts, examples.references, strict=True)
    return [reference for text, pair, reference in halves if not (text.strip() and pair.strip())]


def infer_fields(
    table: Table,
    *,
    text: Sequence[str] = (),
    compose: Sequence[str] = (),
    label: str | None = None,
    task: str = "auto",
    label_order: Sequence[str] = (),
    require_label: bool = True,
    guess_label: bool | None = None,
) -> Fields:
    """Find the text and label columns of a training table and the task; only what is not given is inferred.

    The columns `compose`, in place of `text`, make one text together; their statistics are still to be fitted, on training rows.
    Raises `DataError` for a column that is not there, for columns that cannot be told apart, and, if `require_label`, for a
    missing label, a single class, or classes that are no classes; `ConfigError` for a task that does not exist. `label_order` names
    all classes in their order, where that of their numbers or names is not the right one. With `guess_label`, the default where a
    label is required, a column whose name says nothing is the label if its cells do; an audit asks for that, and requires none.

    >>> from nlpbp.data.readers import read_table
    >>> table = read_table([{"review": "so good", "stars": 5}, {"review": "so bad", "stars": 1}])
    >>> infer_fields(table).text, infer_fields(table).label, infer_fields(table).labels
    (('review',), 'stars', ('1', '5'))
    """
    if task not in ("auto", *TASKS):
        raise ConfigError("there is no such task", excerpt=task, hint=nearest(task, ("auto", *TASKS), kind="task"))
    notes: list[str] = []
    given = (text,) if isinstance(text, str) else tuple(text)
    for name in (*given, *compose, *([label] if label else [])):
        column_of(table, name)
    texts = (
        given_fields(compose, given, label) if compose else given_text(given, label) if given else find_text(table, label, notes)
    )
    kinds = infer_kinds(table, compose, notes)
    guess = require_label if guess_label is None else guess_label
    found = label or find_label(table, texts, notes, require_label=require_label, guess=guess)
    if not given and (compose or len(texts) == 1):
        note_other_texts(table, [*texts, found], notes)
    try:
        fields = _fields_of_label(table, texts, found, task, notes, require_label=require_label)
    except DataError as error:
        if require_label or label:
            raise
        notes.append(f"label: not used, because {error.message}")
        fields = _fields_of_label(table, texts, None, task, notes, require_label=False)
    return replace(fields, kinds=kinds, labels=_in_order(fields, label_order))


def _in_order(fields: Fields, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the classes, in the order that was asked for."""
    if not wanted:
        return fields.labels
    if fields.target_type == "continuous":
        raise ConfigError("a number to predict has no classes to order", column="data.label_order", hint="leave it out")
    if len(set(wanted)) < len(wanted):
        raise ConfigError("names a label twice", column="data.label_order", excerpt=" ".join(wanted), hint="name each once")
    lacking = [name for name in fields.labels if name not in wanted]
    if lacking:
        raise ConfigError(
            f"does not name the label {escape(lacking[0])}", column="data.label_order", hint=f"name all {len(fields.labels)} labels"
        )
    return tuple(wanted)


def _fields_of_label(
    table: Table, texts: tuple[str, ...], label: str | None, task: str, notes: list[str], *, require_label: bool
) -> Fields:
    present = [index for index, value in enumerate(table.columns[label]) if not is_missing(value)] if label else []
    if label is None or not (present or require_label):
        return Fields(texts, None, "single_label" if task == "auto" else task, (), None, tuple(notes))
    if not present:
        raise _missing_label(table, 0, label)
    inferred = _find_task(table, label, present, task, notes)
    labels = _find_classes(table, label, inferred.task, inferred.separator, notes, require_label=require_label)
    return Fields(texts, label, inferred.task, labels, inferred.separator, tuple(notes), task_warning=inferred.warning)


def is_several(task: str) -> bool:
    """Tell whether an example of this task may have several labels.

    >>> is_several("multi_label"), is_several("ordinal")
    (True, False)
    """
    return target_type(task) == "multilabel-indicator"


def _missing_label(table: Table, index: int, label: str) -> DataError:
    return cell_error(table, index, label, "the label is missing", hint="fill it in, or remove the record")


def _labelled(table: Table, label: str, task: str, *, require_label: bool) -> list[int]:
    """Return the indices that have a label; with several labels, an empty text cell means that no label applies."""
    missing = [
        index
        for index, value in enumerate(column_of(table, label))
        if is_missing(value) and not (is_several(task) and isinstance(value, str))
    ]
    if missing and require_label:
        raise _missing_label(table, missing[0], label)
    return sorted(set(range(len(table))) - set(missing))


def _find_task(table: Table, label: str, present: list[int], task: str, notes: list[str]) -> InferredTask:
    if task == "auto":
        inferred = infer_task(table, label, present)
        notes.append(f"task: {inferred.task}, because of column '{label}': {inferred.why}")
        notes += [f"warning: {inferred.warning}"] if inferred.warning else []
        return inferred
    given = InferredTask(task, "it is given")
    if refuse_mixed_types(table, label, present) != "text" or not is_several(task):
        return given
    cells = [table.columns[label][index] for index in present]
    if are_printed_lists(cells):
        return given
    separator = find_separator(cells, column=label, certain=True) or "|"
    notes.append(f"labels in one cell are separated by '{separator}'")
    return replace(given, separator=separator)


def _find_classes(
    table: Table, label: str, task: str, separator: str | None, notes: list[str], *, require_label: bool
) -> tuple[str, ...]:
    present = _labelled(table, label, task, require_label=require_label)
    if target_type(task) == "continuous":
        distinct: set[Any] = {_number(table, index, label) for index in present}
        counts: Counter[str] = Counter()
    else:
        cells = [_names(table, index, label, task, separator) for index in present]
        distinct = {frozenset(cell) for cell in cells}
        counts = Counter(name for cell in cells for name in set(cell))
    if require_label and len(distinct) < 2:
        raise DataError(
            "every record has the same label, so there is nothing to learn",
            file=table.name,
            column=label,
            excerpt=table.columns[label][0],
            hint="add records with another label, or name another column with 'label'",
        )
    if require_label and target_type(task) == "multiclass":
        _refuse_endless_classes(table, label, counts)
    notes += class_notes(counts) if counts else []
    return sort_names(counts)


def _refuse_endless_classes(table: Table, label: str, counts: Counter[str]) -> None:
    num_single = sum(count == 1 for count in counts.values())
    if len(counts) > MAX_CLASSES and num_single * 2 > len(counts):
        raise DataError(
            f"{len(counts)} classes, of which {num_single} have one example: this is not a column of classes",
            file=table.name,
            column=label,
            excerpt=table.columns[label][0],
            hint="name another column with 'label', or set 'task' to regression or multi_label",
        )


def _names(table: Table, index: int, label: str, task: str, separator: str | None) -> list[str]:
    if is_several(task):
        return cell_names(table, index, label, separator=separator)
    value = table.columns[label][index]
    if isinstance(value, list | tuple | set | dict):
        hint = "set 'task' to multi_label" if not isinstance(value, dict) else "convert the labels"
        raise cell_error(table, index, label, "this is not one label", hint=hint)
    return [label_name(value)]


def _number(table: Table, index: int, label: str) -> float:
    number = as_number(table.columns[label][index])
    if number is None or abs(number) > MAX_FLOAT32:
        hint = "write finite numbers such as 3.5 (with a point, not a comma)"
        raise cell_error(table, index, label, "the label is not a number to predict", hint=hint)
    return number


def read_examples(table: Table, fields: Fields, *, require_label: bool = True) -> Examples:
    """Return the examples of a table, with the columns and labels of the training table.

    With `require_label=False`, a table with no labels, or with some missing, gives examples without targets. Raises `DataError`
    with file, row and column for a missing text, a text with NUL or half a surrogate pair, a missing, unknown or malformed label,
    and a number that is not finite.

    >>> fields = Fields(("text",), "label", "single_label", ("neg", "pos"), None, ())
    >>> examples = read_examples(Table("a/b.csv", {"text": ["so good"], "label": ["pos"]}, [2]), fields)
    >>> examples.targets, examples.references
    (array([1]), ['b.csv:2'])
    """
    texts = [_composed(table, fields)] if fields.kinds else [_texts(table, column) for column in fields.text]
    name = Path(table.name).name
    return Examples(
        source=table.name,
        texts=texts[0],
        pairs=texts[1] if len(texts) > 1 else None,
        targets=_targets(table, fields, require_label=require_label),
        references=list(table.files) if table.files else [f"{name}:{row}" for row in table.rows],
    )


def _texts(table: Table, column: str) -> list[str]:
    return [_text(table, index, column, value) for index, value in enumerate(column_of(table, column))]


def _composed(table: Table, fields: Fields) -> list[str]:
    columns = {name: _cells(table, name, kind) for name, kind in fields.kinds.items()}
    return compose_fields(columns, kinds=fields.kinds, statistics=fields.statistics)


def _cells(table: Table, name: str, kind: str) -> list[Any]:
    values = column_of(table, name)
    if kind != "text":
        return read_column(table, name, kind)
    return [None if is_missing(value) else _text(table, index, name, value) for index, value in enumerate(values)]


def _text(table: Table, index: int, column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        _refuse_unprintable(table, index, column, value)
        return value
    if value is None or value != value:
        raise cell_error(table, index, column, "the text is missing", hint="fill it in, or remove the record")
    if isinstance(value, int | float):
        return str(getattr(value, "spelled", value))
    hint = "join lists with spaces, decode bytes, and write objects as text"
    raise cell_error(table, index, column, f"the text is of type {type(value).__name__}", hint=hint)


def _refuse_unprintable(table: Table, index: int, column: str, text: str) -> None:
    if "\x00" in text:
        raise cell_error(table, index, column, "the text has a NUL character", hint="remove it")
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        message = "the text has half of a surrogate pair, which is not a character"
        raise cell_error(table, index, column, message, hint="remove it") from error


def _targets(table: Table, fields: Fields, *, require_label: bool) -> np.ndarray[Any, Any] | None:
    label = fields.label
    if label is None and require_label:
        raise DataError("there is no label column", file=table.name, hint="name it with 'label'")
    if label is None or not (require_label or label in table.columns):
        return None
    indices = _labelled(table, label, fields.task, require_label=require_label)
    if len(indices) < len(table):
        return None
    if fields.target_type == "continuous":
        return np.array([_number(table, index, label) for index in indices], dtype=np.float32)
    ids = {name: position for position, name in enumerate(fields.labels)}
    rows = [_ids(table, index, fields, label, ids) for index in indices]
    if fields.target_type == "multiclass":
        return np.array([row[0] for row in rows], dtype=np.int64)
    targets = np.zeros((len(rows), len(ids)), dtype=np.float32)
    for target, row in zip(targets, rows, strict=True):
        target[row] = 1
    return targets


def _ids(table: Table, index: int, fields: Fields, label: str, ids: dict[str, int]) -> list[int]:
    names = _names(table, index, label, fields.task, fields.separator)
    unknown = next((name for name in names if name not in ids), None)
    if unknown is not None:
        hint = nearest(unknown, fields.labels, kind="label")
        raise cell_error(table, index, label, f"the training data have no label '{escape(unknown)}'", hint=hint)
    return [ids[name] for name in names]
