"""Tasks, one file each: the loss, what logits mean, metrics, decisions and baselines. `nlpbp.core.task` has the table of them."""

from nlpbp.tasks.outputs import classifier_loss, task_loss, task_outputs
from nlpbp.tasks.scores import bootstrap_intervals, decide, task_metrics, weighted_metrics
from nlpbp.tasks.task import Metric, Task, get_task

__all__ = [
    "Metric",
    "Task",
    "bootstrap_intervals",
    "classifier_loss",
    "decide",
    "get_task",
    "task_loss",
    "task_metrics",
    "task_outputs",
    "weighted_metrics",
]
