"""The benchmark `finder`: how far the rates that a sweep suggests lie from the best rate of a grid, and what that costs.

Three tasks: a transformer on a fifth of the review sentences, a recurrent classifier on a language model and 1,000 reviews, a small
residual net on scikit-learn's digits. For each random seed a sweep makes its suggestions, and the task is trained at every
rate of the grid and at each suggestion. Scores are of the validation set; the test set is not looked at.

A benchmark that was stopped goes on: what its --out file holds already is not done again.
"""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn

from nlpbp import config as sections
from nlpbp.benchmarks.transfer import described
from nlpbp.benchmarks.workers import Record, cpu_name, say, write_json
from nlpbp.core.batch import Batch
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import Schedule, one_cycle
from nlpbp.data.order import epoch_order
from nlpbp.data.parts import load_inputs
from nlpbp.runs.lr_finder import RateFound
from nlpbp.tasks import task_loss
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.lr_finder import find_rate
from nlpbp.train.setup import precision_of, start
from nlpbp.vision.blocks import residual_net
from recipes import lm_awd_lstm, transformer_sentiment, ulmfit

SUGGESTIONS = ("steepest", "valley", "min_div_10", "edge_div_10", "edge_div_30")
DIGITS_BATCH, BASE_RATE = 32, 1e-3  # the rate that a sweep's schedules, and those of the grid, are multiples of
CHANCE_BELOW = 0.01  # of accuracy: a rate this close to the grid's best is as good as the best

Positions = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Settings:
    """What is tried, and on how much."""

    rates: tuple[float, ...] = tuple(10 ** (exponent / 2) for exponent in range(-10, -1))  # 1e-5 to 1e-1
    num_sweeps: int = 2
    num_steps: int = 200
    sentences: float = 0.2
    reviews: int = 1000
    held_out: int = 1000
    lm_steps: int = 2200
    epochs: int = 1
    recurrent_epochs: int = 4
    is_tiny: bool = False

    @staticmethod
    def short() -> Settings:
        """A few steps on tiny data: tries the path, measures nothing."""
        return Settings(
            rates=(1e-3, 1e-2),
            num_sweeps=1,
            num_steps=20,
            reviews=60,
            held_out=40,
            lm_steps=4,
            recurrent_epochs=1,
            sentences=0.5,
            is_tiny=True,
        )


@dataclass(frozen=True)
class Task:
    """What a rate is found for: what a sweep found (`suggestions`, `refused`, `curves`), and the score at a rate, for a seed."""

    suggest: Callable[[int], Record]
    score: Callable[[float, int], float]


def run(out: Path, *, num_seeds: int, first_seed: int, short: bool) -> None:
    """Sweep and train everything; write `out` after each piece."""
    settings = Settings.short() if short else Settings()
    os.environ["NLPBP_REPORT"] = "off"  # nor an audit: scores are all that is wanted
    record = begin(out, settings)
    with tempfile.TemporaryDirectory(prefix="nlpbp-benchmark-") as name:
        tasks = {
            "digits": digits_task(settings),
            "transformer": transformer_task(settings, Path(name)),
            "recurrent": recurrent_task(settings, Path(name), language_model=out.with_name(f"{out.stem}_language_model")),
        }
        for seed in range(first_seed, first_seed + num_seeds):
            for title, task in tasks.items():
                measure(record, out, title, task, settings, seed=seed)
    say("\n".join(in_words(record["summary"])))
    say(f"everything measured is in {out}" + ("; it was --short, so these numbers mean nothing" if short else ""))


def begin(out: Path, settings: Settings) -> Record:
    """Return what `out` holds of a benchmark of these settings, or a new record."""
    accelerator = start(seed=0)
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "precision": precision_of(accelerator)}
    wanted = json.loads(json.dumps(vars(settings)))
    if out.exists():
        found: Record = json.loads(out.read_text(encoding="utf-8"))
        if found.get("settings") == wanted:
            return found
        raise ValueError(f"{out} holds a benchmark of other settings; name another file")
    return {"summary": {}, "machine": machine, "settings": wanted, "runs": []}


def measure(record: Record, out: Path, title: str, task: Task, settings: Settings, *, seed: int) -> None:
    """Do what is not done yet of one task and seed."""

    def done(**wanted: Any) -> Record | None:
        found = [one for one in record["runs"] if all(one.get(name) == value for name, value in wanted.items())]
        return found[0] if found else None

    def add(**values: Any) -> None:
        record["runs"].append({"task": title, "seed": seed, **values})
        record["summary"] = summary(record["runs"])
        write_json(out, record)

    swept = done(task=title, seed=seed, kind="sweep")
    if swept is None:
        started = time.monotonic()
        found = task.suggest(seed)
        suggestions = found["suggestions"]
        add(kind="sweep", **found, seconds=time.monotonic() - started)
        say(f"{title}, seed {seed}: " + (", ".join(f"{name} {rate:.1e}" for name, rate in suggestions.items()) or "no suggestion"))
    else:
        suggestions = swept["suggestions"]
    wanted = [("grid", rate) for rate in settings.rates] + list(suggestions.items())
    for kind, rate in wanted:
        if done(task=title, seed=seed, kind=kind, rate=rate) is None:
            started = time.monotonic()
            accuracy = task.score(rate, seed)
            add(kind=kind, rate=rate, accuracy=accuracy, seconds=time.monotonic() - started)
            say(f"{title}, seed {seed}, {kind} {rate:.1e}: accuracy {accuracy:.4f}")


