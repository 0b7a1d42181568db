"""Texts to token ids, once, and token ids to padded batches, each time.

Encoding is cached by content: the texts, the tokenizer and the length limit make the file's name, so a second run starts at once
and nothing stale can be read. Batches are padded on the right, to about their longest text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from nlpbp.core.batch import Batch
from nlpbp.core.errors import ConfigError
from nlpbp.data.order import Ints

MAX_CHARACTERS_PER_TOKEN = 20  # text beyond max_length times this is cut before tokenizing: a 10 MB text would take 12 seconds
LENGTH_MULTIPLE = (
    4  # of padded lengths: each shape costs a kernel and its memory, and a quarter of the shapes a few per cent of padding
)
BLOCK = 1024  # texts a call of the tokenizer: large enough for its threads, small enough for the progress bar


@dataclass(frozen=True)
class Encoded:
    """Token ids of n texts, end to end: text i is `tokens[offsets[i]:offsets[i + 1]]`.

    `type_ids` runs beside `tokens` where a pair of texts needs it; `clipped` and `truncated` are positions of texts that were cut
    before and by tokenizing.
    """

    tokens: np.ndarray[Any, np.dtype[np.int32]]
    offsets: Ints
    type_ids: np.ndarray[Any, np.dtype[np.uint8]] | None
    clipped: Ints
    truncated: Ints

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
    cache: Path | None = None,
    show_progress: bool = False,
) -> Encoded:
    """Tokenize texts (or pairs of texts) with a fast tokenizer, special tokens included, at most `max_length` tokens each.

    The longer text of a pair is cut first. `cache` is a folder of earlier results; the tokenizer is left as it was.
    """
    if cache is None:
        return _encode(texts, pairs, tokenizer=tokenizer, max_length=max_length, show_progress=show_progress)
    file = cache / f"{_content_key(texts, pairs, tokenizer=tokenizer, max_length=max_length)}.safetensors"
    if cached := _load(file):
        return cached
    encoded = _encode(texts, pairs, tokenizer=tokenizer, max_length=max_length, show_progress=show_progress)
    _save(encoded, file)
    return encoded


def _encode(
    texts: Sequence[str], pairs: Sequence[str] | None, *, tokenizer: PreTrainedTokenizerBase, max_length: int, show_progress: bool
) -> Encoded:
    limit = max_length * MAX_CHARACTERS_PER_TOKEN
    with_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    clipped = [i for i, parts in enumerate(zip(texts, pairs or texts, strict=True)) if max(map(len, parts)) > limit]
    tokens: list[Any] = []
    types: list[Any] = []
    lengths: list[int] = []
    truncated: list[int] = []
    with truncating(tokenizer, max_length=max_length) as backend:
        for first in tqdm(range(0, len(texts), BLOCK), desc="tokenizing", unit="k texts", leave=False, disable=not show_progress):
            left = [text[:limit] for text in texts[first : first + BLOCK]]
            right = None if pairs is None else [text[:limit] for text in pairs[first : first + BLOCK]]
            for encoding in _encode_batch(backend, left if right is None else list(zip(left, right, strict=True))):
                if encoding.overflowing:
                    truncated.append(len(lengths))
                lengths.append(len(encoding.ids))
                tokens.append(np.array(encoding.ids, dtype=np.int32))
                if with_types:
                    types.append(np.array(encoding.type_ids, dtype=np.uint8))
    return Encoded(
        tokens=np.concatenate([np.empty(0, dtype=np.int32), *tokens]),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        type_ids=np.concatenate([np.empty(0, dtype=np.uint8), *types]) if with_types else None,
        clipped=np.array(clipped, dtype=np.int64),
        truncated=np.array(truncated, dtype=np.int64),
    )


def from_tokens(ids: Sequence[Sequence[int]]) -> Encoded:
    """Make an `Encoded` of texts that are token ids already, one list a text.

    >>> from_tokens([[1, 2], [3]]).offsets.tolist()
    [0, 2, 3]
    """
    lengths = [len(one) for one in ids]
    return Encoded(
        tokens=np.fromiter(chain.from_iterable(ids), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        type_ids=None,
        clipped=np.array([], dtype=np.int64),
        truncated=np.array([], dtype=np.int64),
    )


def _encode_batch(backend: Any, inputs: list[Any]) -> list[Any]:
    try:
        encodings: list[Any] = backend.encode_batch(inputs)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how a failure inside the Rust library arrives; it is no Exception
            raise
        raise ConfigError(f"the tokenizer failed: {error}", hint="look at the pattern in its tokenizer.json") from error
    return encodings


@contextmanager
def truncating(tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int = 0, direction: str = "right") -> Iterator[Any]:
    """Give the tokenizer's backend, cutting to `max_length` tokens and padding nothing; afterwards it is as it was.

    `direction` is the side that is cut off; what is, overflows into parts that share `stride` tokens with the one before.
    """
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    backend.no_padding()
    backend.enable_truncation(max_length, stride=stride, direction=direction)
    try:
        yield backend
    finally:
        backend.no_truncation()
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)


def _content_key(texts: Sequence[str], pairs: Sequence[str] | None, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    digest = hashlib.sha256(f"1/{max_length}/{tokenizer.model_input_names}/{pairs is not None}".encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for text in chain(texts, pairs or ()):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def _save(encoded: Encoded, file: Path) -> None:
    """Write under another name first, so that a reader never meets half a file; a full disk only costs the cache."""
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
    """Read an earlier result; one that is not there or damaged is made again."""
    try:
        arrays = load_file(file)
        return Encoded(
            tokens=arrays["tokens"],
            offsets=arrays["offsets"],
            type_ids=arrays.get("type_ids"),
            clipped=arrays["clipped"],
            truncated=arrays["truncated"],
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
    """Turn a plan, one list of micro-batches (arrays of example ids) a step, into what `train_steps` takes."""
    for step in plan:
        yield [collate(encoded, ids, tokenizer=tokenizer, labels=labels) for ids in step]
