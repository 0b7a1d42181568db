"""An in-domain step before a classifier: the transformer guesses hidden words of the target's texts, labelled or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from nlpbp.config import MaskedLM, Optim, TextClassifierSettings
from nlpbp.core.batch import Batch, CountedLoss
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import cosine, warm_up
from nlpbp.data.columns import Examples
from nlpbp.data.corpus import joined_texts, load_texts
from nlpbp.data.order import evaluation_batches, evaluation_tokens, micro_seed, steps_per_epoch, training_plan
from nlpbp.data.parts import Inputs, fingerprint
from nlpbp.modalities.encoding import EncodedTexts
from nlpbp.modalities.texts import identity
from nlpbp.runs.fit import Metrics, Validation, fit
from nlpbp.runs.folder import CACHE, Run
from nlpbp.runs.progress import Learner, Progress, Provenance, Stage
from nlpbp.tasks.task import LANGUAGE_MODEL, metric_of
from nlpbp.text.batches import Encoded, collate, encode
from nlpbp.text.masking import masked_loss
from nlpbp.train.evaluate import batch_losses
from nlpbp.train.loop import Step, train_steps
from nlpbp.trainers.stages import check_micro_batches, prepare_again


def with_unlabelled(
    run: Run[TextClassifierSettings], inputs: Inputs, texts: EncodedTexts, mlm: MaskedLM
) -> tuple[EncodedTexts, dict[str, str]]:
    """Return the texts to learn the domain from, the training texts and unlabelled ones; with them what checkpoints belong to."""
    tokenizer, wording = texts.tokenizer, joined_texts(inputs.train.examples)
    if mlm.unlabelled is not None:
        wording = [*wording, *load_texts(mlm.unlabelled).texts]
        more = encode(wording, tokenizer=tokenizer, max_length=run.settings.data.max_length, cache=CACHE / "tokens")
        texts = replace(texts, parts={**texts.parts, "train": more})
    names = identity(inputs, tokenizer)
    names["data"] += f", all texts {fingerprint([Examples('', wording, None, None, [])])}"
    return texts, names


@dataclass(frozen=True)
class MaskedLoop:
    """The training loop of a masked language model: `total_steps` of `size` texts each, a step cut into `min_size` or more."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    texts: EncodedTexts
    loss_fn: CountedLoss
    optim: Optim
    total_steps: int
    size: int
    min_size: int
    seed: int

    def steps(self, first_step: int, num_micro_batches: int) -> Iterator[Step]:
        """Go through the rest of the training from `first_step` on."""
        encoded = self.texts.parts["train"]
        per_epoch = steps_per_epoch(encoded.padded_lengths, size=self.size, min_size=self.min_size)
        plan = training_plan(
            encoded.padded_lengths,
            size=self.size,
            num_micro_batches=num_micro_batches,
            min_size=self.min_size,
            epochs=math.ceil(self.total_steps / per_epoch),
            seed=self.seed,
            first_step=first_step,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        mine = (step for step, _ in zip(plan, range(self.total_steps - first_step), strict=False))
        return train_steps(
            self.model,
            _without_labels(mine, encoded, self.texts.tokenizer),
            self.optimizer,
            accelerator=self.accelerator,
            loss_fn=self.loss_fn,
            schedule=warm_up(cosine(), share=self.optim.warmup_ratio),
            total_steps=self.total_steps,
            first_step=first_step,
            max_grad_norm=self.optim.max_grad_norm,
            seed=self.seed,
        )


def adapt(
    run: Run[TextClassifierSettings],
    texts: EncodedTexts,
    mlm: MaskedLM,
    optim: Optim,
    *,
    model: nn.Module,
    names: Mapping[str, str],
    later_steps: int,
) -> tuple[Progress | None, nn.Module]:
    """Train a masked language model for `mlm.steps` as the first stage of a run; return its end and the plain model.

    `texts` has those to train on and those of the validation set, which choose the best weights. The end is None when the
    run has gone on to a later stage before.
    """
    accelerator, settings, steps = run.accelerator, run.settings, mlm.steps
    assert steps is not None, "the step is asked for"
    tokenizer, lengths = texts.tokenizer, texts.parts["train"].padded_lengths
    num = check_micro_batches(run, num_examples=len(lengths), size=settings.batch.size)
    per_epoch = steps_per_epoch(lengths, size=settings.batch.size, min_size=num)
    loss_fn = masked_loss(mask_token_id=tokenizer.mask_token_id, vocab_size=len(tokenizer), special_ids=tokenizer.all_special_ids)
    groups = layer_groups(model)
    made = parameter_groups(groups, lr=mlm.lr, weight_decay=optim.weight_decay, no_decay=no_decay_names(model))
    trained, optimizer = prepare_again(accelerator, model, adamw(made, betas=optim.betas, eps=optim.eps))
    loop = MaskedLoop(
        accelerator,
        trained,
        optimizer,
        texts,
        loss_fn,
        optim,
        total_steps=steps,
        size=settings.batch.size,
        min_size=num,
        seed=settings.seed,
    )
    progress = fit(
        run,
        loop.steps,
        Learner(trained, optimizer, groups),
        Stage("masked language model", 0, steps, min(steps, per_epoch), later_steps),
        validation=Validation(lambda: _score(run, trained, texts, loss_fn), metric_of(LANGUAGE_MODEL)),
        provenance=Provenance(names, [f"text {index + 1}" for index in range(len(lengths))], settings.data.allow_change),
        before=Progress(num),
    )
    return progress, accelerator.unwrap_model(trained, keep_fp32_wrapper=False)


def _without_labels(plan: Iterator[Any], encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[Batch]]:
    for step in plan:
        yield [collate(encoded, ids, tokenizer=tokenizer) for ids in step]


def _score(run: Run[TextClassifierSettings], model: nn.Module, texts: EncodedTexts, loss_fn: CountedLoss) -> Metrics:
    """Measure the loss on hidden words of the validation set, the same ones every time."""

    def loss_of(model: nn.Module, one: Batch, state: Any) -> tuple[Tensor, Any]:
        torch.manual_seed(micro_seed(0, 0, int(one.ids[0])))
        return loss_fn(model, one), None

    encoded = texts.parts["validation"]
    most = evaluation_tokens(run.settings.batch.evaluation_tokens, run.accelerator.device.type)
    plan = evaluation_batches(encoded.padded_lengths, max_tokens=most)
    blocks = [[collate(encoded, ids, tokenizer=texts.tokenizer)] for ids in plan]
    losses, counts = batch_losses(model, blocks, accelerator=run.accelerator, count=loss_fn.count, loss_of=loss_of)
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
