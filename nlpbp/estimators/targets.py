"""What `fit` is given to predict: labels as cells of a table, and the way back from the name of a class to the caller's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.labels import is_missing, label_name
from nlpbp.estimators.inputs import frame_columns, to_list

Array = np.ndarray[Any, Any]
SEVERAL = (list, tuple, set, frozenset, np.ndarray)
MISSING = "requires y to be passed, but the target y is None"  # scikit-learn's words


@dataclass(frozen=True)
class Target:
    """Labels as a recipe reads them: `cells` [n], each a value, or a list of values for several labels.

    `classes` [k] are the distinct labels in the caller's types, sorted; None where only the recipe can tell them, from text such as
    `a|b`. Of numbers to predict there are none.
    """

    cells: list[Any]
    classes: Array | None
    task: str


def read_labels(y: Any, *, task: str = "auto", argument: str = "y") -> Target:
    """Read one label a row, lists of labels, or an indicator matrix [n, k] of zeros and ones, as an array, frame or lists.

    `task` is that of the recipe's data section: what it does not leave open is not guessed. Raises `DataError` for labels that are
    missing or of several types, `ValueError` of scikit-learn's for numbers that are no classes.

    >>> read_labels([3, 1, 3]).classes, read_labels([["a"], ["a", "b"]]).task
    (array([1, 3]), 'multi_label')
    >>> read_labels(np.array([[1, 0], [1, 1]])).cells
    [['0'], ['0', '1']]
    """
    _refuse_none(y, argument)
    if task == "regression":
        raise ConfigError("config: data.task is regression", hint="take TextRegressor for numbers")
    indicator = _indicator(y, argument)
    if indicator is not None:
        names, matrix = indicator
        cells: list[Any] = [[label_name(name) for name, holds in zip(names, row, strict=True) if holds] for row in matrix.tolist()]
        return Target(cells, np.array(names), "multi_label")
    y = column_or_1d(y, warn=True) if getattr(y, "ndim", 1) > 1 or not hasattr(y, "__iter__") else y
    cells = to_list(y)
    if any(isinstance(cell, SEVERAL) for cell in cells):
        several = [_labels_of(cell, row, argument) for row, cell in enumerate(cells, 1)]
        return Target(several, _distinct([label for cell in several for label in cell], argument), "multi_label")
    if task == "multi_label":
        return Target(cells, None, task)
    if isinstance(y, np.ndarray) and y.dtype.kind == "f":
        assert_all_finite(y, input_name=argument)
    missing = next((row for row, cell in enumerate(cells, 1) if _is_missing(cell)), None)
    if missing is not None:
        raise DataError(
            f"{argument}: the label is missing", row=missing, hint=f"fill it in, or remove the row from X and {argument}"
        )
    classes = np.unique(y) if isinstance(y, np.ndarray) and y.dtype.kind != "O" else _distinct(cells, argument)
    if classes.dtype.kind in "fcmM":
        check_classification_targets(np.asarray(y))
    return Target(cells, classes, "single_label" if task == "auto" else task)


def read_numbers(y: Any, *, task: str = "auto", argument: str = "y") -> Target:
    """Read numbers to predict [n].

    Raises `DataError` for what is no number, `ValueError` of scikit-learn's for NaN, infinity and more than one column.

    >>> read_numbers([1, 2.5]).cells
    [1.0, 2.5]
    """
    _refuse_none(y, argument)
    if task not in ("auto", "regression"):
        raise ConfigError(f"config: data.task is {task}", hint="take TextClassifier for labels")
    columns = frame_columns(y)
    values = next(iter(columns.values())) if columns is not None and len(columns) == 1 else y
    plain = values if isinstance(values, np.ndarray) else np.asarray(to_list(values))
    try:
        numbers = np.asarray(column_or_1d(plain, warn=True), dtype=np.float64)
    except (TypeError, ValueError) as error:
        if plain.ndim > 1:
            raise
        raise DataError(f"{argument}: not all are numbers to predict: {error}", hint="give numbers such as 3.5") from error
    assert_all_finite(numbers, input_name=argument)
    return Target(numbers.tolist(), None, "regression")


def indicator_of(rows: Sequence[Sequence[str]], names: Sequence[str]) -> Array:
    """Return lists of labels as zeros and ones, int64 [n, k], a column for each of `names`.

    >>> indicator_of([["b"], []], ["a", "b"]).tolist()
    [[0, 1], [0, 0]]
    """
    position = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)), dtype=np.int64)
    for row, labels in zip(matrix, rows, strict=True):
        row[[position[label] for label in labels if label in position]] = 1
    return matrix


def _refuse_none(y: Any, argument: str) -> None:
    if y is None:
        raise DataError(
            MISSING if argument == "y" else f"{argument} is missing", hint=f"give {argument}, one label for each row of X"
        )


def _indicator(y: Any, argument: str) -> tuple[list[Any], Array] | None:
    """Return the names of the columns and the matrix, for a table of zeros and ones with several columns."""
    columns = None if isinstance(y, Mapping) else frame_columns(y)
    if columns is not None:
        names: list[Any] = list(columns)
        matrix = np.array(list(columns.values())).T
    else:
        matrix = y.toarray() if hasattr(y, "toarray") else _matrix_of_lists(y)  # scipy's sparse ones
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
            return None
        names = list(range(matrix.shape[1]))
    if matrix.ndim != 2 or matrix.shape[1] < 2:
        return None
    if matrix.dtype.kind not in "biuf" or not np.isin(matrix, (0, 1)).all():
        hint = "give one label a row [n], lists of labels, or zeros and ones [n, k]"
        raise DataError(f"{argument}: a table of shape {matrix.shape} that is not of zeros and ones", hint=hint)
    return names, matrix


def _matrix_of_lists(y: Any) -> Any:
    """Return rows of zeros and ones, all of one length, as a matrix; without a value twice in a row they are lists of labels."""
    if not isinstance(y, list | tuple) or not y or not all(isinstance(row, list | tuple | np.ndarray) for row in y):
        return y
    rows = [to_list(row) for row in y]
    if any(len(row) != len(rows[0]) for row in rows):
        return y
    plain = all(type(value) in (int, float, bool) and value in (0, 1) for row in rows for value in row)
    return np.array(rows) if plain and any(len(set(row)) < len(row) for row in rows) else y


def _labels_of(cell: Any, row: int, argument: str) -> list[Any]:
    if not isinstance(cell, SEVERAL):
        raise DataError(
            f"{argument}: one label among lists of labels", row=row, excerpt=repr(cell), hint="write it as a list of one"
        )
    return to_list(cell)


def _is_missing(cell: Any) -> bool:
    return is_missing(cell) or type(cell).__name__ in ("NAType", "NaTType")


def _distinct(values: Sequence[Any], argument: str) -> Array:
    kinds = {"number" if type(value) in (int, float) else type(value).__name__: value for value in values}
    if len(kinds) > 1:
        shown = " and ".join(f"{kind} ({value!r:.40})" for kind, value in list(kinds.items())[:2])
        raise DataError(f"{argument}: labels of several types: {shown}", hint="write all labels in one way")
    return np.array(sorted(set(values)))
