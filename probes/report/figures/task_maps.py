"""Maps of activations in the plane, one panel a layer, coloured by task; their coordinates are computed elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from probes.report.figures.axes import readable_name
from probes.values import Layer

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
_FEW = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#6b6b00")  # Okabe and Ito
_PANEL = 1.95  # inches a side
_LEGEND_ROW = 0.147  # inches
_CHARACTER = 0.068  # inches


@dataclass(frozen=True)
class TaskMap:
    """One layer's activations in the plane.

    Attributes:
        layer: Its name.
        points: Coordinates without unit, shape `(n, 2)`; NaN where a row has no place, all NaN for a constant layer.
        tasks: The task of each row.
        silhouette: How well tasks stand apart, in [-1, 1]; NaN where unknown.
    """

    layer: Layer
    points: np.ndarray
    tasks: tuple[str, ...]
    silhouette: float

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.tasks), 2):
            raise ValueError(
                f"The map of layer {self.layer} expects points of shape (n, 2) = {(len(self.tasks), 2)}, one task name "
                f"a point; got {self.points.shape}."
            )


def task_maps(maps: Sequence[TaskMap], *, group_of: Mapping[str, str] | None = None) -> Figure:
    """Draw one panel a layer; colour tells the task, the marker its group, the title how well tasks stand apart.

    Panels share neither origin nor scale, and within one the two axes have one scale; neither direction nor unit means
    anything in a map such as t-SNE's, so there are no ticks. Tasks are listed beside the panels by group, in the order
    of their first appearance.

    Args:
        maps: One a layer.
        group_of: Task → its cluster, or `seen` and `unseen`; `None`: one marker for all.

    Raises:
        ValueError: There are no maps, or `group_of` leaves a task out.
    """
    if not maps:
        raise ValueError("Task maps expect one map a layer; got none.")
    tasks = _by_group(maps, group_of)
    colours = dict(zip(tasks, _colours(len(tasks)), strict=True))
    markers = {group: _MARKERS[k % len(_MARKERS)] for k, group in enumerate(dict.fromkeys(tasks.values()))}
    rows, columns = _grid(len(maps))
    handles = _handles(tasks, colours, markers)
    side = 1.7 * _PANEL if len(maps) == 1 else _PANEL
    height = 0.1 + (side + 0.27) * rows
    legend_columns = math.ceil(len(handles) / int((height - 0.1) / _LEGEND_ROW))
    legend_width = legend_columns * (0.45 + _CHARACTER * max(len(str(handle.get_label())) for handle in handles))
    figure = Figure(figsize=((side + 0.08) * columns + legend_width, height), dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(maps) :]:
        panel.remove()
    for panel, drawn in zip(panels, maps, strict=False):
        _draw_map(panel, drawn, tasks, colours, markers)
    _legend(figure, handles, legend_columns)
    return figure


def _by_group(maps: Sequence[TaskMap], group_of: Mapping[str, str] | None) -> dict[str, str]:
    """Task → group, tasks of one group next to each other."""
    tasks = list(dict.fromkeys(task for drawn in maps for task in drawn.tasks))
    if group_of is None:
        return dict.fromkeys(tasks, "")
    if missing := [task for task in tasks if task not in group_of]:
        raise ValueError(f"`group_of` has no group for {', '.join(missing)}; it has {', '.join(group_of) or 'none'}.")
    groups = list(dict.fromkeys(group_of[task] for task in tasks))
    return {task: group_of[task] for task in sorted(tasks, key=lambda task: groups.index(group_of[task]))}


def _colours(count: int) -> list[str]:
    """Colours that colour-blind readers tell apart while they last; then those of the rainbow."""
    if count <= len(_FEW):
        return list(_FEW[:count])
    rainbow = colormaps["turbo"](np.linspace(0.04, 0.96, count))[:, :3]
    rainbow[1::2] *= 0.62  # every other one darker, so that neighbours differ by more than a shade
    return [to_hex(colour) for colour in rainbow]


def _grid(panels: int) -> tuple[int, int]:
    columns = min(5, panels) if panels <= 5 else min(5, math.ceil(math.sqrt(panels)))
    return math.ceil(panels / columns), columns


def _draw_map(
    panel: Axes, drawn: TaskMap, tasks: Mapping[str, str], colours: Mapping[str, str], markers: Mapping[str, str]
) -> None:
    groups = np.array([tasks[task] for task in drawn.tasks])
    shades = np.array([colours[task] for task in drawn.tasks])
    area = float(np.clip(4500 / max(1, len(groups)), 5, 18))
    placed = np.isfinite(drawn.points).all(axis=1)
    for group in dict.fromkeys(groups[placed].tolist()):
        rows = placed & (groups == group)
        x, y = drawn.points[rows].T
        panel.scatter(x, y, s=area, c=shades[rows].tolist(), marker=markers[group], alpha=0.75, linewidths=0)
    if not placed.any():
        panel.text(0.5, 0.5, "no map", transform=panel.transAxes, ha="center", va="center", color="#8c8c8c", fontsize=9)
    panel.set_title(_title(drawn), fontsize=8.5, pad=4)
    panel.set(xticks=[], yticks=[], box_aspect=1)
    panel.set_aspect("equal", adjustable="datalim")
    panel.spines[:].set(color="#bbbbbb", linewidth=0.6)


def _title(drawn: TaskMap) -> str:
    known = np.isfinite(drawn.silhouette)
    silhouette = f"silhouette {drawn.silhouette:.2f}".replace("-", "\N{MINUS SIGN}") if known else "no silhouette"
    return f"layer {drawn.layer}  ·  {silhouette}"


def _handles(tasks: Mapping[str, str], colours: Mapping[str, str], markers: Mapping[str, str]) -> list[Line2D]:
    """One entry a task, each group under a heading of its own where there are groups."""
    handles: list[Line2D] = []
    for group, marker in markers.items():
        if group:
            handles.append(Line2D([], [], linestyle="none", label=readable_name(group, 30, lines=1), gid="group"))
        for task in (task for task in tasks if tasks[task] == group):
            dot = {"marker": marker, "markersize": 5, "markeredgewidth": 0, "color": colours[task]}
            handles.append(Line2D([], [], linestyle="none", label=readable_name(task, 30, lines=1), **dot))
    return handles


def _legend(figure: Figure, handles: Sequence[Line2D], columns: int) -> None:
    legend = figure.legend(
        handles=handles, loc="outside right upper", ncols=columns, fontsize=7.5, frameon=False, labelspacing=0.35
    )
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        if handle.get_gid() == "group":
            text.set(weight="bold", color="#444444")
