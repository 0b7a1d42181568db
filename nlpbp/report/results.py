"""What a report says of a model's answers, as plain data: how good they are, which are wrong, and how far they can be believed.

Every function takes a finished run and returns what one section shows, or nothing where the run has no such thing.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nlpbp.core.task import TASKS, target_type
from nlpbp.evaluation.run_folder import RunFolder, at, finite
from nlpbp.report import plots
from nlpbp.report.against import against_sentences
from nlpbp.report.cells import MAX_TEXT, Cell, Drawing, Table, baseline_words, number, words
from nlpbp.tasks.task import LANGUAGE_MODEL, all_metrics, metric_of

MAX_MATRIX = 12  # labels whose confusions can be read from a drawing
SIGNIFICANT = 0.05  # of a slice's adjusted p


@dataclass(frozen=True)
class Strip:
    """Where a value, its interval and other values stand on a common scale, in percent of its width."""

    value: float
    low: float
    high: float
    others: Sequence[float]


@dataclass(frozen=True)
class Score:
    """A metric with its interval, beside the baselines'; `numbers` are the value and those of the baselines."""

    name: str
    cells: Sequence[Cell]
    interval: str
    strip: Strip | None


@dataclass(frozen=True)
class Piece:
    """Some text, how much it spoke for the answer (-1 to 1, None: not known), and whether the model read it."""

    text: str
    weight: float | None
    was_read: bool


def verdict(run: RunFolder) -> list[str]:
    """Say how good the model is and whether that is more than a baseline does, then what else to know first.

    The first sentence is the headline.
    """
    metric = "perplexity" if run.task == LANGUAGE_MODEL else metric_of(run.task).name
    value, interval = run.result["metrics"][run.part][metric], run.result["intervals"][run.part][metric]
    num = run.result["data"]["examples"][run.part]
    where = f"On {num:,} {run.part} {'texts' if run.task == LANGUAGE_MODEL else 'examples'}"
    if value is None:
        return [f"{where} the {words(metric)} is undefined."]
    held = f" (95 % interval {shown(metric, interval[0])} to {shown(metric, interval[1])})" if interval else ""
    measured = f"{shown(metric, value)} of the answers are right" if metric == "accuracy" else f"the {words(metric)} is {value:.3g}"
    said = [f"{where}, {measured}{held}."]
    said += [f"{line[0].upper()}{line[1:]}." for line in against_sentences(run.result)]
    return said + [line for line in (_kept(run), _calibrated(run), _worst_slice(run)) if line]


def scores(run: RunFolder) -> dict[str, list[Score]]:
    """Return the scores of each part, the one that counts first."""
    parts = sorted(run.result["metrics"], key=lambda part: part != run.part)
    return {part: [_score(run, part, metric) for metric in run.result["metrics"][part]] for part in parts}


def baselines(run: RunFolder) -> list[str]:
    """Name the baselines, in the order of the cells of a score."""
    return [baseline_words(run.task, kind) for kind in run.result["baselines"]]


def wrong_answers(run: RunFolder) -> list[dict[str, Any]]:
    """Return the errors that the model was surest of, their texts in pieces."""
    return [
        {
            "reference": str(error.get("reference") or f"example {error.get('id')}"),
            "label": words(error["label"]),
            "prediction": words(error["prediction"]),
            "probability": finite(error.get("probability")),
            "pieces": pieces(error.get("text") or "", error.get("attributions") or (), cut=error.get("truncated_at")),
            "hidden": max(0, len(error.get("text") or "") - MAX_TEXT),
            "image": _picture(error.get("image")),
        }
        for error in run.errors.get("most_confident", ())
    ]


def _picture(encoded: Any) -> str | None:
    """Return a PNG in base64, and nothing else that a file may hold: it goes into the page as an address."""
    if encoded is None:
        return None
    base64.b64decode(encoded, validate=True)  # raises ValueError, which the page's maker tells with the file
    return str(encoded)


def pieces(text: str, weights: Sequence[tuple[str, float]], *, cut: int | None = None) -> list[Piece]:
    """Cut a text where the weight of its words changes and where the model stopped reading; words it does not hold are passed over.

    >>> [(piece.text, piece.weight, piece.was_read) for piece in pieces("so bad, alas", [("bad", 0.5)], cut=7)]
    [('so ', None, True), ('bad', 1.0, True), (',', None, True), (' alas', None, False)]
    """
    most = max((abs(weight) for _, weight in weights), default=0.0) or 1.0
    end, spans = 0, list[tuple[int, int, float]]()
    for word, weight in weights:
        start = text.find(word, end) if word else -1
        if start >= 0:
            end = start + len(word)
            spans.append((start, end, weight / most))
    length = min(len(text), MAX_TEXT)
    edges = sorted({0, length, *(edge for start, end, _ in spans for edge in (start, end)), *([cut] if cut is not None else [])})
    found = []
    for start, end in pairwise(edges):
        if 0 <= start < end <= length:
            share = next((share for low, high, share in spans if low <= start < high), None)
            found.append(Piece(text[start:end], share, cut is None or end <= cut))
    return found


