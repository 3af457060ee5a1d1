"""Whether W&B can be reached and let in, found out before `wandb.init`, which would raise, prompt or wait."""

from __future__ import annotations

import http.client
import netrc
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

import wandb

Mode = Literal["auto", "online", "offline", "disabled"]
MODES: tuple[Mode, ...] = get_args(Mode)
SECONDS_TO_ANSWER = 4.0

_ALIASES: dict[str, Mode] = {"dryrun": "offline", "run": "online"}  # W&B's older words
_PUBLIC_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}  # one service; a key for either opens both


def choose_mode(mode: Mode) -> tuple[Mode, str]:
    """Turn `auto` into a mode that will work.

    What the user said to W&B itself comes first: the variable `WANDB_MODE`, then the settings file that
    `wandb offline` writes. Otherwise the run is online if there is a key and the server answers within
    `SECONDS_TO_ANSWER`, else offline.

    Args:
        mode: As configured; all but `auto` are returned as they are.

    Returns:
        The mode, and why it is offline (empty if it was asked for).

    Raises:
        ValueError: `WANDB_MODE` is no mode of W&B's.
    """
    if mode != "auto":
        return mode, ""
    wished = _known(os.environ.get("WANDB_MODE", ""))
    if wished != "auto":
        return wished, ""
    settings = wandb.setup().settings
    wished = _known(str(settings.mode))
    if wished != "online":  # W&B's default is online, so that alone says nothing
        return wished, ""
    if not _has_key(settings.base_url, settings.api_key):
        return "offline", "there is no API key (`wandb login` stores one)"
    if not answers(settings.base_url, SECONDS_TO_ANSWER):
        return "offline", f"{settings.base_url} does not answer"
    return "online", ""


def answers(url: str, seconds: float) -> bool:
    """Whether a server answers at all, be it with an error; never waits longer than `seconds`.

    Name lookup ignores socket timeouts, so the question is asked in a thread that is left behind if it hangs.
    """
    heard = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError as answer:
            answer.close()
        except (OSError, http.client.HTTPException, ValueError):
            done.set()
            return
        heard.set()
        done.set()

    done = threading.Event()
    threading.Thread(target=ask, daemon=True, name="wandb-reachable").start()
    done.wait(seconds)
    return heard.is_set()


def _known(mode: str) -> Mode:
    chosen = _ALIASES.get(mode, mode or "auto")
    if chosen == "shared":  # several writers on one online run; whether it can be reached is still the question
        return "online"
    if chosen not in MODES:
        raise ValueError(f"The environment variable WANDB_MODE expects one of online, offline, disabled; got '{mode}'.")
    return chosen


def _has_key(base_url: str, key_in_settings: str | None) -> bool:
    if key_in_settings or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(base_url).netloc
    hosts = _PUBLIC_HOSTS if host in _PUBLIC_HOSTS else {host}
    return any(_netrc_password(candidate) for candidate in hosts)


def _netrc_password(host: str) -> str:
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in map(Path, places):
        try:
            entry = netrc.netrc(place.expanduser()).hosts.get(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry is not None:
            return entry[2] or ""
    return ""
