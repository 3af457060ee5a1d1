"""What can be said of layers without labels: paths of tokens, altered copies of texts, pairs of texts."""

from probes.probe_measures.label_free.panel import LabelFreePanel as LabelFreePanel
