"""Near duplicates found without comparing all pairs: MinHash signatures and locality-sensitive hashing by bands.

A text is represented by the set of its word bigrams (shingles). The Jaccard similarity of two such sets is the probability that a
random hash has the same minimum on both (Broder 1997), so a few dozen minima are a signature; texts whose signatures agree on a
band of four are compared exactly. All data are flat arrays: the signatures of a million short texts take about 256 MB.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Scripts without spaces between words (Thai to Khmer, kana, Han): each character is a word.
NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{NO_SPACES}]|[^\W{NO_SPACES}]+")
RUN = 2  # words; one changed word in a sentence of 20 leaves a similarity of 0.82, and 0.71 with shingles of three
THRESHOLD = 0.7
NUM_HASHES = 64
BAND = 4  # hashes; 16 bands find a pair of similarity 0.7 with probability 0.988, one of 0.8 with 0.9999
NEIGHBOURS = 10  # in a band, each text is compared with so many before it and with the first, never all pairs
BLOCK = 1 << 16  # words or shingles hashed at a time, to fit into the processor's cache
MAX_COMPARED = 1 << 21  # shingles compared at a time: 16 MB per array


@dataclass(frozen=True)
class Words:
    """Texts as word ids: those of text i are `ids[starts[i] : starts[i + 1]]`, indices into `vocabulary`."""

    ids: Array
    starts: Array
    vocabulary: list[str]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Array:
        """The number of words of each text [n]."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Shingles:
    """The set of shingles of each text: `keys` [m] are uint64, ascending, text number << 32 | hash; `starts` [n + 1]."""

    keys: Array
    starts: Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def hashes(self) -> Array:
        """The hashes without the text numbers, uint32 [m]."""
        return self.keys.astype(np.uint32)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of texts: `indices` int64 [m, 2], the smaller first, ascending by the second; `similarity` float64 [m], Jaccard
    similarity."""

    indices: Array
    similarity: Array

    def __len__(self) -> int:
        return len(self.indices)


def split_words(texts: Sequence[str]) -> Words:
    """Split texts into lower-cased words; each character of a script without spaces is a word.

    >>> words = split_words(["So good!", "", "so 好看"])
    >>> words.vocabulary, words.lengths.tolist()
    (['so', 'good', '好', '看'], [2, 0, 3])
    """
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    found = [np.fromiter(map(vocabulary.__getitem__, WORD.findall(text.casefold())), dtype=np.uint32) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in found], dtype=np.int64)]).astype(np.int64)
    return Words(np.concatenate([np.zeros(0, dtype=np.uint32), *found]), starts, list(vocabulary))


def word_shingles(words: Words, *, size: int = RUN) -> Shingles:
    """Return the set of shingles of `size` words of each text; a text with fewer words is one shingle, one without words has none.

    >>> np.diff(word_shingles(split_words(["a b c", "a b a b", "a", "?"]), size=2).starts).tolist()
    [2, 2, 1, 0]
    """
    blocks = [_shingle_keys(words, block, size) for block in _blocks(words.lengths, BLOCK)]
    keys = np.concatenate([np.zeros(0, dtype=np.uint64), *blocks])
    starts = np.searchsorted(keys, np.arange(len(words) + 1, dtype=np.uint64) << np.uint64(32))
    return Shingles(keys, starts)


def _shingle_keys(words: Words, block: slice, size: int) -> Array:
    starts = words.starts[block.start : block.stop + 1]
    ids, lengths = words.ids[starts[0] : starts[-1]].astype(np.uint64) + np.uint64(1), np.diff(starts)
    first, last = np.repeat(starts[:-1], lengths) - starts[0], np.repeat(starts[1:], lengths) - starts[0]
    place = np.arange(len(ids))
    hashes = np.zeros(len(ids), dtype=np.uint64)
    for offset in range(size):
        following = np.where(place + offset < last, np.roll(ids, -offset), np.uint64(0))
        hashes = _mixed(hashes + following)
    is_run = (place + size <= last) | (place == first)
    owner = np.repeat(np.arange(block.start, block.stop, dtype=np.uint64), lengths)
    return np.unique((owner[is_run] << np.uint64(32)) | (hashes[is_run] >> np.uint64(32)))


def minhash(shingles: Shingles, *, num_hashes: int = NUM_HASHES, seed: int = 0) -> Array:
    """Return MinHash signatures, uint32 [n, num_hashes]: the fraction of equal hashes estimates the Jaccard similarity.

    The signature of a text without words is the maximum number throughout.

    >>> same, near, far = minhash(word_shingles(split_words(["a b c d e f g", "a b c d e f h", "x y z"])))
    >>> bool((same == near).mean() > 0.5 > (same == far).mean())
    True
    """
    generator = np.random.default_rng(seed)
    factors = generator.integers(1 << 64, size=num_hashes, dtype=np.uint64) | np.uint64(1)
    added = generator.integers(1 << 64, size=num_hashes, dtype=np.uint64)
    signatures = np.full((len(shingles), num_hashes), np.iinfo(np.uint32).max, dtype=np.uint32)
    hashes, present = shingles.hashes, np.flatnonzero(np.diff(shingles.starts))
    for block in _blocks(np.diff(shingles.starts)[present], BLOCK):
        texts = present[block]
        begin, end = shingles.starts[texts[0]], shingles.starts[texts[-1] + 1]
        part, begins = hashes[begin:end].astype(np.uint64), shingles.starts[texts] - begin
        for column in range(num_hashes):  # multiply, add, shift: nearly min-wise independent, and one pass (Dietzfelbinger 1996)
            values = (part * factors[column] + added[column]) >> np.uint64(32)
            signatures[texts, column] = np.minimum.reduceat(values, begins)
    return signatures


def near_pairs(words: Words, *, threshold: float = THRESHOLD, num_hashes: int = NUM_HASHES, seed: int = 0) -> NearPairs:
    """Find pairs of texts whose word bigrams have a Jaccard similarity of `threshold` or more.

    Candidates come from hashing, so a few pairs at the threshold are missed (1 in 80 at 0.7); those that are returned were compared
    exactly. Of many near duplicates of one text, each is paired with the first and with some others.

    >>> texts = ["a film that was a joy from start to end", "a film that was a joy from start to finish", "dull"]
    >>> found = near_pairs(split_words(texts)); found.indices.tolist(), found.similarity.round(2).tolist()
    ([[0, 1]], [0.8])
    """
    shingles = word_shingles(words)
    signatures = minhash(shingles, num_hashes=num_hashes, seed=seed)
    candidates = _candidates(signatures, np.flatnonzero(np.diff(shingles.starts)))
    similarity = jaccard(shingles, candidates)
    is_near = similarity >= threshold
    return NearPairs(candidates[is_near], similarity[is_near])


def jaccard(shingles: Shingles, pairs: Array) -> Array:
    """Return the Jaccard similarity [m] of pairs of texts [m, 2]: the shingles in both over the shingles in either.

    >>> shingles = word_shingles(split_words(["a b c", "a b d"]))
    >>> jaccard(shingles, np.array([[0, 1], [0, 0]])).round(2).tolist()
    [0.33, 1.0]
    """
    sizes = np.diff(shingles.starts)
    shared = np.zeros(len(pairs), dtype=np.int64)
    hashes = shingles.hashes
    for block in _blocks(sizes[pairs[:, 0]], MAX_COMPARED):
        first, second = pairs[block].T
        num = sizes[first]
        begins = np.cumsum(num) - num
        inside = np.arange(num.sum()) - np.repeat(begins, num) + np.repeat(shingles.starts[first], num)
        wanted = (np.repeat(second.astype(np.uint64), num) << np.uint64(32)) | hashes[inside]
        places = np.minimum(np.searchsorted(shingles.keys, wanted), len(shingles.keys) - 1)
        shared[block] = np.add.reduceat(shingles.keys[places] == wanted, begins)
    return shared / np.maximum(1, sizes[pairs].sum(axis=1) - shared)


def _candidates(signatures: Array, present: Array) -> Array:
    """Return the distinct pairs of texts [m, 2] that agree on a whole band."""
    found = [np.zeros(0, dtype=np.uint64)]
    for start in range(0, signatures.shape[1] - BAND + 1, BAND):
        band = np.ascontiguousarray(signatures[present, start : start + BAND]).view(np.uint64)
        keys = _mixed(_mixed(band[:, 0]) + band[:, 1])
        order = np.argsort(keys, kind="stable")  # equal keys by text number
        keys, texts = keys[order], present[order].astype(np.uint64)
        is_first = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, dtype=bool)
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
        found.append((texts[first][~is_first] << np.uint64(32)) | texts[~is_first])
        for offset in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(keys[offset:] == keys[:-offset])
            if not len(same):
                break
            found.append((texts[same] << np.uint64(32)) | texts[same + offset])
        found = [np.unique(np.concatenate(found))]
    pairs = np.stack([found[0] >> np.uint64(32), found[0] & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def _blocks(sizes: Array, limit: int) -> Iterator[slice]:
    """Divide items of these sizes into runs with a total of at most `limit`, and of at least one item."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield slice(start, stop)
        start = stop


def _mixed(values: Array) -> Array:
    """Spread 64-bit numbers evenly (the finaliser of SplitMix64)."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
