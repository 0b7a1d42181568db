"""The benchmark `images`: our loop on images beside a plain torch loop with the same net, and what each part of a step costs.

The plain loop has its batches ready, as tensorsand does what our step does: forward, cross-entropy,
backward, clipping, a fused AdamW.
Ours makes its batches from bytes as it goes, with and without views. Blocks of steps are interleaved, medians count. The share of
making batches is measured alone, in the same turn. Then one net in each number format, and how fast files decode.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from benchmarks.workers import Record, cpu_name, say, write_json
from PIL import Image
from torch import nn
from torch.nn import functional as F

from nlpbp.core.batch import Batch
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import constant
from nlpbp.data.order import training_plan
from nlpbp.tasks import classifier_loss
from nlpbp.train.loop import train_steps
from nlpbp.train.setup import start
from nlpbp.vision.augment import PRESETS, Preset
from nlpbp.vision.pictures import Pictures, picture_steps, prepare_pictures
from nlpbp.vision.pretrained import label_settings
from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification, pixel_processor
from nlpbp.vision.sources import image_table

RATE, LABELS = 3e-3, [str(number) for number in range(10)]


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    sizes: tuple[int, ...] = (8, 32, 64)
    num_images: int = 1024
    batch: int = 32
    blocks: int = 9
    steps: int = 20
    files: int = 200

    @staticmethod
    def short() -> Settings:
        """A few steps: tries the path, measures nothing."""
        return Settings(sizes=(8,), num_images=64, blocks=2, steps=2, files=4)


def run(out: Path, *, short: bool) -> None:
    """Measure everything and write `out`."""
    settings = Settings.short() if short else Settings()
    start(seed=0, precision="fp32")
    record: Record = {"machine": {"cpu": cpu_name(), "threads": torch.get_num_threads()}, "settings": vars(settings), "sizes": {}}
    for size in settings.sizes:
        record["sizes"][size] = measured(settings, size=size)
        say(in_words(size, record["sizes"][size]))
        write_json(out, record)
    record["formats"] = formats(settings, size=settings.sizes[-1])
    say("; ".join(f"{name}: {seconds * 1e3:.1f} ms a step" for name, seconds in record["formats"].items()))
    record["decoding"] = decoded(settings)
    say(f"decoding: {record['decoding']:.0f} photographs of 500 x 375 pixels a second, once")
    write_json(out, record)
    say(f"everything measured is in {out}" + ("; it was --short, so these numbers mean nothing" if short else ""))


def pictures_of(settings: Settings, size: int) -> tuple[Pictures, np.ndarray]:
    """Make images of noise, and labels."""
    rng = np.random.default_rng(0)
    channels = 1 if size == 8 else 3
    pixels = rng.integers(256, size=(settings.num_images, channels, size, size), dtype=np.uint8)
    shape = (-1.0,) * channels, (2 / 255,) * channels
    return Pictures(pixels, *shape), rng.integers(len(LABELS), size=settings.num_images)


def net_of(pictures: Pictures) -> ResidualForImageClassification:
    """Make the recipe's net, always the same."""
    torch.manual_seed(0)
    return ResidualForImageClassification(
        ResidualConfig(num_channels=pictures.pixels.shape[1], **label_settings("single_label", LABELS))
    )


