"""Compose one text from several columns: titles, numbers and dates, each after a marker with its name, with missing values marked.

A text model reads a date as digits, which do not show the weekday; and silently imputed values hide that they were missing, which
is often predictive. So dates are split into their components, and a missing number is the training median followed by ` [price
missing]`. The kinds of the columns and the medians are determined on the training set, and kept for new data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

import numpy as np

from nlpbp.core.errors import ConfigError, DataError, escape
from nlpbp.data.labels import as_number, cell_error, is_missing
from nlpbp.data.readers import Table

KINDS = ("text", "number", "date", "date_day_first", "date_month_first")
MOSTLY = 0.9  # of a column's cells that are numbers or dates: the others are then probably mistakes, and reported
MISSING_WORDS = {"na", "n/a", "nan", "null", "none", "-", "?"}  # among numbers and dates; a text may contain the word "none"
YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)(.*)", re.ASCII)
YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?!\d)(.*)", re.ASCII)
SHORT_HOUR = re.compile(r"^(\D+)(\d:)", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FLAGS = tuple(f"{period}_{end}" for period in ("month", "quarter", "year") for end in ("start", "end"))


def parse_date(value: Any, *, day_first: bool | None = None) -> datetime | None:
    """Parse a cell as a date, `None` if it is missing; `ValueError` if it is not a date.

    ISO 8601 is accepted, also with `/` or `.`; if the year comes last, `day_first` tells the order of day and month. A time zone is
    kept.

    >>> parse_date("2024-2-29"), parse_date("31.12.2024 9:05", day_first=True)
    (datetime.datetime(2024, 2, 29, 0, 0), datetime.datetime(2024, 12, 31, 9, 5))
    """
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if _is_gap(value) or value != value:  # pandas' NaT is not a date, and does not equal itself
        return None
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        if first := YEAR_FIRST.fullmatch(value.strip()):
            return _moment(*first.groups())
        last = YEAR_LAST.fullmatch(value.strip())
        if last and day_first is not None:
            one, _, two, year, rest = last.groups()
            return _moment(year, *((two, one) if day_first else (one, two)), rest)
    raise ValueError(f"not a date: {escape(str(value))!r}; write it as 2024-03-31")


def _moment(year: str, month: str, day: str, rest: str) -> datetime:
    time = SHORT_HOUR.sub(r"\g<1>0\2", rest)
    return datetime.fromisoformat(f"{year}-{int(month):02}-{int(day):02}{time}")


def _is_gap(value: Any) -> bool:
    """Tell whether a cell of a column of numbers or dates is missing."""
    return is_missing(value) or (isinstance(value, str) and value.strip().casefold() in MISSING_WORDS)


def expand_datetime(values: Sequence[Any], *, time: bool = False) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Split dates into columns [n] from which a model can learn cycles and trends (practice X1); NaN where a date is missing.

    `week` is that of ISO 8601 (1 to 53), `weekday` counts from Monday, 0; `month_start` and the like are 0 or 1; `elapsed_days`
    counts from 1970 in UTC, which is also assumed for dates without a time zone; everything else is in the date's own time zone.
    With `time` there are `hour`, `minute` and `second` too. Raises `ValueError` for a value that is not a date. After fastai's
    `add_datepart`.

    >>> parts = expand_datetime(["2024-02-29", None])
    >>> [parts[name].tolist() for name in ("weekday", "day_of_year", "month_end")]
    [[3.0, nan], [60.0, nan], [1.0, nan]]
    """
    rows = [None if (moment := parse_date(value)) is None else _parts(moment, time=time) for value in values]
    names = _parts(EPOCH, time=time)
    return {name: np.array([np.nan if row is None else row[name] for row in rows], dtype=np.float64) for name in names}


def _parts(moment: datetime, *, time: bool) -> dict[str, float]:
    calendar = {
        "year": moment.year,
        "month": moment.month,
        "week": moment.isocalendar().week,
        "day": moment.day,
        "weekday": moment.weekday(),
        "day_of_year": moment.timetuple().tm_yday,
    }
    flags = {name: float(name in _flags(moment)) for name in FLAGS}
    elapsed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
    clock = {"hour": moment.hour, "minute": moment.minute, "second": moment.second} if time else {}
    return {**calendar, **flags, "elapsed_days": elapsed / timedelta(days=1), **clock}


