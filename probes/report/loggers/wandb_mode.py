"""Whether a W&B run can be online, found out before `wandb.init`, which would raise, prompt or wait for minutes."""

from __future__ import annotations

import os
from typing import Literal, get_args

import wandb
from wandb.errors import AuthenticationError
from wandb.sdk.lib import wbauth

from probes.report.loggers.servers import server_responds

Mode = Literal["auto", "online", "offline", "disabled"]
MODES: tuple[Mode, ...] = get_args(Mode)
SECONDS_TO_RESPOND = 4.0
"""How long the W&B server may take; a run must not wait long for a server that cannot be reached."""

_ALIASES: dict[str, Mode] = {"dryrun": "offline", "run": "online"}  # W&B's older names of modes
_CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")  # environment variables


def choose_mode(mode: Mode) -> tuple[Mode, str]:
    """Turn `auto` into a mode that works.

    What the user has told W&B itself takes precedence: first the environment variable `WANDB_MODE`, then the settings
    file that `wandb offline` writes. Otherwise the run is online if there are credentials and the server responds
    within `SECONDS_TO_RESPOND`, else offline.

    Args:
        mode: As configured; any mode other than `auto` is returned as it is.

    Returns:
        The mode, and why it is offline (empty if the user asked for it).

    Raises:
        ValueError: `WANDB_MODE` is not a mode of W&B.
    """
    if mode != "auto":
        return mode, ""
    requested = _parse_mode(os.environ.get("WANDB_MODE", ""))
    if requested != "auto":
        return requested, ""
    settings = wandb.setup().settings
    requested = _parse_mode(str(settings.mode))
    if requested != "online":  # W&B's default is online, so only another mode is known to be the user's choice
        return requested, ""
    if not _has_credentials(settings):
        return "offline", "there is no API key (`wandb login` stores one)"
    if not server_responds(settings.base_url, SECONDS_TO_RESPOND):
        return "offline", f"{settings.base_url} does not respond"
    return "online", ""


def _parse_mode(name: str) -> Mode:
    """The mode that W&B calls `name`; `auto` if there is no name."""
    mode = _ALIASES.get(name, name or "auto")
    if mode == "shared":  # several processes write to one online run; the server may still be out of reach
        return "online"
    if mode not in MODES:
        raise ValueError(
            f"The environment variable WANDB_MODE must be one of online, offline and disabled; got '{name}'."
        )
    return mode


def _has_credentials(settings: wandb.Settings) -> bool:
    """Whether `wandb.init` finds credentials without a prompt, in the environment, its settings or a netrc file."""
    if any(os.environ.get(name) for name in _CREDENTIALS) or settings.api_key or settings.identity_token_file:
        return True
    try:
        return wbauth.read_netrc_auth(host=settings.base_url) is not None
    except AuthenticationError:
        return True  # there is a key of the wrong form; `wandb.init` refuses it and explains why
