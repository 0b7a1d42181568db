"""Look at a model, or at a finished run, for what breaks a practice; each finding comes with its fix.

python scripts/check.py runs/transformer_sentiment-1
python scripts/check.py path/to/model --json findings.json

`nlpbp check` is the same: see `nlpbp/cli/check.py`.
"""

from nlpbp.cli.check import check
from nlpbp.cli.parsing import run_command

if __name__ == "__main__":
    run_command(check, "check.py")
