"""Look at a data set before training on it: copies, leaks, doubtful labels, broken texts, and parts that differ.

python scripts/audit.py reviews.csv --test later.csv
python scripts/audit.py demo:imdb --json audit.json --html audit.html
python scripts/audit.py reviews.csv --fix plan.yaml --out clean.csv
python scripts/audit.py photos/ --images

`nlpbp audit` is the same: see `nlpbp/cli/audit.py`.
"""

from nlpbp.cli.audit import audit
from nlpbp.cli.parsing import run_command

if __name__ == "__main__":
    run_command(audit, "audit.py")
