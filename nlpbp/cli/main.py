"""The program `nlpbp`: it takes the first word for a command, and imports that command alone.

nlpbp finetune --data.train reviews.csv
nlpbp --help
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from nlpbp.cli.commands import COMMANDS, COMPLETIONS, FLAGS

WITH_VERSIONS = ("torch", "transformers", "accelerate", "datasets", "tokenizers")


def main(program: str = "nlpbp") -> None:
    """Run the command that the process's arguments name."""
    word, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if word in ("-h", "--help"):
        print(help_text(program))
    elif word == "--version":
        print("\n".join(versions()))
    elif word == "--print-completion" and len(rest) == 1 and rest[0] in COMPLETIONS:
        from nlpbp.cli.completion import completion

        print(completion(rest[0]), end="")
    elif (command := word.replace("_", "-")) in COMMANDS:
        from nlpbp.cli.parsing import run_command

        module, function, _ = COMMANDS[command]
        sys.argv[1:] = rest
        run_command(getattr(importlib.import_module(module), function), f"{program} {command}")
    else:
        print(mistake(word, rest, program), file=sys.stderr)
        sys.exit(2)


def help_text(program: str) -> str:
    """List the commands, and say how completion is installed."""
    commands = "\n".join(f"  {name:<12}{line}" for name, (_, _, line) in COMMANDS.items())
    installing = "\n".join(f"  {program} --print-completion {shell:<5}> {place}" for shell, place in COMPLETIONS.items())
    return f"""usage: {program} COMMAND [arguments of the command]
       {program} --version
       {program} --print-completion {{{",".join(COMPLETIONS)}}}

commands:
{commands}

`{program} COMMAND --help` explains a command, `{program} finetune RECIPE --help` the flags of a recipe.

Install shell completion of commands, recipes and flags (again after an update):
{installing}
(the folder must be there; or put the output of the first into a file that ~/.bashrc sources)"""


def versions() -> list[str]:
    """Name what runs: nlpbp, Python and the libraries under it. None of them is imported."""
    import importlib.metadata
    import platform

    import nlpbp

    found = [f"nlpbp {nlpbp.__version__}", f"Python {platform.python_version()}"]
    for name in WITH_VERSIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} is not installed")
    return found


def mistake(word: str, rest: Sequence[str], program: str) -> str:
    """Say what is wrong with the words after the program's name.

    >>> print(mistake("finetun", [], "nlpbp"))
    error: there is no command 'finetun'. Fix: did you mean finetune?
    """
    if not word:
        return help_text(program)
    if word == "--print-completion":
        given = " ".join(rest) or "nothing"
        return f"error: --print-completion takes the name of a shell and got {given!a}. Fix: give one of {', '.join(COMPLETIONS)}"
    close = difflib.get_close_matches(word, COMMANDS, n=1) or difflib.get_close_matches(word, FLAGS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(COMMANDS)}"
    return f"error: there is no {'flag' if word.startswith('-') else 'command'} {word!a}. Fix: {hint}"
