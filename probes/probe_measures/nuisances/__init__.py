"""Is a probe's score explained by something else that the rows have, such as their length or their words?"""

from probes.probe_measures.nuisances.audit import NuisanceAudit as NuisanceAudit
from probes.probe_measures.nuisances.features import NuisanceGroup as NuisanceGroup
from probes.probe_measures.nuisances.features import nuisances_of as nuisances_of
from probes.probe_measures.nuisances.spans import SpanDeletion as SpanDeletion
from probes.probe_measures.nuisances.verdicts import Verdict as Verdict
from probes.probe_measures.nuisances.verdicts import verdict_of as verdict_of
