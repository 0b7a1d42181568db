"""Make the report of a finished run again, or compare two runs on the same examples.

python scripts/report.py runs/transformer_sentiment-1
python scripts/report.py runs/transformer_sentiment-1 runs/transformer_sentiment-2 --out comparison.html

`nlpbp report` is the same: see `nlpbp/cli/report.py`.
"""

from nlpbp.cli.parsing import run_command
from nlpbp.cli.report import report

if __name__ == "__main__":
    run_command(report, "report.py")
