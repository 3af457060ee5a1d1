"""How alike are layers, and how far do they follow labels? Pure functions on tensors."""

from probes.analysis.cka import cka_pairs as cka_pairs
from probes.analysis.cka import label_cka as label_cka
from probes.analysis.cka import linear_cka as linear_cka
from probes.analysis.hsic import hsic_pairs as hsic_pairs
