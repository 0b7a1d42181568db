"""Pictures are what the image processor makes of images, kept as bytes; their views follow from seed, step and example alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BitImageProcessorPil, ConvNextImageProcessorPil, DeiTImageProcessorPil, ViTImageProcessorPil

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.vision import pictures as module
from nlpbp.vision.augment import PRESETS
from nlpbp.vision.pictures import collate_pictures, normalisation, picture_steps, prepare_pictures, size_of, with_size
from nlpbp.vision.residual import pixel_processor
from nlpbp.vision.sources import image_table

RNG = np.random.default_rng(0)
PHOTOS = [RNG.integers(256, size=(height, width, 3), dtype=np.uint8) for height, width in ((20, 30), (33, 17), (24, 24))]
PROCESSORS = {
    "ours": pixel_processor(image_size=12),
    "vit": ViTImageProcessorPil(size={"height": 12, "width": 12}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 12}),
    "deit": DeiTImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 12, "width": 12}),
    "bit": BitImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 12, "width": 12}),
}


def store(images=PHOTOS):
    table, images_by_digest = image_table({"image": list(images), "label": ["a"] * len(images)})
    return [images_by_digest[digest] for digest in table.columns["image"]]


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_batch_is_what_the_processor_makes(name):
    processor = PROCESSORS[name]
    pictures = prepare_pictures(store(), processor=processor, num_channels=3, max_pixels=10**6)
    made = collate_pictures(pictures, np.array([2, 0])).inputs["pixel_values"]
    wanted = torch.from_numpy(np.array(processor(PHOTOS, return_tensors="np", input_data_format="channels_last")["pixel_values"]))
    assert made.shape == (2, 3, 12, 12)
    assert torch.allclose(made, wanted[[2, 0]].float(), atol=1e-5)
    assert len(pictures) == 3 and pictures.padded_lengths.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", PROCESSORS)
def test_another_size_is_of_the_same_view(name):
    assert size_of(PROCESSORS[name]) == 12
    larger = with_size(PROCESSORS[name], 24)
    assert (size_of(larger), size_of(PROCESSORS[name])) == (24, 12)
    smooth = [np.repeat(np.linspace(0, 255, 40, dtype=np.uint8)[:, None, None], 40, axis=1).repeat(3, axis=2)]
    small, large = (
        prepare_pictures(store(smooth), processor=one, num_channels=3, max_pixels=10**6).pixels[0, 0].astype(float)
        for one in (PROCESSORS[name], larger)
    )
    assert abs(small[0].mean() - large[:2].mean()) < 11  # the same rows at the edge, but for rounding
    assert abs(small[-1].mean() - large[-2:].mean()) < 11


def test_a_processor_that_does_more_is_refused():
    class Odd(type(PROCESSORS["vit"])):
        def __call__(self, images, **options):
            made = super().__call__(images, **options)
            made["pixel_values"] = np.array(made["pixel_values"]) ** (2 if options.get("do_normalize", True) else 1)
            return made

    with pytest.raises(ConfigError, match="does more than"):
        normalisation(Odd(size={"height": 12, "width": 12}))


def test_grey_images_have_one_channel_with_the_same_values():
    grey = [photo[:, :, 0] for photo in PHOTOS]
    one, three = (
        prepare_pictures(store(grey), processor=PROCESSORS["ours"], num_channels=number, max_pixels=10**6) for number in (1, 3)
    )
    assert one.pixels.shape == (3, 1, 12, 12)
    assert np.array_equal(one.pixels[:, 0], three.pixels[:, 2])


def test_a_second_run_decodes_nothing_and_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch):
    options = {"processor": PROCESSORS["ours"], "num_channels": 3, "max_pixels": 10**6, "cache": tmp_path}
    first = prepare_pictures(store(), **options)
    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(module, "_prepared", lambda *args, **kw: pytest.fail("decoded again"))
        assert np.array_equal(prepare_pictures(store(), **options).pixels, first.pixels)
    kept = np.array(first.pixels)
    file.write_bytes(b"damaged")
    assert np.array_equal(prepare_pictures(store(), **options).pixels, kept)
    assert not np.array_equal(prepare_pictures(store(PHOTOS[::-1]), **options).pixels, kept)


def test_a_broken_image_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "a").mkdir()
    whole = tmp_path / "a" / "cut.png"
    from PIL import Image

    Image.fromarray(PHOTOS[0]).save(whole)
    whole.write_bytes(whole.read_bytes()[:-400])
    _, broken = image_table(tmp_path)
    with pytest.raises(DataError, match="broken") as error:
        prepare_pictures(list(broken.values()), processor=PROCESSORS["ours"], num_channels=3, max_pixels=10**6)
    assert "cut.png" in str(error.value)


def test_views_follow_from_seed_step_and_example_alone():
    pictures = prepare_pictures(store(), processor=PROCESSORS["ours"], num_channels=3, max_pixels=10**6)
    labels = np.arange(3)

    def seen(plan, **changes):
        options = {"views": PRESETS["side_on"], "seed": 1, **changes}
        return [
            [batch.inputs["pixel_values"] for batch in step] for step in picture_steps(plan, pictures, labels=labels, **options)
        ]

    whole = seen([[np.array([0, 1, 2])], [np.array([2, 0, 1])]])
    parts = seen([[np.array([0]), np.array([1, 2])]])
    assert torch.equal(whole[0][0], torch.cat(parts[0]))
    (later,) = seen([[np.array([2, 0, 1])]], first_step=1)
    assert torch.equal(later[0], whole[1][0])
    assert not torch.equal(whole[0][0][2], whole[1][0][0])  # another step, another view
    assert not torch.equal(seen([[np.array([0, 1, 2])]], seed=2)[0][0], whole[0][0])
    plain = seen([[np.array([0, 1, 2])]], views=PRESETS["none"])
    assert torch.equal(plain[0][0], collate_pictures(pictures, np.arange(3)).inputs["pixel_values"])
