"""Scores of all layers' probes at once, with bootstrap intervals, which torchmetrics does not offer.

Every metric takes all layers' logits and a matrix of row counts, so that the point value (all counts one) and a
thousand bootstrap resamples are the same few matrix products. With counts of one the values equal torchmetrics'.
"""

from probes.metrics.baselines import majority_logits as majority_logits
from probes.metrics.baselines import word_majority_logits as word_majority_logits
from probes.metrics.classification import auroc as auroc
from probes.metrics.predictions import Predictions as Predictions
from probes.metrics.resampling import RowGroups as RowGroups
from probes.metrics.resampling import bootstrap_counts as bootstrap_counts
from probes.metrics.resampling import permuted_orders as permuted_orders
from probes.metrics.score_intervals import drawn as drawn
from probes.metrics.score_intervals import errors_of_draws as errors_of_draws
from probes.metrics.score_intervals import score_interval as score_interval
from probes.metrics.score_intervals import widened as widened
from probes.metrics.scores import LARGER_IS_BETTER as LARGER_IS_BETTER
from probes.metrics.scores import MAIN_METRIC as MAIN_METRIC
from probes.metrics.scores import METRICS as METRICS
from probes.metrics.scores import OBJECTIVE_METRIC as OBJECTIVE_METRIC
from probes.metrics.scores import SCALES as SCALES
from probes.metrics.scores import UNITS as UNITS
from probes.metrics.scores import ProbeMetric as ProbeMetric
from probes.metrics.scores import Scores as Scores
from probes.metrics.scores import TargetKind as TargetKind
from probes.metrics.scores import permuted_scores as permuted_scores
from probes.metrics.scores import score_rows as score_rows
