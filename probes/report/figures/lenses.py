"""What lenses see over layers: a column for each task, a row for each quantity, a curve for each lens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probes.report.figures.axes import OKABE_ITO, readable_name
from probes.values import Layer, Result, layer_depth

_LENSES = {"logit_lens": OKABE_ITO[0], "tuned_lens": OKABE_ITO[1]}
_QUANTITIES = {
    "log10_rank": "rank of the answer's first token",
    "log_odds": "log-odds of the right answer (nats)",
    "kl": "KL from the model's distribution (nats)",
}


def lens_curves(results: Iterable[Result]) -> Figure:
    """Draw rank, log-odds and divergence over layers; dashed lines are controls, in the colour of their lens.

    Args:
        results: Of a study of lenses.

    Raises:
        ValueError: There are none.
    """
    found: dict[tuple[str, str, str, str], list[Result]] = {}  # by task, quantity, lens and control
    for row in results:
        lens, _, quantity = row.metric.partition("/")
        if lens in _LENSES and quantity in _QUANTITIES and row.layer is not None and np.isfinite(row.value):
            found.setdefault((row.task, quantity, lens, row.control), []).append(row)
    if not found:
        raise ValueError("No result is one of a lens.")
    tasks = list(dict.fromkeys(task for task, *_ in found))
    size = (1.2 + 2.7 * len(tasks), 0.7 + 2.2 * len(_QUANTITIES))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(len(_QUANTITIES), len(tasks), squeeze=False, sharex=True)
    for row_of_panels, (quantity, label) in zip(grid, _QUANTITIES.items(), strict=True):
        labelled = False
        for panel, task in zip(row_of_panels, tasks, strict=True):
            own = {key[2:]: rows for key, rows in found.items() if key[:2] == (task, quantity)}
            if not own:
                panel.remove()
                continue
            for (lens, control), rows in own.items():
                _draw(panel, rows, lens, control)
            panel.set_title(readable_name(task, 26), fontsize=9)
            panel.tick_params(labelsize=7.5)
            panel.spines[["top", "right"]].set_visible(False)
            if quantity == "log10_rank":
                panel.set_ylim(bottom=-0.1)
                panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
                panel.yaxis.set_major_formatter(lambda power, _: f"{10**power:,.0f}")
                panel.invert_yaxis()
            elif quantity == "kl":
                panel.set_yscale("symlog", linthresh=0.1)
                panel.set_ylim(bottom=0)
            else:
                panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
            if not labelled:
                panel.set_ylabel(label, fontsize=8)
                labelled = True
    for panel in grid[-1]:
        panel.set_xlabel("layer", fontsize=8)
    lines = {str(line.get_label()): line for panel in figure.axes for line in panel.get_lines()}
    shown = {name: line for name, line in lines.items() if not name.startswith("_")}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, rows: list[Result], lens: str, control: str) -> None:
    rows = sorted(rows, key=lambda row: layer_depth(_layer(row)))
    x, y = [layer_depth(_layer(row)) for row in rows], [row.value for row in rows]
    low, high = (
        np.array([np.nan if (end := getattr(row, name)) is None else end for row in rows])
        for name in ("ci_low", "ci_high")
    )
    name = lens.replace("_", " ")
    if control:
        label = f"{control.replace('_', ' ')}, {name}" if control == "content_free" else control
        colour = _LENSES[lens] if control == "content_free" else "#777777"
        axes.plot(x, y, color=colour, linewidth=1.0, linestyle="--", label=label)
        return
    axes.fill_between(x, low, high, color=_LENSES[lens], alpha=0.18, linewidth=0)
    axes.plot(x, y, color=_LENSES[lens], linewidth=1.4, marker="o", markersize=2.2, label=name)


def _layer(row: Result) -> Layer:
    assert row.layer is not None
    return row.layer
