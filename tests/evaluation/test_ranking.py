"""Ranking metrics of several labels agree with scikit-learn, and stand where there are many labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score

from nlpbp.evaluation.ranking import average_precision, precision_at
from nlpbp.tasks import bootstrap_intervals, task_metrics, weighted_metrics


def drawn(num_labels, *, share=0.05, num_examples=300, decimals=1):
    generator = np.random.default_rng(0)
    targets = (generator.random((num_examples, num_labels)) < share).astype(int)
    return targets, generator.random((num_examples, num_labels)).round(decimals)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("decimals", [1, 8])  # with many ties, and with none
def test_average_precision_agrees_with_scikit_learn(share, decimals):
    targets, outputs = drawn(60, share=share, decimals=decimals)
    expected = label_ranking_average_precision_score(targets, outputs)
    assert average_precision(targets, outputs).mean() == pytest.approx(expected, abs=1e-12)


def test_precision_at_k_by_hand():
    targets = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    outputs = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.5]])
    assert precision_at(targets, outputs, num=1).tolist() == [1.0, 0.0, 0.25]  # ties: as often as one drawn of them would be right
    assert precision_at(targets, outputs, num=4).tolist() == [0.5, 0.0, 0.25]


def test_ranking_metrics_begin_at_50_labels():
    assert task_metrics("multi_label", *drawn(49)).keys() == {"micro_f1", "macro_f1"}
    found, intervals = task_metrics("multi_label", *drawn(50)), bootstrap_intervals("multi_label", *drawn(50), num_resamples=50)
    assert found.keys() == intervals.keys() == {"micro_f1", "macro_f1", "lrap", "precision_at_1", "precision_at_5"}
    assert all(intervals[name][0] <= found[name] <= intervals[name][1] for name in ("lrap", "precision_at_5"))


def test_an_example_counted_twice_is_an_example_given_twice():
    targets, outputs = drawn(50, num_examples=4)
    weighted = weighted_metrics("multi_label", targets, outputs, np.array([[2.0, 1.0, 0.0, 1.0]]))
    twice = task_metrics("multi_label", targets[[0, 0, 1, 3]], outputs[[0, 0, 1, 3]])
    assert {name: value[0] for name, value in weighted.items()} == pytest.approx(twice)
