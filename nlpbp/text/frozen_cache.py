"""A cache of the outputs of frozen layers, so that they are computed once for each example and not once an epoch.

Frozen layers run in evaluation mode, so their outputs for an example are always the same and the cache only saves time; the last
bits may differ, as they do with another amount of padding. It costs memory: width x tokens x 4 bytes per example for a transformer,
and the inputs of the head for a recurrent classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.groups import blocks_of, layer_groups
from nlpbp.text.awd_lstm import AWDLSTMForSequenceClassification

MAX_DIFFERENCE = 1e-3  # relative, between cached and recomputed outputs: beyond it they are not the same computation


class FrozenCache(Protocol):
    """Caches the outputs of a model's frozen layers during training."""

    def loss_fn(self, loss_fn: LossFn) -> LossFn:
        """Wrap the loss so that the frozen layers run once for each example."""
        ...


def frozen_cache(model: nn.Module, *, train_last: int | None) -> FrozenCache:
    """Make the cache for the layers below the last `train_last` layer groups of `model`.

    A recurrent classifier can be cached only if just its head trains, a transformer at any boundary above its first block. Raises
    `ValueError` if there is nothing to cache.
    """
    groups = layer_groups(model)
    if isinstance(model, AWDLSTMForSequenceClassification):
        if train_last != 1:
            raise ValueError("a recurrent classifier's frozen layers can be cached only if just its head trains (train_last 1)")
        return PooledCache(model.classifier)
    blocks = list(blocks_of(getattr(model, "base_model", model)))
    heads = sum(group.name == "head" for group in groups)
    num_frozen = len(blocks) if train_last is None else len(blocks) - (train_last - heads)
    if train_last is None or not 1 <= num_frozen <= len(blocks):
        raise ValueError(f"no block of the model is frozen while its last {train_last or len(groups)} layer groups train")
    return BlockCache(blocks[:num_frozen])


class PooledCache:
    """Caches the pooled vectors that are the input of a recurrent classifier's head."""

    def __init__(self, head: nn.Module) -> None:
        self._head = head
        self._kept: dict[int, Tensor] = {}

    def loss_fn(self, loss_fn: LossFn) -> LossFn:
        """Wrap the loss so that the encoder runs once for each text."""

        def cached(model: nn.Module, batch: Batch) -> Tensor:
            ids = batch.ids.tolist()
            if all(i in self._kept for i in ids):
                pooled = torch.stack([self._kept[i] for i in ids])
                return loss_fn(model, Batch({**batch.inputs, "pooled": pooled}, batch.labels, batch.ids))

            def keep(module: nn.Module, inputs: tuple[Tensor]) -> None:
                self._kept.update(zip(ids, inputs[0].detach(), strict=True))

            handle = self._head.register_forward_pre_hook(keep)
            try:
                return loss_fn(model, batch)
            finally:
                handle.remove()

        return cached


class BlockCache:
    """Caches the output of a transformer's last frozen block; the embeddings are still computed."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        self._blocks = blocks
        self._kept: dict[int, Tensor] = {}
        self._in_tuple = False
        self._checked = False

    def loss_fn(self, loss_fn: LossFn) -> LossFn:
        """Wrap the loss so that the frozen blocks run once for each example.

        Raises `ValueError` for texts padded on the left, and for a model whose blocks return more than their hidden states.
        """

        def cached(model: nn.Module, batch: Batch) -> Tensor:
            mask = batch.inputs["attention_mask"]
            if bool((mask[:, :1] == 0).any()):
                raise ValueError("outputs of frozen layers can be cached only for texts that are padded on the right")
            if not all(i in self._kept for i in batch.ids.tolist()):
                with self._recording(batch, mask):
                    return loss_fn(model, batch)
            if not self._checked:
                self._check(model, batch, loss_fn)
            with self._replaying(batch, mask):
                return loss_fn(model, batch)

        return cached

    def _check(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> None:
        """Compare the cached outputs with recomputed ones, once.

        This bypasses the wrapper of data parallelism, whose forward passes must run in all processes at once: each process gets
        here in a step of its own.
        """
        mask = batch.inputs["attention_mask"]
        kept, self._kept = self._padded(batch, mask), dict(self._kept)
        before = self._kept
        with self._recording(batch, mask), torch.random.fork_rng(), torch.no_grad():
            loss_fn(getattr(model, "module", model), batch)
        now = self._padded(batch, mask)
        self._kept, self._checked = before, True
        if (now - kept).abs().max() > MAX_DIFFERENCE * now.abs().max().clamp(min=1.0):
            raise ValueError("the frozen layers are not deterministic: their outputs cannot be cached")

    def _padded(self, batch: Batch, mask: Tensor) -> Tensor:
        rows = pad_sequence([self._kept[i] for i in batch.ids.tolist()], batch_first=True)
        return nn.functional.pad(rows, (0, 0, 0, mask.shape[1] - rows.shape[1]))

    @contextmanager
    def _recording(self, batch: Batch, mask: Tensor) -> Iterator[None]:
        lengths = mask.sum(dim=1).tolist()

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, tuple) and len(output) > 1:
                raise ValueError("this model's blocks return more than their hidden states: they cannot be cached")
            self._in_tuple = isinstance(output, tuple)
            hidden = output[0] if isinstance(output, tuple) else output
            for i, row, length in zip(batch.ids.tolist(), hidden.detach(), lengths, strict=True):
                self._kept[i] = row[:length].clone()

        handle = self._blocks[-1].register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _replaying(self, batch: Batch, mask: Tensor) -> Iterator[None]:
        kept = self._padded(batch, mask)

        def answer(value: Tensor | None) -> Callable[..., Any]:
            # A block's first argument is its input: the frozen blocks pass it on, and the last one returns the cached output.
            def forward(hidden_states: Tensor, *args: Any, **options: Any) -> Any:
                answered = hidden_states if value is None else value
                return (answered,) if self._in_tuple else answered

            return forward

        try:
            for block in self._blocks:
                block.forward = answer(kept if block is self._blocks[-1] else None)  # type: ignore[method-assign]
            yield
        finally:
            for block in self._blocks:
                del block.forward  # type: ignore[misc]
