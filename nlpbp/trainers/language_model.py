"""What every recipe that trains a language model does in the same way: its stream, its loss, its scores, its result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.config.secrets import redact
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import DataError
from nlpbp.core.groups import LayerGroup, layer_groups
from nlpbp.core.losses import IGNORED
from nlpbp.core.optim import RECURRENT_BETAS, RECURRENT_EPS
from nlpbp.core.regularize import activation_penalty, gradient_only, temporal_penalty
from nlpbp.core.schedules import Schedule
from nlpbp.data.corpus import Corpus
from nlpbp.data.order import micro_seed, stage_seed
from nlpbp.evaluation.intervals import mean_interval
from nlpbp.runs.cards import language_model_card
from nlpbp.runs.fit import Metrics, clean_up, fit
from nlpbp.runs.folder import Run, write_text
from nlpbp.runs.lr_finder import SWEEP, SWEPT, found_rate
from nlpbp.runs.progress import Progress, Stage
from nlpbp.runs.report import leave_report
from nlpbp.runs.result import RunResult, peak_rss_mib
from nlpbp.runs.results import announce, save_language_model, training_record, upload
from nlpbp.text.batches import Encoded
from nlpbp.text.lm_data import CarriedState, count_targets, evaluation_blocks, num_windows, stream_windows
from nlpbp.train.evaluate import batch_losses
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.weights import full_state
from nlpbp.trainers.optimizers import make_optimizer, momentum_of, schedule_of
from nlpbp.trainers.stages import check_micro_batches, prepare_again

NUM_BLOCKS = 8  # of rows, when scoring: processes share them out, and the sums do not depend on how many there are


@dataclass(frozen=True)
class Reading:
    """How a model reads a stream: with a state that is carried on and penalties (recurrent), or each window for itself."""

    recurrent: bool
    activation: float = 0.0
    temporal: float = 0.0
    num_sampled: int | None = None

    def loss_fn(self, carried: CarriedState | None) -> LossFn:
        """Make the loss for training; the penalties have a gradient and do not show."""

        def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
            if carried is None:
                return window_loss(model, batch)
            state = carried.take(batch.ids, batch.inputs["input_ids"].device)
            outputs = model(**batch.inputs, state=state, num_sampled=self.num_sampled)
            carried.put(batch.ids, outputs.state)
            dropped, raw = outputs.activations
            mask = batch.inputs["shift_labels"] != IGNORED
            penalty = self.activation * activation_penalty(dropped, mask=mask) + self.temporal * temporal_penalty(raw, mask=mask)
            loss: Tensor = outputs.loss + gradient_only(penalty)
            return loss

        return loss_fn

    def score(self, model: nn.Module, batch: Batch, state: Any) -> tuple[Tensor, Any]:
        """Return the mean loss of a window and the state that the next one goes on from."""
        if not self.recurrent:
            return window_loss(model, batch), None
        outputs = model(**batch.inputs, state=state)
        return outputs.loss, outputs.state


def window_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the mean loss of any `AutoModelForCausalLM` on windows that stand alone, in fp32."""
    logits = model(input_ids=batch.inputs["input_ids"]).logits.float()
    targets = batch.inputs["shift_labels"]
    total = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


@dataclass(frozen=True)
class Training:
    """How a language model is trained on its stream: `num_rows` windows of `window` tokens are a step.

    `make_optimizer` is given the model and its layer groups; `momentum` gives values of Adam's first beta; `average_from` and `ema`
    are as in `fit`. A `sweep` finds the highest rate first.
    """

    total_steps: int
    num_rows: int
    window: int
    make_optimizer: Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]
    schedule: Schedule
    momentum: Schedule | None = None
    max_grad_norm: float | None = None
    average_from: float = 1.0
    ema: float | None = None
    random_windows: bool = False
    backwards: bool = False
    sweep: bool = False


