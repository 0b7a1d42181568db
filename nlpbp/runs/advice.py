"""What the numbers of a finished run suggest to do next, with the flags to type: a list of functions of the same facts.

A new piece of advice is a function of `Facts` and its line in `ADVICE`, which stands in the order of what to repair first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlpbp.checks import run as rules
from nlpbp.checks.findings import Finding
from nlpbp.config.optim import begins_at_probe
from nlpbp.data.modality import Reading
from nlpbp.evaluation.run_folder import Record, finite
from nlpbp.tasks.differences import beside_baselines
from nlpbp.tasks.task import LANGUAGE_MODEL, get_task, metric_of

MIN_SPREAD = 0.1  # of a linear model's: outputs that vary less over the examples hardly depend on them
MOSTLY_CUT = 0.5  # of the training texts
MANY_UNKNOWN = 0.2  # of the training tokens
FEW, FEW_PER_CLASS = 200, 64  # training examples
FEWSHOT, PROBE = "fewshot", "optim.probe"
CONTRASTIVE = "contrastive"  # the stage of a run that learns from pairs, as those of the recipe fewshot do
MAX_NAMES = 3  # of labels in a sentence


@dataclass(frozen=True)
class Facts:
    """What advice is made of.

    `settings` are the run's under dotted names, `recipes` those that can be typed, `against` as in `result.json`. `num_per_class`
    is the mean number of training examples of a label, None where a number is predicted. On the validation set: `spread` is how far
    outputs vary over the examples, as a share of how far a linear model's do; `only_answer` is the one that all examples get,
    though they have others; `never_answered` are labels that examples have and none gets. `standard_error` is of the main metric.
    """

    task: str
    kind: str = "text"
    recipe: str = ""
    recipes: Collection[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Record] = field(default_factory=dict)
    num_train: int = 0
    num_per_class: float | None = None
    spread: float | None = None
    only_answer: str | None = None
    never_answered: Sequence[str] = ()
    reading: Reading | None = None
    records: Sequence[Record] = ()
    standard_error: float | None = None

    @property
    def has_stages(self) -> bool:
        """Whether there are several stages, whose steps no share of all steps tells apart."""
        return len(self.settings.get("stages") or ()) > 1

    def has(self, *names: str) -> list[str]:
        """Return those of these settings that the recipe has."""
        return [name for name in names if name in self.settings]


def same_answers(facts: Facts) -> Finding | None:
    """Find outputs that hardly depend on the example."""
    if facts.spread is None or facts.spread >= MIN_SPREAD:
        return None
    given = f"; every validation example gets the answer {facts.only_answer}" if facts.only_answer is not None else ""
    said = f"the answers hardly depend on the {facts.kind}: they vary {_share(facts.spread)} as much as a linear model's{given}"
    rate = "" if facts.settings.get("optim.lr") == "auto" else ", or at another rate (--optim.lr auto)"
    fix = f"train longer ({_longer(facts)}){rate}"
    fix += ", and see in the log that the right column is read (--data.text)" if facts.kind == "text" else ""
    return Finding("D4", "warning", "result.json: metrics", said, fix)


def texts_are_cut(facts: Facts) -> Finding | None:
    """Find texts of which most are longer than what is read of them."""
    reading = facts.reading
    if reading is None or reading.truncated <= MOSTLY_CUT:
        return None
    read = {"head": "first ", "tail": "last "}.get(reading.truncation, "")
    of = f"windows of {reading.max_length} tokens" if reading.truncation == "windows" else f"{read}{reading.max_length} tokens"
    said = f"{_share(reading.truncated)} of the training texts are cut to their {of}"
    longest = reading.limit is not None and reading.enough > reading.limit
    length = reading.limit if longest else reading.enough
    whole = "the most that this model reads" if longest else "which holds nine of ten whole"
    ways = [f"--data.max_length {length}, {whole}"] if length is not None and length > reading.max_length else []
    cuts = ("tail",) if reading.is_pair else ("tail", "head_tail", "windows")
    others = [cut for cut in cuts if cut != reading.truncation]
    ways += [f"--data.truncation {_listed(others, 'or')}, which read other parts of them or all"] if others else []
    return Finding("D6", "warning", "config.yaml: data", said, f"give {'; or '.join(ways)}") if ways else None


def tokens_are_unknown(facts: Facts) -> Finding | None:
    """Find a tokenizer that does not know what it reads, of a run that was told to train all the same."""
    if facts.reading is None or facts.reading.unknown <= MANY_UNKNOWN:
        return None
    said = f"the tokenizer does not know {_share(facts.reading.unknown)} of the training tokens"
    fix = "take a model made for this language or these signs (--model.name), or ulmfit, whose tokenizer is trained on your texts"
    return Finding("D3", "warning", "config.yaml: model", said, fix)


def probe_is_better(facts: Facts) -> Finding | None:
    """Find a linear model over the pretrained model's own features that beats the trained one."""
    if _verdicts(facts).get("probe") != "worse" or not facts.has(PROBE):
        return None
    said = "a linear model over the pretrained model's features, untrained, is better than the trained model"
    begins = begins_at_probe(facts.settings[PROBE], num_texts=facts.num_train)
    lost = "training began there and lost it: train less, or at a lower rate (--optim.lr)"
    return Finding("T1", "warning", "result.json: against.probe", said, lost if begins else f"start from it: --{PROBE} always")


