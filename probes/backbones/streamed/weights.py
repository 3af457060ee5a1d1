"""The weights of a model in safetensors files: most of them stay there, and a block's are read when it is run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class DiskWeights:
    """Where each weight of a model lies.

    Args:
        model: A model without a head, its parameters on the meta device.
        folder: The folder with its safetensors files.

    Raises:
        ValueError: A weight is not there under its own name.
    """

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        self._model = model
        by_key = _files_by_key(folder)
        prefixes = ("", f"{model.base_model_prefix}.")
        self._places: dict[str, tuple[Path, str]] = {}
        missing, parameters = [], {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for name in model.state_dict():
            key = next((key for prefix in prefixes if (key := prefix + name) in by_key), None)
            if key is not None:
                self._places[name] = (by_key[key], key)
            elif name in parameters and name not in model.all_tied_weights_keys:
                missing.append(name)
        if missing:
            raise ValueError(
                f"'{folder}' has no weight '{missing[0]}' under this name ({len(missing)} such), so that "
                f"{type(model).__name__} cannot be read block by block. Set `backbone.stream=false`."
            )
        self._finite: set[str] = set()
        self._spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
        self.bytes_read = 0

    def tensor(self, name: str) -> Tensor:
        """A weight, read from its file, in the dtype of the model.

        Raises:
            ValueError: It is NaN or infinite.
        """
        file, key = self._places[name]
        with safe_open(file, framework="pt") as weights:
            kept = weights.get_tensor(key)
        self.bytes_read += kept.nbytes
        wanted = self._parameter(name).dtype
        # The memory of the last block is used again: freed and allocated anew, it would be kept in pieces.
        spare = self._spare.get((kept.shape, wanted))
        value = (spare.pop() if spare else torch.empty(kept.shape, dtype=wanted)).copy_(kept)
        if name not in self._finite and value.is_floating_point() and value.numel():
            if not all(bound.isfinite() for bound in value.aminmax()):
                raise ValueError(f"Weight '{name}' in '{file}' is NaN or infinite. Load other weights.")
            self._finite.add(name)
        return value

    def load(self, prefix: str) -> None:
        """Read all weights of a module."""
        for name in self._below(prefix):
            self._assign(name, self.tensor(name))

    def drop(self, prefix: str) -> None:
        """Give the memory of all weights of a module to the next one that is read."""
        for name in self._below(prefix):
            weight = self._parameter(name).detach()
            self._spare.setdefault((weight.shape, weight.dtype), []).append(weight)
            self._assign(name, torch.empty_like(weight, device="meta"))

    def load_all_but(self, prefixes: Iterable[str]) -> None:
        """Read the weights that are in none of these modules, such as embeddings and the final norm, and tie them."""
        outside = tuple(prefixes)
        for name in self._places:
            if not name.startswith(outside):
                self._assign(name, self.tensor(name))
        self._model.tie_weights()

    def _below(self, prefix: str) -> list[str]:
        return [name for name in self._places if name.startswith(prefix)]

    def _parameter(self, name: str) -> Tensor:
        path, _, attribute = name.rpartition(".")
        return getattr(self._model.get_submodule(path), attribute)

    def _assign(self, name: str, value: Tensor) -> None:
        path, _, attribute = name.rpartition(".")
        module = self._model.get_submodule(path)
        if attribute in module._parameters:
            module._parameters[attribute] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[attribute] = value


def empty_model(config: object, dtype: torch.dtype) -> PreTrainedModel:
    """A model without a head whose parameters take no memory."""
    with init_empty_weights():
        return AutoModel.from_config(config, dtype=dtype)


def _files_by_key(folder: Path) -> Mapping[str, Path]:
    """Name of each tensor → the file that has it.

    Raises:
        FileNotFoundError: The folder has no safetensors files.
    """
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {key: folder / file for key, file in index.items()}
    if not (folder / _SINGLE).is_file():
        raise FileNotFoundError(
            f"'{folder}' has neither {_SINGLE} nor {_INDEX}, from which blocks could be read one at a time. Save the "
            "model as safetensors, or set `backbone.stream=false`."
        )
    with ExitStack() as stack:
        file = stack.enter_context(safe_open(folder / _SINGLE, framework="pt"))
        return dict.fromkeys(file.keys(), folder / _SINGLE)
