"""The sections that recipes' configs are made of, their ranges, and their YAML or JSON form.

The docstring under each field is its help on the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from nlpbp.core.errors import ConfigError
from nlpbp.core.optim import (
    ACTIVATION_FACTOR,
    RECURRENT_MAX_GRAD_NORM,
    RECURRENT_MOMENTUM,
    RECURRENT_WEIGHT_DECAY,
    TEMPORAL_FACTOR,
    TRANSFORMER_BETAS,
    TRANSFORMER_EPS,
)
from recipes.common.secrets import redact

C = TypeVar("C")
Task = Literal["auto", "single_label", "multi_label", "regression"]
Rate = float | Literal["auto"] | None
ScheduleName = Literal["cosine", "linear", "constant", "one_cycle", "slanted_triangular", "flat_cosine", "warm_restarts"]
OptimizerName = Literal["adamw", "sgd"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the texts and labels come from."""

    train: str = "demo:rotten_tomatoes"
    """A .csv, .tsv, .json, .jsonl or .parquet file, a folder with a sub-folder of .txt files for each label, a hub id
    (`imdb`, or `glue:sst2` with its configuration), `demo:rotten_tomatoes` or `demo:imdb` (packaged). From Python also a
    pandas frame, a list of dicts or a dict of lists."""
    validation: str | None = None
    """Data to choose the best weights by. Left out: the hub's own split, else cut from the training data."""
    test: str | None = None
    """Data to score once, at the end. Left out: the hub's own split, else cut from the training data."""
    text: tuple[str, ...] = ()
    """The text column, or two for a pair. Left out: found by name and content, and printed."""
    label: str | None = None
    """The column to predict. Left out: found by name and content, and printed."""
    task: Task = "auto"
    """What the label column holds; auto looks at its values and says what it found."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Share of the data to cut off for validation where none is given."""
    test_share: float = 0.1
    """Share of the data to cut off for the test where none is given; 0 for no test."""
    value_range: tuple[float, float] | None = None
    """Of a number to predict: the lowest and the highest that there is. The model then answers within it, a twentieth beyond either
    end (practice A3)."""
    balance: bool = False
    """Draw every class equally often, rare examples several times an epoch, in an epoch as long as before."""
    sample: float = 1.0
    """Train on this share of the training part, stratified; a smaller sample is part of every larger one (practice D1)."""
    max_length: int = 256
    """Tokens a text at most; what lies beyond is cut off, and counted."""
    allow_change: bool = False
    """Go on with an unfinished run although its data have changed; its result is then of neither data."""


@dataclasses.dataclass(frozen=True)
class Cycles:
    """The warm restarts of the schedule of that name (practice L4)."""

    cycles: int = 3
    """How often the rate falls to 0."""
    cycle_len: int | None = None
    """Epochs of the first cycle; the stage then takes as many epochs as its cycles do. Left out: they share the stage's epochs."""
    cycle_mult: int = 2
    """Each cycle is so many times as long as the one before it."""
    cycle_decay: float = 1.0
    """Each cycle's highest rate is so many times that of the one before it."""
    snapshots: bool = False
    """Keep the model at the end of each cycle, in snapshots/; `predict.py RUN --snapshots` answers with their mean."""


