"""Whole runs: the rooms in order, top to bottom."""

from probes.studies.compare import compare_study as compare_study
from probes.studies.probe import probe_study as probe_study
