"""Measure nlpbp beside what people use today, on the machine at hand.

python scripts/benchmark.py transformer --out transformer.json              # against transformers.Trainer, about half an hour
python scripts/benchmark.py transformer --out transformer.json --seeds 3    # medians over three trainings a system
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from command_line import main


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
    # Without a help text a sub-command is not listed: this one is what the processes of a benchmark are started with.
    worker = names.add_parser("transformer-worker")
    worker.add_argument("folder", type=Path)
    worker.add_argument("mode", choices=["prepare", "blocks", "whole"])
    worker.add_argument("--system", default="ours")
    worker.add_argument("--seed", type=int, default=0)
    worker.add_argument("--short", action="store_true")
    given = parser.parse_args(arguments)
    if given.name == "transformer":
        if given.seeds < 1:
            parser.error("--seeds must be 1 or more")
        if not given.out.parent.is_dir():
            parser.error(f"--out: there is no folder {given.out.parent}")
    return given


def benchmark(arguments: Sequence[str]) -> None:
    """Run the benchmark that is named, or be one of its workers."""
    given = parse(arguments)
    if given.name == "transformer":
        from benchmarks import transformer

        transformer.run(given.out, num_seeds=given.seeds, short=given.short)
    else:
        from benchmarks import transformer_worker

        transformer_worker.work(given.folder, given.mode, system=given.system, seed=given.seed, short=given.short)


if __name__ == "__main__":
    main(benchmark)
