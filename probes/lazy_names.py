"""Public names of a package that are imported on first use, so that importing the package stays fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(package: str, names_by_module: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Make the `__getattr__` of a package (PEP 562), which imports a module when one of its names is first used.

    Args:
        package: The package's `__name__`.
        names_by_module: Module, relative to the package → the names that it defines.

    Returns:
        A function from a name to its value; it raises `AttributeError` for a name that is not listed.
    """
    module_of = {name: module for module, names in names_by_module.items() for name in names}

    def find(name: str) -> object:
        if name not in module_of:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(module_of))}."
            )
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return find
