"""Plug-ins: installed packages whose folder `conf` adds options to the groups of the config.

A package declares itself in its `pyproject.toml`, and nothing of it is imported before a config names it:

    [project.entry-points."probes.plugins"]
    example = "probes_example_plugin"
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_DIR = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
"""`probes/conf` in an installed package, `conf` beside it in a checkout."""

ENTRY_POINTS = "probes.plugins"
"""The group of entry points; each names a package with a folder `conf`."""


class PluginSearchPath(SearchPathPlugin):
    """Adds the config folder of every plug-in to where Hydra looks for options, behind those of the project."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        for name, folder in plugin_folders().items():
            search_path.append(provider=f"{ENTRY_POINTS}:{name}", path=f"file://{folder}")


def register_plugins() -> None:
    """Make Hydra look for options in plug-ins, however a config is composed from now on."""
    Plugins.instance().register(PluginSearchPath)


def plugin_folders() -> dict[str, Path]:
    """The config folder of each plug-in by its name, in alphabetical order; one without a folder is warned of."""
    found: dict[str, Path] = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        folder = _config_folder(entry)
        if folder is None:
            owner = entry.dist.name if entry.dist is not None else "an unknown package"
            warnings.warn(
                f"Plug-in '{entry.name}' of {owner} adds no options: there is no package '{entry.value}' with a folder "
                f"`conf`. Correct its entry point in the group `{ENTRY_POINTS}`, or uninstall {owner}.",
                stacklevel=2,
            )
        else:
            found[entry.name] = folder
    return found


def options(group: str, folders: Iterable[Path]) -> list[str]:
    """The options of a group in some config folders, without those that only others build on (`_source`)."""
    files = (path for folder in folders for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in files if not path.stem.startswith("_")})


def _config_folder(entry: EntryPoint) -> Path | None:
    """The folder `conf` of the package an entry point names, which is found but not imported."""
    if not entry.value.isidentifier():  # to find a module in a package, the package would be imported
        return None
    spec = find_spec(entry.value)
    places = spec.submodule_search_locations if spec is not None else None
    return next((folder for place in places or () if (folder := Path(place, "conf").absolute()).is_dir()), None)
