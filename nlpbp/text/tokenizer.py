"""Tokenizers trained on your own texts, saved as a `tokenizer.json`, so that `pipeline` tokenizes a text exactly as training
did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nlpbp.text.batches import Encoded

Kind = Literal["subword", "word"]
UNKNOWN, PADDING, START, END = "<unk>", "<pad>", "<s>", "</s>"
SPECIAL_TOKENS = (UNKNOWN, PADDING, START, END)  # ids 0 to 3
LINE_BREAKS = Regex(r"(?:<br\s*/?>\s*)+")  # in texts from web pages, such as reviews
MIN_FREQUENCY = 2  # nothing is learned from a word or a pair of pieces that occurs once


def train_tokenizer(
    texts: Iterable[str], *, kind: Kind = "subword", vocab_size: int = 16_000, show_progress: bool = False
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with at most `vocab_size` tokens, four special ones included; a document is enclosed in `<s>` and `</s>`.

    subword: byte-level byte-pair encoding; it is case-sensitive, can encode any text and needs no spaces between words. word: the
    most frequent words and punctuation marks in lower case; all others are `<unk>`. Both convert HTML line breaks to newlines.

    >>> tokenizer = train_tokenizer(["a good film", "a bad film"], kind="word")
    >>> tokenizer.convert_ids_to_tokens(tokenizer("A film!").input_ids)
    ['<s>', 'a', 'film', '<unk>', '</s>']
    """
    backend, trainer = (_subword if kind == "subword" else _word)(vocab_size, show_progress)
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        bos_token=START,
        eos_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )
    frame_documents_(tokenizer)
    return tokenizer


def _subword(vocab_size: int, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    backend = Tokenizer(models.BPE(unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(LINE_BREAKS, "\n"), normalizers.NFC()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    return backend, trainer


def _word(vocab_size: int, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    backend = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(LINE_BREAKS, "\n"), normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Sequence([decoders.Replace(Regex("^"), " "), decoders.Fuse()])  # a space before each word
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=MIN_FREQUENCY, special_tokens=list(SPECIAL_TOKENS), show_progress=show_progress
    )
    return backend, trainer


def frame_documents_(tokenizer: PreTrainedTokenizerBase, *, end: bool = True) -> None:
    """Make `tokenizer` enclose a document, or a pair of them, in `<s>` and `</s>`; without `end` there is no `</s>`, as for
    prompts.

    These stand for its own start and end tokens, whatever their names; a tokenizer without an end token adds only the start. A
    language model is saved without `end`, because `pipeline("text-generation")` continues the text that it is given.

    >>> tokenizer = train_tokenizer(["a film", "a film"], kind="word")
    >>> frame_documents_(tokenizer, end=False)
    >>> tokenizer.convert_ids_to_tokens(tokenizer("a film").input_ids)
    ['<s>', 'a', 'film']
    """
    start, stop = tokenizer.bos_token, tokenizer.eos_token
    between, closing = (f" {stop}", f" {stop}" if end else "") if stop else (f" {start}", "")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A{closing}",
        pair=f"{start} $A{between} $B{closing}",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (start, stop) if token],
    )


@dataclass(frozen=True)
class Coverage:
    """How well a tokenizer fits texts: tokens per word (words are separated by white space), and the fraction of unknown tokens."""

    tokens_per_word: float
    unknown_share: float

    def __str__(self) -> str:
        return f"{self.tokens_per_word:.2f} tokens a word, {self.unknown_share:.2%} of tokens unknown"


def measure_coverage(texts: Sequence[str], encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Coverage:
    """Measure the coverage of `texts` by `tokenizer`, which made `encoded` of them; special tokens other than unknown ones do not
    count.

    >>> from nlpbp.text.batches import encode
    >>> texts = ["a good film", "a bad film"]
    >>> tokenizer = train_tokenizer(texts, kind="word")
    >>> print(measure_coverage(texts, encode(texts, tokenizer=tokenizer, max_length=100), tokenizer))
    1.00 tokens a word, 33.33% of tokens unknown
    """
    frame = [index for index in tokenizer.all_special_ids if index != tokenizer.unk_token_id]
    tokens = encoded.tokens[~np.isin(encoded.tokens, frame)]
    unknown = int((tokens == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0
    num_words = sum(len(text.split()) for text in texts)
    return Coverage(len(tokens) / max(1, num_words), unknown / max(1, len(tokens)))
