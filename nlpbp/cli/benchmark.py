"""Benchmark nlpbp against other libraries, on this machine.

nlpbp benchmark outcome --out outcome.jsonl     # nlpbp beside what else a user could do with the labels there are, days of a core
nlpbp benchmark outcome --out outcome.jsonl --datasets rotten_tomatoes --sizes 16 64 --seeds 1    # a part of it, half an hour
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
    "outcome": "a result with few and many labels: nlpbp, transformers.Trainer, SetFit and linear models",
    "transformer": "fine-tune a pretrained transformer: nlpbp and transformers.Trainer",
    "recurrent": "an AWD-LSTM language model and its classifier: nlpbp and fastai",
    "transfer": "few labels: with and without a language model, and beside linear models",
    "finder": "rates that a sweep suggests beside the best of a grid, on three tasks",
    "images": "images: our loop beside a plain torch loop, and what making batches costs",
}
"""Name of each benchmark, which is its module in `nlpbp.benchmarks`, and what it compares."""
GOES_ON = ("outcome", "transfer", "finder")
SETS = ("rotten_tomatoes", "products", "wordnet", "debian_tags", "imdb", "chinese")
SYSTEMS = ("ours", "trainer", "setfit", "tfidf", "probe")
SIZES = ("16", "64", "500", "2000", "all")
SEEDS = {
    "outcome": (3, "draws of labels, each with its own random seed"),
    "transformer": (1, "whole trainings a system"),
    "transfer": (3, "samples of labels"),
    "finder": (3, "random seeds"),
}


def make_parser(program: str) -> argparse.ArgumentParser:
    """Declare the benchmarks and their flags."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False, description="Benchmark nlpbp against other libraries.")
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, line in BENCHMARKS.items():
        one = names.add_parser(name, help=line)
        there = "; one that is there and not complete is gone on with" if name in GOES_ON else ": ratios, machine, raw figures"
        one.add_argument("--out", type=Path, required=True, help=f"the .json file to write{there}")
        if name == "outcome":
            add_outcome(one)
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


def add_outcome(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the benchmark `outcome`."""
    for flag, known, of_what in (("--datasets", SETS, "sets of texts"), ("--systems", SYSTEMS, "systems")):
        parser.add_argument(flag, nargs="+", choices=known, default=known, metavar="NAME", help=f"{of_what}: {', '.join(known)}")
    sizes = f"numbers of labels to train on, or all: 8,000 at most (default: {' '.join(SIZES)})"
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="N", help=sizes)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of every system (default: all cores)")
    data = "the folder of the sets, which are fetched into it (default: beside --out)"
    parser.add_argument("--data", type=Path, metavar="FOLDER", help=data)
    peer = "the python of an environment with SetFit (default: one that is made beside --out)"
    parser.add_argument("--setfit-python", metavar="PATH", help=peer)
    parser.add_argument("--show", action="store_true", help="only print the tables of what --out holds")


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program)
    given = parser.parse_args(arguments)
    if given.name in SEEDS and given.seeds < 1:
        parser.error("--seeds must be 1 or more")
    if not given.out.parent.is_dir():
        parser.error(f"--out: there is no folder {given.out.parent}")
    if given.name == "outcome":
        wrong = [size for size in given.sizes if size != "all" and not (size.isdecimal() and int(size) > 0)]
        if wrong:
            parser.error(f"--sizes: {wrong[0]} is neither a number of labels nor all")
        if given.threads is not None and given.threads < 1:
            parser.error("--threads must be 1 or more")
        if given.setfit_python is not None and shutil.which(given.setfit_python) is None:
            parser.error(f"--setfit-python: there is no program {given.setfit_python}")
    if given.name == "recurrent" and shutil.which(given.peer_python) is None:
        parser.error(f"--peer-python: there is no program {given.peer_python}")
    return given


def benchmark(arguments: Sequence[str], program: str = "nlpbp benchmark") -> None:
    """Run the benchmark that is named."""
    given = parse(arguments, program)
    if given.name == "outcome":
        run_outcome(given)
    elif given.name == "transformer":
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


def run_outcome(given: argparse.Namespace) -> None:
    """Run the benchmark `outcome` on what is chosen of its grid."""
    from dataclasses import replace

    from nlpbp.benchmarks import outcome

    chosen = outcome.Grid(tuple(given.datasets), tuple(given.sizes), tuple(given.systems), given.seeds)
    grid = outcome.Grid.short() if given.short else chosen
    if given.threads is not None:
        grid = replace(grid, threads=given.threads)
    outcome.run(given.out, grid, data=given.data, setfit_python=given.setfit_python, show=given.show)
