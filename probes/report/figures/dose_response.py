"""How the answer changes with the dose of a direction that is added: a panel for each task."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from probes.report.figures.axes import OKABE_ITO, panel_grid, readable_name
from probes.values import Layer, Result

_STEERING, _DOSE = "steering/", "dose "


def dose_response(results: Iterable[Result]) -> Figure:
    """Draw the change of the log-odds over doses, for each direction at the layer where it steers furthest.

    Args:
        results: Of a study of steering: those of `steering/…` whose `control` is a dose are drawn.

    Raises:
        ValueError: There are none.
    """
    curves: dict[tuple[str, str], dict[Layer, dict[float, Result]]] = {}
    for row in results:
        if row.metric.startswith(_STEERING) and row.control.startswith(_DOSE) and row.layer is not None:
            kind = row.metric.removeprefix(_STEERING)
            by_layer = curves.setdefault((row.task, kind), {})
            by_layer.setdefault(row.layer, {})[float(row.control.removeprefix(_DOSE))] = row
    if not curves:
        raise ValueError("No result is a response to a dose of steering.")
    tasks = list(dict.fromkeys(task for task, _ in curves))
    kinds = list(dict.fromkeys(kind for _, kind in curves))
    rows, columns = panel_grid(len(tasks), columns=4)
    figure = Figure(figsize=(max(5.0, 3.1 * columns), 0.9 + 2.7 * rows), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for task, panel in zip(tasks, panels, strict=False):
        for number, kind in enumerate(kinds):
            by_layer = curves.get((task, kind), {})
            layer = max(by_layer, key=lambda layer: _reach(by_layer[layer]), default=None)
            if layer is None:
                continue
            doses = sorted(by_layer[layer])
            own = [by_layer[layer][dose] for dose in doses]
            low, high = (
                np.array([np.nan if (end := getattr(row, name)) is None else end for row in own])
                for name in ("ci_low", "ci_high")
            )
            colour = OKABE_ITO[number % len(OKABE_ITO)]
            panel.fill_between(doses, low, high, color=colour, alpha=0.15, linewidth=0)
            label = f"{readable_name(kind, 20)}, layer {layer}"
            panel.plot(doses, [row.value for row in own], color=colour, marker="o", markersize=3, label=label)
        panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.set_title(readable_name(task, 30), fontsize=9)
        panel.legend(fontsize=6.5, frameon=False)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    for unused in list(panels):
        unused.remove()
    figure.supxlabel("dose (distances between class means)", fontsize=9)
    figure.supylabel("change of the log-odds of the class (nats)", fontsize=9)
    return figure


def _reach(by_dose: dict[float, Result]) -> float:
    largest = max(by_dose)
    return by_dose[largest].value - by_dose[-largest].value
