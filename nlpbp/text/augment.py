"""Label-preserving augmentation of training texts: which operations preserve the label depends on the task.

More kinds of change are not better (practice D5): dropping words preserves the topic of a text but can reverse its sentiment. So
negations and the words that follow them are never changed, nor are numbers, markers in brackets, and words that the user protects.
Every draw is a function of (seed, step number, example), so a resumed run draws what an uninterrupted one would.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from nlpbp.core.batch import Batch
from nlpbp.core.errors import DataError
from nlpbp.data.decoding import read_text, split_lines
from nlpbp.data.order import Ints, micro_seed
from nlpbp.text.batches import Cut, collate, encode

Policy = Literal["sentiment", "topic", "pairs"]
NEGATIONS = frozenset(
    [
        *("no", "not", "nor", "never", "none", "nothing", "nobody", "nowhere", "neither", "cannot", "without", "hardly", "barely"),
        *("scarcely", "seldom", "rarely", "lack", "lacks", "lacking", "fails", "less", "least", "but", "however", "except", "dont"),
    ]
)
CONTRACTED = re.compile(r"n['’]?t$")  # of "isn't", and of the "n't" that a tokenised text has
PUNCTUATION = re.compile(r"^[^\w\[]+|[^\w\]]+$")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
MAX_SPAN = 3  # words replaced by one mask


@dataclass(frozen=True)
class Augment:
    """How training texts may be changed.

    One of `operations` is drawn at random for each text, and applied to the fraction `share` of its words, at least one.
    `protected` words, in lower case, are never changed. `synonyms` maps lower-case words to alternatives; `mask` replaces hidden
    words.
    """

    operations: tuple[Operation, ...]
    share: float = 0.1
    protected: Collection[str] = NEGATIONS
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mask: str = ""


Operation = Callable[[list[str], list[int], random.Random, Augment], list[str]]
"""Takes words, the (one or more) positions that may change, a random generator and the settings; returns the new words."""


def drop_words(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Delete a fraction of the words, but not all of them."""
    dropped = _drawn(free, rng, augment.share)
    return [word for index, word in enumerate(words) if index not in dropped] or words


