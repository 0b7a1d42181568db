"""Dropout: one multiplier over all of a model's dropouts in their own ratio, and masks from random bytes where torch is slow;
and penalties on activations, which the gradient sees and the reported loss does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # of the same width in bytes
_LEVELS = 1 << 16  # a mask is drawn from 16 random bits an element: p is kept to within 1/131072


def scale_dropouts(config: Any, scale: float) -> dict[str, float]:
    """Multiply every dropout probability of a transformers config by `scale`; return the new probabilities by name.

    Hidden, attention and head dropouts keep their ratios, like AWD-LSTM's and ULMFiT's single dropout multiplier. Build the model
    from the config afterwards. Raises `ValueError` for a negative scale, or one that raises a probability to 1 or more.

    >>> from types import SimpleNamespace
    >>> scale_dropouts(SimpleNamespace(hidden_dropout_prob=0.1, attn_pdrop=0.2, hidden_size=8), 0.5)
    {'hidden_dropout_prob': 0.05, 'attn_pdrop': 0.1}
    """
    if scale < 0.0:
        raise ValueError(f"the dropout scale must not be negative, not {scale}")
    scaled = {}
    for name, value in vars(config).items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            if value * scale >= 1.0:
                raise ValueError(f"dropout scale {scale} takes {name} from {value} to {value * scale}, which drops everything")
            scaled[name] = value * scale
    for name, value in scaled.items():
        setattr(config, name, value)
    return scaled


def activation_penalty(hidden: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the mean square of activations [batch, length, width]: activation regularisation (AR; Merity, McCann and Socher 2017).

    `mask` [batch, length] is true for tokens; padding does not count. Pass the last layer's outputs after dropout; AWD-LSTM's
    factor alpha is 2.

    >>> activation_penalty(torch.tensor([[[1.0], [3.0]]])).item()
    5.0
    """
    return _masked_mean(hidden.float().square().mean(dim=-1), mask)


def temporal_penalty(hidden: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the mean square of the difference between consecutive time steps of activations [batch, length, width] (temporal AR,
    TAR).

    Only pairs of tokens by `mask` [batch, length] count. Pass the last layer's outputs before dropout; AWD-LSTM's factor beta is 1.
    For a sequence of one step it is 0.

    >>> temporal_penalty(torch.tensor([[[1.0], [3.0], [3.0]]])).item()
    2.0
    """
    if hidden.shape[1] < 2:
        return hidden.float().sum() * 0.0
    changes = hidden.float().diff(dim=1).square().mean(dim=-1)
    return _masked_mean(changes, None if mask is None else mask[:, 1:].bool() & mask[:, :-1].bool())


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    return torch.where(mask.bool(), values, 0.0).sum() / mask.sum().clamp(min=1)


def regularisation_of_texts(hidden: Tensor, mask: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return alpha times AR plus beta times TAR of a classifier's activations [batch, length, width], the mean over its texts.

    Each text counts the same, however long it is, so that the penalty does not depend on how a batch is divided. Only tokens by
    `mask` [batch, length] count.

    >>> hidden = torch.tensor([[[1.0], [3.0]], [[2.0], [9.0]]])
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> regularisation_of_texts(hidden, mask, alpha=1.0, beta=0.0).item()
    4.5
    """
    mask = mask.bool()
    size = hidden.float().square().mean(dim=-1)
    change = F.pad(hidden.float().diff(dim=1).square().mean(dim=-1), (1, 0))
    pairs = F.pad(mask[:, 1:] & mask[:, :-1], (1, 0))
    return alpha * _mean_of_rows(size, mask) + beta * _mean_of_rows(change, pairs)


def _mean_of_rows(values: Tensor, mask: Tensor) -> Tensor:
    return (torch.where(mask, values, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def gradient_only(penalty: Tensor) -> Tensor:
    """Return a zero with the gradient of `penalty`: adding it to a loss regularises training without changing the reported loss.

    The perplexity of a loss that includes penalties would be wrong. A penalty that is not finite still makes the loss not finite.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> loss = 5 * weight + gradient_only(3 * weight); loss.backward(); loss.item(), weight.grad.item()
    (5.0, 8.0)
    """
    return penalty - penalty.detach()


def byte_dropout(input: Tensor, p: float) -> Tensor:
    """Drop elements with probability `p` and scale the rest by 1 / (1 - p), with a mask from random bytes; on a CPU only.

    >>> bool((byte_dropout(torch.ones(1000), 0.5).unique() == torch.tensor([0.0, 2.0])).all())
    True
    """
    dropped: Tensor = _MaskedDropout.apply(input, p)
    return dropped


class ByteDropout(nn.Dropout):
    """Dropout with a mask from random bytes: on a CPU it takes about a third of the time of torch's, forward and backward.

    It uses torch's default generator, so that masks are reproducible by seed. On other devices it is `nn.Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements with probability `p` and scale the rest by 1 / (1 - p)."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu":
            return super().forward(input)
        return byte_dropout(input, self.p)


class _MaskedDropout(torch.autograd.Function):
    """Masks are integers of all ones or all zeros, applied by a bitwise and, which is faster on a CPU than booleans."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float) -> Tensor:
        dropped_levels = round(p * _LEVELS)
        # int64 draws over the full range hold four masks' worth of uniform 16-bit numbers each.
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        levels = words.view(torch.int16)[: input.numel()]
        kept = torch.ge(levels, dropped_levels - _LEVELS // 2, out=levels).neg_()
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - dropped_levels)
        return _kept(input, kept, ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return _kept(grad, kept, ctx.scale), None


def _kept(values: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Return `values` times `scale` where the int16 mask `kept` is all ones, and 0 where it is 0."""
    integers = _INTEGERS[values.element_size()]
    bits = values.contiguous().view(integers).view(-1) & kept.to(integers)
    return bits.view(values.dtype).view(values.shape).mul_(scale)


def use_byte_dropout(model: nn.Module) -> int:
    """Replace each `nn.Dropout` of `model` by `ByteDropout` in place; return how many there were.

    >>> use_byte_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)))
    1
    """
    replaced = 0
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, ByteDropout(child.p))
                replaced += 1
    return replaced
