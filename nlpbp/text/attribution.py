"""Word attributions of a prediction: by occlusion, which works for any model, or by gradient x input (practice D4).

Both explain what influences this model's prediction, not what is true of the text. Words beyond the truncation have no influence:
`reading_end` tells where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlpbp.text.batches import MAX_CHARACTERS_PER_TOKEN, truncating

Classify = Callable[[list[str]], np.ndarray[Any, Any]]
Attributions = list[tuple[str, float]]

_NO_SPACES = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # Thai, kana, Han: each character is taken as a word
WORD = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")


def occlusion(text: str, *, classify: Classify, label: int, end: int | None = None, max_pieces: int | None = None) -> Attributions:
    """Score each word of `text` by how much the probability of `label` falls without it (occlusion); in the order of the text.

    `classify` maps texts to probabilities [texts, labels], with any model; it is called once, with the text itself and one variant
    for each word. Only words before the character `end` are scored. If there are more than `max_pieces` words, adjacent words are
    removed together, in `max_pieces` groups. (Zeiler and Fergus 2014, for images.)

    >>> def classify(texts):
    ...     return np.array([[0.9, 0.1] if "good" in text else [0.5, 0.5] for text in texts])
    >>> [(word, round(score, 2)) for word, score in occlusion("a good film", classify=classify, label=0)]
    [('a', 0.0), ('good', 0.4), ('film', 0.0)]
    """
    pieces = _pieces([match.span() for match in WORD.finditer(text[:end])], max_pieces)
    if not pieces:
        return []
    without = [f"{text[:first]}{text[last:].lstrip()}" for first, last in pieces]
    answers = classify([text, *without])[:, label]
    return [(text[first:last], float(answers[0] - answer)) for (first, last), answer in zip(pieces, answers[1:], strict=True)]


def _pieces(spans: Sequence[tuple[int, int]], max_pieces: int | None) -> list[tuple[int, int]]:
    if max_pieces is None or len(spans) <= max_pieces:
        return list(spans)
    edges = np.linspace(0, len(spans), max_pieces + 1).round().astype(int)
    return [(spans[low][0], spans[high - 1][1]) for low, high in pairwise(edges)]


def gradient_times_input(model: PreTrainedModel, inputs: Mapping[str, Tensor], *, label: int) -> Tensor:
    """Score each token by the gradient of the logit of `label` with respect to its embedding, times that embedding: [batch,
    length].

    `inputs` are `input_ids`, `attention_mask` and any other inputs of the model; padding scores 0. It takes one forward and one
    backward pass, however long the text. For a linear model the scores sum to its logit without the bias. The model must accept
    `inputs_embeds`; in an AWD-LSTM the gradient reaches back only to the beginning of a chunk (`config.chunk_length`). The model's
    mode, weights and gradients are left unchanged. (Shrikumar et al. 2016.)
    """
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            embedded = model.get_input_embeddings()(inputs["input_ids"])
        embedded.requires_grad_()
        logits = model(inputs_embeds=embedded, **others).logits
        (slope,) = torch.autograd.grad(logits[:, label].sum(), embedded)
    finally:
        model.train(was_training)
    scores: Tensor = (slope * embedded.detach()).sum(dim=-1).float()
    return scores * inputs["attention_mask"] if "attention_mask" in inputs else scores


def token_attributions(
    text: str, *, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label: int, max_length: int
) -> tuple[Attributions, int | None]:
    """Score the tokens of `text` that the model reads by `gradient_times_input`, each shown as it is written in the text.

    Special tokens are left out. The second value is where the model stops reading, as from `reading_end`.
    """
    with truncating(tokenizer, max_length=max_length) as backend:
        encoding = backend.encode(text[: max_length * MAX_CHARACTERS_PER_TOKEN])
    ids = torch.tensor([encoding.ids], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    scores = gradient_times_input(model, inputs, label=label)[0].tolist()
    kept = zip(encoding.offsets, encoding.special_tokens_mask, scores, strict=True)
    attributions = [(text[first:last], score) for (first, last), special, score in kept if not special]
    return attributions, reading_end(text, tokenizer=tokenizer, max_length=max_length)


def reading_end(text: str, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int | None:
    """Return the character at which `text` is truncated to `max_length` tokens; None if it is not truncated."""
    limit = max_length * MAX_CHARACTERS_PER_TOKEN
    with truncating(tokenizer, max_length=max_length) as backend:
        encoding = backend.encode(text[:limit])
    if not encoding.overflowing and len(text) <= limit:
        return None
    read = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    return max((last for (_, last), special in read if not special), default=0)