@dataclasses.dataclass(frozen=True)
class Finder:
    """The sweep over rates that a rate of `auto` makes (practice L1)."""

    start: float = 1e-6
    """The lowest rate of the sweep."""
    end: float = 1.0
    """The highest one; a sweep whose loss diverges ends before."""
    num_steps: int = 100
    """Steps of a sweep."""
    orders: int = 3
    """Sweeps, each over another order of the data: how far their suggestions lie apart is their interval."""
    suggestion: Literal["steepest", "valley", "min_div_10"] = "valley"
    """Which of the three suggestions to take."""
    verify: bool = False
    """Also train shortly at a third of it, at it and at three times it, and take the best of them."""
    only: int | None = None
    """Stop after the sweep of this stage, counted from 1."""


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer, its rates and their schedule."""

    lr: Rate = None
    """Base rate, of the body's last layer; auto: found by a sweep (practice L1). Left out: 1e-4 below 50 million parameters, 3e-5
    above."""
    head_lr: float | None = None
    """Rate of the head, which starts from nothing; beside an lr of auto, a multiple of 1e-4. Left out: the base rate."""
    layer_decay: float = 0.9
    """Each layer below trains this much slower than the one above it; 1 for one rate (practice L2)."""
    similarity: Literal["high", "low"] | None = None
    """Three groups of layers in place of a decay a layer: each trains 10 times slower than the one above it where your texts are
    like those of pretraining (high), 3 times where they are not (low)."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum, the first of the betas."""
    betas: tuple[float, float] = TRANSFORMER_BETAS
    """AdamW's running averages: RoBERTa's (practice N1)."""
    eps: float = TRANSFORMER_EPS
    """AdamW's epsilon: RoBERTa's."""
    weight_decay: float = 0.01
    """Decoupled decay (practice T4); never of biases, norms and embeddings."""
    schedule: ScheduleName = "cosine"
    """How the rate goes within a stage (practices L3, L4); one_cycle and slanted_triangular warm up by themselves."""
    warmup: float = 0.1
    """Share of a stage's steps in which the rate rises from 0 before the others."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    label_smoothing: float = 0.0
    """Share of each target that moves to the uniform distribution."""
    focal: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["balanced"] | None = None
    """balanced: rare labels count more, in inverse proportion to how frequent they are."""
    average_from: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Where the texts of a language model come from; labels, if there are any, are not looked at."""

    train: str = "demo:imdb"
    """A file or folder as for a classifier, a .txt file with a document a line, a folder of .txt files with a document each, a
    hub id, `demo:imdb` or `demo:rotten_tomatoes` (packaged). From Python also a pandas frame, a list of dicts, a dict of lists."""
    validation: str | None = None
    """Texts to choose the best weights by. Left out: the hub's own split, else cut from the training texts."""
    test: str | None = None
    """Texts to score once, at the end. Left out: the hub's own split, else cut from the training texts."""
    text: tuple[str, ...] = ()
    """The text column. Left out: found by name and content, and printed."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.05
    """Share of the texts to cut off for validation where none are given."""
    test_share: float = 0.05
    """Share of the texts to cut off for the test where none are given; 0 for no test."""
    sample: float = 1.0
    """Train on this share of the training texts; a smaller sample is part of every larger one (practice D1)."""
    allow_change: bool = False
    """Go on with an unfinished run although its texts have changed; its result is then of neither."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer that is trained on the training texts; it is kept for the next run on them."""

    kind: Literal["subword", "word"] | None = None
    """subword: byte pairs, with case and without unknown words; word: whole words in lower case. Left out: the tokenizer of
    --lm.init where there is one, else subword."""
    vocab_size: int = 16_000
    """Tokens at most."""


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """The recurrent net: an AWD-LSTM, or the same around another cell (practices N5, A4, L5)."""

    size: Literal["tiny", "small", "paper"] = "small"
    """tiny: embedding 16, 2 layers of 24, for tests; small: 200, 2 of 512; paper: 400, 3 of 1152, as AWD-LSTM and ULMFiT have."""
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """The recurrent cell; a plain rnn forces low rates."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """Of a plain rnn."""
    recurrent_init: Literal["orthogonal", "identity", "default"] | None = None
    """Of the hidden-to-hidden matrices. Left out: identity for a ReLU, else orthogonal."""
    pooling: Literal["concat", "last", "mean", "max"] = "concat"
    """What a classifier's head sees of its states; concat: the last, the greatest and the mean (practice N10)."""
    backwards: bool = False
    """Read texts from their end; a forward and a backward model make an ensemble."""


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """How the language model is trained: AdamW, with AWD-LSTM's penalties and clipping."""

    init: str | None = None
    """Start from this language model: a run of `lm_awd_lstm`, a model folder, or a `.pth` file of fastai's with its vocabulary
    beside it (vocab.json). Its sizes and cell are kept."""
    steps: int | None = None
    """Windows to train on. Left out: `epochs` passes."""
    epochs: int = 1
    """Passes over the texts, where `steps` are not given."""
    lr: float | Literal["auto"] = 5e-3
    """Highest rate; auto: found by a sweep (practice L1)."""
    layer_decay: float = 1.0
    """Each layer below trains this much slower than the one above it."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum."""
    rows: int = 64
    """Parts of the stream that are read side by side: the batch."""
    window: int = 70
    """Tokens of each row in a step; the state goes on, the gradient is cut there."""
    random_windows: bool = False
    """Draw the windows' lengths, as AWD-LSTM does: one in twenty about half as long."""
    dropout: float = 1.0
    """Multiplies the five dropouts in their own ratio (practice N2)."""
    schedule: ScheduleName = "one_cycle"
    """How the rate goes (practices L3, L4)."""
    momentum: tuple[float, float] = RECURRENT_MOMENTUM
    """Adam's first beta where the rate is low and where it is high, under one_cycle; else the first is kept (practice N1)."""
    weight_decay: float = RECURRENT_WEIGHT_DECAY
    """Decoupled decay (practice T4); never of biases, norms and embeddings."""
    max_grad_norm: float | None = RECURRENT_MAX_GRAD_NORM
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    sampled: int | None = None
    """Estimate the training loss from the tokens that occur in a step and so many others, which is faster. Left out: from all."""
    activation: float = ACTIVATION_FACTOR
    """Factor of the penalty on activations (practice N4)."""
    temporal: float = TEMPORAL_FACTOR
    """Factor of the penalty on their changes in time (practice N4)."""
    average_from: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a classifier's training; what it leaves out is as elsewhere in the config."""

    epochs: int | None = None
    """Passes over the training data. Left out: `epochs` of the config, or 1."""
    lr: Rate = None
    """Highest rate; auto: found by a sweep (practice L1). Left out: optim.lr, or the recipe's own."""
    train_last: int | None = None
    """Layer groups that train, counted from the head; the others are frozen, their dropout is off and their norms' statistics stay
    (practice T1). Left out: all train."""
    max_length: int | None = None
    """Tokens a training text at most; short texts first and long ones later save time (practice T2). Left out: data.max_length."""
    batch_size: int | None = None
    """Texts an optimizer step. Left out: batch.size."""
    cache_frozen: bool = False
    """Compute what the frozen layers answer once, and keep it in memory for the stage's later epochs."""