def measured(settings: Settings, *, size: int) -> Record:
    """Return seconds a step: of the plain loop, of ours as images are and with views; and of making those batches alone."""
    pictures, labels = pictures_of(settings, size)
    arms: dict[str, Callable[[], float]] = {
        "plain": plain_loop(settings, pictures, labels),
        "ours": our_loop(settings, pictures, labels, preset="none"),
        "ours with views": our_loop(settings, pictures, labels, preset="side_on"),
        "batches": lambda: batches_alone(settings, pictures, labels, preset="none"),
        "batches with views": lambda: batches_alone(settings, pictures, labels, preset="side_on"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for block in range(settings.blocks + 1):
        for name, arm in arms.items():
            took = arm()
            if block:  # the first warms up
                seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [plain / ours for plain, ours in zip(seconds["plain"], seconds["ours"], strict=True)]
    return {
        "seconds_a_step": medians,
        "speed_beside_plain": statistics.median(ratios),
        "share_of_batches": medians["batches"] / medians["ours"],
        "share_of_batches_with_views": medians["batches with views"] / medians["ours with views"],
        "blocks": seconds,
    }


def batches_of(settings: Settings, pictures: Pictures, labels: np.ndarray, *, preset: Preset) -> Iterator[list[Batch]]:
    """Yield batches without an end, as our loop takes them."""
    plan = training_plan(pictures.padded_lengths, size=settings.batch, num_micro_batches=1, epochs=10**6, seed=0)
    return picture_steps(plan, pictures, labels=labels, views=PRESETS[preset], seed=0)


def our_loop(settings: Settings, pictures: Pictures, labels: np.ndarray, *, preset: Preset) -> Callable[[], float]:
    """Return what does a block of our steps and tells the seconds of each."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    net = net_of(pictures)
    groups = parameter_groups(layer_groups(net), lr=RATE, weight_decay=0.01, no_decay=no_decay_names(net))
    model, optimizer = accelerator.prepare(net, adamw(groups))
    steps = train_steps(
        model,
        batches_of(settings, pictures, labels, preset=preset),
        optimizer,
        accelerator=accelerator,
        loss_fn=classifier_loss(task="single_label"),
        schedule=constant(),
        total_steps=10**6,
    )
    return lambda: timed(settings, lambda: next(steps))


def plain_loop(settings: Settings, pictures: Pictures, labels: np.ndarray) -> Callable[[], float]:
    """Return what does a block of a plain loop's steps, whose batches are ready, and tells the seconds of each."""
    model: nn.Module = net_of(pictures)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    batches = batches_of(settings, pictures, labels, preset="none")
    ready = [next(batches)[0] for _ in range(8)]
    number = 0

    def step() -> None:
        nonlocal number
        batch = ready[number % len(ready)]
        number += 1
        model.train()
        loss = F.cross_entropy(model(**batch.inputs).logits, batch.labels)  # type: ignore[arg-type]  # they have labels
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return lambda: timed(settings, step)


def batches_alone(settings: Settings, pictures: Pictures, labels: np.ndarray, *, preset: Preset) -> float:
    """Return the seconds that making a step's batch takes."""
    batches = batches_of(settings, pictures, labels, preset=preset)
    next(batches)
    return timed(settings, lambda: next(batches))


def timed(settings: Settings, step: Callable[[], object]) -> float:
    """Return the seconds of one step, over a block of them."""
    started = time.perf_counter()
    for _ in range(settings.steps):
        step()
    return (time.perf_counter() - started) / settings.steps


def formats(settings: Settings, *, size: int) -> dict[str, float]:
    """Return seconds a step of one net, forward and backward, in each number format; torch's own memory layout, for the other one
    corrupts memory in the backward pass of narrow nets.
    """
    pictures, labels = pictures_of(settings, size)
    (batch,) = next(batches_of(settings, pictures, labels, preset="none"))

    def step_of(in_bf16: bool) -> Callable[[], None]:
        model: nn.Module = net_of(pictures)

        def step() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
                loss = F.cross_entropy(model(**batch.inputs).logits, batch.labels)  # type: ignore[arg-type]
            loss.backward()
            model.zero_grad()

        return step

    arms = {"fp32": step_of(False), "bf16": step_of(True)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for block in range(settings.blocks + 1):
        for name, arm in arms.items():
            took = timed(settings, arm)
            if block:
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}


def decoded(settings: Settings) -> float:
    """Return how many photographs a second are decoded and brought to 224 pixels, which is done once."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="nlpbp-benchmark-") as name:
        folder = Path(name) / "photo"
        folder.mkdir()
        for number in range(settings.files):
            smooth = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8)).resize((500, 375))
            file = io.BytesIO()
            smooth.save(file, "jpeg", quality=90)
            (folder / f"{number}.jpg").write_bytes(file.getvalue())
        _, store = image_table(Path(name))
        started = time.perf_counter()
        prepare_pictures(list(store.values()), processor=pixel_processor(image_size=224), num_channels=3, max_pixels=10**6)
        return settings.files / (time.perf_counter() - started)


def in_words(size: int, found: Record) -> str:
    """Say what was found for one size, in a line."""
    milliseconds = {name: 1e3 * seconds for name, seconds in found["seconds_a_step"].items()}
    return (
        f"{size} pixels: {milliseconds['ours']:.1f} ms a step, {found['speed_beside_plain']:.2f} x a plain loop; "
        f"making batches is {found['share_of_batches']:.1%} of a step, with views {found['share_of_batches_with_views']:.1%}"
    )
