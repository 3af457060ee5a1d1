"""Pictures of sentences and texts, word by word, saved and logged: trees, and weights of attention probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from probes.report.figures.token_weights import WeighedText, token_weights
from probes.report.figures.tree_drawings import DrawnTree, tree_drawings
from probes.report.loggers.run_logger import RunLogger
from probes.report.pictures import save_png


def report_trees(output_dir: Path, trees: Sequence[DrawnTree], *, title: str, logger: RunLogger) -> Path | None:
    """Draw gold and predicted trees as `figures/predicted_trees.png`; nothing without sentences."""
    if not trees:
        return None
    picture = save_png(tree_drawings(trees, title=title), output_dir / "figures" / "predicted_trees.png")
    logger.log_picture("trees/predicted_trees", picture)
    return picture


def report_token_weights(
    output_dir: Path, texts: Sequence[WeighedText], *, name: str, title: str, logger: RunLogger
) -> Path | None:
    """Draw the weights of an attention probe as `figures/token_weights_<name>.png`; nothing without texts.

    Args:
        output_dir: The run's folder.
        texts: The texts.
        name: A plain name for the file, such as that of the task.
        title: What is said above the picture.
        logger: Receives the picture once.
    """
    if not texts:
        return None
    picture = save_png(token_weights(texts, title=title), output_dir / "figures" / f"token_weights_{name}.png")
    logger.log_picture(f"token_weights/{name}", picture)
    return picture
