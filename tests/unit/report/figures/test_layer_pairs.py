from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_figures import assert_border_is_white, legend_texts, marked_cells, pixels
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.transforms import BboxBase
from similarity_samples import a_layer_by_layer

from probes.report.figures.layer_pairs import layer_by_layer_heatmaps

BIG = (*range(31), "final")


def names(axis: Axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def outline(axes: Axes) -> BboxBase:
    """The box of a panel with its title and names."""
    box = axes.get_tightbbox()
    assert box is not None
    return box


def test_rows_are_the_layers_of_x_from_the_bottom_and_columns_the_layers_of_y():
    matrix = a_layer_by_layer(x_layers=(0, 1, 2), y_layers=(0, 1, 2, 3, "final"), names=("base", "tuned"))
    axes, bar = layer_by_layer_heatmaps([matrix]).axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), matrix.values)
    assert image.origin == "lower"
    assert (axes.get_ylim(), axes.get_xlim()) == ((-0.5, 2.5), (-0.5, 4.5))
    assert (names(axes.yaxis), names(axes.xaxis)) == (["0", "1", "2"], ["0", "1", "2", "3", "final"])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("layer of base", "layer of tuned")
    assert (bar.get_ylabel(), axes.get_title()) == ("cka", "sst2  (n = 400)")


def test_the_colour_bar_shows_the_unit_beside_the_quantity():
    assert layer_by_layer_heatmaps([replace(a_layer_by_layer(), unit="bits")]).axes[-1].get_ylabel() == "cka\n(bits)"


def test_the_line_joins_the_corners_and_says_whether_layers_or_relative_depths_are_equal():
    same, other = a_layer_by_layer(), a_layer_by_layer(y_layers=range(7))
    for matrix, label in ((same, "same layer"), (other, "same relative depth")):
        figure = layer_by_layer_heatmaps([matrix])
        lines = [line for line in figure.axes[0].lines if line.get_gid() == "diagonal"]
        assert lines
        for line in lines:
            columns = len(matrix.y_layers)
            np.testing.assert_array_equal(line.get_xydata(), [[-0.5, -0.5], [columns - 0.5, 3.5]])
        assert legend_texts(figure) == [label]


def test_cells_without_value_are_hatched_and_counted_over_all_panels():
    values = np.array([[0.1, np.nan], [0.3, np.inf]])
    matrices = [a_layer_by_layer(task, x_layers=(0, 1), values=values) for task in ("a", "b")]
    figure = layer_by_layer_heatmaps(matrices)
    assert [marked_cells(axes, "missing") for axes in figure.axes[:2]] == [{(0, 1), (1, 1)}] * 2
    assert "4 cells without a value" in legend_texts(figure)
    one = a_layer_by_layer(x_layers=(0, 1), values=np.array([[np.nan, 0.2], [0.3, 0.1]]))
    assert "1 cell without a value" in legend_texts(layer_by_layer_heatmaps([one]))
    pixels(figure)


def test_all_panels_share_the_scale_of_all_their_values():
    low = a_layer_by_layer("low", x_layers=(0, 1), values=np.array([[-0.1, 0.2], [0.3, np.nan]]))
    high = a_layer_by_layer("high", x_layers=(0, 1), values=np.array([[0.5, 0.6], [0.9, 0.7]]))
    figure = layer_by_layer_heatmaps([low, high])
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [(-0.1, 0.9)] * 2
    assert [axes.get_title() for axes in figure.axes[:2]] == ["low  (n = 400)", "high  (n = 400)"]
    assert figure.axes[0].images[0].get_cmap().name == "viridis"


@pytest.mark.parametrize("side", [-1, 1])
def test_a_signed_quantity_is_centred_at_zero(side: int):
    values = [side * np.array([[-0.1, k], [0.1, 0.2]]) for k in (0.3, 0.5)]
    matrices = [a_layer_by_layer(quantity="tuning_gain", x_layers=(0, 1), values=v) for v in values]
    image = layer_by_layer_heatmaps(matrices).axes[0].images[0]
    assert (image.get_clim(), image.get_cmap().name) == ((-0.5, 0.5), "RdBu_r")


@pytest.mark.parametrize("value", [np.nan, 0.5])
def test_a_matrix_of_one_value_or_none_is_drawn(value: float):
    figure = layer_by_layer_heatmaps([a_layer_by_layer(x_layers=(0,), values=np.array([[value]]))])
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)  # one value has the middle colour
    pixels(figure)


@pytest.mark.parametrize(("count", "y_layers"), [(1, BIG), (7, BIG), (2, range(5)), (1, range(2))])
def test_nothing_is_cut_off_or_overlaps(count: int, y_layers):
    long = "HuggingFaceTB/SmolLM2-135M-Instruct"
    sample = a_layer_by_layer(x_layers=BIG, y_layers=y_layers, names=(long, f"{long} + runs/tuning/experimental"))
    figure = layer_by_layer_heatmaps([replace(sample, task=f"definite_pronoun_resolution_{k}") for k in range(count)])
    assert_border_is_white(figure)
    panels, legend = figure.axes[:count], figure.legends[0].get_window_extent()
    boxes = [outline(axes) for axes in panels]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[number + 1 :], legend, figure.axes[-1].bbox])
    if y_layers == BIG:
        np.testing.assert_allclose([axes.bbox.width / axes.bbox.height for axes in panels], 1, atol=0.15)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"quantity": "rsa"}, "must have the same `quantity`; got cka and rsa. Draw them in separate figures"),
        ({"unit": "bits"}, "the same `unit`"),
        ({"x_name": "base"}, "the same `x_name`; got control and base"),
        ({"y_name": "base"}, "the same `y_name`"),
        ({"x_layers": (0, 1, 2, 3)}, r"the same `x_layers`; got \(0, 1, 2, 'final'\) and \(0, 1, 2, 3\)"),
        ({"y_layers": (0, 1, 2, 3)}, "the same `y_layers`"),
        ({"reading": replace(a_layer_by_layer().reading, pooling="mean")}, "decoder.residual.last and decoder.resid"),
    ],
)
def test_matrices_that_cannot_share_a_scale_or_axes_are_refused(change, why: str):
    with pytest.raises(ValueError, match=why):
        layer_by_layer_heatmaps([a_layer_by_layer("a"), replace(a_layer_by_layer("b"), **change)])


def test_a_figure_without_cells_is_refused():
    with pytest.raises(ValueError, match="expect matrices with cells; got none for any task"):
        layer_by_layer_heatmaps([])
    with pytest.raises(ValueError, match="got none for task 'sst2'"):
        layer_by_layer_heatmaps([a_layer_by_layer(x_layers=(), values=np.empty((0, 0)))])
