"""What a probe decodes beside what the model uses: two panels over layers, and one against the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.report.figures.axes import OKABE_ITO, readable_name
from probes.report.figures.band_profiles import Curve
from probes.values import layer_depth


def decodable_and_used(
    decodable: Sequence[Curve], used: Sequence[Curve], *, decodable_label: str, used_label: str
) -> Figure:
    """Draw three panels: decodability over layers, use over layers, and use against decodability at the same layers.

    Args:
        decodable: One curve for each task.
        used: Curves of the same names, perhaps at fewer layers.
        decodable_label: Quantity and unit.
        used_label: Quantity and unit.

    Raises:
        ValueError: The names differ.
    """
    names = [curve.name for curve in used]
    if names != [curve.name for curve in decodable]:
        raise ValueError(f"Both sides expect the same tasks; got {[c.name for c in decodable]} and {names}.")
    figure = Figure(figsize=(12.4, 4.4), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for number, (one, other) in enumerate(zip(decodable, used, strict=True)):
        colour = OKABE_ITO[number % len(OKABE_ITO)]
        _draw(left, one, colour)
        _draw(middle, other, colour)
        shared = [layer for layer in other.layers if layer in one.layers]
        x = one.values[[one.layers.index(layer) for layer in shared]]
        y = other.values[[other.layers.index(layer) for layer in shared]]
        right.plot(x, y, color=colour, linewidth=0.6, alpha=0.5)
        right.plot(x, y, color=colour, linestyle="none", marker="o", markersize=4)
        if shared:
            for place in {0, len(shared) - 1}:
                right.annotate(str(shared[place]), (float(x[place]), float(y[place])), fontsize=7, color=colour)
    for axes in (middle, right):
        axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    for axes, x_label, y_label in (
        (left, "layer", decodable_label),
        (middle, "layer", used_label),
        (right, decodable_label, used_label),
    ):
        axes.set_xlabel(x_label, fontsize=9)
        axes.set_ylabel(y_label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    for axes, title in ((left, "decodable"), (middle, "used"), (right, "both, a point for each edited layer")):
        axes.set_title(title, fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    positions = np.array([layer_depth(layer) for layer in curve.layers])
    finite = positions[np.isfinite(positions)]
    positions = np.where(np.isfinite(positions), positions, (finite.max() if finite.size else 0) + 1)
    axes.fill_between(positions, curve.ci_low, curve.ci_high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        positions, curve.values, color=colour, linewidth=1.3, marker="o", markersize=2.5,
        label=readable_name(curve.name, 30),
    )  # fmt: skip
