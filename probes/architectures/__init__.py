"""Probe architectures: ordinary modules that map one layer's activations to logits.

Any `nn.Module` class called as `(in_features, num_classes, **arguments)` is one; `probes.architectures.protocol` shows
a complete example. Name yours in `probe.architecture._target_`; it may live in any importable module.
"""

from probes.architectures.attention import AttentionProbe as AttentionProbe
from probes.architectures.attention import MultiMaxProbe as MultiMaxProbe
from probes.architectures.linear import LinearProbe as LinearProbe
from probes.architectures.low_rank import LowRankProbe as LowRankProbe
from probes.architectures.mlp import ACTIVATION_FUNCTIONS as ACTIVATION_FUNCTIONS
from probes.architectures.mlp import MLPProbe as MLPProbe
from probes.architectures.protocol import Outputs as Outputs
from probes.architectures.protocol import ProbeArchitecture as ProbeArchitecture
from probes.architectures.protocol import reads_tokens as reads_tokens
from probes.architectures.scalar_mix import ScalarMixProbe as ScalarMixProbe
from probes.architectures.structural import DepthProbe as DepthProbe
from probes.architectures.structural import DistanceProbe as DistanceProbe
from probes.architectures.structural import SyntacticDistanceProbe as SyntacticDistanceProbe
