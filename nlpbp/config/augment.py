"""Config sections: data augmentation."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ImageAugment:
    """Image augmentation, drawn anew in every epoch (practice D5)."""

    preset: Literal["none", "side_on", "top_down", "digits"] = "none"
    """Augmentation preset. side_on: mirrored, turned a little, zoomed, lighter and darker, as photographs from the side; top_down:
    also upside down and by quarter turns, as from above; digits: neither mirrored nor turned over."""
    mix: Literal["mixup", "cutmix"] | None = None
    """mixup blends pairs of images and their labels; cutmix pastes a rectangle of one image into the other."""
    alpha: float = 0.2
    """Alpha of the Beta distribution of mixing proportions: the larger, the more mixed."""


@dataclasses.dataclass(frozen=True)
class Augment:
    """Text augmentation, drawn anew in every epoch (practice D5); off by default."""

    policy: Literal["sentiment", "topic", "pairs"] | None = None
    """Augmentation preset. sentiment: drop, swap and misspell words, change case, use synonyms; topic: also shuffle sentences and
    mask spans; pairs: synonyms, spelling and case only. Negations, numbers and words of label names are never changed."""
    share: float = 0.1
    """Fraction of a text's words that change."""
    synonyms: str | None = None
    """Synonyms file: one word per line, followed by its synonyms, separated by tabs."""
    protect: tuple[str, ...] = ()
    """More words that are never changed."""
    mixup: float = 0.0
    """Mixup of the embeddings and labels of pairs of texts, for transformers: alpha of the Beta distribution (Zhang et al. 2018),
    0.2 for instance. Works with or without a policy. 0 for no mixup."""
