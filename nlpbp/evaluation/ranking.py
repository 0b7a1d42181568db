"""How well several labels are ranked, for each example: what counts where there are too many labels to decide on each.

Shapes: n examples, k labels.
"""

from __future__ import annotations

import numpy as np

from nlpbp.evaluation.metrics import Floats


def average_precision(targets: np.ndarray, outputs: Floats) -> Floats:
    """Return the label ranking average precision of each example [n] of targets {0, 1} and outputs [n, k].

    For each label that holds, the share of labels that hold among those with an output as high, averaged; 1 where no label holds.
    The mean over examples is scikit-learn's `label_ranking_average_precision_score` (Tsoumakas et al. 2010).

    >>> average_precision(np.array([[1, 0, 1]]), np.array([[0.9, 0.5, 0.1]])).round(4).tolist()  # 1 / 1 and 2 / 3
    [0.8333]
    """
    num_labels, found = outputs.shape[1], np.ones(len(outputs))
    for row, (ordered, holds) in enumerate(zip(np.sort(outputs, axis=1), targets > 0, strict=True)):
        held = np.sort(outputs[row, holds])
        if len(held):
            ranks = num_labels - np.searchsorted(ordered, held)
            found[row] = ((len(held) - np.searchsorted(held, held)) / ranks).mean()
    return found


def precision_at(targets: np.ndarray, outputs: Floats, *, num: int) -> Floats:
    """Return the share of the `num` highest outputs of each example whose label holds [n]; of equal outputs each counts alike.

    >>> precision_at(np.array([[1, 0, 1]]), np.array([[0.9, 0.5, 0.5]]), num=2).tolist()  # 1 and half of 1
    [0.75]
    """
    cut = np.partition(outputs, -num, axis=1)[:, -num, np.newaxis]
    above, at = outputs > cut, outputs == cut
    places = num - above.sum(axis=1)  # left for those at the cut
    hits = (targets * above).sum(axis=1) + places * (targets * at).sum(axis=1) / at.sum(axis=1)
    shares: Floats = hits / num
    return shares
