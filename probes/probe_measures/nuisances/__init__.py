"""What else may explain a probe's score: nuisances such as length or words, spans of the prompt, baselines."""

from probes.probe_measures.nuisances.audit import NuisanceAudit as NuisanceAudit
from probes.probe_measures.nuisances.baselines import Baselines as Baselines
from probes.probe_measures.nuisances.features import NuisanceGroup as NuisanceGroup
from probes.probe_measures.nuisances.features import nuisances_of as nuisances_of
from probes.probe_measures.nuisances.spans import SpanDeletion as SpanDeletion
from probes.probe_measures.nuisances.verdicts import Verdict as Verdict
from probes.probe_measures.nuisances.verdicts import verdict_of as verdict_of
