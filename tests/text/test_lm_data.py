"""The stream of a language model: every token once, rows that go on, whoever reads them and wherever they are taken up again."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from nlpbp.core.batch import Batch
from nlpbp.text.batches import Encoded
from nlpbp.text.lm_data import (
    CarriedState,
    StreamShape,
    count_targets,
    evaluation_blocks,
    num_windows,
    stream_windows,
    window_bounds,
)


def corpus(*lengths: int) -> Encoded:
    """Make documents of these lengths in which no token stands twice."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(np.arange(offsets[-1], dtype=np.int32), offsets, None, np.array([]), np.array([]))


CORPUS = corpus(5, 1, 30, 12, 7, 2)


def windows(encoded: Encoded = CORPUS, **changes: Any) -> list[list[Batch]]:
    shape = {"num_rows": 4, "window": 5, "pad": 0}
    names = {field.name for field in dataclasses.fields(StreamShape)}
    shape |= {name: value for name, value in changes.items() if name in names}
    options = {"num_micro_batches": 1, "total_steps": 9, "seed": 0}
    options |= {name: value for name, value in changes.items() if name not in names}
    return list(stream_windows(encoded, StreamShape(**shape), **options))


@pytest.mark.parametrize("num_rows", [1, 3, 4, 56])
@pytest.mark.parametrize("window", [1, 5, 100])
@pytest.mark.parametrize("random_windows", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_token_but_the_first_is_predicted_once_an_epoch(
    num_rows: int, window: int, random_windows: bool, world_size: int
) -> None:
    steps = num_windows(len(CORPUS.tokens), num_rows=num_rows, window=window)
    targets: list[int] = []
    count = 0
    for rank in range(world_size):
        for step in windows(
            num_rows=num_rows,
            window=window,
            num_micro_batches=2 if num_rows > 1 else 1,
            total_steps=steps,
            random_windows=random_windows,
            rank=rank,
            world_size=world_size if num_rows > 1 else 1,
        ):
            for batch in step:
                labels = batch.inputs["shift_labels"]
                targets += labels[labels != -100].tolist()
                count += count_targets(batch)
        if num_rows == 1:
            break
    first = set(range(57)) - set(targets)
    assert (len(targets), count, len(first)) == (56, 56, 1)
    assert len(set(targets)) == 56


def test_the_input_after_a_token_is_what_was_to_be_predicted_and_rows_go_on() -> None:
    steps = windows(total_steps=3)
    rows = torch.cat([step[0].inputs["input_ids"] for step in steps], dim=1)
    labels = torch.cat([step[0].inputs["shift_labels"] for step in steps], dim=1)
    inside = labels[:, :-1] != -100
    assert torch.equal(rows[:, 1:][inside[:, :]][:-1], labels[:, :-1][inside][:-1])


def test_documents_are_shuffled_each_epoch_and_stay_whole() -> None:
    def order(epoch: int) -> list[int]:
        steps = windows(num_rows=1, window=100, total_steps=2)
        return steps[epoch][0].inputs["input_ids"][0].tolist()

    assert order(0) != order(1)
    text = " ".join(map(str, order(0)))
    assert " ".join(map(str, range(6, 36))) in text or order(0)[-1] in range(6, 36)


def test_going_on_at_any_step_gives_the_same_windows() -> None:
    whole = windows(random_windows=True)
    for first in range(9):
        rest = windows(random_windows=True, first_step=first)
        for a, b in zip(whole[first:], rest, strict=True):
            assert torch.equal(a[0].inputs["input_ids"], b[0].inputs["input_ids"])


def test_two_processes_have_the_rows_of_one() -> None:
    one = windows(num_micro_batches=2)
    two = [windows(num_micro_batches=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step, parts in enumerate(zip(*two, strict=True)):
        for mine, (theirs,) in zip(one[step], parts, strict=True):
            assert torch.equal(mine.ids, theirs.ids)
            assert torch.equal(mine.inputs["input_ids"], theirs.inputs["input_ids"])


def test_windows_of_random_length_are_as_many_and_about_as_long() -> None:
    bounds = window_bounds(7000, window=70, seed=0)
    lengths = np.diff(bounds)
    assert (len(lengths), bounds[0], bounds[-1]) == (100, 0, 7000)
    assert len(set(lengths.tolist())) > 10
    assert 30 <= np.median(lengths[lengths < 55]) <= 45  # the halves
    assert np.array_equal(bounds, window_bounds(7000, window=70, seed=0))
    assert not np.array_equal(bounds, window_bounds(7000, window=70, seed=0, epoch=1))


def test_backwards_is_the_stream_from_its_end() -> None:
    forwards = windows(num_rows=1, window=100, total_steps=1)[0][0].inputs
    backwards = windows(num_rows=1, window=100, total_steps=1, backwards=True)[0][0].inputs
    assert torch.equal(backwards["input_ids"].flip(1), forwards["shift_labels"])


def test_evaluation_reads_every_token_once_in_the_order_of_the_file() -> None:
    blocks = evaluation_blocks(CORPUS, StreamShape(4, 5, pad=0), num_blocks=3)
    labels = torch.cat([batch.inputs["shift_labels"].flatten() for block in blocks for batch in block])
    assert sorted(labels[labels != -100].tolist()) == list(range(1, 57))
    assert len(evaluation_blocks(corpus(3), StreamShape(64, 5, pad=0), num_blocks=8)) == 2  # fewer tokens than rows


def test_a_corpus_too_short_for_its_rows_is_an_error_and_one_shorter_than_a_window_is_one_window() -> None:
    with pytest.raises(ValueError, match="a corpus of 4 tokens cannot fill 4 rows"):
        windows(corpus(4))
    assert [step[0].inputs["input_ids"].shape for step in windows(corpus(9), total_steps=2)] == [(4, 2), (4, 2)]


def test_a_state_counts_once_its_step_is_done_and_goes_with_an_epoch() -> None:
    carried = CarriedState(3)
    rows = torch.tensor([0, 2])
    assert carried.take(rows, torch.device("cpu")) is None
    carried.put(rows, (torch.tensor([[1.0], [2.0]]),))
    assert carried.take(rows, torch.device("cpu")) is None
    carried.commit()
    carried.put(rows, (torch.tensor([[8.0], [9.0]]),))
    carried.discard()
    carried.commit()
    state = carried.take(torch.tensor([2, 1]), torch.device("cpu"))
    assert state is not None
    assert state[0].tolist() == [[2.0], [0.0]]
    carried.reset()
    assert carried.take(rows, torch.device("cpu")) is None


def test_what_processes_save_adds_up_and_loads() -> None:
    saved = []
    for rows in ([0, 2], [1]):
        carried = CarriedState(3)
        carried.load({"state.0": torch.full((3, 1), 7.0)})
        carried.put(torch.tensor(rows), (torch.tensor([[float(row)] for row in rows]),))
        carried.commit()
        saved.append(carried.tensors()["state.0"])
    assert (saved[0] + saved[1]).flatten().tolist() == [0.0, 1.0, 2.0]


def test_carried_state_is_reset_where_an_epoch_begins() -> None:
    carried = CarriedState(4)
    seen = []
    for _ in stream_windows(CORPUS, StreamShape(4, 5, pad=0), num_micro_batches=1, total_steps=5, seed=0, carried=carried):
        seen.append(carried.take(torch.arange(4), torch.device("cpu")) is None)
        carried.put(torch.arange(4), (torch.ones(4, 1),))
        carried.commit()
    assert seen == [True, False, False, True, False]
