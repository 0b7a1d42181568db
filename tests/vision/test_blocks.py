"""Convolutional blocks: their sizes and layout, and what norms (N8) and additions (X3) make possible."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import cosine, warm_up
from nlpbp.vision.blocks import (
    BlockDesign,
    Downsample,
    Norm,
    Order,
    ResidualBlock,
    ResidualNet,
    conv_block,
    residual_group,
    residual_net,
    stem,
)


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.modules() if not list(layer.children())]


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_each_way_to_downsample_gives_the_same_size_rounded_up(size: int, stride: int, kernel_size: int) -> None:
    shapes = {
        tuple(
            conv_block(2, 4, kernel_size=kernel_size, stride=stride, norm="none", downsample=way)(torch.zeros(3, 2, size, 5)).shape
        )
        for way in ("stride", "max", "average")
    }
    assert shapes == {(3, 4, -(-size // stride), -(-5 // stride))}


@pytest.mark.parametrize(
    ("norm", "order", "wanted", "bias"),
    [
        ("batch", "conv_norm_relu", ["Conv2d", "BatchNorm2d", "ReLU"], False),
        ("batch", "conv_relu_norm", ["Conv2d", "ReLU", "BatchNorm2d"], True),
        ("group", "conv_norm_relu", ["Conv2d", "GroupNorm", "ReLU"], False),
        ("none", "conv_norm_relu", ["Conv2d", "ReLU"], True),
        ("none", "conv_relu_norm", ["Conv2d", "ReLU"], True),
    ],
)
def test_layers_stand_in_the_order_asked_for_with_a_bias_only_where_no_norm_takes_it_away(
    norm: Norm, order: Order, wanted: list[str], bias: bool
) -> None:
    block = conv_block(4, 16, norm=norm, order=order)
    assert kinds(block) == wanted
    assert (block[0].bias is not None) == bias
    bare = conv_block(4, 16, norm=norm, order=order, activation=False)
    assert kinds(bare) == [kind for kind in wanted if kind != "ReLU"]
    assert (bare[0].bias is not None) == (norm == "none")


def test_a_bias_before_a_norm_would_change_nothing_and_one_before_a_relu_does() -> None:
    images = torch.randn(4, 1, 5, 5)
    for order, matters in (("conv_norm_relu", False), ("conv_relu_norm", True)):
        block = conv_block(1, 2, order=order)
        before = block(images)
        weight = block[0].weight
        block[0] = nn.Conv2d(1, 2, 3, padding=1)
        block[0].weight = weight
        nn.init.constant_(block[0].bias, 2.0)
        assert torch.allclose(block(images), before, atol=1e-3) != matters


@pytest.mark.parametrize(("kind", "side"), [("5x5", 9), ("three_3x3", 9), ("3x3_stride2", 5), ("7x7_stride2", 5)])
def test_stems_keep_the_size_or_halve_it_and_see_the_borders(kind: str, side: int) -> None:
    made = stem(kind, in_channels=1, out_channels=6, norm="none")
    assert made(torch.zeros(1, 1, 9, 9)).shape == (1, 6, side, side)
    images = torch.zeros(1, 1, 9, 9, requires_grad=True)
    for block in made:
        nn.init.ones_(block[0].weight)
        nn.init.ones_(block[0].bias)
    (seen,) = torch.autograd.grad(made(images).sum(), images)
    assert (seen > 0).all()  # each pixel, those of the corners too
    (seen,) = torch.autograd.grad(made(images)[0, 0, side // 2, side // 2], images)
    assert (seen > 0).any(dim=3).sum() == {"5x5": 5, "three_3x3": 7, "3x3_stride2": 3, "7x7_stride2": 7}[kind]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="4"):
        conv_block(1, 2, kernel_size=4)
    with pytest.raises(ValueError, match="9x9"):
        stem("9x9", in_channels=1, out_channels=2)


@pytest.mark.parametrize("order", ["conv_norm_relu", "conv_relu_norm"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_block_is_the_identity_at_the_start_and_learns(norm: Norm, order: Order) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 16, 5, 5)
    block = ResidualBlock(16, 16, norm=norm, order=order)
    assert torch.equal(block(images), images)
    assert not torch.equal(ResidualBlock(16, 16, norm=norm, order=order, zero_init=False)(images), images)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (block(images) - 2.0 * images).square().mean().backward()
        optimizer.step()
    assert not torch.equal(block(images), images)
    assert all(parameter.grad.any() for parameter in block.parameters())  # none is dead


@pytest.mark.parametrize("downsample", ["stride", "max", "average"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("size", [4, 7])
def test_a_group_changes_the_shape_once_and_its_other_blocks_are_the_identity(
    downsample: Downsample, norm: Norm, size: int
) -> None:
    images = torch.rand(2, 4, size, size)
    group = residual_group(4, 8, num_blocks=3, design=BlockDesign(downsample=downsample, norm=norm))
    first = group[0](images)
    assert first.shape == (2, 8, -(-size // 2), -(-size // 2))
    assert torch.equal(group(images), first)
    assert [type(block.shortcut).__name__ for block in group] == ["Sequential", "Identity", "Identity"]


def gradient_ratio(*, residual: bool, zero_init: bool) -> float:
    """Return the gradient's norm at the first of 30 blocks as a multiple of that at the last."""
    torch.manual_seed(0)
    group = residual_group(8, 8, num_blocks=30, stride=1, design=BlockDesign(residual=residual, zero_init=zero_init))
    group(torch.randn(32, 8, 6, 6)).square().mul(torch.randn(32, 8, 6, 6)).sum().backward()
    norms = [torch.cat([p.grad.flatten() for p in block.parameters()]).norm().item() for block in group]
    return norms[0] / norms[-1]


