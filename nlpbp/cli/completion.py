"""What the shells are told so that they complete commands, recipes and flags: a script made once, which starts no Python.

nlpbp --print-completion bash > ~/.local/share/bash-completion/completions/nlpbp
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nlpbp.cli import audit, benchmark, check, predict, report
from nlpbp.cli.commands import COMMANDS, FLAGS
from nlpbp.cli.parsing import DEFAULT_RECIPE, known_recipes, leave_out_broken_torchvision, quiet

Flags = dict[str, tuple[str, ...]]
"""Each flag with the values that it chooses from; none where it takes no value, or any."""

Words = dict[str, dict[str, Flags]]
"""For each command the names that may follow it, with the flags behind each; under "" those behind no name, or any other."""

OF_RECIPES: dict[str, Flags] = {"finetune": {}, "lr-find": {"--stage": ()}}
"""The commands that take a recipe and its flags, with those of their own."""
OF_ALL_RECIPES: Flags = {"--tiny": (), "--config": (), "--help": ()}
PARSERS = {module.__name__.rpartition(".")[2]: module.make_parser for module in (audit, benchmark, check, predict, report)}


BASH = r"""# Completes nlpbp; made by: nlpbp --print-completion bash
{table}
_nlpbp() {{
    local values= flags= word=${{COMP_WORDS[COMP_CWORD]}}
    _nlpbp_table "$COMP_CWORD" "${{COMP_WORDS[1]}}" "${{COMP_WORDS[2]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
    if [[ $word == -* ]]; then values=$flags; fi
    COMPREPLY=($(compgen -W "$values" -- "$word"))
}}
complete -o default -F _nlpbp nlpbp
"""

ZSH = r"""#compdef nlpbp
# Completes nlpbp; made by: nlpbp --print-completion zsh
{table}
_nlpbp() {{
    local values= flags= word=${{words[CURRENT]}}
    _nlpbp_table $((CURRENT - 1)) "${{words[2]}}" "${{words[3]}}" "${{words[CURRENT-1]}}"
    if [[ $word == -* ]]; then values=$flags; fi
    if [[ -n $values ]]; then compadd -- ${{=values}}; else _files; fi
}}
if [[ $funcstack[1] == _nlpbp ]]; then _nlpbp "$@"; else compdef _nlpbp nlpbp; fi
"""

FISH = r"""# Completes nlpbp; made by: nlpbp --print-completion fish
{table}
function __nlpbp
    set -l words (commandline -opc) ""
    set -g __nlpbp_values
    set -g __nlpbp_flags
    __nlpbp_table (math (count $words) - 2) "$words[2]" "$words[3]" "$words[-2]"
    if string match -q -- '-*' (commandline -ct)
        set __nlpbp_values $__nlpbp_flags
    end
    if test -n "$__nlpbp_values"
        string split ' ' -- $__nlpbp_values
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c nlpbp -f -a '(__nlpbp)'
"""


def completion(shell: str) -> str:
    """Write the script for a shell of `COMPLETIONS`. Every recipe is imported for its flags, which takes seconds."""
    words = known_words()
    if shell == "fish":
        return FISH.format(table=_fish_table(words))
    return (BASH if shell == "bash" else ZSH).format(table=_table(words))


def _table(words: Words) -> str:
    """Write the function, in words that bash and zsh share, which sets `values` and `flags` by place, command, name, last word."""
    lines = ["_nlpbp_table() {", "    local command=${2//_/-} name=${3//-/_}"]
    lines += [f"    if [ $1 -eq 1 ]; then values='{' '.join(COMMANDS)}' flags='{' '.join(FLAGS)}'; return; fi"]
    lines += ['    if [ $1 -eq 2 ]; then name=; case "$command" in']
    lines += [f"        {command}) values='{' '.join(names)}' ;;" for command, names in _names(words).items()]
    lines += ["    esac; fi", '    case "$command $name" in']
    for pattern, flags in _places(words):
        lines += [f"        {pattern}) flags='{' '.join(flags)}'", '            case "$4" in']
        lines += [f"                {flag}) values='{' '.join(values)}' ;;" for flag, values in flags.items() if values]
        lines += ["            esac ;;"]
    return "\n".join([*lines, "    esac", "}"])


def _fish_table(words: Words) -> str:
    """Write the same function for fish."""
    set_values, set_flags = "set -g __nlpbp_values", "set -g __nlpbp_flags"
    lines = ["function __nlpbp_table", "    set -l command (string replace -a _ - -- $argv[2])"]
    lines += ["    set -l name (string replace -a -- - _ $argv[3])", "    if test $argv[1] -eq 0"]
    lines += [f"        {set_values} {' '.join(COMMANDS)}", f"        {set_flags} {' '.join(FLAGS)}", "        return", "    end"]
    lines += ["    if test $argv[1] -eq 1", "        set name ''", "        switch $command"]
    lines += [f"            case {command}\n                {set_values} {' '.join(n)}" for command, n in _names(words).items()]
    lines += ["        end", "    end", '    switch "$command $name"']
    for pattern, flags in _places(words):
        quoted = pattern.replace('"', "'").replace("'*", "*'")
        lines += [f"        case {quoted}", f"            {set_flags} {' '.join(flags)}", "            switch $argv[4]"]
        lines += [f"                case {flag}\n                    {set_values} {' '.join(v)}" for flag, v in flags.items() if v]
        lines += ["            end"]
    return "\n".join([*lines, "    end", "end"])


def _names(words: Words) -> dict[str, list[str]]:
    """Return what may stand directly behind each command that takes a name."""
    return {command: [name for name in places if name] for command, places in words.items() if len(places) > 1}


def _places(words: Words) -> Iterator[tuple[str, Flags]]:
    """Yield each `"command name"` as a shell's pattern with the flags there; the patterns of any name come behind those of one."""
    for command, places in words.items():
        yield from ((f'"{command} {name}"', flags) for name, flags in places.items() if name)
        yield f'"{command} "*', places[""]


