"""What `fit` and `predict` are given, as columns of plain Python values: lists, NumPy, pandas, polars, `datasets`, pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nlpbp.core.errors import DataError

Columns = dict[str, list[Any]]


def to_list(values: Any) -> list[Any]:
    """Return the values of a list, array, series or column as Python's own.

    >>> to_list(np.array([1, 2])), to_list(("a", "b"))
    ([1, 2], ['a', 'b'])
    """
    for method in ("to_pylist", "to_list", "tolist"):  # of pyarrow, of pandas and polars, of NumPy
        if hasattr(values, method):
            found: list[Any] = getattr(values, method)()
            return found
    return list(np.asarray(values) if hasattr(values, "__array__") else values)


def frame_columns(data: Any) -> Columns | None:
    """Return the columns of a frame or table by name, or None for what has none.

    >>> frame_columns({"a": ["x"], "b": ("y",)}), frame_columns(["x"])
    ({'a': ['x'], 'b': ['y']}, None)
    """
    names = list(data) if isinstance(data, Mapping) else getattr(data, "column_names", None)
    names = getattr(data, "columns", None) if names is None else names
    if names is None:
        return None
    if isinstance(names, Mapping):  # a DatasetDict's: of each split
        raise DataError(
            f"several data sets in one: {', '.join(map(str, names))}", hint="give one of them, such as X = data['train']['text']"
        )
    names = list(names)
    if len(set(map(str, names))) < len(names):
        raise DataError("two columns have one name", excerpt=", ".join(map(str, names)), hint="rename one of them")
    return {str(name): to_list(data[name]) for name in names}


def name_of(values: Any) -> str | None:
    """Return the name of a series or column that has one, as text.

    >>> name_of([1]) is None
    True
    """
    name = getattr(values, "name", None) or getattr(values, "column_name", None)
    return name if isinstance(name, str) and name.strip() else None


def text_columns(texts: Any, *, argument: str = "X", names: Sequence[str] = ()) -> Columns:
    """Return texts as one column, pairs as two, a frame as its columns; columns without a name get one of `names`.

    `texts` is a list, array, series or column [n] of str, pairs [n, 2], or a frame. Raises `DataError`, naming the argument, for
    anything else.

    >>> text_columns(["so good", "so bad"]), text_columns([("a", "b")])
    ({'text': ['so good', 'so bad']}, {'text_a': ['a'], 'text_b': ['b']})
    """
    columns = None if isinstance(texts, str | bytes) else frame_columns(texts)
    if columns is None:
        columns = _unnamed(texts, argument, names)
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{argument}: columns differ in length: {shown}", hint="give each row all of them")
    if not columns or not next(iter(lengths.values())):
        raise DataError(f"{argument}: there are no texts", hint="give at least one")
    return columns


def _unnamed(texts: Any, argument: str, names: Sequence[str]) -> Columns:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        hint = f"give {argument} as [text, text, ...]"
        raise DataError(f"{argument}: one {type(texts).__name__}, and not a list of texts", hint=hint)
    array = texts if isinstance(texts, np.ndarray) else None
    if array is not None and array.dtype.kind not in "OUST":
        hint = "give texts [n], or pairs of texts [n, 2]"
        raise DataError(f"{argument}: numbers of shape {array.shape}, and texts are wanted", hint=hint)
    cells = to_list(texts)
    first = cells[0] if cells else ""
    width = len(first) if isinstance(first, list | tuple | np.ndarray) else 0
    if width > 2 or (array is not None and array.ndim > 2) or any(_width(cell) != width for cell in cells):
        hint = "give a list of texts [n], pairs [n, 2], or a frame whose columns config={'data.fields': (...)} puts together"
        raise DataError(f"{argument}: rows are one text each, or two for a pair", excerpt=repr(first), hint=hint)
    if width == 0:
        return {names[0] if len(names) == 1 else name_of(texts) or "text": cells}
    default = ("text",) if width == 1 else ("text_a", "text_b")
    chosen = names if len(names) == width else default
    return {name: [cell[position] for cell in cells] for position, name in enumerate(chosen)}


def _width(cell: Any) -> int:
    return len(cell) if isinstance(cell, list | tuple | np.ndarray) else 0


def image_column(images: Any, *, argument: str = "X") -> Columns:
    """Return images as the column `image`: paths, Pillow images, bytes or arrays [h, w] or [h, w, c].

    `images` is a list, an array [n, h, w] or [n, h, w, c], a series or column, or a frame with one column. Raises `DataError`,
    naming the argument, for anything else.

    >>> len(image_column(np.zeros((2, 4, 4)))["image"])
    2
    """
    columns = None if isinstance(images, str | bytes) else frame_columns(images)
    if columns is not None and len(columns) != 1:
        raise DataError(f"{argument}: a frame of {len(columns)} columns", excerpt=", ".join(columns), hint="give the one of images")
    if columns is not None:
        return {"image": next(iter(columns.values()))}
    if isinstance(images, np.ndarray) and (images.ndim == 2 or images.ndim > 4 or images.ndim == 0):
        hint = "give [n, h, w] or [n, h, w, c], such as X.reshape(-1, 8, 8)"
        raise DataError(f"{argument}: an array of shape {images.shape} is not of images", hint=hint)
    if isinstance(images, str | bytes) or not isinstance(images, Iterable):
        hint = f"give {argument} as [image, image, ...]"
        raise DataError(f"{argument}: one {type(images).__name__}, and not a list of images", hint=hint)
    cells = list(images) if isinstance(images, np.ndarray | list) else to_list(images)
    if not cells:
        raise DataError(f"{argument}: there are no images", hint="give at least one")
    return {"image": cells}


def same_length(columns: Columns, targets: Sequence[Any], *, names: tuple[str, str] = ("X", "y")) -> None:
    """Raise `DataError` where there is not one target for each row.

    >>> same_length({"text": ["a", "b"]}, [1])
    Traceback (most recent call last):
    nlpbp.core.errors.DataError: X has 2 rows and y has 1. Fix: give one label for each row, in the same order
    """
    rows = len(next(iter(columns.values())))
    if rows != len(targets):
        hint = "give one label for each row, in the same order"
        raise DataError(f"{names[0]} has {rows:,} rows and {names[1]} has {len(targets):,}", hint=hint)
