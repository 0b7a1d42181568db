"""Read any source that a user can name: a file, a folder, a packaged dataset, a hub id, or data in memory."""

from __future__ import annotations

import re
from typing import Any

from nlpbp.config.data import Data, Images, Texts
from nlpbp.core.errors import ConfigError
from nlpbp.data.packaged import packaged_reviews
from nlpbp.data.pretrained import exists
from nlpbp.data.readers import Table, hub_splits, read_hub, read_table
from nlpbp.data.tiny import tiny_reviews

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def read_source(source: Any, *, split: str, delimiter: str | None = None) -> Table:
    """Read a file, a folder, a packaged dataset, a hub id, or data given in memory."""
    if not isinstance(source, str) or exists(source) or not source.strip():
        return read_table(source, delimiter=delimiter)
    kind, _, name = source.partition(":")
    if delimiter is not None and (kind in ("demo", "tiny") or is_hub_id(source)):
        raise ConfigError("a delimiter applies to .csv and .tsv files only", column="data.delimiter", hint="leave it out")
    if kind == "demo":
        return packaged_reviews(name)
    if kind == "tiny":
        return tiny_reviews()
    return read_hub(source, split=split) if is_hub_id(source) else read_table(source, delimiter=delimiter)


def is_hub_id(source: Any) -> bool:
    """Distinguish a hub id (`name`, `owner/name`, with `:config`) from a path that does not exist.

    >>> is_hub_id("owner/reviews:small"), is_hub_id("data/reviews.csv")
    (True, False)
    """
    known = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
    local = isinstance(source, str) and (exists(source) or source.lower().endswith(known))
    packaged = str(source).startswith(("demo:", "tiny:"))
    return isinstance(source, str) and not local and not packaged and bool(HUB_ID.fullmatch(source))


def _named_source(data: Data | Images | Texts, name: str) -> Any:
    """Return the source of a part, if it has its own."""
    source = getattr(data, name)
    return data.train if source is None and is_hub_id(data.train) and name in hub_splits(data.train) else source
