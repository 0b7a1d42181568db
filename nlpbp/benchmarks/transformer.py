"""The benchmark `transformer`: nlpbp and transformers.Trainer fine-tune one model on one split of one data set.

"ours" is the recipe transformer_sentiment as it comes, "defaults" is Trainer as it comes, and "best" is Trainer with what makes it
fast on a CPU: texts grouped by length, and bf16 where the hardware runs it fast.

This side starts the workers, lets one work at a time and compares; it imports the standard library only.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from nlpbp.benchmarks.workers import Record, answer, go, median, say, worker, write_json

OTHERS = {"defaults": "Trainer's defaults", "best": "Trainer at its best"}
SYSTEMS = ("ours", *OTHERS)
NUM_BLOCKS = 5
WORKER = "transformer_worker"


def run(out: Path, *, num_seeds: int, short: bool) -> None:
    """Measure speed in interleaved blocks, then whole trainings; write `out` after the first part and after each training."""
    with tempfile.TemporaryDirectory(prefix="nlpbp-benchmark-") as name:
        folder = Path(name)
        with worker(WORKER, str(folder), "prepare", *(["--short"] if short else [])) as process:
            prepared = answer(process)
        say(f"{prepared['machine']['cpu']}, {prepared['machine']['threads']} threads; {prepared['settings']}")
        speed = measure_speed(folder)
        trainings: dict[str, list[Record]] = {system: [] for system in SYSTEMS}
        write(out, prepared, speed, trainings)
        for seed in range(num_seeds):
            for system in SYSTEMS:
                trainings[system].append(train_whole(folder, system, seed=seed, num_held_out=prepared["settings"]["held_out"]))
                write(out, prepared, speed, trainings)
    say("\n".join(in_words(ratios(speed, trainings), times(trainings))))
    say(f"everything measured is in {out}" + ("; it was --short, so these numbers mean nothing" if short else ""))


def measure_speed(folder: Path) -> dict[str, list[Record]]:
    """Let the systems train in turns, a block of steps each, so that whatever else the machine does meets all of them alike."""
    blocks: dict[str, list[Record]] = {system: [] for system in SYSTEMS}
    with ExitStack() as stack:
        processes = {system: stack.enter_context(worker(WORKER, str(folder), "blocks", "--system", system)) for system in SYSTEMS}
        for system, process in processes.items():
            go(process)
            say(f"{system}: warmed up in {answer(process)['seconds']:.1f} s")
        for index in range(NUM_BLOCKS):
            for system, process in processes.items():
                go(process)
                block = answer(process)
                blocks[system].append(block)
                say(f"block {index + 1} of {NUM_BLOCKS}, {system}: {_rate(block):.1f} sentences/s ({block['seconds']:.1f} s)")
    return blocks


def train_whole(folder: Path, system: str, *, seed: int, num_held_out: int) -> Record:
    """Train once from start to end in a fresh process; return its curve, final accuracy, seconds and peak memory."""
    curve: list[Record] = []
    with worker(WORKER, str(folder), "whole", "--system", system, "--seed", str(seed)) as process:
        while "epoch" in (told := answer(process)):
            curve.append(told)
            say(
                f"{system}, seed {seed}, epoch {told['epoch']:.1f}: accuracy {told['accuracy']:.4f} "
                f"after {told['seconds']:.1f} s (evaluated in {told['eval_seconds']:.1f} s)"
            )
    accuracy = curve[-1]["accuracy"]
    interval = wilson_interval(round(accuracy * num_held_out), num_held_out)
    return {"seed": seed, "accuracy": accuracy, "interval": interval, **told, "curve": curve}


def wilson_interval(num_right: int, num_examples: int, *, confidence: float = 0.95) -> list[float]:
    """Return [low, high], the score interval of a share (Wilson 1927): that of 0 or all right is not a point.

    >>> wilson_interval(5, 10)
    [0.236593, 0.763407]
    """
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_right / num_examples
    middle = share + z**2 / (2 * num_examples)
    half = z * math.sqrt(share * (1 - share) / num_examples + (z / (2 * num_examples)) ** 2)
    return [round((middle + sign * half) / (1 + z**2 / num_examples), 6) for sign in (-1, 1)]


def ratios(speed: Mapping[str, Sequence[Record]], trainings: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, float | None]]:
    """Compare ours with each other system; None where nothing was measured, or a level was not reached.

    samples_per_second: ours / theirs, the median over pairs of blocks (more than 1: ours is faster). seconds_to_accuracy: theirs /
    ours, by the rule of `time_to_accuracy`. peak_memory: ours / theirs (less than 1: ours needs less). The last two are medians
    over seeds.
    """
    pairs = {other: list(zip(trainings["ours"], trainings[other], strict=False)) for other in OTHERS}
    return {
        "samples_per_second": {
            other: median([_rate(ours) / _rate(theirs) for ours, theirs in zip(speed["ours"], speed[other], strict=True)])
            for other in OTHERS
        },
        "seconds_to_accuracy": {other: median([one["ratio"] for one in found]) for other, found in times(trainings).items()},
        "peak_memory": {
            other: median([ours["peak_memory_mib"] / theirs["peak_memory_mib"] for ours, theirs in pairs[other]])
            for other in OTHERS
        },
    }


def times(trainings: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """Return for each other system and seed how long ours and the other took, to the accuracy that Trainer's defaults end with."""
    return {
        other: [
            time_to_accuracy(ours, theirs, level=defaults["accuracy"])
            for ours, theirs, defaults in zip(trainings["ours"], trainings[other], trainings["defaults"], strict=False)
        ]
        for other in OTHERS
    }


