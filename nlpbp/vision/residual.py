"""The small residual net of `nlpbp.vision.blocks` as a transformers model, for `AutoModelForImageClassification` and `pipeline`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import CLIPImageProcessorPil, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from nlpbp.core.init import init_weights_
from nlpbp.core.losses import PLAIN, PROBLEM_LOSSES, cross_entropy
from nlpbp.vision.blocks import BlockDesign, ResidualBlock, ResidualBody, Stem, residual_net

WIDTHS = (16, 32, 64)


class ResidualConfig(PreTrainedConfig):
    """The configuration of a small residual net: the arguments of `residual_net`, with defaults for small images."""

    model_type = "nlpbp_residual"

    num_channels: int = 3
    image_size: int = 32
    widths: list[int] | None = None
    num_blocks: int = 2
    stem_kind: str = "5x5"
    norm: str = "batch"
    order: str = "conv_norm_relu"
    downsample: str = "stride"
    residual: bool = True
    zero_init: bool = True
    head_dropout: float = 0.0


class ResidualForImageClassification(PreTrainedModel):
    """A small residual net over pixel values [batch, channels, height, width] of any size.

    A net for greyscale images also accepts colour images and averages their channels, because `pipeline` passes three channels to
    every model.

    >>> model = ResidualForImageClassification(ResidualConfig(num_channels=1, widths=[4, 8], num_labels=3)).eval()
    >>> import torch
    >>> model(pixel_values=torch.zeros(2, 3, 8, 8)).logits.shape
    torch.Size([2, 3])
    """

    config_class = ResidualConfig
    base_model_prefix = "body"
    main_input_name = "pixel_values"

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__(config)
        design: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(BlockDesign)}
        net = residual_net(
            in_channels=config.num_channels,
            num_labels=int(config.num_labels or 0),
            widths=config.widths or WIDTHS,
            num_blocks=config.num_blocks,
            stem_kind=cast(Stem, config.stem_kind),
            design=BlockDesign(**design),
            head_dropout=config.head_dropout,
        )
        self.body: ResidualBody = net.body
        self.head = net.head
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **ignored: Any) -> ImageClassifierOutput:
        """Classify images; `config.problem_type` decides the loss, single label if it is not set."""
        if pixel_values.shape[1] == 3 and self.config.num_channels == 1:
            pixel_values = pixel_values.mean(dim=1, keepdim=True)
        logits: Tensor = self.head(self.body(pixel_values))
        loss = None
        if labels is not None:
            loss = PROBLEM_LOSSES.get(str(self.config.problem_type), cross_entropy)(logits, labels, PLAIN)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | _BatchNorm):
            return
        new = {name for name, value in module.named_parameters() if not getattr(value, "_is_hf_initialized", False)}
        if isinstance(module, _BatchNorm) and new:
            module.reset_running_stats()
        init_weights_(module, nonlinearity="linear" if isinstance(module, nn.Linear) else "relu")
        if module in self._last_of_branches():
            for name in new:
                nn.init.zeros_(module.get_parameter(name))

    def _last_of_branches(self) -> set[nn.Module]:
        """Return the last layers of the residual branches, which `zero_init` sets to 0."""
        blocks = [block for block in self.modules() if isinstance(block, ResidualBlock)] if self.config.zero_init else []
        seconds: list[Any] = [block.branch[1] for block in blocks if block.shortcut is not None]
        return {second[-1] for second in seconds}


def pixel_processor(*, image_size: int) -> CLIPImageProcessorPil:
    """Make the image processor: resize the shorter side to `image_size`, crop the centre, scale values to -1 to 1."""
    half = [0.5, 0.5, 0.5]
    square = {"height": image_size, "width": image_size}
    return CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square, image_mean=half, image_std=half)
