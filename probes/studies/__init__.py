"""Whole runs: each study takes the packages in order, top to bottom.

A study is an object with the method `run(context, *, …)`, which names the parts of the config it asks for. Names are
loaded when first asked for, so that a study imports nothing that only another one needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.studies.compare import CompareStudy
    from probes.studies.interventions.attribute import AttributeStudy
    from probes.studies.interventions.channels import ChannelsStudy
    from probes.studies.interventions.erase import EraseStudy
    from probes.studies.interventions.erasure import ErasureSettings
    from probes.studies.interventions.heads import HeadSettings, HeadsStudy
    from probes.studies.interventions.lens import LensStudy
    from probes.studies.interventions.patch import PatchStudy
    from probes.studies.interventions.patching import PatchingSettings
    from probes.studies.interventions.path_patching import PathSettings
    from probes.studies.interventions.steer import SteerStudy
    from probes.studies.interventions.steering import SteeringSettings
    from probes.studies.layer_by_layer.figures import MapSettings
    from probes.studies.layer_by_layer.mixture import MixtureSettings
    from probes.studies.layer_by_layer.model_patching import ModelPatchingSettings
    from probes.studies.layer_by_layer.study import LayerByLayerStudy
    from probes.studies.probe import ProbeStudy
    from probes.studies.readers import ReadersStudy
    from probes.studies.run_context import RunContext
    from probes.studies.transfer import TransferStudy
    from probes.studies.trees.study import TreesStudy

__all__ = [
    "AttributeStudy",
    "ChannelsStudy",
    "CompareStudy",
    "EraseStudy",
    "ErasureSettings",
    "HeadSettings",
    "HeadsStudy",
    "LayerByLayerStudy",
    "LensStudy",
    "MapSettings",
    "MixtureSettings",
    "ModelPatchingSettings",
    "PatchStudy",
    "PatchingSettings",
    "PathSettings",
    "ProbeStudy",
    "ReadersStudy",
    "RunContext",
    "SteerStudy",
    "SteeringSettings",
    "TransferStudy",
    "TreesStudy",
]

__getattr__ = lazy_names(
    __name__,
    {
        "compare": ("CompareStudy",),
        "interventions.attribute": ("AttributeStudy",),
        "interventions.channels": ("ChannelsStudy",),
        "interventions.erase": ("EraseStudy",),
        "interventions.erasure": ("ErasureSettings",),
        "interventions.lens": ("LensStudy",),
        "interventions.heads": ("HeadSettings", "HeadsStudy"),
        "interventions.patch": ("PatchStudy",),
        "interventions.patching": ("PatchingSettings",),
        "interventions.path_patching": ("PathSettings",),
        "interventions.steer": ("SteerStudy",),
        "interventions.steering": ("SteeringSettings",),
        "layer_by_layer.figures": ("MapSettings",),
        "layer_by_layer.mixture": ("MixtureSettings",),
        "layer_by_layer.model_patching": ("ModelPatchingSettings",),
        "layer_by_layer.study": ("LayerByLayerStudy",),
        "probe": ("ProbeStudy",),
        "readers": ("ReadersStudy",),
        "run_context": ("RunContext",),
        "transfer": ("TransferStudy",),
        "trees.study": ("TreesStudy",),
    },
)
