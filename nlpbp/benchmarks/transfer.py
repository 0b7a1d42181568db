"""The benchmark `transfer`: what a language model of unlabelled reviews is worth to a classifier that has few labels.

One AWD-LSTM language model reads the reviews without their labels, for a number of steps that is fixed beforehand. Then classifiers
learn from a few hundred labelled reviews: on top of it, the same net from scratch, tf-idf with logistic regression, and logistic
regression over a frozen pretrained transformer. All are tested on the same reviews, which no model has read before.

A benchmark that was stopped goes on: what its --out file holds already is not done again.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegressionCV
from transformers import AutoModel

from nlpbp import config as sections
from nlpbp.benchmarks.workers import Record, cpu_name, say, write_json
from nlpbp.data.order import evaluation_batches
from nlpbp.data.packaged import packaged_model
from nlpbp.data.parts import load_inputs
from nlpbp.tasks.baselines import tfidf_baseline
from nlpbp.text.batches import collate, encode
from nlpbp.text.transformer import load_tokenizer
from nlpbp.train.setup import precision_of, start
from recipes import lm_awd_lstm, ulmfit

METHODS = {
    "with_lm": "AWD-LSTM classifier on the language model",
    "without_lm": "the same classifier from scratch",
    "tfidf": "tf-idf and logistic regression",
    "frozen_minilm": "frozen MiniLM and logistic regression",
}
MINILM_LENGTH = 256  # tokens: what it was made for
EVALUATION_TOKENS = 8192
LM_SAMPLED = 1024
MANY = 1000  # labels; with fewer the steps are smaller, and there are more epochs of them


def training_for(budget: int) -> tuple[tuple[sections.Stage, ...], sections.Batch]:
    """Return stages and batch for so many labels, as they did best on reviews of the training set that were held out for it."""
    if budget < MANY:
        return (sections.Stage(epochs=10, lr=5e-3),), sections.Batch(size=16)
    return (sections.Stage(epochs=1, lr=1e-2, train_last=1), sections.Stage(epochs=4, lr=5e-3)), sections.Batch(size=32)


@dataclass(frozen=True)
class Settings:
    """What is compared, and on how much."""

    budgets: tuple[int, ...] = (500, 2000)
    lm_steps: int = 2200
    num_test: int = 5000
    model: Literal["tiny", "small"] = "small"
    max_length: int = 400
    vocab_size: int = 16_000

    @staticmethod
    def short() -> Settings:
        """A few steps on tiny data: tries the path, measures nothing."""
        return Settings(budgets=(40, 80), lm_steps=3, num_test=48, model="tiny", max_length=32, vocab_size=400)


@dataclass(frozen=True)
class Reviews:
    """Texts with their labels 0 and 1."""

    texts: list[str]
    targets: np.ndarray[Any, Any]

    def rows(self) -> list[dict[str, Any]]:
        """Return them as a recipe takes data in memory."""
        return [{"text": text, "label": str(target)} for text, target in zip(self.texts, self.targets, strict=True)]


def run(out: Path, *, num_seeds: int, short: bool) -> None:
    """Measure every method on every budget and seed; write `out` after each of them."""
    settings = Settings.short() if short else Settings()
    train, test, validation = split(settings, short=short)
    record = begin(out, settings)
    language_model = out.with_name(f"{out.stem}_language_model")
    make_language_model(language_model, train, validation, settings, record)
    write_json(out, record)
    features: dict[str, Any] = {}
    for seed in range(num_seeds):
        for budget in settings.budgets:
            for method in METHODS:
                if any((r["method"], r["budget"], r["seed"]) == (method, budget, seed) for r in record["runs"]):
                    continue
                labelled = draw(train, budget, seed=seed)
                started = time.monotonic()
                accuracy = measure(method, labelled, test, settings, language_model=language_model, seed=seed, features=features)
                seconds = round(time.monotonic() - started, 1)
                run = {"method": method, "budget": budget, "seed": seed, "accuracy": accuracy, "seconds": seconds}
                record["runs"].append(run)
                record["summary"] = summary(record["runs"])
                write_json(out, record)
                say(f"{budget:,} labels, seed {seed}, {METHODS[method]}: accuracy {accuracy:.4f} ({seconds:.0f} s)")
    say("\n".join(in_words(record["summary"])))
    say(f"everything measured is in {out}" + ("; it was --short, so these numbers mean nothing" if short else ""))


def split(settings: Settings, *, short: bool) -> tuple[Reviews, Reviews, Reviews]:
    """Cut the packaged reviews into those to train on, to test on, and to validate the language model by; none stands in two."""
    source = "tiny:reviews" if short else "demo:imdb"
    share = settings.num_test / (240 if short else 25_000)
    data = sections.Data(train=source, test_share=share, validation_share=0.1 if short else 0.02)
    inputs = load_inputs(data)
    parts = {"train": inputs.train, **inputs.scored}
    made = {name: Reviews(part.examples.texts, np.asarray(part.examples.targets)) for name, part in parts.items()}
    return made["train"], made["test"], made["validation"]


def begin(out: Path, settings: Settings) -> Record:
    """Return what `out` holds of a benchmark of these settings, or a new record."""
    accelerator = start(seed=0)
    machine = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "precision": precision_of(accelerator),
        "torch": torch.__version__,
    }
    wanted = json.loads(json.dumps({**vars(settings)}))
    if out.exists():
        found: Record = json.loads(out.read_text(encoding="utf-8"))
        if found.get("settings") == wanted:
            return found
        raise ValueError(f"{out} holds a benchmark of other settings; name another file")
    return {"summary": {}, "machine": machine, "settings": wanted, "language_model": {}, "runs": []}


def make_language_model(folder: Path, train: Reviews, validation: Reviews, settings: Settings, record: Record) -> None:
    """Train the language model into `folder`, or finish it; the reviews' labels are not looked at."""
    if (folder / "result.json").exists():
        return
    lm = replace(sections.LanguageModel(), steps=settings.lm_steps, sampled_softmax=LM_SAMPLED)
    if settings.model == "tiny":
        lm = replace(lm, batch_size=8, bptt=12, sampled_softmax=None)
    config = lm_awd_lstm.Config(
        data=sections.Texts(train={"text": train.texts}, validation={"text": validation.texts}, test_share=0.0),  # type: ignore[arg-type]
        model=sections.Recurrent(size=settings.model),
        tokenizer=sections.Tokenizer(vocab_size=settings.vocab_size),
        lm=lm,
        out=str(folder),
    )
    result = lm_awd_lstm.run(config)
    record["language_model"] = {
        "validation": result.metrics["validation"],
        "unigram": result.baselines["unigram"]["validation"],
        "seconds": result.train_seconds,
        "tokens_per_second": result.samples_per_second,
    }


