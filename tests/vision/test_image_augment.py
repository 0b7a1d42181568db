"""Views keep what they promise, depend on an example's seed alone, and mixing blends labels as it blends pixels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nlpbp.core.batch import Batch
from nlpbp.tasks import task_loss
from nlpbp.vision.augment import PRESETS, Views, augment_images, mixed_images_loss


def views_of(image, *, views, num=40):
    return augment_images(image.expand(num, -1, -1, -1), views=views, seeds=list(range(num)))


def test_nothing_wanted_changes_nothing():
    images = torch.rand(3, 1, 8, 8)
    assert augment_images(images, views=PRESETS["none"], seeds=[1, 2, 3]) is images
    with pytest.raises(ValueError, match="as many seeds"):
        augment_images(images, views=PRESETS["digits"], seeds=[1])


def test_a_flip_mirrors_and_quarter_turns_give_all_eight_views():
    image = torch.rand(1, 1, 6, 6)
    flips = views_of(image, views=Views(flip=True))
    same, mirrored = ([torch.allclose(view, one, atol=1e-5) for view in flips] for one in (image[0], image[0].flip(2)))
    assert any(same) and any(mirrored) and all(a != b for a, b in zip(same, mirrored, strict=True))
    turned = views_of(image, views=Views(flip=True, quarter_turns=True), num=200)
    eight = [torch.rot90(one, turns, (1, 2)) for one in (image[0], image[0].flip(2)) for turns in range(4)]
    found = {next(i for i, one in enumerate(eight) if torch.allclose(view, one, atol=1e-4)) for view in turned}
    assert found == set(range(8))


def test_a_view_is_its_seeds_own_and_digits_stay_upright_and_unmirrored():
    images = torch.rand(4, 3, 9, 9)
    together = augment_images(images, views=PRESETS["side_on"], seeds=[5, 6, 7, 8])
    alone = augment_images(images[2:3], views=PRESETS["side_on"], seeds=[7])
    assert torch.allclose(together[2], alone[0], atol=1e-6)
    assert not torch.allclose(together[0], augment_images(images[:1], views=PRESETS["side_on"], seeds=[9])[0], atol=1e-3)
    left = torch.zeros(1, 1, 9, 9)
    left[:, :, :, :4] = 1.0
    for view in views_of(left, views=PRESETS["digits"]):
        assert view[0, :, :3].mean() > view[0, :, -3:].mean() + 0.5


def test_edges_are_mirrored_and_not_black():
    white = torch.ones(1, 1, 8, 8)
    moved = views_of(white, views=Views(degrees=20.0, shift=0.2, zoom=0.2))
    assert torch.allclose(moved, torch.ones_like(moved), atol=1e-5)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 2)
        self.calls = 0

    def forward(self, pixel_values):
        self.calls += 1
        return SimpleNamespace(logits=self.layer(pixel_values.flatten(1)))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_loss_is_mixed_in_the_share_that_pixels_are(kind):
    torch.manual_seed(0)
    model = Linear()
    images, labels = torch.cat([torch.zeros(4, 1, 4, 4), torch.ones(4, 1, 4, 4)]), torch.tensor([0] * 4 + [1] * 4)
    seen = []

    def loss_fn(model, batch):
        logits = model(**batch.inputs).logits
        seen.append((logits, batch.labels))
        return task_loss(logits, batch.labels, task="single_label")

    loss = mixed_images_loss(loss_fn, kind=kind, alpha=1.0)(model, Batch({"pixel_values": images}, labels, torch.arange(8)))
    assert model.calls == 1
    (logits, own), (_, partners) = seen
    losses = [nn.functional.cross_entropy(logits, labels) for labels in (own, partners)]
    shares = torch.linspace(0, 1, 17 if kind == "cutmix" else 4001)  # of 16 pixels, or any
    assert ((shares * losses[0] + (1 - shares) * losses[1]) - loss).abs().min() < 1e-3
    assert not torch.equal(own, partners)