def _flags(moment: datetime) -> list[str]:
    """Return the names of the periods that begin or end on this day."""
    is_end = moment.date() == date.max or (moment + timedelta(days=1)).month != moment.month
    starts = [moment.day == 1, moment.day == 1 and moment.month % 3 == 1, moment.day == 1 and moment.month == 1]
    ends = [is_end, is_end and moment.month % 3 == 0, is_end and moment.month == 12]
    return [
        name for name, holds in zip(FLAGS, (flag for pair in zip(starts, ends, strict=True) for flag in pair), strict=True) if holds
    ]


def infer_kinds(table: Table, names: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Infer from the cells which of the columns `names` are numbers, dates or text, and add the result to `notes`.

    In a column of numbers or dates, every cell is one, or is missing. A column where only nearly all cells are is text, and a note
    names the first exception. Raises `DataError` for dates such as 3/4/2024, if day and month cannot be told apart.

    >>> table = Table("list", {"when": ["31.12.2024", ""], "price": ["12.5", "NA"], "title": ["Seven", "7"]}, [1, 2])
    >>> infer_kinds(table, ["when", "price", "title"], notes := []), notes
    ({'when': 'date_day_first', 'price': 'number', 'title': 'text'}, ['fields: when (date), price (number), title (text)'])
    """
    kinds = {name: _kind(table, name, notes) for name in names}
    if kinds:
        notes.append("fields: " + ", ".join(f"{name} ({_family(kind)})" for name, kind in kinds.items()))
    return kinds


def _family(kind: str) -> str:
    return kind.partition("_")[0]


def _kind(table: Table, name: str, notes: list[str]) -> str:
    values = table.columns[name]
    present = [index for index, value in enumerate(values) if not _is_gap(value)]
    date_kind = _date_kind(table, name, [values[index] for index in present])
    for kind in ("number", date_kind):
        others = [index for index in present if not _is_of_kind(values[index], kind)]
        if present and not others:
            return kind
        if 0 < len(others) <= (1 - MOSTLY) * len(present):
            file = table.files[others[0]] if table.files else table.name
            where = f"{file}, row {table.rows[others[0]]}: '{escape(str(values[others[0]]))}'"
            notes.append(f"warning: '{name}' is read as text, because not every cell is a {_family(kind)}: {where}")
    return "text"


def _date_kind(table: Table, name: str, present: list[Any]) -> str:
    found = [match for value in present if isinstance(value, str) and (match := YEAR_LAST.fullmatch(value.strip()))]
    if not found or len(found) < MOSTLY * len(present):
        return "date"
    if any(match[2] == "." or int(match[1]) > 12 for match in found):  # dates with dots are written with the day first
        return "date_day_first"
    if any(int(match[3]) > 12 for match in found):
        return "date_month_first"
    raise DataError(
        "the day and the month cannot be told apart",
        file=table.name,
        column=name,
        excerpt=found[0][0],
        hint="write dates as 2024-03-31",
    )


def _is_of_kind(value: Any, kind: str) -> bool:
    try:
        return read_cell(value, kind) is not None
    except ValueError:
        return False


def read_cell(value: Any, kind: str) -> str | float | datetime | None:
    """Convert a cell of a column of this kind, `None` if it is missing; `ValueError` if it is not of the kind.

    >>> read_cell(" 12.50", "number"), read_cell("n/a", "number"), read_cell("n/a", "text")
    (12.5, None, 'n/a')
    """
    if kind == "text":
        return None if is_missing(value) else str(value).strip()
    if kind == "number":
        if _is_gap(value):
            return None
        number = as_number(value)
        if number is None:
            raise ValueError(f"not a number: {escape(str(value))!r}")
        return number
    return parse_date(value, day_first={"date_day_first": True, "date_month_first": False}.get(kind))


def read_column(table: Table, name: str, kind: str) -> list[Any]:
    """Read a column of numbers or dates, `None` for missing cells; `DataError` with the row for a cell that is neither."""
    cells = []
    for index, value in enumerate(table.columns[name]):
        try:
            cells.append(read_cell(value, kind))
        except ValueError as error:
            what = _family(kind)
            raise cell_error(
                table, index, name, f"this is not a {what}, unlike in the training data", hint="correct it, or leave the cell empty"
            ) from error
    return cells


def read_moments(table: Table, name: str) -> list[float]:
    """Read a column of dates as days since 1970, or a column of numbers; no cell may be missing.

    Raises `DataError` for a column of text, and with the row for a cell that is missing.

    >>> read_moments(Table("list", {"when": ["1970-01-02", "1970-01-03 12:00"]}, [1, 2]), "when")
    [1.0, 2.5]
    """
    notes: list[str] = []
    kind = _kind(table, name, notes)
    if kind == "text":
        hint = f"name a column of dates such as 2024-03-31{'; ' + notes[0] if notes else ''}"
        raise DataError("this is not a column of dates or numbers", file=table.name, column=name, hint=hint)
    cells = read_column(table, name, kind)
    if None in cells:
        raise cell_error(table, cells.index(None), name, "the time is missing", hint="fill it in, or remove the record")
    return cells if kind == "number" else expand_datetime(cells)["elapsed_days"].tolist()


def fit_statistics(columns: Mapping[str, Sequence[Any]], *, kinds: Mapping[str, str]) -> dict[str, float]:
    """Return the median of each column of numbers, to impute missing ones: pass only the training set.

    >>> fit_statistics({"price": ["1", None, "3", "90"]}, kinds={"price": "number"})
    {'price': 3.0}
    """
    numbers = {name: [read_cell(value, kind) for value in columns[name]] for name, kind in kinds.items() if kind == "number"}
    known = {name: [number for number in cells if isinstance(number, float)] for name, cells in numbers.items()}
    return {name: float(median(cells)) for name, cells in known.items() if cells}


def compose_fields(columns: Mapping[str, Sequence[Any]], *, kinds: Mapping[str, str], statistics: Mapping[str, float]) -> list[str]:
    """Compose one text for each row: every field after a marker with its name, dates split, missing values marked (practices D7,
    X1).

    Numbers and dates come first and texts last, so that truncation affects only long texts. `kinds` are those of `infer_kinds`,
    `statistics` those of `fit_statistics`; a missing number without a statistic is only marked.

    >>> columns = {"title": ["Seven", ""], "when": ["2024-03-31", None], "price": [12.5, None]}
    >>> kinds = {"title": "text", "when": "date", "price": "number"}
    >>> for text in compose_fields(columns, kinds=kinds, statistics={"price": 9.0}):
    ...     print(text)
    [when] [year] 2024 [month] mar [day] 31 [weekday] sun [month end] [quarter end] [price] 12.5 [title] Seven
    [when missing] [price] 9 [price missing] [title missing]
    """
    order = sorted(kinds, key=lambda name: kinds[name] == "text")
    written = [[_written(name, read_cell(value, kinds[name]), statistics.get(name)) for value in columns[name]] for name in order]
    return [" ".join(parts) for parts in zip(*written, strict=True)]


def _written(name: str, value: str | float | datetime | None, typical: float | None) -> str:
    name = " ".join(name.split())
    if value is None:
        return f"[{name} missing]" if typical is None else f"[{name}] {_number(typical)} [{name} missing]"
    if isinstance(value, datetime):
        return f"[{name}] {_date(value)}"
    return f"[{name}] {_number(value) if isinstance(value, float) else value}"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _date(moment: datetime) -> str:
    parts = {"year": moment.year, "month": MONTHS[moment.month - 1], "day": moment.day, "weekday": WEEKDAYS[moment.weekday()]}
    if moment.hour or moment.minute:
        parts["hour"] = moment.hour
    flags = [f"[{flag.replace('_', ' ')}]" for flag in _flags(moment)]
    return " ".join([*(f"[{part}] {value}" for part, value in parts.items()), *flags])


def pack_fields(kinds: Mapping[str, str], statistics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return kinds and statistics as plain data for a JSON file, in the order of the fields.

    >>> pack_fields({"price": "number"}, {"price": 9.0})
    [{'name': 'price', 'kind': 'number', 'median': 9.0}]
    """
    return [{"name": name, "kind": kind, "median": statistics.get(name)} for name, kind in kinds.items()]


def unpack_fields(packed: Any) -> tuple[dict[str, str], dict[str, float]]:
    """Invert `pack_fields`: return kinds and statistics; `ConfigError` for anything else.

    >>> unpack_fields([{"name": "price", "kind": "number", "median": 9.0}])
    ({'price': 'number'}, {'price': 9.0})
    """
    try:
        kinds = {str(field["name"]): str(field["kind"]) for field in packed}
        statistics = {str(field["name"]): float(field["median"]) for field in packed if field["median"] is not None}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError("the fields that are saved with the model cannot be read", hint="train it again") from error
    if not set(kinds.values()) <= set(KINDS):
        raise ConfigError("the model has a field of an unknown kind", excerpt=", ".join(kinds.values()), hint="use a newer nlpbp")
    return kinds, statistics
