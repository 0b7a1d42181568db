"""Strict reading of JSON and JSON Lines: values keep their types, and broken lines or records of another structure are errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nlpbp.core.errors import DataError
from nlpbp.data.decoding import read_text, split_lines

Columns = dict[str, list[Any]]
Record = tuple[int, Mapping[Any, Any]]  # (line or number, fields)


class SpelledFloat(float):
    """A JSON number that keeps its notation in the file, because a text such as 1e5 is not 100000.0.

    >>> SpelledFloat("1e5").spelled
    '1e5'
    """

    def __init__(self, spelled: str) -> None:
        self.spelled = spelled


def read_json_lines(path: Path) -> tuple[Columns, list[int], tuple[str, ...]]:
    r"""Return the columns of a file with one JSON object per line, the line of each record, and notes on what was decided.

    Raises `DataError` with the line for anything but an object, a duplicate key, a lone surrogate, and a value that is a list or an
    object where an earlier record has another type.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "films.jsonl"
    >>> _ = path.write_text('{"text": "good", "label": 1}\n{"text": "bad"}\n', encoding="utf-8")
    >>> read_json_lines(path)
    ({'text': ['good', 'bad'], 'label': [1, None]}, [1, 2], ())
    """
    return _parse_lines(_text_of(path), str(path))


def read_json(path: Path) -> tuple[Columns, list[int], tuple[str, ...]]:
    r"""Return the columns of a JSON file: a list of objects, such a list under one key, or one list for each column.

    Records are numbered from 1. A file with one object per line is read as JSON Lines, with a note. Raises `DataError` as
    `read_json_lines` does.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "films.json"
    >>> _ = path.write_text('{"text": ["good", "bad"], "label": [1, 0]}', encoding="utf-8")
    >>> read_json(path)
    ({'text': ['good', 'bad'], 'label': [1, 0]}, [1, 2], ())
    """
    text, file = _text_of(path), str(path)
    try:
        content = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            columns, rows, notes = _parse_lines(text, file)
            return columns, rows, ("read as JSON Lines: one object per line", *notes)
        raise _not_json(error.msg, file, error.lineno, error.doc.split("\n")[error.lineno - 1]) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(str(error), file, None, None) from error
    if isinstance(content, dict):
        return _from_object(content, file)
    if not isinstance(content, list):
        raise _not_json("neither a list nor an object", file, None, text)
    columns, rows = gather_records(enumerate(content, 1), file=file)
    return columns, rows, ()


def gather_records(records: Iterable[tuple[int, Any]], *, file: str) -> tuple[Columns, list[int]]:
    """Return the columns of numbered records; missing keys are `None`.

    Raises `DataError` with the number for a record that is not an object, or if a value changes between a scalar, a list and an
    object.

    >>> gather_records([(1, {"text": "good", "label": 1}), (2, {"text": "bad"})], file="list")
    ({'text': ['good', 'bad'], 'label': [1, None]}, [1, 2])
    """
    kept = [(row, _checked(record, file, row)) for row, record in records]
    if not kept:
        raise DataError("there are no records", file=file, hint="give at least one record for each class")
    names = dict.fromkeys(name for _, record in kept for name in record)
    for name in names:
        _refuse_change_of_shape(name, kept, file)
    return {str(name): [record.get(name) for _, record in kept] for name in names}, [row for row, _ in kept]


def equal_columns(columns: Mapping[Any, list[Any]], *, file: str) -> tuple[Columns, list[int]]:
    """Return columns given as lists, with their records numbered from 1.

    Raises `DataError` for columns that differ in length or are empty.

    >>> equal_columns({"text": ["good", "bad"], "label": [1, 0]}, file="dict")
    ({'text': ['good', 'bad'], 'label': [1, 0]}, [1, 2])
    """
    lengths = {str(name): len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise DataError(f"the columns differ in length: {shown}", file=file, hint="give every column as many values")
    if not any(lengths.values()):
        raise DataError("there are no records", file=file, hint="give at least one record for each class")
    return {str(name): list(values) for name, values in columns.items()}, list(range(1, max(lengths.values()) + 1))


def _text_of(path: Path) -> str:
    text = read_text(path)
    if not text.strip():
        raise DataError("the file is empty", file=str(path), hint="give a file with records")
    return text


def _parse_lines(text: str, file: str) -> tuple[Columns, list[int], tuple[str, ...]]:
    records, num_blank = [], 0
    for row, line in enumerate(split_lines(text), 1):
        if not line.strip():
            num_blank += 1
            continue
        try:
            records.append((row, _loads(line)))
        except (ValueError, RecursionError) as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise _not_json(message, file, row, line) from error
    columns, rows = gather_records(records, file=file)
    return columns, rows, (f"blank lines left out: {num_blank}",) if num_blank else ()


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=SpelledFloat, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is duplicated in one object")
    return record


def _not_json(message: str, file: str, row: int | None, excerpt: str | None) -> DataError:
    return DataError(
        f"not valid JSON: {message}",
        file=file,
        row=row,
        excerpt=excerpt,
        hint='one object per line in .jsonl, a list of objects in .json, for example {"text": "good", "label": 1}',
    )


def _from_object(content: dict[str, Any], file: str) -> tuple[Columns, list[int], tuple[str, ...]]:
    values = list(content.values())
    if (name := _name_of_records(content)) is not None:
        columns, rows = gather_records(enumerate(content[name], 1), file=file)
        others = ", ".join(repr(key) for key in content if key != name)
        return columns, rows, (f"read from '{name}'; left out: {others}",) if others else ()
    if values and all(isinstance(value, list) for value in values):
        _refuse_records(content, file)
        return *equal_columns(content, file=file), ()
    if values and all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        inner = list(values[0])
        # A table has more records than columns; by default, pandas' to_json writes an object with row keys for each column.
        if len(values) > len(inner) and inner != [str(row) for row in range(len(inner))]:
            columns, rows = gather_records(enumerate(values, 1), file=file)
            return columns, rows, ("read as one object per record; the keys of the records are left out",)
        return *equal_columns({name: list(value.values()) for name, value in content.items()}, file=file), ()
    raise DataError(
        "an object, but not one list for each column",
        file=file,
        excerpt=", ".join(content),
        hint='give a list of objects, {"data": [...]}, or lists of one length',
    )


def _name_of_records(content: dict[str, Any]) -> str | None:
    lists = [name for name, value in content.items() if isinstance(value, list)]
    for name in ["data"] if "data" in lists else lists if len(lists) == 1 else []:
        if any(isinstance(record, dict) for record in content[name]):
            return name
    return None


def _refuse_records(content: dict[str, list[Any]], file: str) -> None:
    if all(values and isinstance(values[0], dict) for values in content.values()):
        raise DataError(
            "several lists of records in one file",
            file=file,
            excerpt=", ".join(content),
            hint="write each list to a file of its own",
        )


def _checked(record: Any, file: str, row: int) -> Mapping[Any, Any]:
    if not isinstance(record, Mapping):
        raise _not_json("a record is not an object", file, row, repr(record))
    for name, value in record.items():
        if not _encodable(value):
            raise DataError(
                "half of a surrogate pair, which is not a character",
                file=file,
                row=row,
                column=str(name).encode(errors="replace").decode(),
                excerpt=repr(value),
                hint=r"remove it; a character above U+FFFF is two escapes, such as \ud83d\ude00",
            )
    return record


def _encodable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or _is_unicode(value)
    return not isinstance(value, dict | list) or _is_unicode(json.dumps(value, ensure_ascii=False, default=str))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shape(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else "a value"


def _refuse_change_of_shape(name: Any, records: list[Record], file: str) -> None:
    seen: dict[str, int] = {}
    for row, record in records:
        value = record.get(name)
        if value is not None:
            seen.setdefault(_shape(value), row)
    if len(seen) > 1:
        (first, first_row), (other, row) = list(seen.items())[:2]
        raise DataError(
            f"the value is {other} here and {first} in row {first_row}",
            file=file,
            row=row,
            column=str(name),
            hint="give every record the same structure",
        )
