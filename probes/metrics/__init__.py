"""Scores of every layer's probe at once, with bootstrap intervals: what torchmetrics lacks.

Each scorer takes all layers' logits and a matrix of row counts, so the point value (counts of one) and a thousand
resamples are the same few matrix products. With counts of one the values equal torchmetrics'.
"""

from .baseline import majority_logits as majority_logits
from .bootstrap import bootstrap_counts as bootstrap_counts
from .bootstrap import percentile_interval as percentile_interval
from .classification import auroc as auroc
from .classification import classification_scores as classification_scores
from .multilabel import multilabel_scores as multilabel_scores
from .regression import regression_scores as regression_scores
from .scores import MAIN_METRIC as MAIN_METRIC
from .scores import UNITS as UNITS
from .scores import Kind as Kind
from .scores import Scores as Scores
from .scores import score_rows as score_rows