def slices(run: RunFolder) -> tuple[Drawing, Table] | None:
    """Return the groups of examples with their error rates, the worst first."""
    found = run.errors.get("slices", ())
    if not found:
        return None
    head = ("slice", "value", "examples", "errors", "error rate", "95 % interval", "lift", "adjusted p")
    rows = [
        [
            Cell(str(one["slice"])),
            Cell(str(one["value"])),
            number(one["count"]),
            number(one["errors"]),
            number(one["rate"], "{:.1%}"),
            Cell(f"{one['interval'][0]:.1%} to {one['interval'][1]:.1%}", one["interval"][0]),
            number(one["lift"], "{:.2f}"),
            number(one["p_adjusted"], "{:.2g}"),
        ]
        for one in found
    ]
    first = found[0]
    overall = first["rate"] / first["lift"] if first["lift"] else 0.0
    drawn = found[:12]
    svg = plots.slice_rates(
        [f"{one['slice']}: {one['value']}" for one in drawn],
        [one["rate"] for one in drawn],
        [(one["interval"][0], one["interval"][1]) for one in drawn],
        overall=overall,
    )
    return Drawing("Error rate of each group of examples, with its 95 % interval", plots.inline(svg)), Table(head, rows)


def confusions(run: RunFolder) -> tuple[Drawing | None, Table | None] | None:
    """Return which label was answered as which: a drawing where there are few labels, and the most frequent errors."""
    if run.task not in TASKS or target_type(run.task) != "multiclass" or not run.predictions:
        return None
    labels = [str(label) for label in run.result["data"]["labels"]]
    counts = Counter(zip(run.predictions["label"], run.predictions["prediction"], strict=True))
    drawing = None
    if len(labels) <= MAX_MATRIX:
        svg = plots.confusion_matrix([[counts[label, answer] for answer in labels] for label in labels], labels)
        drawing = Drawing(f"{run.part.capitalize()} examples: the label down, the answer across", plots.inline(svg))
    pairs = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]][:20]
    rows = [[Cell(str(label)), Cell(str(answer)), number(count)] for (label, answer), count in pairs]
    return drawing, Table(("label", "answer", "examples"), rows) if rows else None


def calibration(run: RunFolder) -> tuple[list[Drawing], Table, Table | None] | None:
    """Return how far confidence can be believed, before and after one temperature, and accuracy where it answers only when sure.

    That is the drawings, the measures, and the numbers behind the second drawing, where there are any.
    """
    found = run.calibration
    if not found:
        return None
    curves = {
        name: [(one["confidence"], one["accuracy"], one["count"]) for one in found["reliability"][key]]
        for name, key in (("as trained", "before"), (f"at temperature {found['temperature']:.2f}", "after"))
    }
    measures = Table(
        ("measure", "as trained", "at the temperature"),
        [
            [Cell(label), number(found["before"][name]), number(found["after"][name])]
            for name, label in (("ece", "calibration error"), ("brier", "Brier score"), ("log_loss", "log loss, nats"))
        ],
    )
    caption = "On the dashed line, of answers given with 80 % confidence 80 % are right; large dots are many examples"
    drawings = [Drawing(caption, plots.inline(plots.reliability_diagram(curves)))]
    points = [(one["coverage"], one["accuracy"]) for one in found.get("selective", ())]
    if not points:
        return drawings, measures, None
    caption = "Accuracy against coverage, if only the most confident predictions are used and the others are left to a person"
    drawings.append(Drawing(caption, plots.inline(plots.selective_accuracy(points))))
    rows = [[number(share, "{:.0%}"), number(accuracy, "{:.1%}")] for share, accuracy in points]
    return drawings, measures, Table(("coverage, most confident first", "accuracy"), rows)


def shown(metric: str, value: float) -> str:
    """Show a metric's value in a sentence: accuracy in percent."""
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.3g}"


def _score(run: RunFolder, part: str, metric: str) -> Score:
    value, interval = run.result["metrics"][part][metric], at(run.result, "intervals", part, metric)
    others = [at(by_part, part, metric) for by_part in run.result["baselines"].values()]
    cells = [number(each, "{:.4f}") for each in (value, *others)]
    if value is None or not interval:
        return Score(words(metric), cells, "–", None)
    low, high = interval
    # A share stands on the scale from 0 to 1, anything else between the ends of what is shown.
    is_share = metric in all_metrics() and all_metrics()[metric].is_share
    seen = [value, low, high, *(other for other in others if other is not None)]
    start, end = (0.0, 1.0) if is_share else (min(seen), max(seen))
    start, end = (start, end) if is_share else (start - 0.05 * (end - start), end + 0.05 * (end - start) or end + 1.0)
    place = [round(100 * (each - start) / ((end - start) or 1.0), 2) for each in seen]
    return Score(words(metric), cells, f"{low:.4f} to {high:.4f}", Strip(place[0], place[1], place[2], place[3:]))


def _kept(run: RunFolder) -> str:
    step, steps = run.result.get("best_step"), run.result.get("steps")
    if not step or not steps:
        return ""
    return f"The weights are those of step {step:,} of {steps:,}, the best on the validation set. Another seed would give others."


def _calibrated(run: RunFolder) -> str:
    before, after = (finite(at(run.calibration, when, "ece")) for when in ("before", "after"))
    if before is None or after is None:
        return ""
    return (
        f"Its confidence is off by {before:.1%} on average, and by {after:.1%} at temperature {run.calibration['temperature']:.2f}."
    )


def _worst_slice(run: RunFolder) -> str:
    worst = next((one for one in run.errors.get("slices", ()) if one["p_adjusted"] <= SIGNIFICANT and one["lift"] > 1), None)
    if worst is None:
        return ""
    where = f"where {worst['slice']} is {worst['value']}"
    return f"Errors are {worst['lift']:.1f} times as frequent {where}: {worst['rate']:.0%} of those answers are wrong."
