"""Losses on logits, in the numerically stable log-softmax and log-sigmoid forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nlpbp.core.layers import scaled_sigmoid

IGNORED = -100  # the label that torch's losses ignore
ROWS_TO_JUDGE = 8  # fewer rows may look like probabilities by chance


@dataclass(frozen=True)
class LossOptions:
    """What changes a loss.

    `label_smoothing` moves that share of each target to the uniform distribution (Szegedy et al. 2015). `class_weights` [labels]
    multiply the loss of each item by its label's weight. The mean is still over items: torch divides by the sum of the weights,
    which makes gradients depend on how a batch is cut. `focal_gamma` turns to what is still hard: the loss of an item is
    multiplied by (1 - p) ** gamma, p the probability of the truth (Lin et al. 2017). `asymmetric` is the gamma of true labels, that
    of false ones and the margin of `asymmetric_loss`. Raises `ValueError` for these two together, or of smoothed targets.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    focal_gamma: float = 0.0
    asymmetric: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.asymmetric is not None and (self.focal_gamma or self.label_smoothing):
            raise ValueError("an asymmetric loss has no other gamma and no label smoothing")
        if self.focal_gamma < 0.0 or (self.focal_gamma and self.label_smoothing):
            given = f"{self.focal_gamma} and {self.label_smoothing}"
            raise ValueError(f"a focal loss has a gamma above 0 and no label smoothing, not {given}")


PLAIN = LossOptions()
LogitsLoss = Callable[[Tensor, Tensor, LossOptions], Tensor]  # (logits [batch, labels], labels, options) -> the mean loss, in fp32


def cross_entropy(logits: Tensor, labels: Tensor, options: LossOptions = PLAIN) -> Tensor:
    """Compute the mean log-softmax cross-entropy of `logits` [batch, labels] and int64 `labels` [batch], -100 for none.

    Floating-point labels [batch, labels] are probabilities, as a teacher gives them; these have no focal loss and no weights.

    >>> cross_entropy(torch.tensor([[1e4, -1e4]]), torch.tensor([0])).item()
    0.0
    >>> even, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> round(cross_entropy(even, labels, LossOptions(class_weights=torch.tensor([0.5, 2.0]))).item(), 4)  # 1.25 * log(2)
    0.8664
    >>> round(cross_entropy(even, labels, LossOptions(focal_gamma=2.0)).item(), 4)  # 0.5 ** 2 * log(2)
    0.1733
    >>> round(cross_entropy(even, torch.tensor([[0.9, 0.1], [0.5, 0.5]])).item(), 4)  # log(2)
    0.6931
    """
    _refuse_asymmetric(options)
    logits = logits.float()
    if labels.is_floating_point():
        if options.focal_gamma or options.class_weights is not None:
            raise ValueError("labels that are probabilities have no focal loss and no class weights")
        return F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing, reduction="none")
    if options.focal_gamma:
        loss = loss * _share_left(loss).pow(options.focal_gamma)
    return mean_over_labels(loss, labels, options.class_weights)


