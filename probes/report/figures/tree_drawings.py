"""Trees over the words of sentences: gold above the words, predicted below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Arc

from probes.report.figures.axes import OKABE_ITO

_RIGHT, _WRONG, _GOLD = OKABE_ITO[2], OKABE_ITO[1], "#404040"
_CHARACTER = 0.085  # inches, width of a character of a word
_GAP = 0.25  # inches between words
_WIDEST = 18.0  # inches


@dataclass(frozen=True)
class DrawnTree:
    """One sentence with two trees.

    Attributes:
        words: Its words.
        gold: Pairs of words that the gold tree joins.
        predicted: Pairs of words that the predicted tree joins.
        root: The gold root, in bold; `None` to leave it unmarked.
    """

    words: tuple[str, ...]
    gold: tuple[tuple[int, int], ...]
    predicted: tuple[tuple[int, int], ...]
    root: int | None = None


def tree_drawings(trees: Sequence[DrawnTree], *, title: str) -> Figure:
    """Draw sentences one below the other; predicted edges that the gold tree has not are dashed.

    Args:
        trees: One or more sentences.
        title: What predicted the trees.
    """
    places = [_places(tree.words) for tree in trees]
    width = min(_WIDEST, max(7.5, *(ends[-1] + _GAP for ends in places)))
    figure = Figure(figsize=(width, 2.3 * len(trees) + 0.9), dpi=150, layout="constrained")
    panels = figure.subplots(len(trees), 1, squeeze=False)[:, 0]
    for axes, tree, ends in zip(panels, trees, places, strict=True):
        _draw(axes, tree, ends)
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    entries = [
        Line2D([], [], color=_GOLD, label="gold tree, above the words"),
        Line2D([], [], color=_RIGHT, label="predicted, in the gold tree"),
        Line2D([], [], color=_WRONG, linestyle="--", label="predicted, not in the gold tree"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _places(words: Sequence[str]) -> list[float]:
    """Where the middle of each word stands, and last the right end, in inches."""
    places, left = [], 0.0
    for word in words:
        size = max(len(word), 1) * _CHARACTER
        places.append(left + size / 2)
        left += size + _GAP
    return [*places, left]


def _draw(axes: Axes, tree: DrawnTree, places: Sequence[float]) -> None:
    gold = {frozenset(edge) for edge in tree.gold}
    for number, word in enumerate(tree.words):
        text = axes.text(places[number], 0, word.replace("$", r"\$"), ha="center", va="center", fontsize=9)
        text.set_fontweight("bold" if number == tree.root else "normal")
    for edge in tree.gold:
        _arc(axes, places, edge, above=True, color=_GOLD, linestyle="-")
    for edge in tree.predicted:
        right = frozenset(edge) in gold
        style = {"color": _RIGHT, "linestyle": "-"} if right else {"color": _WRONG, "linestyle": "--"}
        _arc(axes, places, edge, above=False, **style)
    tallest = max([_height(places, edge) for edge in (*tree.gold, *tree.predicted)], default=0.5)
    axes.set_xlim(-_GAP, places[-1])
    axes.set_ylim(-tallest - 0.35, tallest + 0.35)
    axes.axis("off")


def _height(places: Sequence[float], edge: tuple[int, int]) -> float:
    return 0.25 + 0.22 * abs(places[edge[0]] - places[edge[1]])


def _arc(
    axes: Axes, places: Sequence[float], edge: tuple[int, int], *, above: bool, color: str, linestyle: str
) -> None:
    left, right = sorted((places[edge[0]], places[edge[1]]))
    base, (start, end) = (0.15, (0, 180)) if above else (-0.15, (180, 360))
    arc = Arc(
        ((left + right) / 2, base),
        right - left,
        2 * _height(places, edge),
        theta1=start,
        theta2=end,
        edgecolor=color,
        linestyle=linestyle,
        linewidth=1.2,
        gid="gold" if above else "predicted",
    )
    axes.add_patch(arc)
