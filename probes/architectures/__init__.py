"""Probe architectures: ordinary modules that see one layer's activations and answer with logits.

Any `nn.Module` class called as `(in_features, num_classes, **own)` is one; name yours in `probe.architecture._target_`.
"""

from probes.architectures.linear import LinearProbe as LinearProbe
from probes.architectures.mlp import ACTIVATIONS as ACTIVATIONS
from probes.architectures.mlp import MLPProbe as MLPProbe
from probes.architectures.protocol import OPTIONAL_METHODS as OPTIONAL_METHODS
from probes.architectures.protocol import ProbeArchitecture as ProbeArchitecture
