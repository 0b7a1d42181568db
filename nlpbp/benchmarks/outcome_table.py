"""The tables of the benchmark `outcome`, from what its file holds: scores with intervals, seconds, and ours beside the best peer.

A score is the mean over seeds of the accuracy, or of micro F1 where a text has several labels. Its 95 % interval is the percentile
bootstrap over the test texts, with the same resamples for all systems, so that the interval of a difference is that of pairs. It
tells the luck of the test texts; that of the draw of labels shows in how far the seeds are apart, which the table gives as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpbp.benchmarks.outcome_data import indicators
from nlpbp.benchmarks.workers import Record
from nlpbp.evaluation.intervals import resample_weights
from nlpbp.evaluation.metrics import f1, macro_f1

NUM_RESAMPLES = 1000
SYSTEMS = {
    "ours": "nlpbp",
    "trainer": "Trainer",
    "setfit": "SetFit",
    "tfidf": "tf-idf",
    "probe": "frozen states",
}
"""Every system, and its column."""
OURS = "ours"

Floats = np.ndarray[Any, np.dtype[np.float64]]
Key = tuple[str, str, str, int]  # set, size, system, seed


@dataclass(frozen=True)
class Score:
    """What a system reached with so many labels: the arrays have a column for each seed."""

    seeds: list[int]
    values: Floats  # [seeds]
    resampled: Floats  # [resamples, seeds]
    macro: float
    seconds: float

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    def interval(self) -> list[float]:
        """Return the 95 % interval of the mean."""
        return interval(self.resampled.mean(axis=1))

    def minus(self, other: Score) -> tuple[float, list[float]] | None:
        """Return the mean difference over the seeds that both have, and its interval; None where they have none in common."""
        shared = sorted(set(self.seeds) & set(other.seeds))
        if not shared:
            return None
        mine, theirs = ([score.seeds.index(seed) for seed in shared] for score in (self, other))
        resampled = self.resampled[:, mine].mean(axis=1) - other.resampled[:, theirs].mean(axis=1)
        return float(self.values[mine].mean() - other.values[theirs].mean()), interval(resampled)


def interval(values: Floats) -> list[float]:
    """Return the middle 95 % of resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def cells_of(records: Sequence[Record]) -> dict[Key, Record]:
    """Return the last record of each cell, a finished one before a failed one.

    >>> failed, done = ({"kind": kind, "set": "x", "size": "16", "system": "ours", "seed": 0} for kind in ("failure", "cell"))
    >>> [record["kind"] for record in cells_of([done, failed]).values()]
    ['cell']
    """
    found: dict[Key, Record] = {}
    for record in records:
        if record["kind"] in ("cell", "failure"):
            key = key_of(record)
            if record["kind"] == "cell" or found.get(key, record)["kind"] == "failure":
                found[key] = record
    return found


def key_of(record: Record) -> Key:
    """Return what tells a cell from others."""
    return record["set"], record["size"], record["system"], record["seed"]


def score(cells: Sequence[Record], about: Record, *, field: str = "answers") -> Score:
    """Score the cells of one system, one for each seed, against the targets of the set."""
    num_labels = len(about["labels"])
    targets = indicators(about["targets"], num_labels)
    answered = [indicators(cell[field], num_labels) for cell in cells]
    hits = np.stack([(targets * one).sum(axis=1) for one in answered], axis=1).astype(np.float64)  # [n, seeds]
    sizes = np.stack([(targets + one).sum(axis=1) for one in answered], axis=1).astype(np.float64)
    drawn = resample_weights(len(targets), num_resamples=NUM_RESAMPLES, seed=0)
    by_label = [[(of * targets).sum(axis=0), (of + targets).sum(axis=0)] for of in answered]
    macro = [float(macro_f1(*np.array(counts, dtype=np.float64)[:, np.newaxis])[0]) for counts in by_label]
    return Score(
        seeds=[cell["seed"] for cell in cells],
        values=f1(hits.sum(axis=0), sizes.sum(axis=0)),  # of one label and one answer a text this is the accuracy
        resampled=np.concatenate([f1(weights @ hits, weights @ sizes) for weights in drawn]),
        macro=float(np.mean(macro)),
        seconds=float(np.mean([cell["seconds"] for cell in cells])),
    )


