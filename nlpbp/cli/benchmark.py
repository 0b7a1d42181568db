"""Benchmark nlpbp against other libraries, on this machine.

nlpbp benchmark transformer --out transformer.json              # against transformers.Trainer, about half an hour
nlpbp benchmark transformer --out transformer.json --seeds 3    # medians over three trainings a system
nlpbp benchmark recurrent --out recurrent.json --peer-python fastai/bin/python    # against fastai, about half an hour
nlpbp benchmark transfer --out transfer.json    # few labels with and without a language model, about 90 minutes
nlpbp benchmark finder --out finder.json        # suggested rates beside a grid's best, 2 hours and a half of a core
nlpbp benchmark images --out images.json        # our loop beside a plain one on images, a few minutes
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PRECISIONS = ("auto", "fp32", "bf16")
BENCHMARKS = {
    "transformer": "fine-tune a pretrained transformer: nlpbp and transformers.Trainer",
    "recurrent": "an AWD-LSTM language model and its classifier: nlpbp and fastai",
    "transfer": "few labels: with and without a language model, and beside linear models",
    "finder": "rates that a sweep suggests beside the best of a grid, on three tasks",
    "images": "images: our loop beside a plain torch loop, and what making batches costs",
}
"""Name of each benchmark, which is its module in `nlpbp.benchmarks`, and what it compares."""
GOES_ON = ("transfer", "finder")
SEEDS = {"transformer": (1, "whole trainings a system"), "transfer": (3, "samples of labels"), "finder": (3, "random seeds")}


def make_parser(program: str) -> argparse.ArgumentParser:
    """Declare the benchmarks and their flags."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False, description="Benchmark nlpbp against other libraries.")
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, line in BENCHMARKS.items():
        one = names.add_parser(name, help=line)
        there = "; one that is there and not complete is gone on with" if name in GOES_ON else ": ratios, machine, raw figures"
        one.add_argument("--out", type=Path, required=True, help=f"the .json file to write{there}")
        if name in SEEDS:
            default, of_what = SEEDS[name]
            one.add_argument("--seeds", type=int, default=default, metavar="N", help=f"how many {of_what} (default: {default})")
        if name == "finder":
            one.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (default: 0)")
        if name == "recurrent":
            peer = "the python of the environment with fastai (default: this one)"
            one.add_argument("--peer-python", default=sys.executable, metavar="PATH", help=peer)
            precision = "of our side; fastai's is its default, fp32 (default: auto, the recipes')"
            one.add_argument("--precision", choices=PRECISIONS, default="auto", help=precision)
        one.add_argument("--short", action="store_true", help="a few steps on tiny data: tries the path, measures nothing")
    return parser


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program)
    given = parser.parse_args(arguments)
    if given.name in SEEDS and given.seeds < 1:
        parser.error("--seeds must be 1 or more")
    if not given.out.parent.is_dir():
        parser.error(f"--out: there is no folder {given.out.parent}")
    if given.name == "recurrent" and shutil.which(given.peer_python) is None:
        parser.error(f"--peer-python: there is no program {given.peer_python}")
    return given


def benchmark(arguments: Sequence[str], program: str = "nlpbp benchmark") -> None:
    """Run the benchmark that is named."""
    given = parse(arguments, program)
    if given.name == "transformer":
        from nlpbp.benchmarks import transformer

        transformer.run(given.out, num_seeds=given.seeds, short=given.short)
    elif given.name == "recurrent":
        from nlpbp.benchmarks import recurrent

        recurrent.run(given.out, peer_python=given.peer_python, precision=given.precision, short=given.short)
    elif given.name == "transfer":
        from nlpbp.benchmarks import transfer

        transfer.run(given.out, num_seeds=given.seeds, short=given.short)
    elif given.name == "finder":
        from nlpbp.benchmarks import finder

        finder.run(given.out, num_seeds=given.seeds, first_seed=given.first_seed, short=given.short)
    else:
        from nlpbp.benchmarks import images

        images.run(given.out, short=given.short)
