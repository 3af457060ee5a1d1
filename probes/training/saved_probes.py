"""Trained probes as one safetensors file, from which they are loaded to the same predictions."""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from probes.architectures import ProbeArchitecture
from probes.files import replaced_file
from probes.training.bank.probe_bank import ProbeBank
from probes.training.bank.probe_module import Standardiser
from probes.training.layer_probes import LayerProbes
from probes.values import Reading

_FORMAT = "probes/1"
"""Name and version of the layout: tensors `bank.*` and `standardiser.*`, and everything else as JSON in the header."""
_HEADER_KEY = "probes"
"""Key of the JSON in the file's safetensors metadata."""
_OWN = "probes.architectures"
"""The module whose architectures every file may name."""


def save_probes(probes: LayerProbes, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write probes to one safetensors file, which replaces a file of this name.

    Args:
        probes: The probes.
        path: The file; missing parent folders are made.
        metadata: Anything that can be written as JSON; it is added to `probes.metadata`.

    Returns:
        The path.

    Raises:
        ValueError: The architecture cannot be imported by name, or has arguments that cannot be written as JSON.
    """
    header = _header(probes, metadata or {})
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("bank", probes.bank), ("standardiser", probes.standardiser)):
        state = {} if module is None else module.state_dict()
        tensors |= {f"{prefix}.{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    path = Path(path)
    with replaced_file(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER_KEY: json.dumps(header)})
    return path


def load_probes(path: str | Path, *, allow: Sequence[str] = ()) -> LayerProbes:
    """Read probes that `save_probes` wrote; they give the same predictions, whatever their architecture.

    A file names the class of its probes, which is imported and called. So that nobody's file decides what code runs
    here, it may name only architectures of `probes.architectures` and of the modules that the caller allows.

    Args:
        path: The file.
        allow: Modules whose architectures the file may name, such as `["my_probes"]`; their submodules are included.

    Raises:
        ValueError: The file does not hold probes in this format, or names an architecture that is not allowed.
        ImportError: The architecture's module cannot be imported.
    """
    header, tensors = _read(Path(path))
    architecture = _allowed_architecture(header["architecture"], path, allow)
    probes = LayerProbes(
        task=header["task"],
        kind=header["kind"],
        labels=tuple(header["labels"]),
        layers=tuple(header["layers"]),
        constant=tuple(header["constant"]),
        reading=Reading(**header["reading"]),
        penalties=tuple(float("nan") if penalty is None else penalty for penalty in header["penalties"]),
        in_features=header["in_features"],
        architecture=functools.partial(architecture, **header["arguments"]),
        bank=None,
        standardiser=None,
        target_mean=header["target_mean"],
        target_deviation=header["target_deviation"],
        metadata=header["metadata"],
    )
    try:
        return _with_tensors(probes, tensors) if probes.probed_layers else probes
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"'{path}' is damaged: its tensors do not fit its header ({error}).") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file; nothing that the header names is touched.

    Raises:
        ValueError: The file does not hold probes in this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(text) if text is not None else {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is damaged, or no safetensors file: {error}.") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(f"'{path}' holds no probes in the format {_FORMAT}; it was not written by `save_probes`.")
    if lacking := sorted(_HEADER_FIELDS - header.keys()):
        raise ValueError(f"'{path}' is damaged: its header lacks {', '.join(lacking)}.")
    return header, tensors


def _allowed_architecture(name: Any, path: str | Path, allow: Sequence[str]) -> ProbeArchitecture:
    """The architecture that a file names, if it is one and stands in an allowed module; else nothing is imported.

    A name such as `probes.architectures.mlp.nn.Linear` reaches through an allowed module into another; so what is found
    must also say itself that it is defined under this name.
    """
    modules = (_OWN, *([allow] if isinstance(allow, str) else allow))
    named = f"'{path}' names {name!r} as the architecture of its probes"
    if not isinstance(name, str) or not any(name.startswith(f"{module}.") for module in modules):
        module = str(name).rpartition(".")[0] or "MODULE"
        raise ValueError(
            f"{named}. Loading would import and call it; allowed are {', '.join(modules)}. If you trust the module "
            f"'{module}', pass `load_probes(path, allow=['{module}'])`."
        )
    try:
        found = _imported(name)
    except AttributeError as error:
        raise ValueError(f"{named}, which does not exist: {error}.") from error
    is_architecture = issubclass(found, nn.Module) if isinstance(found, type) else callable(found)
    if not is_architecture or f"{found.__module__}.{getattr(found, '__qualname__', '')}" != name:
        raise ValueError(
            f"{named}, which is not an architecture defined in {', '.join(modules)}. Architectures are classes of "
            "`nn.Module`, or functions that make one."
        )
    return found


def _header(probes: LayerProbes, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but tensors, as JSON can hold it; NaN, which JSON lacks, becomes null."""
    name, arguments = _importable_name(probes.architecture)
    return {
        "format": _FORMAT,
        "task": probes.task,
        "kind": probes.kind,
        "labels": probes.labels,
        "layers": probes.layers,
        "constant": probes.constant,
        "reading": vars(probes.reading),
        "in_features": probes.in_features,
        "penalties": [None if math.isnan(penalty) else penalty for penalty in probes.penalties],
        "architecture": name,
        "arguments": arguments,
        "target_mean": probes.target_mean,
        "target_deviation": probes.target_deviation,
        "metadata": {**probes.metadata, **metadata},
    }


_HEADER_FIELDS = {
    "task", "kind", "labels", "layers", "constant", "reading", "in_features", "penalties", "architecture", "arguments",
    "target_mean", "target_deviation", "metadata",
}  # fmt: skip


def _with_tensors(probes: LayerProbes, tensors: Mapping[str, Tensor]) -> LayerProbes:
    """Build the bank and the standardiser from the file's tensors."""
    bank = ProbeBank(probes.architecture, probes.in_features, probes.num_classes, layers=probes.probed_layers)
    prefix = "bank."
    bank.load_state_dict(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )
    statistics = (tensors["standardiser.mean"], tensors["standardiser.deviation"])
    standardiser = Standardiser(*statistics, tensors.get("standardiser.largest"))
    return replace(probes, bank=bank.eval(), standardiser=standardiser)


def _importable_name(architecture: ProbeArchitecture) -> tuple[str, dict[str, Any]]:
    """Return the dotted name of an architecture and the arguments that a `functools.partial` gives it.

    Raises:
        ValueError: It has no such name, or arguments that cannot be written as JSON.
    """
    arguments: dict[str, Any] = {}
    target: Any = architecture
    if isinstance(architecture, functools.partial):
        target, arguments = architecture.func, dict(architecture.keywords)
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    try:
        found = _imported(name)
        json.dumps(arguments)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"Probes of {architecture!r} can't be saved: {error}. Use an importable class, and arguments that can be "
            "written as JSON."
        ) from error
    if found is not target:
        raise ValueError(f"Probes of {architecture!r} can't be saved: '{name}' is the name of another object.")
    return name, arguments


def _imported(name: str) -> Any:
    """Import an object by its dotted name.

    The name does not tell where the module ends and a nested class begins, so the longest importable prefix is taken.
    """
    module, _, qualname = name.rpartition(".")
    while True:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, outer = module.rpartition(".")
            if not module:
                raise
            qualname = f"{outer}.{qualname}"
            continue
        return functools.reduce(getattr, qualname.split("."), found)
