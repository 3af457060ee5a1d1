"""The composition root: the only module that sees the config. It builds what the study asks for and runs it."""

from __future__ import annotations

import copy
import difflib
import inspect
import io
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from probes.activations import is_url
from probes.files import write_text
from probes.report import FilesOnly
from probes.runs.masking import mask_secrets
from probes.runs.run_folder import config_digest, is_finished, read_state, run_in_folder
from probes.runs.targets import foreign_code, is_defined_by_known, is_known, targets_of
from probes.studies import RunContext
from probes.trainers import leave_process_group_at_exit

_log = logging.getLogger(__name__)

_LOADED_BY_STUDY = {"backbone", "reference_backbone", "suite"}
"""Parts a study gets as functions without arguments, to be called when it needs them."""
_INSTANTIATE_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def run(cfg: DictConfig) -> float:
    """Carry out the study a config describes.

    Args:
        cfg: What `conf/train.yaml` composes.

    Returns:
        The number a sweep maximises; each study says what it is.

    Raises:
        ValueError: A node of the config has a key that nothing reads, `strict_targets` is set and it names code from
            outside the known packages, or the folder holds what another run has left.
        Interrupted: A signal asked the run to end.
    """
    leave_process_group_at_exit()
    folder, circumstances = _folder(cfg), _circumstances(cfg)
    if _rank() == 0:
        return run_in_folder(folder, partial(_run_study, cfg, folder), **circumstances)
    if is_finished(state := read_state(folder), circumstances["digest"]):
        return state.objective
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):  # rank 0 alone writes and prints
        return _run_study(cfg, Path(scratch))


def _folder(cfg: DictConfig) -> Path:
    return Path(HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else cfg.paths.output_dir)


def _circumstances(cfg: DictConfig) -> dict[str, Any]:
    """What `run_in_folder` needs to know of a run besides its study."""
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    known = {"digest": config_digest(config), "resume": cfg.get("resume", False)}
    if not HydraConfig.initialized():
        return known
    hydra = HydraConfig.get()
    key = "hydra.sweep.dir" if hydra.mode == RunMode.MULTIRUN else "hydra.run.dir"
    return known | {"command": sys.argv, "overrides": list(hydra.overrides.task), "key": key}


def _run_study(cfg: DictConfig, output_dir: Path) -> float:
    check_targets(cfg)
    check_arguments(cfg)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    cfg = with_local_folder(cfg)
    output_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(mask_secrets(config)), output_dir / "config.yaml")
    _write_hydra_files(cfg, output_dir / ".hydra")
    lightning.seed_everything(cfg.seed, verbose=False)
    study = instantiate(cfg.study)
    context = RunContext.of(
        logger=instantiate(cfg.logger, **_sweep(cfg)) if _rank() == 0 else FilesOnly(),
        seed=cfg.seed,
        cache_dir=Path(cfg.paths.cache_dir).expanduser(),
        output_dir=output_dir,
        config=cast("dict[str, Any]", config),
    )
    wanted = [name for name in inspect.signature(study.run).parameters if name != "context"]
    return study.run(context, **{name: _part(cfg, name) for name in wanted})


def _write_hydra_files(cfg: DictConfig, folder: Path) -> None:
    """What Hydra itself would write to the folder before it is known that the folder is this run's."""
    if not HydraConfig.initialized():
        return
    overrides = HydraConfig.get().overrides.task
    for name, node in {"config": cfg, "hydra": HydraConfig.instance().cfg, "overrides": overrides}.items():
        plain = mask_secrets(OmegaConf.to_container(node, resolve=False))
        write_text(folder / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))


def _part(cfg: DictConfig, name: str) -> Any:
    """What the config node of this name describes; of what takes long to load, a function that loads it.

    Only what the study's `run` names is built, so that probing does not import what only tuning needs.

    Raises:
        ValueError: The config has no such node.
    """
    if name not in cfg:
        raise ValueError(
            f"Study {cfg.study._target_} asks for a part '{name}'. The config has {', '.join(map(str, cfg))}. Name the "
            "arguments of its `run` after nodes of the config, or add the node."
        )
    if name in _LOADED_BY_STUDY:
        return partial(instantiate, cfg[name]) if cfg[name] else None  # an empty node means there is none
    return instantiate(cfg[name])


def with_local_folder(cfg: DictConfig) -> DictConfig:
    """The config with a folder for `paths.cache_dir`, where that is the URL of an object store.

    Activations go to the object store as well; all else that is kept lies in the folder, `paths.local_cache`.
    """
    if not is_url(cfg.paths.cache_dir):
        return cfg
    changed = copy.deepcopy(cfg)
    with open_dict(changed):
        changed.paths.remote, changed.paths.cache_dir = cfg.paths.cache_dir, cfg.paths.local_cache
    return changed


def check_targets(cfg: DictConfig) -> None:
    """Name in a warning, before any of it is imported, code from outside the known packages that the config would run.

    Raises:
        ValueError: There is such code, and `strict_targets` is set.
    """
    targets = dict(targets_of(OmegaConf.to_container(cfg, resolve=True)))
    foreign = {path: target for path, target in targets.items() if not is_known(target)}
    foreign |= {
        path: target
        for path, target in targets.items()
        if path not in foreign and not is_defined_by_known(get_object(target), target)
    }
    if not foreign:
        return
    if cfg.get("strict_targets", False):
        raise ValueError(
            f"{foreign_code(foreign)} `strict_targets=true` refuses it, and nothing was built. Look at what it does, "
            "and set `strict_targets=false` to run it."
        )
    _log.warning("%s", foreign_code(foreign))


def check_arguments(cfg: DictConfig) -> None:
    """Check the keys of every node that builds something against the signature of what it builds.

    Raises:
        ValueError: A key is not an argument there; the message names the closest one that is.
    """
    for path, node in _built_nodes(cfg):
        target = get_object(node._target_)
        parameters = inspect.signature(target).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            continue
        names = [parameter.name for parameter in parameters]
        for key in node:
            if key not in names and key not in _INSTANTIATE_KEYS:
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f" Did you mean `{path}.{close[0]}`?" if close else ""
                raise ValueError(f"Nothing reads `{path}.{key}`: {node._target_} takes {', '.join(names)}.{hint}")


def _built_nodes(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _built_nodes(node[key], f"{path}.{key}" if path else str(key))
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from _built_nodes(item, f"{path}[{index}]")


def _rank() -> int:
    """The rank of this process in a distributed run; 0 where there is only one process."""
    return rank_zero_only.rank  # pyright: ignore[reportFunctionMemberAccess]  # set on import, by launcher variables


def _sweep(cfg: DictConfig) -> dict[str, str]:
    """The logger's group: the jobs of one sweep share one, unless the user named another."""
    if "group" not in cfg.logger or cfg.logger.group is not None or not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    return {"group": "-".join(Path(hydra.sweep.dir).parts[-2:])} if hydra.mode == RunMode.MULTIRUN else {}
