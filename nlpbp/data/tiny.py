"""Synthetic sentences and images for the tiny form of each recipe, which takes seconds: no packages, files or network needed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from nlpbp.data.readers import Table

OPENINGS = ["this film is", "the plot was", "a story that is", "i found it", "the acting seems", "every scene is"]
WORDS = {
    "pos": ["wonderful", "moving", "funny", "brilliant", "warm", "clever"],
    "neg": ["dull", "awful", "tedious", "clumsy", "empty", "noisy"],
}
ENDINGS = ["", "from start to end", "and i would say so again", "for the whole family", "in spite of the title"]


def tiny_reviews(*, num_examples: int = 240, seed: int = 0) -> Table:
    """Make short labelled reviews (columns text and label) that a small model learns in a few steps.

    >>> table = tiny_reviews(num_examples=4); len(table), sorted(set(table.columns["label"]))
    (4, ['neg', 'pos'])
    """
    rng = random.Random(seed)
    labels = [("neg", "pos")[index % 2] for index in range(num_examples)]
    texts = [
        " ".join(
            filter(None, [rng.choice(OPENINGS), *rng.sample(WORDS[label], rng.randint(1, 3)), rng.choice(ENDINGS), f"no {index}"])
        )
        for index, label in enumerate(labels)
    ]
    return Table(name="tiny:reviews", columns={"text": texts, "label": labels}, rows=list(range(1, num_examples + 1)))


def tiny_shapes(*, num_examples: int = 240, size: int = 8, seed: int = 0) -> dict[str, Any]:
    """Make labelled images, uint8 [n, size, size], of a horizontal or vertical line in noise, which a small net learns in a few
    steps.

    >>> shapes = tiny_shapes(num_examples=4); shapes["image"].shape, shapes["label"]
    ((4, 8, 8), ['lies', 'stands', 'lies', 'stands'])
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, size=(num_examples, size, size), dtype=np.uint8)
    for index, place in enumerate(rng.integers(1, size - 1, size=num_examples)):
        line = pixels[index, place] if index % 2 == 0 else pixels[index, :, place]
        line += np.uint8(120)
    return {"image": pixels, "label": [("lies", "stands")[index % 2] for index in range(num_examples)]}
