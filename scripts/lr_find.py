"""Find a learning rate for a recipe and a data set: sweep, draw, suggest, and train nothing.

python scripts/lr_find.py --data.train reviews.csv --out runs/rate
python scripts/lr_find.py ulmfit --stage 2 --finder.num_sweeps 5          # of a later stage: the ones before it are trained

`nlpbp lr-find` is the same: see `nlpbp/cli/lr_find.py`.
"""

from nlpbp.cli.lr_find import lr_find
from nlpbp.cli.parsing import run_command

if __name__ == "__main__":
    run_command(lr_find, "lr_find.py")
