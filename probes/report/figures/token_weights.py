"""How much each head of an attention probe attends to each token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

_TOKENS_SHOWN = 40
"""Tokens of a text that are drawn, from its end, since texts are cut at their beginning."""
_LONGEST = 14  # characters of a token


@dataclass(frozen=True)
class WeighedText:
    """One text with the weights of its tokens.

    Attributes:
        tokens: Its tokens or words.
        weights: Shape `(tokens, heads)`; each head's sum to 1.
        title: What is said above it, such as its label and what was predicted.
    """

    tokens: tuple[str, ...]
    weights: np.ndarray
    title: str


def token_weights(texts: Sequence[WeighedText], *, title: str) -> Figure:
    """Draw texts one below the other, a column for each token and a row for each head.

    Args:
        texts: One or more texts; of long ones the last 40 tokens are drawn.
        title: Which probe, task and layer.
    """
    shown = [min(len(text.tokens), _TOKENS_SHOWN) for text in texts]
    heads = texts[0].weights.shape[1]
    size = (max(6.0, 0.32 * max(shown) + 1.5), (0.22 * heads + 1.35) * len(texts) + 0.6)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = figure.subplots(len(texts), 1, squeeze=False)[:, 0]
    for axes, text, count in zip(panels, texts, shown, strict=True):
        weights = text.weights[-count:].T  # (heads, tokens)
        image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=max(float(text.weights.max()), 1e-9), aspect="auto")
        axes.set_xticks(range(count), [_short(token) for token in text.tokens[-count:]], rotation=60, ha="right")
        axes.set_yticks(range(heads), [f"head {head + 1}" for head in range(heads)])
        axes.tick_params(labelsize=7, length=0)
        left_out = len(text.tokens) - count
        more = f" ({left_out} earlier tokens are not shown)" if left_out else ""
        axes.set_title(f"{text.title}{more}".replace("$", r"\$"), fontsize=8, loc="left")
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01).ax.tick_params(labelsize=6)
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    return figure


def _short(token: str) -> str:
    return (token if len(token) <= _LONGEST else token[: _LONGEST - 1] + "…").replace("$", r"\$")
