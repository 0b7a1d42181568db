"""Recipes: each is a module with a `Config`, `run(config)` and `tiny()`, and composes the practices of `nlpbp`.

from recipes import transformer_sentiment
transformer_sentiment.run(transformer_sentiment.Config(epochs=2))
"""

RECIPES = {
    "transformer_sentiment": (
        "recipes.transformer_sentiment",
        "fine-tune a pretrained transformer on labelled texts (the default)",
    ),
}
"""Name of each recipe: where its module is and what it does. Nothing is imported before it is chosen."""
