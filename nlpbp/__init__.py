"""Fine-tune text classifiers and language models with practices that are plain functions, and measured.

The packages: `core` (the practices), `data`, `text`, `train`, `analysis`. Importing this top package loads none of them.
"""

__version__ = "0.1.0"