def draw(train: Reviews, budget: int, *, seed: int) -> Reviews:
    """Draw so many labelled reviews, half of each label."""
    rng = random.Random(seed)
    ids = [i for label in (0, 1) for i in rng.sample(np.flatnonzero(train.targets == label).tolist(), budget // 2)]
    return Reviews([train.texts[i] for i in ids], train.targets[ids])


def measure(
    method: str,
    labelled: Reviews,
    test: Reviews,
    settings: Settings,
    *,
    language_model: Path,
    seed: int,
    features: dict[str, Any],
) -> float:
    """Train a method on the labelled reviews and return its accuracy on the test reviews."""
    if method == "tfidf":
        (outputs,) = tfidf_baseline("single_label", labelled.texts, labelled.targets, [test.texts], num_labels=2, seed=seed)
        return accuracy_of(outputs.argmax(axis=1), test)
    if method == "frozen_minilm":
        if "test" not in features:
            features["test"] = minilm_features(test.texts)
        return accuracy_of(probe(minilm_features(labelled.texts), labelled.targets, features["test"], seed=seed), test)
    base = ulmfit.tiny() if settings.model == "tiny" else ulmfit.Config()
    if method == "with_lm":
        stages, batch = training_for(len(labelled.texts))
        base = replace(base, stages=stages, batch=batch)
    with tempfile.TemporaryDirectory(prefix="nlpbp-benchmark-") as folder:
        config = replace(
            base,
            data=sections.Data(train=labelled.rows(), test=test.rows(), max_length=settings.max_length),  # type: ignore[arg-type]
            model=sections.Recurrent(size=settings.model),
            tokenizer=sections.Tokenizer(vocab_size=settings.vocab_size),
            lm=ulmfit.Transfer(init=str(language_model), steps=0) if method == "with_lm" else ulmfit.Transfer(skip=True),
            out=f"{folder}/run",
            seed=seed,
        )
        accuracy = ulmfit.run(config).metrics["test"]["accuracy"]
    assert accuracy is not None, "both labels are among the test reviews"
    return accuracy


def accuracy_of(answers: np.ndarray[Any, Any], test: Reviews) -> float:
    """Return the share of right answers."""
    return float((answers == test.targets).mean())


def minilm_features(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the packaged encoder's mean over tokens, [n, 384], as it was made to be used."""
    return mean_features(texts, str(packaged_model()), max_length=MINILM_LENGTH)


def mean_features(texts: Sequence[str], folder: str, *, max_length: int) -> np.ndarray[Any, Any]:
    """Return the mean over tokens of a pretrained encoder's last states, [n, width]."""
    tokenizer, model = load_tokenizer(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = encode(texts, tokenizer=tokenizer, max_length=max_length)
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for ids in evaluation_batches(encoded.padded_lengths, max_tokens=EVALUATION_TOKENS):
        inputs = collate(encoded, ids, tokenizer=tokenizer).inputs
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        vectors[ids] = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).numpy()
    return vectors


def probe(
    train: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], test: np.ndarray[Any, Any], *, seed: int
) -> np.ndarray[Any, Any]:
    """Fit logistic regression, its strength chosen by five-fold cross-validation, and answer for the test set."""
    model = LogisticRegressionCV(
        Cs=8, cv=5, max_iter=500, random_state=seed, l1_ratios=(0,), use_legacy_attributes=False, scoring="neg_log_loss"
    )
    answered: np.ndarray[Any, Any] = model.fit(train, targets).predict(test)
    return answered


def summary(runs: Sequence[Record]) -> Record:
    """Return by budget each method's mean accuracy, and what the language model's method is ahead of it, paired by seed."""
    made: Record = {}
    for budget in sorted({run["budget"] for run in runs}):
        by_method = {
            method: {run["seed"]: run["accuracy"] for run in runs if (run["budget"], run["method"]) == (budget, method)}
            for method in METHODS
        }
        made[str(budget)] = {
            method: {
                **described(list(by_seed.values())),
                "behind_with_lm": described([by_method["with_lm"][seed] - value for seed, value in by_seed.items()]),
            }
            for method, by_seed in by_method.items()
            if by_seed
        }
    return made


def described(values: Sequence[float]) -> Record:
    """Return mean, 95 % interval and number."""
    return {"mean": statistics.mean(values), "interval": interval(values), "seeds": len(values)}


def interval(values: Sequence[float]) -> list[float] | None:
    """Return the 95 % interval of a mean by Student's t.

    >>> [round(bound, 3) for bound in interval([0.8, 0.82, 0.84])]
    [0.77, 0.87]
    """
    if len(values) < 2:
        return None
    mean, half = statistics.mean(values), stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return [float(mean - half), float(mean + half)]


def in_words(found: Record) -> list[str]:
    """Say each mean in a line."""
    lines = []
    for budget, methods in found.items():
        for method, values in methods.items():
            line = f"{int(budget):,} labels, {METHODS[method]}: accuracy {_shown(values)} over {values['seeds']} seeds"
            lines.append(
                line if method == "with_lm" else f"{line}; the language model is ahead by {_shown(values['behind_with_lm'])}"
            )
    return lines


def _shown(values: Record) -> str:
    low_high = values["interval"]
    return f"{values['mean']:.3f}" + (f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else "")
