"""Sentences made by rule, for the seconds-long form of each recipe: no package, no file, no network."""

from __future__ import annotations

import random

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
