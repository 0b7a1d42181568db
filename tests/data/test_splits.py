"""Parts have the classes in equal shares, share no text, and depend on the texts and the seed alone."""

import time
from itertools import combinations, pairwise

import numpy as np
import pytest

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Examples
from nlpbp.data.splits import nested_sample, shared_texts, split_examples, text_keys


def examples_of(targets=None, texts=None, pairs=None, name="a.csv"):
    if targets is not None:
        targets = np.asarray(targets)
        targets = targets.astype(np.int64 if targets.dtype.kind in "iu" else np.float32)
    texts = texts if texts is not None else [f"text {i}" for i in range(len(targets))]
    return Examples(name, list(texts), pairs, targets, [f"{name}:{i + 2}" for i in range(len(texts))])


def split(examples, validation=0.1, test=0.1, seed=0):
    parts = split_examples(examples, validation_share=validation, test_share=test, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(examples)))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)
    return parts


# Splits


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.2, 0.0), (0.0, 0.25), (0.0, 0.0), (0.15, 0.35)])
def test_parts_have_their_shares_and_each_class_its_own(validation, test):
    targets = np.repeat([0, 1, 2], [100, 700, 200])
    parts = split(examples_of(targets), validation, test)
    for part, share in zip(parts, (1 - validation - test, validation, test), strict=True):
        assert np.bincount(targets[part], minlength=3).tolist() == [round(share * n) for n in (100, 700, 200)]


def test_many_small_classes_still_fill_the_parts():
    targets = np.repeat(np.arange(100), 3)
    train, validation, test = split(examples_of(targets))
    assert (len(validation), len(test)) == (30, 30)
    assert len(set(targets[train])) == 100


def test_a_split_is_the_same_every_time_and_another_for_another_seed():
    examples = examples_of([0, 1] * 500)
    assert all(np.array_equal(one, two) for one, two in zip(split(examples), split(examples), strict=True))
    other = split(examples, seed=1)[2]
    assert len(set(other) & set(split(examples)[2])) < 40
    assert split(examples)[2][:4].tolist() == [23, 37, 54, 55]  # as long as this holds, old runs can be repeated


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression", "unlabelled"])
def test_a_split_does_not_depend_on_the_order_of_rows(kind):
    generator = np.random.default_rng(0)
    targets = {
        "single_label": generator.integers(0, 3, 300),
        "multi_label": (generator.random((300, 4)) < [0.5, 0.2, 0.1, 0.02]) * 1.0,
        "regression": generator.normal(size=300),
        "unlabelled": None,
    }[kind]
    texts = [f"text {i // 2 if i < 60 else i}" for i in range(300)]
    order = generator.permutation(300)
    shuffled = examples_of(None if targets is None else targets[order], [texts[i] for i in order])
    for one, two in zip(split(examples_of(targets, texts)), split(shuffled), strict=True):
        assert sorted(order[two]) == one.tolist()


def test_changing_the_validation_share_leaves_the_test_part():
    examples = examples_of([0, 1] * 100)
    assert np.array_equal(split(examples, validation=0.1)[2], split(examples, validation=0.3)[2])


def test_equal_texts_stand_in_one_part():
    generator = np.random.default_rng(0)
    spellings = ["A text no {}", "a TEXT no {}", " a  text\tno\u2028{} ", "a text no {}"]
    texts = [spellings[i % 4].format(number) for i, number in enumerate(generator.integers(0, 250, 1000))]
    examples = examples_of(generator.integers(0, 2, 1000), texts)
    parts = split(examples)
    assert [abs(len(part) - expected) <= 5 for part, expected in zip(parts, (800, 100, 100), strict=True)] == [True] * 3
    for one, two in combinations(parts, 2):
        assert shared_texts(examples.select(one), examples.select(two)) == []


def test_equal_pairs_stand_in_one_part_and_the_pair_counts():
    keys = text_keys(examples_of(texts=["a", "A ", "a", "a b"], pairs=["b", "b", "c", ""]))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert text_keys(examples_of(texts=["a b"]))[0] != text_keys(examples_of(texts=["a"], pairs=["b"]))[0]


def test_hundreds_of_copies_do_not_fill_a_part():
    examples = examples_of([0] * 900 + [1] * 300, ["the same"] * 600 + [f"text {i}" for i in range(600)])
    train, validation, test = split(examples)
    assert set(range(600)) <= set(train)
    assert (len(validation), len(test)) == (120, 120)


def test_a_class_with_one_example_is_trained_on():
    targets = [0] * 50 + [1] * 49 + [2]
    for seed in range(20):
        assert 99 in split(examples_of(targets), seed=seed)[0]


def test_a_rare_class_whose_text_has_another_label_too_is_trained_on():
    targets = [0] * 50 + [1]
    texts = [*(f"text {i}" for i in range(50)), "text 0"]
    for seed in range(20):
        assert 50 in split(examples_of(targets, texts), seed=seed)[0]


def test_every_class_stays_in_training():
    targets = [0, 0, 1, 1, 2, 2, 2]
    for seed in range(20):
        train, validation, test = split(examples_of(targets), 0.3, 0.3, seed=seed)
        assert set(np.array(targets)[train]) == {0, 1, 2}
        assert (len(validation), len(test)) == (2, 2)


