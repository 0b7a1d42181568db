"""Rules for the files of a run; `check_run` reads the run folder and applies them all.

The rules take plain data: the config (`config.yaml`), the result (`result.json`) and the records (lines of `metrics.jsonl`). Rules
whose data are missing are skipped.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median

from nlpbp.checks.findings import Finding, Level
from nlpbp.core.errors import escape
from nlpbp.evaluation.run_folder import Record, finite, read_config, read_records, read_result, section
from nlpbp.tasks.differences import beside_baselines
from nlpbp.tasks.task import metric_of

PARTS = ("train", "validation", "test")
WHY_NOT = {
    ("train", "validation"): "the best weights were chosen by what they were trained on",
    ("train", "test"): "the score is of what was trained on",
    ("validation", "test"): "the best weights were chosen by the test",
}
MAX_CLIPPED = 0.9  # share of steps
MIN_STEPS = 20  # with fewer, shares of steps mean little
LOSSES = ("log_loss", "loss")  # of validation records, in the units of the training loss
OVERFIT_GAP = 0.5  # the training loss is below this share of the validation loss ...
OVERFIT_RISE = 1.1  # ... which is this much above its lowest


def check_run(folder: Path) -> list[Finding]:
    """Apply every rule to a run folder. Raises `ConfigError` if it has no `config.yaml`, or a file that cannot be read.

    An unfinished run has no `result.json` yet, and only the other rules are applied.
    """
    config, result, records = read_config(folder), read_result(folder), read_records(folder)
    return [
        *stored_advice(result),
        *same_data_for_two_parts(config),
        *no_test_part(result),
        *not_better_than_baseline(result),
        *clipped_every_step(records),
        *constant_rate(config),
        *plain_cell_without_clipping(config),
        *(() if "advice" in result else overfit(records)),  # of which the advice tells with what to do about it
    ]


def stored_advice(result: Record) -> list[Finding]:
    """Return what a finished run was advised, the first thing to do first; runs of earlier versions were advised nothing."""
    given = result.get("advice")
    told = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
    return [
        Finding(
            str(one.get("practice")),
            "warning" if one.get("level") == "warning" else "note",
            str(one.get("module")),
            str(one.get("message")),
            str(one.get("fix")),
        )
        for one in told
    ]


def same_data_for_two_parts(config: Record) -> list[Finding]:
    """Find one file, or a copy of it, that is given for two parts: the scores are then biased by training or model selection (D2).

    Hub ids and packaged data contain several parts, and are skipped.

    >>> same_data_for_two_parts({"data": {"train": "a.csv", "validation": "b.csv", "test": "b.csv"}})[0].message
    'validation and test are the same data (b.csv): the best weights were chosen by the test'
    """
    given = section(config, "data")
    sources = {part: given[part] for part in PARTS if isinstance(given.get(part), str)}
    return [
        Finding(
            "D2",
            "warning",
            f"config.yaml: data.{other}",
            f"{part} and {other} are the same data ({escape(sources[part])}): {WHY_NOT[part, other]}",
            "give each set data of its own, or leave it out to have it split off the training data",
        )
        for part, other in combinations(sources, 2)
        if _is_same_data(sources[part], sources[other])
    ]


def no_test_part(result: Record) -> list[Finding]:
    """Find a finished run that was scored only on the validation set, by which its weights were chosen (D2).

    >>> len(no_test_part({"metrics": {"validation": {"accuracy": 0.9}}})), no_test_part({"metrics": {"validation": {}, "test": {}}})
    (1, [])
    """
    parts = section(result, "metrics")
    if not parts or "test" in parts:
        return []
    message = "there is no test set, and the weights were chosen by the validation set: its score is slightly too optimistic"
    return [
        Finding("D2", "note", "result.json: metrics", message, "hold out some labelled data: --data.test, or --data.test_share 0.1")
    ]


def not_better_than_baseline(result: Record) -> list[Finding]:
    """Find a main score that is worse than a baseline's, or no better by more than luck (D4).

    For a perfect score it is a note: the baseline is just as good, and costs less.

    >>> scores = {"metrics": {"test": {"accuracy": 0.8}}, "intervals": {"test": {"accuracy": [0.7, 0.82]}}, "task": "single_label"}
    >>> print(not_better_than_baseline(scores | {"baselines": {"tfidf": {"test": {"accuracy": 0.85}}}})[0].message)
    test accuracy is 0.8, and 0.85 for the tfidf baseline: the model is worse
    """
    part = "test" if "test" in section(result, "metrics") else "validation"
    findings = []
    for kind, one in beside_baselines(result).items():
        name, score, baseline = str(one["metric"]), finite(one["model"]), finite(one["baseline"])
        if one["verdict"] == "better" or score is None or baseline is None:
            continue
        why = "the model is worse" if one["verdict"] == "worse" else "the difference may be luck"
        why = "the model is not better" if score == baseline else why
        said = f"{part} {name} is {score:.4g}, and {baseline:.4g} for the {escape(kind)} baseline: {why}"
        fix = "look at the errors and at the model's inputs; train longer, on more data, or use the baseline"
        perfect = 1.0 if metric_of(str(result["task"]), name).higher_is_better else 0.0  # which cannot be beaten
        level: Level = "note" if score == perfect else "warning"
        findings.append(Finding("D4", level, f"result.json: metrics.{part}", said, fix))
    return findings


def clipped_every_step(records: Sequence[Record]) -> list[Finding]:
    """Find a gradient that was clipped in more than nine of ten steps, so that the threshold determined the step size (N3).

    >>> steps = [{"step": step, "clipped": True, "grad_norm": 3.0} for step in range(1, 31)]
    >>> clipped_every_step(steps)[0].message
    'the gradient was clipped in 100% of 30 steps; its median norm was 3'
    """
    steps = [record for record in records if "clipped" in record]
    share = fmean(bool(step["clipped"]) for step in steps) if steps else 0.0
    if len(steps) < MIN_STEPS or share <= MAX_CLIPPED:
        return []
    norms = [norm for step in steps if (norm := finite(step.get("grad_norm"))) is not None]
    message = f"the gradient was clipped in {share:.0%} of {len(steps):,} steps" + (
        f"; its median norm was {median(norms):.3g}" if norms else ""
    )
    return [Finding("N3", "note", "metrics.jsonl", message, "raise max_grad_norm to about that norm, unless this is intended")]


def constant_rate(config: Record) -> list[Finding]:
    """Find a learning rate that is never decayed, without weight averaging, which has the same effect (L3).

    >>> constant_rate({"optim": {"schedule": "constant"}})[0].module
    'config.yaml: optim.schedule'
    """
    return [
        Finding(
            "L3",
            "note",
            f"config.yaml: {name}.schedule",
            "the learning rate is never decayed, so the last steps are as large as the first",
            "decay it (cosine, one_cycle), or average the last weights (swa_start 0.75)",
        )
        for name in ("optim", "lm")
        if (found := section(config, name)).get("schedule") == "constant"
        and found.get("swa_start", 1.0) == 1.0
        and found.get("ema_decay") is None
    ]


def plain_cell_without_clipping(config: Record) -> list[Finding]:
    """Find a plain recurrent cell that was trained without gradient clipping (N3, N5).

    >>> len(plain_cell_without_clipping({"model": {"cell": "rnn"}, "optim": {"max_grad_norm": None}}))
    1
    """
    if section(config, "model").get("cell") != "rnn":
        return []
    return [
        Finding(
            "N3",
            "warning",
            f"config.yaml: {name}.max_grad_norm",
            "a plain recurrent cell trained without gradient clipping, and its gradients can explode",
            f"--{name}.max_grad_norm 0.25, or a gated cell: --model.cell lstm (N5)",
        )
        for name in ("optim", "lm")
        if section(config, name).get("max_grad_norm", 1.0) is None and not section(config, name).get("skip")
    ]


def overfit(records: Sequence[Record]) -> list[Finding]:
    """Find overfitting: at the end, the training loss was at most half the validation loss, which was rising (N2).

    This is a note, because the best weights are kept anyway: the epochs after them were wasted. Only losses in the same units are
    compared: those of classification and of language models.

    >>> steps = [{"step": step, "loss": 0.1} for step in range(1, 21)]
    >>> scores = [{"step": step, "split": "validation", "log_loss": loss} for step, loss in ((10, 0.4), (20, 0.6))]
    >>> overfit(steps + scores)[0].message
    'at step 20 the validation loss was 0.6, after 0.4 at step 10, and the training loss 0.1'
    """
    scores = [record for record in records if record.get("split") == "validation"]
    key = next((key for key in LOSSES if scores and key in scores[-1]), None)
    points = [(score["step"], loss) for score in scores if key and (loss := finite(score.get(key))) is not None]
    if len(points) < 2:
        return []
    (before, _), (end, last) = points[-2:]
    train = [
        loss
        for record in records
        if "split" not in record and before < record["step"] <= end and (loss := finite(record.get("loss"))) is not None
    ]
    best_step, best = min(points, key=lambda point: point[1])
    if not train or fmean(train) > OVERFIT_GAP * last or last < OVERFIT_RISE * best:
        return []
    message = (
        f"at step {end} the validation loss was {last:.3g}, after {best:.3g} at step {best_step}, "
        f"and the training loss {fmean(train):.3g}"
    )
    return [Finding("N2", "note", "metrics.jsonl", message, "train fewer epochs, or with more dropout, weight decay or data")]


def _is_same_data(source: str, other: str) -> bool:
    first, second = Path(source), Path(other)
    try:
        if first.is_file() and second.is_file():
            return filecmp.cmp(first, second, shallow=False)
        if first.is_dir() and second.is_dir():
            return first.samefile(second)
    except (OSError, ValueError):  # names that no file system allows
        return False
    return source == other and bool(first.suffix)
