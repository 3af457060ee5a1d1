"""Which code a config names: everything under `_target_` is imported and called, so foreign code is named first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KNOWN_PACKAGES = ("probes", "torch", "lightning", "torchmetrics", "transformers", "peft")
"""Packages whose classes and functions a config may name without a word, but for those that load code or pickles."""

_LOADERS = (
    *(
        f"torch.{name}"
        for name in (
            "load", "hub", "jit", "package", "serialization", "compile", "library", "ops", "classes",
            "utils.cpp_extension", "utils.model_zoo", "multiprocessing", "distributed",
        )
    ),
    *(f"transformers.{name}" for name in ("pipeline", "dynamic_module_utils")),
)  # fmt: skip
"""Parts of known packages that run what a file or a server holds."""


def targets_of(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The place and the value of each `_target_` in a resolved config, parents before their children."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield f"{path}._target_".removeprefix("."), str(config["_target_"])
        for key, item in config.items():
            yield from targets_of(item, f"{path}.{key}".removeprefix("."))
    elif isinstance(config, list | tuple):
        for index, item in enumerate(config):
            yield from targets_of(item, f"{path}[{index}]")


def is_known(target: str) -> bool:
    """Whether a dotted name belongs to a known package, by the name alone.

    Example:
        >>> [is_known(name) for name in ("torch.nn.Linear", "torch.hub.load", "joblib.load", "probesque.Probe")]
        [True, False, False, False]
    """
    return _within(target, KNOWN_PACKAGES) and not _within(target, _LOADERS)


def is_defined_by_known(found: object, target: str) -> bool:
    """Whether what a known name leads to is defined there: `torch.os.system` is not."""
    module = getattr(found, "__module__", None)
    module = type(found).__module__ if module is None and not callable(found) else module
    return module is None or is_known(f"{module}.{getattr(found, '__name__', target.rpartition('.')[2])}")


def foreign_code(foreign: Mapping[str, str]) -> str:
    """One line that names code outside the known packages.

    Args:
        foreign: Place in the config → dotted name.
    """
    named = ", ".join(f"{path}={target}" for path, target in foreign.items())
    return f"The config runs code from outside {', '.join(KNOWN_PACKAGES)}: {named}."


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
