"""Activations of tuned models in the base and back: a panel for each way, a curve for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from probes.report.figures.axes import OKABE_ITO, readable_name
from probes.report.figures.band_profiles import Curve
from probes.values import layer_depth


def model_patching(panels: Mapping[str, Sequence[Curve]], *, label: str) -> Figure:
    """Draw how much of a gap between two models is closed when a layer of one goes on in the other.

    Args:
        panels: Which model goes into which → a curve for each task, with 95 % intervals.
        label: Quantity and unit of all curves.
    """
    figure = Figure(figsize=(3.1 * len(panels) + 0.6, 3.9), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(curve.name for curves in panels.values() for curve in curves))
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            colour = OKABE_ITO[names.index(curve.name) % len(OKABE_ITO)]
            positions = np.array([layer_depth(layer) for layer in curve.layers])
            panel.fill_between(positions, curve.ci_low, curve.ci_high, color=colour, alpha=0.15, linewidth=0)
            panel.plot(positions, curve.values, color=colour, linewidth=1.3, marker="o", markersize=2.5)
        for height in (0, 1):
            panel.axhline(height, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.set_title(title.replace("_", " "), fontsize=9)
        panel.set_xlabel("layer", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(label, fontsize=9)
    axes[0].set_ylim(-0.75, 1.75)  # beyond, a share is of a gap that is hardly there
    handles = [
        axes[0].plot([], [], color=OKABE_ITO[number % len(OKABE_ITO)], label=readable_name(name, 30))[0]
        for number, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure
