"""The identity of a model by content: everything that decides its hidden states, in one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from probes.threads import map_on_cores

_NOT_CONTENT = ("_name_or_path", "transformers_version", "_commit_hash", "dtype")
"""Keys of a configuration that say where weights come from, or what the digest of the tensors covers already."""

_NOT_CONTENT_OF_ADAPTERS = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode")
"""Keys of an adapter's configuration that say where it comes from, or whether it can be trained."""

_ADAPTER_STATE = ("_active_adapter", "_disable_adapters")
"""Private attributes of an adapted module that decide its output."""


def fingerprint(model: PreTrainedModel, *, read: Callable[[str], Tensor] | None = None) -> str:
    """A digest, 32 hexadecimal digits, of everything that decides a model's hidden states.

    That is every parameter and buffer (name, dtype, shape, bytes), the scales of quantized weights, the configuration,
    and of adapters their configuration and the state of every adapted module: its scale alone changes the hidden states
    of equal weights. Equal weights have equal digests whether they come from the Hub, a folder or a GGUF file; another
    revision, adapter, dtype, quantization or attention kernel changes the digest.

    Args:
        model: The model.
        read: Reads a weight that is not in memory, by its name.

    Raises:
        ValueError: Weights are offloaded, so their bytes cannot be read.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_CONTENT}
    config["attention_kernel"] = model.config._attn_implementation
    config |= _adapters(model)
    weights = dict(sorted(_tensors(model).items()))
    for name, tensor in weights.items():
        if tensor.is_meta and read is None and _offloaded(model, name) is None:
            raise ValueError(
                f"Weight '{name}' is offloaded, so its bytes cannot be read. Set `backbone.device_map` so that every "
                "weight is on a device."
            )
    digest = hashlib.sha256(json.dumps(_ordered(config), sort_keys=True, default=str).encode())

    def content_of(name: str) -> str:
        weight = weights[name]
        if not weight.is_meta:
            return _tensor_digest(weight)
        kept = read(name) if read is not None else _offloaded(model, name)
        assert kept is not None  # checked above
        return _tensor_digest(kept.to(weight.dtype))

    contents = map_on_cores(content_of, weights, torch.device("cpu"))
    for (name, tensor), content in zip(weights.items(), contents, strict=True):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}".encode())
    return digest.hexdigest()[:32]


def _offloaded(model: nn.Module, name: str) -> Tensor | None:
    """A weight that accelerate has offloaded to host memory or disk, as `device_map` has it; `None` if it has not."""
    path, _, attribute = name.rpartition(".")
    kept = getattr(getattr(model.get_submodule(path), "_hf_hook", None), "weights_map", None)
    return None if kept is None else kept[attribute]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, and what bitsandbytes keeps beside quantized ones: scales and code books."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, weight in list(tensors.items()):
        state = getattr(weight, "quant_state", None)  # 4 bit
        kept = {} if state is None else state.as_dict(packed=True)
        scales = getattr(weight, "SCB", None)  # 8 bit
        kept |= {} if scales is None else {"SCB": scales}
        tensors |= {f"{name}.{key}": value for key, value in kept.items()}
    return tensors


def _adapters(model: PreTrainedModel) -> dict[str, Any]:
    """Configurations of a model's adapters, and settings of the modules that they adapt; empty without adapters."""
    configs: Mapping[str, Any] = getattr(model, "peft_config", {})
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "merged_adapters")}
    if not configs and not modules:
        return {}
    by_name = {
        name: {key: value for key, value in config.to_dict().items() if key not in _NOT_CONTENT_OF_ADAPTERS}
        for name, config in configs.items()
    }
    return {"adapters": by_name, "adapted": {name: _settings(module) for name, module in modules.items()}}


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module's attributes say in numbers, texts and lists or dictionaries of these."""
    named = {key: value for key, value in vars(module).items() if not key.startswith("_") or key in _ADAPTER_STATE}
    return {key: value for key, value in named.items() if key != "training" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple | set):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _ordered(value: Any) -> Any:
    """The same value with every set as a sorted list, since the order of a set differs from run to run."""
    if isinstance(value, Mapping):
        return {str(key): _ordered(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_ordered(item) for item in value] if isinstance(value, list | tuple) else value


def _tensor_digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(values.view(torch.uint8).numpy().data).hexdigest()  # NumPy has no bfloat16: hash bytes
