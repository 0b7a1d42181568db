"""Measure nlpbp beside what people use today, on the machine at hand.

python scripts/benchmark.py transformer --out transformer.json              # against transformers.Trainer, about half an hour
python scripts/benchmark.py transformer --out transformer.json --seeds 3    # medians over three trainings a system
python scripts/benchmark.py recurrent --out recurrent.json --peer-python fastai/bin/python    # against fastai, about half an hour
python scripts/benchmark.py transfer --out transfer.json    # few labels with and without a language model, about 90 minutes
python scripts/benchmark.py finder --out finder.json        # suggested rates beside a grid's best, 2 hours and a half of a core
python scripts/benchmark.py images --out images.json        # our loop beside a plain one on images, a few minutes
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import main

PRECISIONS = ("auto", "fp32", "bf16")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measure nlpbp beside what people use today.")
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    transformer = names.add_parser("transformer", help="fine-tune a pretrained transformer: nlpbp and transformers.Trainer")
    transformer.add_argument("--out", type=Path, required=True, help="the .json file to write: ratios, machine, raw figures")
    transformer.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="whole trainings a system, seeds 0 to N-1 (default: 1)"
    )
    transformer.add_argument("--short", action="store_true", help="a few steps on tiny data: tries the path, measures nothing")
    recurrent = names.add_parser("recurrent", help="an AWD-LSTM language model and its classifier: nlpbp and fastai")
    recurrent.add_argument("--out", type=Path, required=True, help="the .json file to write: ratios, machine, raw figures")
    recurrent.add_argument(
        "--peer-python",
        default=sys.executable,
        metavar="PATH",
        help="the python of the environment with fastai (default: this one)",
    )
    recurrent.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of our side; fastai's is its default, fp32 (default: auto, the recipes')",
    )
    recurrent.add_argument("--short", action="store_true", help="a few steps on tiny data: tries the path, measures nothing")
    transfer = names.add_parser("transfer", help="few labels: with and without a language model, and beside linear models")
    transfer.add_argument(
        "--out", type=Path, required=True, help="the .json file to write; one that is there and not complete is gone on with"
    )
    transfer.add_argument("--seeds", type=int, default=3, metavar="N", help="samples of labels, seeds 0 to N-1 (default: 3)")
    transfer.add_argument("--short", action="store_true", help="a few steps on tiny data: tries the path, measures nothing")
    finder = names.add_parser("finder", help="rates that a sweep suggests beside the best of a grid, on three tasks")
    finder.add_argument(
        "--out", type=Path, required=True, help="the .json file to write; one that is there and not complete is gone on with"
    )
    finder.add_argument("--seeds", type=int, default=3, metavar="N", help="how many random seeds (default: 3)")
    finder.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (default: 0)")
    finder.add_argument("--short", action="store_true", help="a few steps on tiny data: tries the path, measures nothing")
    images = names.add_parser("images", help="images: our loop beside a plain torch loop, and what making batches costs")
    images.add_argument("--out", type=Path, required=True, help="the .json file to write: medians and every block")
    images.add_argument("--short", action="store_true", help="a few steps: tries the path, measures nothing")
    # Without a help text a sub-command is not listed: these are what the processes of a benchmark are started with.
    worker = names.add_parser("transformer-worker")
    worker.add_argument("folder", type=Path)
    worker.add_argument("mode", choices=["prepare", "blocks", "whole"])
    worker.add_argument("--system", default="ours")
    worker.add_argument("--seed", type=int, default=0)
    worker.add_argument("--short", action="store_true")
    worker = names.add_parser("recurrent-worker")
    worker.add_argument("folder", type=Path)
    worker.add_argument("mode", choices=["prepare", "interop", "texts", "language_model", "classifier"])
    worker.add_argument("--precision", default="auto")
    worker.add_argument("--short", action="store_true")
    peer = names.add_parser("recurrent-peer")
    peer.add_argument("folder", type=Path)
    peer.add_argument("mode", choices=["interop", "texts", "language_model", "classifier"])
    given = parser.parse_args(arguments)
    if given.name in ("transformer", "transfer", "finder") and given.seeds < 1:
        parser.error("--seeds must be 1 or more")
    if given.name in ("transformer", "recurrent", "transfer", "finder", "images") and not given.out.parent.is_dir():
        parser.error(f"--out: there is no folder {given.out.parent}")
    if given.name == "recurrent" and shutil.which(given.peer_python) is None:
        parser.error(f"--peer-python: there is no program {given.peer_python}")
    return given


def benchmark(arguments: Sequence[str]) -> None:
    """Run the benchmark that is named, or be one of its workers."""
    given = parse(arguments)
    if given.name == "transformer":
        from benchmarks import transformer

        transformer.run(given.out, num_seeds=given.seeds, short=given.short)
    elif given.name == "transfer":
        from benchmarks import transfer

        transfer.run(given.out, num_seeds=given.seeds, short=given.short)
    elif given.name == "finder":
        from benchmarks import finder

        finder.run(given.out, num_seeds=given.seeds, first_seed=given.first_seed, short=given.short)
    elif given.name == "images":
        from benchmarks import images

        images.run(given.out, short=given.short)
    elif given.name == "recurrent":
        from benchmarks import recurrent

        recurrent.run(given.out, peer_python=given.peer_python, precision=given.precision, short=given.short)
    elif given.name == "recurrent-worker":
        from benchmarks import recurrent_worker

        recurrent_worker.work(given.folder, given.mode, precision=given.precision, short=given.short)
    elif given.name == "recurrent-peer":
        from benchmarks import recurrent_fastai

        recurrent_fastai.work(given.folder, given.mode)
    else:
        from benchmarks import transformer_worker

        transformer_worker.work(given.folder, given.mode, system=given.system, seed=given.seed, short=given.short)


if __name__ == "__main__":
    main(benchmark)