def labels_are_few(facts: Facts) -> Finding | None:
    """Find a run of few labels that is not clearly better than its baselines, where there is a recipe for that."""
    is_known = FEWSHOT in facts.recipes and facts.recipe != FEWSHOT and facts.kind == "text" and facts.num_per_class is not None
    if not is_known or not _may_be_as_good(vars(facts)):
        return None
    if facts.num_train >= FEW and (facts.num_per_class or 0) >= FEW_PER_CLASS:
        return None
    said = (
        f"there are {facts.num_train:,} training examples, {facts.num_per_class:.0f} of a label on average, and the model is not "
    )
    said += "clearly better than its baselines"
    return Finding("D1", "note", "result.json: against", said, f"label more, or try the recipe for few: nlpbp finetune {FEWSHOT}")


def still_improving(facts: Facts) -> Finding | None:
    """Find a training that ended while the validation score was still rising."""
    points, sign = _evaluations(facts)
    if len(points) < 2 or facts.standard_error is None:
        return None
    (_, before), (step, last) = points[-2:]
    metric = metric_of(facts.task)
    if last < max(value for _, value in points) or last - before <= facts.standard_error or (metric.is_share and last == 1.0):
        return None
    change = f"{metric.words} {sign * before:.4g} -> {sign * last:.4g} in the last evaluation, the best"
    said = f"the validation score was still improving at step {step:,} ({change})"
    return Finding("N2", "note", "metrics.jsonl", said, f"train longer ({_longer(facts)})")


def overfitting(facts: Facts) -> Finding | None:
    """Find a training that knows its examples by heart, or was best long before its end."""
    known = rules.overfit(facts.records)
    points, sign = _evaluations(facts)
    best_step, best = max(points, key=lambda point: point[1], default=(0, 0.0))
    is_worse = facts.standard_error is not None and bool(points) and best - points[-1][1] > facts.standard_error
    is_early = bool(points) and best_step <= points[-1][0] / 2
    if not known and not (is_worse and is_early):
        return None
    words = metric_of(facts.task).words
    said = (
        known[0].message
        if known
        else f"the validation {words} was best at step {best_step:,} ({sign * best:.4g}), and {sign * points[-1][1]:.4g} at the end"
    )
    stop = [f"--{name} 1" for name in facts.has("patience")]
    length = _length(facts)
    fewer = math.ceil(length[1] * best_step / points[-1][0]) if length and points else 0
    stop += [f"--{length[0]} {fewer}"] if length and 0 < fewer < length[1] and not facts.has_stages else []
    more = [f"--{name} {2 * float(facts.settings[name]):g}" for name in facts.has("dropout.scale")]
    fix = f"the best weights were kept; train less ({' or '.join(stop) or 'fewer epochs'}), or with more data"
    return Finding("N2", "note", "metrics.jsonl", said, fix + (f" or dropout ({more[0]})" if more else ""))


def label_is_never_answered(facts: Facts) -> Finding | None:
    """Find labels that validation examples have and that none of them is given."""
    names = facts.never_answered
    ways = [f"--{name}" for name in _for_balance(facts)] if names else []
    if not ways or same_answers(facts):
        return None
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    said = f"no validation example is given the label {_listed([*names[:MAX_NAMES], *more], 'or')}, which some have"
    return Finding("D4", "warning", "result.json: metrics", said, f"let rare labels count more: {' or '.join(ways)}")


