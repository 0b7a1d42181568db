"""One system of the benchmark `outcome` at work in a process of its own: it learns from the labels of a cell, and answers.

It is started as `python outcome_worker.py FOLDER`, reads `cell.json` there and leaves `answers.json`: the labels of each test text.
It is not given those that are right. SetFit has a worker of its own, `outcome_setfit`.

Of classes that exclude each other the most probable one is answered, of several labels those whose probability is above a cut that
the system chooses for the best micro F1: on texts of its cell that it did not learn from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nlpbp.benchmarks.outcome_data import Targets, indicators
from nlpbp.core.task import target_type
from nlpbp.evaluation.thresholds import common_threshold

Floats = np.ndarray[Any, Any]

STRENGTHS = tuple(float(strength) for strength in np.logspace(-2, 2, 5))
FOLDS = 5
HELD_OUT = 10  # the part of the texts that Trainer does not train on, where it has a cut to choose


@dataclass(frozen=True)
class Cell:
    """What a system is given; `model` is a folder of `save_pretrained`, or `demo:minilm`."""

    system: str
    seed: int
    threads: int
    task: str
    model: str
    max_length: int
    labels: list[str]
    train_texts: list[str]
    train_targets: Targets
    test_texts: list[str]

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return target_type(self.task) == "multilabel-indicator"

    def answers(self, outputs: Floats, known: Sequence[int] | None = None, cut: float | Floats = 0.5) -> Targets:
        """Turn probabilities [n, labels] into the labels of each text; with `known` they are of these labels only, [n, known]."""
        if known is not None:
            return [[known[index] for index in row] for row in self.answers(outputs, cut=cut)]
        if self.is_multi_label:
            return [np.flatnonzero(row > cut).tolist() for row in outputs]
        return [[int(row.argmax())] for row in outputs]

    def targets(self) -> Floats:
        """Return the training targets: class ids [m], or zeros and ones [m, labels]."""
        if self.is_multi_label:
            return indicators(self.train_targets, len(self.labels))
        return np.array([row[0] for row in self.train_targets])

    def known(self) -> list[int]:
        """Return the labels that have a training example: a user knows no others."""
        return sorted({label for row in self.train_targets for label in row})


def work(folder: Path) -> None:
    """Do the cell in `folder`."""
    cell = Cell(**json.loads((folder / "cell.json").read_text(encoding="utf-8")))
    systems = {"ours": ours, "trainer": trainer, "tfidf": tfidf, "probe": probe}
    found = systems[cell.system](cell, folder)
    (folder / "answers.json").write_text(json.dumps(found), encoding="utf-8")


def ours(cell: Cell, folder: Path) -> dict[str, Targets]:
    """Run the default recipe as it comes: nothing is set but data, model, seed and threads.

    It splits a validation set off, on which it chooses the thresholds of several labels.
    """
    from nlpbp import config as sections
    from nlpbp.data.columns import Examples
    from nlpbp.inference.predict import predict_outputs
    from nlpbp.inference.trained import load_run
    from nlpbp.train.setup import start
    from recipes import transformer_sentiment

    rows = [{"text": text, "label": given_label(cell, row)} for text, row in zip(cell.train_texts, cell.train_targets, strict=True)]
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = transformer_sentiment.Config(
        data=sections.Data(train=str(data), test_share=0.0), seed=cell.seed, threads=cell.threads, out=str(folder / "run")
    )
    result = transformer_sentiment.run(replace(config, model=replace(config.model, name=cell.model)))
    accelerator = start(seed=cell.seed, precision="fp32", threads=cell.threads)
    run = load_run(result.out, accelerator=accelerator)
    texts = Examples("test", cell.test_texts, None, None, [f"test:{index}" for index in range(len(cell.test_texts))])
    outputs = predict_outputs(run, texts, accelerator=accelerator)
    known = [cell.labels.index(label) for label in run.fields.labels]
    return {"answers": cell.answers(outputs, known, 0.5 if run.thresholds is None else run.thresholds)}


def given_label(cell: Cell, row: list[int]) -> str | list[str]:
    """Return the label as a user's file has it: a name, or a list of names."""
    names = [cell.labels[index] for index in row]
    return names if cell.is_multi_label else names[0]


