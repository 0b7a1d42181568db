"""Arrow tables: Parquet files and datasets of the hub, with class numbers converted to class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nlpbp.core.errors import DataError
from nlpbp.data.decoding import read_bytes
from nlpbp.data.hub import go_offline_if_out_of_reach
from nlpbp.data.json_files import SpelledFloat

PARQUET_MAGIC = b"PAR1"
NETWORK_PACKAGES = {"httpx", "httpcore", "requests", "urllib3"}


def read_parquet(path: Path) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Return the columns of a Parquet file, and notes on what was decided.

    Raises `DataError` with the expected and the actual bytes for a file that is truncated or is not Parquet.

    >>> import tempfile, pyarrow, pyarrow.parquet
    >>> path = Path(tempfile.mkdtemp()) / "films.parquet"
    >>> pyarrow.parquet.write_table(pyarrow.table({"text": ["good"], "label": [1]}), path)
    >>> read_parquet(path)
    ({'text': ['good'], 'label': [1]}, ())
    """
    import pyarrow
    import pyarrow.parquet

    raw = read_bytes(path)
    _check_magic(raw, str(path))
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(raw)).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(str(error).split("\n")[0], str(path)) from error
    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise DataError("two columns have one name", file=str(path), column=twice, hint="rename one of them")
    if not len(table):
        raise DataError("there are no records", file=str(path), hint="give at least one record for each class")
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    columns = {name: _values(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return name_classes(columns, features, file=str(path))


def _values(column: Any) -> list[Any]:
    import pyarrow

    if not pyarrow.types.is_decimal(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    return [None if value is None else SpelledFloat(str(value)) for value in column.to_pylist()]


def load_hub(name: str, *, split: str) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Return the columns of one split of a dataset on the hub, and notes on what was decided.

    Raises `DataError` if there is no network, no such dataset, or no such split.
    """
    import datasets

    path, _, config = name.partition(":")
    go_offline_if_out_of_reach()
    try:
        dataset = datasets.load_dataset(path, config or None, split=split)
    except Exception as error:  # the library raises many types, and each means that loading failed
        raise hub_error(name, error) from error
    return name_classes(dataset.to_dict(), dataset.features.to_dict(), file=name)


def load_split_names(name: str) -> list[str]:
    """Return the names of the splits of a dataset on the hub; raises as `load_hub` does."""
    import datasets

    path, _, config = name.partition(":")
    go_offline_if_out_of_reach()
    try:
        return list(datasets.get_dataset_split_names(path, config or None))
    except Exception as error:  # as above
        raise hub_error(name, error) from error


def hub_error(name: str, error: Exception) -> DataError:
    """Return an error that says why a dataset could not be loaded.

    >>> print(hub_error("imdb", ConnectionError("Couldn't reach 'imdb' on the Hub")))
    imdb: no network: Couldn't reach 'imdb' on the Hub. Fix: give a local file
    """
    reason = str(error).split("\n")[0] or type(error).__name__
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if isinstance(error, ConnectionError | TimeoutError) or modules & NETWORK_PACKAGES:
        return DataError(f"no network: {reason}", file=name, hint="give a local file")
    return DataError(
        f"it cannot be loaded from the hub: {reason}",
        file=name,
        hint="check the name, the split, and the configuration ('glue:sst2' is sst2 of glue)",
    )


def name_classes(
    columns: dict[str, list[Any]], features: dict[str, Any], *, file: str
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Replace class numbers in `columns` by the names in `features` (in the form that datasets uses).

    >>> name_classes({"label": [1, -1]}, {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}, file="imdb")
    ({'label': ['pos', None]}, ("class names of column 'label' taken from the file",))
    """
    named = {column: names for column in columns if (names := _class_names(features.get(column)))}
    for column, names in named.items():
        for row, value in enumerate(columns[column], start=1):
            if not _has_name(value, names):
                raise DataError(
                    f"class numbers go from 0 to {len(names) - 1}",
                    file=file,
                    row=row,
                    column=column,
                    excerpt=value,
                    hint="write the file again",
                )
        columns[column] = [_named(value, names) for value in columns[column]]
    return columns, tuple(f"class names of column '{column}' taken from the file" for column in named)


def _class_names(feature: Any) -> list[str]:
    if isinstance(feature, list):
        return _class_names(feature[0]) if feature else []
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        return list(feature.get("names") or [])
    return _class_names(feature.get("feature"))


def _has_name(value: Any, names: list[str]) -> bool:
    if isinstance(value, list):
        return all(_has_name(item, names) for item in value)
    return value is None or -1 <= value < len(names)


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    # -1 is how the hub says that a test split has no labels.
    return None if value is None or value == -1 else names[value]


def _check_magic(raw: bytes, file: str) -> None:
    if not raw:
        raise DataError("the file is empty", file=file, hint="give a Parquet file")
    if raw[:4] != PARQUET_MAGIC:
        raise _damaged(f"a Parquet file starts with {PARQUET_MAGIC!r}, this one with {raw[:4]!r}", file)
    if raw[-4:] != PARQUET_MAGIC or len(raw) < 12:
        raise _damaged(f"a Parquet file ends with {PARQUET_MAGIC!r}, this one with {raw[-4:]!r}: it is cut", file)


def _damaged(message: str, file: str) -> DataError:
    return DataError(message, file=file, hint="copy or write the file again")
