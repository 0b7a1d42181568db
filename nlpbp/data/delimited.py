"""Strict reading of CSV and TSV files: cells stay text, and each error names the line where the mistake begins."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.decoding import count_line_ends, read_text

DELIMITERS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
NUM_SNIFFED_RECORDS = 20
SNIFFED_CHARACTERS = 200_000
MAX_CELL = 2**31 - 1  # characters; the csv module by itself refuses a cell above 128 KiB
EXCEL_LINE = re.compile(r'"?sep=([^"\r\n])"?[^\S\r\n]*(?:\r\n|\r|\n)', re.IGNORECASE)  # an Excel-specific line that is not a header
QUOTED_CELL = re.compile(r'"[^"]*(?:""[^"]*)*"')

Record = tuple[int, list[str]]  # (line where it starts, cells)


def read_delimited(path: Path, *, delimiter: str | None = None) -> tuple[dict[str, list[Any]], list[int], tuple[str, ...]]:
    r"""Return the columns of a CSV or TSV file, the line where each record starts, and notes on what was decided.

    Raises `DataError` with the line for an empty file, a header that is missing, empty or has duplicate names, a record with too
    many or too few cells, and a quote that is never closed; `ConfigError` for a delimiter of several characters.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "films.csv"
    >>> _ = path.write_text('text;label\n"good; very";1\n', encoding="utf-8")
    >>> read_delimited(path)
    ({'text': ['good; very'], 'label': ['1']}, [2], ("delimiter ';' (sniffed)",))
    """
    text = read_text(path)
    excel = EXCEL_LINE.match(text)
    if not text[excel.end() if excel else 0 :].strip():
        raise DataError("the file is empty", file=str(path), hint="give a file with a header line and records")
    notes: list[str] = []
    if delimiter is None and excel:
        delimiter = excel[1]
        notes.append(f"delimiter {DELIMITERS.get(delimiter, repr(delimiter))} (the first line says so)")
    elif delimiter is None:
        delimiter = sniff_delimiter(text, default="\t" if path.suffix.lower() == ".tsv" else ",")
        notes += [] if delimiter == "," else [f"delimiter {DELIMITERS[delimiter]} (sniffed)"]
    delimiter = check_delimiter(delimiter)
    with _long_cells():
        records = _parse_tsv(text, str(path), notes) if delimiter == "\t" else _parse(text, delimiter, str(path))
    records = records[1:] if excel else records
    body = [record for record in records[1:] if record[1]]
    if len(body) < len(records) - 1:
        notes.append(f"blank lines left out: {len(records) - 1 - len(body)}")
    (line, header), *body = _without_empty_columns([*records[:1], *body], notes)
    header = _header(header, line, str(path))
    if not body:
        raise DataError("there is only a header, without records", file=str(path), row=line, hint="add records")
    _check_widths(body, header, str(path), delimiter)
    columns = dict(zip(header, map(list, zip(*(cells for _, cells in body), strict=True)), strict=True))
    return _without_row_numbers(columns, str(path), notes), [line for line, _ in body], tuple(notes)


def check_delimiter(delimiter: str) -> str:
    r"""Return the delimiter, with `\t` typed on a command line converted to a tab.

    >>> check_delimiter("\\t")
    '\t'
    """
    delimiter = "\t" if delimiter in ("\\t", "tab") else delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError("a delimiter must be one character", excerpt=delimiter, hint=r"for example ',' or ';' or '\t'")
    return delimiter


def sniff_delimiter(text: str, *, default: str) -> str:
    r"""Return the delimiter that gives the header and the first records the same number of cells.

    The header decides, because column names contain no delimiters: a broken record remains an error.

    >>> sniff_delimiter("text;label\ngood, but long;1\n", default=",")
    ';'
    """
    best, best_fit = default, (0.0, False, 0)
    for delimiter in DELIMITERS:
        header, *widths = _first_widths(text, delimiter)
        share = sum(width == header for width in widths) / max(1, len(widths))
        if header > 1 and (share, delimiter == default, header) > best_fit:
            best, best_fit = delimiter, (share, delimiter == default, header)
    return best


def _first_widths(text: str, delimiter: str) -> list[int]:
    with _long_cells():
        reader = csv.reader(io.StringIO(text[:SNIFFED_CHARACTERS], newline=""), delimiter=delimiter)
        return [len(cells) for cells in islice(reader, NUM_SNIFFED_RECORDS)]


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parse(text: str, delimiter: str, file: str) -> list[Record]:
    # Without newline translation, so that line breaks inside cells are kept as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records, line = [], 1
    try:
        for cells in reader:
            records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise _quote_error(text, line, delimiter, file) from error
    return records


def _parse_tsv(text: str, file: str, notes: list[str]) -> list[Record]:
    # Many TSV files (GLUE's, for example) are written without quoting: a quote is then an ordinary character,
    # and reading it as quoting joins lines or fails. The cell counts of the lines tell, unless there are doubled quotes.
    try:
        records = _parse(text, "\t", file)
        if len(records) == count_line_ends(text.rstrip("\r\n")) + 1:
            return records
    except DataError:
        records = []
    plain_reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    plain = [(line, cells) for line, cells in enumerate(plain_reader, 1)]
    if '""' not in text and all(len(cells) in (0, len(plain[0][1])) for _, cells in plain):
        notes.append("no quoting: every line has as many cells as the header if quotes are ordinary characters")
        return plain
    return records or _parse(text, "\t", file)


def _quote_error(text: str, line: int, delimiter: str, file: str) -> DataError:
    lines = io.StringIO(text, newline="")
    opened = sum(len(passed) for passed in islice(lines, line - 1))
    unquoted_cell = re.compile(f"[^{re.escape(delimiter)}\r\n]*")
    message = "a quoted cell starts here and its quote is never closed"
    while opened < len(text):
        if text[opened] != '"':
            cell = unquoted_cell.match(text, opened)
        elif (cell := QUOTED_CELL.match(text, opened)) is None:
            break
        elif cell.end() < len(text) and text[cell.end()] not in f"{delimiter}\r\n":
            where = count_line_ends(text[: cell.end()]) + 1
            message = f"the quoted cell that starts here closes in line {where}, before the end of the cell"
            break
        assert cell is not None
        opened = cell.end() + 1
    return DataError(
        message,
        file=file,
        row=count_line_ends(text[:opened]) + 1,
        excerpt=text[opened : opened + 100],
        hint='close the quote; write a quote inside a quoted cell as ""',
    )


def _without_empty_columns(records: list[Record], notes: list[str]) -> list[Record]:
    # Spreadsheets end every line with the delimiters of columns that were once used.
    (_, header), *body = records or [(1, [])]
    num_named = max((number for number, cell in enumerate(header, 1) if cell.strip()), default=0)
    width = max((len(cells) for _, cells in body), default=0)
    if not 0 < num_named < width or not num_named <= len(header) <= width:
        return records
    if any(len(cells) < width or any(cell.strip() for cell in cells[num_named:]) for _, cells in body):
        return records
    notes.append(f"columns without a name and without content left out at the end of the lines: {width - num_named}")
    return [(line, cells[:num_named]) for line, cells in records]


def _header(cells: list[str], line: int, file: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    # pandas writes its row numbers under an empty first name; whether these are row numbers is checked after reading.
    if not names or "" in names[1:] or names == [""]:
        raise DataError(
            "the header is missing or has an empty name",
            file=file,
            row=line,
            excerpt=",".join(cells),
            hint="name every column in the first line, for example text,label",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError("two columns have one name", file=file, row=line, column=twice, hint="rename one of them")
    return names


def _check_widths(records: list[Record], header: list[str], file: str, delimiter: str) -> None:
    expected = len(header)
    line, cells = next((record for record in records if len(record[1]) != expected), (0, header))
    if len(cells) == expected:
        return
    hint = "fill in the missing cells; a line break inside a cell needs quotes around the cell"
    if len(cells) > expected:
        hint = f"put quotes around a cell that contains {DELIMITERS.get(delimiter, repr(delimiter))}"
    if any(cell.startswith(' "') for cell in cells):
        hint = "remove the space before a quote that opens a cell"
    if expected == 1:
        hint += "; if there are lines before the header, remove them; if another character is the delimiter, set 'delimiter' to it"
    raise DataError(
        f"too {'many' if len(cells) > expected else 'few'} cells: the header has {expected}, this record {len(cells)}",
        file=file,
        row=line,
        excerpt=delimiter.join(cells),
        hint=hint,
    )


def _without_row_numbers(columns: dict[str, list[Any]], file: str, notes: list[str]) -> dict[str, list[Any]]:
    if "" not in columns:
        return columns
    numbers = columns[""]
    if len(columns) == 1 or not all(cell.isdecimal() for cell in numbers) or len(set(numbers)) < len(numbers):
        raise DataError("the header is missing or has an empty name", file=file, row=1, hint="name the first column")
    notes.append("the first column has no name and counts the rows: left out")
    return {name: cells for name, cells in columns.items() if name}
