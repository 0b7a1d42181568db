"""Fine-tune text classifiers and language models with practices that are plain functions, and measured.

The packages: `core` (the practices), `data`, `text`, `vision`, `train`, and what stands on them. Importing this top package loads
none of them; the scikit-learn estimators are loaded when they are asked for: `from nlpbp import TextClassifier`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ImageClassifier", "TextClassifier", "TextRegressor"]
__version__ = "0.2.0"

if TYPE_CHECKING:
    from nlpbp.estimators import ImageClassifier, TextClassifier, TextRegressor
else:  # unseen by type checkers, which would take any name for one of this package

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import nlpbp.estimators

        return getattr(nlpbp.estimators, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
