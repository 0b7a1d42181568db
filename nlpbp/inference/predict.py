"""Predictions of finished runs for new examples: of one the answers of `pipeline` with its model, of several their mean."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.core.tta import average, dropout_active, fit_view_weights, view_weights
from nlpbp.data.columns import Examples, infer_fields, read_examples
from nlpbp.data.decoding import decode, refuse_nul, split_lines
from nlpbp.data.labels import is_missing
from nlpbp.data.modality import Prepared
from nlpbp.data.order import evaluation_batches
from nlpbp.data.readers import Table
from nlpbp.data.windows import means_of_windows
from nlpbp.inference.trained import Classifier, label_columns_of
from nlpbp.modalities import DROPOUT, MODALITIES, kinds_with_view
from nlpbp.runs.predictions import prediction_table
from nlpbp.tasks import bootstrap_intervals, task_metrics, task_outputs
from nlpbp.train.evaluate import predict

Array = np.ndarray[Any, Any]
NUM_PASSES = 4  # with dropout, for one view


def mean_outputs(
    classifiers: Sequence[Classifier],
    examples: Examples,
    *,
    accelerator: Accelerator,
    view: str | None = None,
    order_of: Classifier | None = None,
) -> Array:
    """Return the mean of the classifiers' probabilities [n, labels], in the order of labels of the first one, or of `order_of`;
    or of their values [n].

    A forward and a backward language model make such an ensemble (Howard and Ruder 2018). Of one classifier it is the answer.
    A `view` is that of `predict_outputs`.
    """
    rows = []
    for classifier in classifiers:
        outputs = predict_outputs(classifier, examples, accelerator=accelerator, view=view)
        rows.append(outputs if outputs.ndim == 1 else outputs[:, label_columns_of(classifier, order_of or classifiers[0])])
    mean: Array = np.mean(rows, axis=0, dtype=rows[0].dtype)
    return mean


def read_lines(raw: bytes, *, name: str) -> Table:
    """Take the bytes of a pipe as one text a line.

    Raises `DataError` with the line for bytes that are not text, and when there is no line.
    """
    text = decode(raw, file=name)
    refuse_nul(text, file=name)
    lines = list(split_lines(text))
    if not lines:
        raise DataError("there are no texts", file=name, hint="give one text a line")
    return Table(name=name, columns={"text": lines}, rows=list(range(1, len(lines) + 1)))


def read_data(
    classifiers: Sequence[Classifier], source: str | None, *, piped: bytes = b"", column: Sequence[str] = (), split: str = "test"
) -> Table:
    """Read what is to be answered for, from a source as of training, or without one from what was piped in, an example a line.

    Where the table's cells stand for the examples, as digests for images, the examples themselves are added to the classifiers'
    contents.
    """
    reader = classifiers[0].reader
    given: Any = source
    if source is None or source == "":
        lines = read_lines(piped, name="standard input")
        given = replace(lines, columns={next(iter(reader.columns), "text"): lines.columns["text"]})
    table, contents = reader.read(given, split, column)
    for classifier in classifiers:
        classifier.reader.contents.update(contents)
    return table


def read_texts(
    classifier: Classifier, table: Table, *, text: Sequence[str] = (), label: str | None = None, notes: list[str] | None = None
) -> Examples:
    """Read a table's texts, and its labels where it has the column, by the columns of training or those given.

    Columns that are neither are found by name and content, and `notes` gets why; the fields of a model that reads several are
    those of training. Raises `DataError` for one text where
    the model was trained on pairs, and the other way round. A column of labels that is still to be filled in, or, with `notes`,
    that holds one which the model does not know, is no column of labels, unless it was asked for by name.
    """
    if not len(table):
        raise DataError("there are no texts", file=table.name, hint="give one text a line")
    fields = classifier.fields
    text = () if classifier.reader.columns else text  # where the reader names them, `read_data` has taken the user's own already
    if fields.kinds and text:
        raise ConfigError(f"the model reads the fields {', '.join(fields.kinds)}", column="text", hint="leave it out")
    if not fields.kinds and (text or not set(fields.text) <= set(table.columns) or not fields.text):
        found = infer_fields(table, text=text, require_label=False)
        if fields.text and len(found.text) != len(fields.text):
            shown = " and ".join(f"'{name}'" for name in fields.text)
            wanted = "text column" if len(fields.text) == 1 else "two columns"
            raise DataError(
                f"the model was trained on {shown}, and here is {'one text' if len(found.text) == 1 else 'a pair of texts'}",
                file=table.name,
                excerpt=", ".join(found.text),
                hint=f"give a file with {shown}, or name the {wanted} with --text",
            )
        if notes is not None:
            notes += [note for note in found.notes if note.startswith("text:")]
        fields = replace(fields, text=found.text)
    known = fields.label in table.columns and not all(map(is_missing, table.columns[fields.label]))
    fields = replace(fields, label=label or (fields.label if known else None))
    try:
        return read_examples(table, fields, require_label=fields.label is not None)
    except DataError as error:
        if label is not None or fields.label is None or notes is None:
            raise
        examples = read_examples(table, replace(fields, label=None), require_label=False)
        notes.append(f"not scored: {error}")
        return examples


def predict_outputs(classifier: Classifier, examples: Examples, *, accelerator: Accelerator, view: str | None = None) -> Array:
    """Return probabilities [n, labels], or values [n] for regression, in the order of `examples`.

    A `view` is another form of the examples than the model was trained on, or `dropout`. Raises `ConfigError` where there is no
    such view of them, as of a pair of texts.
    """
    reader = classifier.reader
    if view is not None:
        _refuse_foreign_view(view, kind=reader.kind)
    forms = reader.forms(examples, None if view == DROPOUT else view, reader.contents)
    if view != DROPOUT:
        return _mean([_outputs(classifier, form, accelerator=accelerator) for form in forms])
    with dropout_active(classifier.model):
        return _mean([_outputs(classifier, form, accelerator=accelerator) for form in forms for _ in range(NUM_PASSES)])


def _refuse_foreign_view(view: str, *, kind: str) -> None:
    """Raise `ConfigError` for a view that examples of this kind do not have."""
    own = MODALITIES[kind].views
    if view in own:
        return
    others = " and ".join(f"{other}s" for other in kinds_with_view(view))
    message = f"{view} is of {others}" if others else f"there is no view {view}"
    hint = " or ".join(part for part in (", ".join(own[:-1]), *own[-1:]) if part)
    raise ConfigError(message, column="views", hint=f"give {hint}" if hint else "leave it out")


def _mean(passes: Sequence[Array]) -> Array:
    if len(passes) == 1:
        return passes[0]
    mean: Array = np.mean(passes, axis=0, dtype=passes[0].dtype)
    return mean


def _outputs(classifier: Classifier, form: Prepared, *, accelerator: Accelerator) -> Array:
    made = predict(
        classifier.model,
        evaluation_batches(form.padded_lengths, max_tokens=classifier.reader.max_cost),
        partial(classifier.reader.collate, form),
        accelerator=accelerator,
        show_progress=True,
    )
    config: Any = classifier.model.config
    outside = getattr(config, "value_range", None) if config.model_type != "awd_lstm" else None  # whose own head keeps to it
    value_range = None if outside is None else (float(outside[0]), float(outside[1]))
    logits = torch.from_numpy(means_of_windows(made.logits, form.owners))
    return task_outputs(logits, task=classifier.fields.task, value_range=value_range).numpy()


def outputs_of_members(
    classifiers: Sequence[Classifier], examples: Examples, *, views: Sequence[str], accelerator: Accelerator
) -> tuple[list[Array], float]:
    """Return all answers there are to average: each classifier's for the texts as they are, then their mean of each view.

    With them goes how many times as long they took as the first one alone.
    """
    outputs: list[Array] = []
    times: list[float] = []
    members: list[tuple[Sequence[Classifier], str | None]] = [([classifier], None) for classifier in classifiers]
    for asked, view in [*members, *((classifiers, view) for view in views)]:
        started = time.monotonic()
        outputs.append(mean_outputs(asked, examples, accelerator=accelerator, view=view, order_of=classifiers[0]))
        times.append(time.monotonic() - started)
    return outputs, sum(times) / max(1e-9, times[0])


def member_names(num_classifiers: int, views: Sequence[str]) -> list[str]:
    """Name what `outputs_of_members` gives.

    >>> member_names(1, ["windows"]), member_names(2, [])
    (['as they are', 'windows'], ['model 1', 'model 2'])
    """
    models = ["as they are"] if num_classifiers == 1 else [f"model {number}" for number in range(1, num_classifiers + 1)]
    return [*models, *views]


def member_weights(num_classifiers: int, num_views: int) -> torch.Tensor:
    """Return what each member counts where nothing is fitted: classifiers alike, and beside them the views as `view_weights` says.

    >>> member_weights(2, 0).tolist(), member_weights(1, 1).tolist()
    ([0.5, 0.5], [0.25, 0.75])
    """
    clean, *of_views = view_weights(num_views).tolist()
    return torch.tensor([*[clean / num_classifiers] * num_classifiers, *of_views])


def average_members(outputs: Sequence[Array], *, weights: torch.Tensor) -> Array:
    """Return the weighted mean of what `outputs_of_members` gave."""
    return outputs[0] if len(outputs) == 1 else average([torch.from_numpy(output) for output in outputs], weights=weights).numpy()


def fitted_weights(
    classifiers: Sequence[Classifier], examples: Examples, *, views: Sequence[str], accelerator: Accelerator
) -> torch.Tensor:
    """Find the weights of the members that suit labelled examples best: validation, never test.

    Raises `ConfigError` for examples without labels, and for numbers.
    """
    if examples.targets is None or classifiers[0].fields.target_type == "continuous":
        reason = "its texts have no labels" if examples.targets is None else "numbers have no log loss"
        raise ConfigError(f"{reason} to fit weights by", column="fit_weights", hint="leave it out")
    outputs, _ = outputs_of_members(classifiers, examples, views=views, accelerator=accelerator)
    return fit_view_weights([torch.from_numpy(output) for output in outputs], torch.from_numpy(examples.targets).long())


def gain_line(classifier: Classifier, examples: Examples, alone: Array, mean: Array, *, factor: float) -> str:
    """Say what the mean costs and, where there are labels, what it brought to each metric beside the first answer alone."""
    cost = f"mean: {factor:.1f} times the time of one answer"
    if examples.targets is None:
        return f"{cost}; without labels nobody knows what for (--label)"
    before, after = (
        task_metrics(classifier.fields.task, examples.targets, outputs, thresholds=classifier.thresholds)
        for outputs in (alone, mean)
    )
    changes = [
        f"{name} {old:.4f} -> {new:.4f} ({new - old:+.4f})"
        for name, old in before.items()
        if old is not None and (new := after[name]) is not None
    ]
    return f"{cost}; {', '.join(changes)}"


def predictions(classifier: Classifier, examples: Examples, outputs: Array) -> dict[str, list[Any]]:
    """Make the columns of a predictions file: id, reference, label if known, prediction, probabilities."""
    return prediction_table(examples, np.arange(len(examples)), outputs, classifier.fields, thresholds=classifier.thresholds)


def score_examples(classifier: Classifier, examples: Examples, outputs: Array) -> list[str]:
    """Say each metric with its 95 % interval, a line each; for examples that have labels."""
    assert examples.targets is not None, "only labelled examples can be scored"
    task, targets, thresholds = classifier.fields.task, examples.targets, classifier.thresholds
    metrics = task_metrics(task, targets, outputs, thresholds=thresholds)
    intervals = bootstrap_intervals(task, targets, outputs, thresholds=thresholds)
    return [_line(name, value, intervals[name]) for name, value in metrics.items()]


def _line(name: str, value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return f"{name}: undefined on these examples"
    return f"{name}: {value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
