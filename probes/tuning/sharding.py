"""Frozen weights that are divided among ranks (FSDP2), so that a model is tuned that fits no single GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from lightning import Callback
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from probes.tuning.adapters import list_of_blocks

if TYPE_CHECKING:
    from torch import nn


def shard_frozen_weights(model: PreTrainedModel, device: torch.device) -> None:
    """Divide the frozen weights of every block among all ranks, in place; everything else is whole in each of them.

    A rank gathers the weights of one block before it computes it, in both directions, and drops them afterwards.
    Adapters, embeddings, norms outside the blocks and the head stay ordinary tensors. All ranks must make the same
    number of passes from now on.

    Args:
        model: The same weights in every rank, in host memory or on its device; with its adapters if it has any.
        device: Of this rank.

    Raises:
        ValueError: The weights are quantized, or spread over devices already.
    """
    if getattr(model, "is_quantized", False) or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise ValueError(
            "`tuning.shard_weights=true` divides plain weights, which lie on one device or in host memory; these are "
            "quantized or spread over devices. Set `backbone.quantization=null`, `backbone.device_map=null` and "
            "`backbone.device=cpu`."
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for block in list_of_blocks(model)[1]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    below_head: nn.Module = model.base_model
    whole = {parameter for parameter in below_head.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(below_head, mesh=mesh, ignored_params=whole)  # it has no weights of its own; it fetches blocks ahead
    model.to(device)  # pyright: ignore[reportArgumentType]


def refuse_measuring(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks that read the model between steps in rank 0 alone, for which the other ranks would not gather.

    Raises:
        ValueError: There is one.
    """
    if any(getattr(callback, "every_n_steps", None) for callback in callbacks):
        raise ValueError(
            "Layers of a model whose weights are divided cannot be measured between steps, which one rank does alone. "
            "Set `callbacks.every_n_steps=null` or `tuning.shard_weights=false`."
        )
