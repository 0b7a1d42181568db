"""Two runs on the same examples: what changed, for which of them, and whether chance would do as much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nlpbp.core.errors import ConfigError
from nlpbp.core.task import target_type
from nlpbp.evaluation.metrics import Floats
from nlpbp.evaluation.run_folder import RunFolder
from nlpbp.report.cells import baseline_words
from nlpbp.tasks.differences import Answers, Difference, beside_baselines, paired_differences, verdict
from nlpbp.tasks.task import Metric, get_task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """Two runs compared on `num_examples` of one part.

    `gained` and `lost` are ids of examples that only the second, and only the first run answers rightly; `p_value` is McNemar's
    exact one of that split. All three are empty for a number to predict. `better` is 1 or 2, or None when the runs cannot be told
    apart.
    """

    part: str
    metric: str
    num_examples: int
    metrics: Mapping[str, Difference]
    gained: Sequence[int]
    lost: Sequence[int]
    p_value: float | None
    better: int | None
    verdict: str


def compare_runs(first: RunFolder, second: RunFolder, *, num_resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare the predictions of two runs, example by example, with a bootstrap that draws the same examples for both.

    The second is called better or worse where the interval of the change of its main metric leaves out 0. The interval is of the
    draw of examples: that of training seeds is wider, and needs more runs. Raises `ConfigError` for runs of other data or another
    task.
    """
    _refuse_other_data(first, second)
    targets, (one, two) = _aligned(first, second)
    metrics = paired_differences(first.task, targets, two, {"first": one}, num_resamples=num_resamples, seed=seed)["first"]
    gained, lost = _flips(first, second)
    exact = stats.binomtest(len(gained), len(gained) + len(lost)).pvalue if gained or lost else 1.0
    p_value = None if target_type(first.task) == "continuous" else float(exact)
    main = get_task(first.task).main
    agree = first.predictions["prediction"] == second.predictions["prediction"]
    better = None if agree else {"better": 2, "worse": 1, "unclear": None}[verdict(main, metrics[main.name])]
    num = len(first.predictions["id"])
    where = f"{num:,} {first.part} examples"
    said = f"No difference: the answers agree on all {where}." if agree else _verdict(main, metrics[main.name], better, where=where)
    if p_value is not None and not agree:
        said += f" {len(gained):,} answers became right and {len(lost):,} wrong (McNemar's exact p = {p_value:.2g})."
    said = " ".join([said, *_both_beside_baselines(first, second)])
    return Comparison(first.part, main.name, num, metrics, gained, lost, p_value, better, said)


def _refuse_other_data(first: RunFolder, second: RunFolder) -> None:
    for name, ours, theirs in (
        ("task", first.task, second.task),
        ("data", first.result["data"].get("fingerprint"), second.result["data"].get("fingerprint")),
        ("labels", first.result["data"].get("labels"), second.result["data"].get("labels")),
        ("examples", first.predictions.get("id"), second.predictions.get("id")),
        ("targets", first.predictions.get("label"), second.predictions.get("label")),
    ):
        if ours != theirs:
            shown = f": {ours} and {theirs}" if isinstance(ours, str) else ""
            raise ConfigError(
                f"{first.path} and {second.path} are not of the same {name}{shown}",
                hint="compare runs on the same parts of one data set",
            )
    if not first.predictions:
        raise ConfigError(
            f"{first.path} has no predictions.parquet",
            hint="runs of classifiers can be compared, language models by their perplexity",
        )


def _aligned(first: RunFolder, second: RunFolder) -> tuple[Array, tuple[Answers, Answers]]:
    """Return the targets, and both runs' outputs and decisions."""
    labels = list(first.result["data"]["labels"])
    target, kind = first.predictions["label"], target_type(first.task)
    one, two = (_answers(run, labels) for run in (first, second))
    if kind == "continuous":
        return np.array(target, dtype=np.float64), (one, two)
    if kind == "multilabel-indicator":
        return _indicators(target, labels), (one, two)
    return np.array([labels.index(label) for label in target]), (one, two)


def _answers(run: RunFolder, labels: Sequence[str]) -> Answers:
    """Return a run's answers; those on several labels as they were decided: each run has thresholds of its own."""
    kind = target_type(run.task)
    if kind == "continuous":
        return Answers(np.array(run.predictions["prediction"]))
    probabilities = np.array([run.predictions[f"probability_{label}"] for label in labels]).T
    if kind == "multilabel-indicator":
        return Answers(probabilities, decisions=_indicators(run.predictions["prediction"], labels))
    return Answers(probabilities)


def _indicators(answers: Sequence[Sequence[str]], labels: Sequence[str]) -> Floats:
    return np.array([[float(label in answer) for label in labels] for answer in answers])


def _flips(first: RunFolder, second: RunFolder) -> tuple[list[int], list[int]]:
    if target_type(first.task) == "continuous":
        return [], []
    one, two = first.predictions, second.predictions
    rows = list(zip(one["id"], one["label"], one["prediction"], two["prediction"], strict=True))
    gained = [number for number, label, before, after in rows if before != label and after == label]
    return gained, [number for number, label, before, after in rows if before == label and after != label]


def _verdict(metric: Metric, difference: Difference, better: int | None, *, where: str) -> str:
    name = metric.words
    if difference.change is None or difference.interval is None:
        return f"The {name} cannot be compared on these {where}."
    low, high = difference.interval
    numbers = f"{name} {difference.first:.4g} and {difference.second:.4g} on the same {where}, a change of {difference.change:+.4f}"
    begins = {None: "The two runs cannot be told apart", 1: "The second run is worse", 2: "The second run is better"}[better]
    return f"{begins}: {numbers} [{low:+.4f}, {high:+.4f}]."


def _both_beside_baselines(first: RunFolder, second: RunFolder) -> list[str]:
    """Say which baselines neither run beats: the better of two runs may still be worthless."""
    one, two = beside_baselines(first.result), beside_baselines(second.result)
    said = {kind: {str(one[kind]["verdict"]), str(two[kind]["verdict"])} for kind in one.keys() & two.keys()}
    names = {kind: baseline_words(first.task, kind) for kind in one if kind in said}
    worse = [name for kind, name in names.items() if said[kind] == {"worse"}]
    unclear = [name for kind, name in names.items() if "better" not in said[kind] and said[kind] != {"worse"}]
    return [
        *([f"Both are worse than the baseline {' and than '.join(worse)}."] if worse else []),
        *([f"Neither is better than the baseline {' or than '.join(unclear)} by more than luck."] if unclear else []),
    ]
