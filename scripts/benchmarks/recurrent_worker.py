"""Our side of the benchmark `recurrent`: what the recipe ulmfit does with its paper-sized net, piece by piece."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from benchmarks.workers import Laps, Record, answers, cpu_name, serve
from torch import Tensor, nn

from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import layer_groups
from nlpbp.data.order import evaluation_batches, grouped_steps, steps_per_epoch, training_plan
from nlpbp.tasks import classifier_loss
from nlpbp.text.batches import Encoded, batched_steps, collate
from nlpbp.text.fastai_weights import load_fastai, word_tokenizer
from nlpbp.text.lm_data import CarriedState, count_targets, stream_windows
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.setup import precision_of, start

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
        "rows": config.lm.rows,
        "window": config.lm.window,
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
    from nlpbp.config.data import Tokenizer
    from nlpbp.modalities.documents import encode_documents, tokenizer_for
    from nlpbp.runs.folder import CACHE, Run

    assert os.environ["NLPBP_CACHE"].startswith(str(folder)), "the cache is emptied here: it must be one of our own"
    shutil.rmtree(CACHE, ignore_errors=True)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    wanted = Tokenizer(kind=kind, vocab_size=vocab_size or len(words))  # type: ignore[arg-type]
    run = Run("benchmark", folder, start(seed=0, threads=given["threads"]), held=[])

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
    from nlpbp.config.data import Tokenizer

    return prepare_texts(folder, given, kind="subword", vocab_size=Tokenizer().vocab_size)


def read_documents(folder: Path, chosen: np.ndarray[Any, Any] | None = None) -> Encoded:
    """Read the tokens of all texts, or of the `chosen` ones, as fastai has made them."""
    tokens, lengths = np.load(folder / "tokens.npy"), np.load(folder / "lengths.npy")
    none = np.array([], dtype=np.int64)
    if chosen is not None:
        texts = np.split(tokens, np.cumsum(lengths)[:-1])
        tokens, lengths = np.concatenate([texts[index] for index in chosen]), lengths[chosen]
    return Encoded(tokens, np.concatenate([[0], np.cumsum(lengths)]), None, none, none)


def language_model_pieces(folder: Path, given: Record) -> dict[str, Callable[[], Record]]:
    """Return the pieces of the language model's worker: some steps of training, with the loss as it comes and over every token."""
    from nlpbp.text.recurrent import model_options, new_language_model
    from nlpbp.trainers.language_model import Reading, recurrent_training

    config = recipe_config(short=given["short"])
    accelerator = start(seed=config.seed, precision=given["precision"], threads=given["threads"])
    encoded = read_documents(folder)
    tokenizer = word_tokenizer(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    model = new_language_model(model_options(config.model, tokenizer), dropout=config.lm.dropout, seed=config.seed)
    training = recurrent_training(config.lm, {"train": encoded}, cycles=config.cycles, backwards=False)
    carried, laps, estimates = CarriedState(training.num_rows), Laps(), True
    every_token = Reading(recurrent=True, activation=config.lm.activation, temporal=config.lm.temporal)
    as_it_comes = replace(every_token, num_sampled=config.lm.sampled)
    losses = {True: as_it_comes.loss_fn(carried), False: every_token.loss_fn(carried)}
    optimizer: Any = training.make_optimizer(model, layer_groups(model))
    trained: nn.Module
    trained, optimizer = accelerator.prepare(model, optimizer)
    windows = stream_windows(
        encoded,
        num_rows=training.num_rows,
        window=training.window,
        pad=tokenizer.pad_token_id,
        num_micro_batches=1,
        total_steps=training.total_steps,
        seed=config.seed,
        carried=carried,
    )
    steps = train_steps(
        trained,
        windows,
        optimizer,
        accelerator=accelerator,
        loss_fn=timed_loss(lambda model, batch: losses[estimates](model, batch), laps, accelerator=accelerator, body=model.model),
        count=count_targets,
        schedule=training.schedule,
        momentum=training.momentum,
        total_steps=training.total_steps,
        max_grad_norm=training.max_grad_norm,
        seed=config.seed,
    )

    def block(num: int, *, estimate: bool = True) -> Record:
        nonlocal estimates
        estimates = estimate
        laps.start()
        tokens, step = 0, None
        for _ in range(num):
            step = next(steps)
            carried.commit()
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


def classifier_pieces(folder: Path, given: Record) -> dict[str, Callable[[], Record]]:
    """Return the pieces of the classifier's worker: an epoch over the sample, unfrozen and frozen, and its prediction."""
    from nlpbp.text.recurrent import model_options, new_classifier
    from nlpbp.trainers.recurrent_stages import stage_trainings
    from nlpbp.trainers.stages import prepare_again

    config = recipe_config(short=given["short"])
    accelerator = start(seed=config.seed, precision=given["precision"], threads=given["threads"])
    tokenizer = word_tokenizer(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    labels = np.array(given["labels"])
    names = [str(label) for label in sorted(set(given["labels"]))]
    model: nn.Module = new_classifier(
        model_options(config.model, tokenizer), task="single_label", labels=names, dropout=config.dropout.scale, seed=config.seed
    )
    chosen = np.load(folder / "sample.npy")
    sample, sample_labels = read_documents(folder, chosen), labels[chosen]
    counts = {"documents": len(sample), "tokens": len(sample.tokens)}
    trained = model

    def train(
        plan: Iterator[list[Any]], encoded: Encoded, labels: Any, *, train_last: int | None, total_steps: int
    ) -> Iterator[Step]:
        nonlocal trained
        stage = replace(config.stages[-1], train_last=train_last)
        (training,) = stage_trainings([stage], config.optim, config.cycles)
        groups = layer_groups(accelerator.unwrap_model(trained))
        freeze_to(groups, train_last=train_last)
        trained, optimizer = prepare_again(accelerator, trained, training.make_optimizer(model, groups))
        return train_steps(
            trained,
            batched_steps(plan, encoded, tokenizer=tokenizer, labels=labels),
            optimizer,
            accelerator=accelerator,
            loss_fn=classifier_loss(task="single_label", label_smoothing=config.optim.label_smoothing),
            schedule=training.schedule,
            momentum=training.momentum,
            total_steps=total_steps,
            max_grad_norm=config.optim.max_grad_norm,
            seed=config.seed,
        )

    def epoch(*, train_last: int | None) -> Record:
        lengths = sample.padded_lengths
        plan = training_plan(lengths, size=config.batch.size, num_micro_batches=1, epochs=1, seed=config.seed)
        num = steps_per_epoch(lengths, size=config.batch.size)
        steps = train(plan, sample, sample_labels, train_last=train_last, total_steps=num)
        started = time.perf_counter()
        last = list(steps)[-1]
        return {"seconds": time.perf_counter() - started, "steps": num, "loss": last.loss} | counts

    def longest() -> Record:
        documents = read_documents(folder)
        steps = grouped_steps(documents.padded_lengths, size=config.batch.size, seed=config.seed, epoch=0)
        step = max(steps, key=lambda step: int(documents.padded_lengths[step].max()))
        started = time.perf_counter()
        list(train(iter([[step]]), documents, labels, train_last=None, total_steps=1))
        tokens = int(documents.lengths[step].sum())
        return {"seconds": time.perf_counter() - started, "documents": len(step), "tokens": tokens}

    def prediction(model: nn.Module) -> Record:
        started = time.perf_counter()
        plan = evaluation_batches(sample.padded_lengths, max_tokens=config.batch.evaluation_tokens)
        predict(model, plan, partial(collate, sample, tokenizer=tokenizer), accelerator=accelerator)
        return {"seconds": time.perf_counter() - started} | counts

    return {
        "warm-up": longest,
        "unfrozen": lambda: epoch(train_last=None),
        "frozen": lambda: epoch(train_last=1),
        "predict": lambda: prediction(trained),
        "predict_fp32": lambda: prediction(accelerator.unwrap_model(trained, keep_fp32_wrapper=False)),
    }