def known_words() -> Words:
    """Ask recipes and parsers for their names and flags."""
    quiet()
    leave_out_broken_torchvision()
    recipes = {name: recipe_flags(importlib.import_module(module)) for name, (module, _) in known_recipes().items()}
    recipes = {"": recipes[DEFAULT_RECIPE], **recipes}
    found = {name: {recipe: {**own, **flags} for recipe, flags in recipes.items()} for name, own in OF_RECIPES.items()}
    return found | {name: parser_flags(make(f"nlpbp {name}")) for name, make in PARSERS.items()}


def recipe_flags(recipe: Any) -> Flags:
    """Return the flags of a recipe, as tyro makes them of its Config."""
    return {**OF_ALL_RECIPES, **dict(_fields(recipe.Config(), ""))}


def _fields(config: Any, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, annotation = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
            for number, one in enumerate(value):
                yield from _fields(one, f"{prefix}{field.name}.{number}.")
        else:
            yield f"--{prefix}{field.name}", tuple(_choices(annotation))
            if annotation is bool:
                yield f"--{prefix}no_{field.name}", ()


def _choices(annotation: Any) -> list[str]:
    """Return the words that a type chooses from.

    >>> _choices(Literal["here", "there"] | None), _choices(float | None)
    (['here', 'there', 'None'], [])
    """
    if get_origin(annotation) in (Union, UnionType):
        words = [word for one in get_args(annotation) for word in _choices(one)]
        return [*words, "None"] if words and type(None) in get_args(annotation) else words
    return list(map(str, get_args(annotation))) if get_origin(annotation) is Literal else []


def parser_flags(parser: argparse.ArgumentParser) -> dict[str, Flags]:
    """Return a parser's flags under "", and those of its sub-commands under their names."""
    found: dict[str, Flags] = {"": {}}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: parser_flags(one)[""] for name, one in action.choices.items()}
        else:
            found[""] |= {flag: tuple(map(str, action.choices or ())) for flag in action.option_strings if flag.startswith("--")}
    return found
