"""Distillation: a trained model's answers, for another one to learn from (Hinton et al. 2015; Tang et al. 2019).

The answers are probabilities, which say more of a text than its label does, and they can be had for texts without labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nlpbp.core.errors import ConfigError
from nlpbp.data.columns import Examples
from nlpbp.data.corpus import load_texts
from nlpbp.data.parts import Inputs, Part, targets_of
from nlpbp.inference.predict import predict_outputs
from nlpbp.inference.trained import Classifier, load_run
from nlpbp.runs.folder import Run
from nlpbp.train.weights import save_tensors

Array = np.ndarray[Any, Any]
OF_LABELS = ("class_weights", "focal_gamma", "asymmetric")  # settings of a loss on them
FILE = "teacher.safetensors"  # its answers by part: a run that goes on does not ask again


@dataclass(frozen=True)
class Lesson:
    """Inputs whose training set are the labelled and the unlabelled texts, with the teacher's answers in place of labels.

    `targets` are its probabilities [n, labels], None where it predicts a number: then the values are the targets of the training
    set. `outputs` are its answers for the parts that are scored, as a baseline.
    """

    inputs: Inputs
    targets: Array | None
    outputs: dict[str, Array]

    @property
    def fingerprint(self) -> str:
        """Names what the teacher has answered."""
        taught = targets_of(self.inputs.train) if self.targets is None else self.targets
        return hashlib.sha256(np.ascontiguousarray(taught).tobytes()).hexdigest()[:16]


def lesson_of(run: Run[Any], inputs: Inputs, teacher: str, *, unlabelled: str | None) -> Lesson:
    """Let the run or model folder `teacher` answer for the training texts, unlabelled ones and the parts that are scored.

    Raises `ConfigError` for a teacher of another task or other labels, and for examples that are not one text each.
    """
    if inputs.train.examples.pairs is not None or inputs.fields.kinds:
        raise ConfigError("is for examples that are one text each", column="distil", hint="leave it out")
    for name in OF_LABELS:
        if getattr(run.settings.optim, name):
            raise ConfigError("is of labels, and the teacher's answers are learned", column=f"optim.{name}", hint="leave it out")
    texts, references = list(inputs.train.examples.texts), list(inputs.train.examples.references)
    if unlabelled is not None:
        more = load_texts(unlabelled)
        texts, references = [*texts, *more.texts], [*references, *more.references]
    parts = {"train": Examples(inputs.train.examples.source, texts, None, None, references)}
    parts |= {name: part.examples for name, part in inputs.scored.items()}
    answers = _answers(run, inputs, teacher, parts)
    made = answers.pop("train")
    targets, hard = (made, _decided(inputs, made)) if inputs.labels else (None, made)
    part = Part(replace(parts["train"], targets=hard), np.arange(len(texts)))
    num_unlabelled = len(texts) - len(inputs.train)
    run.say(f"the teacher {teacher} has answered for {len(texts):,} training texts, {num_unlabelled:,} of them without labels")
    return Lesson(replace(inputs, train=part), targets, answers)


def _decided(inputs: Inputs, probabilities: Array) -> Array:
    if inputs.fields.target_type == "multiclass":
        classes: Array = probabilities.argmax(axis=1)
        return classes
    several: Array = (probabilities > 0.5).astype(np.float32)
    return several


def _answers(run: Run[Any], inputs: Inputs, teacher: str, parts: dict[str, Examples]) -> dict[str, Array]:
    """Return the teacher's answers by part: from the run's folder, where they are for as many examples, or by asking it."""
    file = run.out / FILE
    if file.exists():
        kept = {name: tensor.numpy() for name, tensor in load_file(file).items()}
        if {name: len(values) for name, values in kept.items()} == {name: len(examples) for name, examples in parts.items()}:
            return kept
    classifier = load_run(Path(teacher), accelerator=run.accelerator)
    columns = _columns(classifier, inputs, teacher)
    answers = {}
    for name, examples in parts.items():
        outputs = predict_outputs(classifier, examples, accelerator=run.accelerator)
        answers[name] = np.ascontiguousarray(outputs[:, columns] if columns else outputs, dtype=np.float32)
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        save_tensors({name: torch.from_numpy(values) for name, values in answers.items()}, file)
    return answers


def _columns(classifier: Classifier, inputs: Inputs, teacher: str) -> list[int]:
    """Return where the teacher has the labels of these data, in their order."""
    mine, its = inputs.fields, classifier.fields
    if (its.task, set(its.labels)) != (mine.task, set(mine.labels)) or classifier.reader.kind != "text":
        raise ConfigError(
            f"{teacher} answers {its.task} of {', '.join(its.labels) or 'numbers'}; these data are {mine.task} of "
            f"{', '.join(mine.labels) or 'numbers'}",
            column="distil",
            hint="give a run that was trained for the same labels",
        )
    return [its.labels.index(label) for label in mine.labels]
