"""A backbone's identity by content: what its parameters and its configuration are, not what its file is called."""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel

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
    digest = hashlib.sha256()
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NAMES_AND_PLACES}
    config["attention_kernel"] = model.config._attn_implementation
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted((*model.named_parameters(), *model.named_buffers()), key=lambda item: item[0]):
        if tensor.is_meta:
            raise ValueError(
                f"Weight '{name}' is offloaded. Set `backbone.device_map` so that every weight has a device."
            )
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
