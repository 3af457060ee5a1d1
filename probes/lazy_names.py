"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Make a package's `__getattr__`, so that to import the package, or one of its names, loads only what that needs.

    Args:
        package: The package's `__name__`.
        homes: Modules, as seen from the package, and which of its names each of them holds.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(home_of))}.")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    return find
