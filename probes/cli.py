"""The command line: overrides are held against the config before anything heavy is loaded, then Hydra runs the job."""

from __future__ import annotations

import difflib
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_PACKAGE = Path(__file__).resolve().parent
CONFIG_DIR = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
_ONLY_SHOWS = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}


class OverrideError(ValueError):
    """An override names a key or an option that does not exist, or that nobody reads."""


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _run(cfg: DictConfig) -> float:
    return _load(cfg.logger._target_)(cfg)


@cache
def _load(logger: str) -> Callable[[DictConfig], float]:
    """Import torch, lightning and the rooms: here, not for `--help`.

    The logger comes first: W&B's classes look through all modules that are loaded, which are few before torch.

    A million objects are made that stay to the end. The collector of garbage would look through them again and again,
    now, later and at the end, which together takes longer than importing torch; it is told to leave them alone.
    """
    gc.disable()
    try:
        get_object(logger)
        from probes.run import run
    finally:
        gc.freeze()
        gc.enable()
    return run


def main() -> None:
    """Entry of `python train.py` and of the console command `probes`."""
    arguments = sys.argv[1:]
    if not _ONLY_SHOWS.intersection(arguments):
        try:
            check_overrides([argument for argument in arguments if "=" in argument and not argument.startswith("--")])
        except OverrideError as error:
            sys.exit(f"{error}")
    _run()


def check_overrides(overrides: Sequence[str]) -> None:
    """Compose the config as Hydra will, and say of a key it does not know which one is close.

    Args:
        overrides: As typed, sweeps included (each is tried with its first value).

    Raises:
        OverrideError: An override does not parse, or names what does not exist.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise OverrideError(f"An override cannot be read: {error}") from error
    plain = [(override, text) for override in parsed if (text := _first_value(override)) is not None]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        if not any(_adds(override) for override, _ in plain) and _composes([text for _, text in plain]):
            return
        chosen: list[str] = []
        for override, text in plain:
            _check(override, text, chosen)
            chosen.append(text)


def _composes(overrides: Sequence[str]) -> bool:
    """Whether all is well, which is quickly found out; whatever is wrong is then looked for one override at a time."""
    try:
        compose("train", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def _adds(override: Override) -> bool:
    return override.is_add() or override.is_force_add()


def _check(override: Override, text: str, before: Sequence[str]) -> None:
    try:
        cfg = compose("train", overrides=[*before, text])
    except (HydraException, OmegaConfBaseException) as error:
        raise OverrideError(_explain(override, before, error)) from error
    key = override.key_or_group
    if _adds(override) and not key.startswith("hydra") and not _is_read(cfg, key):
        base = compose("train", overrides=list(before))
        if key in _keys(base):
            return
        raise OverrideError(f"Nobody reads `{key}`.{_close(key, list(_keys(base)))} See `python train.py --cfg job`.")


def _is_read(cfg: DictConfig, key: str) -> bool:
    """Whether somebody can read an added key: an option of a config group, or an argument of something built."""
    if key.startswith("experiment"):
        return True
    parts = key.split(".")
    parents = (OmegaConf.select(cfg, ".".join(parts[:i]), throw_on_missing=False) for i in range(1, len(parts)))
    return any(isinstance(parent, DictConfig) and "_target_" in parent for parent in parents)


def _explain(override: Override, before: Sequence[str], error: Exception) -> str:
    base = compose("train", overrides=list(before))
    key, first_line = override.key_or_group, str(error).splitlines()[0]
    group = CONFIG_DIR / key
    if group.is_dir():
        options = sorted(path.stem for path in group.glob("*.yaml") if not path.stem.startswith("_"))
        return (
            f"`{key}` has no option '{override.value()}'.{_close(str(override.value()), options)} "
            f"It has {', '.join(options)}."
        )
    known = [*_keys(base), *(path.name for path in CONFIG_DIR.iterdir() if path.is_dir())]
    if key not in known:
        return f"There is no config key `{key}`.{_close(key, known)} See `python train.py --cfg job`."
    return f"The override `{override.input_line}` does not compose: {first_line}"


def _close(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean `{found[0]}`?" if found else ""


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            path = f"{prefix}{key}"
            yield path
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, str(key)):
                yield from _keys(node[key], f"{path}.")


def _first_value(override: Override) -> str | None:
    """The override as plain text, a sweep with its first value; `None` for a glob, whose values Hydra looks up."""
    if not override.is_sweep_override():
        return override.input_line
    if override.is_delete() or override.is_hydra_override():
        return None
    try:
        value = next(iter(override.sweep_string_iterator()))
    except (HydraException, StopIteration, ValueError):
        return None
    prefix = "++" if override.is_force_add() else "+" if override.is_add() else ""
    return f"{prefix}{override.key_or_group}={value}"
