"""A backbone's identity by content: what its parameters and its configuration are, not what its file is called."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probes.threads import map_on_cores

_NAMES_AND_PLACES = (
    "_name_or_path",
    "transformers_version",
    "_commit_hash",
    "quantization_config",
    "dtype",
)


def fingerprint(model: PreTrainedModel) -> str:
    """32 hexadecimal digits over every parameter and buffer (name, dtype, shape, bytes) and the configuration.

    Equal weights from the Hub, a folder or a GGUF file give the same digits; another revision, adapter, dtype,
    quantisation or attention kernel gives others.

    Raises:
        ValueError: Weights are offloaded and cannot be read.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NAMES_AND_PLACES}
    config["attention_kernel"] = model.config._attn_implementation
    weights = dict(sorted((*model.named_parameters(), *model.named_buffers()), key=lambda item: item[0]))
    for name, tensor in weights.items():
        if tensor.is_meta:
            raise ValueError(
                f"Weight '{name}' is offloaded. Set `backbone.device_map` so that every weight has a device."
            )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    contents = map_on_cores(_content, weights.values(), torch.device("cpu"))
    for (name, tensor), content in zip(weights.items(), contents, strict=True):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}".encode())
    return digest.hexdigest()[:32]


def _content(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(values.view(torch.uint8).numpy().data).hexdigest()
