"""Measure nlpbp beside what people use today, on the machine at hand.

python scripts/benchmark.py transformer --out transformer.json              # against transformers.Trainer, about half an hour
python scripts/benchmark.py transformer --out transformer.json --seeds 3    # medians over three trainings a system
python scripts/benchmark.py recurrent --out recurrent.json --peer-python fastai/bin/python    # against fastai, about half an hour
python scripts/benchmark.py transfer --out transfer.json    # few labels with and without a language model, about 90 minutes
python scripts/benchmark.py finder --out finder.json        # suggested rates beside a grid's best, 2 hours and a half of a core
python scripts/benchmark.py images --out images.json        # our loop beside a plain one on images, a few minutes

`nlpbp benchmark` is the same: see `nlpbp/cli/benchmark.py`.
"""

from nlpbp.cli.benchmark import benchmark
from nlpbp.cli.parsing import run_command

if __name__ == "__main__":
    run_command(benchmark, "benchmark.py")
