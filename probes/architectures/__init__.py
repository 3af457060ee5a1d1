"""Probe architectures: ordinary modules that map one layer's activations to logits.

Any `nn.Module` class called as `(in_features, num_classes, **arguments)` is one; `probes.architectures.protocol` shows
a complete example. Name yours in `probe.architecture._target_`; it may live in any importable module.
"""

from probes.architectures.linear import LinearProbe as LinearProbe
from probes.architectures.mlp import ACTIVATION_FUNCTIONS as ACTIVATION_FUNCTIONS
from probes.architectures.mlp import MLPProbe as MLPProbe
from probes.architectures.protocol import ProbeArchitecture as ProbeArchitecture
from probes.architectures.scalar_mix import ScalarMixProbe as ScalarMixProbe
