"""Images resized once, stored as bytes, and collated into batches.

Resizing and cropping are done by the model's image processor, so that `pipeline` prepares an image exactly as training did. Its
rescaling and normalisation are one affine function per channel, which is measured on a black and a white image and applied to whole
batches.

Prepared images are cached by content as one memory-mapped array: a second run decodes nothing, and the data may be larger than
memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm  # in a notebook it draws itself as one

from nlpbp.core.batch import Batch
from nlpbp.core.errors import ConfigError
from nlpbp.data.order import Ints, micro_seed
from nlpbp.vision.augment import Views, augment_images
from nlpbp.vision.images import Pixels
from nlpbp.vision.sources import StoredImage, pixels_of

TOLERANCE = 1e-3  # of normalised values: anything beyond an affine function differs by more
BLOCK = 256  # images prepared between two updates of the progress bar


@dataclass(frozen=True)
class Pictures:
    """n images of one size, uint8 [n, channels, height, width]; the model's input is `low + step * pixel`, per channel.

    `owners` and `padded_lengths` are the attributes that encoded texts have too: images have no windows, and all cost the same.
    """

    pixels: Pixels
    low: tuple[float, ...]
    step: tuple[float, ...]
    owners: None = None

    @property
    def padded_lengths(self) -> Ints:
        """The cost of each image, int64 [n]: 1."""
        return np.ones(len(self.pixels), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pixels)


def prepare_pictures(
    images: Sequence[StoredImage],
    *,
    processor: Any,
    num_channels: int,
    max_pixels: int,
    cache: Path | None = None,
    show_progress: bool = False,
) -> Pictures:
    """Decode images and resize them with the processor, to greyscale for one channel; two threads decode, in order.

    `cache` is a folder of earlier results, named by the images' content and the processor's settings. Raises `DataError` for an
    image that is broken or has more than `max_pixels`, `ConfigError` for a processor that does more than resize, crop and
    normalise.
    """
    low, step = normalisation(processor)
    keep = slice(num_channels)
    if num_channels == 1 and len(set(zip(low, step, strict=True))) > 1:
        low, step = (float(np.mean(low)),), (float(np.mean(step)),)
    make = partial(_prepared, processor=processor, num_channels=num_channels, max_pixels=max_pixels)
    key = hashlib.sha256(f"1/{num_channels}/{json.dumps(_settings(processor), sort_keys=True)}".encode())
    for one in images:
        key.update(one.digest.encode())
    file = None if cache is None else cache / f"{key.hexdigest()[:32]}.npy"
    pixels = _load(file) if file else None
    if pixels is None:
        pixels = _prepare(images, make, file, show_progress=show_progress)
    return Pictures(pixels, low[keep], step[keep])


def _prepare(images: Sequence[StoredImage], make: Any, file: Path | None, *, show_progress: bool) -> Pixels:
    """Prepare all images into an array in memory or, with a cache, in a file."""
    first: Pixels = make(images[0])
    shape = (len(images), *first.shape)
    temporary = None if file is None else file.with_name(f"{file.name}.{os.getpid()}.tmp")
    pixels = _room(temporary, shape)
    bar = tqdm(total=len(images), desc="decoding", unit="image", leave=False, dynamic_ncols=True, disable=not show_progress)
    with bar, ThreadPoolExecutor(2) as threads:
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            for index, made in enumerate(threads.map(make, block), start):
                pixels[index] = made
            bar.update(len(block))
    if temporary is None or file is None or not isinstance(pixels, np.memmap):
        return pixels
    pixels.flush()
    with suppress(OSError):
        temporary.replace(file)
    loaded = _load(file)
    return pixels if loaded is None else loaded


def _room(file: Path | None, shape: tuple[int, ...]) -> Pixels:
    """Allocate an array, in `file` if possible: when the disk is full, only caching is lost."""
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            made: Pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
            return made
        except OSError:
            file.unlink(missing_ok=True)
    return np.empty(shape, dtype=np.uint8)


def _load(file: Path) -> Pixels | None:
    """Memory-map a cached result; None if it is missing or damaged, so that it is computed again."""
    try:
        loaded: Pixels = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return loaded


def _prepared(one: StoredImage, *, processor: Any, num_channels: int, max_pixels: int) -> Pixels:
    """Return one image resized and cropped, but not normalised: uint8 [channels, height, width]."""
    image = Image.fromarray(np.ascontiguousarray(_coloured(pixels_of(one, max_pixels=max_pixels))))
    (made,) = processor([image], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    grey_or_colours = made if num_channels == 3 else made.mean(axis=0, keepdims=True)
    return np.clip(np.round(grey_or_colours), 0, 255).astype(np.uint8)


def _coloured(pixels: Pixels) -> Pixels:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def normalisation(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure an image processor's normalisation: (low, step) per channel, such that its output is `low + step * pixel`.

    Raises `ConfigError` if it does anything else to the pixel values.

    >>> from nlpbp.vision.residual import pixel_processor
    >>> low, step = normalisation(pixel_processor(image_size=8))
    >>> low, round(step[0] * 255, 6)
    ((-1.0, -1.0, -1.0), 2.0)
    """
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in (np.zeros_like(noise), np.full_like(noise, 255), noise)]
    try:
        black, white, whole = processor(images, return_tensors="np")["pixel_values"]
        (plain,) = processor(images[2:], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        low = black.mean(axis=(1, 2))
        step = (white.mean(axis=(1, 2)) - low) / 255.0
        exact = np.abs(low[:, None, None] + step[:, None, None] * plain - whole).max() < TOLERANCE
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"the model's image processor cannot be used: {error}", column="model.name") from error
    if not exact:
        raise ConfigError(
            f"the model's image processor, {type(processor).__name__}, does more than resize, crop and normalise",
            column="model.name",
            hint="take another model",
        )
    return tuple(map(float, low)), tuple(map(float, step))


