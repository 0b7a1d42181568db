"""Convert AWD-LSTM weights saved by fastai, and their vocabulary, to an nlpbp model and tokenizer.

With `learn`, the learner of a language model in fastai, these lines write the files that are read here:

    learn.save("lm", with_opt=False)                                        # models/lm.pth; or learn.save_encoder("lm")
    import json; json.dump(list(learn.dls.vocab), open("vocab.json", "w"))

A classifier's learner has its vocabulary in `learn.dls.vocab[0]`, and writes its encoder with `save_encoder`. In evaluation mode
the hidden states are identical to fastai's. The tokenizer is not identical: it splits words much as fastai does, but a
`tokenizer.json` cannot express the rules by which fastai inserts tokens (`xxmaj` before a capital); `fastai_text` implements those
rules.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nlpbp.core.errors import CheckpointError, ConfigError, DataError
from nlpbp.text.awd_lstm import AWDLSTMConfig, AWDLSTMForCausalLM
from nlpbp.text.tokenizer import LINE_BREAKS, frame_documents_

UNKNOWN, PADDING, START = "xxunk", "xxpad", "xxbos"
FILLER = "xxfake"  # fastai pads a vocabulary to a multiple of 8 with it; it represents no word
EXPORT_WEIGHTS = 'save it again in fastai with learn.save("lm", with_opt=False), or learn.save_encoder("lm")'
EXPORT_VOCABULARY = 'run in fastai: import json; json.dump(list(learn.dls.vocab), open("vocab.json", "w"))'
# Approximates spaCy's word splitting: "ca|n't", "it|'s", "3.5", and each punctuation mark on its own.
WORDS = Regex(r"n't\b|\w+?(?=n't\b)|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,]\d+)+|\w+|[^\w\s]")


def load_fastai(
    weights: Path, vocabulary: Path | None = None, *, backwards: bool = False
) -> tuple[AWDLSTMForCausalLM, PreTrainedTokenizerFast]:
    """Load a fastai language model from its `.pth` file, and its vocabulary as a JSON list or with one token per line.

    If `vocabulary` is not given, it is looked for beside the weights: under the same name, or as `vocab.json` or `vocab.txt`.
    `backwards` says that the model was trained on reversed texts. If the file is only an encoder, the bias of the decoder is newly
    initialised.

    Raises `CheckpointError` for weights of another architecture, `DataError` for the vocabulary of another model, and `ConfigError`
    for files that would have to be unpickled.
    """
    tokens = read_vocabulary(vocabulary or find_vocabulary(weights))
    tensors = read_weights(weights)
    if len(tokens) != len(tensors["encoder.weight"]):
        raise DataError(
            f"the vocabulary has {len(tokens):,} tokens, the embedding in {weights} has {len(tensors['encoder.weight']):,}",
            file=str(vocabulary or find_vocabulary(weights)),
            hint="give the vocabulary that the model was trained with, as JSON if tokens contain line breaks",
        )
    tokenizer = word_tokenizer(tokens)
    num_layers = sum(name.endswith(".weight_hh_l0_raw") for name in tensors)
    config = AWDLSTMConfig(
        vocab_size=len(tokens),
        embedding_size=tensors["encoder.weight"].shape[1],
        hidden_size=tensors["rnns.0.weight_hh_l0_raw"].shape[1] if num_layers > 1 else tensors["encoder.weight"].shape[1],
        num_hidden_layers=num_layers,
        decoder_bias="decoder.bias" in tensors or "decoder.weight" not in tensors,
        backwards=backwards,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = AWDLSTMForCausalLM(config)
    _fill(model, tensors, file=str(weights))
    return model.eval(), tokenizer


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read an AWD-LSTM's tensors, fp32, under the names of its encoder, without running any code in the file.

    Tensors that are saved under a second name as well are checked to be equal, and kept once.
    """
    if not file.is_file():
        raise ConfigError("there is no such file", file=str(file), hint="give the .pth file that learn.save wrote")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever other bytes lead to; a file with fastai's optimizer is rejected here too
        raise CheckpointError("the file contains more than weights, or is damaged", file=str(file), hint=EXPORT_WEIGHTS) from error
    if isinstance(loaded, dict) and set(loaded) == {"model", "opt"}:
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError("the file does not contain a model's state dict", file=str(file), hint=EXPORT_WEIGHTS)
    named = {re.sub(r"^[01]\.", "", str(name)): value.float() for name, value in loaded.items()}
    for name, wanted in (("encoder.weight", "a language model's embedding"), ("rnns.0.weight_hh_l0_raw", "AWD-LSTM's layers")):
        if name not in named or named[name].dim() != 2:
            raise CheckpointError(f"{wanted} ({name}) cannot be found in it", file=str(file), hint=EXPORT_WEIGHTS)
    copies = {"encoder_dp.emb.weight": "encoder.weight", "decoder.weight": "encoder.weight"} | {
        name.replace("weight_hh_l0_raw", "module.weight_hh_l0"): name for name in named if name.endswith(".weight_hh_l0_raw")
    }
    for copy in {"encoder_dp.emb.weight", "decoder.weight"} & named.keys():
        if not torch.equal(named[copy], named[copies[copy]]):
            raise CheckpointError(f"{copy} is not tied to the embedding", file=str(file), hint="only tied weights can be loaded")
    return {name: value for name, value in named.items() if name not in copies or name == "decoder.weight"}


