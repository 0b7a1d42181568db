"""The texts of a classifier's parts, tokenized, with word of what was cut off and of what the tokenizer does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from nlpbp.config import TextClassifierSettings
from nlpbp.core.errors import ConfigError
from nlpbp.data.columns import Examples
from nlpbp.data.modality import Reading
from nlpbp.data.parts import Inputs, Part
from nlpbp.runs.folder import CACHE, Run
from nlpbp.text.batches import MAX_WINDOWS, Cut, Encoded, encode
from nlpbp.text.unknown import SCRIPTS, fitting_models, script_of, unknown_pieces

MAX_UNKNOWN = 0.1  # share of tokens; a language that the tokenizer was made for has hardly any
TOO_UNKNOWN = 0.2  # from here on a run stops before it trains, unless it is told otherwise
MOST = 0.9  # of the texts: what a longer --data.max_length should hold whole
MAX_LOOKED_AT, MAX_TOKENS = 500, 16_384  # texts whose whole length is counted, and tokens of each
ROUND = 16  # tokens
READ = {
    "head": "{} tokens",
    "tail": "their last {} tokens",
    "head_tail": "{} tokens of both ends",
    "windows": f"{MAX_WINDOWS} windows",
}


@dataclass(frozen=True)
class EncodedTexts:
    """The texts of a classifier's parts, by name, as `tokenizer` makes tokens of them: at most `max_length`, after `cut`."""

    parts: Mapping[str, Encoded]
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    cut: Cut


def encode_parts(
    run: Run[TextClassifierSettings], inputs: Inputs, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> EncodedTexts:
    """Tokenize every part (the main process first, the others from its cache), and say what was cut off.

    Raises `ConfigError` for pairs of texts, which cannot be read in windows or by their two ends, and for a tokenizer that does not
    know more than a fifth of the training tokens, unless the settings allow it.
    """
    cut = run.settings.data.truncation
    if inputs.train.examples.pairs is not None and cut in ("head_tail", "windows"):
        raise ConfigError(f"a pair of texts has no {cut}", column="data.truncation", hint="give head or tail")
    encoded = {
        name: encode_part(run, name, part, tokenizer=tokenizer, max_length=max_length, cut=cut)
        for name, part in {"train": inputs.train, **inputs.scored}.items()
    }
    _look_for_unknown(run, inputs, encoded["train"], tokenizer)
    return EncodedTexts(encoded, tokenizer, max_length, cut)


def encode_part(
    run: Run[Any], name: str, part: Part, *, tokenizer: PreTrainedTokenizerBase, max_length: int, cut: Cut = "head"
) -> Encoded:
    """Tokenize one part, and say what was cut off."""
    with run.accelerator.main_process_first():
        encoded = encode(
            part.examples.texts,
            part.examples.pairs,
            tokenizer=tokenizer,
            max_length=max_length,
            cut=cut,
            cache=CACHE / "tokens",
            show_progress=run.accelerator.is_main_process,
        )
    if cut == "windows":
        run.say(f"{name}: {len(encoded):,} windows of at most {max_length} tokens, of {len(part):,} texts (--data.truncation)")
    if truncated := len(encoded.truncated):
        share = f"{truncated:,} of {len(part):,} texts ({truncated / len(part):.1%})"
        run.say(f"{name}: {share} are cut to {READ[cut].format(max_length)} (--data.max_length)")
    for index in encoded.clipped[:3]:
        run.say(f"{part.examples.references[index]}: very long; only its {'end' if cut == 'tail' else 'beginning'} was tokenized")
    return encoded


def _look_for_unknown(
    run: Run[TextClassifierSettings], inputs: Inputs, encoded: Encoded, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Warn of a tokenizer that does not know a tenth of the training tokens, and refuse to train where it is a fifth."""
    examples = inputs.train.examples
    share = _unknown_share(encoded, tokenizer, pair=examples.pairs is not None)
    if share <= MAX_UNKNOWN:
        return
    said = f"the tokenizer does not know {share:.0%} of the training tokens, so the model cannot tell them apart"
    if share <= TOO_UNKNOWN or run.settings.data.allow_unknown or _is_stand_in(run.settings):
        run.say(f"warning: {said}; choose a model or a tokenizer that was made for this language or these signs")
        return
    pieces = unknown_pieces(examples.texts, tokenizer)
    script = script_of(pieces)
    raise ConfigError(
        said + (f" (they are mostly {SCRIPTS[script][0]})" if script else ""),
        excerpt=", ".join(pieces),
        hint=f"{_better_tokenizer(run.settings, script)}; or train on it all the same: --data.allow_unknown",
    )


def _is_stand_in(settings: TextClassifierSettings) -> bool:
    """Tell whether the model is a tiny one for smoke tests, which knows the words of `tiny:reviews` alone."""
    return str(getattr(getattr(settings, "model", None), "name", "")).startswith("tiny:")


def _better_tokenizer(settings: TextClassifierSettings, script: str | None) -> str:
    if hasattr(settings, "tokenizer"):  # one that was trained on these texts
        return "take a tokenizer that knows all words: --tokenizer.kind subword, with a larger --tokenizer.vocab_size"
    own = "a recipe whose tokenizer is trained on your texts: nlpbp finetune ulmfit, or gru_classifier"
    return f"take a model made for these texts, such as --model.name {fitting_models(script)}; or {own}"


def reading_of(inputs: Inputs, texts: EncodedTexts, *, limit: int) -> Reading:
    """Say how much of the training texts a model that reads `limit` tokens at most does not read, or not know."""
    examples, encoded = inputs.train.examples, texts.parts["train"]
    truncated = len(np.union1d(encoded.truncated, encoded.clipped)) / max(1, len(examples))
    return Reading(
        truncated=truncated,
        unknown=_unknown_share(encoded, texts.tokenizer, pair=examples.pairs is not None),
        max_length=texts.max_length,
        truncation=texts.cut,
        enough=_enough(examples, texts) if truncated else texts.max_length,
        limit=limit if limit <= MAX_TOKENS else None,
        is_pair=examples.pairs is not None,
    )


def _enough(examples: Examples, texts: EncodedTexts) -> int:
    """Return how many tokens hold most of the training texts whole, rounded up: counted on some of them."""
    chosen = examples.select(np.arange(0, len(examples), max(1, len(examples) // MAX_LOOKED_AT)))
    whole = encode(chosen.texts, chosen.pairs, tokenizer=texts.tokenizer, max_length=MAX_TOKENS)
    return -(-int(np.quantile(whole.lengths, MOST)) // ROUND) * ROUND


def _unknown_share(encoded: Encoded, tokenizer: PreTrainedTokenizerBase, *, pair: bool) -> float:
    """Return the share of unknown tokens among those that stand for text: all but the special ones at the ends."""
    if tokenizer.unk_token_id is None:
        return 0.0
    num_special = tokenizer.num_special_tokens_to_add(pair=pair) * len(encoded)
    return float((encoded.tokens == tokenizer.unk_token_id).sum() / max(1, len(encoded.tokens) - num_special))