def mean_over_labels(loss: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Average losses [batch], 0 for an item without a label, over the items that have one, each times the weight of its label.

    >>> mean_over_labels(torch.tensor([1.5, 0.0]), torch.tensor([0, -100]), torch.tensor([2.0])).item()
    3.0
    """
    if class_weights is not None:
        loss = loss * class_weights.to(loss)[labels.clamp(min=0)]
    # The mean over no label at all would be 0 / 0.
    return loss.sum() / (labels != IGNORED).sum().clamp(min=1)


def binary_cross_entropy(logits: Tensor, labels: Tensor, options: LossOptions = PLAIN) -> Tensor:
    """Compute the mean sigmoid cross-entropy of `logits` and `labels` in [0, 1], both [batch, labels].

    Class weights multiply the loss of the true labels alone. With `asymmetric` options it is `asymmetric_loss`.

    >>> round(binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item(), 4)  # log(2)
    0.6931
    """
    logits = logits.float()
    weights = None if options.class_weights is None else options.class_weights.to(logits)
    if options.asymmetric is not None:
        gamma_pos, gamma_neg, margin = options.asymmetric
        loss = asymmetric_loss(logits, labels, gamma_pos=gamma_pos, gamma_neg=gamma_neg, margin=margin)
        return (loss if weights is None else loss * torch.where(labels > 0, weights, 1.0)).mean()
    smoothed = labels * (1.0 - options.label_smoothing) + 0.5 * options.label_smoothing
    loss = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights, reduction="none")
    if options.focal_gamma:
        truth = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        loss = loss * _share_left(truth).pow(options.focal_gamma)
    return loss.mean()


def asymmetric_loss(logits: Tensor, labels: Tensor, *, gamma_pos: float, gamma_neg: float, margin: float) -> Tensor:
    """Compute the asymmetric loss (Ridnik et al. 2021) of each of `logits` and `labels` of 0 and 1, both [batch, labels].

    Of many labels nearly all are false, and easily so. A true one costs -(1 - p) ** gamma_pos * log(p), a false one
    -q ** gamma_neg * log(1 - q), with q = max(p - margin, 0): false labels below the margin cost nothing. With all three at 0 it is
    the binary cross-entropy.

    >>> logits, labels = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    >>> asymmetric_loss(logits, labels, gamma_pos=0.0, gamma_neg=2.0, margin=0.25)  # log(2), 0.25 ** 2 * log(4 / 3)
    tensor([[0.6931, 0.0180]])
    """
    logits = logits.float()
    log_margin = torch.full_like(logits, margin).log()
    if_true = -F.logsigmoid(logits)
    if_false = -torch.logaddexp(F.logsigmoid(-logits), log_margin).clamp(max=0.0)  # 1 - q = min(1 - p + margin, 1)
    if gamma_pos:
        if_true = if_true * _share_left(if_true).pow(gamma_pos)
    if gamma_neg:
        if_false = if_false * _share_left(if_false).pow(gamma_neg)
    return labels * if_true + (1.0 - labels) * if_false


def squared_error(logits: Tensor, labels: Tensor, options: LossOptions = PLAIN) -> Tensor:
    """Compute the mean squared error of `logits` [batch, 1] and `labels` [batch].

    Raises `ValueError` for class weights and a focal loss: a number has neither classes nor probabilities. There is nothing to
    smooth either.

    >>> squared_error(torch.tensor([[3.0]]), torch.tensor([1.0])).item()
    4.0
    """
    _refuse_asymmetric(options)
    if options.class_weights is not None or options.focal_gamma:
        raise ValueError("regression has no classes to weigh and no probabilities to focus by")
    return F.mse_loss(logits.float().squeeze(-1), labels)


def cosine_similarity_loss(vectors: Tensor, alike: Tensor) -> Tensor:
    """Compute the mean squared difference of the cosines of all pairs of a group and what they are to be, as a mean over groups.

    `vectors` are [groups, size, width]; `alike` [groups, size, size] is true for two of a class, whose cosine is to be 1; that of
    others is to be 0, as in SetFit (Tunstall et al. 2022). Pairs of either kind count as much as the other kind together, where a
    group has both. In fp32; a vector of zeros has a cosine of 0 with any other.

    >>> vectors = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]]])
    >>> cosine_similarity_loss(vectors, torch.tensor([[[True, True, False], [True, True, False], [False, False, True]]])).item()
    0.0
    >>> cosine_similarity_loss(vectors, torch.ones(1, 3, 3, dtype=torch.bool)).item()  # two of three cosines are 0
    0.6666666865348816
    """
    one = F.normalize(vectors.float(), dim=-1)
    first, second = torch.triu_indices(one.shape[1], one.shape[1], offset=1, device=one.device)
    cosines = (one[:, first] * one[:, second]).sum(dim=-1)  # [groups, pairs]
    same = alike[:, first, second].float()
    errors = (cosines - same).square()
    sums = torch.stack([(errors * same).sum(dim=1), (errors * (1.0 - same)).sum(dim=1)])
    counts = torch.stack([same.sum(dim=1), (1.0 - same).sum(dim=1)])
    return ((sums / counts.clamp(min=1.0)).sum(dim=0) / (counts > 0).sum(dim=0)).mean()


PROBLEM_LOSSES: dict[str, LogitsLoss] = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": squared_error,
}
"""The loss of a transformers model that is given labels, by its config's `problem_type`."""


def _refuse_asymmetric(options: LossOptions) -> None:
    if options.asymmetric is not None:
        raise ValueError("an asymmetric loss is for several labels an example")


