"""Reads any source of examples: a file or folder, a dataset of the hub, a data frame, plain Python lists.

The readers are strict because texts must not change: "NA" is not a missing value, 007 is not a number, and a broken file is an
error with its line. The formats are implemented in `delimited`, `json_files` and `arrow_tables`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.arrow_tables import load_hub, load_split_names, name_classes, read_parquet
from nlpbp.data.decoding import read_text, split_lines, unreadable
from nlpbp.data.delimited import read_delimited
from nlpbp.data.json_files import SpelledFloat, equal_columns, gather_records, read_json, read_json_lines

DELIMITED_SUFFIXES = (".csv", ".tsv")
KNOWN_SUFFIXES = (*DELIMITED_SUFFIXES, ".txt", ".json", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Table:
    """The content of a source, unchanged.

    `name` is how errors refer to the source. `columns` has the cells: text from CSV, TSV and text files, typed values from all
    other sources, `None` for a missing one. `rows` has for each record the line where it starts, or its number from 1 if the source
    has no lines; `files` has its file, for a folder of texts. `notes` says what was decided while reading.

    >>> len(Table(name="list", columns={"text": ["good", "bad"]}, rows=[1, 2]))
    2
    """

    name: str
    columns: dict[str, list[Any]]
    rows: list[int]
    files: list[str] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, ids: Iterable[int]) -> Table:
        """Return the records at these positions, in their order.

        >>> Table(name="list", columns={"text": ["good", "bad"]}, rows=[1, 2]).select([1]).columns
        {'text': ['bad']}
        """
        kept = list(ids)
        return replace(
            self,
            columns={name: [cells[i] for i in kept] for name, cells in self.columns.items()},
            rows=[self.rows[i] for i in kept],
            files=[self.files[i] for i in kept] if self.files else None,
        )


def read_table(source: Any, *, delimiter: str | None = None, text_column: str = "text", label_column: str = "label") -> Table:
    """Read a file, a folder with one sub-folder of .txt files for each label, a data frame, a `Dataset`, or lists.

    The suffix of a file decides how it is read. `text_column` and `label_column` name the columns of sources without column names:
    text files and folders. Raises `DataError` with file and row for broken data, `ConfigError` for a `delimiter` that does not
    apply.

    >>> read_table([{"text": "good", "label": 1}, {"text": "bad", "label": 0}]).columns
    {'text': ['good', 'bad'], 'label': [1, 0]}
    """
    if isinstance(source, str | Path):
        _refuse_what_is_no_path(str(source))
        path = Path(source).expanduser()
        try:
            return _read_path(path, delimiter, text_column, label_column)
        except MemoryError as error:
            raise DataError("too large for this machine's memory", file=str(path), hint="use a part of it") from error
    if delimiter is not None:
        raise ConfigError("a delimiter applies to .csv and .tsv files only", hint="leave it out")
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return _read_frame(source)
    if hasattr(source, "features") and hasattr(source, "to_dict"):
        return _read_dataset(source)
    if isinstance(source, Mapping):
        _refuse_splits(source)
        columns, rows = equal_columns({name: _as_list(values, name) for name, values in source.items()}, file="dict")
        return Table("dict", columns, rows)
    if isinstance(source, Sequence):
        columns, rows = gather_records(((row, _plain_record(record, row)) for row, record in enumerate(source, 1)), file="list")
        return Table("list", columns, rows)
    raise DataError(
        f"cannot read examples from {type(source).__name__}",
        hint="give a path, a data frame, a list of dicts or a dict of lists",
    )


def read_hub(name: str, *, split: str) -> Table:
    """Read one split of a dataset on the hub; `glue:sst2` is the configuration sst2 of glue.

    Class numbers become class names. Raises `DataError` if there is no network, no such dataset or no such split.
    """
    columns, notes = load_hub(name, split=split)
    columns, rows = equal_columns(columns, file=name)
    return Table(f"{name}[{split}]", columns, rows, notes=notes)


def hub_splits(name: str) -> list[str]:
    """Return the names of the splits of a dataset on the hub; raises as `read_hub` does."""
    return load_split_names(name)


def _refuse_what_is_no_path(source: str) -> None:
    if not source.strip():
        raise DataError("the path is empty", hint="name a file or a folder; '.' is this folder")
    if re.match(r"[a-z][a-z0-9+]+://", source, re.IGNORECASE):
        raise DataError("this is a URL, and only local files are read", file=source, hint="download it, and give the file")


def _read_path(path: Path, delimiter: str | None, text_column: str, label_column: str) -> Table:
    is_folder = _is_folder(path)
    suffix = path.suffix.lower()
    if delimiter is not None and (is_folder or suffix not in DELIMITED_SUFFIXES):
        raise ConfigError("a delimiter applies to .csv and .tsv files only", file=str(path), hint="leave it out")
    if is_folder:
        return _read_folder(path, text_column, label_column)
    if suffix in DELIMITED_SUFFIXES:
        columns, rows, notes = read_delimited(path, delimiter=delimiter)
    elif suffix == ".txt":
        columns, rows, notes = *equal_columns({text_column: _lines_of(path)}, file=str(path)), ()
    elif suffix == ".json":
        columns, rows, notes = read_json(path)
    elif suffix in (".jsonl", ".ndjson"):
        columns, rows, notes = read_json_lines(path)
    elif suffix == ".parquet":
        columns, notes = read_parquet(path)
        rows = list(range(1, 1 + len(next(iter(columns.values())))))
    else:
        raise DataError(
            f"files with the suffix '{path.suffix}' are not read",
            file=str(path),
            hint=f"give one of {', '.join(KNOWN_SUFFIXES)}, or a folder with one sub-folder for each label",
        )
    return Table(str(path), columns, rows, notes=notes)


def _is_folder(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a NUL character in the name
        raise DataError(str(error), file=str(path), hint="check the path") from error
    return path.is_dir()


def _lines_of(path: Path) -> list[str]:
    lines = list(split_lines(read_text(path)))
    if not lines:
        raise DataError("the file is empty", file=str(path), hint="give a file with one text per line")
    return lines


def _read_folder(folder: Path, text_column: str, label_column: str) -> Table:
    entries = _visible(folder)
    inside = {entry: _visible(entry) for entry in entries if entry.is_dir()}
    texts = [file for files in inside.values() for file in files if _is_text(file)]
    columns = {label_column: [file.parent.name for file in texts]} if texts else {}
    texts = texts or [entry for entry in entries if _is_text(entry)]
    if not texts:
        raise _no_texts(folder, inside)
    root = folder.resolve()
    used = {*texts, *(file.parent for file in texts)}
    left_out = [entry.name for entry in [*entries, *chain(*inside.values())] if entry not in used]
    return Table(
        str(folder),
        {text_column: [_whole_text(file) for file in texts], **columns},
        [1] * len(texts),
        files=[f"{root.name}/{file.relative_to(folder).as_posix()}" for file in texts],
        notes=(f"left out: {len(left_out)} entries, such as '{left_out[0]}'",) if left_out else (),
    )


def _no_texts(folder: Path, inside: dict[Path, list[Path]]) -> DataError:
    shown = ", ".join(f"'{entry.name}'" for entry in _visible(folder)[:10]) or "nothing"
    hint = f"give one of the files in it, or another folder; it holds {shown}"
    for entry, below in inside.items():
        if any(_is_text(file) for deeper in below if deeper.is_dir() for file in _visible(deeper)):
            hint = f"give one level below, such as '{entry}', as the training data and the others as validation or test"
            break
    return DataError("a folder without .txt files and without sub-folders that hold them", file=str(folder), hint=hint)


def _is_text(entry: Path) -> bool:
    return entry.suffix.lower() == ".txt" and not entry.is_dir()


def _visible(folder: Path) -> list[Path]:
    try:
        # File systems list folders in different orders; ours must be the same everywhere.
        return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise unreadable(folder, error) from error


def _whole_text(file: Path) -> str:
    return read_text(file).removesuffix("\n").removesuffix("\r")


def _read_frame(frame: Any) -> Table:
    names = [str(name) for name in frame.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError("two columns have one name", file="DataFrame", column=twice, hint="rename one of them")
    columns = {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns}
    return Table("DataFrame", *equal_columns(columns, file="DataFrame"))


def _read_dataset(dataset: Any) -> Table:
    columns, notes = name_classes(dataset.to_dict(), dataset.features.to_dict(), file="Dataset")
    columns, rows = equal_columns(columns, file="Dataset")
    return Table("Dataset", columns, rows, notes=notes)


def _refuse_splits(source: Mapping[Any, Any]) -> None:
    splits = [str(name) for name, value in source.items() if hasattr(value, "features") and hasattr(value, "to_dict")]
    if splits:
        raise DataError(
            f"several splits in one: {', '.join(splits)}",
            file=type(source).__name__,
            hint=f"give one of them, such as data['{splits[0]}'], and the others as validation and test",
        )


def _plain_record(record: Any, row: int) -> dict[Any, Any]:
    if not isinstance(record, Mapping):
        hint = 'write each as a dict, for example {"text": "good", "label": 1}, or give a dict with a list for each column'
        raise DataError("a record is not a dict", file="list", row=row, excerpt=repr(record), hint=hint)
    return {name: _plain(value) for name, value in record.items()}


def _as_list(values: Any, name: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError("a column is not a list", file="dict", column=str(name), hint="give a list of values")
    return [_plain(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _plain(value: Any) -> Any:
    # pandas and numpy have their own scalars, and three representations of missing values.
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return SpelledFloat(str(value))
    return None if isinstance(value, float) and value != value else value
