"""Answer for new texts or images with a finished run, or with the mean of several.

python scripts/predict.py runs/transformer_sentiment-1 --data new.csv --out predictions.csv
echo "a joy from start to end" | python scripts/predict.py runs/transformer_sentiment-1
python scripts/predict.py runs/forward runs/backward --data new.csv
python scripts/predict.py runs/restarts --snapshots --data new.csv
python scripts/predict.py runs/transformer_sentiment-1 --data labelled.csv --views windows head_tail

`nlpbp predict` is the same: see `nlpbp/cli/predict.py`.
"""

from nlpbp.cli.parsing import run_command
from nlpbp.cli.predict import answer

if __name__ == "__main__":
    run_command(answer, "predict.py")
