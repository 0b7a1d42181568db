"""Our side of the benchmark `recurrent`: what the recipe ulmfit does with its paper-sized net, piece by piece."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn

from nlpbp.benchmarks.workers import Laps, Record, answers, cpu_name, serve
from nlpbp.core.batch import Batch, CountedLoss, LossFn
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import layer_groups
from nlpbp.data.order import evaluation_batches, evaluation_tokens, grouped_steps, steps_per_epoch, training_plan
from nlpbp.tasks import classifier_loss
from nlpbp.text.batches import Encoded, batched_steps, collate
from nlpbp.text.fastai_weights import load_fastai, word_tokenizer
from nlpbp.text.lm_data import CarriedState, count_targets, stream_windows
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.setup import precision_of, start

MODES = ("prepare", "interop", "texts", "language_model", "classifier")
SAMPLE_BATCHES, STEPS = 5, 3  # of fastai's classifier, and of the language model a block
PEER_BATCH_SIZE = 64  # fastai's default


def work(folder: Path, mode: str, *, precision: str, short: bool) -> None:
    """Do what one worker is started for; `folder` holds what `prepare` and fastai wrote."""
    answer = answers()
    if mode == "prepare":
        answer(prepare(folder, precision=precision, short=short))
        return
    given = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    if mode == "interop":
        torch.set_num_threads(given["threads"])
        answer({"max_difference": max_difference(folder)})
    elif mode == "texts":
        serve(answer, {"words": lambda: prepare_texts(folder, given), "subwords": lambda: prepare_subwords(folder, given)})
    elif mode == "language_model":
        serve(answer, language_model_pieces(folder, given))
    else:
        serve(answer, classifier_pieces(folder, given))


def recipe_config(*, short: bool) -> Any:
    """Return the recipe's own settings with the net of the paper, or its seconds-long form."""
    from nlpbp.config.models import Recurrent
    from recipes import ulmfit

    return ulmfit.tiny() if short else replace(ulmfit.Config(), model=Recurrent(size="paper"))


