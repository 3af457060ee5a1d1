"""The folder of a run whose files were uploaded to Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import wandb
from wandb.errors import CommError


def download_run(name: str, folder: Path) -> Path:
    """Download what a run left in W&B.

    Args:
        name: `entity/project/run`.
        folder: A folder with the run's id as its name is made in it.

    Returns:
        The run's folder.

    Raises:
        FileNotFoundError: There is no such run, or it uploaded no files.
    """
    try:
        run = wandb.Api().run(name)
        artifacts = [artifact for artifact in run.logged_artifacts() if artifact.type == "probes"]
    except (CommError, ValueError) as error:
        raise FileNotFoundError(f"W&B has no run '{name}': {error}") from error
    if not artifacts:
        raise FileNotFoundError(
            f"The W&B run '{name}' has no files. Set `logger.upload_artifacts=true` when a run should be compared from "
            "there, or pass the folder of the run."
        )
    target = folder / run.id
    artifacts[-1].download(root=str(target))
    return target