@dataclasses.dataclass(frozen=True)
class RecurrentOptim:
    """The optimizer of a recurrent classifier, and how its rates go."""

    lr: Rate = None
    """Highest rate of every stage, in place of their own; auto: each is found by a sweep (practice L1)."""
    similarity: Literal["high", "low"] | None = None
    """Three groups of layers in place of group_ratio: each trains 10 times slower than the one above it where your texts are
    like those of pretraining (high), 3 times where they are not (low)."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum."""
    group_ratio: float = 1.0
    """Each layer group trains so many times slower than the one above it (practice L2). ULMFiT's 2.6 is for a language model that
    has read far more than your texts; on one made in minutes it cost 8 points of accuracy."""
    schedule: ScheduleName = "one_cycle"
    """How the rate goes within a stage (practices L3, L4)."""
    momentum: tuple[float, float] = RECURRENT_MOMENTUM
    """Adam's first beta where the rate is low and where it is high, under one_cycle; else the first is kept (practice N1)."""
    weight_decay: float = 0.01
    """Decoupled decay (practice T4); never of biases, norms and embeddings."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    label_smoothing: float = 0.0
    """Share of each target that moves to the uniform distribution."""
    focal: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["balanced"] | None = None
    """balanced: rare labels count more, in inverse proportion to how frequent they are."""
    average_from: float = 1.0
    """Beyond this share of a stage keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """A masked-language-model step on the target's texts before the classifier (practice N6)."""

    steps: int | None = None
    """Train so many steps. Left out: no such step."""
    lr: float = 1e-4
    """Highest rate."""
    unlabelled: str | None = None
    """More texts of the target's kind, without labels."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) instead of all weights; needs the package peft."""

    rank: int | None = None
    """Rank of the adapters of all linear layers. Left out: all weights train."""
    alpha: float = 16.0
    """Their outputs are multiplied by alpha / rank."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """All dropouts of the model, together."""

    scale: float = 1.0
    """Multiplies the model's hidden, attention and head dropouts in their own ratio (practice N2)."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """How many texts go into a step, and how a step is cut up."""

    size: int = 32
    """Texts an optimizer step, on average: steps of short texts hold more of them, steps of long texts fewer."""
    micro_batches: int | None = None
    """Parts that a step is cut into, to save memory; a multiple of the number of processes. Left out: that number."""
    evaluation_tokens: int = 8192
    """Tokens a batch at most (padding included) when evaluating."""


