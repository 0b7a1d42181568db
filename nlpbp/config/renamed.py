"""Settings that have another name now: old flags and old config files go on working for a while, with a warning.

A name is dotted, as in a flag: `lm.batch_size`. The fields of a list's items go by the list: `stages.max_length` stands for
`--stages.0.max_length` and for that key in each item of a file's `stages`. A section's name stands for all that is in it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from nlpbp.core.errors import ConfigError, escape

RENAMED: dict[str, str] = {
    "checkpoint.every_seconds": "checkpoint.save_seconds",
    "checkpoint.every_steps": "checkpoint.save_steps",
    "checkpoint.keep": "checkpoint.save_total_limit",
    "cycles.cycles": "cycles.num_cycles",
    "data.balance": "data.balanced_sampling",
    "data.cut": "data.truncation",
    "data.sample": "data.train_fraction",
    "finder.only": "finder.stop_after_stage",
    "finder.orders": "finder.num_sweeps",
    "lm.activation": "lm.ar_alpha",
    "lm.average_from": "lm.swa_start",
    "lm.ema": "lm.ema_decay",
    "lm.random_windows": "lm.random_bptt",
    "lm.rows": "lm.batch_size",
    "lm.sampled": "lm.sampled_softmax",
    "lm.temporal": "lm.tar_beta",
    "lm.window": "lm.bptt",
    "optim.average_from": "optim.swa_start",
    "optim.ema": "optim.ema_decay",
    "optim.focal": "optim.focal_gamma",
    "optim.warmup": "optim.warmup_ratio",
    "window": "block_size",
}
"""Old name: new name. An entry goes with the version that `UNTIL` names."""
UNTIL = "nlpbp 0.3"


def rename_flags(cls: type[Any], arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with the old flags of a config of type `cls` under their new names; warn of each once.

    Raises `ConfigError` where a setting is given under both names.
    """
    names = renamed_in(cls)
    given = [_parts(argument) for argument in arguments]
    found: dict[str, str] = {}
    renamed = []
    for argument, (name, no, rest) in zip(arguments, given, strict=True):
        new = _indexed(name, names)
        if new is None:
            renamed.append(argument)
            continue
        if new in (other for other, _, _ in given):
            raise ConfigError(f"--{name} is the old name of --{new}, and both are given", column=new, hint=f"leave --{name} out")
        found[name] = new
        section, _, last = new.rpartition(".")
        renamed.append(f"--{section}{'.' if section else ''}{no}{last}{rest}")
    for name, new in found.items():
        _warn(f"--{name} is now --{new}")
    return renamed


def rename_keys(cls: type[Any] | None, data: Mapping[Any, Any], *, file: str) -> dict[Any, Any]:
    """Return what a config file holds with the old keys of a config of type `cls` under their new names; one warning names them.

    Without `cls` it is not known whose config it is: every old name counts, and there is no warning.
    Raises `ConfigError` where a setting is given under both names.
    """
    made, renamed = _copied(data), []
    for old, new in renamed_in(cls).items():
        before, after = old.split("."), new.split(".")
        shared = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
        is_found = False
        for mapping in _mappings(made, before[:shared]):
            if (value := _taken(mapping, before[shared:])) is not _NOTHING:
                is_found = True
                if not _put(mapping, after[shared:], value):
                    message = f"{old} is the old name of {new}, and both are given"
                    raise ConfigError(message, file=file, column=new, hint=f"leave {old} out")
        if is_found:
            renamed.append(f"{old} is now {new}")
    if renamed and cls is not None:
        _warn(f"{escape(file, limit=None)}: {', '.join(renamed)}")
    return made


