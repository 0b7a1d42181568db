"""Train a small residual net on labelled images from scratch; on scikit-learn's digits, if nothing is named.

python scripts/finetune.py image_classifier --data.train photos/
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from nlpbp import config as sections
from nlpbp.config.limits import check_limits
from nlpbp.core.init import lsuv_
from nlpbp.data.order import stage_seed
from nlpbp.data.parts import Inputs
from nlpbp.modalities.images import PreparedImages, image_modality, load_images, num_channels, own_size, say_what_is_seen
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.result import RunResult
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.plans import image_plans
from nlpbp.vision.pictures import collate_pictures
from nlpbp.vision.pretrained import label_settings
from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification, pixel_processor

NAME = "image_classifier"
LR = 3e-3
LSUV_IMAGES = 64


@dataclass(frozen=True)
class Config(sections.ImageClassifierSettings):
    """Train a small residual net on labelled images from scratch."""

    model: sections.ResidualNet = field(default_factory=sections.ResidualNet)
    augment: sections.ImageAugment = field(default_factory=lambda: sections.ImageAugment(preset="digits"))


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a small net on lines that lie or stand."""
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
    check_limits(config)
    with open_run(NAME, config) as run:
        return _train(run)


def _train(run: Run[Config]) -> RunResult:
    config = run.settings
    inputs, store = load_images(run)
    size, channels = config.data.size or own_size(store), num_channels(store)
    say_what_is_seen(run, store, channels=channels, size=size)
    model = new_net(config.model, inputs, channels=channels, size=size, seed=config.seed)
    images = PreparedImages(run, inputs, store, pixel_processor(image_size=size), channels)
    modality = image_modality(images, model=model, base_model="nothing")
    if config.model.init == "lsuv":
        some = np.arange(min(LSUV_IMAGES, len(inputs.train)))
        lsuv_(model, collate_pictures(images.pictures("train"), some).inputs)
    return train_classifier(run, inputs, model=model, plans=image_plans(config, lr=LR), modality=modality)


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
