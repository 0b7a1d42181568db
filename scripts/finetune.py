"""Fine-tune a model with a recipe.

accelerate launch scripts/finetune.py
accelerate launch scripts/finetune.py transformer_sentiment --data.train reviews.csv --epochs 2
"""

from __future__ import annotations

from collections.abc import Sequence

from command_line import choose_recipe, main, parse_config

USAGE = "usage: finetune.py [RECIPE] [--out DIR] [--tiny] [--config FILE] [flags of the recipe]"


def finetune(arguments: Sequence[str]) -> None:
    """Choose, parse, run."""
    recipe, rest = choose_recipe(arguments, usage=USAGE)
    recipe.run(parse_config(recipe, rest, program="finetune.py"))


if __name__ == "__main__":
    main(finetune)
