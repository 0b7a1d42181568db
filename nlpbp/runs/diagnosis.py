"""What a finished classifier shows of itself, on the validation set: its errors, and whether it is as sure as it is right.

Not on the test set: whoever changes something after a look at its errors has used it up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from nlpbp.data.columns import Examples, Fields
from nlpbp.data.corpus import joined_texts
from nlpbp.data.labels import is_missing, label_name
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.windows import of_windows
from nlpbp.evaluation.calibration import (
    confidences,
    cross_fitted,
    fit_temperature,
    measured,
    probabilities,
    reliability_bins,
    selective_curve,
)
from nlpbp.evaluation.errors import confused_pairs, error_slices, most_confident_errors, quartiles, wrong_examples
from nlpbp.runs.predictions import answer_names, decision_thresholds
from nlpbp.tasks import decide
from nlpbp.text.attribution import Attributions, occlusion, reading_end
from nlpbp.text.batches import Encoded

Array = np.ndarray[Any, Any]
Answer = Callable[[list[str], list[str] | None], Array]
NUM_ERRORS = 10  # that are shown with what they hang on
MAX_PIECES = 20  # of a text, left out one after the other: 10 texts then cost 210 answers
MAX_CHARACTERS = 5000  # of a text that is shown
MAX_VALUES = 10  # of a column of numbers whose values are slices each
UNKNOWN_EDGES = (0.0, 0.05)  # shares of unknown tokens that slices end at


def calibration_record(inputs: Inputs, logits: Array, *, wanted: bool) -> dict[str, Any]:
    """Make `calibration.json` from the validation set's logits [n, k]: the temperature that fits, and what it would change.

    `after` and its diagram are measured on examples that the temperature was not fitted on. `applied` says whether to fold the
    temperature into the model: where it is `wanted`, and lowers the log loss of such examples. `problem` says why there is none.
    """
    task, targets = inputs.fields.task, targets_of(inputs.validation)
    fitted = fit_temperature(logits, targets, task=task)
    crossed = logits if fitted.problem or len(logits) < 2 else cross_fitted(logits, targets, task=task)[0]
    before, after = (measured(made, targets, task=task) for made in (logits, crossed))
    sure = {
        name: confidences(targets, probabilities(made, task=task), task=task)
        for name, made in (("before", logits), ("after", crossed))
    }
    return {
        "part": "validation",
        "temperature": fitted.value,
        "problem": fitted.problem,
        "applied": wanted and fitted.problem is None and after["log_loss"] < before["log_loss"],
        "before": before,
        "after": after,
        "reliability": {name: reliability_bins(*pair) for name, pair in sure.items()},
        "selective": selective_curve(*sure["before"]),
    }


def calibration_line(record: dict[str, Any]) -> str:
    """Say what was done about calibration, and why."""
    before, after = record["before"]["log_loss"], record["after"]["log_loss"]
    change = f"log loss {before:.4f} -> {after:.4f}, ece {record['before']['ece']:.4f} -> {record['after']['ece']:.4f}"
    if record["problem"] is not None:
        return f"calibration: none, because {record['problem']}"
    if record["applied"]:
        return f"calibration: logits divided by a temperature of {record['temperature']:.3f} (validation, cross-fitted: {change})"
    return f"calibration: none, because a temperature does not help here (validation, cross-fitted: {change})"


def error_record(
    inputs: Inputs,
    outputs: Array,
    encoded: Encoded,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    answer: Answer,
    by: Sequence[str] = (),
    with_texts: bool = True,
) -> dict[str, Any]:
    """Make `errors.json` from the validation set's probabilities [n, k]: the surest errors, what is confused, where errors gather.

    `answer` gives the model's probabilities for other texts, and for their pairs: it is asked what the surest errors hang on. The
    model reads the first `max_length` tokens of a text; None where it does not read to one place from the beginning. Errors are
    also looked for by the source's columns `by`.
    """
    examples = inputs.validation.examples
    texts = joined_texts(examples)

    def shown(index: int, label: int) -> dict[str, Any]:
        end = _end(examples, index, tokenizer, max_length)
        if not with_texts:
            return {"text": "", "truncated_at": end, "attributions": []}
        attributions = _attributions(examples, index, label=label, end=end, answer=answer)
        return {
            "text": texts[index][:MAX_CHARACTERS],
            "truncated_at": end,
            "attributions": [[word, round(score, 6)] for word, score in attributions],
        }

    columns = slice_columns(examples, encoded, fields=inputs.fields, unknown_id=tokenizer.unk_token_id)
    return wrong_record(inputs, outputs, columns, by=by, shown=shown)


def wrong_record(
    inputs: Inputs,
    outputs: Array,
    columns: dict[str, list[str]],
    *,
    by: Sequence[str],
    shown: Callable[[int, int], dict[str, Any]],
) -> dict[str, Any]:
    """Make `errors.json` for examples of any kind: `columns` say in which slices each of the validation set is.

    `shown(index, label)` adds to one of the surest errors, which is about that label, what its kind has to show.
    """
    fields, examples, targets = inputs.fields, inputs.validation.examples, targets_of(inputs.validation)
    decisions = decide(fields.task, outputs, decision_thresholds(inputs, outputs))
    ids, sure = most_confident_errors(targets, outputs, decisions, num=NUM_ERRORS)
    labels, answers = answer_names(targets[ids], fields), answer_names(decisions[ids], fields)
    confident = [
        {
            "id": int(inputs.validation.ids[index]),
            "reference": examples.references[index],
            "label": labels[row],
            "prediction": answers[row],
            "probability": float(sure[row]),
            **shown(int(index), _surest_label(targets[index], decisions[index], outputs[index])),
        }
        for row, index in enumerate(ids)
    ]
    pairs = confused_pairs(targets, decisions) if fields.target_type == "multiclass" else []
    wrong = wrong_examples(targets, decisions)
    table = inputs.tables["validation"]
    slices = error_slices(wrong, columns | {name: values_by_slice(table.columns[name]) for name in by})
    return {
        "part": "validation",
        "most_confident": confident,
        "confused_pairs": [
            {"label": fields.labels[label], "prediction": fields.labels[taken], "count": count} for label, taken, count in pairs
        ],
        "slices": [{"slice": one.name} | {name: value for name, value in asdict(one).items() if name != "name"} for one in slices],
    }


def slice_columns(examples: Examples, encoded: Encoded, *, fields: Fields, unknown_id: int | None) -> dict[str, list[str]]:
    """Say of each example in which slices it is: its length, whether it is cut off, how much of it is unknown, its labels."""
    assert examples.targets is not None, "errors are found by labels"
    truncated = np.isin(np.arange(len(examples)), np.union1d(encoded.truncated, encoded.clipped))
    columns = {
        "characters": quartiles([len(text) for text in joined_texts(examples)]),
        "truncated": np.where(truncated, "yes", "no").tolist(),
    }
    if unknown_id is not None:
        owner = np.repeat(of_windows(np.arange(len(examples)), encoded.owners), encoded.lengths)
        count = partial(np.bincount, owner, minlength=len(examples))
        unknown = count(weights=encoded.tokens == unknown_id) / np.maximum(1, count())
        names = ("none", f"up to {UNKNOWN_EDGES[1]:.0%}", f"more than {UNKNOWN_EDGES[1]:.0%}")
        columns["unknown tokens"] = [names[group] for group in np.searchsorted(UNKNOWN_EDGES, unknown, side="left")]
    return columns | label_columns(examples, fields)


def label_columns(examples: Examples, fields: Fields) -> dict[str, list[str]]:
    """Say of each example what its label is, or of several whether it has each."""
    assert examples.targets is not None, "errors are found by labels"
    if fields.target_type == "multiclass":
        return {"label": [fields.labels[index] for index in examples.targets]}
    by_label = zip(fields.labels, examples.targets.T, strict=True)
    return {f"label {name}": np.where(holds > 0, "yes", "no").tolist() for name, holds in by_label}


def values_by_slice(values: Sequence[Any]) -> list[str]:
    """Name the slice of each cell of a column: its value, or of numbers with more than ten values the quarter that it is in.

    >>> values_by_slice(["web", None, "shop"]), values_by_slice([str(n) for n in range(12)])[:4]
    (['web', 'missing', 'shop'], ['0 to 2', '0 to 2', '0 to 2', '3 to 5'])
    """
    names = ["missing" if is_missing(value) else label_name(value) for value in values]
    known = [index for index, name in enumerate(names) if name != "missing"]
    try:
        numbers = [float(names[index]) for index in known]
    except ValueError:
        return names
    if len(set(numbers)) > MAX_VALUES and all(map(math.isfinite, numbers)):
        for index, quarter in zip(known, quartiles(numbers), strict=True):
            names[index] = quarter
    return names


def _end(examples: Examples, index: int, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int | None:
    """Return where the model stops reading; of a pair the longer half is cut first, so there is no such place."""
    return (
        None
        if examples.pairs or max_length is None
        else reading_end(examples.texts[index], tokenizer=tokenizer, max_length=max_length)
    )


def _surest_label(target: Array, decision: Array, outputs: Array) -> int:
    """Return the label that an error is about: the one answered, or of several the wrong one that is surest."""
    if decision.ndim == 0:
        return int(decision)
    return int(np.where(decision != target, np.where(decision, outputs, 1.0 - outputs), -1.0).argmax())


def _attributions(examples: Examples, index: int, *, label: int, end: int | None, answer: Answer) -> Attributions:
    """Leave out words of the text, and then of the other text of a pair."""
    text, score = examples.texts[index], partial(occlusion, label=label, max_pieces=MAX_PIECES)
    if examples.pairs is None:
        return score(text, classify=lambda texts: answer(texts, None), end=end)
    pair = examples.pairs[index]
    first = score(text, classify=lambda texts: answer(texts, [pair] * len(texts)))
    return first + score(pair, classify=lambda pairs: answer([text] * len(pairs), pairs))
