"""The frozen wrapper around any transformers model: any stack, layer, site and pooling from one pass."""

from probes.backbones.alignment import AlignedTexts as AlignedTexts
from probes.backbones.alignment import Ranges as Ranges
from probes.backbones.edits import Edit as Edit
from probes.backbones.frozen import FrozenBackbone as FrozenBackbone
from probes.backbones.frozen import frozen_view as frozen_view
from probes.backbones.hooks import Spans as Spans
from probes.backbones.protocol import ReadableBackbone as ReadableBackbone
from probes.backbones.random_weights import with_random_weights as with_random_weights
from probes.backbones.structure import LayerSpec as LayerSpec
from probes.backbones.tiny import tiny_backbone as tiny_backbone
from probes.backbones.token_batches import TokenizedTexts as TokenizedTexts
from probes.backbones.token_batches import pad_right as pad_right
