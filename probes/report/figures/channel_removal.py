"""What is lost when channels between heads are removed: a row for each channel, with intervals."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from probes.report.figures.axes import OKABE_ITO, readable_name
from probes.values import SIGNIFICANCE_LEVEL, Result

_EFFECT, _BEYOND = "channel_removal/effect", "channel_removal/beyond_others"


def channel_removal(results: Iterable[Result]) -> Figure:
    """Draw the drop of the log-odds for each removed channel, alone and beyond other components of the same head.

    Args:
        results: Of a study of channels.

    Raises:
        ValueError: No channel was removed.
    """
    rows: dict[str, dict[str, Result]] = {}
    for row in results:
        if row.metric in {_EFFECT, _BEYOND}:
            rows.setdefault(row.task, {})[row.metric] = row
    if not rows:
        raise ValueError("No result is the effect of removing a channel.")
    figure = Figure(figsize=(7.2, 1.3 + 0.36 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, (name, own) in enumerate(reversed(rows.items())):
        for metric, colour, shift in ((_EFFECT, OKABE_ITO[0], 0.12), (_BEYOND, OKABE_ITO[1], -0.12)):
            row = own.get(metric)
            if row is None:
                continue
            if row.ci_low is not None and row.ci_high is not None:
                axes.plot([row.ci_low, row.ci_high], [place + shift] * 2, color=colour, linewidth=1.4)
            fill = "white" if row.p is None or row.p >= SIGNIFICANCE_LEVEL else colour
            axes.plot(row.value, place + shift, color=colour, marker="o", markersize=4.5, markerfacecolor=fill)
        axes.annotate(
            readable_name(name, 60), (0, place), xycoords=("axes fraction", "data"), xytext=(-6, 0),
            textcoords="offset points", ha="right", va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(0, color="#999999", linewidth=0.8, zorder=0)
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("drop of the log-odds of the missing item (nats)", fontsize=9)
    labels = ("removed", "beyond other components of the same head")
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4.5, label=label)
        for colour, label in zip(OKABE_ITO, labels, strict=False)
    ]
    handles.append(
        Line2D([], [], color="#777777", marker="o", markersize=4.5, markerfacecolor="white", linestyle="none",
               label="p ≥ 0.05, corrected")
    )  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
