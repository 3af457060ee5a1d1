"""What more can be asked of a task's probes: confounds, baselines, description length, choice of layers."""

from probes.probe_measures.baselines import Baselines as Baselines
from probes.probe_measures.nuisances import NuisanceAudit as NuisanceAudit
from probes.probe_measures.protocol import ProbedTask as ProbedTask
from probes.probe_measures.protocol import ProbeMeasure as ProbeMeasure
