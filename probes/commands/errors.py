"""Which errors explain themselves: those that this package raises about a user's input, and those of a config."""

from __future__ import annotations

from pathlib import Path
from traceback import walk_tb

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

_PACKAGE = Path(__file__).resolve().parents[1]
_FORESEEN = (ValueError, TypeError, OSError, ImportError)
_PASSED_ON = "/pathlib"
"""Part of the name of files whose errors are those of the line that called them."""


def explanation(error: BaseException) -> str | None:
    """The message of an error that needs no traceback; `None` for an error that nobody foresaw.

    An error explains itself if it is a `ValueError`, `TypeError`, `OSError` or `ImportError` that a line of this
    package raised, or one of a config. What Hydra wraps around an error is left out.
    """
    error = unwrapped(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        return "\n".join(str(part) for part in (error, cause) if part is not None)
    if isinstance(error, _FORESEEN) and _raised_here(error):
        return str(error)
    return None


def unwrapped(error: BaseException) -> BaseException:
    """The error inside those that Hydra wraps around it when it builds something."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _raised_here(error: BaseException) -> bool:
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    while files and _PASSED_ON in files[-1]:
        files.pop()
    return bool(files) and Path(files[-1]).resolve().is_relative_to(_PACKAGE)
