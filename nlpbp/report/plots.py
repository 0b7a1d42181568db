"""Drawings, as SVG text that stands in a page or a file of its own: no date, no font and nothing random in it.

Texts in them may come from data: none is read as a formula, and `to_svg` escapes them. Colours are those of a white sheet; `inline`
gives a page's style the choice.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

LINE, FAINT, MARKS = "#2563eb", "#9ca3af", ("#dc2626", "#059669", "#d97706")
RED, GREEN, AMBER = MARKS
NAMES = {"#000000": "ink", "#ffffff": "paper", LINE: "blue", FAINT: "faint", RED: "red", GREEN: "green", AMBER: "amber"}
"""What a page's style calls the colours: `var(--ink)` and so on."""

MAX_POINTS = 500  # of a curve: more cannot be told apart on a page, and make it slow
MAX_LABEL = 18  # characters
SMALL, WIDE = (4.6, 2.7), (6.4, 3.8)  # inches

Curve = tuple[Sequence[float], Sequence[float]]


def rate_curve(
    rates: Sequence[float],
    smoothed: Sequence[float],
    curves: Sequence[Curve],
    suggestions: Mapping[str, float],
    *,
    title: str,
    size: tuple[float, float] = WIDE,
) -> str:
    """Draw what a sweep over rates found: the loss of each order (rates, losses), their smoothed mean, and the suggestions.

    >>> rate_curve([1e-3, 1e-2], [2.0, 1.0], [([1e-3, 1e-2], [2.1, 0.9])], {"valley": 5e-3}, title="a sweep").startswith("<?xml")
    True
    """
    with _axes(size) as (figure, axes):
        for each_rates, losses in curves:
            axes.plot(each_rates, losses, color=FAINT, linewidth=0.7)
        if len(rates):
            axes.plot(rates, smoothed, color=LINE, linewidth=2.0, label="mean, smoothed")
            low, high = min(smoothed), max(smoothed)
            axes.set_ylim(low - 0.15 * (high - low) - 1e-6, high + 0.25 * (high - low) + 1e-6)
        for color, (name, rate) in zip((*MARKS, LINE, FAINT), suggestions.items(), strict=False):
            axes.axvline(rate, color=color, linestyle="--", linewidth=1.2, label=f"{name.replace('_', ' ')}: {rate:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=title)
        _plain_powers(axes.xaxis)
        _legend(axes)
        return to_svg(figure)


def applied_rates(steps: Sequence[int], rates: Sequence[float], *, stage_ends: Sequence[int] = ()) -> str:
    """Draw the highest rate of any layer group at each step, as it was applied.

    >>> "learning rate" in applied_rates([1, 2, 3], [0.1, 0.2, 0.1])
    True
    """
    with _axes(SMALL) as (figure, axes):
        axes.plot(*thinned(steps, rates), color=LINE, linewidth=1.6)
        axes.set(xlabel="step", ylabel="learning rate")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}".replace("e-0", "e-") if rate else "0")
        _stages(axes, stage_ends)
        return to_svg(figure)


def loss_curves(train: Curve, validation: Curve, *, best_step: int | None = None, stage_ends: Sequence[int] = ()) -> str:
    """Draw the training loss of the steps and its running mean, the validation loss, and the step whose weights were kept.

    >>> "validation" in loss_curves(([1, 2], [0.7, 0.6]), ([2], [0.65]), best_step=2)
    True
    """
    with _axes(SMALL) as (figure, axes):
        axes.plot(*thinned(*train), color=FAINT, linewidth=0.7, alpha=0.7)
        axes.plot(*thinned(train[0], running_mean(train[1])), color=LINE, linewidth=1.6, label="training, mean so far")
        if validation[0]:
            axes.plot(*validation, color=AMBER, marker="o", markersize=4, linewidth=1.4, label="validation")
        if best_step is not None:
            axes.axvline(best_step, color=GREEN, linestyle="--", linewidth=1.0, label=f"kept: step {best_step:,}")
        axes.set(xlabel="step", ylabel="loss")
        _stages(axes, stage_ends)
        _legend(axes)
        return to_svg(figure)


