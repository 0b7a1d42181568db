"""The modality of a classifier's examples, texts or images for instance: all that is done differently with one kind and another.

`Modality` is what training, scoring and saving ask of a kind, `Reader` what answering for new examples with a saved model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from nlpbp.core.batch import Batch, LossFn
from nlpbp.data.columns import Examples
from nlpbp.data.order import Ints
from nlpbp.data.readers import Table

Array = np.ndarray[Any, Any]
MakeBatches = Callable[..., Iterator[list[Batch]]]  # (plan, labels=, first_step=, seed=) -> the micro-batches of each step


class Prepared(Protocol):
    """Examples ready to be batched: `nlpbp.text.batches.Encoded`, `nlpbp.vision.pictures.Pictures`.

    `padded_lengths` [n] is what each costs; `owners` [n] whose window it is, where examples are read in several.
    """

    @property
    def padded_lengths(self) -> Ints: ...  # noqa: D102
    @property
    def owners(self) -> Ints | None: ...  # noqa: D102
    def __len__(self) -> int: ...


Answer = Callable[[Prepared], Array]  # the model's probabilities for examples


@dataclass(frozen=True)
class Card:
    """What the card of a saved model says of its modality: lines of Python that use it, what it reads, and its limits."""

    base_model: str
    usage: Sequence[str]
    columns: str
    limits: str


@dataclass(frozen=True)
class StageData:
    """How a stage sees its training examples, where that is not as the rest of the run does: None, or False.

    `max_length` is in tokens, `image_size` in pixels; `cache_frozen` keeps what frozen layers answer, so examples cannot change.
    """

    max_length: int | None = None
    image_size: int | None = None
    cache_frozen: bool = False


@dataclass(frozen=True)
class Reading:
    """How much of the training texts a model does not read or know: the shares that are `truncated`, and `unknown` of their tokens.

    Of a longer text `max_length` tokens are read, after `truncation`. `enough` tokens would hold nine of ten texts whole, `limit`
    is the most that the model reads, None where there is no end.
    """

    truncated: float
    unknown: float
    max_length: int
    truncation: str
    enough: int
    limit: int | None
    is_pair: bool = False


@dataclass(frozen=True)
class Modality:
    """How examples of one kind become batches, and what else depends on their kind.

    `kind` is its name in `nlpbp.modalities.MODALITIES`.
    `parts` are those that are scored and the training set, as a stage without wishes of its own trains on it; `collate` makes a
    batch without labels of some of them, evaluation batches cost `max_cost` at most. `stage` prepares a stage's training examples,
    and returns with them what makes its batches, augmented or not, from a plan. `mix` puts mixup around a loss, if that is wanted.
    `identity` names what a checkpoint belongs to. `save` writes a model, with these weights and this card, as a folder that
    `pipeline` loads. `errors` makes errors.json from the validation set's probabilities and what asks for more of them.
    `baselines` returns the outputs of other models, by the model's name and by part. A micro-batch has `min_examples` or more.
    `penalty` is on what the model returns in training, which the gradient sees and the reported loss does not. `reading` tells how
    much of the training texts is read; None where examples are not cut.
    """

    kind: str
    parts: Mapping[str, Prepared]
    collate: Callable[[Any, Ints], Batch]
    max_cost: int
    stage: Callable[[StageData], tuple[Prepared, MakeBatches]]
    mix: Callable[[LossFn], LossFn]
    identity: Mapping[str, str]
    save: Callable[[Any, dict[str, Tensor], Path, str], None]
    errors: Callable[[Array, Answer], dict[str, Any]]
    baselines: Callable[[], dict[str, dict[str, Array]]]
    card: Card
    min_examples: int = 1
    penalty: Callable[[Any], Tensor] | None = None
    reading: Callable[[], Reading] | None = None


@dataclass(frozen=True)
class Reader:
    """How a saved model of one kind reads new examples; `kind` is its name in `nlpbp.modalities.MODALITIES`.

    `read` makes a table of a source (a file, a folder, data in memory, or a table of piped lines in the column `columns` names),
    given its split and the columns that the user named. With the table it returns what the cells stand for, by cell, where they
    are not the examples themselves, as digests of images; whoever reads keeps these in `contents`. `columns` are the table's
    columns that hold the examples, () where they are those of training, or found by name and content.

    `forms` prepares examples, with the contents, as a view shows them, None for as they are: one form, or several whose answers are
    averaged. It is given no view but those in `MODALITIES`, and not `dropout`, which is of the model. `collate` makes a batch of
    some of a form's examples; a batch costs `max_cost` at most. All raise `DataError` and `ConfigError` for what a user can repair.
    """

    kind: str
    read: Callable[[Any, str, Sequence[str]], tuple[Table, dict[str, Any]]]
    forms: Callable[[Examples, str | None, Mapping[str, Any]], Iterable[Prepared]]
    collate: Callable[[Any, Ints], Batch]
    max_cost: int
    columns: tuple[str, ...] = ()
    contents: dict[str, Any] = field(default_factory=dict)
