"""What commands share: how one is run, and how it takes a recipe: `COMMAND [RECIPE] [--tiny] [--config FILE] [--data.train ...]`.

Nothing heavy is imported before the recipe is chosen, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

DEFAULT_RECIPE = "transformer_sentiment"

Command = Callable[[Sequence[str], str], None]
"""A command's body: it takes the arguments, and the program as it was called, for the usage lines."""


def run_command(command: Command, program: str) -> None:
    """Run a command with the process's arguments; a user's mistake ends in one message and its exit code, without a traceback."""
    quiet()
    try:
        command(sys.argv[1:], program)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, int) or not isinstance(error, ValueError):
            raise
        if os.environ.get("RANK", "0") == "0":
            from nlpbp.config.secrets import redact
            from nlpbp.data.exports import printable

            print(f"error: {printable(redact(str(error)))}", file=sys.stderr)
        if os.environ.get("NLPBP_TRACEBACK"):
            traceback.print_exc()
        sys.exit(code)


def quiet() -> None:
    """Turn off the chatter of libraries, before they are imported; their errors still show."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def leave_out_broken_torchvision() -> None:
    """Hide a torchvision that cannot be imported: transformers would fail on it, and texts do not need it."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        sys.modules["torchvision"] = None  # type: ignore[assignment]
        print(f"torchvision is installed but cannot be imported ({error}): going on without it", file=sys.stderr)


def choose_recipe(arguments: Sequence[str], *, usage: str) -> tuple[ModuleType, list[str]]:
    """Import the recipe that `arguments` name first (or the default one); return it with the arguments that are left.

    `--help` in its place prints `usage` and the recipes, and ends the process.
    """
    recipes = known_recipes()
    rest = list(arguments)
    if rest[:1] in (["-h"], ["--help"]):
        print(f"usage: {usage}")
        print("\nrecipes:")
        for name, (_, line) in recipes.items():
            print(f"  {name:<24}{line}")
        print("\n`RECIPE --help` explains every flag of a recipe. The default recipe is the first one.")
        sys.exit(0)
    name = DEFAULT_RECIPE if not rest or rest[0].startswith("-") else rest.pop(0).replace("-", "_")
    if name not in recipes:
        from nlpbp.config.files import nearest
        from nlpbp.core.errors import ConfigError

        raise ConfigError(f"there is no recipe {name!r}", hint=nearest(name, list(recipes)))
    leave_out_broken_torchvision()
    return importlib.import_module(recipes[name][0]), rest


def known_recipes() -> dict[str, tuple[str, str]]:
    """Return nlpbp's recipes; another package's `recipes` in their place is an error that says so."""
    import recipes

    if not hasattr(recipes, "RECIPES"):
        from nlpbp.core.errors import ConfigError

        places = ", ".join(map(str, recipes.__path__))
        raise ConfigError(
            f"the package `recipes` that Python finds is not nlpbp's but stands in {places}",
            hint="install nlpbp into an environment of its own (torchtune installs a `recipes` too)",
        )
    return recipes.RECIPES


def parse_config(recipe: ModuleType, arguments: Sequence[str], *, program: str) -> Any:
    """Make the recipe's Config from its flags, over `--tiny`, over `--config FILE`, over its defaults."""
    import tyro

    from nlpbp.config.files import load, refuse_misspelt
    from nlpbp.config.renamed import rename_flags
    from nlpbp.core.errors import ConfigError

    rest = rename_flags(recipe.Config, arguments)
    file = take_value(rest, "--config")
    is_tiny = "--tiny" in rest
    if is_tiny:
        rest.remove("--tiny")
    refuse_misspelt(recipe.Config, rest, others=("config", "tiny"))
    if is_tiny and file:
        raise ConfigError("--tiny and --config both say what to start from", hint="leave one of them out")
    file = file or _config_of_run(rest)
    base = recipe.tiny() if is_tiny else load(recipe.Config, Path(file)) if file else recipe.Config()
    name = recipe.__name__.rpartition(".")[2]
    description = (
        f"{recipe.Config.__doc__}\n\nAlso: --tiny starts from settings that run in seconds, --config FILE from a saved config "
        "(RUN/config.yaml); flags override it."
    )
    return tyro.cli(recipe.Config, args=rest, default=base, prog=f"{program} {name}", description=description, use_underscores=True)


def _config_of_run(arguments: Sequence[str]) -> str | None:
    """Return the config of the run that `--resume FOLDER` names: without other flags it goes on as it began."""
    folder = take_value(list(arguments), "--resume")
    return (
        str(Path(folder) / "config.yaml")
        if folder not in (None, "auto", "never") and Path(folder, "config.yaml").is_file()
        else None
    )


def take_value(arguments: list[str], flag: str) -> str | None:
    """Remove `flag VALUE` or `flag=VALUE` from the arguments and return VALUE."""
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            value = arguments[index + 1]
            del arguments[index : index + 2]
            return value
        if argument.startswith(f"{flag}="):
            del arguments[index]
            return argument.partition("=")[2]
    return None