def tables(records: Sequence[Record]) -> str:
    """Return everything that a file of the benchmark tells, as tables of Markdown."""
    sets = {record["name"]: record for record in records if record["kind"] == "set"}
    cells = cells_of(records)
    blocks = [_tables_of(about, [cell for key, cell in cells.items() if key[0] == name]) for name, about in sets.items()]
    failures = [
        f"{key[0]}, {key[1]} labels, {SYSTEMS[key[2]]}, seed {key[3]}: {record['reason']}"
        for key, record in cells.items()
        if record["kind"] == "failure"
    ]
    return "\n\n".join([*blocks, *(["Cells that failed:\n\n" + "\n".join(f"- {line}" for line in failures)] if failures else [])])


def _tables_of(about: Record, cells: Sequence[Record]) -> str:
    """Return the tables of one set: scores and the comparison; then macro F1 and seconds."""
    present = {cell["system"] for cell in cells}
    systems = [system for system in SYSTEMS if system in present]
    metric = "micro F1" if about["task"] == "multi_label" else "accuracy"
    sizes = sorted({cell["size"] for cell in cells}, key=lambda size: float("inf") if size == "all" else int(size))
    kinds = f"{len(about['labels'])} {'labels' if about['task'] == 'multi_label' else 'classes'}"
    head = f"{about['name']}: {kinds}, {len(about['targets']):,} {about['unit']} to test on"
    columns = [SYSTEMS[system] for system in systems]
    first = [_row(["labels", *columns, "best peer", "nlpbp minus best peer", "nlpbp below it"]), _line(len(columns) + 4)]
    second = [_row(["labels", *columns]), _line(len(columns) + 1)]
    for size in sizes:
        mine = [cell for cell in cells if cell["size"] == size]
        name = f"all ({mine[0]['num_labels']:,})" if size == "all" else f"{int(size):,}"
        by_system = {system: [cell for cell in mine if cell["system"] == system] for system in systems}
        done = {system: [cell for cell in of if cell["kind"] == "cell"] for system, of in by_system.items()}
        scores = {system: score(of, about) for system, of in done.items() if of}
        first.append(_row([name, *(_shown(scores.get(one), by_system[one]) for one in systems), *compared(scores)]))
        second.append(_row([name, *(_beside(scores.get(one)) for one in systems)]))
    texts = [f"{head}; {metric} [95 % interval] (lowest to highest seed)", "\n".join(first)]
    return "\n\n".join([*texts, "Macro F1, and seconds of the whole job:", "\n".join(second)])


def compared(scores: Mapping[str, Score]) -> tuple[str, str, str]:
    """Name the best peer, say how far ours is from it, and whether ours is below it by more than the difference's interval."""
    peers = {system: found for system, found in scores.items() if system != OURS}
    if OURS not in scores or not peers:
        return "", "", ""
    best = max(peers, key=lambda system: peers[system].mean)
    difference = scores[OURS].minus(peers[best])
    if difference is None:
        return SYSTEMS[best], "", ""
    mean, (low, high) = difference
    return SYSTEMS[best], f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", "yes" if high < 0 else "no"


def _shown(found: Score | None, cells: Sequence[Record]) -> str:
    failed = sum(cell["kind"] == "failure" for cell in cells)
    told = f"{failed} failed" if failed else ""
    if found is None:
        return told
    low, high = found.interval()
    seeds = f" ({found.values.min():.3f} to {found.values.max():.3f})" if len(found.values) > 1 else ""
    return f"{found.mean:.3f} [{low:.3f}, {high:.3f}]{seeds}{', ' if told else ''}{told}"


def _beside(found: Score | None) -> str:
    return "" if found is None else f"{found.macro:.3f}, {found.seconds:,.0f} s"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(num_columns: int) -> str:
    return "|" + "---|" * num_columns