def test_rare_labels_of_multi_label_rows_are_in_every_part():
    generator = np.random.default_rng(0)
    targets = (generator.random((1000, 3)) < [0.9, 0.5, 0.03]) * 1.0
    for part, share in zip(split(examples_of(targets)), (0.8, 0.1, 0.1), strict=True):
        assert abs(targets[part, 2].sum() - share * targets[:, 2].sum()) <= 1


def test_amounts_are_spread_alike_over_the_parts():
    targets = np.random.default_rng(0).lognormal(size=1000)
    for part in split(examples_of(targets)):
        assert np.quantile(targets[part], [0.25, 0.5, 0.75]) == pytest.approx(np.quantile(targets, [0.25, 0.5, 0.75]), rel=0.1)


def test_amounts_that_are_nearly_all_the_same_can_be_split():
    assert [len(part) for part in split(examples_of([0.0] * 95 + [1.5] * 5))] == [80, 10, 10]


def test_texts_without_labels_can_be_split():
    assert [len(part) for part in split(examples_of(texts=[f"text {i}" for i in range(20)]))] == [16, 2, 2]


@pytest.mark.parametrize(
    ("targets", "texts"),
    [([0, 1, 2], None), ([0], None), ([0, 0, 1], None), ([0, 0, 0, 1, 1], ["a", "a", "A", "b", "b "])],
)
def test_a_part_that_would_be_empty_is_an_error(targets, texts):
    with pytest.raises(DataError) as caught:
        split(examples_of(targets, texts))
    assert (caught.value.code, caught.value.file) == (3, "a.csv")
    assert caught.value.hint


def test_four_examples_are_enough():
    train, validation, test = split(examples_of([0, 0, 1, 1]))
    assert (len(train), len(validation), len(test)) == (2, 1, 1)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.0, 1.0), (float("nan"), 0.1)])
def test_shares_that_leave_nothing_are_setting_errors(validation, test):
    with pytest.raises(ConfigError):
        split_examples(examples_of([0, 1] * 10), validation_share=validation, test_share=test, seed=0)


# Samples


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression", "unlabelled"])
def test_a_smaller_sample_is_part_of_a_larger_one(kind):
    generator = np.random.default_rng(0)
    targets = {
        "single_label": generator.choice(5, 1000, p=[0.5, 0.3, 0.15, 0.04, 0.01]),
        "multi_label": (generator.random((1000, 4)) < [0.5, 0.2, 0.1, 0.01]) * 1.0,
        "regression": generator.normal(size=1000),
        "unlabelled": None,
    }[kind]
    examples = examples_of(targets, [f"text {i}" for i in range(1000)])
    train = split(examples)[0]
    samples = [nested_sample(examples, train, share=share, seed=3) for share in (0.001, 0.01, 0.1, 0.5, 1.0)]
    for small, large in pairwise(samples):
        assert set(small) <= set(large)
    assert samples[-1].tolist() == train.tolist()
    assert abs(len(samples[2]) - len(train) / 10) <= 5
    assert all((np.diff(sample) > 0).all() for sample in samples)
    assert all(len(sample) for sample in samples)


@pytest.mark.parametrize("share", [0.01, 0.037, 0.1, 0.33])
def test_a_sample_has_the_shares_of_the_classes_and_one_of_each(share):
    targets = np.repeat([0, 1, 2, 3], [700, 250, 49, 1])
    sample = nested_sample(examples_of(targets), np.arange(1000), share=share, seed=0)
    counts = np.bincount(targets[sample], minlength=4)
    assert (np.abs(counts - share * np.bincount(targets)) <= 1).all()
    assert counts.min() >= 1


def test_a_sample_shows_every_label_of_multi_label_rows():
    # Label 0 stands beside a rarer label in every row.
    targets = np.array([[1, 1, 0]] * 100 + [[1, 0, 1]] * 200 + [[0, 0, 1]] * 300) * 1.0
    sample = nested_sample(examples_of(targets), np.arange(600), share=0.002, seed=0)
    assert targets[sample].max(axis=0).tolist() == [1, 1, 1]
    assert len(sample) <= 6


def test_a_sample_is_taken_from_the_given_indices_only():
    examples = examples_of([0, 1] * 100)
    assert set(nested_sample(examples, np.arange(50, 90), share=0.5, seed=0)) <= set(range(50, 90))
    assert len(nested_sample(examples, np.arange(0), share=0.5, seed=0)) == 0


def test_another_seed_gives_another_sample():
    examples = examples_of([0, 1] * 100)
    one, two = (nested_sample(examples, np.arange(200), share=0.1, seed=seed).tolist() for seed in (0, 1))
    assert one != two


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_a_setting_error(share):
    with pytest.raises(ConfigError):
        nested_sample(examples_of([0, 1]), np.arange(2), share=share, seed=0)


# Shared texts


def test_shared_texts_name_both_places_once():
    train = examples_of(texts=["Good film", "bad", "good  film"], name="train.csv")
    test = examples_of(texts=["new", "good film ", "GOOD FILM"], name="test.csv")
    assert shared_texts(train, test) == [("train.csv:2", "test.csv:3"), ("train.csv:2", "test.csv:4")]
    assert shared_texts(train, examples_of(texts=["new"])) == []


def test_25_000_examples_are_split_in_less_than_a_second():
    texts = [f"{i} " + "So good a film that " * 30 for i in range(25_000)]
    examples = examples_of(np.arange(25_000) % 2, texts)
    start = time.monotonic()
    split_examples(examples, validation_share=0.1, test_share=0.1, seed=0)
    assert time.monotonic() - start < 2
