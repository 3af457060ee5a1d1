from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drawn_figures import assert_border_is_white, legend_texts, pixels
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from similarity_samples import a_curve

from probes.analysis.bands.segments import Band
from probes.report.figures.band_profiles import (
    NAMED_UP_TO,
    WITH_INTERVALS_UP_TO,
    Curve,
    band_profiles,
    rows_of_names,
    spread_apart,
)

BIG = (*range(31), "final")
BANDS = [Band("shared", 0, 0), Band("transition", 1, 2), Band("refinement", 3, 3)]


def texts(figure: Figure, gid: str) -> list[Text]:
    return [text for text in figure.axes[0].texts if text.get_gid() == gid]


def heights(collection: Collection) -> np.ndarray:
    return np.asarray(collection.get_paths()[0].vertices)[:, 1]


def points(line: Line2D) -> np.ndarray:
    """Positions and values along a line, shape `(points, 2)`."""
    return np.asarray(line.get_xydata())


def spans(figure: Figure) -> list[tuple[float, float]]:
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and patch.get_gid() == "band"]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in patches]


def test_each_curve_is_drawn_with_its_interval_and_its_name_in_its_colour():
    curves = [a_curve("sst2"), a_curve("trec", seed=1)]
    figure = band_profiles(curves, quantity="cka/control_vs_base")
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for curve, band, text in zip(curves, axes.collections, texts(figure, "name"), strict=True):
        np.testing.assert_array_equal(points(lines[curve.name]), list(enumerate(curve.values)))
        assert (heights(band).min(), heights(band).max()) == (curve.ci_low.min(), curve.ci_high.max())
        assert text.get_text().strip() == curve.name
        colours = (text.get_color(), lines[curve.name].get_color(), tuple(np.asarray(band.get_facecolor())[0]))
        assert len({to_hex(colour) for colour in colours}) == 1
    assert axes.get_ylabel() == "cka/control_vs_base"
    assert not figure.legends


def test_a_name_is_at_the_height_of_the_last_value_if_there_is_room():
    values = np.array([0.0, 1.0, 2.0, np.nan])
    figure = band_profiles([a_curve("up", values=values), a_curve("down", values=-values)])
    assert [text.get_position()[1] for text in texts(figure, "name")] == [2.0, -2.0]
    leaders = [points(line)[0].tolist() for line in figure.axes[0].lines if line.get_gid() == "leader"]
    assert leaders == [[2, 2], [2, -2]]


def test_names_at_the_same_height_are_spread_apart_in_the_picture():
    figure = band_profiles([a_curve(f"task {k}", values=np.full(4, 0.5)) for k in range(NAMED_UP_TO)])
    pixels(figure)
    boxes = sorted((text.get_window_extent() for text in texts(figure, "name")), key=lambda box: box.y0)
    assert len(boxes) == NAMED_UP_TO
    assert not any(low.overlaps(high) for low, high in pairwise(boxes))


def test_spreading_moves_as_little_as_possible_keeps_the_order_and_stays_in_range():
    far = np.array([0.9, 0.1, 0.5])
    np.testing.assert_allclose(spread_apart(far, gap=0.1, low=0, high=1), far)
    np.testing.assert_allclose(spread_apart(np.array([0.5, 0.5]), gap=0.2, low=0, high=1), [0.4, 0.6])
    np.testing.assert_allclose(spread_apart(np.array([0.6, 0.5, 0.55]), gap=0.2, low=0, high=1), [0.75, 0.35, 0.55])
    np.testing.assert_allclose(spread_apart(np.array([1.0, 1.0, 1.0]), gap=0.2, low=0, high=1), [0.6, 0.8, 1.0])
    rng = np.random.default_rng(0)
    for _ in range(50):
        ends = rng.uniform(0, 1, 8)
        moved = spread_apart(ends, gap=0.1, low=0, high=1)
        assert np.diff(moved[np.argsort(ends)]).min() > 0.1 - 1e-9
        assert 0 <= moved.min() <= moved.max() <= 1 + 1e-9


def test_more_curves_than_can_be_named_are_grey_with_their_mean():
    curves = [a_curve(f"t{k}", seed=k) for k in range(NAMED_UP_TO + 1)]
    figure = band_profiles(curves, mean=a_curve("mean", layers=(1, 2), values=np.array([0.5, np.nan])))
    lines = figure.axes[0].lines
    grey = [line for line in lines if line.get_gid() == "one of many"]
    np.testing.assert_array_equal([line.get_ydata() for line in grey], [curve.values for curve in curves])
    (mean,) = [line for line in lines if line.get_label() == "their mean"]
    np.testing.assert_array_equal(points(mean), [[1, 0.5], [2, np.nan]])
    assert mean.get_linewidth() > 3 * grey[0].get_linewidth()
    assert legend_texts(figure) == [f"{NAMED_UP_TO + 1} curves", "their mean"]
    assert not texts(figure, "name")
    assert legend_texts(band_profiles(curves)) == [f"{NAMED_UP_TO + 1} curves"]


def test_curves_that_can_be_named_have_different_styles_and_few_of_them_no_mean():
    curves = [a_curve(f"t{k}", seed=k) for k in range(NAMED_UP_TO)]
    figure = band_profiles(curves, mean=a_curve("mean"))
    assert len(texts(figure, "name")) == NAMED_UP_TO
    lines = [line for line in figure.axes[0].lines if line.get_label().startswith("t") and not line.get_gid()]
    styles = {(line.get_color(), line.get_linestyle()) for line in lines if line.get_label() != "their mean"}
    assert len(styles) == NAMED_UP_TO
    assert legend_texts(figure) == ["their mean"]
    assert not legend_texts(band_profiles(curves[:WITH_INTERVALS_UP_TO], mean=a_curve("mean")))