def _share_left(loss: Tensor) -> Tensor:
    """Return 1 - p, where p = exp(-loss) is the probability of the true class; never 0, where powers below 1 have no finite
    gradient."""
    return (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).tiny)


def balanced_class_weights(targets: Tensor, *, num_labels: int) -> Tensor:
    """Weigh labels so that the rare ones count as much as the common: `class_weights` [labels] for a loss, from all targets.

    Targets [examples] of class ids: each class that occurs has the same sum of weights, and the mean weight of an example is 1, so
    the learning rate keeps its meaning; a class that never occurs gets 1. Targets [examples, labels] of 0 and 1: false
    ones for each true one, both counted as 1 at least. Raises `ValueError` for a label that there is not.

    >>> balanced_class_weights(torch.tensor([0, 0, 0, 1]), num_labels=2).tolist()  # 4 / (2 * 3), 4 / (2 * 1)
    [0.6666666865348816, 2.0]
    >>> balanced_class_weights(torch.tensor([[1, 1], [0, 1], [0, 1]]), num_labels=2).tolist()
    [2.0, 0.3333333432674408]
    """
    if targets.ndim == 1:
        counts = targets[targets != IGNORED].bincount(minlength=num_labels)
        if len(counts) > num_labels:
            raise ValueError(f"label {len(counts) - 1} is not one of {num_labels} labels")
        return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts), 1.0)
    if targets.shape[1] != num_labels:
        raise ValueError(f"the targets have {targets.shape[1]} labels, not {num_labels}")
    true = targets.float().sum(dim=0)
    return (len(targets) - true).clamp(min=1) / true.clamp(min=1)


def looks_normalised(logits: Tensor) -> bool:
    """Tell whether supposed logits [batch, labels] are probabilities already: a second softmax slows training down.

    True if each of 8 rows or more has no negative number and the sum 1 within 1e-3, or within what the number format can tell.
    Log-probabilities pass: a log-softmax of them changes nothing.

    >>> logits = torch.randn(8, 3)
    >>> looks_normalised(logits), looks_normalised(logits.log_softmax(-1)), looks_normalised(logits.softmax(-1))
    (False, False, True)
    """
    if len(logits) < ROWS_TO_JUDGE or logits.shape[1] < 2:
        return False
    tolerance = max(1e-3, torch.finfo(logits.dtype).eps)
    return bool((logits >= 0).all() and ((logits.float().sum(dim=1) - 1).abs() < tolerance).all())


def within(logits: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    """Take a regression's logits into its range, where it has one.

    >>> within(torch.zeros(1), (0.0, 4.0)), within(torch.zeros(1), None)
    (tensor([2.]), tensor([0.]))
    """
    return logits if value_range is None else scaled_sigmoid(logits, low=value_range[0], high=value_range[1], margin=0.0)


LOGITS_AT_A_TIME = 1 << 21  # 8 MB of logits in fp32: measured to be fastest on CPUs with 2 MB of cache per core ...
MIN_ROWS = 200  # ... unless each chunk's matrix product is so thin that accumulating the decoder's gradient dominates


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of the logits `hidden @ weight.T + bias`, in fp32, with few of them in memory at a time.

    `hidden` [..., width], `weight` [vocabulary, width], `bias` [vocabulary]; `labels` [...] int64, -100 for none. The gradient is
    computed along with the loss, one chunk at a time, so that logits are neither stored nor recomputed. Under autocast, matrix
    products use its dtype. torch's own `linear_cross_entropy` does not support autocast, and computes the loss in the dtype of its
    inputs.

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
    """Estimate `chunked_cross_entropy` by a sampled softmax over all tokens among `labels` and `num_sampled` others.

    The others are drawn uniformly without replacement, and weighted to represent all tokens that are not among the labels: the
    denominator of the softmax is unbiased, and its largest terms, those of the labels, are exact (importance sampling, Bengio and
    Senecal 2003). A decoder over 16,000 tokens then costs about a sixth. For training only.

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
    log_share = torch.zeros(len(chosen), device=hidden.device)  # of tokens that each one represents
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
                    of_weight.addmm_(low_slope.T, part)  # saves one pass over a large matrix
                else:
                    of_weight += low_slope.T @ part
                if of_bias is not None:
                    of_bias += slope.sum(dim=0)
        ctx.save_for_backward(*gradients)
        return total / num_labels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (*(None if made is None else made * grad for made in ctx.saved_tensors), None, None, None)
