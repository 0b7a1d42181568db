"""Losses on logits: the stable log-softmax and sigmoid forms, so that no probability is ever rounded to 0 before its logarithm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpbp.core.batch import Batch, LossFn

IGNORED = -100  # the label that torch leaves out of a loss


def task_loss(logits: Tensor, labels: Tensor, *, task: str, label_smoothing: float = 0.0) -> Tensor:
    """Compute a task's mean loss from `logits` [batch, labels], always in fp32.

    single_label: log-softmax cross-entropy with int64 labels [batch], -100 for none; multi_label: sigmoid cross-entropy with labels
    in [0, 1] [batch, labels]; regression: squared error with labels [batch]. Smoothing moves that share of each
    target to the uniform distribution (Szegedy et al. 2015); regression has none to move.

    >>> import torch
    >>> task_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([0]), task="single_label").item()
    0.0
    """
    logits = logits.float()
    if task == "single_label":
        # The mean over no label at all would be 0 / 0.
        total = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)
    if task == "multi_label":
        smoothed = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
        return F.binary_cross_entropy_with_logits(logits, smoothed)
    if task == "regression":
        return F.mse_loss(logits.squeeze(-1), labels)
    raise ValueError(f"the task is single_label, multi_label or regression, not {task!r}")


def classifier_loss(*, task: str, label_smoothing: float = 0.0) -> LossFn:
    """Make the loss function of a model whose output has `logits`, for `train_steps` or any other loop."""

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be trained on")
        return task_loss(model(**batch.inputs).logits, batch.labels, task=task, label_smoothing=label_smoothing)

    return loss_fn


def task_outputs(logits: Tensor, *, task: str) -> Tensor:
    """Turn logits into what a reader wants: probabilities [batch, labels], or values [batch] for regression.

    >>> import torch
    >>> task_outputs(torch.zeros(1, 2), task="single_label")
    tensor([[0.5000, 0.5000]])
    """
    logits = logits.float()
    if task == "single_label":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if task == "multi_label" else logits.squeeze(-1)


LOGITS_AT_A_TIME = 1 << 21  # 8 MB of them in fp32: measured the fastest on CPUs with 2 MB of cache a core ...
MIN_ROWS = 200  # ... unless each chunk's product is so thin that adding to the decoder's gradient is what takes the time


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of the logits `hidden @ weight.T + bias`, in fp32, with few of them in memory at a time.

    `hidden` [..., width], `weight` [vocabulary, width], `bias` [vocabulary]; `labels` [...] int64, -100 for none. The gradient is
    made along with the loss, a chunk at a time, so no logits are kept or computed again. Matrix products are in autocast's number
    format where it is on. torch's own `linear_cross_entropy` is not known to autocast, and rounds the loss with its inputs.

    >>> hidden, weight = torch.zeros(2, 3), torch.zeros(4, 3)
    >>> round(chunked_cross_entropy(hidden, weight, None, torch.tensor([1, -100])).item(), 4)  # log(4)
    1.3863
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    flat = hidden.reshape(-1, hidden.shape[-1])
    loss: Tensor = _ChunkedCrossEntropy.apply(flat, weight, bias, labels.reshape(-1), dtype, torch.is_grad_enabled())
    return loss


def sampled_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *, num_sampled: int) -> Tensor:
    """Estimate `chunked_cross_entropy` from the logits of all tokens among `labels` and of `num_sampled` others.

    The others are drawn evenly and without replacement, and stand in the sum of the softmax for all that were not drawn: the sum
    is unbiased, and what is most of it, the tokens that are there, is exact (importance sampling, Bengio and Senecal 2003). A
    decoder over 16,000 tokens then costs about a sixth. For training only.

    >>> hidden, weight, bias = torch.zeros(2, 3), torch.zeros(400, 3), torch.zeros(400)
    >>> round(sampled_cross_entropy(hidden, weight, bias, torch.tensor([1, 7]), num_sampled=10).item(), 4)  # log(400)
    5.9915
    """
    seen, places = labels[labels != IGNORED].unique(return_inverse=True)
    is_other = torch.ones(len(weight), dtype=torch.bool, device=labels.device)
    is_other[seen] = False
    others = is_other.nonzero().squeeze(1)
    drawn = others[torch.randperm(len(others), device=labels.device)[:num_sampled]]
    chosen = torch.cat([seen, drawn])
    log_share = torch.zeros(len(chosen), device=hidden.device)  # of tokens that each stands for
    log_share[len(seen) :] = math.log(max(1, len(others)) / max(1, len(drawn)))
    targets = labels.masked_scatter(labels != IGNORED, places)
    return chunked_cross_entropy(hidden, weight[chosen], log_share if bias is None else bias[chosen] + log_share, targets)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, dtype: torch.dtype, with_gradient: bool
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            low_weight, low_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            num_labels = (labels != IGNORED).sum().clamp(min=1)
            gradients = [
                torch.zeros_like(given) if given is not None and with_gradient else None for given in (hidden, weight, bias)
            ]
            of_hidden, of_weight, of_bias = gradients
            total = hidden.new_zeros((), dtype=torch.float32)
            size = max(MIN_ROWS, LOGITS_AT_A_TIME // len(weight))
            for start in range(0, len(hidden), size):
                part, targets = hidden[start : start + size].to(dtype), labels[start : start + size]
                logits = F.linear(part, low_weight, low_bias).float()
                log_total = logits.logsumexp(dim=1, keepdim=True)
                wanted = (targets != IGNORED).unsqueeze(1)
                places = targets.clamp(min=0).unsqueeze(1)
                total += torch.where(wanted, log_total - logits.gather(1, places), 0.0).sum()
                if of_hidden is None or of_weight is None:
                    continue
                slope = logits.sub_(log_total).exp_()
                slope.scatter_add_(1, places, torch.full_like(log_total, -1.0)).mul_(wanted / num_labels)
                low_slope = slope.to(dtype)
                of_hidden[start : start + size] = low_slope @ low_weight
                if dtype == of_weight.dtype:
                    of_weight.addmm_(low_slope.T, part)  # one pass over a large matrix fewer
                else:
                    of_weight += low_slope.T @ part
                if of_bias is not None:
                    of_bias += slope.sum(dim=0)
        ctx.save_for_backward(*gradients)
        return total / num_labels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (*(None if made is None else made * grad for made in ctx.saved_tensors), None, None, None)
