"""Label-preserving augmentation of training images, drawn for each example from a seed of its own (practice D5).

Which transformations preserve the label depends on how the image was taken: an object seen from the side has an upper end, one seen
from above has none, and digits must not be rotated by much.

Images are float [batch, channels, height, width]; all geometric changes are one affine transformation and one resampling, on the
device of the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nlpbp.core.batch import Batch, LossFn

Preset = Literal["none", "side_on", "top_down", "digits"]
Mix = Literal["mixup", "cutmix"]


@dataclass(frozen=True)
class Views:
    """The ranges of the random transformations: in degrees, as fractions of the image's size, and as fractions of its contrast."""

    flip: bool = False
    quarter_turns: bool = False
    degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    light: float = 0.0


PRESETS: dict[Preset, Views] = {
    "none": Views(),
    "side_on": Views(flip=True, degrees=10.0, zoom=0.1, shift=0.05, light=0.2),
    "top_down": Views(flip=True, quarter_turns=True, degrees=10.0, zoom=0.1, shift=0.05, light=0.2),
    "digits": Views(degrees=8.0, zoom=0.08, shift=0.06, light=0.1),
}
"""Photographs from the side, from above, and signs that must stay upright and unmirrored."""


def augment_images(images: Tensor, *, views: Views, seeds: Sequence[int]) -> Tensor:
    """Augment each image [batch, channels, height, width] with its own seed; pixels outside the image are filled by reflection.

    The result depends on the example's seed and on nothing else in the batch, so a resumed or distributed run sees the same images
    as an uninterrupted one. Raises `ValueError` unless there are as many seeds as images.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> same, other = (augment_images(images, views=PRESETS["digits"], seeds=seeds) for seeds in ([1, 2], [1, 3]))
    >>> torch.equal(same[0], other[0]), torch.equal(same[1], other[1])
    (True, False)
    """
    if len(seeds) != len(images):
        raise ValueError(f"{len(images)} images need as many seeds, not {len(seeds)}")
    if views == Views():
        return images
    drawn = [_draw(views, seed) for seed in seeds]
    maps = torch.tensor([matrix for matrix, _, _ in drawn], dtype=images.dtype, device=images.device)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    contrast, brightness = (
        torch.tensor([one[place] for one in drawn], dtype=images.dtype, device=images.device).view(-1, 1, 1, 1) for place in (1, 2)
    )
    middle = seen.mean(dim=(1, 2, 3), keepdim=True)
    return (seen - middle) * contrast + middle + brightness


def _draw(views: Views, seed: int) -> tuple[list[list[float]], float, float]:
    """Draw an affine matrix [2, 3] from output to input coordinates (-1 to 1), and a contrast and a brightness."""
    numbers = np.random.default_rng(seed)
    turn = math.radians(numbers.uniform(-views.degrees, views.degrees))
    scale = 1.0 / (1.0 + numbers.uniform(0.0, views.zoom))
    across, down = (2.0 * numbers.uniform(-views.shift, views.shift) for _ in range(2))
    mirror = -1.0 if views.flip and numbers.random() < 0.5 else 1.0
    if views.quarter_turns:
        turn += math.pi / 2 * int(numbers.integers(4))
    contrast = 1.0 + numbers.uniform(-views.light, views.light)
    brightness = 0.5 * numbers.uniform(-views.light, views.light)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    return [[mirror * cos, -sin, across], [mirror * sin, cos, down]], contrast, brightness


def mixed_images_loss(loss_fn: LossFn, *, kind: Mix, alpha: float) -> LossFn:
    """Wrap `loss_fn` with mixup or cutmix: each image is mixed with another one of the batch, and so are the losses of their
    labels.

    mixup blends whole images (Zhang et al. 2018), cutmix pastes a rectangle of the other one (Yun et al. 2019). The mixing
    coefficient is drawn from Beta(alpha, alpha) and the partners at random, with torch's generator, which `train_steps` seeds for
    every micro-batch. One forward pass serves both losses.
    """

    def mixed_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be trained on")
        (name, images), *others = batch.inputs.items()
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order = torch.randperm(len(images)).to(images.device)
        if kind == "mixup":
            mixed = share * images + (1.0 - share) * images[order]
        else:
            mixed, share = _pasted(images, images[order], share)
        output = model(**{name: mixed, **dict(others)})
        answered: Any = partial(SimpleNamespace, logits=output.logits)  # a stand-in that repeats no forward pass
        partners = replace(batch, labels=batch.labels[order])
        return share * loss_fn(answered, batch) + (1.0 - share) * loss_fn(answered, partners)

    return mixed_loss


def _pasted(images: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """Replace a rectangle of about 1 - share of the pixels by the others'; return the mixed images and the exact share that is
    kept."""
    height, width = images.shape[2:]
    side = math.sqrt(1.0 - share)
    rows, columns = round(height * side), round(width * side)
    top = int(torch.randint(height - rows + 1, ()))
    left = int(torch.randint(width - columns + 1, ()))
    mixed = images.clone()
    mixed[:, :, top : top + rows, left : left + columns] = others[:, :, top : top + rows, left : left + columns]
    return mixed, 1.0 - rows * columns / (height * width)
