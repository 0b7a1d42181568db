"""The residual net as a transformers model: it saves, loads and answers in `pipeline`, and begins as written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from nlpbp.core.groups import layer_groups
from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification, pixel_processor


def make(**options):
    torch.manual_seed(0)
    return ResidualForImageClassification(ResidualConfig(num_channels=1, image_size=8, widths=[4, 8], num_labels=3, **options))


@pytest.mark.parametrize("options", [{}, {"norm": "group", "order": "conv_relu_norm"}, {"residual": False, "downsample": "max"}])
def test_a_model_that_is_saved_answers_the_same_in_auto_classes_and_pipeline(options, tmp_path):
    model = make(**options)
    model.train()(pixel_values=torch.rand(8, 1, 8, 8))  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    pixel_processor(image_size=8).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    grey = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    answer = pipeline("image-classification", model=str(tmp_path))(Image.fromarray(grey))
    with torch.inference_mode():
        wanted = model(pixel_values=torch.tensor(grey / 127.5 - 1.0, dtype=torch.float32).view(1, 1, 8, 8)).logits.softmax(dim=1)
    assert {one["label"]: one["score"] for one in answer} == pytest.approx(
        {f"LABEL_{index}": float(value) for index, value in enumerate(wanted[0])}, abs=1e-5
    )


def test_it_begins_as_the_plain_net_does_and_its_groups_are_those_of_its_body():
    model = make()
    for name, parameter in model.named_parameters():
        if name.endswith("branch.1.1.weight"):
            assert not parameter.any(), name  # a block adds nothing at the start
        elif name.endswith("branch.0.0.weight"):
            assert parameter.std().item() == pytest.approx((2 / parameter[0].numel()) ** 0.5, rel=0.25)
    assert [group.name for group in layer_groups(model)] == ["embeddings", "block.0", "block.1", "head"]
    loss = model(pixel_values=torch.rand(4, 1, 8, 8), labels=torch.tensor([0, 1, 2, 0])).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