def _fill(model: AWDLSTMForCausalLM, tensors: Mapping[str, Tensor], *, file: str) -> None:
    """Copy all `tensors` into a model, whose parameters they must match exactly."""
    sources = {"model.embed_tokens.weight": "encoder.weight", "lm_head.weight": "encoder.weight", "lm_head.bias": "decoder.bias"}
    for index in range(len(model.model.layers)):
        sources[f"model.layers.{index}.weight_hh_l0"] = f"rnns.{index}.weight_hh_l0_raw"
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            sources[f"model.layers.{index}.{name}"] = f"rnns.{index}.module.{name}"
    state = model.state_dict()
    optional = {"decoder.bias", "decoder.weight"}
    missing = sorted({sources[name] for name in state} - tensors.keys() - optional)
    unknown = sorted(tensors.keys() - set(sources.values()) - optional)
    if missing or unknown:
        words = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which an AWD-LSTM of LSTM cells in one direction has not"
        raise CheckpointError(f"the file {words}", file=file, hint=EXPORT_WEIGHTS)
    for name, mine in state.items():
        theirs = tensors.get(sources[name], torch.zeros_like(mine))
        if theirs.shape != mine.shape:
            expected = f"{list(theirs.shape)}, where the other tensors ask for {list(mine.shape)}"
            raise CheckpointError(f"{sources[name]} is {expected}", file=file, hint=EXPORT_WEIGHTS)
        mine.copy_(theirs)


def find_vocabulary(weights: Path) -> Path:
    """Return the vocabulary file beside `weights`."""
    readable = [
        weights.with_suffix(".json"),
        weights.with_suffix(".txt"),
        weights.parent / "vocab.json",
        weights.parent / "vocab.txt",
    ]
    pickled = sorted(weights.parent.glob("*.pkl"))
    for file in [*readable, *pickled]:
        if file.is_file():
            return file
    raise ConfigError(
        f"there is no vocabulary beside it ({readable[0].name} or {readable[2].name})", file=str(weights), hint=EXPORT_VOCABULARY
    )


def read_vocabulary(file: Path) -> list[str]:
    """Read the tokens of a vocabulary in the order of their ids: a JSON list, or a text file with one token per line."""
    if file.suffix == ".pkl":
        raise ConfigError(
            "a pickled vocabulary is not read, because unpickling can run code", file=str(file), hint=EXPORT_VOCABULARY
        )
    try:
        text = file.read_text(encoding="utf-8")
        tokens = json.loads(text) if file.suffix == ".json" else text.removesuffix("\n").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the vocabulary cannot be read: {error}", file=str(file), hint=EXPORT_VOCABULARY) from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        hint = f"{EXPORT_VOCABULARY} (of a classifier: learn.dls.vocab[0])"
        raise DataError("the vocabulary is not a list of tokens", file=str(file), hint=hint)
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token != FILLER and first.setdefault(token, index) != index:
            raise DataError(f"token {index} is a duplicate of token {first[token]}", file=str(file), excerpt=token)
    if lacking := [token for token in (UNKNOWN, PADDING, START) if token not in first]:
        raise DataError(f"the vocabulary lacks {lacking[0]}, so it is not from fastai", file=str(file), hint=EXPORT_VOCABULARY)
    return tokens


def word_tokenizer(tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a lower-casing word tokenizer whose ids are positions in `tokens`; a document begins with `xxbos`.

    >>> tokenizer = word_tokenizer(["xxunk", "xxpad", "xxbos", "a", "film", "do", "n't", "xxfake", "xxfake"])
    >>> tokenizer.convert_ids_to_tokens(tokenizer("A film, don't").input_ids)
    ['xxbos', 'a', 'film', 'xxunk', 'do', "n't"]
    """
    # The names of fillers contain a character that is never inside a word after splitting.
    ids = {f"{token}#{index}" if token == FILLER else token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(LINE_BREAKS, "\n"), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Split(WORDS, behavior="removed", invert=True)
    backend.decoder = decoders.Sequence([decoders.Replace(Regex("^"), " "), decoders.Fuse()])  # a space before each word
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        bos_token=START,
        model_input_names=["input_ids", "attention_mask"],
    )
    frame_documents_(tokenizer)
    return tokenizer


# Remains of web pages and of tokenized corpora, in the order of replacement.
LEFT_OVERS = {
    "#39;": "'",
    "amp;": "&",
    "#146;": "'",
    "nbsp;": " ",
    "#36;": "$",
    r"\n": "\n",
    "quot;": "'",
    "<br />": "\n",
    r"\"": '"',
    "<unk>": UNKNOWN,
    " @.@ ": ".",
    " @-@ ": "-",
    "...": " …",
}


def fastai_text(text: str) -> str:
    """Apply fastai's default preprocessing rules to a text, to compare the inputs of the two libraries.

    >>> fastai_text("GREAT film!!!! So so so Good, I'd say")
    "xxbos xxup great film xxrep 4 ! xxmaj so so so xxmaj good, xxmaj i'd say"
    >>> fastai_text("so so so bad and/or good")
    'xxbos xxwrep 3 so bad and / or good'
    """

    def lowered(marker: str) -> Callable[[re.Match[str]], str]:
        return lambda word: (f"{marker} " if len(word[0]) > 1 else "") + word[0].lower()

    for old, new in LEFT_OVERS.items():
        text = text.replace(old, new)
    text = html.unescape(text)
    text = re.sub(r"(\S)\1{2,}", lambda run: f" xxrep {len(run[0])} {run[1]} ", text)
    text = re.sub(r"(?:^|\s)(\w+)((?:\s+\1){2,})(\W|$)", lambda run: f" xxwrep {len(run[2].split()) + 1} {run[1]} {run[3]}", text)
    text = re.sub(" {2,}", " ", re.sub(r"[/#\\]", r" \g<0> ", text))
    text = re.sub(r"(?<!\S)[A-Z][^a-z\s]*(?!\S)", lowered("xxup"), text)
    text = re.sub(r"(?<!\S)[A-Z][^A-Z\s]*(?!\S)", lowered("xxmaj"), text)
    return f"{START} {text.lower().strip()}"
