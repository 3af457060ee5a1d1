"""The composition root: the one module that sees the config. It builds what the config names and runs the study."""

from __future__ import annotations

import difflib
import inspect
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf

from probes.report import FilesOnly

_INSTANTIATE_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def run(cfg: DictConfig) -> float:
    """Carry out the study a config describes.

    Args:
        cfg: What `conf/train.yaml` composes.

    Returns:
        The number a sweep maximises; each study says what it is.

    Raises:
        ValueError: Some part of the config names an argument that nobody reads.
    """
    check_arguments(cfg)
    with _output_dir(cfg) as output_dir:
        return _run_study(cfg, output_dir)


def _run_study(cfg: DictConfig, output_dir: Path) -> float:
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, output_dir / "config.yaml", resolve=True)
    lightning.seed_everything(cfg.seed, verbose=False)
    study = instantiate(cfg.study)
    parts = _parts(cfg) | {"config": config, "output_dir": output_dir}
    wanted = inspect.signature(study).parameters
    return study(**{name: part for name, part in parts.items() if name in wanted})


def _parts(cfg: DictConfig) -> dict[str, Any]:
    """Everything a study may ask for by name: what is made once, and factories of what is made several times."""
    return {
        "backbone": partial(instantiate, cfg.backbone),
        "suite": partial(instantiate, cfg.suite),
        "extraction": instantiate(cfg.extraction),
        "probe": instantiate(cfg.probe),
        "trainer": instantiate(cfg.trainer),
        "tuning": instantiate(cfg.tuning),
        "callbacks": instantiate(cfg.callbacks),
        "reference_backbone": partial(instantiate, cfg.reference_backbone) if cfg.reference_backbone else None,
        "logger": instantiate(cfg.logger, **_sweep(cfg)) if _rank() == 0 else FilesOnly(),
        "seed": cfg.seed,
        "cache_dir": Path(cfg.paths.cache_dir).expanduser(),
    }


def check_arguments(cfg: DictConfig) -> None:
    """Hold every node that builds something against the signature of what it builds.

    Raises:
        ValueError: A key is no argument there, with the closest that is.
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
                raise ValueError(f"Nobody reads `{path}.{key}`: {node._target_} takes {', '.join(names)}.{hint}")


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


@contextmanager
def _output_dir(cfg: DictConfig) -> Iterator[Path]:
    """Where the run leaves its files; under DDP, what ranks other than zero leave and print is thrown away."""
    if _rank() != 0:
        with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
            yield Path(scratch)
    else:
        yield Path(HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else cfg.paths.output_dir)


def _rank() -> int:
    """This process among those of a distributed run; 0 where there is one."""
    return rank_zero_only.rank  # pyright: ignore[reportFunctionMemberAccess]  # set on import, by launcher variables


def _sweep(cfg: DictConfig) -> dict[str, str]:
    """A group for the logger: the jobs of one sweep share one, unless the user named another."""
    if "group" not in cfg.logger or cfg.logger.group is not None or not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    return {"group": "-".join(Path(hydra.sweep.dir).parts[-2:])} if hydra.mode == RunMode.MULTIRUN else {}
