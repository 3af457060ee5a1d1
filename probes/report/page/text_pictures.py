"""Pictures of sentences and texts, embedded in the page: trees, and weights of attention probes over words."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

_CAPTIONS = {
    "predicted_trees": "Gold trees above the words, predicted ones below them.",
    "token_weights_": "How much each head of the attention probe attends to each token.",
}
"""How a picture's name begins → what it shows."""
_MOST = 12
"""Pictures that the page holds; the others are linked."""


class TextPicture(NamedTuple):
    """A picture with its caption, as a data URI."""

    caption: str
    source: str


def text_pictures(folder: Path) -> list[TextPicture]:
    """The pictures of sentences in a run's folder, in the order of their names; at most 12.

    Args:
        folder: The run's.
    """
    found = []
    for path in sorted((folder / "figures").glob("*.png")):
        caption = next((text for start, text in _CAPTIONS.items() if path.stem.startswith(start)), None)
        if caption is not None:
            subject = path.stem.removeprefix("token_weights_") if "token_weights_" in path.stem else ""
            encoded = base64.b64encode(path.read_bytes()).decode("ascii")
            found.append(
                TextPicture(f"{subject}: {caption}" if subject else caption, f"data:image/png;base64,{encoded}")
            )
    return found[:_MOST]
