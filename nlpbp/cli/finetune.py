"""Fine-tune a model with a recipe.

accelerate launch -m nlpbp finetune
accelerate launch -m nlpbp finetune transformer_sentiment --data.train reviews.csv --epochs 2
"""

from __future__ import annotations

from collections.abc import Sequence

from nlpbp.cli.parsing import choose_recipe, parse_config

USAGE = "[RECIPE] [--out DIR] [--tiny] [--config FILE] [flags of the recipe]"


def finetune(arguments: Sequence[str], program: str = "nlpbp finetune") -> None:
    """Choose, parse, run."""
    recipe, rest = choose_recipe(arguments, usage=f"{program} {USAGE}")
    recipe.run(parse_config(recipe, rest, program=program))
