"""The tasks that a model can be trained for. A new task is its module in `nlpbp.tasks` and a line here."""

from __future__ import annotations

from typing import Literal

TargetType = Literal["multiclass", "multilabel-indicator", "continuous"]
"""What the targets are, in scikit-learn's words (`sklearn.utils.multiclass.type_of_target`): one class of several, zeros and ones
for each of several labels, or a number."""

TASKS: dict[str, tuple[str, TargetType]] = {
    "single_label": ("nlpbp.tasks.single_label", "multiclass"),
    "multi_label": ("nlpbp.tasks.multi_label", "multilabel-indicator"),
    "regression": ("nlpbp.tasks.regression", "continuous"),
    "ordinal": ("nlpbp.tasks.ordinal", "multiclass"),
}
"""Name of each task: the module that defines it, and the type of its targets."""

PROBLEM_TYPES: dict[TargetType, str] = {
    "multiclass": "single_label_classification",
    "multilabel-indicator": "multi_label_classification",
    "continuous": "regression",
}
"""What the config of a transformers model calls it: `pipeline` applies softmax, sigmoid or nothing to the logits accordingly."""


def target_type(task: str) -> TargetType:
    """Return the type of a task's targets. Raises `ValueError` for a task that does not exist.

    >>> target_type("single_label"), target_type("regression")
    ('multiclass', 'continuous')
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: one of {', '.join(TASKS)}")
    return TASKS[task][1]


def problem_type(task: str) -> str:
    """Return what a transformers config calls the task.

    >>> problem_type("multi_label")
    'multi_label_classification'
    """
    return PROBLEM_TYPES[target_type(task)]