def trainer(cell: Cell, folder: Path) -> dict[str, Targets]:
    """Fine-tune with transformers.Trainer as its documentation does; what is not given here is its default.

    The cut of several labels is chosen on a tenth of the texts, which is not trained on.
    """
    import torch
    from scipy.special import expit
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    from nlpbp.text.transformer import load_tokenizer

    torch.set_num_threads(cell.threads)
    set_seed(cell.seed)
    path, known = model_folder(cell), cell.known()
    tokenizer = load_tokenizer(path)
    model = AutoModelForSequenceClassification.from_pretrained(
        path,
        num_labels=len(known),
        problem_type="multi_label_classification" if cell.is_multi_label else "single_label_classification",
        dtype="float32",
    )

    def tokens(texts: list[str]) -> list[dict[str, Any]]:
        encoded = tokenizer(texts, truncation=True, max_length=cell.max_length)
        return [{name: values[index] for name, values in encoded.items()} for index in range(len(texts))]

    whole = cell.targets()
    targets = whole[:, known].astype(np.float32) if cell.is_multi_label else np.searchsorted(known, whole)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), seed=cell.seed, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True
    )
    rows = [{**one, "labels": target} for one, target in zip(tokens(cell.train_texts), targets, strict=True)]
    num_held_out = len(rows) // HELD_OUT if cell.is_multi_label else 0
    made = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows[num_held_out:],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    made.train()
    outputs = expit(made.predict(tokens(cell.test_texts)).predictions)  # type: ignore[arg-type]  # a list will do
    cut = 0.5
    if num_held_out:
        held_out = made.predict(rows[:num_held_out]).predictions  # type: ignore[arg-type]
        cut = common_threshold(targets[:num_held_out], expit(held_out))
    return {"answers": cell.answers(outputs, known, cut)}  # the order of classes is that of their logits


def tfidf(cell: Cell, folder: Path) -> dict[str, Targets]:
    """Fit the linear model over words that stands in every run's report as a baseline."""
    from nlpbp.tasks.baselines import tfidf_baseline

    texts, targets = np.array(cell.train_texts, dtype=object), cell.targets()

    def fit(train: Floats, others: Sequence[str]) -> Floats:
        (outputs,) = tfidf_baseline(
            cell.task, list(texts[train]), targets[train], [others], num_labels=len(cell.labels), seed=cell.seed
        )
        return outputs

    cut = chosen_cut(cell, lambda train, held_out: fit(train, list(texts[held_out]))) if cell.is_multi_label else 0.5
    return {"answers": cell.answers(fit(np.arange(len(texts)), cell.test_texts), cut=cut)}


def chosen_cut(cell: Cell, fit: Callable[[Floats, Floats], Floats]) -> float:
    """Choose the cut of several labels by cross-validation: `fit` answers for held-out rows what it learns from others."""
    from sklearn.model_selection import KFold

    targets = cell.targets()
    outputs = np.zeros(targets.shape)
    for train, held_out in KFold(min(FOLDS, len(targets)), shuffle=True, random_state=cell.seed).split(targets):
        outputs[held_out] = fit(train, held_out)
    return common_threshold(targets, outputs)


def probe(cell: Cell, folder: Path) -> dict[str, Targets]:
    """Fit scikit-learn's logistic regression over the mean of the frozen model's states; its strength is cross-validated."""
    import torch
    from sklearn.base import clone

    from nlpbp.benchmarks.transfer import mean_features

    torch.set_num_threads(cell.threads)
    train, test = (
        mean_features(texts, model_folder(cell), max_length=cell.max_length) for texts in (cell.train_texts, cell.test_texts)
    )
    targets = cell.targets()
    fitted = fit_probe(train, targets, seed=cell.seed)
    if not cell.is_multi_label:
        return {"answers": [[int(answer)] for answer in fitted.predict(test)]}

    def fit(rows: Floats, held_out: Floats) -> Floats:
        return np.asarray(clone(fitted).fit(train[rows], targets[rows]).predict_proba(train[held_out]))

    return {"answers": cell.answers(fitted.predict_proba(test), cut=chosen_cut(cell, fit))}


def fit_probe(train: Floats, targets: Floats, *, seed: int) -> Any:
    """Fit a logistic regression: targets are class ids [m], or zeros and ones [m, labels].

    Its strength is chosen by cross-validation, with as many folds as the rarest class has examples, 5 at most; where a class has
    one example only, it is scikit-learn's default.

    >>> train = np.array([[0.0], [0.1], [0.9], [1.0]])
    >>> fit_probe(train, np.array([0, 0, 1, 1]), seed=0).predict(np.array([[0.2], [0.8]])).tolist()
    [0, 1]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
    from sklearn.multiclass import OneVsRestClassifier

    one = LogisticRegression(max_iter=2000)
    if targets.ndim == 2:
        folds = KFold(min(FOLDS, len(targets)), shuffle=True, random_state=seed)
        search = GridSearchCV(OneVsRestClassifier(one), {"estimator__C": STRENGTHS}, cv=folds, scoring="f1_micro")
        return search.fit(train, targets).best_estimator_
    num_folds = min(FOLDS, int(np.bincount(targets)[np.unique(targets)].min()))
    if num_folds < 2:
        return one.fit(train, targets)
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    search = GridSearchCV(one, {"C": STRENGTHS}, cv=folds, scoring="neg_log_loss")
    return search.fit(train, targets).best_estimator_


def model_folder(cell: Cell) -> str:
    """Return the folder of the cell's model."""
    from nlpbp.modalities.pretrained import model_path

    return str(model_path(cell.model))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
