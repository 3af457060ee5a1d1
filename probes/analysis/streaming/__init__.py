"""Measures of activations as `torchmetrics.Metric`s: rows come in batches and from ranks, and need not fit in memory.

Call `update` for every batch and `compute` once. Whatever the batches, the value equals that of the function of the
same name on all rows at once in float64, up to rounding. Calling the metric itself also computes the value of the
batch, which is slow and raises for fewer than 4 rows. Sums are float64 and live on the metric's device. Measures that
need all rows at once are computed on a sample of them (`SampledMeasure`). `streamed_cka_pairs` is no metric: it
reads the rows several times, so that every layer can be compared with every other in bounded memory.
"""

from probes.analysis.streaming.cca import PWCCA as PWCCA
from probes.analysis.streaming.cca import SVCCA as SVCCA
from probes.analysis.streaming.cosines import Anisotropy as Anisotropy
from probes.analysis.streaming.cosines import MatchedCosine as MatchedCosine
from probes.analysis.streaming.covariance_spectra import EffectiveRank as EffectiveRank
from probes.analysis.streaming.covariance_spectra import MatrixEntropy as MatrixEntropy
from probes.analysis.streaming.covariance_spectra import ParticipationRatio as ParticipationRatio
from probes.analysis.streaming.layer_pairs import streamed_cka_pairs as streamed_cka_pairs
from probes.analysis.streaming.linear_cka import LinearCKA as LinearCKA
from probes.analysis.streaming.linear_cka import LinearLabelCKA as LinearLabelCKA
from probes.analysis.streaming.linear_cka import MinibatchCKA as MinibatchCKA
from probes.analysis.streaming.row_sample import RowSample as RowSample
from probes.analysis.streaming.row_sample import SampledMeasure as SampledMeasure
