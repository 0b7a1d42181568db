"""Tokenize texts once, and pad their token ids to batches.

Of a text that is too long, the model reads the beginning, the end, both, or all of it in windows (practice D6).

Token ids are cached by content: the file name is a hash of the texts, the tokenizer and the length limit, so a second run starts at
once and never reads stale data. Batches are padded on the right, to about their longest text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm  # in a notebook it draws itself as one
from transformers import PreTrainedTokenizerBase

from nlpbp.core.batch import Batch
from nlpbp.core.errors import ConfigError
from nlpbp.data.order import Ints

MAX_CHARACTERS_PER_TOKEN = 20  # text beyond max_length times this is cut before tokenizing: a 10 MB text would take 12 seconds
LENGTH_MULTIPLE = (
    4  # lengths are padded to a multiple: fewer shapes mean fewer kernels and less memory, for a few per cent of padding
)
MAX_WINDOWS = 16  # of a text: the rest is ignored
HEAD_SHARE = 0.25  # Sun et al. 2019: 128 of 510 tokens from the beginning, the rest from the end, was the best of what they tried
BLOCK = 1024  # texts per call of the tokenizer: enough for its threads, and few enough for a smooth progress bar


Cut = Literal["head", "tail", "head_tail", "windows"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of n texts, concatenated: text i is `tokens[offsets[i]:offsets[i + 1]]`.

    `type_ids` are the token type ids of `tokens`, for pairs of texts that need them; `clipped` and `truncated` are the indices of
    texts that were shortened before and by tokenizing. If texts are read in windows, n is the number of windows, and `owners` [n]
    is the text of each, ascending.
    """

    tokens: np.ndarray[Any, np.dtype[np.int32]]
    offsets: Ints
    type_ids: np.ndarray[Any, np.dtype[np.uint8]] | None
    clipped: Ints
    truncated: Ints
    owners: Ints | None = None

    @property
    def lengths(self) -> Ints:
        """The number of tokens of each text, int64 [n]."""
        return np.diff(self.offsets)

    @cached_property
    def padded_lengths(self) -> Ints:
        """The lengths to plan batches by, int64 [n]: rounded up to a multiple of 4, but not beyond the longest text."""
        rounded = -(-self.lengths // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        return np.minimum(rounded, self.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self.offsets) - 1


def encode(
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cut: Cut = "head",
    cache: Path | None = None,
    show_progress: bool = False,
) -> Encoded:
    """Tokenize texts (or pairs of texts) with a fast tokenizer, special tokens included, at most `max_length` tokens each.

    `cut` says what is read of a longer text: its `head`, its `tail`, `head_tail` (a quarter of the tokens from its beginning, the
    rest from its end), or all of it in `windows` that overlap by half. The longer text of a pair is truncated first; `head_tail`
    and `windows` raise `ValueError` for pairs. `cache` is a folder for results; the tokenizer is left unchanged.
    """
    if pairs is not None and cut in ("head_tail", "windows"):
        raise ValueError(f"a pair of texts has no {cut}")
    if cache is None:
        return _encode(texts, pairs, tokenizer=tokenizer, max_length=max_length, cut=cut, show_progress=show_progress)
    file = cache / f"{_content_key(texts, pairs, tokenizer=tokenizer, max_length=max_length, cut=cut)}.safetensors"
    if cached := _load(file):
        return cached
    encoded = _encode(texts, pairs, tokenizer=tokenizer, max_length=max_length, cut=cut, show_progress=show_progress)
    _save(encoded, file)
    return encoded


def _encode(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cut: Cut,
    show_progress: bool,
) -> Encoded:
    if cut == "head_tail":
        heads, tails = (
            _encode(texts, None, tokenizer=tokenizer, max_length=max_length, cut=end, show_progress=show_progress)
            for end in ("head", "tail")
        )
        return _head_tail(heads, tails, num_head=round(max_length * HEAD_SHARE))
    limit = max_length * MAX_CHARACTERS_PER_TOKEN * (MAX_WINDOWS if cut == "windows" else 1)
    kept = slice(-limit, None) if cut == "tail" else slice(limit)
    with_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    clipped = [i for i, parts in enumerate(zip(texts, pairs or texts, strict=True)) if max(map(len, parts)) > limit]
    rows: list[Any] = []
    nothing = [stand_in(tokenizer)]
    owners: list[int] = []
    truncated: list[int] = []
    with truncating(tokenizer, max_length=max_length, cut=cut) as backend:
        for first in tqdm(range(0, len(texts), BLOCK), desc="tokenizing", unit="k texts", leave=False, disable=not show_progress):
            left = [text[kept] for text in texts[first : first + BLOCK]]
            right = None if pairs is None else [text[kept] for text in pairs[first : first + BLOCK]]
            inputs = left if right is None else list(zip(left, right, strict=True))
            for index, encoding in enumerate(_encode_batch(backend, inputs), first):
                parts = [encoding, *encoding.overflowing]
                read = parts[: MAX_WINDOWS if cut == "windows" else 1]
                if len(read) < len(parts):
                    truncated.append(index)
                rows += [
                    (
                        np.array(p.ids or nothing, dtype=np.int32),
                        np.array(p.type_ids or [0], dtype=np.uint8) if with_types else None,
                    )
                    for p in read
                ]
                owners += [index] * len(read)
    return Encoded(
        tokens=np.concatenate([np.empty(0, dtype=np.int32), *(tokens for tokens, _ in rows)]),
        offsets=_offsets([len(tokens) for tokens, _ in rows]),
        type_ids=np.concatenate([np.empty(0, dtype=np.uint8), *(types for _, types in rows)]) if with_types else None,
        clipped=np.array(clipped, dtype=np.int64),
        truncated=np.array(truncated, dtype=np.int64),
        owners=np.array(owners, dtype=np.int64) if cut == "windows" else None,
    )


def stand_in(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that a text without any is read as, where the tokenizer puts none at its ends: the end of a text.

    Without one token, the text would have no state to pool, and a decoder no position to answer at.
    """
    names = ("eos_token_id", "sep_token_id", "bos_token_id", "unk_token_id", "pad_token_id")
    return int(next((found for name in names if (found := getattr(tokenizer, name, None)) is not None), 0))


def _head_tail(heads: Encoded, tails: Encoded, *, num_head: int) -> Encoded:
    """Join the beginnings of the first and the ends of the second; a text that was truncated has the full length, with special
    tokens."""
    joined = []
    cut = set(np.union1d(heads.clipped, heads.truncated).tolist())
    for index in range(len(heads)):
        head, tail = (one.tokens[one.offsets[index] : one.offsets[index + 1]] for one in (heads, tails))
        joined.append(np.concatenate([head[:num_head], tail[num_head - len(head) :]]) if index in cut else head)
    return replace(
        heads,
        tokens=np.concatenate([np.empty(0, dtype=np.int32), *joined]),
        offsets=_offsets([len(tokens) for tokens in joined]),
    )


def _offsets(lengths: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def from_tokens(ids: Sequence[Sequence[int]]) -> Encoded:
    """Make an `Encoded` of texts that are token ids already, one list for each text.

    >>> from_tokens([[1, 2], [3]]).offsets.tolist()
    [0, 2, 3]
    """
    return Encoded(
        tokens=np.fromiter(chain.from_iterable(ids), dtype=np.int32),
        offsets=_offsets([len(one) for one in ids]),
        type_ids=None,
        clipped=np.array([], dtype=np.int64),
        truncated=np.array([], dtype=np.int64),
    )


def _encode_batch(backend: Any, inputs: list[Any]) -> list[Any]:
    try:
        encodings: list[Any] = backend.encode_batch(inputs)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how a panic in the Rust library arrives; it is not an Exception
            raise
        raise ConfigError(f"the tokenizer failed: {error}", hint="look at the pattern in its tokenizer.json") from error
    return encodings


@contextmanager
def truncating(tokenizer: PreTrainedTokenizerBase, *, max_length: int, cut: Cut = "head") -> Iterator[Any]:
    """Yield the tokenizer's backend, truncating to `max_length` tokens without padding; restore its settings afterwards.

    The truncated rest becomes overflowing encodings; with `windows`, each overlaps the one before by half.
    """
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    held = max_length - tokenizer.num_special_tokens_to_add()
    backend.no_padding()
    backend.enable_truncation(
        max_length, stride=held // 2 if cut == "windows" else 0, direction="left" if cut == "tail" else "right"
    )
    try:
        yield backend
    finally:
        backend.no_truncation()
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)


def _content_key(
    texts: Sequence[str], pairs: Sequence[str] | None, *, tokenizer: PreTrainedTokenizerBase, max_length: int, cut: Cut
) -> str:
    digest = hashlib.sha256(f"3/{max_length}/{cut}/{tokenizer.model_input_names}/{pairs is not None}".encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for text in chain(texts, pairs or ()):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def _save(encoded: Encoded, file: Path) -> None:
    """Write to a temporary name first, so that no reader sees an incomplete file; when the disk is full, only caching is lost."""
    arrays = {name: value for name, value in vars(encoded).items() if value is not None}
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, temporary)
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _load(file: Path) -> Encoded | None:
    """Read a cached result; None if it is missing or damaged, so that it is computed again."""
    try:
        arrays = load_file(file)
        return Encoded(
            tokens=arrays["tokens"],
            offsets=arrays["offsets"],
            type_ids=arrays.get("type_ids"),
            clipped=arrays["clipped"],
            truncated=arrays["truncated"],
            owners=arrays.get("owners"),
        )
    except (OSError, SafetensorError, KeyError):
        return None


def collate(
    encoded: Encoded, ids: Ints, *, tokenizer: PreTrainedTokenizerBase, labels: np.ndarray[Any, Any] | None = None
) -> Batch:
    """Pad the texts `ids` on the right to the longest of their `padded_lengths`; `labels` [n, ...] are those of all texts.

    Inputs are `input_ids` and `attention_mask`, int64 [batch, length], and `token_type_ids` where the texts have them.
    """
    starts, ends = encoded.offsets[ids], encoded.offsets[ids + 1]
    mask = np.arange(encoded.padded_lengths[ids].max()) < (ends - starts)[:, None]
    positions = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    inputs = {
        "input_ids": _padded(encoded.tokens[positions], mask, fill=tokenizer.pad_token_id),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
    if encoded.type_ids is not None:
        inputs["token_type_ids"] = _padded(encoded.type_ids[positions], mask, fill=tokenizer.pad_token_type_id)
    return Batch(inputs, None if labels is None else torch.from_numpy(labels[ids]), torch.from_numpy(ids))


def _padded(values: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], *, fill: int) -> torch.Tensor:
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = values
    return torch.from_numpy(padded)


def batched_steps(
    plan: Iterable[Sequence[Ints]],
    encoded: Encoded,
    *,
    tokenizer: PreTrainedTokenizerBase,
    labels: np.ndarray[Any, Any],
) -> Iterator[list[Batch]]:
    """Turn a plan, a list of micro-batches (arrays of example ids) for each step, into batches for `train_steps`."""
    for step in plan:
        yield [collate(encoded, ids, tokenizer=tokenizer, labels=labels) for ids in step]
