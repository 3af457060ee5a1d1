"""The command line: overrides are checked against the config before heavy imports; then Hydra runs the job."""

from __future__ import annotations

import difflib
import gc
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probes.commands.endings import ended_in_words, versions, without_bars
from probes.commands.plugins import CONFIG_DIR, options, plugin_folders, register_plugins
from probes.commands.submit import as_sweep
from probes.files import write_text
from probes.runs.masking import SecretFilter, find_secrets, mask_secrets
from probes.runs.targets import foreign_code, is_known, targets_of

register_plugins()

_INFORMATION_FLAGS = {"--help", "-h", "--hydra-help", "--info", "-i", "--shell-completion", "-sc"}
"""With one of these, Hydra prints something and runs no job."""


_COMMANDS = {
    "cache": "probes.commands.cache.main",
    "compare": "probes.commands.compare.compare",
    "plan": "probes.commands.plan.main",
    "submit": "probes.commands.submit.main",
    "report": "probes.commands.compare.report",
    "wandb-report": "probes.commands.wandb_report.main",
}
"""First word of a command line that runs no study → the function that takes the other words."""


_NOT_OF_A_RUN = ("-", "plan.", "hydra")
"""How words begin that `probes plan` does not take for overrides of the run that it plans."""


class OverrideError(ValueError):
    """An override does not parse, names a key or an option that does not exist, or adds a key that nothing reads."""


def main() -> None:
    """Entry point of `python train.py` and of the console command `probes`."""
    arguments = sys.argv[1:]
    if "--version" in arguments:
        sys.stdout.write(versions())
        return
    without_bars()
    with ended_in_words():
        if arguments[:1] == ["submit"] and not {"--dry-run", "--help", "-h"}.intersection(arguments):
            arguments = sys.argv[1:] = as_sweep(arguments[1:])
        if arguments[:1] in (["plan"], ["submit"]):
            check_overrides([word for word in arguments[1:] if "=" in word and not word.startswith(_NOT_OF_A_RUN)])
        if arguments and arguments[0] in _COMMANDS:
            get_object(_COMMANDS[arguments[0]])(arguments[1:])
            return
        if arguments:
            refuse_unknown_command(arguments[0])
        if not _INFORMATION_FLAGS.intersection(arguments):
            overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("--")]
            check_overrides(overrides)
            refuse_foreign_hydra_nodes(overrides)
        _run()


def refuse_unknown_command(word: str) -> None:
    """Refuse a first word that looks like a command and is none.

    Raises:
        OverrideError: It is neither a command nor an override nor an option.
    """
    if re.fullmatch(r"[a-z][a-z-]*", word) and word not in _COMMANDS:
        names = ", ".join(sorted(_COMMANDS))
        raise OverrideError(
            f"There is no command `{word}`.{_did_you_mean(word, list(_COMMANDS))} There are {names}; a run is "
            "described by overrides such as `suite=starter`."
        )


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _run(cfg: DictConfig) -> float:
    mask_hydra_files(cfg)
    return _import_run(cfg.logger._target_)(cfg)


def mask_hydra_files(cfg: DictConfig) -> None:
    """Mask secrets in the files that Hydra has written before it starts a job, and in all that the job will log."""
    hydra_cfg = HydraConfig.get()
    configs = {"job": cfg, "hydra": hydra_cfg}
    plain = {name: OmegaConf.to_container(node, resolve=False) for name, node in configs.items()}
    secrets = find_secrets(plain)
    with suppress(OmegaConfBaseException):  # a missing value, which the run itself reports
        secrets |= find_secrets(OmegaConf.to_container(cfg, resolve=True))
    for handler in logging.getLogger().handlers:
        handler.addFilter(SecretFilter(secrets))
    files = [Path(hydra_cfg.runtime.cwd, hydra_cfg.sweep.dir) / "multirun.yaml"]
    if hydra_cfg.output_subdir is not None:
        folder = Path(hydra_cfg.runtime.output_dir, hydra_cfg.output_subdir)
        files += [folder / name for name in ("config.yaml", "hydra.yaml", "overrides.yaml")]
    for file in (file for file in files if file.is_file()):
        written = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        masked = mask_secrets(written, secrets)
        if masked != written:
            write_text(file, OmegaConf.to_yaml(OmegaConf.create(masked)))


@cache
def _import_run(logger: str) -> Callable[[DictConfig], float]:
    """Import torch, Lightning and the studies; late, so that `--help` and a mistyped override answer at once.

    The logger is imported first because W&B's classes search all modules that are loaded, and without torch these are
    few. The imports create a million objects that live until the end of the process. The garbage collector would scan
    them again and again during the imports, during the run and at exit, which takes longer than importing torch; it is
    therefore off during the imports and ignores these objects afterwards.
    """
    gc.disable()
    try:
        if is_known(logger):
            get_object(logger)
        from probes.run import run
    finally:
        gc.freeze()
        gc.enable()
    return run