def gradient_norms(
    steps: Sequence[int], norms: Sequence[float], *, bounds: Sequence[tuple[int, int, float]] = (), stage_ends: Sequence[int] = ()
) -> str:
    """Draw the gradient's norm before clipping, and what it was clipped to: (first step, last step, norm).

    >>> "clipped to 1" in gradient_norms([1, 2], [0.5, 3.0], bounds=[(1, 2, 1.0)])
    True
    """
    with _axes(SMALL) as (figure, axes):
        axes.plot(*thinned(steps, norms), color=LINE, linewidth=1.0)
        for first, last, bound in bounds:
            axes.plot([first, last], [bound, bound], color=RED, linestyle="--", linewidth=1.2, label=f"clipped to {bound:g}")
        if len(norms) and min(norms) > 0:
            axes.set_yscale("log")
            _plain_powers(axes.yaxis)
        axes.set(xlabel="step", ylabel="gradient norm")
        _stages(axes, stage_ends)
        _legend(axes)
        return to_svg(figure)


def confusion_matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Draw how often each label (a row) was answered by each (a column); the tint is the share of its row.

    >>> "<svg" in confusion_matrix([[9, 1], [2, 8]], ["$neg$", "<pos>"])
    True
    """
    names, num = [_shortened(label) for label in labels], len(labels)
    side = 1.6 + 0.42 * max(num, 3)
    with _axes((side + 0.6, side)) as (figure, axes):
        for row, (label_counts, total) in enumerate(zip(counts, map(sum, counts), strict=True)):
            for column, count in enumerate(label_counts):
                share = count / max(1, total)
                color = LINE if row == column else RED
                axes.fill(
                    [column, column + 1, column + 1, column], [row, row, row + 1, row + 1], color=color, alpha=0.06 + 0.6 * share
                )
                axes.text(column + 0.5, row + 0.5, f"{count:,}", ha="center", va="center")
        axes.set(xlim=(0, num), ylim=(num, 0), aspect="equal", xlabel="answer", ylabel="label")
        middles = [index + 0.5 for index in range(num)]
        axes.set_xticks(middles, names, rotation=0 if max(map(len, names)) * num < 24 else 45)
        axes.set_yticks(middles, names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return to_svg(figure)


def reliability_diagram(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Draw accuracy against confidence, for each name's bins (confidence, accuracy, count): on the diagonal it is calibrated.

    >>> "as trained" in reliability_diagram({"as trained": [(0.9, 0.8, 30)]})
    True
    """
    with _axes(SMALL) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1.0)
        for color, (name, bins) in zip((LINE, GREEN), curves.items(), strict=False):
            filled = [(confidence, accuracy, count) for confidence, accuracy, count in bins if count]
            most = max((count for _, _, count in filled), default=1)
            axes.plot([x for x, _, _ in filled], [y for _, y, _ in filled], color=color, linewidth=1.4, label=name)
            axes.scatter(
                [x for x, _, _ in filled], [y for _, y, _ in filled], s=[8 + 50 * n / most for _, _, n in filled], color=color
            )
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
        _legend(axes)
        return to_svg(figure)


def selective_accuracy(points: Sequence[tuple[float, float]]) -> str:
    """Draw how accurate the surest answers are against the share that is answered, from (share, accuracy).

    >>> "most confident first" in selective_accuracy([(0.5, 0.9), (1.0, 0.8)])
    True
    """
    with _axes(SMALL) as (figure, axes):
        shares, accuracies = zip(*sorted(points), strict=True)
        axes.axhline(accuracies[-1], color=FAINT, linestyle="--", linewidth=1.0, label=f"all answered: {accuracies[-1]:.1%}")
        axes.plot(shares, accuracies, color=LINE, linewidth=1.6, marker="o", markersize=3)
        axes.set(xlabel="coverage, most confident first", ylabel="accuracy", xlim=(0, 1.03))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
        _legend(axes)
        return to_svg(figure)


