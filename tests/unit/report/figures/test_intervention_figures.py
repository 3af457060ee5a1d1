"""Figures of the studies of interventions show each task's values where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from probes.report.figures.band_profiles import Curve
from probes.report.figures.decodable_used import decodable_and_used
from probes.report.figures.dose_response import dose_response
from probes.report.figures.model_patching import model_patching
from probes.values import Result


def curve(name: str, layers: tuple, values: list[float]) -> Curve:
    array = np.array(values)
    return Curve(name, layers, array, array - 0.1, array + 0.1)


def test_a_point_of_the_scatter_is_an_edited_layer():
    decodable = [curve("a", (0, 1, 2, 3), [0.5, 0.6, 0.7, 0.8])]
    used = [curve("a", (1, 3), [0.1, 0.9])]
    figure = decodable_and_used(decodable, used, decodable_label="F1", used_label="nats")
    left, middle, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [0.5, 0.6, 0.7, 0.8]
    assert middle.lines[0].get_xdata().tolist() == [1, 3]
    points = next(line for line in right.lines if line.get_linestyle() == "None")
    assert list(zip(points.get_xdata(), points.get_ydata(), strict=True)) == [(0.6, 0.1), (0.8, 0.9)]
    assert {text.get_text() for text in right.texts} == {"1", "3"}


def test_both_sides_need_the_same_tasks():
    with pytest.raises(ValueError, match=r"same tasks; got \['a'\] and \['b'\]"):
        decodable_and_used([curve("a", (0,), [1])], [curve("b", (0,), [1])], decodable_label="", used_label="")


def row(kind: str, layer: int, dose: float, value: float) -> Result:
    return Result(task="t", metric=f"steering/{kind}", layer=layer, control=f"dose {dose:+g}", value=value)


def test_each_direction_is_drawn_at_the_layer_where_it_steers_furthest():
    rows = [row("probe", layer, dose, layer * dose) for layer in (1, 2) for dose in (-1.0, 1.0)]
    figure = dose_response([*rows, Result(metric="steering/probe", layer=3, value=9.0)])
    (panel,) = figure.axes
    (drawn,) = [line for line in panel.lines if len(line.get_xdata()) == 2 and "probe" in str(line.get_label())]
    assert drawn.get_ydata().tolist() == [-2.0, 2.0]
    assert drawn.get_label() == "probe, layer 2"


def test_without_doses_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="No result is a response to a dose"):
        dose_response([Result(metric="macro_f1", layer=1, value=0.5)])


def test_each_way_between_models_has_a_panel_and_each_task_one_colour():
    panels = {
        "control_into_base": [curve("a", (0, 5), [0.0, 1.0]), curve("b", (0, 5), [0.0, 0.5])],
        "base_into_control": [curve("b", (0, 5), [0.1, 1.0])],
    }
    figure = model_patching(panels, label="share")
    one, other = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["control into base", "base into control"]
    drawn = [line for line in one.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in drawn] == [[0.0, 1.0], [0.0, 0.5]]
    (again,) = [line for line in other.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert again.get_color() == drawn[1].get_color() != drawn[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
