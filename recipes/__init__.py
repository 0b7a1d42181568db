"""Recipes: each is a module with a `Config`, `run(config)` and `tiny()`, and composes the practices of `nlpbp`.

from recipes import transformer_sentiment
transformer_sentiment.run(transformer_sentiment.Config(epochs=2))
"""

from __future__ import annotations

import importlib
from typing import Any

RECIPES = {
    "transformer_sentiment": (
        "recipes.transformer_sentiment",
        "fine-tune a pretrained transformer on labelled texts (the default)",
    ),
    "fewshot": ("recipes.fewshot", "few labelled texts: pairs of them teach a sentence encoder, then a linear head is fitted"),
    "ulmfit": ("recipes.ulmfit", "a language model on your texts, then a recurrent classifier unfrozen step by step"),
    "gru_classifier": ("recipes.gru_classifier", "a small recurrent classifier from scratch"),
    "image_classifier": ("recipes.image_classifier", "a small residual net on your images, from scratch"),
    "image_transfer": ("recipes.image_transfer", "fine-tune a pretrained image classifier: its head first, then all of it"),
    "transformers_trainer": ("recipes.transformers_trainer", "the same practices inside transformers.Trainer, as a demonstration"),
    "lm_transformer": ("recipes.lm_transformer", "continue pretraining a causal language model on your texts"),
    "lm_awd_lstm": ("recipes.lm_awd_lstm", "a recurrent language model on any texts"),
}
"""Name of each recipe: where its module is and what it does. Nothing is imported before it is chosen."""


def default_settings(name: Any) -> dict[str, Any] | None:
    """Return a recipe's settings where nothing is said, as plain data; None for a recipe that is not one of ours.

    >>> default_settings("ulmfit")["seed"], default_settings("my own")
    (0, None)
    """
    if name not in RECIPES:
        return None
    from nlpbp.config.files import asdict

    return asdict(importlib.import_module(RECIPES[name][0]).Config())
