"""A config's YAML or JSON form: written, read back strictly, compared; and misspelt flags with the nearest right word."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from nlpbp.config.renamed import rename_keys, rename_settings
from nlpbp.config.secrets import redact
from nlpbp.core.errors import ConfigError

C = TypeVar("C")


def asdict(config: Any) -> dict[str, Any]:
    """Turn a config into plain data for a file, without secrets; data given in memory becomes a note of what it was."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


FREE_TO_CHANGE = ("out", "resume", "threads", "track", "push_to_hub", "checkpoint", "data.allow_change", "finder.stop_after_stage")
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
    """Read a config of type `cls` from YAML or JSON; what the file leaves out keeps its default, and old names are taken.

    Raises `ConfigError` with file, line and key for unknown keys (naming the nearest), keys given twice and wrong types.
    """
    try:
        data = _StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except ConfigError as error:
        raise ConfigError(error.message, file=str(path), row=error.row, hint=error.hint) from error
    except OSError as error:
        inside = path / "config.yaml"
        hint = f"did you mean {inside}?" if inside.is_file() else "give a file in YAML or JSON"
        raise ConfigError(f"the config cannot be read: {error.strerror}", file=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config cannot be read: {error}", file=str(path), hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        row = None if mark is None else mark.line + 1
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', error)}", file=str(path), row=row) from error
    if not isinstance(data, Mapping):
        message = "the file is empty" if data is None else "a config is a mapping of keys to values"
        raise ConfigError(message, file=str(path), hint="write settings such as `epochs: 3`, each in its line")
    return _build(cls, rename_keys(cls, data, file=str(path)), prefix="", file=str(path))


def replaced(config: C, settings: Mapping[str, Any]) -> C:
    """Return a config with other values under dotted names; types are checked as those of a file, and old names are taken.

    Raises `ConfigError` for a name that the config does not have (with the nearest), and for a value of another type.

    >>> from nlpbp.config.data import Data
    >>> replaced(Data(), {"max_length": 64}).max_length
    64
    """
    for name, value in rename_settings(type(config), settings).items():
        config = _replaced(config, name, value, whole=name)
    return config


def _replaced(config: C, name: str, value: Any, *, whole: str) -> C:
    head, _, rest = name.partition(".")
    hints = get_type_hints(type(config))
    section = getattr(config, head, None)
    if head not in hints or (rest and not dataclasses.is_dataclass(section)):
        known = [name for name, _ in _annotations(type(config))]
        prefix = whole.removesuffix(name)
        raise ConfigError(f"there is no setting {whole}", column=whole, hint=nearest(whole, [prefix + name for name in known]))
    new = _replaced(section, rest, value, whole=whole) if rest else _convert(hints[head], value, name=whole, file=None)
    return dataclasses.replace(config, **{head: new})  # type: ignore[type-var]  # every config is a dataclass


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


def _build(cls: type[C], data: Mapping[Any, Any], *, prefix: str, file: str | None) -> C:
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        if key not in hints:
            raise ConfigError(f"unknown key {prefix}{key}", file=file, column=f"{prefix}{key}", hint=nearest(str(key), list(hints)))
        values[key] = _convert(hints[key], value, name=f"{prefix}{key}", file=file)
    return cls(**values)


def _convert(annotation: Any, value: Any, *, name: str, file: str | None) -> Any:
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
    if annotation is str and isinstance(value, int | float):
        expected, hint = "str, not a number", f"put it in quotes: '{value}'"
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


CALLED_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "lr": "optim.lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "output_dir": "out",
    "per_device_train_batch_size": "batch.size",
    "batch_size": "batch.size",
    "max_length": "data.max_length",
    "max_seq_length": "data.max_length",
    "model_name_or_path": "model.name",
    "train_file": "data.train",
    "validation_file": "data.validation",
    "test_file": "data.test",
    "report_to": "track",
    "log_with": "track",
    "lr_scheduler_type": "optim.schedule",
    "early_stopping_patience": "patience",
    "gradient_accumulation_steps": "batch.micro_batches",
    "weight_decay": "optim.weight_decay",
    "warmup_ratio": "optim.warmup_ratio",
    "label_smoothing_factor": "optim.label_smoothing",
    "max_grad_norm": "optim.max_grad_norm",
}
"""What flags are called in transformers and elsewhere, and what they are called here."""


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
        elsewhere = CALLED_ELSEWHERE.get(name.replace("-", "_").removeprefix("optim."))
        if annotation is None and elsewhere in known:
            raise ConfigError(f"there is no flag --{name}", hint=f"did you mean --{elsewhere}?")
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
