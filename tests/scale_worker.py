"""What tests/test_scale.py starts: six steps of a small BERT, straight through and in two halves with a save between them.

python tests/scale_worker.py OUT plain                                    # one process, two micro-batches a step
python -m torch.distributed.run --nproc_per_node 2 tests/scale_worker.py OUT fsdp2   # two processes, one each
python -m torch.distributed.run --nproc_per_node 2 tests/scale_worker.py OUT zero2   # by DeepSpeed, straight through alone

Sharded by FSDP2, it then runs the tiny recipe as well, stops it by a signal, and lets it go on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import BertConfig, BertForSequenceClassification

from nlpbp.config.run import Batch as Batching
from nlpbp.core.batch import Batch
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import cosine, warm_up
from nlpbp.runs import fit
from nlpbp.tasks import classifier_loss
from nlpbp.train import setup
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.signals import Stopped
from nlpbp.train.weights import (
    full_optimizer_state,
    full_state,
    load_weights,
    save_weights,
    set_full_optimizer_state,
    set_full_state,
    without_shared,
)
from recipes import transformer_sentiment

SIZES = [8, 8, 7, 5, 8, 8]  # some steps do not divide evenly
NUM_MICRO_BATCHES = 2
MAX_GRAD_NORM = 0.15  # fires in some steps


def make_batch(ids: range) -> Batch:
    rows = [[1 + (i * 7 + position * 3) % 19 for position in range(3 + i % 5)] for i in ids]
    longest = max(map(len, rows))
    inputs = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return Batch({"input_ids": inputs, "attention_mask": mask}, torch.tensor([i % 2 for i in ids]), torch.tensor(list(ids)))


def make_steps(accelerator: Accelerator, first: int) -> Iterator[list[Batch]]:
    for index, size in list(enumerate(SIZES))[first:]:
        parts = [range(10 * index + part, 10 * index + size, NUM_MICRO_BATCHES) for part in range(NUM_MICRO_BATCHES)]
        yield [make_batch(ids) for ids in parts[accelerator.process_index :: accelerator.num_processes]]


def prepared(accelerator: Accelerator) -> tuple[nn.Module, Any]:
    accelerator.free_memory()  # it looks for the model to clip among all it has prepared, and cannot tell sharded ones apart
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, hidden_dropout_prob=0.2
    )
    model = BertForSequenceClassification(config)
    groups = parameter_groups(layer_groups(model), lr=1e-2, layer_decay=0.9, weight_decay=0.01, no_decay=no_decay_names(model))
    return accelerator.prepare(model, adamw(groups))


def train(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, *, first: int = 0, last: int = len(SIZES), seed: int = 0
) -> list[Step]:
    made = []
    for step in train_steps(
        model,
        make_steps(accelerator, first),
        optimizer,
        accelerator=accelerator,
        loss_fn=classifier_loss(task="single_label", label_smoothing=0.1),
        schedule=warm_up(cosine(), share=0.2),
        total_steps=len(SIZES),
        first_step=first,
        max_grad_norm=MAX_GRAD_NORM,
        seed=seed,
    ):
        made.append(step)
        if step.step == last:
            break
    return made


def run_recipe(out: Path) -> None:
    """Fine-tune in the way of the recipe; stopped half-way, and gone on with."""
    config = transformer_sentiment.tiny()
    optim = dataclasses.replace(config.optim, swa_start=0.4)
    config = dataclasses.replace(
        config, optim=optim, batch=Batching(size=16, micro_batches=2), threads=1, precision="fp32", epochs=1, out=str(out)
    )
    before = fit.log

    def log(accelerator: Accelerator, path: Path, record: Mapping[str, Any]) -> None:
        before(accelerator, path, record)
        if record["step"] == 8 and accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    fit.log = log
    try:
        transformer_sentiment.run(config)
        raise AssertionError("it was not stopped")
    except Stopped:
        fit.log = before
        transformer_sentiment.run(config)


def train_under_deepspeed(out: Path, *, zero_stage: int) -> None:
    from shims import deepspeed_on_cpu

    accelerator = deepspeed_on_cpu(zero_stage=zero_stage, max_grad_norm=MAX_GRAD_NORM)
    model, optimizer = prepared(accelerator)
    steps = train(accelerator, model, optimizer)
    weights = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / "whole.safetensors")
        facts = {
            "kind": str(accelerator.distributed_type),
            "num_processes": accelerator.num_processes,
            "zero_stage": model.zero_optimization_stage(),
            "losses": [step.loss for step in steps],
            "norms": [step.grad_norm for step in steps],
            "clipped": [step.clipped for step in steps],
        }
        (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def main(out: Path, kind: str) -> None:
    torch.set_num_threads(1)
    if kind.startswith("zero"):
        train_under_deepspeed(out, zero_stage=int(kind[-1]))
        return
    if kind == "fsdp2":
        from shims import fsdp2_on_cpu

        setup.Accelerator = fsdp2_on_cpu  # type: ignore[misc, assignment]
    accelerator = setup.start(seed=0, precision="fp32", threads=1)
    is_main = accelerator.is_main_process

    model, optimizer = prepared(accelerator)
    steps = train(accelerator, model, optimizer)
    save_weights(model, out / "whole.safetensors", is_main_process=is_main)

    half, half_optimizer = prepared(accelerator)
    train(accelerator, half, half_optimizer, last=3)
    weights, moments = full_state(half), full_optimizer_state(half, half_optimizer)
    if is_main:
        save_file(without_shared(weights), out / "weights.safetensors")
        save_file(moments, out / "moments.safetensors")
    accelerator.wait_for_everyone()
    later, later_optimizer = prepared(accelerator)
    set_full_state(later, load_file(out / "weights.safetensors"))
    set_full_optimizer_state(later, later_optimizer, load_file(out / "moments.safetensors"))
    train(accelerator, later, later_optimizer, first=3)
    save_weights(later, out / "resumed.safetensors", is_main_process=is_main)

    load_weights(later, out / "weights.safetensors")
    train(accelerator, later, later_optimizer, first=3)  # the optimizer is of step 6: a restore left out must show
    save_weights(later, out / "left-out.safetensors", is_main_process=is_main)

    if is_main:
        facts = {
            "kind": str(accelerator.distributed_type),
            "num_processes": accelerator.num_processes,
            "sharded": sum(isinstance(p, DTensor) for p in model.parameters()),
            "parameters": len(list(model.parameters())),
            "names": sorted(weights),
            "losses": [step.loss for step in steps],
            "norms": [step.grad_norm for step in steps],
            "clipped": [step.clipped for step in steps],
        }
        (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    if kind == "fsdp2":
        accelerator.free_memory()
        run_recipe(out / "recipe")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
