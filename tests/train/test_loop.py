from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from nlpbp.core.batch import Batch
from nlpbp.core.errors import NumericError
from nlpbp.core.groups import layer_groups, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import linear
from nlpbp.tasks import classifier_loss
from nlpbp.train.loop import Step, train_steps

ACCELERATOR = Accelerator(cpu=True)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


def make_model(*, dropout: float = 0.0) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(**SMALL, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, attn_implementation="eager")
    return BertForSequenceClassification(config)


def make_batch(ids: Sequence[int]) -> Batch:
    """Make examples of different lengths, each a function of its id."""
    rows = [[1 + (i * 7 + position * 3) % 19 for position in range(3 + i % 5)] for i in ids]
    longest = max(map(len, rows))
    inputs = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([i % 2 for i in ids])
    return Batch({"input_ids": inputs, "attention_mask": (inputs > 0).long()}, labels, torch.tensor(ids))


def train(
    steps: list[list[list[int]]], *, dropout: float = 0.0, seed: int = 0, smoothing: float = 0.1, clip: float | None = 1.0
) -> tuple[nn.Module, list[Step]]:
    model = make_model(dropout=dropout)
    optimizer = adamw(parameter_groups(layer_groups(model), lr=1e-2))
    made = train_steps(
        model,
        [[make_batch(ids) for ids in step] for step in steps],
        optimizer,
        accelerator=ACCELERATOR,
        loss_fn=classifier_loss(task="single_label", label_smoothing=smoothing),
        schedule=linear(),
        total_steps=len(steps),
        max_grad_norm=clip,
        seed=seed,
    )
    return model, list(made)


def distance(a: nn.Module, b: nn.Module) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters(), strict=True))


def deal(ids: list[int], num: int) -> list[list[int]]:
    return [ids[index::num] for index in range(num)]


@pytest.mark.parametrize("num", [2, 4])
def test_accumulation_makes_the_gradient_of_one_big_batch_with_ragged_windows_and_smoothing(num: int) -> None:
    sizes = [8, 8, 7, 5]  # the last windows do not divide evenly
    steps = [list(range(10 * s, 10 * s + size)) for s, size in enumerate(sizes)]
    whole, whole_steps = train([[ids] for ids in steps])
    parts, part_steps = train([deal(ids, num) for ids in steps])
    assert distance(whole, parts) < 1e-6
    assert [step.loss for step in part_steps] == pytest.approx([step.loss for step in whole_steps], abs=1e-6)
    assert [step.num_items for step in part_steps] == sizes


def test_the_mean_of_micro_batch_means_would_be_another_gradient() -> None:
    uneven = [[[0, 2, 4, 6, 8, 1], [3]]] * 3
    even = [[[0, 2, 4, 6], [8, 1, 3]]] * 3
    assert distance(train(uneven)[0], train(even)[0]) < 1e-6
    assert distance(train([[[0, 2, 4, 6, 8, 1, 3, 3, 3]]] * 3)[0], train(even)[0]) > 1e-4


def test_randomness_is_a_function_of_seed_step_and_micro_batch() -> None:
    steps = [deal(list(range(8)), 2)] * 3
    first, _ = train(steps, dropout=0.3)
    torch.manual_seed(99)  # whatever else has drawn random numbers before
    assert distance(first, train(steps, dropout=0.3)[0]) == 0.0
    assert distance(first, train(steps, dropout=0.3, seed=1)[0]) > 0.0


def test_the_rate_follows_the_schedule_at_the_middle_of_each_step() -> None:
    _, steps = train([[[0, 1]]] * 4)
    assert [step.lr for step in steps] == pytest.approx([1e-2 * (1 - (i + 0.5) / 4) for i in range(4)])
    assert [step.step for step in steps] == [1, 2, 3, 4]


def test_clipping_bounds_the_norm_and_is_reported() -> None:
    _, free = train([[[0, 1, 2, 3]]] * 2, clip=None)
    assert not any(step.clipped for step in free)
    bound = free[0].grad_norm / 2
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = copy.deepcopy(model)
    loss_fn = classifier_loss(task="single_label", label_smoothing=0.1)
    options = {"accelerator": ACCELERATOR, "loss_fn": loss_fn, "total_steps": 1, "schedule": lambda progress: 1.0}
    (step,) = train_steps(model, [[make_batch([0, 1, 2, 3])]], optimizer, max_grad_norm=bound, **options)
    assert step.clipped
    assert step.grad_norm == pytest.approx(free[0].grad_norm, rel=1e-5)
    moved = torch.cat([(x - y).flatten() for x, y in zip(model.parameters(), before.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(bound, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_moves_and_names_the_examples() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Batch) -> torch.Tensor:
        logits = model(**batch.inputs).logits
        return logits.sum() * float("nan") if 5 in batch.ids else logits.square().mean()

    batches = [[make_batch([0, 1])], [make_batch([2, 3]), make_batch([5, 4])]]
    options = {"accelerator": ACCELERATOR, "loss_fn": loss_fn, "total_steps": 2, "schedule": lambda progress: 1.0}
    steps = train_steps(model, batches, optimizer, **options)
    next(steps)
    before = copy.deepcopy(model)
    with pytest.raises(NumericError, match=r"step 2 \(norm nan, rate .*\); examples \[4, 5\]") as error:
        next(steps)
    assert error.value.code == 5
    assert distance(model, before) == 0.0


def test_a_gradient_that_is_not_finite_stops_and_names_the_parameter() -> None:
    model = make_model()
    model.classifier.weight.register_hook(lambda grad: grad * float("inf"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"accelerator": ACCELERATOR, "loss_fn": classifier_loss(task="single_label"), "total_steps": 1}
    with pytest.raises(NumericError, match=r"classifier\.weight"):
        list(train_steps(model, [[make_batch([0, 1])]], optimizer, schedule=linear(), **options))


def test_frozen_layers_keep_their_weights_and_their_dropout_off() -> None:
    model = make_model(dropout=0.5)
    model.bert.requires_grad_(False)
    before = copy.deepcopy(model)
    seen = []
    model.bert.embeddings.dropout.register_forward_hook(lambda module, args, output: seen.append(torch.equal(args[0], output)))
    optimizer = adamw(parameter_groups(layer_groups(model), lr=1e-2))
    options = {"accelerator": ACCELERATOR, "loss_fn": classifier_loss(task="single_label"), "total_steps": 3}
    list(train_steps(model, [[make_batch([0, 1, 2])]] * 3, optimizer, schedule=linear(), **options))
    assert distance(model.bert, before.bert) == 0.0
    assert distance(model.classifier, before.classifier) > 0.0
    assert model.bert.encoder.training is False
    assert seen == [True] * 3


def test_break_is_early_stopping() -> None:
    model = make_model()
    optimizer = adamw(parameter_groups(layer_groups(model), lr=1e-2))
    options = {"accelerator": ACCELERATOR, "loss_fn": classifier_loss(task="single_label"), "total_steps": 9}
    for step in train_steps(model, [[make_batch([0, 1])]] * 9, optimizer, schedule=linear(), **options):
        if step.step == 2:
            break
    assert optimizer.state_dict()["state"][0]["step"] == 2
