"""The modality of a classifier's examples, text or image: all that training, scoring and saving do differently with the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from nlpbp.core.batch import Batch, LossFn
from nlpbp.data.order import Ints

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
class Modality:
    """How examples of one kind become batches, and what else depends on their kind.

    `parts` are those that are scored and the training part, as a stage without wishes of its own trains on it; `collate` makes a
    batch without labels of some of them, evaluation batches cost `max_cost` at most. `stage` prepares a stage's training examples,
    and returns with them what makes its batches, augmented or not, from a plan. `mix` puts mixup around a loss, if that is wanted.
    `identity` names what a checkpoint belongs to. `save` writes a model, with these weights and this card, as a folder that
    `pipeline` loads. `errors` makes errors.json from the validation part's probabilities and what asks for more of them.
    `linear_baseline` returns its name and, by part, its outputs. A micro-batch has `min_examples` or more.
    """

    kind: Literal["text", "image"]
    parts: Mapping[str, Prepared]
    collate: Callable[[Any, Ints], Batch]
    max_cost: int
    stage: Callable[[StageData], tuple[Prepared, MakeBatches]]
    mix: Callable[[LossFn], LossFn]
    identity: Mapping[str, str]
    save: Callable[[Any, dict[str, Tensor], Path, str], None]
    errors: Callable[[Array, Answer], dict[str, Any]]
    linear_baseline: Callable[[], tuple[str, dict[str, Array]]]
    card: Card
    min_examples: int = 1
