"""What differs between texts, documents and images: encoding, batches, saving, and reading with a saved model.

A new modality is its module in this package and a line here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the command line asks for the names of views, and must not wait for torch
    from transformers import PreTrainedModel

    from nlpbp.data.modality import Reader

DROPOUT = "dropout"
"""The view that is of a model rather than of its examples: passes in which dropout stays active."""


class Line(NamedTuple):
    """A modality's module, the names of its test-time views, and what its own are in words, for `nlpbp predict --help`."""

    module: str
    views: tuple[str, ...] = ()
    words: str = ""


MODALITIES: dict[str, Line] = {
    "text": Line(
        "nlpbp.modalities.texts", ("windows", "head_tail", DROPOUT), "windows all along a long text, its beginning and end"
    ),
    "image": Line("nlpbp.modalities.images", ("mirrored", "augmented", DROPOUT), "images in a mirror, or as training saw them"),
}
"""Each modality by its kind. Its module has `load_trained_model(folder)`, which returns a saved model of that kind, in evaluation
mode, with its `nlpbp.data.modality.Reader`, and None for a folder of another kind.

Folders are shown to the last line first: texts, the first, take every folder that no other kind has recognised."""


def load_trained_model(folder: Path) -> tuple[PreTrainedModel, Reader]:
    """Load a model folder as the kind that recognises it: the model, and how it reads new examples.

    Raises `ConfigError` for a folder that cannot be loaded.
    """
    for line in reversed(MODALITIES.values()):
        found: tuple[PreTrainedModel, Reader] | None = importlib.import_module(line.module).load_trained_model(folder)
        if found is not None:
            return found
    raise AssertionError("texts take every folder")


def view_names() -> tuple[str, ...]:
    """Return the names of all modalities' test-time views, each once.

    >>> view_names()
    ('windows', 'head_tail', 'dropout', 'mirrored', 'augmented')
    """
    return tuple(dict.fromkeys(view for line in MODALITIES.values() for view in line.views))


def views_in_words() -> str:
    """Say what the views of each modality are.

    >>> views_in_words()
    'windows all along a long text, its beginning and end; images in a mirror, or as training saw them'
    """
    return "; ".join(line.words for line in MODALITIES.values() if line.words)


def kinds_with_view(view: str) -> tuple[str, ...]:
    """Return the kinds that have a view of this name.

    >>> kinds_with_view("mirrored"), kinds_with_view("sideways")
    (('image',), ())
    """
    return tuple(kind for kind, line in MODALITIES.items() if view in line.views)