def transformer_task(settings: Settings, folder: Path) -> Task:
    """Fine-tune the packaged transformer on a part of the packaged sentences."""
    base = transformer_sentiment.tiny() if settings.is_tiny else transformer_sentiment.Config()
    base = replace(
        base,
        data=replace(base.data, train_fraction=settings.sentences, test_share=0.0),
        epochs=settings.epochs,
        optim=replace(base.optim, head_lr=None),
    )

    def config(seed: int, lr: sections.Rate, number: str) -> Any:
        return replace(base, seed=seed, optim=replace(base.optim, lr=lr), out=str(folder / f"transformer-{seed}-{number}"))

    return _recipe_task(transformer_sentiment, config, settings)


def recurrent_task(settings: Settings, folder: Path, *, language_model: Path) -> Task:
    """Train a recurrent classifier on few reviews, on a language model that has read the others without their labels."""
    base = ulmfit.tiny() if settings.is_tiny else ulmfit.Config()
    source = "tiny:reviews" if settings.is_tiny else "demo:imdb"
    inputs = load_inputs(sections.Data(train=source, test_share=0.2))
    texts, targets = inputs.train.examples.texts, np.asarray(inputs.train.examples.targets)
    rows = [{"text": text, "label": str(target)} for text, target in zip(texts, targets, strict=True)]
    if not (language_model / "result.json").exists():
        lm = replace(base.lm, steps=settings.lm_steps, epochs=1)
        lm_config = lm_awd_lstm.Config(
            data=sections.Texts(train={"text": texts}, validation_share=0.02, test_share=0.0),  # type: ignore[arg-type]
            model=base.model,
            tokenizer=base.tokenizer,
            lm=sections.LanguageModel(**{name: getattr(lm, name) for name in sections.LanguageModel.__dataclass_fields__}),
            out=str(language_model),
        )
        lm_awd_lstm.run(lm_config)

    def config(seed: int, lr: sections.Rate, number: str) -> Any:
        chosen = random.Random(seed).sample(range(len(rows)), settings.reviews + settings.held_out)
        picked = [rows[i] for i in chosen]
        return replace(
            base,
            data=replace(
                base.data,
                train=picked[: settings.reviews],  # type: ignore[arg-type]
                validation=picked[settings.reviews :],  # type: ignore[arg-type]
                test_share=0.0,
                max_length=base.data.max_length if settings.is_tiny else 200,
            ),
            lm=ulmfit.Transfer(init=str(language_model), steps=0),
            stages=(sections.Stage(epochs=settings.recurrent_epochs),),
            batch=replace(base.batch, size=16),
            optim=replace(base.optim, lr=lr),
            seed=seed,
            out=str(folder / f"recurrent-{seed}-{number}"),
        )

    return _recipe_task(ulmfit, config, settings)


def _recipe_task(recipe: Any, config: Callable[[int, sections.Rate, str], Any], settings: Settings) -> Task:
    finder = sections.Finder(num_sweeps=settings.num_sweeps, num_steps=settings.num_steps, stop_after_stage=1)

    def suggest(seed: int) -> Record:
        try:
            recipe.run(replace(config(seed, "auto", "sweep"), finder=finder))
        except RateFound as found:
            return _kept(found.record)
        raise AssertionError("the sweep is all that was asked for")

    def score(rate: float, seed: int) -> float:
        from nlpbp.core.errors import NumericError

        try:
            accuracy = recipe.run(config(seed, rate, f"{rate:.6e}")).metrics["validation"]["accuracy"]
        except NumericError:
            return 0.0  # it has diverged
        assert accuracy is not None, "both labels are there"
        return float(accuracy)

    return Task(suggest, score)


