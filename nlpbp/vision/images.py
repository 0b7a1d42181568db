"""Decode image files of any mode to pixel arrays; a file that is broken or too large raises an error that names it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nlpbp.core.errors import DataError

Mode = Literal["L", "RGB"]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

MAX_PIXELS = 50_000_000  # 50 megapixels: beyond what cameras make, 150 MB once decoded; files of a few kB can claim more
SUFFIXES = frozenset([".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
SMALLER = "make it smaller, or raise --data.max_pixels"
PARTS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing"])  # splits, not classes


def decode_image(source: Path | bytes, *, name: str | None = None, mode: Mode = "RGB", max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return the pixels of an image file, uint8 [height, width, channels], upright and on white where it is transparent.

    A camera's rotation (EXIF) is applied; palettes, CMYK, grey of 16 bits and the like become `mode`; of several frames the first
    is used. `name` is how errors refer to bytes. Raises `DataError` for a file that is not an image, is truncated, or has more than
    `max_pixels`: the header is read first, so a small file that claims a huge image is not decoded.

    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), 255).save(file, "png")
    >>> decode_image(file.getvalue()).shape
    (2, 3, 3)
    """
    file = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"an image of {width} x {height} pixels is over the limit of {max_pixels:,}",
                    file=file,
                    hint=SMALLER,
                )
            upright = ImageOps.exif_transpose(image)
            return np.asarray(plain_image(upright, mode), dtype=np.uint8).reshape(upright.height, upright.width, -1)
    except Image.DecompressionBombError as error:
        raise DataError(f"an image over the limit: {error}", file=file, hint=SMALLER) from error
    except UnidentifiedImageError as error:
        raise DataError("not an image in a known format", file=file, hint="save it as PNG or JPEG") from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, MemoryError, EOFError) as error:  # what Pillow's decoders raise for broken files
        raise DataError(f"a broken image: {error}", file=file, hint="replace the file, or leave it out") from error


def is_grey(image: Image.Image) -> bool:
    """Tell whether an image has no colours, by its mode."""
    return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")


def plain_image(image: Image.Image, mode: Mode) -> Image.Image:
    """Convert any mode to 8-bit greyscale or RGB, with transparency composited onto white.

    16-bit greyscale is scaled from the range 0 to 65,535, as is 32-bit integer greyscale unless no value is above 255; floats are
    scaled from 0 to 1 if none is above 1, and otherwise from 0 to 255.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        highest = values.max(initial=0.0)
        top = 65535.0 if image.mode.startswith("I;") or highest > 255.0 else 1.0 if image.mode == "F" and highest <= 1.0 else 255.0
        image = Image.fromarray(np.clip(values * 255.0 / top, 0.0, 255.0).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, (255, 255, 255, 255)), seen)
    return image.convert(mode)


def image_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each image of a folder with one sub-folder per class, at any depth, with the name of its class, in the order of their
    names.

    Hidden files and other suffixes are skipped. Raises `DataError` for a folder without such images, and for one whose sub-folders
    are named train and test and contain the class folders.
    """
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    if inside and all(entry.name.lower() in PARTS and not any(map(_is_image, entry.iterdir())) for entry in inside):
        train = next((entry for entry in inside if "train" in entry.name.lower()), inside[0])
        hint = f"give '{train}' as the training data, and the others as validation or test"
        raise DataError("its sub-folders are splits of the data, not classes", file=str(folder), hint=hint)
    found = False
    for path in sorted(folder.glob("*/**/*")):
        places = path.relative_to(folder).parts
        if _is_image(path) and not any(part.startswith(".") for part in places):
            found = True
            yield path, places[0]
    if not found:
        hint = f"use one sub-folder per class, with files ending in {', '.join(sorted(SUFFIXES))}"
        raise DataError("no images in sub-folders", file=str(folder), hint=hint)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
