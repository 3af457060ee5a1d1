"""Whole runs: the rooms in order, top to bottom.

Names are loaded when first asked for, so that a study imports nothing that only another one needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.studies.compare import compare_study
    from probes.studies.layer_by_layer.figures import MapSettings
    from probes.studies.layer_by_layer.mixture import MixtureSettings
    from probes.studies.layer_by_layer.study import layer_by_layer_study
    from probes.studies.probe import probe_study

__all__ = ["MapSettings", "MixtureSettings", "compare_study", "layer_by_layer_study", "probe_study"]

__getattr__ = lazy_names(
    __name__,
    {
        "compare": ("compare_study",),
        "layer_by_layer.study": ("layer_by_layer_study",),
        "layer_by_layer.figures": ("MapSettings",),
        "layer_by_layer.mixture": ("MixtureSettings",),
        "probe": ("probe_study",),
    },
)