def time_to_accuracy(ours: Record, theirs: Record, *, level: float) -> Record:
    """Say after how many training seconds each of two was first as good as `level`: one rule for both.

    Both are evaluated at the same points of their training, and the time of evaluating counts for neither. `ratio` is theirs /
    ours (more than 1: ours is sooner), None if one of them never was as good.
    """
    mine, other = first_reached(ours["curve"], level), first_reached(theirs["curve"], level)
    ratio = None if mine is None or other is None else other / mine
    return {"seed": ours["seed"], "level": level, "ours_seconds": mine, "theirs_seconds": other, "ratio": ratio}


def first_reached(curve: Sequence[Record], level: float) -> float | None:
    """Return the training seconds at the first evaluation with an accuracy of `level` or more; None if there is none."""
    return next((point["seconds"] for point in curve if point["accuracy"] >= level), None)


def _rate(block: Record) -> float:
    return block["samples"] / block["seconds"]


def write(out: Path, prepared: Record, speed: dict[str, list[Record]], trainings: dict[str, list[Record]]) -> None:
    """Write all that is known so far."""
    record = {
        "ratios": ratios(speed, trainings),
        **prepared,
        "speed": {
            "blocks": speed,
            "samples_per_second": {system: median([_rate(block) for block in blocks]) for system, blocks in speed.items()},
            "block_ratios": {
                other: [_rate(ours) / _rate(theirs) for ours, theirs in zip(speed["ours"], speed[other], strict=True)]
                for other in OTHERS
            },
        },
        "trainings": trainings,
        "time_to_accuracy": times(trainings),
    }
    write_json(out, record)


def in_words(measured: Mapping[str, Mapping[str, float | None]], found: Mapping[str, Sequence[Record]]) -> list[str]:
    """Say each ratio in a line, and the times that the second is of: `found` is what `times` returns."""
    lines = []
    for other, name in OTHERS.items():
        faster, sooner, memory = (measured[key][other] for key in ("samples_per_second", "seconds_to_accuracy", "peak_memory"))
        mine, theirs = (_median_seconds([one[f"{side}_seconds"] for one in found[other]]) for side in ("ours", "theirs"))
        compared = "no ratio" if sooner is None else f"the other's time is {sooner:.2f} times ours"
        lines += [
            f"ours trains {faster:.2f} times as many sentences a second as {name}",
            f"to the accuracy that Trainer's defaults end with: ours {_seconds(mine)}, {name} {_seconds(theirs)}; {compared}",
            f"ours needs {memory:.2f} times the peak memory of {name}",
        ]
    return lines


def _median_seconds(seconds: Sequence[float | None]) -> float | None:
    """Return the median of times, never being the longest."""
    found = median([None if one is None else -one for one in seconds])
    return None if found is None else -found


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"
