"""Whatever an image file is, its pixels come out upright, in 8 bits, or an error names it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from nlpbp.core.errors import DataError
from nlpbp.vision.images import decode_image, image_files

RED_LEFT = np.zeros((4, 6, 3), dtype=np.uint8)
RED_LEFT[:, :3, 0] = 255


def saved(image: Image.Image, kind: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """Bytes of a PNG whose header claims a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.fault("D38")
def test_a_cameras_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to stand upright
    seen = decode_image(saved(Image.fromarray(RED_LEFT), exif=exif))
    assert seen.shape == (6, 4, 3)
    assert seen[0, 0].tolist() == [255, 0, 0] and seen[-1, 0].tolist() == [0, 0, 0]


@pytest.mark.fault("D38")
@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "RGBA", "LA", "1", "I;16", "I", "YCbCr"])
def test_every_kind_of_pixels_becomes_three_colours_or_grey(mode):
    half = Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 2, axis=0))
    image = Image.fromarray(np.array([[0, 65535]] * 2, dtype=np.uint16)) if mode == "I;16" else half.convert(mode)
    raw = saved(image, "tiff" if mode in ("CMYK", "YCbCr", "I") else "png")
    assert decode_image(raw)[0, :, :].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert decode_image(raw, mode="L")[1, :, 0].tolist() == [0, 255]


@pytest.mark.fault("D38")
def test_what_is_transparent_is_white_and_one_pixel_is_an_image():
    assert decode_image(saved(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (1, 1), 0)
    assert decode_image(saved(palette, transparency=0)).tolist() == [[[255, 255, 255]]]
    frames = [Image.fromarray(RED_LEFT), Image.fromarray(255 - RED_LEFT)]
    assert decode_image(saved(frames[0], "gif", save_all=True, append_images=frames[1:])).shape == (4, 6, 3)


@pytest.mark.fault("D38")
@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "not an image"),
        (b"GIF89a", "broken|not an image"),
        (saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "jpeg")[:900], "broken"),
        (saved(Image.fromarray(RED_LEFT))[:50], "broken"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (claiming(40_000, 40_000), "over the limit"),
        (claiming(8_000, 8_000), "over the limit of 50,000,000"),
    ],
)
def test_a_file_that_is_broken_or_claims_too_much_is_named(raw, told, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=told) as error:
            decode_image(path)
    assert error.value.file == str(path)


def test_a_folder_a_class(tmp_path):
    for name in ("cat/2.png", "cat/1.JPG", "dog/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RED_LEFT).save(tmp_path / name, "png")
    for name in ("cat/.hidden.png", "cat/notes.txt", "readme.png"):
        (tmp_path / name).write_bytes(b"")
    found = [(path.name, label) for path, label in image_files(tmp_path)]
    assert found == [("1.JPG", "cat"), ("2.png", "cat"), ("a.png", "dog")]
    with pytest.raises(DataError, match="no images"):
        list(image_files(tmp_path / "cat"))
