"""Label cells: the task that a column implies, and the labels in each cell.

Nothing is merged or corrected: two spellings are two classes (with a note), and an ambiguous cell is an error with its row.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nlpbp.core.errors import DataError
from nlpbp.data.readers import Table
from nlpbp.data.whole_numbers import task_of_whole_numbers

MAX_CATEGORIES = 20  # a column of more distinct short texts than this is no category
MAX_CLASSES = 1000  # with more classes, those that occur once suggest a wrong column
SEPARATORS = ("|", ";", ",")
MAX_SHOWN = 10  # classes in the note that counts them
MAX_LABEL_LENGTH = 40  # maximum characters of one label among several in a cell
NOT_PLURAL = {"stars", "status", "news", "bias", "basis"}
UNKNOWN_KIND = "neither text nor a number"
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?\s*", re.ASCII)
AMOUNT = re.compile(r"\s*[$€£¥]?\s*[+-]?(\d+|\d{1,3}([,.' ]\d{3})+)([.,]\d+)?\s*[%$€£¥]?\s*", re.ASCII)
LIST_ITEM = re.compile(r"""\s*(?:'([^'\\]*)'|"([^"\\]*)"|([^\s'",\[\]]+))\s*(,|$)""")


def cell_error(table: Table, index: int, column: str, message: str, *, hint: str) -> DataError:
    """Return an error for one cell, with the file, the row and the cell's value.

    >>> table = Table("a.csv", {"label": ["?"]}, [2])
    >>> print(cell_error(table, 0, "label", "no label", hint="fill it in"))
    a.csv, row 2, column 'label': no label (found: '?'). Fix: fill it in
    """
    value = table.columns[column][index]
    file = table.files[index] if table.files else table.name
    return DataError(message, file=file, row=table.rows[index], column=column, excerpt=value, hint=hint)


