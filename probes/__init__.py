"""Where, layer by layer, does a task live in a language model; what did tuning change; and how sure are we?

>>> import probes
>>> backbone = probes.tiny_backbone()
>>> probes.extract(backbone, ["One text.", "Another."], layers=[0, 2]).values.shape
torch.Size([2, 2, 32])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.activations import extract as extract
    from probes.backbones import FrozenBackbone as FrozenBackbone
    from probes.backbones import tiny_backbone as tiny_backbone
    from probes.report import read_run as read_run
    from probes.training import fit_probes as fit_probes
    from probes.training import load_probes as load_probes

__all__ = ["FrozenBackbone", "extract", "fit_probes", "load_probes", "read_run", "tiny_backbone"]

__getattr__ = lazy_names(
    __name__,
    {
        "activations": ("extract",),
        "backbones": ("FrozenBackbone", "tiny_backbone"),
        "report": ("read_run",),
        "training": ("fit_probes", "load_probes"),
    },
)
