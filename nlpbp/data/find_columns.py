"""Detection of the text and label columns: by name first, then by their cells.

An ambiguous choice is an error, because nothing else would reveal that a model was trained on the wrong column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.decoding import nearest
from nlpbp.data.labels import MAX_CATEGORIES, MAX_CLASSES, MAX_LABEL_LENGTH, as_number, is_missing, label_name, whole_numbers
from nlpbp.data.readers import Table
from nlpbp.data.whole_numbers import task_of_whole_numbers

PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("s1", "s2"),
    ("#1_string", "#2_string"),  # of MRPC
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question_1", "question_2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "document"),
    ("query", "passage"),
)
TEXT_NAMES = (
    *("text", "texts", "sentence", "review", "content", "body", "comment", "tweet", "document", "article", "message"),
    *("post", "utterance", "abstract", "description", "question", "query", "premise", "headline", "title", "summary"),
)
LABEL_NAMES = (
    *("label", "labels", "target", "targets", "class", "category", "categories", "sentiment", "polarity", "stars"),
    *("rating", "score", "y", "tags", "tag", "intent", "topic", "topics", "emotion", "emotions", "genre", "genres"),
    *("gold", "output", "is_duplicate", "grade", "similarity", "is_spam"),
    *("class_index", "class_id", "label_id", "category_id"),
)
IDENTIFIER_WORDS = {"id", "ids", "idx", "index", "uuid", "guid", "url", "link", "uri", "hash"}
# These repeat like labels, but tell the origin of a text: they are a label only if no other column can be.
ORIGIN_WORDS = {
    *("date", "time", "datetime", "timestamp", "created", "updated", "year", "month", "day", "timezone", "user", "username"),
    *("author", "lang", "language", "locale", "country", "source", "split", "fold", "domain", "platform"),
}
DATE = re.compile(r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})\b.*", re.ASCII | re.DOTALL)


def column_of(table: Table, name: str) -> list[Any]:
    """Return the cells of a column, or raise `DataError` that lists the columns and the most similar name.

    >>> column_of(Table("list", {"label": [1]}, [1]), "label")
    [1]
    """
    if name not in table.columns:
        hint = nearest(name, table.columns, kind="column")
        raise DataError("there is no such column", file=table.name, column=name, hint=hint)
    return table.columns[name]


def given_fields(compose: Sequence[str], text: tuple[str, ...], label: str | None) -> tuple[str, ...]:
    """Return the columns that make one text together, or raise `ConfigError` for those that cannot.

    >>> given_fields(["title", "price"], (), "label")
    ('title', 'price')
    """
    if text or len(set(compose)) < len(compose) or label in compose:
        raise ConfigError(
            "fields are different columns, none of them the label, and take the place of a text column",
            column="data.fields",
            excerpt=", ".join(compose),
            hint="name each once, the text among them",
        )
    return tuple(compose)


def given_text(given: tuple[str, ...], label: str | None) -> tuple[str, ...]:
    """Return the text column, or the two of a pair, as they were named, or raise `ConfigError` for those that cannot be.

    >>> given_text(("premise", "hypothesis"), "label")
    ('premise', 'hypothesis')
    """
    if len(given) > 2 or len(set(given)) < len(given) or label in given:
        raise ConfigError(
            "the text is one column, or two different ones for a pair, and not the label",
            excerpt=", ".join(given),
            hint="name one or two columns; to use more, join them in the file",
        )
    return given


def _normalised(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().casefold())


def find_text(table: Table, label: str | None, notes: list[str]) -> tuple[str, ...]:
    """Return the text column, or the two columns of a pair, and add the reason to `notes`.

    Raises `DataError` that lists the columns if none looks like text, or if the header seems to be missing.

    >>> find_text(Table("list", {"id": [7], "Review Text": ["so good"]}, [1]), None, [])
    ('Review Text',)
    """
    columns = {_normalised(name): name for name in reversed(table.columns) if name != label}
    for first, second in PAIR_NAMES:
        pair = (columns.get(first), columns.get(second))
        # Of these names only "answer" may also be the label; the others are texts, however few values they have.
        if pair[0] and pair[1] and (_is_prose if second == "answer" else _is_text)(table.columns[pair[1]]):
            notes.append(f"text: columns '{pair[0]}' and '{pair[1]}' as a pair, by their names")
            return (pair[0], pair[1])
    named = [columns[name] for name in TEXT_NAMES if name in columns]
    prose = [name for name in columns.values() if _is_prose(table.columns[name]) and not _is_identifier(table, name)]
    ends = [name for name in prose if _normalised(name).split("_")[-1] in TEXT_NAMES]
    found = named or sorted(ends or prose, key=lambda name: _mean_length(table.columns[name]), reverse=True)
    if not found:
        hint = f"name it with 'text'; {nearest('text', table.columns, kind='column')}"
        if nested := [name for name, values in table.columns.items() if any(isinstance(value, dict) for value in values)]:
            hint += f"; what is inside objects is not looked at, so take it out of {', '.join(repr(name) for name in nested)}"
        raise DataError("no column looks like text", file=table.name, hint=hint)
    if not (named or ends) and table.rows[0] > 1 and len(found[0]) > MAX_LABEL_LENGTH:
        raise DataError(
            "the name of this column is as long as a text, so the header seems to be missing",
            file=table.name,
            row=1,
            column=found[0],
            hint="put the names of the columns first, for example text,label; or name this one with 'text'",
        )
    notes.append(f"text: column '{found[0]}', {'by its name' if named or ends else 'the longest of those that hold text'}")
    return (found[0],)


def note_other_texts(table: Table, used: Iterable[str | None], notes: list[str]) -> None:
    """Add to `notes` which other columns contain text, by name or content, and are not used.

    >>> table = Table("list", {"text": ["so good"], "title": ["Seven"]}, [1])
    >>> note_other_texts(table, ["text"], notes := [])
    >>> notes
    ["not used, though they may hold text too: 'title'"]
    """
    others = [name for name in table.columns if name not in set(used) and _may_be_text(table, name)]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        notes.append(f"not used, though they may hold text too: {', '.join(repr(name) for name in others[:5])}{more}")


def _may_be_text(table: Table, name: str) -> bool:
    values = table.columns[name]
    is_prose = _is_prose(values) and not _is_identifier(table, name) and not _is_origin(name, values)
    return _normalised(name) in TEXT_NAMES or is_prose


def _is_text(values: list[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value]
    return len(texts) * 2 >= len(values) and any(as_number(value) is None for value in texts)


def _is_prose(values: list[Any]) -> bool:
    if not _is_text(values):
        return False
    texts = [value for value in values if isinstance(value, str) and value]
    # A column of a few short values that repeat often is a category, whatever its name.
    few = len(texts) > 3 and len(set(texts)) <= min(MAX_CATEGORIES, len(texts) / 2)
    return not few or _mean_length(texts) > MAX_LABEL_LENGTH / 2


def _is_identifier(table: Table, name: str) -> bool:
    values = [value for value in table.columns[name] if not is_missing(value)]
    if set(_normalised(name).split("_")) & IDENTIFIER_WORDS:
        return True
    if all(isinstance(value, str) and value.isascii() and " " not in value for value in values):
        numbers = [as_number(value) for value in values]
        return len(values) > 3 and len(set(values)) == len(values) and (None in numbers or _counts_up(numbers))
    return _counts_up([as_number(value) for value in values])


def _is_origin(name: str, values: list[Any]) -> bool:
    return bool(set(_normalised(name).split("_")) & ORIGIN_WORDS) or _are_dates(values)


def _are_dates(values: list[Any]) -> bool:
    return all(isinstance(value, date) or (isinstance(value, str) and DATE.fullmatch(value)) for value in values)


def _counts_up(numbers: list[float | None]) -> bool:
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or len(known) <= 3:
        return False
    # In a shuffled file only many numbers tell: the grades of four records may be 3, 1, 2, 4.
    in_order = sorted(known) if len(known) > MAX_CATEGORIES else known
    return {after - before for before, after in pairwise(in_order)} == {1.0}


def _mean_length(values: list[Any]) -> float:
    return sum(len(value) for value in values if isinstance(value, str)) / max(1, len(values))


def find_label(table: Table, texts: tuple[str, ...], notes: list[str], *, require_label: bool, guess: bool = True) -> str | None:
    """Return the label column, and add the reason to `notes`; without `require_label` there may be none.

    A column whose name says nothing is looked at with `guess` alone. Raises `DataError` that lists the columns if none or several
    could be the label and one is required, or if the header seems to be missing.

    >>> find_label(Table("list", {"text": ["so good", "so bad"], "Stars": [5, 1]}, [1, 2]), ("text",), [], require_label=True)
    'Stars'
    """
    columns = {_normalised(name): name for name in reversed(table.columns) if name not in texts}
    named = [columns[name] for name in LABEL_NAMES if name in columns]
    if named:
        others = ", ".join(f"'{name}'" for name in named[1:])
        notes.append(f"label: column '{named[0]}', by its name" + (f" (not used: {others})" if others else ""))
        return named[0]
    ends = _most_like_labels(table, [name for key, name in columns.items() if key.split("_")[-1] in LABEL_NAMES])
    best = ends or (_most_like_labels(table, list(columns.values())) if guess else [])
    if len(best) == 1:
        _refuse_record_as_header(table, best[0])
        notes.append(f"label: column '{best[0]}', the one that looks most like it")
        return best[0]
    if not require_label:
        if guess and best:
            notes.append(f"warning: no column is taken as the label, for several could be: {', '.join(best)}; name it with 'label'")
        return None
    message = f"{'several columns' if best else 'no column'} could be the label"
    hint = nearest("label", table.columns, kind="column")
    raise DataError(message, file=table.name, excerpt=", ".join(best) or None, hint=f"name it with 'label'; {hint}")


def _most_like_labels(table: Table, names: list[str]) -> list[str]:
    ranks = {name: rank for name in names if (rank := _label_rank(table, name)) is not None}
    return sorted(name for name in ranks if ranks[name] == min(ranks.values()))


def _refuse_record_as_header(table: Table, label: str) -> None:
    # Only in a file with a header does the first record start after line 1; in other tables, column names can be numbers.
    if table.rows[0] == 1 or label not in {str(value) for value in table.columns[label]}:
        return
    raise DataError(
        "the name of this column is also one of its values, so the header seems to be missing",
        file=table.name,
        row=1,
        column=label,
        hint="put the names of the columns first, for example text,label; or name this one with 'label'",
    )


def _label_rank(table: Table, name: str) -> int | None:
    values = [value for value in table.columns[name] if not is_missing(value)]
    if not values or _is_identifier(table, name) or _are_dates(values):
        return None
    if _is_origin(name, values):
        return 2
    if isinstance(values[0], list):
        return 0
    num_distinct = len({label_name(value) for value in values})
    few = 2 <= num_distinct <= max(2, min(MAX_CLASSES, len(values) // 2))
    if any(as_number(value) is None for value in values):
        return 0 if few else None
    counts = whole_numbers(values)
    if counts is not None and set(counts) == {0, 1}:
        return 0  # as likely a label as names that repeat
    return 1 if counts and few and task_of_whole_numbers(counts, column=name)[0] == "single_label" else 2