def prepare(folder: Path, *, precision: Any, short: bool) -> Record:
    """Read the texts, write them and what both sides are to do into `folder`, and describe the machine."""
    from nlpbp.data.packaged import packaged_reviews
    from nlpbp.data.tiny import tiny_reviews
    from nlpbp.text.recurrent import SIZES

    config = recipe_config(short=short)
    # Threads that wait for each other after every tiny step would make the short form slow on a busy machine.
    accelerator = start(seed=config.seed, precision=precision, threads=1 if short else None)
    table = tiny_reviews() if short else packaged_reviews("imdb")
    labels = table.columns["label"]
    work = {
        "short": short,
        "threads": torch.get_num_threads(),
        "precision": precision_of(accelerator),
        "sizes": SIZES[config.model.size],
        "rows": config.lm.batch_size,
        "window": config.lm.bptt,
        "language_model_lr": config.lm.lr,
        "language_model_steps": STEPS,
        "classifier_lr": config.stages[-1].lr,
        "batch_size": config.batch.size,
        "peer_batch_size": 8 if short else PEER_BATCH_SIZE,
        "sample_batches": SAMPLE_BATCHES,
    }
    index = {label: number for number, label in enumerate(sorted(set(labels)))}
    (folder / "texts.json").write_text(json.dumps(table.columns["text"]), encoding="utf-8")
    (folder / "work.json").write_text(json.dumps(work | {"labels": [index[label] for label in labels]}), encoding="utf-8")
    return {
        "machine": {
            "cpu": cpu_name(),
            "threads": work["threads"],
            "precision": precision_of(accelerator),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "settings": {"data": table.name if short else "imdb", "documents": len(labels), **work},
    }


def max_difference(folder: Path) -> float:
    """Load the model that fastai saved, run it on the same tokens, and return by how much any output of any layer differs."""
    saved = np.load(folder / "interop.npz")
    model, _ = load_fastai(folder / "models" / "lm.pth")
    differences, state = [], None
    num_layers = len(model.model.layers)
    windows = torch.from_numpy(saved["tokens"]).chunk(2, dim=1)
    theirs = torch.from_numpy(saved["decoded"]).chunk(2)
    with torch.inference_mode():
        for number, window in enumerate(windows):
            outputs = model(window, state=state, output_hidden_states=True)
            state = outputs.state
            differences.append((outputs.logits - theirs[number]).abs().max())
            for index, mine in enumerate(outputs.hidden_states[1:]):
                layer = torch.from_numpy(saved[f"layer{number * num_layers + index}"])
                differences.append((mine - layer).abs().max())
    return float(torch.stack(differences).max())


def prepare_texts(folder: Path, given: Record, *, kind: str = "word", vocab_size: int | None = None) -> Record:
    """Train a tokenizer and encode all texts, and then again with what the first time left in the cache."""
    from nlpbp.config import RunSettings, Tokenizer
    from nlpbp.modalities.documents import encode_documents, tokenizer_for
    from nlpbp.runs.folder import CACHE, Run

    assert os.environ["NLPBP_CACHE"].startswith(str(folder)), "the cache is emptied here: it must be one of our own"
    shutil.rmtree(CACHE, ignore_errors=True)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    wanted = Tokenizer(kind=kind, vocab_size=vocab_size or len(words))  # type: ignore[arg-type]
    run = Run("benchmark", RunSettings(), folder, start(seed=0, threads=given["threads"]), held=[])

    def once() -> tuple[Record, Encoded]:
        laps = Laps()
        tokenizer = tokenizer_for(run, texts, wanted)
        laps.lap("vocabulary")
        encoded = encode_documents(run, {"texts": texts}, tokenizer=tokenizer)["texts"]
        laps.lap("ids")
        return laps.record() | {"vocabulary": len(tokenizer)}, encoded

    first, encoded = once()
    again, same = once()
    assert np.array_equal(encoded.tokens, same.tokens)
    return first | {"documents": len(encoded), "tokens": len(encoded.tokens), "second_time_seconds": again["seconds"]}


def prepare_subwords(folder: Path, given: Record) -> Record:
    """Do the same with what the recipe makes by itself, byte pairs."""
    from nlpbp.config import Tokenizer

    return prepare_texts(folder, given, kind="subword", vocab_size=Tokenizer().vocab_size)


def read_documents(folder: Path, chosen: np.ndarray[Any, Any] | None = None) -> Encoded:
    """Read the tokens of all texts, or of the `chosen` ones, as fastai has made them."""
    tokens, lengths = np.load(folder / "tokens.npy"), np.load(folder / "lengths.npy")
    none = np.array([], dtype=np.int64)
    if chosen is not None:
        texts = np.split(tokens, np.cumsum(lengths)[:-1])
        tokens, lengths = np.concatenate([texts[index] for index in chosen]), lengths[chosen]
    return Encoded(tokens, np.concatenate([[0], np.cumsum(lengths)]), None, none, none)


def read_tokenizer(folder: Path) -> Any:
    """Return a tokenizer of the words that fastai found."""
    return word_tokenizer(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


def language_model_pieces(folder: Path, given: Record) -> dict[str, Callable[[], Record]]:
    """Return the pieces of the language model's worker: some steps of training, with the loss as it comes and over every token."""
    laps, estimates = Laps(), True
    steps = language_model_steps(folder, given, laps=laps, estimates=lambda: estimates)

    def block(num: int, *, estimate: bool = True) -> Record:
        nonlocal estimates
        estimates = estimate
        laps.start()
        tokens, step = 0, None
        for _ in range(num):
            step = next(steps)
            laps.lap("step")
            tokens += step.num_items
        assert step is not None
        return laps.record() | {"steps": num, "tokens": tokens, "loss": step.loss}

    num_steps = given["language_model_steps"]
    return {
        "warm-up": lambda: block(1, estimate=False),  # the larger peak
        "block": lambda: block(num_steps),
        "every_token": lambda: block(num_steps, estimate=False),
    }


def language_model_steps(folder: Path, given: Record, *, laps: Laps, estimates: Callable[[], bool]) -> Iterator[Step]:
    """Train the recipe's language model on fastai's tokens; `estimates` tells each step whether its loss is estimated."""
    from nlpbp.text.recurrent import model_options, new_language_model
    from nlpbp.trainers.language_model import LanguageModelData, Reading, recurrent_plan

    config = recipe_config(short=given["short"])
    accelerator = start(seed=config.seed, precision=given["precision"], threads=given["threads"])
    encoded, tokenizer = read_documents(folder), read_tokenizer(folder)
    model = new_language_model(model_options(config.model, tokenizer), dropout=config.lm.dropout, seed=config.seed)
    data = LanguageModelData({"train": encoded}, tokenizer, identity={})
    plan = recurrent_plan(config.lm, data, cycles=config.cycles, backwards=False)
    carried = CarriedState(plan.shape.num_rows)
    every_token = Reading(recurrent=True, activation=config.lm.ar_alpha, temporal=config.lm.tar_beta)
    as_it_comes = replace(every_token, num_sampled=config.lm.sampled_softmax)
    losses = {True: as_it_comes.loss_fn(carried), False: every_token.loss_fn(carried)}
    optimizer: Any = plan.make_optimizer(model, layer_groups(model))
    trained: nn.Module
    trained, optimizer = accelerator.prepare(model, optimizer)
    windows = stream_windows(
        encoded, plan.shape, num_micro_batches=1, total_steps=plan.total_steps, seed=config.seed, carried=carried
    )
    loss_fn = timed_loss(lambda model, batch: losses[estimates()](model, batch), laps, accelerator=accelerator, body=model.model)
    for step in train_steps(
        trained,
        windows,
        optimizer,
        accelerator=accelerator,
        loss_fn=CountedLoss(loss_fn, count_targets),
        schedule=plan.schedule,
        total_steps=plan.total_steps,
        max_grad_norm=plan.max_grad_norm,
        seed=config.seed,
    ):
        carried.commit()
        yield step


def timed_loss(loss_fn: LossFn, laps: Laps, *, accelerator: Accelerator, body: nn.Module) -> LossFn:
    """Make the same loss, which tells `laps` of the parts of a step: data, the forward pass of `body`, loss, backward pass."""
    body.register_forward_pre_hook(lambda *_: laps.lap("data"))
    body.register_forward_hook(lambda *_: laps.lap("forward"))
    backward = accelerator.backward

    def timed_backward(loss: Tensor) -> None:
        backward(loss)
        laps.lap("backward")

    def timed(model: nn.Module, batch: Batch) -> Tensor:
        loss = loss_fn(model, batch)
        laps.lap("loss")
        return loss

    accelerator.backward = timed_backward  # type: ignore[method-assign,assignment]
    return timed


@dataclass
class Classifier:
    """The recipe's classifier; `trained` is what the last training has prepared of `model`."""

    config: Any
    accelerator: Accelerator
    tokenizer: Any
    model: nn.Module
    trained: nn.Module


def classifier_pieces(folder: Path, given: Record) -> dict[str, Callable[[], Record]]:
    """Return the pieces of the classifier's worker: an epoch over the sample, unfrozen and frozen, and its prediction."""
    labels = np.array(given["labels"])
    classifier = make_classifier(folder, given)
    chosen = np.load(folder / "sample.npy")
    sample, sample_labels = read_documents(folder, chosen), labels[chosen]

    def predict_fp32() -> Record:
        return prediction(classifier, classifier.accelerator.unwrap_model(classifier.trained, keep_fp32_wrapper=False), sample)

    return {
        "warm-up": lambda: longest_batch(classifier, read_documents(folder), labels),
        "unfrozen": lambda: epoch(classifier, sample, sample_labels, train_last=None),
        "frozen": lambda: epoch(classifier, sample, sample_labels, train_last=1),
        "predict": lambda: prediction(classifier, classifier.trained, sample),
        "predict_fp32": predict_fp32,
    }


def make_classifier(folder: Path, given: Record) -> Classifier:
    """Make the recipe's classifier over the words that fastai found."""
    from nlpbp.text.recurrent import model_options, new_classifier

    config = recipe_config(short=given["short"])
    accelerator = start(seed=config.seed, precision=given["precision"], threads=given["threads"])
    tokenizer = read_tokenizer(folder)
    names = [str(label) for label in sorted(set(given["labels"]))]
    model: nn.Module = new_classifier(
        model_options(config.model, tokenizer), task="single_label", labels=names, dropout=config.dropout.scale, seed=config.seed
    )
    return Classifier(config, accelerator, tokenizer, model, trained=model)


def train(
    classifier: Classifier,
    plan: Iterator[list[Any]],
    encoded: Encoded,
    labels: Any,
    *,
    train_last: int | None,
    total_steps: int,
) -> Iterator[Step]:
    """Train by a plan as the recipe's last stage does, all layers or the last ones."""
    from nlpbp.trainers.plans import recurrent_plans
    from nlpbp.trainers.stages import prepare_again

    config, accelerator = classifier.config, classifier.accelerator
    stage = replace(config.stages[-1], train_last=train_last)
    (stage_plan,) = recurrent_plans([stage], config.optim, config.cycles)
    groups = layer_groups(accelerator.unwrap_model(classifier.trained))
    freeze_to(groups, train_last=train_last)
    optimizer = stage_plan.make_optimizer(classifier.model, groups)
    classifier.trained, optimizer = prepare_again(accelerator, classifier.trained, optimizer)
    return train_steps(
        classifier.trained,
        batched_steps(plan, encoded, tokenizer=classifier.tokenizer, labels=labels),
        optimizer,
        accelerator=accelerator,
        loss_fn=classifier_loss(task="single_label", label_smoothing=config.optim.label_smoothing),
        schedule=stage_plan.schedule,
        total_steps=total_steps,
        max_grad_norm=config.optim.max_grad_norm,
        seed=config.seed,
    )


def epoch(classifier: Classifier, sample: Encoded, labels: Any, *, train_last: int | None) -> Record:
    """Train for an epoch over the sample."""
    lengths, config = sample.padded_lengths, classifier.config
    plan = training_plan(lengths, size=config.batch.size, num_micro_batches=1, epochs=1, seed=config.seed)
    num = steps_per_epoch(lengths, size=config.batch.size)
    steps = train(classifier, plan, sample, labels, train_last=train_last, total_steps=num)
    started = time.perf_counter()
    last = list(steps)[-1]
    return {"seconds": time.perf_counter() - started, "steps": num, "loss": last.loss} | counts(sample)


def longest_batch(classifier: Classifier, documents: Encoded, labels: Any) -> Record:
    """Train on the batch with the longest text of all, which sets the peak memory of an epoch."""
    config, lengths = classifier.config, documents.padded_lengths
    steps = grouped_steps(lengths, size=config.batch.size, seed=config.seed, epoch=0)
    step = max(steps, key=lambda step: int(lengths[step].max()))
    started = time.perf_counter()
    list(train(classifier, iter([[step]]), documents, labels, train_last=None, total_steps=1))
    tokens = int(documents.lengths[step].sum())
    return {"seconds": time.perf_counter() - started, "documents": len(step), "tokens": tokens}


def prediction(classifier: Classifier, model: nn.Module, sample: Encoded) -> Record:
    """Answer for the sample with `model`, the prepared one or the bare one, which is in fp32."""
    started = time.perf_counter()
    most = evaluation_tokens(classifier.config.batch.evaluation_tokens, classifier.accelerator.device.type)
    plan = evaluation_batches(sample.padded_lengths, max_tokens=most)
    predict(model, plan, partial(collate, sample, tokenizer=classifier.tokenizer), accelerator=classifier.accelerator)
    return {"seconds": time.perf_counter() - started} | counts(sample)


def counts(sample: Encoded) -> Record:
    """Count documents and their tokens."""
    return {"documents": len(sample), "tokens": len(sample.tokens)}


def main() -> None:
    """Be the worker that the command line names."""
    parser = argparse.ArgumentParser(description="Our side of the benchmark `recurrent`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    work(given.folder, given.mode, precision=given.precision, short=given.short)


if __name__ == "__main__":
    main()
