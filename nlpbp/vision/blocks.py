"""Convolutional blocks, and a small residual net built of them, with each design choice an argument so that it can be ablated.

Images are [batch, channels, height, width]. A block that halves the size rounds up, however it downsamples. All layers use He
initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nlpbp.core.init import init_weights_
from nlpbp.core.layers import AdaptiveConcatPool2d

Norm = Literal["batch", "group", "none"]
Order = Literal["conv_norm_relu", "conv_relu_norm"]
Downsample = Literal["stride", "max", "average"]
Stem = Literal["5x5", "three_3x3", "3x3_stride2", "7x7_stride2"]

MAX_NORM_GROUPS = 8  # of GroupNorm: two channels a group or more from 16 channels on


def conv_block(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    norm: Norm = "batch",
    order: Order = "conv_norm_relu",
    downsample: Downsample = "stride",
    activation: bool = True,
) -> nn.Sequential:
    """Make a convolution with its norm and ReLU; the size stays, or is divided by `stride` and rounded up.

    The norm comes before the ReLU (Ioffe and Szegedy 2015) or after it, as `order` says: which is better depends on the net. The
    convolution has a bias unless a norm follows it directly and would cancel the bias. `downsample` says what divides the size: a
    strided convolution, or pooling of the block's output, which costs stride ** 2 times the computation. Raises `ValueError` for an
    even kernel size.

    >>> [type(layer).__name__ for layer in conv_block(3, 8, order="conv_relu_norm", stride=2, downsample="max")]
    ['Conv2d', 'ReLU', 'BatchNorm2d', 'MaxPool2d']
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd to keep an image's size, not {kernel_size}")
    norm_first = norm != "none" and (order == "conv_norm_relu" or not activation)
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride if downsample == "stride" else 1,
        padding=kernel_size // 2,
        bias=not norm_first,
    )
    layers: list[nn.Module] = [convolution]
    if norm_first:
        layers.append(_norm(norm, out_channels))
    if activation:
        layers.append(nn.ReLU())
    if norm != "none" and not norm_first:
        layers.append(_norm(norm, out_channels))
    if stride > 1 and downsample != "stride":
        pool = nn.MaxPool2d if downsample == "max" else nn.AvgPool2d
        layers.append(pool(stride, ceil_mode=True))
    block = nn.Sequential(*layers)
    init_weights_(block)
    return block


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(MAX_NORM_GROUPS, channels), channels)


