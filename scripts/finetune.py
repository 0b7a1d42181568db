"""Fine-tune a model with a recipe.

accelerate launch scripts/finetune.py
accelerate launch scripts/finetune.py transformer_sentiment --data.train reviews.csv --epochs 2

`nlpbp finetune` is the same: see `nlpbp/cli/finetune.py`.
"""

from nlpbp.cli.finetune import finetune
from nlpbp.cli.parsing import run_command

if __name__ == "__main__":
    run_command(finetune, "finetune.py")
