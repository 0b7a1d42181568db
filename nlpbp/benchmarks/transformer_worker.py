"""One system of the benchmark `transformer` at work in a process of its own; it answers in lines of JSON on standard output.

All three see the same sentences and the same number of threads, and are timed, counted and evaluated by the same code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from nlpbp.benchmarks.workers import answers, cpu_name, peak_memory_mib
from nlpbp.data.order import evaluation_batches, steps_per_epoch, training_plan
from nlpbp.text.batches import batched_steps, collate, encode
from nlpbp.text.pooled import sentence_pooling
from nlpbp.text.transformer import faster, load_classifier, load_config, load_tokenizer

HELD_OUT_SHARE = 0.25
EVALUATION_TOKENS = 2048  # a batch at most, padding included: so few that evaluating never sets the peak of memory
EVALUATIONS = 4  # an epoch, for every system
WARM_UP_STEPS, BLOCK_STEPS = 5, 40
SHORT_WARM_UP_STEPS, SHORT_BLOCK_STEPS = 2, 3

Answer = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Work:
    """What is the same for all systems; labels are indices into `label_names`."""

    short: bool
    model: str
    threads: int
    bf16: bool  # whether the hardware runs bf16 fast, by nlpbp's judgement: no system is made to train in a slow format
    batch_size: int
    epochs: int
    max_length: int
    label_names: list[str]
    train_texts: list[str]
    train_labels: list[int]
    held_out_texts: list[str]
    held_out_labels: list[int]

    def steps_per_epoch(self, system: str) -> int:
        """The number of optimizer steps an epoch: ours hold as many tokens each, Trainer's as many sentences."""
        if system != "ours":
            return -(-len(self.train_texts) // self.batch_size)
        lengths = encode(self.train_texts, tokenizer=load_tokenizer(self.model), max_length=self.max_length).padded_lengths
        return steps_per_epoch(lengths, size=self.batch_size)


def work(folder: Path, mode: str, *, system: str, seed: int, short: bool) -> None:
    """Do what one worker is started for; `folder` holds what `prepare` wrote."""
    answer = answers()
    if mode == "prepare":
        answer(prepare(folder, short=short))
        return
    given = Work(**json.loads((folder / "work.json").read_text(encoding="utf-8")))
    per_epoch = given.steps_per_epoch(system)
    watch = block_watch(given, answer, per_epoch) if mode == "blocks" else curve_watch(given, answer, per_epoch)
    if system == "ours":
        train_ours(given, watch, seed=seed)
    elif system == "defaults":
        train_with_trainer(given, watch, seed=seed, folder=folder)
    else:
        train_with_trainer(given, watch, seed=seed, folder=folder, bf16=given.bf16, train_sampling_strategy="group_by_length")
    if mode == "whole":
        answer(watch.counts() | {"peak_memory_mib": peak_memory_mib()})


def prepare(folder: Path, *, short: bool) -> dict[str, Any]:
    """Read and split the data once (which takes much more memory than training on them), and describe the machine."""
    from nlpbp.data.packaged import packaged_model, packaged_reviews
    from nlpbp.data.tiny import tiny_reviews
    from nlpbp.text.tiny import tiny_bert
    from nlpbp.train.setup import precision_of, start

    config = recipe_config(short=short)
    # Threads that wait for each other after every tiny step would make the short form slow on a busy machine.
    accelerator = start(seed=config.seed, precision=config.precision, threads=1 if short else None)
    table = tiny_reviews() if short else packaged_reviews("rotten_tomatoes")
    texts, labels = table.columns["text"], table.columns["label"]
    names = sorted(set(labels))
    train, held_out = split(texts, labels)
    given = Work(
        short=short,
        model=str(tiny_bert(folder / "model") if short else packaged_model()),
        threads=torch.get_num_threads(),
        bf16=precision_of(accelerator) == "bf16",
        batch_size=config.batch.size,
        epochs=config.epochs,
        max_length=config.data.max_length,
        label_names=names,
        train_texts=[texts[index] for index in train],
        train_labels=[names.index(labels[index]) for index in train],
        held_out_texts=[texts[index] for index in held_out],
        held_out_labels=[names.index(labels[index]) for index in held_out],
    )
    (folder / "work.json").write_text(json.dumps(asdict(given)), encoding="utf-8")
    return {
        "machine": {
            "cpu": cpu_name(),
            "threads": given.threads,
            "precision": precision_of(accelerator),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "settings": {
            "short": short,
            "data": table.name if short else "rotten_tomatoes",
            "train": len(train),
            "held_out": len(held_out),
            "epochs": given.epochs,
            "batch_size": given.batch_size,
            "steps_per_epoch": {system: given.steps_per_epoch(system) for system in ("ours", "defaults", "best")},
        },
    }


def recipe_config(*, short: bool) -> Any:
    """Return the recipe's own settings: its defaults, or its seconds-long form."""
    from recipes import transformer_sentiment

    return replace(transformer_sentiment.tiny(), epochs=2) if short else transformer_sentiment.Config()


def split(texts: Sequence[str], labels: Sequence[str]) -> tuple[list[int], list[int]]:
    """Cut off a quarter of each class, by the texts' hashes: no seed, and equal texts of a class stay together but for one cut.

    >>> split(["a", "b", "c", "d", "e", "f", "g", "h"], ["x"] * 4 + ["y"] * 4)
    ([0, 1, 2, 4, 6, 7], [3, 5])
    """
    order = sorted(range(len(texts)), key=lambda index: hashlib.sha256(texts[index].encode()).digest())
    by_class = [[index for index in order if labels[index] == label] for label in sorted(set(labels))]
    held_out = {index for members in by_class for index in members[: round(len(members) * HELD_OUT_SHARE)]}
    return [index for index in range(len(texts)) if index not in held_out], sorted(held_out)


class Watch:
    """Keeps a training's time and counts; at the steps `stops` its clock stands still while `pause` evaluates, or waits.

    Counts are those of forward passes that train: sentences, their tokens, and the tokens computed on, padding included.
    """

    def __init__(self, stops: Sequence[int], pause: Callable[[Watch, nn.Module], bool]) -> None:
        self.steps, self.stops, self.pause = 0, frozenset(stops), pause
        self.reset()

    def reset(self) -> None:
        """Start the time and all counts but that of the steps from 0."""
        self.seconds, self.samples, self.tokens, self.padded_tokens = 0.0, 0, 0, 0

    def counts(self) -> dict[str, float]:
        """Return time and counts since the last reset."""
        return {name: getattr(self, name) for name in ("seconds", "samples", "tokens", "padded_tokens")}

    def begin(self, model: nn.Module) -> None:
        """Start the clock; `model` is about to train."""
        self.model = model
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._started = time.perf_counter()

    def step_done(self) -> bool:
        """Take note of an optimizer step; return whether training goes on."""
        self.steps += 1
        if self.steps not in self.stops:
            return True
        self.seconds += time.perf_counter() - self._started
        goes_on = self.pause(self, self.model)
        self._started = time.perf_counter()
        return goes_on

    def _count(self, model: nn.Module, arguments: Any, inputs: dict[str, Any]) -> None:
        self.samples += len(inputs["input_ids"])
        self.tokens += int(inputs["attention_mask"].sum())
        self.padded_tokens += inputs["input_ids"].numel()


def block_watch(given: Work, answer: Answer, per_epoch: int) -> Watch:
    """Watch a warm-up and then blocks of steps, each of which answers its counts; a line on standard input asks for the next."""
    warm_up, block = (SHORT_WARM_UP_STEPS, SHORT_BLOCK_STEPS) if given.short else (WARM_UP_STEPS, BLOCK_STEPS)

    def pause(watch: Watch, model: nn.Module) -> bool:
        answer(watch.counts() | {"steps": watch.steps})
        watch.reset()
        return bool(sys.stdin.readline())  # empty at the end of the last block, when the other side closes

    sys.stdin.readline()
    return Watch(range(warm_up, given.epochs * per_epoch, block), pause)


def curve_watch(given: Work, answer: Answer, per_epoch: int) -> Watch:
    """Watch a whole training: at every quarter of an epoch, answer the seconds so far and the accuracy on what is held out."""
    tokenizer = load_tokenizer(given.model)
    encoded = encode(given.held_out_texts, tokenizer=tokenizer, max_length=given.max_length)
    labels = np.array(given.held_out_labels)
    batches = evaluation_batches(encoded.padded_lengths, max_tokens=EVALUATION_TOKENS)

    def pause(watch: Watch, model: nn.Module) -> bool:
        started = time.perf_counter()
        num_right = 0
        model.eval()
        with torch.inference_mode():
            for ids in batches:
                # The class's own forward: in fp32 whatever format the training wrapped around the model's.
                logits = type(model).forward(model, **collate(encoded, ids, tokenizer=tokenizer).inputs).logits
                num_right += int((logits.argmax(dim=-1).numpy() == labels[ids]).sum())
        answer(
            {
                "epoch": round(watch.steps / per_epoch, 3),
                "seconds": watch.seconds,
                "accuracy": num_right / len(labels),
                "eval_seconds": time.perf_counter() - started,
            }
        )
        return True

    return Watch([per_epoch * part // EVALUATIONS for part in range(1, EVALUATIONS * given.epochs + 1)], pause)


def train_ours(given: Work, watch: Watch, *, seed: int) -> None:
    """Train as the recipe transformer_sentiment does, by its own settings."""
    from nlpbp.core import schedules
    from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
    from nlpbp.core.optim import adamw
    from nlpbp.modalities.pretrained import default_lr
    from nlpbp.tasks import classifier_loss
    from nlpbp.train.loop import train_steps
    from nlpbp.train.setup import start

    config = recipe_config(short=given.short)
    optim = config.optim
    accelerator = start(seed=seed, precision=config.precision, threads=given.threads)
    tokenizer = load_tokenizer(given.model)
    model_config = load_config(given.model, task="single_label", labels=given.label_names, dropout_scale=config.dropout.scale)
    pooling = sentence_pooling(given.model)
    model: nn.Module = faster(load_classifier(given.model, config=model_config, tokenizer=tokenizer, pooling=pooling))
    encoded = encode(given.train_texts, tokenizer=tokenizer, max_length=given.max_length)
    groups = parameter_groups(
        layer_groups(model),
        lr=default_lr(model, num_texts=len(encoded)),
        head_lr=optim.head_lr,
        layer_decay=optim.layer_decay,
        weight_decay=optim.weight_decay,
        no_decay=no_decay_names(model),
    )
    model, optimizer = accelerator.prepare(model, adamw(groups, betas=optim.betas, eps=optim.eps))
    schedule = {"cosine": schedules.cosine, "linear": schedules.linear, "constant": schedules.constant}[optim.schedule]()
    plan = training_plan(encoded.padded_lengths, size=config.batch.size, num_micro_batches=1, epochs=config.epochs, seed=seed)
    watch.begin(model)
    for _ in train_steps(
        model,
        batched_steps(plan, encoded, tokenizer=tokenizer, labels=np.array(given.train_labels)),
        optimizer,
        accelerator=accelerator,
        loss_fn=classifier_loss(task="single_label", label_smoothing=optim.label_smoothing),
        schedule=schedules.warm_up(schedule, share=optim.warmup_ratio),
        total_steps=given.epochs * steps_per_epoch(encoded.padded_lengths, size=config.batch.size),
        max_grad_norm=optim.max_grad_norm,
        seed=seed,
    ):
        if not watch.step_done():
            break


def train_with_trainer(
    given: Work, watch: Watch, *, seed: int, folder: Path, bf16: bool = False, train_sampling_strategy: str = "random"
) -> None:
    """Train with transformers.Trainer as its documentation does; what is not given here is Trainer's own default."""
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    torch.set_num_threads(given.threads)
    set_seed(seed)
    tokenizer = load_tokenizer(given.model)
    model = AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=len(given.label_names), dtype="float32")
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=given.batch_size,
            num_train_epochs=given.epochs,
            bf16=bf16,
            train_sampling_strategy=train_sampling_strategy,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=examples_for_trainer(given, tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[callback_of(watch)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def examples_for_trainer(given: Work, tokenizer: Any) -> list[Any]:
    """Return tokens and label of each text.

    A plain list is what Trainer reads fastest; group_by_length finds the lengths of its texts by itself, before training starts.
    """
    tokens = tokenizer(given.train_texts, truncation=True, max_length=given.max_length)
    return [
        {name: values[index] for name, values in tokens.items()} | {"labels": label}
        for index, label in enumerate(given.train_labels)
    ]


def callback_of(watch: Watch) -> Any:
    """Return a callback of Trainer's that tells the watch of each step, and stops when it says so."""
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        """Tells the watch, and stops when it says so."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            watch.begin(given["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if not watch.step_done():
                control.should_training_stop = True

    return Told()


def main() -> None:
    """Be the worker that the command line names."""
    parser = argparse.ArgumentParser(description="One system of the benchmark `transformer`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("mode", choices=["prepare", "blocks", "whole"])
    parser.add_argument("--system", default="ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    work(given.folder, given.mode, system=given.system, seed=given.seed, short=given.short)


if __name__ == "__main__":
    main()