def swap_words(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Swap adjacent words."""
    touched = set(free)
    pairs = [index for index in free if index + 1 in touched]
    swapped = list(words)
    for index in sorted(_drawn(pairs, rng, augment.share)):
        swapped[index], swapped[index + 1] = swapped[index + 1], swapped[index]
    return swapped


def replace_synonyms(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Replace words by synonyms where there are any; the case of the first letter is kept."""
    known = [index for index in free if _bare(words[index]) in augment.synonyms]
    changed = list(words)
    for index in sorted(_drawn(known, rng, augment.share)):
        bare = _bare(words[index])
        place = words[index].casefold().find(bare)
        other = _cased(rng.choice(list(augment.synonyms[bare])), words[index][place:])
        changed[index] = words[index][:place] + other + words[index][place + len(bare) :]
    return changed


def misspell(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Make a typo inside words of four or more letters: swap two letters, or delete one."""
    long = [index for index in free if len(words[index]) >= 4 and words[index].isalpha()]
    changed = list(words)
    for index in sorted(_drawn(long, rng, augment.share)):
        word, place = words[index], rng.randrange(1, len(words[index]) - 2)
        swapped = word[place + 1] + word[place] if rng.random() < 0.5 else word[place + 1]
        changed[index] = word[:place] + swapped + word[place + 2 :]
    return changed


def change_case(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Lower-case words that have a capital letter, and capitalise the others."""
    chosen = _drawn(free, rng, augment.share)
    return [(word.lower() if word != word.lower() else word.capitalize()) if i in chosen else word for i, word in enumerate(words)]


def shuffle_sentences(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Shuffle the sentences; a text of several fields is left as it is."""
    if any(_is_marker(word) for word in words):
        return words
    sentences = SENTENCE_END.split(" ".join(words))
    return " ".join(rng.sample(sentences, len(sentences))).split(" ")


def mask_span(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    """Replace spans of up to three words by the mask, or delete them if there is none."""
    touched, hidden = set(free), set[int]()
    for start in sorted(_drawn(free, rng, augment.share / MAX_SPAN)):
        length = rng.randint(1, MAX_SPAN)
        span = [index for index in range(start, start + length) if index in touched]
        hidden.update(span)
    masked = [augment.mask if index in hidden else word for index, word in enumerate(words)]
    return [word for word in masked if word] or words


POLICIES: dict[Policy, tuple[Operation, ...]] = {
    "sentiment": (drop_words, swap_words, replace_synonyms, misspell, change_case),
    "topic": (drop_words, swap_words, replace_synonyms, misspell, change_case, shuffle_sentences, mask_span),
    "pairs": (replace_synonyms, misspell, change_case),  # whether two texts mean the same can depend on every word and its position
}
"""The operations that preserve the label, by task."""


def augment_text(text: str, *, augment: Augment, seed: int) -> str:
    """Augment `text`: the result is the same for the same seed, and `text` itself for a `share` of 0.

    Words are separated by white space, so this is of no use for scripts without it.

    >>> augment = Augment(POLICIES["sentiment"], share=0.3)
    >>> augment_text("this is not good at all", augment=augment, seed=2)
    'is not good at all'
    >>> augment_text("this is not good at all", augment=replace(augment, share=0.0), seed=2)
    'this is not good at all'
    """
    words = text.split()
    free = free_words(words, protected=augment.protected)
    if not augment.share or not free:
        return text
    rng = random.Random(seed)
    operations = [operation for operation in augment.operations if augment.synonyms or operation is not replace_synonyms]
    return " ".join(rng.choice(operations)(words, free, rng, augment))


def free_words(words: Sequence[str], *, protected: Collection[str] = NEGATIONS) -> list[int]:
    """Return the positions of words that may change: none that is protected, has a digit, or follows a negation or a marker.

    >>> free_words("[price] 12 [title] Seven is n't bad , really".split())
    [4, 8]
    """
    held = [_is_marker(word) or _is_negation(word) for word in words]
    return [
        index
        for index, word in enumerate(words)
        if not (held[index] or (index and held[index - 1]))
        and _bare(word) not in protected
        and any(letter.isalpha() for letter in word)
        and not any(letter.isdigit() for letter in word)
    ]


def _is_marker(word: str) -> bool:
    return word.startswith("[") or word.endswith("]")


def _is_negation(word: str) -> bool:
    return _bare(word) in NEGATIONS or bool(CONTRACTED.search(_bare(word)))


def _bare(word: str) -> str:
    return PUNCTUATION.sub("", word).casefold()


def _cased(word: str, like: str) -> str:
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _drawn(places: Sequence[int], rng: random.Random, share: float) -> set[int]:
    """Draw a fraction of the positions, at least one."""
    return set(rng.sample(list(places), min(len(places), max(1, round(share * len(places))))))


def read_synonyms(path: str | Path) -> dict[str, list[str]]:
    """Read a file of synonyms: one word per line, followed by its synonyms, separated by tabs.

    Raises `DataError` with the line for one without a synonym.
    """
    synonyms: dict[str, list[str]] = {}
    for row, line in enumerate(split_lines(read_text(Path(path))), 1):
        word, *others = [cell.strip() for cell in line.split("\t")]
        if not word and not any(others):
            continue
        if not word or not any(others):
            raise DataError("no word with its synonyms", file=str(path), row=row, excerpt=line, hint="word, tab, synonym, ...")
        synonyms.setdefault(word.casefold(), []).extend(filter(None, others))
    return synonyms


def label_words(labels: Iterable[str]) -> set[str]:
    """Return the words of label names, to be protected: the label of a text may depend on them.

    >>> sorted(label_words(["very good", "Bad/Awful"]))
    ['awful', 'bad', 'good', 'very']
    """
    return {word for label in labels for word in re.findall(r"[^\W\d_]+", label.casefold())}


def augmented_steps(
    plan: Iterable[Sequence[Ints]],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    augment: Augment,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cut: Cut = "head",
    labels: np.ndarray[Any, Any],
    seed: int,
    first_step: int = 0,
) -> Iterator[list[Batch]]:
    """Turn a plan into batches for `train_steps`, as `batched_steps` does, with each text augmented anew in every step.

    The plan is made from the original texts, so the steps and their number do not change; `first_step` is that of the plan.
    Augmenting and tokenizing 32 short texts takes about 2.5 ms on one core.
    """
    for number, step in enumerate(plan, first_step):
        yield [
            _augmented_batch(
                [augment_text(texts[i], augment=augment, seed=micro_seed(seed, number, int(i))) for i in ids],
                None
                if pairs is None
                else [augment_text(pairs[i], augment=augment, seed=micro_seed(seed, number, -1 - int(i))) for i in ids],
                ids,
                tokenizer=tokenizer,
                max_length=max_length,
                cut=cut,
                labels=labels,
            )
            for ids in step
        ]


def _augmented_batch(
    texts: list[str],
    pairs: list[str] | None,
    ids: Ints,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cut: Cut,
    labels: np.ndarray[Any, Any],
) -> Batch:
    encoded = encode(texts, pairs, tokenizer=tokenizer, max_length=max_length, cut=cut)
    batch = collate(encoded, np.arange(len(ids)), tokenizer=tokenizer, labels=labels[ids])
    return replace(batch, ids=torch.from_numpy(ids))


@dataclass(frozen=True)
class LabelCheck:
    """How many correctly classified texts get another prediction after augmentation; `flipped` are their positions."""

    num_checked: int
    flipped: tuple[int, ...]

    @property
    def share(self) -> float:
        """The fraction of predictions that changed."""
        return len(self.flipped) / max(1, self.num_checked)


def check_label_preserving(
    texts: Sequence[str], labels: Sequence[Any], augment: Callable[[str], str], *, classify: Callable[[list[str]], Sequence[Any]]
) -> LabelCheck:
    """Measure with a model whether `augment` preserves the labels, on the texts that `classify` gets right.

    >>> check = check_label_preserving(["good", "not good"], [1, 0], lambda text: text.replace("not ", ""),
    ...                                classify=lambda texts: [int("not" not in text) for text in texts])
    >>> check.flipped, check.share
    ((1,), 0.5)
    """
    before = classify(list(texts))
    after = classify([augment(text) for text in texts])
    right = [index for index, (answer, label) in enumerate(zip(before, labels, strict=True)) if answer == label]
    return LabelCheck(len(right), tuple(index for index in right if after[index] != labels[index]))