def test_a_curve_of_fewer_layers_is_drawn_at_its_layers():
    figure = band_profiles([a_curve("late", layers=(2, "final")), a_curve("all", layers=(0, 1, 2, "final"))])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_array_equal(lines["late"].get_xdata(), [2, 3])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "final"]


def test_the_noise_band_is_grey_labelled_and_behind_the_curves():
    low, high = np.array([-0.1, -0.2, -0.1, -0.1]), np.array([0.1, 0.1, 0.3, 0.1])
    figure = band_profiles([a_curve()], noise=(low, high))
    noise, interval = figure.axes[0].collections
    assert (heights(noise).min(), heights(noise).max()) == (-0.2, 0.3)
    assert noise.get_zorder() < interval.get_zorder()
    assert len(set(np.asarray(noise.get_facecolor())[0, :3])) == 1
    assert legend_texts(figure) == ["noise"]


def test_bands_are_tinted_between_layers_and_named_at_the_top():
    figure = band_profiles([a_curve()], bands=BANDS)
    assert spans(figure) == [(-0.5, 0.5), (0.5, 2.5), (2.5, 3.5)]
    names = texts(figure, "band name")
    assert [name.get_text() for name in names] == ["shared", "transition", "refinement"]
    assert [name.xy[0] for name in names if isinstance(name, Annotation)] == [0, 1.5, 3]
    assert not spans(band_profiles([a_curve()]))


@pytest.mark.parametrize("bands", [BANDS, [Band("shared", 0, 0), Band("transition", 1, 1), Band("refinement", 2, 3)]])
@pytest.mark.parametrize("layers", [range(4), BIG])
def test_nothing_is_cut_off_and_names_of_bands_do_not_touch(bands, layers):
    curves = [a_curve(f"natural_language_inference_{k}", layers=tuple(layers), seed=k) for k in range(8)]
    figure = band_profiles(curves, quantity="tuning_gain", bands=bands)
    assert_border_is_white(figure)
    boxes = [text.get_window_extent() for text in texts(figure, "band name")]
    assert not any(box.overlaps(other) for k, box in enumerate(boxes) for other in boxes[k + 1 :])
    assert all(box.y0 >= figure.axes[0].bbox.y1 for box in boxes)


def test_names_of_narrow_bands_take_several_rows_and_those_of_wide_bands_share_the_first():
    assert rows_of_names(["shared", "transition"], [(0, 1), (1, 2)], step=0.2) == [0, 1]
    assert rows_of_names(["shared", "transition"], [(0, 1), (1, 2)], step=2.0) == [0, 0]
    assert rows_of_names(["a" * 9, "transition", "c" * 9], [(0, 4), (4, 5), (5, 9)], step=0.2) == [0, 1, 0]


def test_a_line_marks_zero_for_a_signed_quantity():
    def zeros(quantity: str) -> int:
        lines = band_profiles([a_curve()], quantity=quantity).axes[0].lines
        return sum(points(line)[:, 1].tolist() == [0, 0] for line in lines)

    assert (zeros("tuning_gain"), zeros("cka")) == (1, 0)


def test_a_curve_without_any_value_is_left_out():
    empty = a_curve("nothing", values=np.full(4, np.nan))
    figure = band_profiles([empty, a_curve("something")])
    assert [text.get_text().strip() for text in texts(figure, "name")] == ["something"]
    pixels(figure)


@pytest.mark.parametrize("curves", [[], [a_curve(values=np.full(4, np.nan))]])
def test_curves_without_any_value_are_refused(curves):
    with pytest.raises(ValueError, match=f"'cka' has nothing to draw: {len(curves)} curves, none with a value"):
        band_profiles(curves, quantity="cka")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"bands": [Band("late", 2, 7)]}, "Band 'late' ends at layer 7, which is not drawn; there are 0, 1, 2, 3"),
        ({"bands": [Band("back", 2, 1)]}, "Band 'back' from layer 2 to 1 is reversed or overlaps"),
        ({"bands": [Band("a", 0, 2), Band("b", 2, 3)]}, "Band 'b' from layer 2 to 3 is reversed or overlaps"),
        ({"noise": (np.zeros(3), np.ones(4))}, r"expects its low ends of shape \(layers,\) = \(4,\); got \(3,\)"),
        ({"noise": (np.zeros(4), np.ones(5))}, r"expects its high ends of shape \(layers,\) = \(4,\); got \(5,\)"),
    ],
)
def test_bands_and_noise_that_do_not_fit_the_layers_are_refused(settings, why: str):
    with pytest.raises(ValueError, match=why):
        band_profiles([a_curve()], **settings)


def test_curves_that_do_not_fit_are_refused():
    odd = a_curve("odd", layers=(0, 9))
    for curves, mean in (([a_curve(), odd], None), ([a_curve()], odd)):
        with pytest.raises(ValueError, match="Curve 'odd' has layer 9; the longest curve has 0, 1, 2, 3"):
            band_profiles(curves, mean=mean)
    for name in ("values", "ci_low", "ci_high"):
        arrays = {key: np.zeros(3 if key == name else 2) for key in ("values", "ci_low", "ci_high")}
        with pytest.raises(
            ValueError, match=rf"Curve 'odd' expects `{name}` of shape \(layers,\) = \(2,\); got \(3,\)"
        ):
            Curve("odd", (0, 1), **arrays)
