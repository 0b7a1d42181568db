"""The small residual net of `nlpbp.vision.blocks` as a transformers model, for `AutoModelForImageClassification` and `pipeline`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import CLIPImageProcessorPil, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from nlpbp.core.init import init_weights_
from nlpbp.core.losses import PLAIN, PROBLEM_LOSSES, cross_entropy
from nlpbp.vision.blocks import ResidualBlock, ResidualBody, residual_net

WIDTHS = (16, 32, 64)


class ResidualConfig(PreTrainedConfig):
    """What a small residual net is made of: the arguments of `residual_net`, whose defaults are for small images."""

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

    A net for grey images takes colours too, and looks at their mean: `pipeline` gives every model three channels.

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
        options: dict[str, Any] = {
            name: getattr(config, name)
            for name in ("num_blocks", "stem_kind", "norm", "order", "downsample", "residual", "zero_init", "head_dropout")
        }
        net = residual_net(
            in_channels=config.num_channels, num_labels=int(config.num_labels or 0), widths=config.widths or WIDTHS, **options
        )
        self.body: ResidualBody = net.body
        self.head = net.head
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **ignored: Any
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Answer for images; the task of the loss is `config.problem_type`, single label where it is not said."""
        if pixel_values.shape[1] == 3 and self.config.num_channels == 1:
            pixel_values = pixel_values.mean(dim=1, keepdim=True)
        logits: Tensor = self.head(self.body(pixel_values))
        loss = None
        if labels is not None:
            loss = PROBLEM_LOSSES.get(str(self.config.problem_type), cross_entropy)(logits, labels, PLAIN)
        outputs = ImageClassifierOutput(loss=loss, logits=logits)
        with_names = self.config.return_dict if return_dict is None else return_dict
        return outputs if with_names else outputs.to_tuple()

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
        """Return the layers that make a block add nothing at the start."""
        blocks = [block for block in self.modules() if isinstance(block, ResidualBlock)] if self.config.zero_init else []
        seconds: list[Any] = [block.branch[1] for block in blocks if block.shortcut is not None]
        return {second[-1] for second in seconds}


def pixel_processor(*, image_size: int) -> CLIPImageProcessorPil:
    """Make the processor that images are prepared with: the shorter side to this size, the middle cut out, values from -1 to 1."""
    half = [0.5, 0.5, 0.5]
    square = {"height": image_size, "width": image_size}
    return CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square, image_mean=half, image_std=half)
