"""Fine-tune a pretrained image classifier on your labels: its head first, then all of it, lower layers slower.

python scripts/finetune.py image_transfer --model.name runs/image_classifier-1 --data.train photos/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from nlpbp import config as sections
from nlpbp.config.limits import check_limits
from nlpbp.modalities.images import PreparedImages, image_modality, load_images, refuse_sizes, say_what_is_seen
from nlpbp.runs.folder import CACHE, Run, open_run
from nlpbp.runs.result import RunResult
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.frozen import with_probe
from nlpbp.trainers.plans import image_plans
from nlpbp.vision.pictures import size_of, with_size
from nlpbp.vision.pretrained import channels_of, load_image_classifier, load_processor, tiny_residual

NAME = "image_transfer"
LR, SMALL_LR = 1e-3, 3e-3  # of a head, and of the layers below it slower; small nets bear more
SMALL = 1_000_000  # parameters


@dataclass(frozen=True)
class Model:
    """The pretrained model."""

    name: str = "microsoft/resnet-18"
    """A hub id, a folder saved by `save_pretrained` with its image processor, or a run of image_classifier."""


@dataclass(frozen=True)
class Config(sections.ImageClassifierSettings):
    """Fine-tune a pretrained image classifier on your labels."""

    model: Model = field(default_factory=Model)
    optim: sections.ImageOptim = field(default_factory=lambda: sections.ImageOptim(layer_decay=0.7))
    epochs: int = 4
    """Passes over the training data, where a stage does not say."""
    stages: tuple[sections.ImageStage, ...] = (sections.ImageStage(epochs=1, train_last=1), sections.ImageStage())
    """The training, part by part: what trains, for how long, how fast, on images of what size (practices N6, T2). A config file may
    list several."""


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a net of random weights, on lines that lie or stand."""
    return Config(
        data=sections.Images(train="tiny:shapes"),
        model=Model("tiny:residual"),
        optim=sections.ImageOptim(lr=1e-2),
        batch=sections.ImageBatch(size=16),
        epochs=4,
    )


def run(config: Config) -> RunResult:
    """Fine-tune as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    with open_run(NAME, config) as run:
        return _fine_tune(run)


def _fine_tune(run: Run[Config]) -> RunResult:
    config = run.settings
    inputs, store = load_images(run)
    name = model_folder(config.model.name)
    processor = load_processor(name)
    torch.manual_seed(config.seed)
    model = load_image_classifier(name, task=inputs.fields.task, labels=inputs.labels)
    if config.data.size is not None:
        refuse_sizes([sections.ImageStage(size=config.data.size)], model)
        processor = with_size(processor, config.data.size)
    refuse_sizes(config.stages, model)
    channels = channels_of(model)
    say_what_is_seen(run, store, channels=channels, size=size_of(processor))
    lr = LR if sum(p.numel() for p in model.parameters()) > SMALL else SMALL_LR
    images = PreparedImages(run, inputs, store, processor, channels)
    modality = with_probe(run, inputs, image_modality(images, model=model, base_model=config.model.name), model)
    return train_classifier(run, inputs, model=model, plans=image_plans(config, lr=lr), modality=modality)


def model_folder(name: str) -> str:
    """Return the model folder of a run, or that of the smoke test; any other name as it is."""
    if name == "tiny:residual":
        return str(tiny_residual(CACHE / "tiny-residual"))
    return str(Path(name) / "model") if (Path(name) / "model" / "config.json").is_file() else name