def _kept(found: Record) -> Record:
    return {name: found[name] for name in ("suggestions", "refused", "curves")}


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits [n, 1, 8, 8] with their labels, and the positions to train on and to score on."""

    images: torch.Tensor
    labels: torch.Tensor
    train: Positions
    held_out: Positions


def read_digits() -> Digits:
    """Read the digits and hold out three in ten."""
    images, labels = load_digits(return_X_y=True)
    order = epoch_order(len(labels), seed=0, epoch=0)
    train, held_out = np.split(order, [int(0.7 * len(order))])
    return Digits(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0, torch.tensor(labels), train, held_out)


def digits_task(settings: Settings) -> Task:
    """Train a small residual net on scikit-learn's digits, in a plain loop."""
    digits, epochs = read_digits(), 4 * settings.epochs

    def suggest(seed: int) -> Record:
        model, optimizer, accelerator = digits_model(seed)
        found = find_rate(
            digits_steps(digits, model, optimizer, accelerator=accelerator, seed=seed),
            model=model,
            optimizer=optimizer,
            accelerator=accelerator,
            num_steps=settings.num_steps,
            num_orders=settings.num_sweeps,
            chance=math.log(10),
        )
        return _kept(asdict(found))

    def score(rate: float, seed: int) -> float:
        model, optimizer, accelerator = digits_model(seed)
        make_steps = digits_steps(digits, model, optimizer, accelerator=accelerator, seed=seed)
        schedule, total_steps = one_cycle(), epochs * len(digits.train) // DIGITS_BATCH
        for _ in make_steps(lambda progress: schedule(progress) * rate / BASE_RATE, total_steps, 1):
            pass
        model.eval()
        with torch.inference_mode():
            answers = model(digits.images[digits.held_out]).argmax(dim=1)
        return float((answers == digits.labels[digits.held_out]).float().mean())

    return Task(suggest, score)


def digits_model(seed: int) -> tuple[nn.Module, Any, Accelerator]:
    """Make the net and its optimizer, at a rate that schedules scale."""
    accelerator = start(seed=seed)
    torch.manual_seed(seed)
    net = residual_net(in_channels=1, num_labels=10)
    groups = parameter_groups(layer_groups(net), lr=BASE_RATE, weight_decay=0.01, no_decay=no_decay_names(net))
    model, optimizer = accelerator.prepare(net, adamw(groups))
    return model, optimizer, accelerator


def digits_steps(
    digits: Digits, model: nn.Module, optimizer: Any, *, accelerator: Accelerator, seed: int
) -> Callable[[Schedule, int, int], Iterator[Step]]:
    """Return what trains for so many steps under a schedule, on the digits in the order of that number."""
    num, size = len(digits.train), DIGITS_BATCH

    def make_steps(schedule: Schedule, total_steps: int, number: int) -> Iterator[Step]:
        passes = math.ceil(total_steps * size / num)
        ids = np.concatenate([digits.train[epoch_order(num, seed=seed, epoch=100 * number + p)] for p in range(passes)])
        parts = np.array_split(ids, max(1, len(ids) // size))[:total_steps]
        return train_steps(
            model,
            ([Batch({"images": digits.images[part]}, digits.labels[part], torch.from_numpy(part))] for part in parts),
            optimizer,
            accelerator=accelerator,
            loss_fn=lambda model, batch: task_loss(model(**batch.inputs), _labels(batch), task="single_label"),
            schedule=schedule,
            total_steps=total_steps,
            seed=seed,
        )

    return make_steps


def _labels(batch: Batch) -> torch.Tensor:
    assert batch.labels is not None, "digits have labels"
    return batch.labels


def summary(runs: Sequence[Record]) -> Record:
    """Return by task and suggestion how many decades it lies above the grid's best rate, and the accuracy that it loses to it."""
    made: Record = {}
    for title in sorted({run["task"] for run in runs}):
        of_task = [run for run in runs if run["task"] == title]
        grids = {
            seed: {run["rate"]: run["accuracy"] for run in of_task if run["seed"] == seed and run["kind"] == "grid"}
            for seed in {run["seed"] for run in of_task}
        }
        best = {seed: max(grid, key=lambda rate: grid[rate]) for seed, grid in grids.items() if grid}
        made[title] = {"best_rates": [best[seed] for seed in sorted(best)]}
        for name in SUGGESTIONS:
            tried = [run for run in of_task if run["kind"] == name and run["seed"] in best]
            if tried:
                made[title][name] = {
                    "rates": [run["rate"] for run in tried],
                    "decades_above_best": described([math.log10(run["rate"] / best[run["seed"]]) for run in tried]),
                    "accuracy_lost": described([grids[run["seed"]][best[run["seed"]]] - run["accuracy"] for run in tried]),
                }
    return made


def in_words(found: Record) -> list[str]:
    """Say for each task and suggestion how far it is off, in a line."""
    lines = []
    for title, values in found.items():
        lines.append(f"{title}: the best rates of the grid were {', '.join(f'{rate:.1e}' for rate in values['best_rates'])}")
        for name in SUGGESTIONS:
            if name in values:
                decades, lost = values[name]["decades_above_best"], values[name]["accuracy_lost"]
                lines.append(
                    f"  {name}: {decades['mean']:+.2f} decades from it{_interval(decades)}, "
                    f"accuracy lost {lost['mean']:.4f}{_interval(lost)}, over {lost['seeds']} seeds"
                )
    return lines


def _interval(values: Record) -> str:
    bounds = values["interval"]
    return "" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]"
