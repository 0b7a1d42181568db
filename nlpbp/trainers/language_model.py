"""What every recipe that trains a language model does in the same way: its stream, its loss, its scores, its result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.config import RunSettings
from nlpbp.config.secrets import redact
from nlpbp.core.batch import Batch, CountedLoss, LossFn
from nlpbp.core.errors import DataError
from nlpbp.core.groups import LayerGroup, layer_groups
from nlpbp.core.losses import IGNORED
from nlpbp.core.optim import RECURRENT_BETAS, RECURRENT_EPS
from nlpbp.core.regularize import activation_penalty, gradient_only, temporal_penalty
from nlpbp.core.schedules import Schedule
from nlpbp.data.corpus import Corpus
from nlpbp.data.order import micro_seed, stage_seed
from nlpbp.evaluation.intervals import mean_interval
from nlpbp.runs.advice import advise
from nlpbp.runs.cards import language_model_card
from nlpbp.runs.facts import facts_of
from nlpbp.runs.fit import NO_AVERAGING, Averaging, Metrics, Validation, clean_up, fit
from nlpbp.runs.folder import Run, write_text
from nlpbp.runs.lr_finder import SWEEP, SWEPT, found_lr
from nlpbp.runs.model_folder import save_language_model, send_to_hub
from nlpbp.runs.progress import Learner, Progress, Provenance, Stage
from nlpbp.runs.result import RunResult, peak_rss_mib
from nlpbp.runs.results import close, training_record
from nlpbp.tasks.differences import beside_baselines
from nlpbp.tasks.task import LANGUAGE_MODEL, metric_of
from nlpbp.text.batches import Encoded
from nlpbp.text.lm_data import CarriedState, StreamShape, count_targets, evaluation_blocks, num_windows, stream_windows
from nlpbp.train.evaluate import batch_losses
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.lr_finder import MakeSweep
from nlpbp.train.weights import full_state
from nlpbp.trainers.optimizers import make_optimizer, schedule_of
from nlpbp.trainers.stages import check_micro_batches, prepare_again

LOSS = metric_of(LANGUAGE_MODEL)
NUM_BLOCKS = 8  # of rows, when scoring: processes share them out, and the sums do not depend on how many there are


@dataclass(frozen=True)
class Reading:
    """How a model reads a stream: with a state that is carried on and penalties (recurrent), or each window for itself."""

    recurrent: bool
    activation: float = 0.0
    temporal: float = 0.0
    num_sampled: int | None = None

    def carried_state(self, num_rows: int) -> CarriedState | None:
        """Return what is carried from window to window, if anything is."""
        return CarriedState(num_rows) if self.recurrent else None

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


@dataclass(frozen=True)
class TrainedModel:
    """A trained language model as accelerate has it, and `as_saved`, as whoever loads it will run it."""

    model: nn.Module
    as_saved: nn.Module


def window_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the mean loss of any `AutoModelForCausalLM` on windows that stand alone, in fp32."""
    logits = model(input_ids=batch.inputs["input_ids"]).logits.float()
    targets = batch.inputs["shift_labels"]
    total = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


@dataclass(frozen=True)
class StreamPlan:
    """How a language model is trained on its stream, a window of all rows a step.

    `make_optimizer` is given the model and its layer groups. `find_lr` lets a sweep find the highest learning rate first.
    """

    total_steps: int
    shape: StreamShape
    make_optimizer: Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]
    schedule: Schedule
    max_grad_norm: float | None = None
    averaging: Averaging = NO_AVERAGING
    find_lr: bool = False


@dataclass(frozen=True)
class LanguageModelData:
    """The encoded texts of a language model by part, with their tokenizer; `identity` names what checkpoints belong to."""

    encoded: Mapping[str, Encoded]
    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, str]