ADVICE: tuple[Callable[[Facts], Finding | None], ...] = (
    same_answers,
    texts_are_cut,
    tokens_are_unknown,
    probe_is_better,
    labels_are_few,
    still_improving,
    overfitting,
    label_is_never_answered,
)


def advise(facts: Facts) -> list[Finding]:
    """Return all advice that applies, the first thing to repair first."""
    return [found for one in ADVICE if (found := one(facts)) is not None]


def closing_lines(
    result: Record, against: Sequence[str], advice: Sequence[Finding], *, out: str, warning: str = "", max_others: int = 2
) -> list[str]:
    """Return the last lines of a run: how it stands beside its baselines, and what to do now.

    `warning` is one of the task that was trained, if there is any.
    """
    lines = [*against]
    if against and "test" not in result["metrics"]:
        lines.append("all this is of the validation set, which chose the weights: slightly too optimistic")
    if advice:
        lines += [f"advice: {in_words(advice[0])}", *(f"also: {in_words(one)}" for one in advice[1 : 1 + max_others])]
    elif _may_be_as_good(result):
        lines.append(f"next: read the errors in {out}/report.html; train longer, on more data, or use the baseline")
    elif result.get("task") == LANGUAGE_MODEL:
        recurrent = result.get("recipe") == "lm_awd_lstm"
        start = f"ulmfit --lm.init {out}/model --lm.steps 0" if recurrent else f"--model.name {out}/model"
        lines.append(f"next: a classifier that starts from it: nlpbp finetune {start} --data.train labelled.csv")
    else:
        lines.append(f"next: nlpbp predict {out} --data new.csv")
    return [*lines, f"warning: {warning}"] if warning else lines


def in_words(finding: Finding) -> str:
    """Return a finding as two sentences: what is, and what to do."""
    return f"{finding.message}. {finding.fix[0].upper()}{finding.fix[1:]}."


def _verdicts(facts: Facts) -> dict[str, str]:
    return {kind: str(one["verdict"]) for kind, one in facts.against.items()}


def _may_be_as_good(result: Record) -> list[str]:
    """Name the baselines that may be as good as the model; none where its score is perfect, which cannot be beaten."""
    perfect = 1.0 if metric_of(str(result["task"])).higher_is_better else 0.0
    beside = beside_baselines(result)
    return [kind for kind, one in beside.items() if one["verdict"] != "better" and finite(one["model"]) != perfect]


def _evaluations(facts: Facts) -> tuple[list[tuple[int, float]], float]:
    """Return step and main validation score of each evaluation, so turned by the sign that goes with them that more is better."""
    metric = metric_of(facts.task)
    sign = 1.0 if metric.higher_is_better else -1.0
    scored = [record for record in facts.records if record.get("split") == "validation"]
    points = [(int(record["step"]), finite(record.get(metric.name))) for record in scored]
    return [(step, sign * value) for step, value in points if value is not None], sign


def _length(facts: Facts) -> tuple[str, int] | None:
    """Return the setting that says how long the training is, its last stage where there are several, and its value."""
    stages = facts.settings.get("stages") or ()
    last = finite(stages[-1].get("epochs")) if stages else None
    if last is not None:
        return f"stages.{len(stages) - 1}.epochs", int(last)
    names = ("epochs",) if stages else ("steps", "lm.steps", "epochs", "lm.epochs")
    values = {name: facts.settings[name] for name in names if isinstance(facts.settings.get(name), int)}
    return next(((name, value) for name, value in values.items() if value > 0), None)


def _longer(facts: Facts) -> str:
    """Return the flag that makes the training twice as long."""
    length = _length(facts)
    if length is None and facts.recipe == FEWSHOT:
        return f"with more --steps of nlpbp finetune {FEWSHOT}"
    return "with more epochs" if length is None else f"--{length[0]} {2 * length[1]}"


def _for_balance(facts: Facts) -> list[str]:
    """Return the flags that let rare labels count more, which are not given yet and have a meaning for the task."""
    task = get_task(facts.task)
    flags = []
    if facts.settings.get("optim.class_weights", "") is None and "class_weights" not in task.unsupported:
        flags.append("optim.class_weights auto")
    if facts.settings.get("data.balanced_sampling") is False and task.target_type == "multiclass":
        flags.append("data.balanced_sampling")
    return flags


def _listed(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _share(value: float) -> str:
    return "less than 1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"
