"""Other wordings keep what the label hangs on, are a function of the seed, and reach the training texts alone."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nlpbp.config.optim import Stage
from nlpbp.config.run import Checkpoints
from nlpbp.core.batch import Batch
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.order import training_plan
from nlpbp.data.parts import load_inputs
from nlpbp.data.tiny import tiny_reviews
from nlpbp.modalities.pretrained import model_path
from nlpbp.runs import fit
from nlpbp.tasks import classifier_loss
from nlpbp.tasks.baselines import tfidf_baseline
from nlpbp.text import augment as augmenting
from nlpbp.text.augment import (
    NEGATIONS,
    POLICIES,
    Augment,
    augment_text,
    augmented_steps,
    check_label_preserving,
    read_synonyms,
    replace_synonyms,
)
from nlpbp.text.batches import encode
from nlpbp.text.mixup import mixup_loss
from nlpbp.text.transformer import load_tokenizer
from recipes import gru_classifier, transformer_sentiment

TEXTS = [
    "This was not good, and I never laughed. The plot isn't bad though! Nobody cried.",
    "[price] 12.5 [price missing] [title] Seven Samurai are not many [body] It is a long film about 7 men.",
    "it does n't work without the excellent score , but hardly anyone minds",
]
PROTECTED = NEGATIONS | {"excellent"}


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_what_is_protected_is_never_touched(policy: Any, share: float) -> None:
    synonyms = {"good": ["fine"], "not": ["surely"], "film": ["movie"], "excellent": ["awful"]}
    augment = Augment(POLICIES[policy], share=share, protected=PROTECTED, synonyms=synonyms, mask="[MASK]")
    changed = 0
    for text in TEXTS:
        words = text.split()
        held = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if augmenting._bare(word) in PROTECTED
            or "n't" in word
            or word[0].isdigit()
            or "[" in word
            or "]" in word
            or augmenting._is_negation(before)
        ]
        for seed in range(200):
            other = augment_text(text, augment=augment, seed=seed)
            assert Counter(held) - Counter(other.split()) == Counter()
            changed += other != text
    assert changed > 300


def test_a_share_of_0_is_the_text_itself_and_a_seed_one_wording() -> None:
    text = "two  spaces stay\nand  lines"
    augment = Augment(POLICIES["topic"], share=0.3)
    assert augment_text(text, augment=dataclasses.replace(augment, share=0.0), seed=1) is text
    assert augment_text("", augment=augment, seed=1) == ""
    wordings = {augment_text(TEXTS[0], augment=augment, seed=seed) for seed in range(50)}
    assert len(wordings) > 20
    assert wordings == {augment_text(TEXTS[0], augment=augment, seed=seed) for seed in range(50)}


def test_synonyms_come_from_the_users_file(tmp_path: Path) -> None:
    file = tmp_path / "synonyms.txt"
    file.write_text("Film\tmovie\tpicture\n\nfilm\tfeature\n")
    synonyms = read_synonyms(file)
    assert synonyms == {"film": ["movie", "picture", "feature"]}
    augment = Augment((replace_synonyms,), synonyms=synonyms)
    made = {augment_text('a "Film", they said', augment=augment, seed=seed) for seed in range(30)}
    assert made == {f'a "{word}", they said' for word in ("Movie", "Picture", "Feature")}
    file.write_text("film\tmovie\nalone\n")
    with pytest.raises(DataError) as error:
        read_synonyms(file)
    assert error.value.row == 2


def drop_negations(words: list[str], free: list[int], rng: random.Random, augment: Augment) -> list[str]:
    return [word for word in words if word != "not"]


def test_a_policy_that_drops_not_hurts_and_the_one_for_sentiment_does_not() -> None:
    rng = random.Random(0)

    def sentence() -> tuple[str, int]:
        is_good, is_negated = rng.random() < 0.5, rng.random() < 0.5
        word = rng.choice(["good", "fine", "great"] if is_good else ["bad", "weak", "poor"])
        subject, end = rng.choice(["the film", "this plot", "her voice"]), rng.choice(["at all", "i think", "for me"])
        return f"{subject} was {'not ' if is_negated else ''}{word} {end}", int(is_good != is_negated)

    made = [sentence() for _ in range(500)]
    texts, targets = [text for text, _ in made], np.array([label for _, label in made])

    def accuracy(augment: Augment | None) -> float:
        copies = texts[:100]
        if augment is not None:
            copies += [augment_text(text, augment=augment, seed=seed) for seed in range(3) for text in texts[:100]]
        (outputs,) = tfidf_baseline("single_label", copies, np.tile(targets[:100], len(copies) // 100), [texts[100:]], num_labels=2)
        return float((outputs.argmax(1) == targets[100:]).mean())

    plain, right, wrong = (accuracy(a) for a in (None, Augment(POLICIES["sentiment"], share=0.2), Augment((drop_negations,))))
    assert wrong < plain - 0.05
    assert right > plain - 0.05

    def classify(asked: list[str]) -> list[int]:
        return [int(("not" in text.split()) != any(w in text for w in ("good", "fine", "great"))) for text in asked]

    dropped = check_label_preserving(
        texts, targets.tolist(), lambda text: augment_text(text, augment=Augment((drop_negations,)), seed=0), classify=classify
    )
    assert (dropped.num_checked, dropped.share) == (500, pytest.approx(np.mean(["not" in text for text in texts])))
    swapped = Augment((augmenting.swap_words, augmenting.change_case))
    kept = check_label_preserving(
        texts, targets.tolist(), lambda text: augment_text(text, augment=swapped, seed=0).lower(), classify=classify
    )
    assert kept.flipped == ()


def words_of(steps: Any, tokenizer: Any) -> list[dict[int, str]]:
    """Return for each step the text of each example in it."""
    return [
        {
            int(i): tokenizer.decode(row[row != tokenizer.pad_token_id])
            for batch in step
            for i, row in zip(batch.ids, batch.inputs["input_ids"], strict=True)
        }
        for step in steps
    ]


def test_a_draw_is_of_the_step_and_the_example_however_a_step_is_cut_and_wherever_it_begins() -> None:
    texts = tiny_reviews(num_examples=40).columns["text"]
    tokenizer = load_tokenizer(model_path("tiny:bert"))
    encoded = encode(texts, tokenizer=tokenizer, max_length=12)

    def steps(num: int, first_step: int = 0, seed: int = 0) -> list[dict[int, str]]:
        plan = training_plan(
            encoded.padded_lengths, size=8, num_micro_batches=num, min_size=2, epochs=2, seed=0, first_step=first_step
        )
        augment = Augment(POLICIES["sentiment"], share=0.3)
        made = list(
            augmented_steps(
                plan,
                texts,
                augment=augment,
                tokenizer=tokenizer,
                max_length=12,
                labels=np.arange(40),
                seed=seed,
                first_step=first_step,
            )
        )
        assert all(torch.equal(batch.ids, batch.labels) and batch.inputs["input_ids"].shape[1] <= 12 for s in made for batch in s)
        return words_of(made, tokenizer)

    whole = steps(1)
    assert whole == steps(2)
    assert whole[3:] == steps(1, first_step=3)
    assert whole != steps(1, seed=1)
    half = len(whole) // 2
    first, second = ({i: text for step in part for i, text in step.items()} for part in (whole[:half], whole[half:]))
    assert sum(first[i] != second[i] for i in range(40)) > 20


class Killed(BaseException):
    pass


def train(out: Path, **changes: Any) -> dict[str, torch.Tensor]:
    config = transformer_sentiment.tiny()
    augment = dataclasses.replace(config.augment, policy="sentiment", share=0.3, mixup=0.3)
    config = dataclasses.replace(config, out=str(out), threads=1, precision="fp32", epochs=2, augment=augment)
    transformer_sentiment.run(dataclasses.replace(config, checkpoint=Checkpoints(save_steps=3), **changes))
    return load_file(out / "model" / "model.safetensors")


def test_a_killed_run_draws_on_and_only_training_texts_are_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = set(), augmenting.augment_text

    def watched(text: str, **options: Any) -> str:
        seen.add(text)
        return original(text, **options)

    monkeypatch.setattr(augmenting, "augment_text", watched)
    whole = train(tmp_path / "whole")
    inputs = load_inputs(transformer_sentiment.tiny().data)
    assert seen == set(inputs.train.examples.texts)
    log = fit.log

    def killing(accelerator: Any, path: Path, record: Any) -> None:
        log(accelerator, path, record)
        if record["step"] == 17 and "split" not in record:
            raise Killed

    monkeypatch.setattr(fit, "log", killing)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    monkeypatch.setattr(fit, "log", log)
    resumed = train(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = train(tmp_path / "plain", augment=transformer_sentiment.tiny().augment)
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)


def test_mixup_mixes_embeddings_and_losses_by_the_generator_of_the_micro_batch() -> None:
    class Toy(torch.nn.Module):
        """Its logits are the sum of its words' rows, so they mix as the rows do."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 3)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embedding

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            self.mask = attention_mask
            return SimpleNamespace(logits=(self.embedding(input_ids) * attention_mask[..., None]).sum(dim=1))

    model = Toy()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    batch = Batch(
        {"input_ids": torch.tensor([[1, 2, 0], [3, 4, 1], [2, 0, 0]]), "attention_mask": mask}, torch.arange(3), torch.arange(3)
    )
    plain = classifier_loss(task="single_label")
    mixed = mixup_loss(plain, alpha=0.4)
    torch.manual_seed(3)
    loss = mixed(model, batch)
    torch.manual_seed(3)
    assert torch.equal(loss, mixed(model, batch))
    torch.manual_seed(3)
    share, order = float(torch.distributions.Beta(0.4, 0.4).sample()), torch.randperm(3)
    assert torch.equal(model.mask, torch.maximum(mask, mask[order]))
    rows = model.embedding(batch.inputs["input_ids"])
    logits = ((share * rows + (1 - share) * rows[order]) * model.mask[..., None]).sum(dim=1)
    log_probabilities = logits.log_softmax(-1)
    by_hand = -(share * log_probabilities[range(3), range(3)] + (1 - share) * log_probabilities[range(3), order]).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert not order.equal(torch.arange(3)) and 0.01 < share < 0.99
    assert not model.embedding._forward_hooks


def test_what_would_have_no_effect_or_a_wrong_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a policy") as error:
        train(tmp_path / "a", augment=dataclasses.replace(transformer_sentiment.tiny().augment, protect=("warm",)))
    assert error.value.column == "augment.protect"
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "b", stages=(Stage(train_last=1, cache_frozen=True),))
    assert error.value.column == "stages.cache_frozen"
    recurrent = gru_classifier.tiny()
    augment = dataclasses.replace(recurrent.augment, mixup=0.2)
    with pytest.raises(ConfigError, match="transformers") as error:
        gru_classifier.run(dataclasses.replace(recurrent, augment=augment, out=str(tmp_path / "c"), threads=1))
    assert error.value.column == "augment.mixup"
