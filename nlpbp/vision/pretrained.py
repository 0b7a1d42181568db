"""A pretrained image classifier with a new head, and its image processor, by folder or hub id."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from nlpbp.core.errors import ConfigError
from nlpbp.core.task import problem_type
from nlpbp.data.pretrained import from_pretrained, renew_head
from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification, pixel_processor


def load_processor(name: str) -> Any:
    """Load the image processor that a model was saved with, with the Pillow backend, which needs no torchvision.

    Raises `ConfigError` if there is none.
    """
    return from_pretrained(AutoImageProcessor, name, backend="pil")


def load_image_classifier(name: str, *, task: str, labels: Sequence[str]) -> PreTrainedModel:
    """Load `AutoModelForImageClassification` in fp32 with a head for these labels: a newly initialised one, unless the model was
    trained for them."""
    config = from_pretrained(AutoConfig, name, **label_settings(task, labels))
    model: PreTrainedModel = from_pretrained(
        AutoModelForImageClassification, name, config=config, ignore_mismatched_sizes=True, dtype="float32", use_safetensors=True
    )
    return renew_head(model, name, labels=labels)


def load_trained_image_classifier(name: str) -> PreTrainedModel:
    """Load an image classifier with the head it was saved with, in fp32 and in evaluation mode."""
    model: PreTrainedModel = from_pretrained(AutoModelForImageClassification, name, dtype="float32", use_safetensors=True)
    return model.eval()


def label_settings(task: str, labels: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a model config for these labels and this task.

    >>> label_settings("single_label", ["cat", "dog"])["label2id"]
    {'cat': 0, 'dog': 1}
    """
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": problem_type(task),
    }


def channels_of(model: PreTrainedModel) -> int:
    """Return the number of input channels of a model. Raises `ConfigError` unless it is 1 or 3."""
    number = int(getattr(model.config, "num_channels", 3))
    if number not in (1, 3):
        raise ConfigError(
            f"the model takes images of {number} channels", column="model.name", hint="use a model for greyscale or RGB images"
        )
    return number


def tiny_residual(folder: Path) -> Path:
    """Write a residual net of a few thousand weights and its processor into `folder`, unless it has them already, and return
    `folder`.

    The weights are random, and always the same.

    >>> import tempfile
    >>> sorted(file.name for file in tiny_residual(Path(tempfile.mkdtemp()) / "net").iterdir())
    ['config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    if (folder / "config.json").exists():
        return folder
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    pixel_processor(image_size=8).save_pretrained(temporary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ResidualConfig(num_channels=1, image_size=8, widths=[4, 8], num_blocks=1)
        ResidualForImageClassification(config).save_pretrained(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # another process has written it meanwhile
        shutil.rmtree(temporary)
    return folder