def slice_rates(names: Sequence[str], rates: Sequence[float], intervals: Sequence[tuple[float, float]], *, overall: float) -> str:
    """Draw the error rate of each slice of the examples with its interval, beside that of all.

    >>> "all examples" in slice_rates(["length 1 to 9"], [0.2], [(0.1, 0.3)], overall=0.1)
    True
    """
    with _axes((SMALL[0], 1.0 + 0.27 * len(names))) as (figure, axes):
        axes.axvline(overall, color=FAINT, linestyle="--", linewidth=1.0, label=f"all examples: {overall:.1%}")
        for row, (low, high) in enumerate(intervals):
            axes.plot([low, high], [row, row], color=LINE, linewidth=5, alpha=0.25, solid_capstyle="butt")
        axes.plot(rates, range(len(names)), color=LINE, linestyle="none", marker="o", markersize=5)
        axes.set_yticks(range(len(names)), [_shortened(name, limit=30) for name in names])
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="error rate")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:.0%}")
        _legend(axes)
        return to_svg(figure)


def thinned(steps: Sequence[float], values: Sequence[float], *, limit: int = MAX_POINTS) -> Curve:
    """Return a curve of at most `limit` points, each the mean of its neighbours.

    >>> thinned([1, 2, 3, 4], [1.0, 3.0, 5.0, 7.0], limit=2)
    ([1.5, 3.5], [2.0, 6.0])
    """
    if len(steps) <= limit:
        return list(steps), list(values)
    edges = [len(steps) * point // limit for point in range(limit + 1)]
    spans = [slice(*span) for span in pairwise(edges)]
    return [_mean(steps[span]) for span in spans], [_mean(values[span]) for span in spans]


def running_mean(values: Sequence[float], *, keep: float = 0.9) -> list[float]:
    """Return the exponential mean so far, without the bias of its beginning.

    >>> running_mean([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    """
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1.0
        means.append(total / weight)
    return means


def to_svg(figure: Any) -> str:
    """Return a figure as SVG that is the same every time; its texts stay texts."""
    with matplotlib.rc_context({"svg.hashsalt": "nlpbp", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page that shows it has other fonts
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def inline(svg: str) -> str:
    """Turn one of these drawings into an element for a page: as wide as it likes, in the page's colours, with no address in it.

    >>> shown = inline(applied_rates([1, 2], [0.1, 0.2]))
    >>> shown.startswith("<svg viewBox="), "http" in shown, "var(--blue)" in shown
    (True, False, True)
    """
    (width, height), body = _size(svg), svg[svg.index(">", svg.index("<svg")) + 1 :]
    for dropped in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r'(?<=<g) id="[^"]*"', r"<!--.*?-->"):
        body = re.sub(dropped, "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"((?:fill|stroke): )(#[0-9a-f]{6})", lambda found: found[1] + _named(found[2]), body)
    return f'<svg viewBox="0 0 {width} {height}" style="max-width: {1.5 * float(width):.0f}px" aria-hidden="true">{body.strip()}'


def _size(svg: str) -> tuple[str, str]:
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found, "matplotlib gives its size"
    return found[1], found[2]


def _named(color: str) -> str:
    return f"var(--{NAMES[color]})" if color in NAMES else color


@contextmanager
def _axes(size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """Give an empty figure of `size` in inches and its axes; what is drawn on them shares one style."""
    style: Any = {
        "text.parse_math": False,  # a label may hold dollar signs
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": FAINT,
        "xtick.labelcolor": "black",
        "ytick.color": FAINT,
        "ytick.labelcolor": "black",
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(alpha=0.25, color=FAINT, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        yield figure, axes


def _plain_powers(axis: Any) -> None:
    """Label a logarithmic axis without formulas."""
    axis.set_major_formatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else f"{value:.0e}".replace("e-0", "e-"))
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if _decades(axis) < 2 else (1,), numticks=8))
    axis.set_minor_formatter(NullFormatter())


def _decades(axis: Any) -> float:
    low, high = axis.get_view_interval()
    return math.log10(high / low) if 0 < low < high else 0.0


def _stages(axes: Any, ends: Sequence[int]) -> None:
    for end in ends:
        axes.axvline(end, color=FAINT, linestyle=":", linewidth=1.0)


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False,
            fontsize=8,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            ncols=3,
            handlelength=1.6,
            columnspacing=1.2,
        )


def _shortened(label: str, *, limit: int = MAX_LABEL) -> str:
    r"""Make a label fit for an axis: no longer than `limit`, in one line, without what XML cannot hold."""
    shown = label if len(label) <= limit else label[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "·" for c in shown)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
