"""Images come from folders, tables, bytes and arrays; a table has digests in their place, and errors name the row."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from nlpbp.core.errors import DataError
from nlpbp.vision.sources import image_table, pixels_of

RED, GREY = np.zeros((4, 6, 3), dtype=np.uint8), np.full((5, 5), 7, dtype=np.uint8)
RED[:, :, 0] = 255


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label, name, pixels in (("cat", "a.png", RED), ("cat", "b.PNG", GREY), ("dog", "c.png", RED)):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / label / name).write_bytes(png(pixels))
    return tmp_path / "photos"


def test_a_folder_a_class_gives_labels_and_copies_one_digest(photos: Path) -> None:
    table, store = image_table(photos)
    assert table.columns["label"] == ["cat", "cat", "dog"]
    assert table.files == ["cat/a.png", "cat/b.PNG", "dog/c.png"]
    first, second, third = table.columns["image"]
    assert first == third != second
    assert [(one.height, one.width, one.is_grey) for one in store.values()] == [(4, 6, False), (5, 5, True)]
    assert pixels_of(store[first]).tolist() == RED.tolist()
    assert pixels_of(store[second])[:, :, 0].tolist() == GREY.tolist()


def test_images_that_lie_deeper_have_the_label_of_the_first_folder(photos: Path) -> None:
    (photos / "cat" / "2024" / "may").mkdir(parents=True)
    (photos / "cat" / "a.png").rename(photos / "cat" / "2024" / "may" / "a.png")
    table, _ = image_table(photos)
    assert table.files == ["cat/2024/may/a.png", "cat/b.PNG", "dog/c.png"]
    assert table.columns["label"] == ["cat", "cat", "dog"]
    assert table.notes == ("1 images lie deeper: their label is the name of the first folder",)


def test_a_folder_of_parts_is_no_folder_of_classes(photos: Path) -> None:
    for part in ("Train", "val"):
        shutil.copytree(photos, photos.parent / "all" / part)
    with pytest.raises(DataError, match="splits of the data, not classes") as error:
        image_table(photos.parent / "all")
    assert str(photos.parent / "all" / "Train") in str(error.value)
    for name in ("train", "test"):  # here they are classes
        (photos.parent / "vehicles" / name).mkdir(parents=True)
        (photos.parent / "vehicles" / name / "a.png").write_bytes(png(RED))
    assert image_table(photos.parent / "vehicles")[0].columns["label"] == ["test", "train"]


def test_a_folder_without_sub_folders_has_no_labels(photos: Path) -> None:
    table, _ = image_table(photos / "cat")
    assert list(table.columns) == ["image"]
    assert table.files == ["a.png", "b.PNG"]


def test_paths_in_a_table_are_relative_to_it_and_its_column_is_found(photos: Path) -> None:
    (photos / "list.csv").write_text("where,camera,label\ncat/a.png,left,cat\ndog/c.png,right,dog\n")
    table, store = image_table(photos / "list.csv")
    assert len(store) == 1 and table.columns["camera"] == ["left", "right"]
    assert any("'where'" in note for note in table.notes)


@pytest.mark.parametrize(
    ("cell", "said"),
    [("cat/none.png", "cannot be read: No such file"), ("cat/text.png", "not an image"), ("", "there is no image")],
)
def test_a_row_without_an_image_is_named(photos: Path, cell: str, said: str) -> None:
    (photos / "cat" / "text.png").write_text("no image")
    (photos / "list.csv").write_text(f"image,label\ncat/a.png,cat\n{cell},dog\n")
    with pytest.raises(DataError, match=said) as error:
        image_table(photos / "list.csv")
    assert "list.csv:3" in str(error.value)


def test_what_is_in_memory_gives_the_same_images() -> None:
    sources = [
        {"image": np.stack([RED, RED]), "label": ["a", "b"]},
        {"image": [RED, RED.tolist()], "label": ["a", "b"]},
        {"image": [Image.fromarray(RED)] * 2, "label": ["a", "b"]},
        [{"image": Image.fromarray(RED), "label": label} for label in "ab"],
        {"image": np.stack([RED, RED]) / 255.0, "label": ["a", "b"]},
    ]
    for source in sources:
        table, store = image_table(source)
        (one,) = store.values()
        assert table.columns == {"image": [one.digest] * 2, "label": ["a", "b"]}
        assert pixels_of(one).tolist() == RED.tolist()


def test_a_dataset_of_images_is_read_by_its_bytes() -> None:
    rows = {"photo": [{"bytes": png(RED), "path": None}] * 2, "label": ["a", "b"]}
    table, store = image_table(Dataset.from_dict(rows, Features({"photo": ImageFeature(), "label": Value("string")})))
    assert len(table) == 2 and len(store) == 1
    assert pixels_of(next(iter(store.values()))).tolist() == RED.tolist()


@pytest.mark.parametrize("pixels", [np.zeros((3, 4, 5)), np.full((2, 2), -1), np.full((2, 2), 300), np.full((2, 2), np.nan)])
def test_an_array_that_is_no_image_is_refused_with_its_row(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"image|pixels") as error:
        image_table({"image": [RED if pixels.ndim == 3 else GREY, pixels], "label": ["a", "b"]})
    assert "dict:2" in str(error.value)


def test_a_column_is_named_where_none_or_several_hold_images(photos: Path) -> None:
    with pytest.raises(DataError, match="no column holds images"):
        image_table({"name": ["a", "b"], "label": [0, 1]})
    both = {"left": ["cat/a.png"], "right": ["dog/c.png"], "label": ["x"]}
    with pytest.raises(DataError, match="several columns"):
        image_table(both)
    with pytest.raises(DataError, match="lefft"):
        image_table(both, column="lefft")


def test_a_file_that_claims_too_many_pixels_is_not_decoded(photos: Path) -> None:
    with pytest.raises(DataError, match="over the limit"):
        image_table(photos, max_pixels=20)


def test_a_picture_in_memory_is_what_its_file_is() -> None:
    """Grey of 16 bits keeps its shades, and what is transparent is white."""
    deep, clear = Image.fromarray(np.full((8, 8), 20_000, dtype=np.uint16)), Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    for picture, value, channels in ((deep, 78, 1), (clear, 255, 3)):
        file = io.BytesIO()
        picture.save(file, "png")
        for given in (picture, file.getvalue()):
            _, store = image_table({"image": [given], "label": ["a"]})
            (one,) = map(pixels_of, store.values())
            assert (one.shape, set(one.ravel().tolist())) == ((8, 8, channels), {value})


def test_a_dark_frame_of_16_bits_is_as_dark_as_beside_others() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint16)) for value in (200, 2_000, 65_535)]
    _, store = image_table({"image": frames, "label": ["a", "b", "c"]})
    assert [int(pixels_of(one).max()) for one in store.values()] == [1, 8, 255]


def test_a_mask_is_black_and_white() -> None:
    _, store = image_table({"image": [np.ones((8, 8), dtype=bool)], "label": ["a"]})
    assert [int(pixels_of(one).max()) for one in store.values()] == [255]


def test_what_is_not_read_of_a_folder_is_said(photos: Path) -> None:
    (photos / "bird").mkdir()
    (photos / "cat" / "x.heic").write_bytes(b"?")
    table, _ = image_table(photos)
    assert table.notes == (
        "left out: 1 files without an image suffix, such as 'cat/x.heic'",
        "left out: 1 sub-folders without images, such as 'bird'",
    )


def test_a_stray_image_beside_folders_of_images_is_an_error(photos: Path) -> None:
    (photos / "stray.png").write_bytes(png(RED))
    with pytest.raises(DataError, match=r"such as 'stray\.png'"):
        image_table(photos)


def test_one_image_is_a_table_of_one(photos: Path) -> None:
    table, store = image_table(photos / "cat" / "a.png")
    assert (table.files, len(store)) == (["a.png"], 1)