def train_language_model(
    run: Run,
    training: Training,
    *,
    model: nn.Module,
    encoded: Mapping[str, Encoded],
    reading: Reading,
    tokenizer: PreTrainedTokenizerBase,
    micro_batches: int | None,
    checkpoint: sections.Checkpoints,
    finder: sections.Finder,
    identity: Mapping[str, str],
    seed: int,
    before: Progress | None = None,
    stage: Stage = Stage(),  # noqa: B008
    allow_change: bool = False,
    eval_steps: int | None = None,
    patience: int | None = None,
) -> tuple[Progress | None, nn.Module]:
    """Train `model` on `encoded["train"]` as one stage of a run; return its end, and the model as accelerate has it.

    The end is None when a later stage has left this one behind; the model is then not the trained one. `micro_batches` cut a step
    by rows. The best weights by `encoded["validation"]` are kept.
    """
    accelerator, num_rows, pad = run.accelerator, training.num_rows, tokenizer.pad_token_id
    num_micro_batches = check_micro_batches(run, micro_batches, num_examples=num_rows, size=num_rows)
    per_epoch = num_windows(len(encoded["train"].tokens), num_rows=num_rows, window=training.window)
    groups = layer_groups(accelerator.unwrap_model(model))
    carried = CarriedState(num_rows) if reading.recurrent else None
    trained, optimizer = prepare_again(accelerator, model, training.make_optimizer(model, groups))

    def steps_of(
        training: Training, carried: CarriedState | None, first_step: int, num_micro_batches: int, seed: int
    ) -> Iterator[Step]:
        windows = stream_windows(
            encoded["train"],
            num_rows=num_rows,
            window=training.window,
            pad=pad,
            num_micro_batches=num_micro_batches,
            total_steps=training.total_steps,
            seed=seed,
            random_windows=training.random_windows,
            backwards=training.backwards,
            carried=carried,
            first_step=first_step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        return train_steps(
            trained,
            windows,
            optimizer,
            accelerator=accelerator,
            loss_fn=reading.loss_fn(carried),
            count=count_targets,
            schedule=training.schedule,
            momentum=training.momentum,
            total_steps=training.total_steps,
            first_step=first_step,
            max_grad_norm=training.max_grad_norm,
            seed=seed,
        )

    def make_steps(first_step: int, num_micro_batches: int) -> Iterator[Step]:
        return steps_of(training, carried, first_step, num_micro_batches, stage_seed(seed, stage.index))

    def make_sweep(schedule: Schedule, total_steps: int, order: int) -> Iterator[Step]:
        swept = replace(training, schedule=schedule, momentum=None, total_steps=total_steps)
        state = CarriedState(num_rows) if reading.recurrent else None
        for step in steps_of(swept, state, 0, num_micro_batches, micro_seed(seed, order, SWEEP)):
            if state is not None:
                state.commit()
            yield step

    progress = fit(
        run,
        make_steps,
        model=trained,
        optimizer=optimizer,
        groups=groups,
        evaluate=lambda: score(run, trained, encoded["validation"], training, reading=reading, pad=pad)[0],
        metric="loss",
        total_steps=training.total_steps,
        steps_per_epoch=min(per_epoch, training.total_steps),
        identity=identity,
        checkpoints=checkpoint,
        references=[f"row {row + 1} of the stream" for row in range(num_rows)],
        before=before or Progress(num_micro_batches),
        stage=stage,
        carried=carried,
        allow_data_change=allow_change,
        eval_steps=eval_steps,
        patience=patience,
        average_from=training.average_from,
        ema=training.ema,
        find_rate=partial(
            found_rate,
            run,
            finder,
            make_sweep,
            model=trained,
            optimizer=optimizer,
            stage=stage,
            schedule=training.schedule,
        )
        if training.sweep
        else None,
    )
    return progress, trained


def recurrent_training(
    lm: sections.LanguageModel, encoded: Mapping[str, Encoded], *, cycles: sections.Cycles, backwards: bool
) -> Training:
    """Make the training of a recurrent language model from its settings: AdamW, by default under 1cycle."""
    check_rows(lm.rows, encoded)
    return Training(
        total_steps=windows_to_do(encoded["train"], steps=lm.steps, epochs=lm.epochs, num_rows=lm.rows, window=lm.window),
        num_rows=lm.rows,
        window=lm.window,
        make_optimizer=partial(
            make_optimizer,
            name=lm.optimizer,
            lr=SWEPT if lm.lr == "auto" else lm.lr,
            layer_decay=lm.layer_decay,
            weight_decay=lm.weight_decay,
            betas=(lm.momentum[0], RECURRENT_BETAS[1]),
            eps=RECURRENT_EPS,
        ),
        schedule=schedule_of(lm.schedule, cycles),
        momentum=momentum_of(lm.schedule, lm.momentum),
        max_grad_norm=lm.max_grad_norm,
        average_from=lm.average_from,
        ema=lm.ema,
        random_windows=lm.random_windows,
        backwards=backwards,
        sweep=lm.lr == "auto",
    )


def windows_to_do(encoded: Encoded, *, steps: int | None, epochs: int, num_rows: int, window: int) -> int:
    """Return how many steps a language model is trained for: so many, or so many passes."""
    return epochs * num_windows(len(encoded.tokens), num_rows=num_rows, window=window) if steps is None else steps


def check_rows(num_rows: int, encoded: Mapping[str, Encoded]) -> None:
    """Raise `DataError` for texts that cannot give each row a token."""
    for name, part in encoded.items():
        if len(part.tokens) < (num_rows + 1 if name == "train" else 2):
            raise DataError(
                f"the {name} texts have {len(part.tokens)} tokens, too few for {num_rows} rows",
                hint="give more text, or fewer rows",
            )


def score(
    run: Run, model: nn.Module, encoded: Encoded, training: Training, *, reading: Reading, pad: int
) -> tuple[Metrics, dict[str, list[float] | None]]:
    """Measure loss (nats a token) and perplexity on a corpus, with 95 % intervals over its windows."""
    blocks = evaluation_blocks(
        encoded,
        num_rows=training.num_rows,
        window=training.window,
        pad=pad,
        num_blocks=NUM_BLOCKS,
        backwards=training.backwards,
    )
    losses, counts = batch_losses(model, blocks, accelerator=run.accelerator, count=count_targets, loss_of=reading.score)
    mean, interval = mean_interval(losses, counts)
    metrics: Metrics = {"loss": mean, "perplexity": perplexity(mean)}
    return metrics, {"loss": interval, "perplexity": [perplexity(bound) for bound in interval]}


def perplexity(loss: float) -> float:
    """Return e to the loss, which a model that has diverged does not take beyond the largest number.

    >>> perplexity(0.0)
    1.0
    """
    return math.exp(min(loss, 700.0))


def unigram_baseline(train: Encoded, parts: Mapping[str, Encoded], *, vocab_size: int) -> dict[str, Metrics]:
    """Score what knows only how frequent each token is, counted on the training texts with one added to each count."""
    counts = np.bincount(train.tokens, minlength=vocab_size) + 1.0
    log_shares = np.log(counts / counts.sum())
    losses = {name: float(-log_shares[part.tokens[1:]].mean()) for name, part in parts.items()}
    return {name: {"loss": loss, "perplexity": perplexity(loss)} for name, loss in losses.items()}


def finish_language_model(
    run: Run,
    corpus: Corpus,
    progress: Progress,
    training: Training,
    *,
    model: nn.Module,
    saved: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Mapping[str, Encoded],
    reading: Reading,
    base_model: str,
    before: Metrics | None = None,
    push_to_hub: str | None = None,
) -> RunResult:
    """Score the validation and test texts, write the model and the result, print the closing table; call it in every process.

    `model` is the trained one as accelerate has it, `saved` the same as whoever loads it will run it. `before` is the score of the
    validation texts before training, where there was something to score.
    """
    scored = {name: part for name, part in encoded.items() if name != "train"}
    found = {name: score(run, saved, part, training, reading=reading, pad=tokenizer.pad_token_id) for name, part in scored.items()}
    state = full_state(model)
    baselines = {"unigram": unigram_baseline(encoded["train"], scored, vocab_size=len(tokenizer))}
    if before is not None:
        baselines["before"] = {"validation": before}
    seconds, items = sum(s["seconds"] for s in progress.stages), sum(s["items"] for s in progress.stages)
    result = RunResult(
        recipe=run.recipe,
        out=run.out,
        task="language_model",
        metrics={name: metrics for name, (metrics, _) in found.items()},
        intervals={name: intervals for name, (_, intervals) in found.items()},
        baselines=baselines,
        num_parameters=sum(p.numel() for p in model.parameters()),
        train_seconds=seconds,
        samples_per_second=items / max(seconds, 1e-9),
        peak_rss_mib=peak_rss_mib(),
    )
    if run.accelerator.is_main_process:
        card = language_model_card(result, corpus, base_model=base_model, import_line=reading.recurrent)
        plain = run.accelerator.unwrap_model(model)
        save_language_model(plain, tokenizer, state, folder=run.out / "model", card=card)
        record = training_record(result, progress) | {
            "data": {"fingerprint": corpus.fingerprint, "examples": {name: len(part) for name, part in corpus.parts.items()}},
            "tokens": {name: len(part.tokens) for name, part in encoded.items()},
        }
        write_text(run.out / "result.json", json.dumps(redact(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        announce(run, result, progress)
        leave_report(run)
    clean_up(run)
    if push_to_hub is not None and run.accelerator.is_main_process:
        run.say(f"sent to {upload(run.out / 'model', push_to_hub)}")
    return result