def rename_settings(cls: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their dotted names with the old names of a config of type `cls` replaced; warn of each.

    Raises `ConfigError` where a setting is given under both names.
    """
    names = renamed_in(cls)
    for name in settings:
        if (new := names.get(name)) is None:
            continue
        if new in settings:
            raise ConfigError(f"{name} is the old name of {new}, and both are given", column=new, hint=f"leave {name} out")
        _warn(f"{name} is now {new}")
    return {names.get(name, name): value for name, value in settings.items()}


def renamed_in(cls: type[Any] | None) -> dict[str, str]:
    """Return the entries of `RENAMED` that say something of `cls`, fields before sections: it has the new name, not the old one."""
    names = sorted(RENAMED, key=lambda name: -name.count("."))
    found = {old: RENAMED[old] for old in names}
    if cls is None:
        return found
    return {old: new for old, new in found.items() if _has(cls, new.split(".")) and not _has(cls, old.split("."))}


def _has(cls: type[Any], names: Sequence[str]) -> bool:
    """Whether a config's class has a field of this dotted name; the items of a tuple count by their class."""
    hints = get_type_hints(cls)
    if names[0] not in hints:
        return False
    return len(names) == 1 or any(_has(section, names[1:]) for section in _sections(hints[names[0]]))


def _sections(annotation: Any) -> Iterator[type[Any]]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    for one in get_args(annotation):
        yield from _sections(one)


def _parts(argument: str) -> tuple[str, str, str]:
    """Take a flag apart: its name in underscores, `no_` where it is turned off, and `=VALUE`.

    >>> _parts("--lm.no-random-windows"), _parts("--lm.max-rows=3"), _parts("reviews.csv")
    (('lm.random_windows', 'no_', ''), ('lm.max_rows', '', '=3'), ('', '', ''))
    """
    if not argument.startswith("--"):
        return "", "", ""
    name, is_joined, value = argument[2:].partition("=")
    section, dot, last = name.replace("-", "_").rpartition(".")
    no = "no_" if last.startswith("no_") else ""
    return f"{section}{dot}{last.removeprefix('no_')}", no, f"{is_joined}{value}"


def _indexed(name: str, names: Mapping[str, str]) -> str | None:
    """Return a flag's new name, with the numbers of list items where they were; None for one that keeps its name.

    >>> _indexed("stages.0.size", {"stages.size": "stages.max_length"}), _indexed("lr", {})
    ('stages.0.max_length', None)
    """
    words = name.split(".")
    plain = [word for word in words if not word.isdecimal()]
    known = [number for number in range(len(plain), 0, -1) if ".".join(plain[:number]) in names]
    if not known:
        return None
    found = [*names[".".join(plain[: known[0]])].split("."), *plain[known[0] :]]
    for place, word in enumerate(words):
        if word.isdecimal():
            found.insert(place, word)
    return ".".join(found)


_NOTHING = object()


def _copied(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copied(value) for key, value in data.items()}
    return [_copied(value) for value in data] if isinstance(data, list) else data


def _mappings(data: Any, names: Sequence[str]) -> list[dict[Any, Any]]:
    """Return the mappings under these keys; a list stands for all of its items."""
    if isinstance(data, list):
        return [found for item in data for found in _mappings(item, names)]
    if not isinstance(data, dict):
        return []
    return _mappings(data.get(names[0]), names[1:]) if names else [data]


def _taken(data: dict[Any, Any], names: Sequence[str]) -> Any:
    """Remove and return what stands under these keys, and the sections that are empty then."""
    if len(names) == 1:
        return data.pop(names[0], _NOTHING)
    inner = data.get(names[0])
    if not isinstance(inner, dict):
        return _NOTHING
    value = _taken(inner, names[1:])
    if value is not _NOTHING and not inner:
        del data[names[0]]
    return value


def _put(data: dict[Any, Any], names: Sequence[str], value: Any) -> bool:
    """Set what stands under these keys; return False where something does already. Two sections become one."""
    for name in names[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            return False
    there = data.setdefault(names[-1], value)
    if isinstance(there, dict) and isinstance(value, dict) and there is not value:
        return all(_put(there, [name], one) for name, one in value.items())
    return there is value


@functools.cache  # a run that goes on reads its config twice
def _warn(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes there are
        sys.stderr.write(f"warning: {text}; old names work until {UNTIL}\n")
