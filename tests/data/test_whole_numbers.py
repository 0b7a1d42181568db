"""Whole numbers that repeat are classes, others are quantities; what may be either is told, with the flag for it."""

import numpy as np
import pytest

from nlpbp.core.errors import DataError
from nlpbp.data.columns import infer_fields, read_examples
from nlpbp.data.readers import read_table

RNG = np.random.default_rng(0)
CLASSES = np.minimum(44, RNG.exponential(12, 4000)).astype(int)  # ids of 45 classes, some of them rare
COUNTS = RNG.geometric(0.3, 4000) - 1
QUANTITY, CLASS, IDS = "--data.task single_label", "--data.task regression", "--data.label"


def labelled(values, column="label"):
    return read_table({"text": [f"text number {i}" for i in range(len(values))], column: [*values]})


@pytest.mark.parametrize("form", [int, float, str])
def test_ids_of_many_classes_are_classes_in_every_form(form):
    assert len(set(CLASSES)) == 45
    fields = infer_fields(labelled([form(value) for value in CLASSES]))
    assert (fields.task, fields.task_warning) == ("single_label", "")
    assert fields.labels == tuple(map(str, range(45)))


def test_a_class_that_most_rows_have_does_not_make_the_others_a_tail_of_counts():
    fields = infer_fields(labelled([0] * 900 + [1, 2, 3, 4, 5, 6, 7] * 10))
    assert (fields.task, fields.task_warning) == ("single_label", "")


@pytest.mark.parametrize(
    ("column", "values", "other"),
    [
        ("stars", [1, 2, 3, 4, 5] * 20, CLASS),
        ("stars", [1.0, 3.0, 5.0] * 20, CLASS),
        ("label", [-2, -1, 0, 1, 2] * 20, CLASS),
        ("label", ["10", "20", "30"] * 20, CLASS),
        ("rating", [0, 1, 2, 3] * 20, CLASS),  # its name says that they are measured
        ("label", [1, 2, 3, 4], CLASS),
        ("label", [*range(19)] * 10 + [10**12], CLASS),
    ],
)
def test_few_numbers_are_classes_and_the_other_tasks_are_named(column, values, other):
    fields = infer_fields(labelled(values, column))
    assert fields.task == "single_label"
    assert other in fields.task_warning
    assert "--data.task ordinal" in fields.task_warning
    assert f"warning: {fields.task_warning}" in fields.notes


@pytest.mark.parametrize("values", [[0, 1] * 20, [-1, 1] * 20, [0, 4] * 20, [0, 1, 2, 3] * 20, [*range(20)] * 10])
def test_two_numbers_and_numbers_from_zero_need_no_warning(values):
    fields = infer_fields(labelled(values))
    assert (fields.task, fields.task_warning) == ("single_label", "")


@pytest.mark.parametrize(
    ("column", "values", "other"),
    [
        ("label", COUNTS, QUANTITY),
        ("label", COUNTS[:300], QUANTITY),
        ("votes", RNG.poisson(1, 4000), QUANTITY),
        ("age", RNG.integers(18, 91, 4000), QUANTITY),
        ("year", RNG.integers(1980, 2021, 4000), QUANTITY),
        ("label", [-value for value in CLASSES], QUANTITY),
        ("label", CLASSES[:200], QUANTITY),  # too few rows for so many
        ("label", RNG.integers(0, 300, 2900), QUANTITY),
        ("price", RNG.permutation(50_000)[:400], IDS),
        ("label", RNG.permutation(20), IDS),
    ],
)
def test_counts_ages_years_and_what_hardly_repeats_are_quantities_and_the_other_way_is_named(column, values, other):
    fields = infer_fields(labelled([*map(int, values)], column), label=column)
    assert (fields.task, fields.labels) == ("regression", ())
    assert other in fields.task_warning
    assert f"warning: {fields.task_warning}" in fields.notes


@pytest.mark.parametrize("values", [[*range(1000)] * 12, [*range(301)] * 12, [0.5, 2.0, 3.0] * 20])
def test_more_than_hundreds_of_numbers_and_fractions_are_quantities_without_a_warning(values):
    fields = infer_fields(labelled(values))
    assert (fields.task, fields.task_warning) == ("regression", "")


def test_a_task_that_is_given_is_not_doubted():
    table = labelled([1, 2, 3, 4, 5] * 20, "stars")
    for task in ("single_label", "regression", "ordinal"):
        fields = infer_fields(table, task=task)
        assert (fields.task, fields.task_warning) == (task, "")


def test_shuffled_ids_are_no_label_and_nearly_all_numbers_are_no_ids():
    texts, moods = [f"text number {i}" for i in range(40)], ["up", "down"] * 20
    shuffled = np.random.default_rng(0).permutation(40).tolist()
    assert infer_fields(read_table({"text": texts, "mood": moods, "nr": shuffled})).label == "mood"
    with pytest.raises(DataError, match="no column could be the label"):
        infer_fields(read_table({"text": texts, "nr": shuffled}))
    assert infer_fields(read_table({"text": texts, "nr": [*shuffled[:-1], 99]})).label == "nr"


def test_a_number_that_training_lacks_is_an_error_with_its_place():
    fields = infer_fields(labelled([value for value in CLASSES if value != 44]))
    assert len(fields.labels) == 44
    with pytest.raises(DataError, match="the training data have no label '44'") as caught:
        read_examples(labelled([3, 44]), fields)
    assert (caught.value.row, caught.value.column) == (2, "label")
