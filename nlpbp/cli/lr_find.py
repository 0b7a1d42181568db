"""Find a learning rate for a recipe and a data set: sweep, draw, suggest, and train nothing.

nlpbp lr-find --data.train reviews.csv --out runs/rate
nlpbp lr-find ulmfit --stage 2 --finder.num_sweeps 5          # of a later stage: the ones before it are trained
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from nlpbp.cli.parsing import choose_recipe, parse_config, take_value

USAGE = "[RECIPE] [--stage N] [--out DIR] [--tiny] [--config FILE] [flags of the recipe]"


def lr_find(arguments: Sequence[str], program: str = "nlpbp lr-find") -> None:
    """Run a recipe as far as the sweep."""
    recipe, rest = choose_recipe(arguments, usage=f"{program} {USAGE}")
    from nlpbp.core.errors import ConfigError
    from nlpbp.runs.lr_finder import RateFound

    wanted = take_value(rest, "--stage") or "1"
    if not wanted.isdecimal() or wanted == "0":
        raise ConfigError("a stage is a number, counted from 1", column="stage", excerpt=wanted, hint="leave it out for the first")
    config = with_sweep(parse_config(recipe, rest, program=program), stage=int(wanted))
    try:
        result = recipe.run(config)
    except RateFound as found:
        print("\n".join(str(file) for file in found.files))
        if not found.record["suggestions"]:
            hint = "try another --finder.start and --finder.end, more --finder.num_steps, or larger batches"
            raise ConfigError(f"there is no suggestion: {found.record['refused']}", column="finder", hint=hint) from found
        return
    raise ConfigError(
        f"there is no stage {wanted}: {result.out} has been trained to its end", column="stage", hint="name one before"
    )


def with_sweep(config: Any, *, stage: int) -> Any:
    """Let every rate of a config be found, and stop after the sweep of one stage."""
    auto = {name: dataclasses.replace(getattr(config, name), lr="auto") for name in ("optim", "lm") if hasattr(config, name)}
    if hasattr(config, "stages"):
        auto["stages"] = tuple(dataclasses.replace(one, lr="auto") for one in config.stages)
    return dataclasses.replace(config, finder=dataclasses.replace(config.finder, stop_after_stage=stage), **auto)
