"""What more can be asked of a task's probes: confounds, baselines, description length, choice of layers."""

from probes.probe_measures.calibration import Calibration as Calibration
from probes.probe_measures.capacity import ProbeCapacity as ProbeCapacity
from probes.probe_measures.description_length import DescriptionLength as DescriptionLength
from probes.probe_measures.label_free import LabelFreePanel as LabelFreePanel
from probes.probe_measures.layer_choice import LayerChoice as LayerChoice
from probes.probe_measures.nuisances import Baselines as Baselines
from probes.probe_measures.nuisances import NuisanceAudit as NuisanceAudit
from probes.probe_measures.nuisances import SpanDeletion as SpanDeletion
from probes.probe_measures.ordinal import OrdinalProbe as OrdinalProbe
from probes.probe_measures.per_class import PerClass as PerClass
from probes.probe_measures.protocol import ProbedTask as ProbedTask
from probes.probe_measures.protocol import ProbeMeasure as ProbeMeasure
from probes.probe_measures.protocol import TaskTable as TaskTable
from probes.probe_measures.protocol import TextPairs as TextPairs
from probes.probe_measures.sample_efficiency import SampleEfficiency as SampleEfficiency
from probes.probe_measures.v_information import VInformation as VInformation
from probes.probe_measures.word_scores import EntityScores as EntityScores
from probes.probe_measures.word_scores import TagScores as TagScores
