"""Probe architectures: ordinary modules that see one layer's activations and answer with logits.

Any `nn.Module` class called as `(in_features, num_classes, **own)` is one; name yours in `probe.architecture._target_`.
"""

from .linear import LinearProbe as LinearProbe
from .mlp import ACTIVATIONS as ACTIVATIONS
from .mlp import MLPProbe as MLPProbe
from .protocol import OPTIONAL_METHODS as OPTIONAL_METHODS
from .protocol import ProbeArchitecture as ProbeArchitecture
