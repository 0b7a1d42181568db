"""What a task is, and how one is found by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from nlpbp.core.errors import ConfigError
from nlpbp.core.losses import LogitsLoss
from nlpbp.core.task import TASKS, TargetType, problem_type, target_type
from nlpbp.evaluation.metrics import Floats
from nlpbp.evaluation.thresholds import Thresholds

Array = np.ndarray[Any, Any]
Predict = Callable[[Any], Array]  # features of examples [n, d] -> outputs in the shape of a model's


@dataclass(frozen=True)
class Metric:
    """A metric's name as in `result.json`, whether more is better, what a person calls it, and whether it runs from 0 to 1."""

    name: str
    higher_is_better: bool
    words: str
    is_share: bool = False


@dataclass(frozen=True)
class Task:
    """All that differs between two tasks. Shapes: n examples, k labels, r weightings.

    `loss` is over logits [n, k]; `outputs` makes probabilities [n, k] or values [n] of them. `decide` makes class ids [n], labels
    that hold [n, k] or values [n] of outputs and thresholds. `measure` gives each metric [r] of targets, outputs, decisions and
    how often each example counts [r, n]. `constant` is the best answer without looking at an example, from training targets and
    the number of labels; `fit_linear` fits a linear model on features, targets, number of labels and seed.
    `chance_loss` is the loss of the best constant answer to training targets, infinite where a loss has no such scale.
    `initial_bias` is the output bias [k] whose answer is `constant`, from training targets and the number of labels; None where
    that is 0. `choose_thresholds` finds thresholds [k] from validation targets and outputs, where decisions have any. `usage` are
    lines of Python for the model card: with a pipeline `classify`, they make of a call and its options the run's own `answer`.
    `constant_name` is the constant baseline's name in `result.json`, `constant_words` what a person calls it.
    `unsupported` are settings of the optimizer's section that have no meaning for the task. `check_labels` raises `ConfigError` for
    labels that cannot be the task's; with them goes whether their order was given. `is_ordered` says that it learns this order.
    """

    name: str
    metrics: Sequence[Metric]
    main_metric: str
    loss: LogitsLoss
    outputs: Callable[[Tensor], Tensor]
    decide: Callable[[Floats, Array | None], Array]
    measure: Callable[[Array, Floats, Array, Floats], dict[str, Floats]]
    constant: Callable[[Array, int], Array]
    fit_linear: Callable[[Any, Array, int, int], Predict]
    chance_loss: Callable[[Array], float]
    usage: Callable[[str, str], list[str]]
    initial_bias: Callable[[Array, int], Array] | None = None
    choose_thresholds: Callable[[Array, Array], Thresholds] | None = None
    constant_name: str = "majority"
    constant_words: str = "the most frequent answer"
    unsupported: tuple[str, ...] = ()
    check_labels: Callable[[Sequence[str], bool], None] = lambda labels, are_ordered: None
    is_ordered: bool = False

    @property
    def target_type(self) -> TargetType:
        """The type of the targets, in scikit-learn's words."""
        return target_type(self.name)

    @property
    def has_probabilities(self) -> bool:
        """Whether outputs are probabilities, which can be calibrated and surely wrong."""
        return self.target_type != "continuous"

    @property
    def main(self) -> Metric:
        """The metric that chooses weights and that a verdict is about."""
        return self.metric(self.main_metric)

    def metric(self, name: str) -> Metric:
        """Return one of the task's metrics by its name. Raises `ValueError` for another name."""
        return _named(name, self.metrics)


def get_task(name: str) -> Task:
    """Return the task of that name. Raises `ConfigError` for one that does not exist.

    >>> get_task("single_label").main_metric
    'accuracy'
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task {name!r}", column="data.task", hint=f"known: {', '.join(TASKS)}")
    task: Task = importlib.import_module(TASKS[name][0]).TASK
    return task


LANGUAGE_MODEL = "language_model"
LANGUAGE_MODEL_METRICS = (Metric("loss", False, "loss, nats a token"), Metric("perplexity", False, "perplexity"))
"""A language model is trained for its loss; perplexity says the same to people. It has no labels, and is no `Task`."""


def metric_of(task: str, name: str | None = None) -> Metric:
    """Return a metric of a run's task by name, or the main one; language models included.

    >>> metric_of("regression").name, metric_of("language_model").name, metric_of("single_label", "log_loss").higher_is_better
    ('rmse', 'loss', False)
    """
    if task != LANGUAGE_MODEL:
        return get_task(task).main if name is None else get_task(task).metric(name)
    return LANGUAGE_MODEL_METRICS[0] if name is None else _named(name, LANGUAGE_MODEL_METRICS)


def _named(name: str, metrics: Sequence[Metric]) -> Metric:
    found = {metric.name: metric for metric in metrics}
    if name not in found:
        raise ValueError(f"unknown metric {name!r}: one of {', '.join(found)}")
    return found[name]


def is_known(task: str) -> bool:
    """Tell whether runs of this task are nlpbp's: a task, or the training of a language model.

    >>> is_known("ordinal"), is_known("language_model"), is_known("ranking")
    (True, True, False)
    """
    return task in TASKS or task == LANGUAGE_MODEL


@cache
def all_metrics() -> dict[str, Metric]:
    """Return each metric of each task, by its name.

    >>> all_metrics()["ece"].words
    'calibration error'
    """
    metrics = [*LANGUAGE_MODEL_METRICS, *(metric for name in TASKS for metric in get_task(name).metrics)]
    return {metric.name: metric for metric in metrics}


def task_of_config(config: Any) -> str:
    """Return the task that a saved model was trained for, from its transformers config.

    Models of other tools say only their `problem_type`, which the first task of its kind answers to.

    >>> from types import SimpleNamespace
    >>> task_of_config(SimpleNamespace(problem_type="regression")), task_of_config(SimpleNamespace(nlpbp_task="ordinal"))
    ('regression', 'ordinal')
    """
    named = getattr(config, "nlpbp_task", None)
    if named in TASKS:
        return str(named)
    kind = getattr(config, "problem_type", None)
    return next((name for name in TASKS if problem_type(name) == kind), "single_label")
