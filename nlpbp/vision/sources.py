"""Sources of images: folders with one sub-folder per class, and tables of paths, bytes, Pillow images or arrays.

In a table of images, each image is represented by the digest of its content: rows with the same digest are duplicates, and are
split, counted and hashed as equal texts are. The images themselves are in an image store, a dict by digest, and are decoded on
demand.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nlpbp.core.errors import DataError
from nlpbp.data.decoding import nearest
from nlpbp.data.labels import is_missing
from nlpbp.data.readers import Table, read_table
from nlpbp.vision.images import MAX_PIXELS, SMALLER, SUFFIXES, Pixels, decode_image, image_files, is_grey, plain_image

IMAGE = "image"  # the column of digests
NAMES = ("image", "img", "picture", "photo", "image_path", "image_file", "file_name", "filename", "filepath", "path", "file")


@dataclass(frozen=True)
class StoredImage:
    """An image that is not decoded yet: a file, its bytes, or its pixels uint8 [height, width, channels].

    `name` is how errors refer to it; `height` and `width` are those in its header.
    """

    digest: str
    source: Path | bytes | Pixels
    name: str
    height: int
    width: int
    is_grey: bool


def pixels_of(one: StoredImage, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return an image's pixels, uint8 [height, width, 1 or 3], upright. Raises `DataError` for one that is broken or too large."""
    if isinstance(one.source, np.ndarray):
        return one.source
    return decode_image(one.source, name=one.name, mode="L" if one.is_grey else "RGB", max_pixels=max_pixels)


def image_table(
    source: Any, *, column: str | None = None, delimiter: str | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Table, dict[str, StoredImage]]:
    """Read a table, replace its images by their digests in the column `image`, and return it with the images by digest.

    `source` is a folder with a sub-folder of images for each label, a folder of images without labels, whatever `read_table` takes
    with a column of paths (relative to the file), bytes, Pillow images or arrays, or a table. `column` names that column; without
    it, it is detected. Raises `DataError`, with the location, for an image that is missing or is not an image; images are not
    decoded here.

    >>> table, store = image_table({"image": np.zeros((2, 4, 4), dtype=np.uint8), "label": ["a", "b"]})
    >>> table.columns["image"][0] == table.columns["image"][1], [one.height for one in store.values()]
    (True, [4])
    """
    table, root = _table(source, delimiter)
    name = column or _find_column(table)
    if name not in table.columns:
        raise DataError(
            "there is no such column", file=table.name, column=name, hint=nearest(name, list(table.columns), kind="column")
        )
    store: dict[str, StoredImage] = {}
    digests = []
    for index, cell in enumerate(table.columns[name]):
        reference = table.files[index] if table.files else f"{Path(table.name).name}:{table.rows[index]}"
        one = _stored(cell, root=root, name=reference, max_pixels=max_pixels)
        digests.append(store.setdefault(one.digest, one).digest)
    others = {other: cells for other, cells in table.columns.items() if other != name}
    if IMAGE in others:
        raise DataError(f"a column beside '{name}' is called image", file=table.name, hint="rename it")
    notes = (*table.notes, f"image: '{name}'" + ("" if column else " (by its name or content)"))
    return replace(table, columns={IMAGE: digests, **others}, notes=notes if table.files is None else table.notes), store


def _table(source: Any, delimiter: str | None) -> tuple[Table, Path]:
    """Return the table with its images as they are in the source, and the folder that its paths are relative to."""
    if isinstance(source, Table):
        return source, Path()
    if isinstance(source, str | Path) and Path(source).expanduser().is_dir():
        return _folder(Path(source).expanduser()), Path()
    if isinstance(source, str | Path) and Path(source).suffix.lower() in SUFFIXES:
        return Table(str(source), {IMAGE: [Path(source).expanduser()]}, [1], files=[Path(source).name]), Path()
    if isinstance(source, str | Path):
        return read_table(source, delimiter=delimiter), Path(source).expanduser().parent
    if isinstance(source, Mapping):
        # Arrays of pixels must not become lists of numbers on their way through a table.
        images = {name: list(values) for name, values in source.items() if getattr(values, "ndim", 1) > 2 or _are_arrays(values)}
        rest = read_table({name: values for name, values in source.items() if name not in images} or {"n": [0] * _length(images)})
        if any(len(values) != len(rest) for values in images.values()):
            raise DataError("columns differ in length", file="dict", hint="give each image its label")
        columns: dict[str, list[Any]] = {name: list(images.get(name, rest.columns.get(name, ()))) for name in source}
        return replace(rest, columns=columns), Path()
    return read_table(source, delimiter=delimiter), Path()


def _length(columns: Mapping[str, Sequence[Any]]) -> int:
    return max((len(values) for values in columns.values()), default=0)


def _are_arrays(values: Any) -> bool:
    first = next(iter(values), None) if isinstance(values, list | tuple) else None
    return getattr(first, "ndim", 0) in (2, 3)


