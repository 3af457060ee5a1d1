"""Where, layer by layer, does a task live in a language model; what did tuning change; and how sure are we?

>>> import probes
>>> backbone = probes.tiny_backbone()
>>> probes.extract(backbone, ["One text.", "Another."], layers=[0, 2]).values.shape
torch.Size([2, 2, 32])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.activations import extract as extract
    from probes.backbones import FrozenBackbone as FrozenBackbone
    from probes.backbones import tiny_backbone as tiny_backbone
    from probes.training import fit_probes as fit_probes
    from probes.training import load_probes as load_probes

_HOME = {
    "FrozenBackbone": "probes.backbones",
    "tiny_backbone": "probes.backbones",
    "extract": "probes.activations",
    "fit_probes": "probes.training",
    "load_probes": "probes.training",
}
__all__ = ["FrozenBackbone", "extract", "fit_probes", "load_probes", "tiny_backbone"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import probes` loads neither torch nor transformers."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'probes' has no attribute {name!r}; it has {', '.join(__all__)}")