@dataclass(frozen=True)
class StreamLoop:
    """The training loop of a language model."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    train: Encoded
    plan: StreamPlan
    reading: Reading
    seed: int

    def steps(self, carried: CarriedState | None, first_step: int, num_micro_batches: int) -> Iterator[Step]:
        """Go through the rest of the stream from `first_step` on."""
        windows = stream_windows(
            self.train,
            self.plan.shape,
            num_micro_batches=num_micro_batches,
            total_steps=self.plan.total_steps,
            seed=self.seed,
            carried=carried,
            first_step=first_step,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        return train_steps(
            self.model,
            windows,
            self.optimizer,
            accelerator=self.accelerator,
            loss_fn=CountedLoss(self.reading.loss_fn(carried), count_targets),
            schedule=self.plan.schedule,
            total_steps=self.plan.total_steps,
            first_step=first_step,
            max_grad_norm=self.plan.max_grad_norm,
            seed=self.seed,
        )

    def sweeps(self, num_micro_batches: int, *, seed: int) -> MakeSweep:
        """Make the loops of a sweep over learning rates: another schedule, and streams that training will not see."""

        def make_sweep(schedule: Schedule, total_steps: int, order: int) -> Iterator[Step]:
            plan = replace(self.plan, schedule=schedule, total_steps=total_steps)
            state = self.reading.carried_state(plan.shape.num_rows)
            for step in replace(self, plan=plan, seed=micro_seed(seed, order, SWEEP)).steps(state, 0, num_micro_batches):
                if state is not None:
                    state.commit()
                yield step

        return make_sweep


def train_language_model(
    run: Run[RunSettings],
    plan: StreamPlan,
    data: LanguageModelData,
    *,
    model: nn.Module,
    reading: Reading,
    before: Progress | None = None,
    stage: Stage | None = None,
    eval_steps: int | None = None,
) -> tuple[Progress | None, nn.Module]:
    """Train `model` on the training texts as one stage of a run; return its end, and the model as accelerate has it.

    The end is None when a later stage has left this one behind; the model is then not the trained one. A step is cut into
    micro-batches by rows. The best weights by the validation texts are kept.
    """
    accelerator, num_rows, train = run.accelerator, plan.shape.num_rows, data.encoded["train"]
    num_micro_batches = check_micro_batches(run, num_examples=num_rows, size=num_rows)
    per_epoch = num_windows(len(train.tokens), num_rows=num_rows, window=plan.shape.window)
    stage = replace(stage or Stage(is_only=True), total_steps=plan.total_steps, steps_per_epoch=min(per_epoch, plan.total_steps))
    groups = layer_groups(accelerator.unwrap_model(model))
    carried = reading.carried_state(num_rows)
    trained, optimizer = prepare_again(accelerator, model, plan.make_optimizer(model, groups))
    seed = run.settings.seed
    loop = StreamLoop(accelerator, trained, optimizer, train, plan, reading, stage_seed(seed, stage.index))
    learner, sweeps = Learner(trained, optimizer, groups, carried), loop.sweeps(num_micro_batches, seed=seed)
    progress = fit(
        run,
        partial(loop.steps, carried),
        learner,
        stage,
        validation=Validation(
            lambda: score(run, trained, data.encoded["validation"], plan.shape, reading=reading)[0],
            LOSS,
            eval_steps=eval_steps,
            patience=run.settings.patience,
        ),
        provenance=Provenance(
            data.identity,
            [f"row {row + 1} of the stream" for row in range(num_rows)],
            allow_data_change=run.settings.data.allow_change,
        ),
        before=before or Progress(num_micro_batches),
        averaging=plan.averaging,
        find_lr=partial(found_lr, run, sweeps, learner, stage=stage, schedule=plan.schedule) if plan.find_lr else None,
    )
    return progress, trained


def recurrent_plan(lm: sections.LanguageModel, data: LanguageModelData, *, cycles: sections.Cycles, backwards: bool) -> StreamPlan:
    """Plan the training of a recurrent language model from its settings: AdamW, by default under 1cycle."""
    check_rows(lm.batch_size, data.encoded)
    shape = StreamShape(lm.batch_size, lm.bptt, data.tokenizer.pad_token_id, lm.random_bptt, backwards)
    return StreamPlan(
        total_steps=windows_to_do(data.encoded["train"], shape, steps=lm.steps, epochs=lm.epochs),
        shape=shape,
        make_optimizer=partial(
            make_optimizer,
            name=lm.optimizer,
            lr=SWEPT if lm.lr == "auto" else lm.lr,
            layer_decay=lm.layer_decay,
            weight_decay=lm.weight_decay,
            betas=(lm.momentum[0], RECURRENT_BETAS[1]),
            eps=RECURRENT_EPS,
        ),
        schedule=schedule_of(lm.schedule, cycles, momentum=lm.momentum),
        max_grad_norm=lm.max_grad_norm,
        averaging=Averaging(lm.swa_start, lm.ema_decay),
        find_lr=lm.lr == "auto",
    )


def windows_to_do(encoded: Encoded, shape: StreamShape, *, steps: int | None, epochs: int) -> int:
    """Return how many steps a language model is trained for: so many, or so many passes."""
    per_epoch = num_windows(len(encoded.tokens), num_rows=shape.num_rows, window=shape.window)
    return epochs * per_epoch if steps is None else steps


def check_rows(num_rows: int, encoded: Mapping[str, Encoded]) -> None:
    """Raise `DataError` for texts that cannot give each row a token."""
    for name, part in encoded.items():
        if len(part.tokens) < (num_rows + 1 if name == "train" else 2):
            raise DataError(
                f"the {name} texts have {len(part.tokens)} tokens, too few for {num_rows} rows",
                hint="give more text, or fewer rows",
            )


def score(
    run: Run[Any], model: nn.Module, encoded: Encoded, shape: StreamShape, *, reading: Reading
) -> tuple[Metrics, dict[str, list[float] | None]]:
    """Measure loss (nats a token) and perplexity on a corpus, with 95 % intervals over its windows."""
    blocks = evaluation_blocks(encoded, shape, num_blocks=NUM_BLOCKS)
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
    run: Run[RunSettings],
    corpus: Corpus,
    data: LanguageModelData,
    progress: Progress,
    plan: StreamPlan,
    *,
    trained: TrainedModel,
    reading: Reading,
    base_model: str,
    before: Metrics | None = None,
) -> RunResult:
    """Score the validation and test texts, write the model and the result, print the closing table; call it in every process.

    `before` is the score of the validation texts before training, where there was something to score.
    """
    encoded, model = data.encoded, trained.model
    scored = {name: part for name, part in encoded.items() if name != "train"}
    found = {name: score(run, trained.as_saved, part, plan.shape, reading=reading) for name, part in scored.items()}
    state = full_state(model)
    baselines = {"unigram": unigram_baseline(encoded["train"], scored, vocab_size=len(data.tokenizer))}
    if before is not None:
        baselines["before"] = {"validation": before}
    seconds, items = sum(s["seconds"] for s in progress.stages), sum(s["items"] for s in progress.stages)
    result = RunResult(
        recipe=run.recipe,
        out=run.out,
        task=LANGUAGE_MODEL,
        metrics={name: metrics for name, (metrics, _) in found.items()},
        intervals={name: intervals for name, (_, intervals) in found.items()},
        baselines=baselines,
        num_parameters=sum(p.numel() for p in model.parameters()),
        train_seconds=seconds,
        samples_per_second=items / max(seconds, 1e-9),
        peak_rss_mib=peak_rss_mib(),
    )
    if run.accelerator.is_main_process:
        result = replace(result, against=beside_baselines(vars(result)))
        result = replace(result, advice=advise(facts_of(run, result, progress)))
        card = language_model_card(result, corpus, base_model=base_model, import_line=reading.recurrent)
        plain = run.accelerator.unwrap_model(model)
        save_language_model(plain, data.tokenizer, state, folder=run.out / "model", card=card)
        record = training_record(result, progress) | {
            "data": {"fingerprint": corpus.fingerprint, "examples": {name: len(part) for name, part in corpus.parts.items()}},
            "tokens": {name: len(part.tokens) for name, part in encoded.items()},
        }
        write_text(run.out / "result.json", json.dumps(redact(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        close(run, result, progress)
    clean_up(run)
    send_to_hub(run)
    return result
