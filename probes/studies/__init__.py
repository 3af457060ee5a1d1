"""Whole runs: the rooms in order, top to bottom."""

from probes.studies.compare import compare_study as compare_study
from probes.studies.layer_by_layer import layer_by_layer_study as layer_by_layer_study
from probes.studies.layer_by_layer_figures import MapSettings as MapSettings
from probes.studies.mixture_settings import MixtureSettings as MixtureSettings
from probes.studies.probe import probe_study as probe_study
