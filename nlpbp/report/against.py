"""A model beside its baselines, in words."""

from __future__ import annotations

from nlpbp.evaluation.run_folder import Record, at
from nlpbp.report.cells import baseline_words
from nlpbp.tasks.differences import beside_baselines
from nlpbp.tasks.task import metric_of

BEGINS = {"better": "better than {}", "worse": "worse than {}", "unclear": "no better than {} by more than luck"}


def against_sentences(result: Record) -> list[str]:
    """Say of each baseline in `result.json` whether the model is better than it, by more than the luck of the examples.

    >>> against = {"tfidf": {"metric": "accuracy", "model": 0.831, "baseline": 0.78, "difference": 0.051,
    ...     "interval": [0.024, 0.078], "verdict": "better"}}
    >>> print(*against_sentences({"task": "single_label", "against": against}))
    better than TF-IDF with a linear model: accuracy 0.831 against 0.780, +0.051 [+0.024, +0.078]
    """
    task = str(result["task"])
    return [_sentence(task, baseline_words(task, kind), one) for kind, one in beside_baselines(result).items()]


def _sentence(task: str, name: str, one: Record) -> str:
    metric = metric_of(task, str(one["metric"])).words.partition(",")[0]  # without its unit
    difference, interval = one["difference"], one["interval"]
    if difference is None:
        return f"not compared with {name}: the {metric} is undefined on these examples"
    if difference == 0 and interval in (None, [0.0, 0.0]):
        return f"no better than {name}: {metric} {_number(one['model'])} of both"
    held = "" if interval is None else f" [{_signed(interval[0])}, {_signed(interval[1])}]"
    numbers = f"{metric} {_number(one['model'])} against {_number(one['baseline'])}, {_signed(difference)}{held}"
    return f"{BEGINS[one['verdict']].format(name)}: {numbers}"


def is_better(result: Record) -> bool | None:
    """Tell whether the model is better than all its baselines; None where luck could be why, or there is none.

    >>> is_better({"against": {"tfidf": {"verdict": "worse"}, "majority": {"verdict": "better"}}})
    False
    """
    verdicts = {at(one, "verdict") for one in beside_baselines(result).values()}
    return False if "worse" in verdicts else True if verdicts == {"better"} else None


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) < 1000 else f"{value:+.4g}"
