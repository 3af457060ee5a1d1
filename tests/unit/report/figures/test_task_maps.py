from __future__ import annotations

import numpy as np
import pytest
from drawn_figures import assert_border_is_white, pixels
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from similarity_samples import a_map

from probes.report.figures.task_maps import TaskMap, task_maps

MANY = tuple(f"a_task_with_quite_a_long_name_{k}" for k in range(26))


def legend(figure: Figure) -> dict[str, tuple[str, str]]:
    """Entry → its colour and marker; a heading has no marker."""
    (found,) = figure.legends
    dots = [handle for handle in found.legend_handles if isinstance(handle, Line2D)]
    pairs = zip(found.get_texts(), dots, strict=True)
    return {text.get_text(): (to_hex(dot.get_color()), str(dot.get_marker())) for text, dot in pairs}


def shown(axes: Axes) -> dict[tuple[float, float], tuple[str, tuple]]:
    """Point → its colour and the outline of its marker."""
    points = {}
    for cloud in axes.collections:
        outline = tuple(map(tuple, np.round(np.asarray(cloud.get_paths()[0].vertices), 3)))
        for point, colour in zip(np.asarray(cloud.get_offsets()), np.asarray(cloud.get_facecolor()), strict=True):
            points[tuple(point)] = (to_hex(colour), outline)
    return points


def test_every_point_is_drawn_at_its_coordinates_in_the_colour_of_its_task():
    maps = [a_map(layer, tasks=("sst2", "trec", "rte")) for layer in (0, "final")]
    figure = task_maps(maps)
    colours = {task: colour for task, (colour, _) in legend(figure).items()}
    assert len(set(colours.values())) == 3
    for axes, task_map in zip(figure.axes, maps, strict=True):
        points = shown(axes)
        assert len(points) == len(task_map.tasks)
        for point, task in zip(task_map.points, task_map.tasks, strict=True):
            assert points[tuple(point)][0] == colours[task]


def test_the_title_of_each_panel_shows_layer_and_silhouette():
    maps = [a_map(0, silhouette=float("nan")), a_map(7, silhouette=-0.123), a_map("final", silhouette=0.5)]
    assert [axes.get_title() for axes in task_maps(maps).axes] == [
        "layer 0  ·  no silhouette",
        "layer 7  ·  silhouette \N{MINUS SIGN}0.12",
        "layer final  ·  silhouette 0.50",
    ]


def test_markers_show_the_group_and_the_legend_lists_tasks_by_group():
    group_of = {"sst2": "seen", "trec": "unseen", "rte": "seen"}
    task_map = a_map(tasks=("sst2", "trec", "rte"))
    figure = task_maps([task_map], group_of=group_of)
    entries = legend(figure)
    assert list(entries) == ["seen", "sst2", "rte", "unseen", "trec"]
    assert entries["sst2"][1] == entries["rte"][1] != entries["trec"][1]
    assert (entries["seen"][1], entries["unseen"][1]) == ("None", "None")
    outlines: dict[str, set] = {}
    points = shown(figure.axes[0])
    for point, task in zip(task_map.points, task_map.tasks, strict=True):
        colour, outline = points[tuple(point)]
        assert colour == entries[task][0]
        outlines.setdefault(group_of[task], set()).add(outline)
    assert len(outlines["seen"]) == len(outlines["unseen"]) == 1
    assert outlines["seen"] != outlines["unseen"]


def test_without_groups_all_tasks_have_the_same_marker_and_there_are_no_headings():
    entries = legend(task_maps([a_map(tasks=("sst2", "trec", "rte"))]))
    assert list(entries) == ["sst2", "trec", "rte"]
    assert len({marker for _, marker in entries.values()}) == 1


@pytest.mark.parametrize("count", [8, 9, 26, 68])
def test_every_task_has_a_different_colour(count: int):
    entries = legend(task_maps([a_map(tasks=[f"t{k}" for k in range(count)], rows=2)]))
    assert len({colour for colour, _ in entries.values()}) == count


def test_tasks_of_one_group_have_neighbouring_colours_of_the_rainbow():
    tasks = [f"t{k}" for k in range(12)]
    alone = list(legend(task_maps([a_map(tasks=tasks, rows=1)])).values())
    group_of = {task: "even" if k % 2 == 0 else "odd" for k, task in enumerate(tasks)}
    grouped = legend(task_maps([a_map(tasks=tasks, rows=1)], group_of=group_of))
    in_order = [grouped[task][0] for task in (*tasks[::2], *tasks[1::2])]
    assert in_order == [colour for colour, _ in alone]


def test_a_task_keeps_its_colour_in_layers_without_some_other_task():
    figure = task_maps([a_map(0, tasks=("sst2", "trec")), a_map(1, tasks=("trec",)), a_map(2, tasks=("rte",))])
    colours = {task: colour for task, (colour, _) in legend(figure).items()}
    assert {colour for colour, _ in shown(figure.axes[1]).values()} == {colours["trec"]}
    assert {colour for colour, _ in shown(figure.axes[2]).values()} == {colours["rte"]}


def test_both_axes_of_a_square_panel_have_the_same_scale_and_no_ticks():
    task_map = a_map()
    figure = task_maps([TaskMap(3, task_map.points * [10, 1], task_map.tasks, 0.1)])
    pixels(figure)
    axes = figure.axes[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert right - left == pytest.approx(high - low)
    assert axes.bbox.width == pytest.approx(axes.bbox.height)
    assert (len(axes.get_xticks()), len(axes.get_yticks())) == (0, 0)
    assert left < (task_map.points[:, 0] * 10).min()


def test_rows_without_coordinates_are_left_out_and_a_layer_without_any_says_so():
    some, none = a_map(4), a_map(0)
    some.points[:5, 1] = np.nan
    figure = task_maps([TaskMap(0, none.points * np.nan, none.tasks, float("nan")), some])
    assert [len(shown(axes)) for axes in figure.axes] == [0, 24 - 5]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["no map"], []]
    pixels(figure)


@pytest.mark.parametrize("layers", [1, 7])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_legend_is_outside_the_panels_and_nothing_is_cut_off(layers: int, grouped: bool):
    group_of = {task: f"cluster_number_{k // 3}" for k, task in enumerate(MANY)} if grouped else None
    figure = task_maps([a_map(layer, tasks=MANY, rows=2) for layer in range(layers)], group_of=group_of)
    assert_border_is_white(figure)
    box = figure.legends[0].get_window_extent()
    assert not any(outline.overlaps(box) for axes in figure.axes if (outline := axes.get_tightbbox()) is not None)
    assert box.y0 >= 0
    assert min(axes.bbox.width for axes in figure.axes) > 0.8 * 1.95 * figure.dpi


def test_missing_maps_missing_groups_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expect one map per layer; got none"):
        task_maps([])
    with pytest.raises(ValueError, match="`group_of` has no group for trec; it has sst2"):
        task_maps([a_map()], group_of={"sst2": "seen"})
    with pytest.raises(ValueError, match=r"map of layer 2 expects points of shape \(n, 2\) = \(1, 2\).*got \(3, 2\)"):
        TaskMap(2, np.zeros((3, 2)), ("sst2",), 0.0)
