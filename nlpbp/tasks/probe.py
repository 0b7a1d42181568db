"""The linear probe: a head fitted on the states of a frozen model, in seconds, for any task.

It tells what a pretrained model knows before it is fine-tuned (Alain and Bengio 2016), and fine-tuning may begin at its weights
(LP-FT; Kumar et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nlpbp.core.losses import PLAIN
from nlpbp.core.task import target_type
from nlpbp.tasks.outputs import task_outputs
from nlpbp.tasks.task import Array, get_task

L2 = (3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2)  # penalties that are tried, from the strongest; of states of variance 1
NUM_FOLDS = 5
LARGE = 5_000_000  # targets times features: beyond that, one fold chooses the penalty as well as five do
MAX_ITERATIONS = 60


@dataclass(frozen=True)
class Probe:
    """A fitted linear head: `weight` [outputs, width], `bias` [outputs], and how its L2 penalty was chosen.

    `loss` is the cross-validated loss at that penalty, infinite where there were too few examples to hold any out.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    loss: float

    def logits(self, states: Array) -> Tensor:
        """Return the logits [n, outputs] of states [n, width]."""
        return torch.from_numpy(np.asarray(states, dtype=np.float32)) @ self.weight.T + self.bias


def fit_probe(task: str, states: Array, targets: Array, *, num_outputs: int, seed: int = 0, l2: float | None = None) -> Probe:
    """Fit a linear head on states [n, width] for a task's targets: its loss with an L2 penalty that cross-validation chooses.

    Give the penalty `l2` for states that were trained on these targets: held-out examples would be none there.

    Logistic regression for classes and labels, ridge regression for numbers, by L-BFGS from zero weights. Targets as in
    `task_metrics`; a class without examples is never answered. Raises `ValueError` without examples.

    >>> states = np.array([[0.0, 1.0], [0.2, 1.0], [1.0, 1.0], [0.9, 1.0]] * 4)
    >>> probe = fit_probe("single_label", states, np.array([0, 0, 1, 1] * 4), num_outputs=2)
    >>> probe.logits(states[:4]).argmax(dim=1).tolist()
    [0, 0, 1, 1]
    """
    if not len(states):
        raise ValueError("a probe needs at least one example")
    x = torch.from_numpy(np.asarray(states, dtype=np.float32))
    mean = x.mean(dim=0)
    scale = float((x - mean).square().mean().sqrt()) or 1.0
    x = (x - mean) / scale
    y = torch.from_numpy(np.asarray(targets, dtype=np.int64 if target_type(task) == "multiclass" else np.float32))
    loss = float("inf")
    if l2 is None:
        loss, l2 = _choose_l2(task, x, y, num_outputs=num_outputs, seed=seed)
    weight, bias = _path(task, x, y, num_outputs=num_outputs, l2=[*(one for one in L2 if one > l2), l2])[-1]
    weight = weight / scale
    return Probe(weight, bias - weight @ mean, l2, loss)


def probe_outputs(task: str, probe: Probe, states: Sequence[Array]) -> list[Array]:
    """Return the probe's outputs for several sets of states, in the shape of a model's."""
    return [np.asarray(task_outputs(probe.logits(each), task=task).numpy()) for each in states]


def _choose_l2(task: str, x: Tensor, y: Tensor, *, num_outputs: int, seed: int) -> tuple[float, float]:
    """Return the lowest cross-validated loss and its penalty; without enough examples the strongest penalty."""
    folds = _folds(task, y, seed=seed)
    if x.shape[0] * x.shape[1] * num_outputs > LARGE:
        folds = folds[:1]
    if not folds:
        return float("inf"), L2[0]
    loss = get_task(task).loss
    sums = np.zeros(len(L2))
    for held_out in folds:
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[held_out] = False
        fitted = _path(task, x[kept], y[kept], num_outputs=num_outputs, l2=L2)
        sums += [float(loss(x[held_out] @ weight.T + bias, y[held_out], PLAIN)) * len(held_out) for weight, bias in fitted]
    losses = sums / sum(map(len, folds))
    best = int(losses.argmin())
    return float(losses[best]), L2[best]


def _folds(task: str, y: Tensor, *, seed: int) -> list[Tensor]:
    """Deal the examples to folds, each class evenly; none where the smallest class has one example."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    if target_type(task) == "multiclass":
        order = order[y[order].argsort(stable=True)]
        num = min(NUM_FOLDS, int(torch.bincount(y).max()))
    else:
        num = min(NUM_FOLDS, len(y))
    return [order[first::num] for first in range(num)] if num > 1 else []


def _path(task: str, x: Tensor, y: Tensor, *, num_outputs: int, l2: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Fit at each penalty, from the strongest on, each from the one before."""
    loss = get_task(task).loss
    weight = torch.zeros(num_outputs, x.shape[1], requires_grad=True)
    bias = torch.zeros(num_outputs, requires_grad=True)
    fitted = []
    for penalty in l2:
        lbfgs = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

        def closure(optimizer: torch.optim.LBFGS = lbfgs, penalty: float = penalty) -> Tensor:
            optimizer.zero_grad()
            total = loss(x @ weight.T + bias, y, PLAIN) + penalty / 2 * weight.square().sum()
            total.backward()
            return total

        lbfgs.step(closure)
        fitted.append((weight.detach().clone(), bias.detach().clone()))
    return fitted
