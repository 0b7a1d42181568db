"""The texts of a classifier's parts, tokenized, with word of what was cut off and of what the tokenizer does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlpbp.config import TextClassifierSettings
from nlpbp.core.errors import ConfigError
from nlpbp.data.parts import Inputs, Part
from nlpbp.runs.folder import CACHE, Run
from nlpbp.text.batches import MAX_WINDOWS, Cut, Encoded, encode

MAX_UNKNOWN = 0.1  # share of tokens; a language that the tokenizer was made for has hardly any
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

    Raises `ConfigError` for pairs of texts, which cannot be read in windows or by their two ends.
    """
    cut = run.settings.data.truncation
    if inputs.train.examples.pairs is not None and cut in ("head_tail", "windows"):
        raise ConfigError(f"a pair of texts has no {cut}", column="data.truncation", hint="give head or tail")
    encoded = {
        name: encode_part(run, name, part, tokenizer=tokenizer, max_length=max_length, cut=cut)
        for name, part in {"train": inputs.train, **inputs.scored}.items()
    }
    share = _unknown_share(encoded["train"], tokenizer, pair=inputs.train.examples.pairs is not None)
    if share > MAX_UNKNOWN:
        run.say(
            f"warning: the tokenizer does not know {share:.0%} of the training tokens, so the model cannot tell them apart; "
            "choose a model or a tokenizer that was made for this language or these signs"
        )
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


def _unknown_share(encoded: Encoded, tokenizer: PreTrainedTokenizerBase, *, pair: bool) -> float:
    """Return the share of unknown tokens among those that stand for text: all but the special ones at the ends."""
    if tokenizer.unk_token_id is None:
        return 0.0
    num_special = tokenizer.num_special_tokens_to_add(pair=pair) * len(encoded)
    return float((encoded.tokens == tokenizer.unk_token_id).sum() / max(1, len(encoded.tokens) - num_special))