@dataclasses.dataclass(frozen=True)
class MicroBatches:
    """How a step is cut up."""

    micro_batches: int | None = None
    """Parts that a step is cut into, to save memory; a multiple of the number of processes. Left out: that number."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When the run saves itself; it changes no result. Each epoch's end is always saved."""

    every_steps: int | None = None
    """Save every so many steps. Left out: by time alone."""
    every_seconds: float = 300.0
    """Save when the last one is so many seconds ago."""
    keep: int = 2
    """How many to keep, the newest ones; never fewer than two that verify."""


def asdict(config: Any) -> dict[str, Any]:
    """Turn a config into plain data for a file, without secrets; data given in memory becomes a note of what it was."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


FREE_TO_CHANGE = ("out", "resume", "threads", "track", "push_to_hub", "checkpoint", "data.allow_change", "finder.only")
"""What may differ when a run goes on: it changes where and how it runs, not what comes out."""


def differences(saved: Any, config: Any) -> list[str]:
    """Say which settings of two configs differ, for a run that goes on; `FREE_TO_CHANGE` may.

    >>> differences({"seed": 0, "out": "a", "optim": {"lr": 0.1}}, {"seed": 0, "out": "b", "optim": {"lr": 0.2}})
    ['--optim.lr was 0.1 and is 0.2']
    """
    before, now = _flat(saved), _flat(config)
    names = [name for name in {**before, **now} if not name.startswith(FREE_TO_CHANGE)]
    return [f"--{name} was {before.get(name)} and is {now.get(name)}" for name in names if before.get(name) != now.get(name)]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs = ((f"{prefix}{name}", value) for name, value in data.items())
    return {
        k: v
        for name, value in pairs
        for k, v in (_flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}).items()
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, tuple) and not any(isinstance(item, Mapping) for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path):
        return redact(str(value))
    return value if isinstance(value, int | float | bool | None) else f"<{type(value).__name__} given in memory>"


def save(config: Any, path: Path) -> None:
    """Write a config as YAML (or JSON, by the suffix)."""
    data = asdict(config)
    text = json.dumps(data, indent=2) if path.suffix == ".json" else yaml.safe_dump(data, sort_keys=False)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def load(cls: type[C], path: Path) -> C:
    """Read a config of type `cls` from YAML or JSON; what the file leaves out keeps its default.

    Raises `ConfigError` with file, line and key for unknown keys (naming the nearest), keys given twice and wrong types.
    """
    try:
        data = _StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except ConfigError as error:
        raise ConfigError(error.message, file=str(path), row=error.row, hint=error.hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config cannot be read: {error}", file=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        row = None if mark is None else mark.line + 1
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', error)}", file=str(path), row=row) from error
    if not isinstance(data, Mapping):
        raise ConfigError("a config is a mapping of keys to values", file=str(path))
    return _build(cls, data, prefix="", file=str(path))


class _StrictLoader(yaml.SafeLoader):
    """Plain data only; `1e-5` is a number as in YAML 1.2, and a key given twice is an error."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them stand for 10^9 words, which an error message would write out
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read, write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen:
                raise ConfigError(
                    f"the key {key!r} is given twice", file=None, row=line, hint=f"remove it here or in row {seen[key]}"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _build(cls: type[C], data: Mapping[Any, Any], *, prefix: str, file: str) -> C:
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        if key not in hints:
            raise ConfigError(f"unknown key {prefix}{key}", file=file, column=f"{prefix}{key}", hint=nearest(str(key), list(hints)))
        values[key] = _convert(hints[key], value, name=f"{prefix}{key}", file=file)
    return cls(**values)


def _convert(annotation: Any, value: Any, *, name: str, file: str) -> Any:
    """Check `value` against a field's type: int passes for float, a list for a tuple, a mapping for a section."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and isinstance(value, Mapping):
        return _build(annotation, value, prefix=f"{name}.", file=file)
    choices = get_args(annotation)
    if get_origin(annotation) is Literal and value in choices:
        return value
    if get_origin(annotation) in (Union, types.UnionType):
        fitting = [choice for choice in choices if _fits(choice, value)]
        return _convert(fitting[0], value, name=name, file=file) if fitting else _refuse(annotation, value, name=name, file=file)
    if get_origin(annotation) is tuple and isinstance(value, list | tuple):
        items = choices[:1] * len(value) if choices[-1] is Ellipsis else choices
        if len(items) == len(value):
            return tuple(_convert(item, v, name=name, file=file) for item, v in zip(items, value, strict=True))
    if isinstance(annotation, type) and not get_origin(annotation) and _fits(annotation, value):
        return float(value) if annotation is float else value
    return _refuse(annotation, value, name=name, file=file)


def _fits(annotation: Any, value: Any) -> bool:
    if annotation is type(None):
        return value is None
    if isinstance(value, bool):
        return annotation is bool
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    return isinstance(value, (int, float) if annotation is float else get_origin(annotation) or annotation)


def _refuse(annotation: Any, value: Any, *, name: str, file: str | None) -> Any:
    choices = [str(choice) for choice in get_args(annotation)] if get_origin(annotation) is Literal else []
    expected = f"one of {', '.join(choices)}" if choices else _in_words(annotation)
    hint = nearest(str(value), choices) if choices else f"give {expected}"
    raise ConfigError(f"{name} must be {expected}", file=file, column=name, excerpt=value, hint=hint)


def _in_words(annotation: Any) -> str:
    """Name a type as a reader would.

    >>> _in_words(float | Literal["auto"] | None)
    'float, auto or None'
    """
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        *first, last = ["None" if choice is type(None) else _in_words(choice) for choice in get_args(annotation)]
        return f"{', '.join(first)} or {last}"
    return getattr(annotation, "__name__", str(annotation))


def refuse_misspelt(cls: type[Any], arguments: Sequence[str], *, others: Sequence[str] = ()) -> None:
    """Raise `ConfigError` with the nearest right word for a flag of `others` or a choice that is misspelt on the command line.

    Other mistakes (an unknown field, text for a number) are the parser's to tell. `others` are flags that stand beside the
    fields of `cls` and have been taken out of `arguments`; one that is still there lacks its value.
    """
    known = dict(_annotations(cls))
    for argument, following in zip_longest(arguments, arguments[1:]):
        name, is_joined, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            continue
        annotation = known.get(name.replace("-", "_"))
        if annotation is None and name in others:
            raise ConfigError("a value is missing", column=name, hint=f"give --{name} VALUE")
        if annotation is None and (close := difflib.get_close_matches(name, others, n=1, cutoff=0.8)):
            raise ConfigError(f"there is no flag --{name}", hint=f"did you mean --{close[0]}?")
        given = value if is_joined else following
        if get_origin(annotation) is Literal and given is not None and given not in get_args(annotation):
            _refuse(annotation, given, name=name, file=None)


def _annotations(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of each field that holds a value."""
    for name, annotation in get_type_hints(cls).items():
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            yield from _annotations(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation


def nearest(word: str, known: list[str]) -> str:
    """Name the known word that `word` was probably meant to be, or list them all.

    >>> nearest("trian", ["train", "test"])
    'did you mean train?'
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


RANGES: dict[str, tuple[float, float, str]] = {
    "epochs": (1, math.inf, "1 or more"),
    "patience": (1, math.inf, "1 or more"),
    "eval_steps": (1, math.inf, "1 or more"),
    "threads": (1, math.inf, "1 or more"),
    "seed": (0, 2**32 - 1, "between 0 and 4294967295"),
    "data.sample": (1e-9, 1.0, "above 0 and at most 1"),
    "data.validation_share": (1e-9, 0.9, "above 0 and at most 0.9"),
    "data.test_share": (0.0, 0.9, "between 0 and 0.9"),
    "data.max_length": (4, math.inf, "4 or more"),
    "optim.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "optim.head_lr": (1e-12, 10.0, "above 0 and at most 10"),
    "optim.layer_decay": (1e-3, 1.0, "above 0 and at most 1"),
    "optim.betas": (0.0, 0.999999, "between 0 and 1"),
    "optim.eps": (1e-16, 1.0, "above 0 and at most 1"),
    "optim.weight_decay": (0.0, 1.0, "between 0 and 1"),
    "optim.warmup": (0.0, 0.99, "at least 0 and below 1"),
    "optim.max_grad_norm": (1e-12, math.inf, "above 0"),
    "optim.label_smoothing": (0.0, 0.99, "at least 0 and below 1"),
    "optim.average_from": (0.0, 1.0, "between 0 and 1"),
    "optim.ema": (0.0, 0.999999, "at least 0 and below 1"),
    "optim.focal": (0.0, 10.0, "between 0 and 10"),
    "lm.ema": (0.0, 0.999999, "at least 0 and below 1"),
    "cycles.cycles": (1, 1000, "between 1 and 1000"),
    "cycles.cycle_len": (1, math.inf, "1 or more"),
    "cycles.cycle_mult": (1, 10, "between 1 and 10"),
    "cycles.cycle_decay": (1e-6, 1.0, "above 0 and at most 1"),
    "finder.start": (1e-12, 10.0, "above 0 and at most 10"),
    "finder.end": (1e-12, 100.0, "above 0 and at most 100"),
    "finder.num_steps": (20, math.inf, "20 or more"),
    "finder.orders": (1, 100, "between 1 and 100"),
    "finder.only": (1, math.inf, "1 or more"),
    "data.value_range": (-1e12, 1e12, "between -1e12 and 1e12"),
    "stages.max_length": (4, math.inf, "4 or more"),
    "stages.batch_size": (1, math.inf, "1 or more"),
    "optim.group_ratio": (1.0, 1000.0, "between 1 and 1000"),
    "optim.momentum": (0.0, 0.999999, "between 0 and 1"),
    "stages.epochs": (1, math.inf, "1 or more"),
    "stages.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "stages.train_last": (1, math.inf, "1 or more"),
    "mlm.steps": (1, math.inf, "1 or more"),
    "mlm.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "lora.rank": (1, math.inf, "1 or more"),
    "lora.alpha": (1e-6, math.inf, "above 0"),
    "steps": (1, math.inf, "1 or more"),
    "window": (2, math.inf, "2 or more"),
    "tokenizer.vocab_size": (300, math.inf, "300 or more"),
    "lm.steps": (0, math.inf, "0 or more"),
    "lm.epochs": (1, math.inf, "1 or more"),
    "lm.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "lm.layer_decay": (1e-3, 1.0, "above 0 and at most 1"),
    "lm.rows": (1, math.inf, "1 or more"),
    "lm.window": (2, math.inf, "2 or more"),
    "lm.dropout": (0.0, 1.99, "between 0 and 2"),
    "lm.momentum": (0.0, 0.999999, "between 0 and 1"),
    "lm.weight_decay": (0.0, 1.0, "between 0 and 1"),
    "lm.max_grad_norm": (1e-12, math.inf, "above 0"),
    "lm.sampled": (1, math.inf, "1 or more"),
    "lm.activation": (0.0, 1000.0, "between 0 and 1000"),
    "lm.average_from": (0.0, 1.0, "between 0 and 1"),
    "lm.temporal": (0.0, 1000.0, "between 0 and 1000"),
    "dropout.scale": (0.0, 9.99, "between 0 and 10"),
    "batch.size": (1, math.inf, "1 or more"),
    "batch.micro_batches": (1, math.inf, "1 or more"),
    "checkpoint.every_steps": (1, math.inf, "1 or more"),
    "checkpoint.every_seconds": (0.0, math.inf, "0 or more"),
    "checkpoint.keep": (2, math.inf, "2 or more"),
    "batch.evaluation_tokens": (16, math.inf, "16 or more"),
}
"""The smallest and largest value of each number in a config, and how to say it; None (left out) is always allowed."""


def check_ranges(config: Any) -> None:
    """Raise `ConfigError` for the first number outside its range, before any work is done."""
    for name, value in _numbers(config, prefix=""):
        low, high, wanted = RANGES.get(name, (-math.inf, math.inf, ""))
        if not low <= value <= high:
            raise ConfigError(f"{value} is out of range", column=name, hint=f"give a number {wanted}")
    data = getattr(config, "data", None)
    if isinstance(data, Data | Texts) and data.validation_share + data.test_share >= 1.0:
        raise ConfigError(
            f"{data.validation_share} and --data.test_share {data.test_share} leave nothing to train on",
            column="data.validation_share",
            hint="let them sum to less than 1",
        )


def _numbers(config: Any, *, prefix: str) -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, prefix=f"{name}.")
        elif isinstance(value, tuple):
            yield from (pair for item in value if dataclasses.is_dataclass(item) for pair in _numbers(item, prefix=f"{name}."))
            yield from ((name, item) for item in value if isinstance(item, int | float))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
