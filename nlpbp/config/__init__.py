"""Settings: the sections that a recipe's `Config` is made of, by subject, and the files they are kept in.

from nlpbp.config import Data, Optim
"""

from nlpbp.config.augment import Augment, ImageAugment
from nlpbp.config.data import Cut, Data, Images, Task, Texts, Tokenizer
from nlpbp.config.models import LanguageModel, Lora, MaskedLM, Recurrent, ResidualNet
from nlpbp.config.optim import (
    Cycles,
    Dropout,
    Finder,
    ImageOptim,
    ImageStage,
    Optim,
    OptimizerName,
    Rate,
    RecurrentOptim,
    ScheduleName,
    Stage,
)
from nlpbp.config.run import (
    BasicSettings,
    Batch,
    Checkpoints,
    ClassifierSettings,
    ImageBatch,
    ImageClassifierSettings,
    MicroBatches,
    Precision,
    Report,
    RunSettings,
    TextClassifierSettings,
)

__all__ = [
    "Augment",
    "BasicSettings",
    "Batch",
    "Checkpoints",
    "ClassifierSettings",
    "Cut",
    "Cycles",
    "Data",
    "Dropout",
    "Finder",
    "ImageAugment",
    "ImageBatch",
    "ImageClassifierSettings",
    "ImageOptim",
    "ImageStage",
    "Images",
    "LanguageModel",
    "Lora",
    "MaskedLM",
    "MicroBatches",
    "Optim",
    "OptimizerName",
    "Precision",
    "Rate",
    "Recurrent",
    "RecurrentOptim",
    "Report",
    "ResidualNet",
    "RunSettings",
    "ScheduleName",
    "Stage",
    "Task",
    "TextClassifierSettings",
    "Texts",
    "Tokenizer",
]
