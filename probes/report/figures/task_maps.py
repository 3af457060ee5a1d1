"""Two-dimensional maps of activations, one panel per layer, coloured by task; the coordinates come from elsewhere."""

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

from probes.report.figures.axes import OKABE_ITO, panel_grid, readable_name
from probes.values import Layer

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
_PANEL = 1.95  # inches, side of a panel
_LEGEND_ROW = 0.147  # inches, height of a line of the legend
_CHARACTER = 0.068  # inches, width of a character in the legend


@dataclass(frozen=True)
class TaskMap:
    """One layer's activations in the plane.

    Attributes:
        layer: Name of the layer.
        points: Coordinates without a unit, shape `(n, 2)`; NaN where a row has no coordinates, all NaN for a layer
            whose rows are all equal.
        tasks: The task of each row.
        silhouette: How well the tasks are separated, in [-1, 1]; NaN where unknown.
    """

    layer: Layer
    points: np.ndarray
    tasks: tuple[str, ...]
    silhouette: float

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.tasks), 2):
            raise ValueError(
                f"The map of layer {self.layer} expects points of shape (n, 2) = {(len(self.tasks), 2)}, one for each "
                f"task name; got {self.points.shape}."
            )


def task_maps(maps: Sequence[TaskMap], *, group_of: Mapping[str, str] | None = None) -> Figure:
    """Draw one panel per layer; colours show tasks, markers their groups, titles how well the tasks are separated.

    Panels share neither origin nor scale, but both axes of a panel have the same scale. There are no ticks, since
    directions and units mean nothing in maps such as t-SNE's. The legend beside the panels lists tasks by group, in
    the order of their first appearance.

    Args:
        maps: One per layer.
        group_of: Task → its cluster, or `seen` and `unseen`; `None` gives all tasks the same marker.

    Raises:
        ValueError: There are no maps, or a task is not in `group_of`.
    """
    if not maps:
        raise ValueError("Task maps expect one map per layer; got none.")
    groups = _by_group(maps, group_of)
    colours = dict(zip(groups, _colours(len(groups)), strict=True))
    markers = {group: _MARKERS[k % len(_MARKERS)] for k, group in enumerate(dict.fromkeys(groups.values()))}
    handles = _legend_handles(groups, colours, markers)
    rows, columns = panel_grid(len(maps), columns=5)
    side = 1.7 * _PANEL if len(maps) == 1 else _PANEL
    height = 0.1 + (side + 0.27) * rows
    legend_columns = math.ceil(len(handles) / int((height - 0.1) / _LEGEND_ROW))
    legend_width = legend_columns * (0.45 + _CHARACTER * max(len(str(handle.get_label())) for handle in handles))
    figure = Figure(figsize=((side + 0.08) * columns + legend_width, height), dpi=150, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[len(maps) :]:
        unused.remove()
    for panel, task_map in zip(panels, maps, strict=False):
        _draw_map(panel, task_map, groups, colours, markers)
    _add_legend(figure, handles, legend_columns)
    return figure


def _by_group(maps: Sequence[TaskMap], group_of: Mapping[str, str] | None) -> dict[str, str]:
    """Task → group, with tasks of one group next to each other."""
    tasks = list(dict.fromkeys(task for task_map in maps for task in task_map.tasks))
    if group_of is None:
        return dict.fromkeys(tasks, "")
    if missing := [task for task in tasks if task not in group_of]:
        raise ValueError(f"`group_of` has no group for {', '.join(missing)}; it has {', '.join(group_of) or 'none'}.")
    groups = list(dict.fromkeys(group_of[task] for task in tasks))
    return {task: group_of[task] for task in sorted(tasks, key=lambda task: groups.index(group_of[task]))}


def _colours(count: int) -> list[str]:
    """Colours that colour-blind readers can tell apart, if there are enough of them; otherwise those of a rainbow."""
    if count <= len(OKABE_ITO):
        return list(OKABE_ITO[:count])
    rainbow = colormaps["turbo"](np.linspace(0.04, 0.96, count))[:, :3]
    rainbow[1::2] *= 0.62  # every second one darker, so that neighbours differ by more than a shade
    return [to_hex(colour) for colour in rainbow]


def _draw_map(
    panel: Axes,
    task_map: TaskMap,
    group_of: Mapping[str, str],
    colour_of: Mapping[str, str],
    marker_of: Mapping[str, str],
) -> None:
    groups = np.array([group_of[task] for task in task_map.tasks])
    colours = np.array([colour_of[task] for task in task_map.tasks])
    area = float(np.clip(4500 / max(1, len(groups)), 5, 18))  # square points
    located = np.isfinite(task_map.points).all(axis=1)
    for group in dict.fromkeys(groups[located].tolist()):
        rows = located & (groups == group)
        x, y = task_map.points[rows].T
        panel.scatter(x, y, s=area, c=colours[rows].tolist(), marker=marker_of[group], alpha=0.75, linewidths=0)
    if not located.any():
        panel.text(0.5, 0.5, "no map", transform=panel.transAxes, ha="center", va="center", color="#8c8c8c", fontsize=9)
    panel.set_title(_title(task_map), fontsize=8.5, pad=4)
    panel.set(xticks=[], yticks=[], box_aspect=1)
    panel.set_aspect("equal", adjustable="datalim")
    panel.spines[:].set(color="#bbbbbb", linewidth=0.6)


def _title(task_map: TaskMap) -> str:
    silhouette = f"silhouette {task_map.silhouette:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"layer {task_map.layer}  ·  {silhouette if np.isfinite(task_map.silhouette) else 'no silhouette'}"


def _legend_handles(
    group_of: Mapping[str, str], colour_of: Mapping[str, str], marker_of: Mapping[str, str]
) -> list[Line2D]:
    """One entry per task; if there are groups, each begins with a heading."""
    handles: list[Line2D] = []
    for group, marker in marker_of.items():
        if group:
            handles.append(Line2D([], [], linestyle="none", label=readable_name(group, 30, lines=1), gid="group"))
        for task in (task for task in group_of if group_of[task] == group):
            dot = {"marker": marker, "markersize": 5, "markeredgewidth": 0, "color": colour_of[task]}
            handles.append(Line2D([], [], linestyle="none", label=readable_name(task, 30, lines=1), **dot))
    return handles


def _add_legend(figure: Figure, handles: Sequence[Line2D], columns: int) -> None:
    legend = figure.legend(
        handles=handles, loc="outside right upper", ncols=columns, fontsize=7.5, frameon=False, labelspacing=0.35
    )
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        if handle.get_gid() == "group":
            text.set(weight="bold", color="#444444")