def check_overrides(overrides: Sequence[str]) -> None:
    """Compose the config as Hydra will, and explain the first override that is wrong.

    Args:
        overrides: As typed; a sweep is tried with its first value.

    Raises:
        OverrideError: An override does not parse, names a key or an option that does not exist, or adds a key that
            nothing reads; the message suggests the closest name.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise OverrideError(f"An override cannot be read: {error}") from error
    plain = [(override, text) for override in parsed if (text := _first_value(override)) is not None]
    plain.sort(key=lambda pair: pair[0].key_or_group != "hydra.searchpath")  # it decides which options there are
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        if not any(_adds(override) for override, _ in plain) and _compose_together([text for _, text in plain]):
            return
        checked: list[str] = []
        for override, text in plain:  # slower, but tells which override is wrong
            _check_one(override, text, checked)
            checked.append(text)


def refuse_foreign_hydra_nodes(overrides: Sequence[str]) -> None:
    """With `strict_targets`, refuse code from outside the known packages that Hydra itself would build.

    Hydra builds its launcher, sweeper and callbacks before the run sees its config.

    Raises:
        OverrideError: There is such code.
    """
    texts = [
        text
        for override in OverridesParser.create().parse_overrides(list(overrides))
        if (text := _first_value(override))
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=texts, return_hydra_config=True)
    nodes = targets_of(OmegaConf.to_container(cfg.hydra, resolve=False), "hydra")
    foreign = {path: target for path, target in nodes if not is_known(target) and not _is_of_hydra(target)}
    if cfg.strict_targets and foreign:
        raise OverrideError(f"{foreign_code(foreign)} `strict_targets=true` refuses it, and nothing was built.")


def _is_of_hydra(target: str) -> bool:
    return target.startswith(("hydra._internal.", "hydra_plugins."))


def _compose_together(overrides: Sequence[str]) -> bool:
    """Whether the config composes with all overrides at once."""
    try:
        compose("train", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def _adds(override: Override) -> bool:
    """Whether the override may add a key (`+key=value`, `++key=value`), which Hydra accepts under any name."""
    return override.is_add() or override.is_force_add()


def _check_one(override: Override, text: str, before: Sequence[str]) -> None:
    """Check one override on top of those before it.

    Raises:
        OverrideError: It is wrong.
    """
    try:
        cfg = compose("train", overrides=[*before, text])
    except (HydraException, OmegaConfBaseException) as error:
        raise OverrideError(_explain(override, before, error)) from error
    key = override.key_or_group
    if _adds(override) and not key.startswith("hydra") and not _is_read(cfg, key):
        keys = list(_keys(compose("train", overrides=list(before))))
        if key not in keys:
            raise OverrideError(f"Nothing reads `{key}`.{_did_you_mean(key, keys)} See `python train.py --cfg job`.")


def _is_read(cfg: DictConfig, key: str) -> bool:
    """Whether something may read an added key: it chooses an experiment, or is an argument of what a config builds."""
    if key == "experiment":
        return True
    parts = key.split(".")
    parents = (OmegaConf.select(cfg, ".".join(parts[:i]), throw_on_missing=False) for i in range(1, len(parts)))
    return any(isinstance(parent, DictConfig) and "_target_" in parent for parent in parents)


def _explain(override: Override, before: Sequence[str], error: Exception) -> str:
    """Why the config does not compose with an override: no such option, no such key, or the first line of the error."""
    key, value = override.key_or_group, str(override.value())
    folders = _config_folders(before)
    if available := options(key, folders):
        return f"`{key}` has no option '{value}'.{_did_you_mean(value, available)} It has {', '.join(available)}."
    groups = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
    names = [*_keys(compose("train", overrides=list(before))), *groups]
    if key not in names:
        return f"There is no config key `{key}`.{_did_you_mean(key, names)} See `python train.py --cfg job`."
    return f"The config does not compose with `{override.input_line}`: {str(error).splitlines()[0]}"


def _config_folders(overrides: Sequence[str]) -> list[Path]:
    """Where options come from: the project, its plug-ins, and folders in `hydra.searchpath`."""
    searched = compose("train", overrides=list(overrides), return_hydra_config=True).hydra.searchpath
    named = (Path(place.removeprefix("file://")) for place in searched if "pkg://" not in place)
    return [CONFIG_DIR, *plugin_folders().values(), *(folder for folder in named if folder.is_dir())]


def _did_you_mean(name: str, available: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, available, n=1, cutoff=0.5)
    return f" Did you mean `{close[0]}`?" if close else ""


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a config as dotted paths, parents before their children."""
    if isinstance(node, DictConfig):
        for key in node:
            path = f"{prefix}{key}"
            yield path
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, str(key)):
                yield from _keys(node[key], f"{path}.")


def _first_value(override: Override) -> str | None:
    """The override as text, a sweep with its first value; `None` for a glob, whose values only Hydra can list."""
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
