"""Drawings, as SVG text that stands in a page or a file of its own: no date, no font and nothing random in it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

LINE, FAINT, MARKS = "#2563eb", "#9ca3af", ("#dc2626", "#059669", "#d97706")


def rate_curve(
    rates: Sequence[float],
    smoothed: Sequence[float],
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    suggestions: Mapping[str, float],
    *,
    title: str,
) -> str:
    """Draw what a sweep over rates found: the loss of each order (rates, losses), their smoothed mean, and the suggestions.

    >>> rate_curve([1e-3, 1e-2], [2.0, 1.0], [([1e-3, 1e-2], [2.1, 0.9])], {"valley": 5e-3}, title="a sweep").startswith("<?xml")
    True
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for each_rates, losses in curves:
        axes.plot(each_rates, losses, color=FAINT, linewidth=0.7)
    if len(rates):
        axes.plot(rates, smoothed, color=LINE, linewidth=2.0, label="mean, smoothed")
        low, high = min(smoothed), max(smoothed)
        axes.set_ylim(low - 0.15 * (high - low) - 1e-6, high + 0.25 * (high - low) + 1e-6)
    for color, (name, rate) in zip(MARKS, suggestions.items(), strict=False):
        axes.axvline(rate, color=color, linestyle="--", linewidth=1.2, label=f"{name.replace('_', ' ')}: {rate:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return to_svg(figure)


def to_svg(figure: Any) -> str:
    """Return a figure as SVG that is the same every time; its texts stay texts."""
    with matplotlib.rc_context({"svg.hashsalt": "nlpbp", "svg.fonttype": "none"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
