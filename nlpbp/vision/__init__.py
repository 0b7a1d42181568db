"""Blocks, pictures and models for images; importing it makes transformers' `Auto*` classes know the small residual net."""

from transformers import AutoConfig, AutoModelForImageClassification

from nlpbp.vision.residual import ResidualConfig, ResidualForImageClassification

AutoConfig.register(ResidualConfig.model_type, ResidualConfig, exist_ok=True)
AutoModelForImageClassification.register(ResidualConfig, ResidualForImageClassification, exist_ok=True)