def is_missing(value: Any) -> bool:
    """Tell whether a cell has no label: None, white space, or NaN.

    >>> [is_missing(value) for value in (None, " ", float("nan"), "nan", 0)]
    [True, True, True, False, False]
    """
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any) -> float | None:
    """Return the finite number in a cell, given as a number or as text, or `None`.

    >>> [as_number(value) for value in (3, "3.50", "1e2", "nan", "3,5", True)]
    [3.0, 3.5, 100.0, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def label_name(value: Any) -> str:
    """Return the class name of a label: text unchanged, whole numbers without a decimal point, `true` and `false`.

    >>> [label_name(value) for value in ("007", 3, 3.0, 2.5, True)]
    ['007', '3', '3', '2.5', 'true']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(getattr(value, "spelled", value))


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return each name once, by number if all are numbers, else by text.

    >>> sort_names(["10", "9", "9.5"]), sort_names(["b", "10", "9"])
    (('9', '9.5', '10'), ('10', '9', 'b'))
    """
    unique = set(names)
    if all(INTEGER.fullmatch(name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    numbers = {name: as_number(name) for name in unique}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(unique, key=lambda name: (numbers[name], name)))
    return tuple(sorted(unique))


def cell_names(table: Table, index: int, column: str, *, separator: str | None) -> list[str]:
    """Return the label names in one multi-label cell; an empty cell has none.

    Raises `DataError` with the row for a cell with an empty name between separators or values that cannot be labels.

    >>> cell_names(Table("a.csv", {"tags": ["war; peace"]}, [2]), 0, "tags", separator=";")
    ['war', 'peace']
    """
    value = table.columns[column][index]
    if isinstance(value, str):
        items: Any = _split(value, separator) if value.strip() else []
    else:
        items = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if items is None or any(is_missing(item) or _kind(item) in ("a list", UNKNOWN_KIND) for item in items):
        hint = "write labels in quotes, separated by commas" if separator is None else f"use '{separator}' between labels"
        raise cell_error(table, index, column, "not a list of labels", hint=f"{hint}; leave the cell empty for none")
    return [label_name(item) for item in items]


def _split(cell: str, separator: str | None) -> list[str] | None:
    if separator is None:
        return _parse_list(cell.strip())
    names = [name.strip() for name in cell.split(separator)]
    return names if all(names) else None


def are_printed_lists(cells: Sequence[str]) -> bool:
    """Tell whether cells are lists printed by Python or JSON; malformed ones raise an error later.

    >>> are_printed_lists(["['war', 'love']", "[]"]), are_printed_lists(["war", "[love"])
    (True, False)
    """
    return sum(_is_printed_list(cell.strip()) for cell in cells) * 2 > len(cells)


def _is_printed_list(cell: str) -> bool:
    # A tuple always has a comma, which a name in parentheses seldom has; braces are Python sets or PostgreSQL arrays.
    brackets = cell[:1] + cell[-1:]
    return len(cell) > 1 and (brackets in ("[]", "{}") or (brackets == "()" and ("," in cell or cell == "()")))


def _parse_list(cell: str) -> list[str] | None:
    # Lists as Python and JSON print them. Not evaluated, because numpy prints ['a' 'b'], which Python reads as ['ab'].
    if not _is_printed_list(cell):
        return [] if cell == "set()" else None
    if "\\" in cell:
        return _parse_json_list(cell)
    inner, names, end = cell[1:-1].strip(), [], 0
    while end < len(inner):
        item = LIST_ITEM.match(inner, end)
        if item is None:
            return None
        names.append(next(text for text in item.groups() if text is not None))
        end = item.end()
    return names


def _parse_json_list(cell: str) -> list[str] | None:
    # JSON escapes non-ASCII characters by default.
    try:
        names = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


@dataclass(frozen=True)
class InferredTask:
    """The task that a label column implies, and why; `separator` stands between several labels in one cell, None in lists.

    `warning` says which flag makes another task of it, where the values could as well be something else.
    """

    task: str
    why: str
    separator: str | None = None
    warning: str = ""


def infer_task(table: Table, column: str, present: Sequence[int]) -> InferredTask:
    """Return the task that the labels at `present` imply, with the reason; whole numbers go by `task_of_whole_numbers`.

    Raises `DataError` with both rows if a column mixes labels of different types.

    >>> infer_task(Table("list", {"score": [0.5, 2]}, [1, 2]), "score", [0, 1])
    InferredTask(task='regression', why='it holds numbers that are not all whole', separator=None, warning='')
    """
    kind = refuse_mixed_types(table, column, present)
    values = [table.columns[column][index] for index in present]
    if kind == "a list":
        return InferredTask("multi_label", "its cells are lists")
    if kind == "true or false":
        return InferredTask("single_label", "it is true or false")
    if kind == "text":
        if are_printed_lists(values):
            return InferredTask("multi_label", "its cells are printed lists")
        _refuse_written_amounts(table, column, present)
        separator = find_separator(values, column=column)
        if separator is not None:
            return InferredTask("multi_label", f"its cells hold several labels with '{separator}' between them", separator)
        if not _numbers_only(table, column, present):
            return InferredTask("single_label", "it holds names")
    numbers = whole_numbers(values)
    if numbers is None:
        return InferredTask("regression", "it holds numbers that are not all whole")
    task, why, warning = task_of_whole_numbers(numbers, column=column)
    return InferredTask(task, why, warning=warning)


def whole_numbers(values: Iterable[Any]) -> Counter[int] | None:
    """Count each number in cells that hold whole numbers alone; None where one does not, or is not finite.

    >>> whole_numbers(["3", 3.0, -1]), whole_numbers([3, 3.5])
    (Counter({3: 2, -1: 1}), None)
    """
    numbers = [as_number(value) for value in values]
    whole = [int(number) for number in numbers if number is not None and number.is_integer()]
    return Counter(whole) if len(whole) == len(numbers) else None


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    return "text" if isinstance(value, str) else UNKNOWN_KIND


def refuse_mixed_types(table: Table, column: str, present: Sequence[int]) -> str:
    """Return the common kind of all labels at `present`, or raise `DataError` with two rows that differ.

    >>> refuse_mixed_types(Table("list", {"label": ["a", "b"]}, [1, 2]), "label", [0, 1])
    'text'
    """
    first = {_kind(table.columns[column][index]): index for index in reversed(present)}
    if UNKNOWN_KIND in first:
        index = first[UNKNOWN_KIND]
        raise cell_error(table, index, column, "a label is text, a number or a list", hint="convert the labels")
    if len(first) > 1:
        raise _mixed(table, column, first)
    return next(iter(first))


def _numbers_only(table: Table, column: str, present: Sequence[int]) -> bool:
    numeric = {index: as_number(table.columns[column][index]) is not None for index in present}
    first = {"a number" if numeric[index] else "a name": index for index in reversed(present)}
    if len(first) > 1:
        raise _mixed(table, column, first)
    return "a number" in first


def _mixed(table: Table, column: str, first: dict[str, int]) -> DataError:
    (one, other) = sorted(first, key=lambda kind: first[kind])[:2]
    row, value = table.rows[first[one]], table.columns[column][first[one]]
    message = f"this label is {other}, while row {row} has {one} ({value!r:.40})"
    hint = "write all labels in one way, or set task to 'single_label' if both are names of classes"
    return cell_error(table, first[other], column, message, hint=hint)


def _refuse_written_amounts(table: Table, column: str, present: Sequence[int]) -> None:
    cells = {index: table.columns[column][index] for index in present}
    marked = [index for index, cell in cells.items() if as_number(cell) is None]
    if not marked:
        return
    if all(DECIMAL_COMMA.fullmatch(cell) for cell in cells.values()):
        message = "this is either two labels or a number with a decimal comma"
        hint = "write 3.5 for a number; set task to 'multi_label' for labels"
        raise cell_error(table, marked[0], column, message, hint=hint)
    are_classes = len(set(cells.values())) <= MAX_CATEGORIES and not any("," in cell for cell in cells.values())
    if not are_classes and all(AMOUNT.fullmatch(cell) for cell in cells.values()):
        message = "a quantity, but not written as a plain number"
        hint = "write 1234.5 for $1,234.5 and 45 for 45%; or set task to 'single_label' if each is a class"
        raise cell_error(table, marked[0], column, message, hint=hint)


def find_separator(cells: Sequence[str], *, column: str, certain: bool = False) -> str | None:
    """Return the separator of several labels in one cell, or `None` if each cell is one label.

    Cells are taken as several labels if the parts are short and occur in other cells too, or if the column's name is a plural. With
    `certain`, the task is known to be multi-label, and only the separator is inferred.

    >>> find_separator(["war|love", "love", "war"], column="genre"), find_separator(["Sci, Tech"], column="topic")
    ('|', None)
    """
    for separator in SEPARATORS:
        distinct = {cell for cell in cells if cell.strip()}
        parts = {cell: _parts(cell, separator) for cell in distinct}
        if not any(separator in cell for cell in distinct):
            continue
        if certain or (_all_short(parts.values()) and (_is_plural(column) or _parts_recur(parts))):
            return separator
    return None


def _parts(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


def _all_short(parts: Iterable[list[str]]) -> bool:
    return all(len(part) <= MAX_LABEL_LENGTH and part.count(" ") < 4 for cell in parts for part in cell)


def _is_plural(column: str) -> bool:
    word = column.casefold().replace("-", "_").split("_")[-1]
    return word.endswith("s") and not word.endswith("ss") and word not in NOT_PLURAL


def _parts_recur(parts: dict[str, list[str]]) -> bool:
    # "Business, Finance" may be one class; in "war|love", "love", "war" the parts also occur on their own.
    num_cells = Counter(part for cell in parts.values() for part in set(cell))
    of_several = {part for cell in parts.values() if len(cell) > 1 for part in cell}
    return sum(num_cells[part] > 1 for part in of_several) * 2 > len(of_several)


def class_notes(counts: Counter[str]) -> list[str]:
    """Return notes on the classes that are worth knowing before training, one sentence each.

    >>> class_notes(Counter({"neg": 1, "pos": 3}))
    ["classes: 'neg' 1, 'pos' 3", "classes with one example: 'neg'"]
    """
    ordered = sort_names(counts)
    more = f" and {len(ordered) - MAX_SHOWN} more" if len(ordered) > MAX_SHOWN else ""
    notes = [f"classes: {', '.join(f'{name!r} {counts[name]:,}' for name in ordered[:MAX_SHOWN])}{more}"]
    for names in _nearly_same(counts):
        notes.append(f"labels that differ in case or white space only are kept apart: {_shown(names)}")
    if single := sorted(name for name, count in counts.items() if count == 1):
        notes.append(f"classes with one example: {_shown(single)}")
    most, least = max(counts.values()), min(counts.values())
    if most >= 20 * least:
        notes.append(f"the classes are imbalanced, {most} to {least}: look at macro-F1 and consider class weights")
    return notes


def _nearly_same(names: Iterable[str]) -> list[list[str]]:
    groups = defaultdict(list)
    for name in sorted(names):
        groups[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in names[:5]) + more
