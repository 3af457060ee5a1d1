"""What every figure shares: ticks, names, labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from probes.values import Layer, LayerByLayer, LayerByTask

_SIGNED_WORDS = ("selectivity", "specificity", "gain", "difference")


def is_signed(quantity: str) -> bool:
    """Whether 0 is the middle of a quantity's scale, so that sign is what the eye should see.

    Example:
        >>> is_signed("specificity/label_cka"), is_signed("tuning_gain"), is_signed("probe/accuracy")
        (True, True, False)
    """
    return any(word in quantity for word in _SIGNED_WORDS)


def layer_ticks(layers: Sequence[Layer], *, at_most: int) -> list[int]:
    """Positions of the layers to name: every 1st, 2nd, 5th or 10th …, and always the last one.

    Example:
        >>> layer_ticks([*range(31), "final"], at_most=10)
        [0, 5, 10, 15, 20, 25, 31]
    """
    last = len(layers) - 1
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, len(layers)) if last // step < at_most)
    return [place for place in range(0, last, step) if step == 1 or last - place >= (step + 1) // 2 + 1] + [last]


def quantity_label(matrix: LayerByTask | LayerByLayer) -> str:
    """A quantity and its unit: `probe/accuracy (share of rows)`."""
    return f"{matrix.quantity} ({matrix.unit})" if matrix.unit else matrix.quantity


def readable_name(name: str, width: int, *, lines: int = 2) -> str:
    r"""A task's name over at most `lines` lines of `width` characters, broken after `_`, `-` or a blank.

    Example:
        >>> readable_name("definite_pronoun_resolution", 18)
        'definite_pronoun_\nresolution'
    """
    shown = [part.replace("_ ", "_") for part in textwrap.wrap(name.replace("_", "_ "), width)]
    if len(shown) > lines:
        shown = [*shown[: lines - 1], shown[lines - 1][: width - 1] + "…"]
    return "\n".join(shown)