def size_of(processor: Any) -> int:
    """Return the height of an image processor's output, in pixels."""
    height = processor([Image.new("RGB", (64, 64))], return_tensors="np")["pixel_values"].shape[2]
    return int(height)


def with_size(processor: Any, size: int) -> Any:
    """Return a copy of an image processor with an output of `size` x `size`; it crops off the same fraction as before.

    >>> from nlpbp.vision.residual import pixel_processor
    >>> size_of(with_size(pixel_processor(image_size=8), 12))
    12
    """
    made = copy.deepcopy(processor)
    crop = getattr(made, "crop_size", None) if getattr(made, "do_center_crop", False) else None
    share = size / crop["height"] if crop else 1.0
    sides = {name: value for name, value in dict(made.size).items() if value is not None}
    if crop:
        made.size = type(made.size)(**{name: max(size, round(value * share)) for name, value in sides.items()})
        made.crop_size = type(crop)(height=size, width=size)
    else:
        made.size = type(made.size)(**dict.fromkeys(sides, size))
    if size_of(made) != size:
        raise ConfigError(
            f"the model's image processor cannot produce images of {size} pixels", column="data.size", hint="leave it out"
        )
    return made


def _settings(processor: Any) -> dict[str, Any]:
    return {
        name: value for name, value in processor.to_dict().items() if isinstance(value, int | float | str | list | tuple | dict)
    }


def collate_pictures(pictures: Pictures, ids: Ints, *, labels: np.ndarray[Any, Any] | None = None) -> Batch:
    """Collate the images `ids`: pixel_values float32 [batch, channels, height, width]; `labels` [n, ...] are those of all images.

    >>> two = Pictures(np.full((2, 1, 1, 1), 255, dtype=np.uint8), low=(-1.0,), step=(2 / 255,))
    >>> collate_pictures(two, np.array([1])).inputs["pixel_values"].item()
    1.0
    """
    return _batch(pictures, _shares(pictures, ids), ids, labels)


def _shares(pictures: Pictures, ids: Ints) -> Tensor:
    """Return pixels scaled to 0 (black) to 1 (white), [batch, channels, height, width]."""
    order = np.argsort(ids)  # a memory-mapped file is read sequentially
    pixels = np.empty((len(ids), *pictures.pixels.shape[1:]), dtype=np.uint8)
    pixels[order] = pictures.pixels[np.asarray(ids)[order]]
    return torch.from_numpy(pixels).float().div_(255.0)


def _batch(pictures: Pictures, shares: Tensor, ids: Ints, labels: np.ndarray[Any, Any] | None) -> Batch:
    low, step = (torch.tensor(values).view(1, -1, 1, 1) for values in (pictures.low, pictures.step))
    values = torch.addcmul(low, shares, step * 255.0)
    return Batch({"pixel_values": values}, None if labels is None else torch.from_numpy(labels[ids]), torch.from_numpy(ids))


def picture_steps(
    plan: Iterable[Sequence[Ints]],
    pictures: Pictures,
    *,
    labels: np.ndarray[Any, Any],
    views: Views,
    seed: int,
    first_step: int = 0,
) -> Iterator[list[Batch]]:
    """Turn a plan, a list of micro-batches (arrays of example ids) for each step, into batches for `train_steps`.

    Each image is augmented anew in every step, as a function of (seed, step number, example) alone.
    """
    for number, step in enumerate(plan, first_step):
        yield [
            _batch(
                pictures,
                augment_images(_shares(pictures, ids), views=views, seeds=[micro_seed(seed, number, int(i)) for i in ids]),
                ids,
                labels,
            )
            for ids in step
        ]


def mirrored(pictures: Pictures) -> Pictures:
    """Flip every image horizontally: an augmentation for images without text and without a meaningful left and right.

    >>> row = Pictures(np.array([[[[1, 2]]]], dtype=np.uint8), low=(0.0,), step=(1.0,))
    >>> mirrored(row).pixels.tolist()
    [[[[2, 1]]]]
    """
    return replace(pictures, pixels=pictures.pixels[:, :, :, ::-1])


def seen_otherwise(pictures: Pictures, *, views: Views, seed: int) -> Pictures:
    """Augment every image once, for test-time augmentation (practice D6)."""
    made = []
    for start in range(0, len(pictures), BLOCK):
        ids = np.arange(start, min(start + BLOCK, len(pictures)))
        shares = augment_images(_shares(pictures, ids), views=views, seeds=[micro_seed(seed, 0, int(i)) for i in ids])
        made.append(shares.mul(255.0).round_().clamp_(0, 255).to(torch.uint8).numpy())
    return replace(pictures, pixels=np.concatenate(made))
