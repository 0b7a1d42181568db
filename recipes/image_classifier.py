"""Train a small residual net on labelled images from scratch; on scikit-learn's digits, if nothing is named.

python scripts/finetune.py image_classifier --data.train photos/
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from nlpbp import config as sections
from nlpbp.config.limits import check_ranges
from nlpbp.core.init import lsuv_
from nlpbp.data.order import stage_seed
from nlpbp.data.parts import Inputs
from nlpbp.modalities.images import image_medium, load_images, num_channels, own_size, say_what_is_seen
from nlpbp.runs.audit import audit_images
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.result import RunResult
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.image_stages import image_trainings
from nlpbp.vision.pictures import collate_pictures
from nlpbp.vision.pretrained import label_settings
from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification, pixel_processor

NAME = "image_classifier"
LR = 3e-3
LSUV_IMAGES = 64


@dataclass(frozen=True)
class Config(sections.ClassifierSettings):
    """Train a small residual net on labelled images from scratch."""

    data: sections.Images = field(default_factory=sections.Images)
    model: sections.ResidualNet = field(default_factory=sections.ResidualNet)
    optim: sections.ImageOptim = field(default_factory=sections.ImageOptim)
    augment: sections.ImageAugment = field(default_factory=lambda: sections.ImageAugment(preset="digits"))
    batch: sections.ImageBatch = field(default_factory=sections.ImageBatch)
    cycles: sections.Cycles = field(default_factory=sections.Cycles)
    finder: sections.Finder = field(default_factory=sections.Finder)
    checkpoint: sections.Checkpoints = field(default_factory=sections.Checkpoints)
    report: sections.Report = field(default_factory=sections.Report)
    epochs: int = 20
    """Passes over the training data, where a stage does not say."""
    stages: tuple[sections.ImageStage, ...] = (sections.ImageStage(),)
    """The training, part by part: what trains, for how long, how fast, on images of what size (progressive resizing, practice T2).
    A config file may list several."""


def tiny() -> Config:
    """Return the seconds-long form: a small net on lines that lie or stand."""
    return Config(
        data=sections.Images(train="tiny:shapes"),
        model=sections.ResidualNet(widths=(4, 8), num_blocks=1),
        optim=sections.ImageOptim(lr=1e-2),
        augment=sections.ImageAugment(),
        batch=sections.ImageBatch(size=16),
        epochs=6,
    )


def run(config: Config) -> RunResult:
    """Train as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_ranges(config)
    with open_run(NAME, config) as run:
        return _train(run, config)


def _train(run: Run, config: Config) -> RunResult:
    inputs, shelf = load_images(run, config.data)
    audit_images(run, inputs, config.report, shelf)
    size, channels = config.data.size or own_size(shelf), num_channels(shelf)
    say_what_is_seen(run, shelf, channels=channels, size=size)
    model = new_net(config.model, inputs, channels=channels, size=size, seed=config.seed)
    processor = pixel_processor(image_size=size)
    medium = image_medium(run, config, inputs, shelf, model=model, processor=processor, channels=channels, base_model="nothing")
    if config.model.init == "lsuv":
        some = np.arange(min(LSUV_IMAGES, len(inputs.train)))
        pictures = medium.parts["train"]
        lsuv_(model, collate_pictures(pictures, some).inputs)  # type: ignore[arg-type]  # they are pictures here
    return train_classifier(run, config, inputs, model=model, trainings=image_trainings(config, lr=LR), medium=medium)


def new_net(wanted: sections.ResidualNet, inputs: Inputs, *, channels: int, size: int, seed: int) -> ResidualForImageClassification:
    """Make the net with weights that follow from the seed."""
    torch.manual_seed(stage_seed(seed, 0))
    config = ResidualConfig(
        num_channels=channels,
        image_size=size,
        widths=list(wanted.widths),
        num_blocks=wanted.num_blocks,
        stem_kind=wanted.stem,
        norm=wanted.norm,
        order=wanted.order,
        downsample=wanted.downsample,
        residual=wanted.residual,
        zero_init=wanted.zero_init,
        head_dropout=wanted.head_dropout,
        **label_settings(inputs.fields.task, inputs.labels),
    )
    return ResidualForImageClassification(config)
