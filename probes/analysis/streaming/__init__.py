"""Measures of activations as `torchmetrics.Metric`s: rows come in batches, merge over ranks, need not fit in memory.

Call `update` for every batch and `compute` once: the value is that of the function of the same name on all rows at once
in float64, to rounding, whatever the batches. Calling the metric itself also computes the value of the batch alone,
which is slow, and refused for fewer than 4 rows. Sums are float64 and live on the metric's device. A measure of pairs
of rows is computed on a sample of them (`SampledMeasure`).
"""

from probes.analysis.streaming.canonical import PWCCA as PWCCA
from probes.analysis.streaming.canonical import SVCCA as SVCCA
from probes.analysis.streaming.covariance_spectra import EffectiveRank as EffectiveRank
from probes.analysis.streaming.covariance_spectra import MatrixEntropy as MatrixEntropy
from probes.analysis.streaming.covariance_spectra import ParticipationRatio as ParticipationRatio
from probes.analysis.streaming.directions import Anisotropy as Anisotropy
from probes.analysis.streaming.directions import MatchedCosine as MatchedCosine
from probes.analysis.streaming.linear_cka import LinearCKA as LinearCKA
from probes.analysis.streaming.linear_cka import LinearLabelCKA as LinearLabelCKA
from probes.analysis.streaming.linear_cka import MinibatchCKA as MinibatchCKA
from probes.analysis.streaming.row_sample import RowSample as RowSample
from probes.analysis.streaming.row_sample import SampledMeasure as SampledMeasure
