"""An in-domain step before a classifier: the transformer guesses hidden words of the target's texts, labelled or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.core.batch import Batch
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import cosine, warm_up
from nlpbp.data.order import evaluation_batches, micro_seed, steps_per_epoch, training_plan
from nlpbp.runs.fit import Metrics, fit
from nlpbp.runs.folder import Run
from nlpbp.runs.progress import Progress, Stage
from nlpbp.text.batches import Encoded, collate
from nlpbp.text.masking import masked_loss
from nlpbp.train.evaluate import batch_losses
from nlpbp.train.loop import Step, train_steps
from nlpbp.trainers.stages import check_micro_batches, prepare_again


def adapt(
    run: Run,
    mlm: sections.MaskedLM,
    *,
    model: nn.Module,
    encoded: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase,
    batch: sections.Batch,
    optim: sections.Optim,
    checkpoint: sections.Checkpoints,
    identity: Mapping[str, str],
    seed: int,
    later_steps: int,
    allow_change: bool,
) -> tuple[Progress | None, nn.Module]:
    """Train a masked language model for `mlm.steps` as the first stage of a run; return its end and the plain model.

    `encoded` has the texts to train on and those of the validation part, which choose the best weights. The end is None when the
    run has gone on to a later stage before.
    """
    accelerator, steps = run.accelerator, mlm.steps
    assert steps is not None, "the step is asked for"
    lengths = encoded["train"].padded_lengths
    num = check_micro_batches(run, batch.micro_batches, num_examples=len(lengths), size=batch.size)
    per_epoch = steps_per_epoch(lengths, size=batch.size, min_size=num)
    loss_fn, count = masked_loss(
        mask_token_id=tokenizer.mask_token_id, vocab_size=len(tokenizer), special_ids=tokenizer.all_special_ids
    )
    groups = layer_groups(model)
    made = parameter_groups(groups, lr=mlm.lr, weight_decay=optim.weight_decay, no_decay=no_decay_names(model))
    trained, optimizer = prepare_again(accelerator, model, adamw(made, betas=optim.betas, eps=optim.eps))

    def make_steps(first_step: int, num_micro_batches: int) -> Iterator[Step]:
        plan = training_plan(
            lengths,
            size=batch.size,
            num_micro_batches=num_micro_batches,
            min_size=num,
            epochs=math.ceil(steps / per_epoch),
            seed=seed,
            first_step=first_step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        mine = (step for step, _ in zip(plan, range(steps - first_step), strict=False))
        return train_steps(
            trained,
            _without_labels(mine, encoded["train"], tokenizer),
            optimizer,
            accelerator=accelerator,
            loss_fn=loss_fn,
            count=count,
            schedule=warm_up(cosine(), share=optim.warmup),
            total_steps=steps,
            first_step=first_step,
            max_grad_norm=optim.max_grad_norm,
            seed=seed,
        )

    progress = fit(
        run,
        make_steps,
        model=trained,
        optimizer=optimizer,
        groups=groups,
        evaluate=lambda: _score(run, trained, encoded["validation"], tokenizer, batch, loss_fn, count),
        metric="loss",
        total_steps=steps,
        steps_per_epoch=min(steps, per_epoch),
        identity=identity,
        checkpoints=checkpoint,
        references=[f"text {index + 1}" for index in range(len(lengths))],
        before=Progress(num),
        stage=Stage("masked language model", later_steps=later_steps),
        allow_data_change=allow_change,
    )
    return progress, accelerator.unwrap_model(trained, keep_fp32_wrapper=False)


def _without_labels(plan: Iterator[Any], encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[Batch]]:
    for step in plan:
        yield [collate(encoded, ids, tokenizer=tokenizer) for ids in step]


def _score(
    run: Run,
    model: nn.Module,
    encoded: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    batch: sections.Batch,
    loss_fn: Callable[[nn.Module, Batch], Tensor],
    count: Callable[[Batch], int],
) -> Metrics:
    """Measure the loss on hidden words, the same ones every time."""

    def loss_of(model: nn.Module, one: Batch, state: Any) -> tuple[Tensor, Any]:
        torch.manual_seed(micro_seed(0, 0, int(one.ids[0])))
        return loss_fn(model, one), None

    plan = evaluation_batches(encoded.padded_lengths, max_tokens=batch.evaluation_tokens)
    blocks = [[collate(encoded, ids, tokenizer=tokenizer)] for ids in plan]
    losses, counts = batch_losses(model, blocks, accelerator=run.accelerator, count=count, loss_of=loss_of)
    loss = float((losses * counts).sum() / max(1, counts.sum()))
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def copy_body_(model: nn.Module, source: nn.Module) -> int:
    """Copy the parameters of the pretrained part that both models have; return how many numbers that were."""
    body, given = _body(model), _body(source).state_dict()
    own = body.state_dict()
    common = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    body.load_state_dict(common, strict=False)
    return sum(tensor.numel() for tensor in common.values())


def _body(model: nn.Module) -> nn.Module:
    body: nn.Module = getattr(model, "base_model", model)
    return body