def test_the_gradient_reaches_the_first_of_30_blocks_with_additions_and_not_as_it_was_without() -> None:
    plain = gradient_ratio(residual=False, zero_init=False)
    assert 0.1 < gradient_ratio(residual=True, zero_init=True) < 10
    assert plain > 1000
    assert gradient_ratio(residual=True, zero_init=False) < plain / 100


def digits(test_size: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Load 8x8 images of digits: train images, test images, train labels, test labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    made: tuple[Tensor, ...] = train_test_split(
        images, torch.tensor(data.target), test_size=test_size, random_state=0, stratify=data.target
    )
    return made


def train(net: ResidualNet, images: Tensor, labels: Tensor, *, lr: float, epochs: int, size: int = 64) -> None:
    """Train with AdamW, warm-up, cosine and label smoothing."""
    groups = parameter_groups(layer_groups(net), lr=lr, weight_decay=0.05, no_decay=no_decay_names(net))
    optimizer, schedule = adamw(groups), warm_up(cosine(), share=0.3)
    per_epoch = len(images) // size
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(len(images))
        ids = order[step % per_epoch * size :][:size]
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(step / (epochs * per_epoch))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[ids]), labels[ids], label_smoothing=0.1).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(net: ResidualNet, images: Tensor, labels: Tensor) -> float:
    return (net.eval()(images).argmax(1) == labels).float().mean().item()


def test_the_default_net_reads_digits() -> None:
    torch.manual_seed(0)
    images, test_images, labels, test_labels = digits(0.25)
    net = residual_net(in_channels=1, num_labels=10)
    train(net, images, labels, lr=5e-3, epochs=8)
    assert accuracy(net, test_images, test_labels) >= 0.98


def final_loss(norm: Norm, *, lr: float) -> float:
    """Train a plain net of 14 convolutions without additions by SGD on 512 digits; return its training loss."""
    torch.manual_seed(0)
    images, _, labels, _ = digits(0.5)
    images, labels = images[:512], labels[:512]
    design = BlockDesign(norm=norm, residual=False)
    net = residual_net(in_channels=1, num_labels=10, widths=(8, 16), num_blocks=3, design=design)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(5):
        for ids in torch.randperm(512).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images[ids]), labels[ids])
            loss.backward()
            optimizer.step()
    return nn.functional.cross_entropy(net(images), labels).item()


def test_with_batch_norm_a_net_trains_at_a_rate_at_which_it_fails_without() -> None:
    assert final_loss("batch", lr=0.1) < 1.0
    assert not final_loss("none", lr=0.1) < 2.2  # chance is log(10) = 2.30; NaN counts as failing


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_answer_does_not_depend_on_the_other_images_of_a_batch(norm: Norm) -> None:
    torch.manual_seed(0)
    design = BlockDesign(norm=norm, zero_init=False)
    net = residual_net(in_channels=3, num_labels=4, widths=(16, 32), design=design, head_dropout=0.5)
    images = torch.randn(6, 3, 9, 11)
    before = net(images)  # in training, statistics (and dropout) are the batch's
    assert not torch.allclose(net(images[:2]), before[:2], atol=1e-3)
    net.eval()
    assert torch.allclose(net(images[:2]), net(images)[:2], atol=1e-5)


def test_the_parts_of_a_net_are_groups_for_freezing_and_rates() -> None:
    net = residual_net(in_channels=1, num_labels=3, widths=(4, 8, 8), num_blocks=1, stem_kind="three_3x3")
    groups = layer_groups(net)
    assert [group.name for group in groups] == ["embeddings", "block.0", "block.1", "block.2", "head"]
    assert [name for name, _ in groups[-1].parameters] == ["head.2.weight", "head.2.bias"]
    assert all(name.startswith("body.stem") for name, _ in groups[0].parameters)
    assert net(torch.zeros(2, 1, 9, 9)).shape == (2, 3)
