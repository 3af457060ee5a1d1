from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from drawn_figures import assert_border_is_white, legend_texts, marked_cells, pixels
from report_samples import a_matrix, best_at

from probes.report import heatmap, profiles
from probes.values import Layer

BIG_LAYERS = (*range(31), "final")
LONG_TASKS = tuple(f"a_task_with_quite_a_long_name_{k}" for k in range(14))


class TestHeatmap:
    def test_it_shows_every_cell_layer_and_task(self):
        matrix = a_matrix()
        figure = heatmap(matrix)
        axes = figure.axes[0]
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), matrix.values)
        assert axes.get_ylim() == (-0.5, 3.5)  # layer 0 at the bottom
        assert [label.get_text() for label in axes.get_xticklabels()] == ["sst2", "trec", "topic"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "final"]
        assert figure.axes[1].get_ylabel() == "probe/accuracy\n(share of rows)"

    @pytest.mark.parametrize("draw", [heatmap, profiles])
    def test_labels_of_a_large_matrix_are_neither_cut_off_nor_overlapping(self, draw):
        figure = draw(a_matrix(layers=BIG_LAYERS, tasks=LONG_TASKS), best_layers=best_at(dict.fromkeys(LONG_TASKS, 5)))
        assert_border_is_white(figure)
        for axes in figure.axes:
            boxes = [label.get_window_extent() for label in axes.get_yticklabels() if label.get_text()]
            assert not any(low.overlaps(high) for low, high in pairwise(boxes))

    def test_small_matrices_show_their_numbers_and_large_ones_do_not(self):
        matrix = a_matrix()
        assert {text.get_text() for text in heatmap(matrix).axes[0].texts} == {f"{v:.2f}" for v in matrix.values.flat}
        assert not heatmap(a_matrix(layers=BIG_LAYERS, tasks=LONG_TASKS)).axes[0].texts

    def test_what_rounds_to_zero_has_no_minus(self):
        values = np.array([[-0.001, -0.2]])
        matrix = a_matrix("tuning_gain", layers=(0,), tasks=("a", "b"), values=values)
        assert [text.get_text() for text in heatmap(matrix).axes[0].texts] == ["+0.00", "\N{MINUS SIGN}0.20"]

    def test_a_cell_without_value_is_hatched_and_the_legend_gives_the_reason(self):
        values = np.array([[np.nan, 0.4], [0.3, 0.9]])
        notes: dict[tuple[Layer, str], str] = {
            (0, "sst2"): "constant layer",
            (1, "sst2"): "note on a cell with a value",
        }
        figure = heatmap(a_matrix(layers=(0, 1), tasks=("sst2", "trec"), values=values, notes=notes))
        assert marked_cells(figure.axes[0], "missing") == {(0, 0)}
        assert legend_texts(figure)[-1] == "1 cell: constant layer"
        assert len(figure.axes[0].texts) == 3
        pixels(figure)

    @pytest.mark.parametrize("quantity", ["probe/selectivity", "specificity/label_cka", "tuning_gain"])
    @pytest.mark.parametrize("side", [-1, 1])
    def test_a_signed_quantity_is_centred_at_zero(self, quantity, side):
        values = side * np.array([[-0.1, 0.4], [0.3, 0.2]])
        (image,) = heatmap(a_matrix(quantity, layers=(0, 1), tasks=("a", "b"), values=values)).axes[0].images
        assert image.get_clim() == (-0.4, 0.4)
        assert image.get_cmap().name == "RdBu_r"
        np.testing.assert_allclose(image.to_rgba(np.array([0.0]))[0], 0.97, atol=0.03)  # white

    def test_a_score_spans_its_values(self):
        values = np.array([[0.1, 0.4], [0.3, 0.2]])
        (image,) = heatmap(a_matrix(layers=(0, 1), tasks=("a", "b"), values=values)).axes[0].images
        assert image.get_clim() == (0.1, 0.4)
        assert image.get_cmap().name == "viridis"

    def test_the_best_layers_are_framed(self):
        figure = heatmap(a_matrix(), best_layers=best_at({"trec": "final", "topic": 1, "elsewhere": 2}))
        assert marked_cells(figure.axes[0], "best") == {(3, 1), (1, 2)}
        assert legend_texts(figure)[0] == "best layer (chosen on validation)"
        assert not any("best layer" in text for text in legend_texts(heatmap(a_matrix())))

    def test_brackets_enclose_the_ranges_of_layers_that_may_be_the_best(self):
        figure = heatmap(a_matrix(), best_layers=best_at({"trec": 0}, (0, 2, "final")) | best_at({"topic": 1}))
        (brackets,) = (own for own in figure.axes[0].collections if own.get_gid() == "possibly best")
        boxes = [path.get_extents() for path in brackets.get_paths()]
        assert [(round(box.x0 + 0.43), box.y0, box.y1) for box in boxes] == [
            (column, pytest.approx(first - 0.36), pytest.approx(last + 0.36))
            for column, first, last in ((1, 0, 0), (1, 2, 3), (2, 1, 1))
        ]
        assert marked_cells(figure.axes[0], "best") == {(0, 1), (1, 2)}
        assert legend_texts(figure)[1] == "layers that validation rows cannot tell from it (95 %)"
        assert not any("cannot tell" in text for text in legend_texts(heatmap(a_matrix())))

    def test_a_dot_marks_cells_of_small_corrected_p_and_a_ring_those_of_small_p_alone(self):
        values = np.array([[0.2, 0.45], [0.55, 0.9], [0.61, np.nan]])
        matrix = a_matrix(layers=(0, 1, 2), tasks=("a", "b"), values=values)
        family = np.array([[0.01, 0.5], [0.2, 0.04], [0.05, 0.01]])
        matrix = replace(matrix, p=family, p_cell=np.array([[0.001, 0.3], [0.02, 0.03], [0.05, 0.01]]))
        marks = {c.get_gid(): c for c in heatmap(matrix).axes[0].collections}
        for name, cells in (("significant", [[0, 0], [1, 1]]), ("alone", [[0, 1]])):  # (task, layer); no value, no mark
            np.testing.assert_array_equal(np.floor(np.asarray(marks[name].get_offsets()) + 0.5), cells)
        corrected, alone = (text for text in legend_texts(heatmap(matrix)) if text.startswith("p <"))
        assert "corrected for all cells of the figure" in corrected
        assert "this cell alone" in alone

    def test_without_p_no_cell_is_marked_whatever_its_interval(self):
        assert not {"significant", "alone"} & {c.get_gid() for c in heatmap(a_matrix()).axes[0].collections}

    @pytest.mark.parametrize("draw", [heatmap, profiles])
    @pytest.mark.parametrize("value", [np.nan, 0.5])
    def test_matrices_of_one_value_or_none_are_drawn(self, draw, value):
        pixels(draw(a_matrix(layers=(0,), tasks=("only",), values=np.array([[value]]))))

    @pytest.mark.parametrize("draw", [heatmap, profiles])
    def test_a_matrix_without_cells_is_refused(self, draw):
        with pytest.raises(ValueError, match="'probe/accuracy' has no cells to draw"):
            draw(a_matrix(layers=(), tasks=(), values=np.empty((0, 0))))


