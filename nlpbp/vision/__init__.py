"""Blocks, prepared images and models; importing this package registers the small residual net with transformers' `Auto*`
classes."""

from transformers import AutoConfig, AutoModelForImageClassification

from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification

AutoConfig.register(ResidualConfig.model_type, ResidualConfig, exist_ok=True)
AutoModelForImageClassification.register(ResidualConfig, ResidualForImageClassification, exist_ok=True)
