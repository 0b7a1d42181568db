"""Config sections: data augmentation."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ImageAugment:
    """Other views of the training images, drawn anew in every epoch, each example's from a seed of its own (practice D5)."""

    preset: Literal["none", "side_on", "top_down", "digits"] = "none"
    """What keeps the label. side_on: mirrored, turned a little, zoomed, lighter and darker, as photographs from the side; top_down:
    also upside down and by quarter turns, as from above; digits: neither mirrored nor turned over."""
    mix: Literal["mixup", "cutmix"] | None = None
    """Blend pairs of images and their labels, or paste a rectangle of one into the other."""
    alpha: float = 0.2
    """Of the Beta distribution that the shares of a pair are drawn from: the larger, the more mixed."""


@dataclasses.dataclass(frozen=True)
class Augment:
    """Other wordings of the training texts, drawn anew in every epoch (practice D5); off unless named, however few labels."""

    policy: Literal["sentiment", "topic", "pairs"] | None = None
    """What keeps the label. sentiment: drop, swap and misspell words, other case, synonyms; topic: also the order of sentences and
    hidden spans; pairs: synonyms, spelling and case alone. Negations, numbers and words of labels are never touched."""
    share: float = 0.1
    """Share of a text's words that change."""
    synonyms: str | None = None
    """A file with a word a line, and behind tabs the words that may stand for it."""
    protect: tuple[str, ...] = ()
    """More words that are never touched."""
    mixup: float = 0.0
    """Of transformers, with or without a policy: mix the embeddings and the labels of pairs of texts, by shares from a Beta
    distribution with this as both its parameters (Zhang et al. 2018), 0.2 for instance. 0 for never."""