def stem(
    kind: Stem, *, in_channels: int, out_channels: int, norm: Norm = "batch", order: Order = "conv_norm_relu"
) -> nn.Sequential:
    """Make the first layers of a net: `5x5` and `three_3x3` keep the resolution, which matters for small images.

    `5x5` is one wide layer of stride 1; `three_3x3` is three layers with a receptive field of 7x7 pixels, the first two with half
    the channels; `3x3_stride2` and `7x7_stride2` halve the resolution at once, for images of 200 pixels and more. Raises
    `ValueError` for another kind.

    >>> import torch
    >>> [tuple(stem(kind, in_channels=1, out_channels=8)(torch.zeros(2, 1, 9, 9)).shape[2:]) for kind in ("5x5", "3x3_stride2")]
    [(9, 9), (5, 5)]
    """
    layouts = {"5x5": (5, 1, 1), "three_3x3": (3, 1, 3), "3x3_stride2": (3, 2, 1), "7x7_stride2": (7, 2, 1)}
    if kind not in layouts:
        raise ValueError(f"the stem must be one of {', '.join(layouts)}, not {kind!r}")
    kernel_size, stride, depth = layouts[kind]
    channels = [in_channels, *[max(1, out_channels // 2)] * (depth - 1), out_channels]
    blocks = [conv_block(a, b, kernel_size=kernel_size, stride=stride, norm=norm, order=order) for a, b in pairwise(channels)]
    return nn.Sequential(*blocks)


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection (He et al. 2015), so that nets of many such blocks can be trained.

    Where size or channels change, the skip connection is a 1x1 convolution. With `zero_init` the residual branch starts at 0: the
    scale of its last norm (without norms: its last convolution) is 0 (Goyal et al. 2017), so that a block that keeps the shape
    starts as the identity. With conv_norm_relu a ReLU follows the sum, so this holds for inputs that are not negative, as after a
    ReLU. `residual=False` removes the skip connection, for comparison.

    >>> import torch
    >>> images = torch.rand(2, 4, 6, 6)
    >>> torch.equal(ResidualBlock(4, 4)(images), images)
    True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Norm = "batch",
        order: Order = "conv_norm_relu",
        downsample: Downsample = "stride",
        residual: bool = True,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        # Zeros followed directly by a ReLU would get no gradient: without norms, the last ReLU always comes after the sum.
        self.relu_last = order == "conv_norm_relu" or norm == "none"
        first = conv_block(in_channels, out_channels, stride=stride, norm=norm, order=order, downsample=downsample)
        second = conv_block(out_channels, out_channels, norm=norm, order=order, activation=not self.relu_last)
        self.branch = nn.Sequential(first, second)
        self.shortcut: nn.Module | None = None
        if residual:
            keeps_shape = stride == 1 and in_channels == out_channels
            self.shortcut = (
                nn.Identity()
                if keeps_shape
                else conv_block(
                    in_channels, out_channels, kernel_size=1, stride=stride, norm=norm, downsample=downsample, activation=False
                )
            )
            if zero_init:
                for parameter in second[-1].parameters():
                    nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Add the residual branch's output to the skip connection's."""
        answer: Tensor = self.branch(images)
        if self.shortcut is not None:
            answer = answer + self.shortcut(images)
        return F.relu(answer) if self.relu_last else answer


@dataclass(frozen=True)
class BlockDesign:
    """The choices that all residual blocks of a net share; see `conv_block` and `ResidualBlock` for each."""

    norm: Norm = "batch"
    order: Order = "conv_norm_relu"
    downsample: Downsample = "stride"
    residual: bool = True
    zero_init: bool = True


DEFAULT_DESIGN = BlockDesign()


def residual_group(
    in_channels: int,
    out_channels: int,
    *,
    num_blocks: int,
    stride: int = 2,
    design: BlockDesign = DEFAULT_DESIGN,
) -> nn.Sequential:
    """Make a block that changes size and channels, and `num_blocks` - 1 that keep them and start as the identity.

    >>> import torch
    >>> residual_group(4, 8, num_blocks=3)(torch.zeros(2, 4, 7, 7)).shape
    torch.Size([2, 8, 4, 4])
    """
    strides = [stride] + [1] * (num_blocks - 1)
    blocks = [
        ResidualBlock(
            in_channels if index == 0 else out_channels,
            out_channels,
            stride=stride,
            norm=design.norm,
            order=design.order,
            downsample=design.downsample,
            residual=design.residual,
            zero_init=design.zero_init,
        )
        for index, stride in enumerate(strides)
    ]
    return nn.Sequential(*blocks)


class ResidualBody(nn.Module):
    """The backbone of a residual net: a stem, then groups of blocks; returns feature maps [batch, channels, height, width]."""

    def __init__(self, stem: nn.Module, groups: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.groups = nn.ModuleList(groups)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature maps of images."""
        maps: Tensor = self.stem(images)
        for group in self.groups:
            maps = group(maps)
        return maps


class ResidualNet(nn.Module):
    """An image classifier for any image size: a backbone, and a head that pools its feature maps and returns logits."""

    def __init__(self, body: ResidualBody, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    @property
    def base_model(self) -> ResidualBody:
        """The model without its head, under the name that `layer_groups` looks for."""
        return self.body

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, labels]."""
        logits: Tensor = self.head(self.body(images))
        return logits


def residual_net(
    *,
    in_channels: int,
    num_labels: int,
    widths: Sequence[int] = (16, 32, 64),
    num_blocks: int = 2,
    stem_kind: Stem = "5x5",
    design: BlockDesign = DEFAULT_DESIGN,
    head_dropout: float = 0.0,
) -> ResidualNet:
    """Make a small residual net: a stem, a group of `num_blocks` blocks for each width, concat pooling, dropout, a linear layer.

    The first group keeps the size, and each later one halves it. The defaults are for small images: 176,000 parameters for 8x8
    digits.

    >>> import torch
    >>> from nlpbp.core.groups import layer_groups
    >>> net = residual_net(in_channels=1, num_labels=10, widths=(4, 8))
    >>> [group.name for group in layer_groups(net)], net(torch.zeros(2, 1, 8, 8)).shape
    (['embeddings', 'block.0', 'block.1', 'head'], torch.Size([2, 10]))
    """
    first = stem(stem_kind, in_channels=in_channels, out_channels=widths[0], norm=design.norm, order=design.order)
    groups = [
        residual_group(
            before,
            width,
            num_blocks=num_blocks,
            stride=1 if index == 0 else 2,
            design=design,
        )
        for index, (before, width) in enumerate(pairwise([widths[0], *widths]))
    ]
    linear = nn.Linear(2 * widths[-1], num_labels)
    init_weights_(linear, nonlinearity="linear")
    head = nn.Sequential(AdaptiveConcatPool2d(), nn.Dropout(head_dropout), linear)
    return ResidualNet(ResidualBody(first, groups), head)