def _folder(folder: Path) -> Table:
    """Return the images of a folder: with their labels where there are sub-folders, in order of their names."""
    flat = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    if flat and any(path.suffix.lower() in SUFFIXES for path in folder.glob("[!.]*/[!.]*")):
        reason = f"images both in the folder, such as '{flat[0].name}', and in its sub-folders"
        raise DataError(reason, file=str(folder), hint="move them into the sub-folder of their class, or elsewhere")
    if flat:
        names = [path.name for path in flat]
        return Table(str(folder), {IMAGE: flat}, list(range(1, len(flat) + 1)), files=names)
    found = list(image_files(folder))
    names = [path.relative_to(folder).as_posix() for path, _ in found]
    columns: dict[str, list[Any]] = {IMAGE: [path for path, _ in found], "label": [label for _, label in found]}
    num_deeper = sum(name.count("/") > 1 for name in names)
    notes = [f"{num_deeper:,} images lie deeper: their label is the name of the first folder"] if num_deeper else []
    notes += _left_out(folder, read={path for path, _ in found}, classes=set(columns["label"]))
    return Table(str(folder), columns, list(range(1, len(found) + 1)), files=names, notes=tuple(notes))


def _left_out(folder: Path, *, read: set[Path], classes: set[str]) -> list[str]:
    """Say which files and sub-folders of a folder of images are not read."""
    seen = [path for path in sorted(folder.glob("**/*")) if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    files = [path.relative_to(folder).as_posix() for path in seen if path.is_file() and path not in read]
    empty = [path.name for path in seen if path.is_dir() and path.parent == folder and path.name not in classes]
    notes = [f"left out: {len(files):,} files without an image suffix, such as '{files[0]}'"] if files else []
    return notes + ([f"left out: {len(empty):,} sub-folders without images, such as '{empty[0]}'"] if empty else [])


def _find_column(table: Table) -> str:
    """Find the image column by the types of its cells, and among several by its name."""
    found = [name for name, cells in table.columns.items() if _holds_images(cells)]
    best = [name for name in NAMES if name in found] or found
    if not best:
        raise DataError(
            "no column holds images",
            file=table.name,
            excerpt=", ".join(table.columns),
            hint="name the column of paths with --data.image",
        )
    if len(found) > 1 and best == found:
        raise DataError("several columns hold images", file=table.name, excerpt=", ".join(found), hint="name one with --data.image")
    return best[0]


def _holds_images(cells: Sequence[Any]) -> bool:
    first = next((cell for cell in cells if not (cell is None or (isinstance(cell, str) and is_missing(cell)))), None)
    if isinstance(first, str):
        return Path(first).suffix.lower() in SUFFIXES
    is_record = isinstance(first, Mapping) and bool({"bytes", "path"} & set(first))
    return is_record or isinstance(first, bytes | Path | Image.Image) or _is_array(first)


def _is_array(value: Any) -> bool:
    is_nested = isinstance(value, list) and bool(value) and isinstance(value[0], list)
    return is_nested or getattr(value, "ndim", 0) in (2, 3)


def _stored(cell: Any, *, root: Path, name: str, max_pixels: int) -> StoredImage:
    """Read an image's header and hash its content; `name` is its location, for errors."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or (isinstance(cell, str) and is_missing(cell)):
        raise DataError("there is no image", file=name, hint="give one, or leave the row out")
    if isinstance(cell, Image.Image):
        cell = np.asarray(plain_image(ImageOps.exif_transpose(cell), "L" if is_grey(cell) else "RGB"), dtype=np.uint8)
    if _is_array(cell):
        pixels = _array(cell, name=name)
        digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:32]
        return StoredImage(digest, pixels, name, pixels.shape[0], pixels.shape[1], pixels.shape[2] == 1)
    if not isinstance(cell, str | Path | bytes):
        raise DataError("no image", file=name, excerpt=repr(cell), hint="give a path, bytes, a Pillow image or an array")
    source: Path | bytes = cell if isinstance(cell, bytes) else root / Path(cell).expanduser()
    name = name if isinstance(source, bytes) else f"{source} ({name})" if str(cell) not in str(name) else str(source)
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            (width, height), without_colours = image.size, is_grey(image)
    except UnidentifiedImageError as error:
        raise DataError("not an image in a known format", file=name, hint="save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"an image over the limit: {error}", file=name, hint=SMALLER) from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the image cannot be read: {reason}", file=name, hint="repair the path, or leave the row out") from error
    if width * height > max_pixels:
        raise DataError(
            f"an image of {width} x {height} pixels is over the limit of {max_pixels:,}",
            file=name,
            hint=SMALLER,
        )
    return StoredImage(hashlib.sha256(content).hexdigest()[:32], source, name, height, width, without_colours)


def _array(cell: Any, *, name: str) -> Pixels:
    """Return an array of pixels as uint8 [height, width, 1 or 3], from integers from 0 to 255 or floats from 0 to 1."""
    values = np.asarray(cell)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.shape[2] not in (1, 3) or values.size == 0 or values.dtype.kind not in "buif":
        hint = "give numbers [height, width] or [height, width, 1 or 3], channels last"
        raise DataError(f"no image: an array of shape {values.shape} and kind {values.dtype}", file=name, hint=hint)
    if values.dtype.kind == "b" or (values.dtype.kind == "f" and values.max() <= 1.0):
        values = values * 255.0
    if not np.isfinite(values).all():
        raise DataError("some pixels are NaN or infinite", file=name, hint="repair or leave out this image")
    if values.min() < 0 or values.max() > 255:
        raise DataError(
            "pixels are not from 0 to 255",
            file=name,
            hint="scale them to 0 (black) to 255 (white), or floats to 0 to 1",
        )
    pixels: Pixels = np.round(values).astype(np.uint8)
    return pixels


ImageStore = dict[str, StoredImage]  # images by digest
