"""Values over layers as curves with intervals, in front of a noise band and tinted bands of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from probes.analysis.bands.segments import Band
from probes.report.figures.axes import OKABE_ITO, is_signed, layer_ticks, readable_name
from probes.values import Layer

NAMED_UP_TO = 32  # curves; names and styles of more cannot be told apart
WITH_INTERVALS_UP_TO = 8  # curves; more shaded areas would hide each other

_LINE_STYLES = ("-", "--", ":", "-.")  # each with all colours before the next

_TINTS = ("#eef4fa", "#fdf3e3", "#edf7f0", "#f8eef4")
_AXES_SIZE = (6.0, 3.3)  # inches; an estimate, because the layout engine decides later
_CHARACTER = 0.075  # inches, width of a character in the names of bands
_NAME_GAP = 0.16  # inches between the names of two curves


@dataclass(frozen=True)
class Curve:
    """Values over layers; each array has shape `(layers,)`, NaN where unknown.

    Attributes:
        name: Name of a task, a cluster or a backbone.
        layers: Names of the layers, ascending.
        values: The estimates.
        ci_low: Lower ends of 95 % intervals.
        ci_high: Upper ends of 95 % intervals.
    """

    name: str
    layers: tuple[Layer, ...]
    values: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray

    def __post_init__(self) -> None:
        for name in ("values", "ci_low", "ci_high"):
            _check_shape(f"Curve '{self.name}' expects `{name}`", getattr(self, name), self.layers)


def band_profiles(
    curves: Sequence[Curve],
    *,
    mean: Curve | None = None,
    quantity: str = "value",
    bands: Sequence[Band] | None = None,
    noise: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Draw curves over layers: up to `NAMED_UP_TO` of them in colours, named where they end; more of them in grey.

    Up to `WITH_INTERVALS_UP_TO` curves have their intervals.

    Layers are evenly spaced in the order of the longest curve; a gap is a layer without a value.

    Args:
        curves: What to draw; curves without any value are left out.
        mean: Drawn in front of the curves if these are more than have intervals; otherwise it is not drawn.
        quantity: Quantity and unit, for title and axis; if it is signed (`is_signed`), a line marks 0.
        bands: Bands of layers to tint and name, ascending.
        noise: Lower and upper ends of the values expected by chance alone, each of shape `(layers,)` for the layers
            of the longest curve.

    Raises:
        ValueError: No curve has a value, a curve or band has a layer that the longest curve does not have, bands
            overlap or are reversed, or `noise` has another shape.
    """
    shown = [curve for curve in curves if np.isfinite(curve.values).any()]
    if not shown:
        raise ValueError(f"'{quantity}' has nothing to draw: {len(curves)} curves, none with a value.")
    layers = max((curve.layers for curve in shown), key=len)
    _check_layers([*shown, *([] if mean is None else [mean])], layers)
    named = len(shown) if len(shown) <= NAMED_UP_TO else 0
    height = max(_AXES_SIZE[1], _NAME_GAP * named)  # of the axes
    figure = Figure(figsize=(7.6, 1.3 + height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if noise is not None:
        _draw_noise(axes, noise, layers)
    if is_signed(quantity):
        axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    if named:
        _draw_named(axes, shown, layers, height)
    else:
        _draw_many(axes, shown, layers)
    if mean is not None and len(shown) > WITH_INTERVALS_UP_TO:
        axes.plot(_positions(mean, layers), mean.values, color="black", linewidth=2.6, label="their mean", zorder=4)
    _label(figure, axes, quantity, layers)
    _tint(axes, bands or (), layers)
    return figure


def spread_apart(heights: np.ndarray, *, gap: float, low: float, high: float) -> np.ndarray:
    """Heights in the same order, moved as little as possible so that neighbours are `gap` apart and all are in range.

    Args:
        heights: Heights in any order, shape `(names,)`.
        gap: Smallest distance between two heights.
        low: Smallest height allowed.
        high: Largest height allowed; exceeded if the names do not fit between the two.
    """
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    # Heights are `gap` apart exactly if heights − steps do not decrease; the nearest such sequence is the isotonic fit.
    moved = isotonic_regression(heights[order] - steps).x
    moved = np.clip(moved, low, max(low, high - steps[-1])) + steps
    return moved[np.argsort(order)]


def rows_of_names(names: Sequence[str], spans: Sequence[tuple[float, float]], step: float) -> list[int]:
    """The lowest row above the axes in which each name, centred on its band, does not touch an earlier name.

    Args:
        names: Names of the bands, from left to right.
        spans: Left and right edge of each band, in layers.
        step: Inches between two layers.
    """
    ends: list[float] = []  # inches, right end of the last name in each row
    rows = []
    for name, (left, right) in zip(names, spans, strict=True):
        middle, half = step * (left + right) / 2, _CHARACTER * (len(name) + 1) / 2
        row = next((row for row, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[row:] = [middle + half, *ends[row + 1 :]]
        rows.append(row)
    return rows


def _check_shape(expects: str, values: np.ndarray, layers: tuple[Layer, ...]) -> None:
    if values.shape != (len(layers),):
        raise ValueError(f"{expects} of shape (layers,) = ({len(layers)},); got {values.shape}.")


def _check_layers(curves: Sequence[Curve], layers: tuple[Layer, ...]) -> None:
    for curve in curves:
        if unknown := [layer for layer in curve.layers if layer not in layers]:
            raise ValueError(
                f"Curve '{curve.name}' has layer {unknown[0]}; the longest curve has {', '.join(map(str, layers))}. "
                "Draw backbones of different depth in separate figures."
            )


def _positions(curve: Curve, layers: tuple[Layer, ...]) -> list[int]:
    return [layers.index(layer) for layer in curve.layers]


def _draw_noise(axes: Axes, noise: tuple[np.ndarray, np.ndarray], layers: tuple[Layer, ...]) -> None:
    for end, values in zip(("low", "high"), noise, strict=True):
        _check_shape(f"The noise band expects its {end} ends", values, layers)
    axes.fill_between(range(len(layers)), *noise, color="#bdbdbd", alpha=0.6, linewidth=0, label="noise", zorder=1)


def _style(number: int) -> dict[str, Any]:
    """Colour and line of a curve."""
    return {"color": OKABE_ITO[number % len(OKABE_ITO)], "linestyle": _LINE_STYLES[number // len(OKABE_ITO)]}


def _draw_named(axes: Axes, curves: Sequence[Curve], layers: tuple[Layer, ...], height: float) -> None:
    few = len(curves) <= WITH_INTERVALS_UP_TO
    for number, curve in enumerate(curves):
        positions, style = _positions(curve, layers), _style(number)
        if few:
            shade = {"color": style["color"], "alpha": 0.15, "linewidth": 0, "zorder": 2}
            axes.fill_between(positions, curve.ci_low, curve.ci_high, **shade)
        size: dict[str, Any] = {"linewidth": 1.4, "marker": "o", "markersize": 2.2} if few else {"linewidth": 1.0}
        axes.plot(positions, curve.values, label=curve.name, **style, **size)
    _name_ends(axes, curves, layers, height)


def _name_ends(axes: Axes, curves: Sequence[Curve], layers: tuple[Layer, ...], height: float) -> None:
    """Write each curve's name to the right of its last value; names that would overlap are spread apart."""
    last = [int(np.flatnonzero(np.isfinite(curve.values))[-1]) for curve in curves]
    ends = np.array([float(curve.values[index]) for curve, index in zip(curves, last, strict=True)])
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    heights = spread_apart(ends, gap=(high - low) * _NAME_GAP / height, low=low, high=high)
    right = len(layers) - 0.5
    for number, (curve, index, end, place) in enumerate(zip(curves, last, ends, heights, strict=True)):
        colour = _style(number)["color"]
        start = layers.index(curve.layers[index])
        axes.plot([start, right], [end, place], color=colour, linewidth=0.6, alpha=0.6, clip_on=False, gid="leader")
        name = readable_name(curve.name, 28, lines=1)
        axes.text(right, place, f" {name}", color=colour, fontsize=8, va="center", ha="left", gid="name")


def _draw_many(axes: Axes, curves: Sequence[Curve], layers: tuple[Layer, ...]) -> None:
    for number, curve in enumerate(curves):
        label = f"{len(curves)} curves" if number == 0 else None  # one legend entry stands for all of them
        positions = _positions(curve, layers)
        axes.plot(positions, curve.values, color="#8c8c8c", linewidth=0.6, alpha=0.7, label=label, gid="one of many")


def _label(figure: Figure, axes: Axes, quantity: str, layers: tuple[Layer, ...]) -> None:
    positions = layer_ticks(layers, at_most=20)
    axes.set_xticks(positions, [str(layers[position]) for position in positions])
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_xlabel("layer (0 = input of the first block)", fontsize=9)
    axes.set_ylabel(quantity, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(quantity, fontsize=11)
    handles, labels = axes.get_legend_handles_labels()
    named = {text.get_text().strip() for text in axes.texts}  # beside their curves; the legend need not repeat them
    entries = [(handle, label) for handle, label in zip(handles, labels, strict=True) if str(label) not in named]
    if entries:
        figure.legend(*zip(*entries, strict=True), loc="outside lower left", ncols=3, fontsize=8, frameon=False)


def _tint(axes: Axes, bands: Sequence[Band], layers: tuple[Layer, ...]) -> None:
    spans = _spans(bands, layers)
    rows = rows_of_names([band.name for band in bands], spans, _AXES_SIZE[0] / len(layers))
    for number, (band, (left, right), row) in enumerate(zip(bands, spans, rows, strict=True)):
        axes.axvspan(left, right, color=_TINTS[number % len(_TINTS)], linewidth=0, zorder=-1, gid="band")
        axes.annotate(
            band.name,
            ((left + right) / 2, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 11 * row),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color="#444444",
            gid="band name",
        )
        if number > 0:
            axes.axvline(left, color="#9a9a9a", linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)


def _spans(bands: Sequence[Band], layers: tuple[Layer, ...]) -> list[tuple[float, float]]:
    """Left and right edge of each band in positions of layers, half a step beyond its first and last layer."""
    spans: list[tuple[float, float]] = []
    for band in bands:
        for end in (band.first, band.last):
            if end not in layers:
                drawn = ", ".join(map(str, layers))
                raise ValueError(f"Band '{band.name}' ends at layer {end}, which is not drawn; there are {drawn}.")
        left, right = layers.index(band.first) - 0.5, layers.index(band.last) + 0.5
        if left >= right or (spans and left < spans[-1][1]):
            raise ValueError(
                f"Band '{band.name}' from layer {band.first} to {band.last} is reversed or overlaps the previous band. "
                "Pass bands in ascending order of layers."
            )
        spans.append((left, right))
    return spans
