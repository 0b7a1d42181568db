"""What is wrong is found, counted once, and told apart from chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nlpbp.evaluation.errors import confused_pairs, error_slices, example_losses, most_confident_errors, quartiles, wrong_examples
from nlpbp.tasks.scores import decide


def test_losses_are_the_cross_entropy_of_each_example_also_where_it_is_large():
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 8
    targets = torch.arange(200) % 4
    wanted = F.cross_entropy(logits.double(), targets, reduction="none").numpy()
    assert wanted.max() > 20
    assert np.abs(example_losses("single_label", targets.numpy(), logits.softmax(-1).numpy()) - wanted).max() < 1e-5
    assert np.abs(example_losses("single_label", targets.numpy(), logits.double().softmax(-1).numpy()) - wanted).max() < 1e-6


def test_losses_of_several_labels_are_the_mean_of_binary_cross_entropies():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    targets = (logits + torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) > 0).double()
    wanted = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1).numpy()
    assert np.abs(example_losses("multi_label", targets.numpy(), logits.sigmoid().numpy()) - wanted).max() < 1e-6


def test_a_probability_of_zero_has_a_large_loss_and_not_an_infinite_one():
    assert 700 < example_losses("single_label", np.array([1]), np.array([[1.0, 0.0]]))[0] < 710
    with pytest.raises(ValueError, match="regression"):
        example_losses("regression", np.array([1.0]), np.array([1.0]))


def test_the_surest_errors_come_first_and_right_answers_never():
    targets = np.array([0, 1, 0, 1, 1])
    outputs = np.array([[0.99, 0.01], [0.6, 0.4], [0.2, 0.8], [0.8, 0.2], [0.1, 0.9]])
    ids, probabilities = most_confident_errors(targets, outputs, outputs.argmax(1), num=9)
    assert ids.tolist() == [2, 3, 1]
    assert probabilities.tolist() == [0.8, 0.8, 0.6]
    assert most_confident_errors(targets, outputs, outputs.argmax(1), num=1)[0].tolist() == [2]
    assert most_confident_errors(outputs.argmax(1), outputs, outputs.argmax(1))[0].tolist() == []


def test_of_several_labels_the_surest_wrong_one_counts_and_thresholds_do_too():
    targets = np.array([[1, 0], [0, 0], [1, 1]])
    outputs = np.array([[0.1, 0.7], [0.2, 0.3], [0.9, 0.8]])
    ids, probabilities = most_confident_errors(targets, outputs, decide("multi_label", outputs))
    assert (ids.tolist(), probabilities.tolist()) == ([0], [0.9])
    low = np.array([0.5, 0.25])
    assert wrong_examples(targets, decide("multi_label", outputs, low)).tolist() == [True, True, False]
    ids, probabilities = most_confident_errors(targets, outputs, decide("multi_label", outputs, low))
    assert (ids.tolist(), probabilities.tolist()) == ([0, 1], [0.9, 0.3])


def test_pairs_are_counted_in_their_direction():
    assert confused_pairs(np.array([2, 2, 1, 0, 0, 0]), np.array([1, 1, 2, 0, 1, 1]), num=2) == [(0, 1, 2), (2, 1, 2)]


def test_a_slice_by_hand():
    wrong = np.array([True, True, True, False, False] + [True] + [False] * 14)
    slices = {one.value: one for one in error_slices(wrong, {"source": ["a"] * 5 + ["b"] * 15})}
    a = slices["a"]
    assert (a.name, a.count, a.errors, a.rate, a.lift) == ("source", 5, 3, 0.6, pytest.approx(3.0))
    assert a.interval == pytest.approx((0.2307, 0.8824), abs=1e-4)  # Wilson's for 3 of 5
    # 3 or 4 of the 4 errors among these 5 of 20: (10 * 15 + 5) / 4845; adjusted for two looks
    assert a.p_adjusted == pytest.approx(2 * 155 / 4845)
    assert slices["b"].p_adjusted == pytest.approx(1 - 5 / 4845)  # at least 1 of them among the 15: all but "all 4 among the 5"


def test_many_looks_at_noise_find_nothing_and_a_planted_slice_among_them_is_found():
    generator = np.random.default_rng(0)
    wrong = generator.random(2000) < 0.1
    noise = {f"column {i}": generator.choice(list("abcde"), size=2000).tolist() for i in range(40)}
    slices = error_slices(wrong, noise)
    assert len(slices) == 200
    assert min(one.p_adjusted for one in slices) > 0.05
    assert sum(one.interval[0] > 0.1 for one in slices) > 0  # single looks would have cried wolf
    planted = np.where(generator.random(2000) < 0.05, "yes", "no")
    worse = wrong | ((planted == "yes") & (generator.random(2000) < 0.4))
    first = error_slices(worse, noise | {"truncated": planted.tolist()})[0]
    assert (first.name, first.value) == ("truncated", "yes")
    assert first.lift > 2.5
    assert first.p_adjusted < 1e-6


def test_slices_that_tell_nothing_are_left_out():
    wrong = np.array([True] * 3 + [False] * 27)
    assert error_slices(wrong, {"one": ["x"] * 30}) == []
    assert [one.value for one in error_slices(wrong, {"few": ["x"] * 4 + ["y"] * 26})] == ["y"]
    assert [one.lift for one in error_slices(np.zeros(20, bool), {"half": ["x"] * 10 + ["y"] * 10})] == [1.0, 1.0]


def test_quarters_hold_as_many_and_equal_values_stay_together():
    names = quartiles(np.arange(100))
    assert [names.count(name) for name in sorted(set(names))] == [25, 25, 25, 25]
    assert quartiles([3, 3, 3, 3]) == ["3 to 3"] * 4
    assert quartiles([0] * 9 + [5]) == ["0 to 0"] * 9 + ["5 to 5"]
    assert quartiles([]) == []