class TestProfiles:
    def test_each_task_has_a_panel_with_its_line_band_and_null(self):
        matrix = a_matrix()
        chance = {"null_low": np.full(matrix.values.shape, 0.4), "null_high": np.full(matrix.values.shape, 0.6)}
        matrix = replace(matrix, interval_over="rows", **chance)
        figure = profiles(matrix, best_layers=best_at({"trec": 2}, (0, 2, "final")))
        assert [axes.get_title() for axes in figure.axes] == ["sst2", "trec", "topic"]
        for column, axes in enumerate(figure.axes):
            lines = {line.get_label(): line for line in axes.lines}
            np.testing.assert_array_equal(lines["value"].get_ydata(), matrix.values[:, column])
            np.testing.assert_array_equal(lines["mean by chance"].get_ydata(), 0.5)
            bands = {str(band.get_label()): np.asarray(band.get_paths()[0].vertices)[:, 1] for band in axes.collections}
            heights = bands["95 % interval over rows"]
            assert heights.min() == matrix.ci_low[:, column].min()
            assert heights.max() == matrix.ci_high[:, column].max()
            assert set(bands["95 % of values by chance"].tolist()) == {0.4, 0.6}
            assert ("best layer (chosen on validation)" in lines) == (column == 1)
            if column == 1:
                (bar,) = (own for own in axes.collections if str(own.get_label()).startswith("layers that validation"))
                ends = [(path.get_extents().x0, path.get_extents().x1) for path in bar.get_paths()]
                assert ends == [(-0.5, 0.5), (1.5, 2.5), (2.5, 3.5)]
        assert len({axes.get_ylim() for axes in figure.axes}) == 1
