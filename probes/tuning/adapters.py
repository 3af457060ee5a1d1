"""Which weights of a model are trained, PEFT adapters or all of them, and whether training changed any."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as hf_logging

from probes.trainers import quiet_lightning
from probes.tuning.tuning_settings import TuningSettings

_FEED_FORWARD_OUTPUTS = ("down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2")
"""(IA)³ scales the inputs of these modules and the outputs of all others (Liu et al. 2022, arXiv:2205.05638)."""


def make_trainable(model: PreTrainedModel, settings: TuningSettings, *, seed: int) -> PeftModel | None:
    """Make a model trainable in place: adapters in float32 over frozen weights, or all weights in float32.

    Args:
        model: A causal language model.
        settings: The method and the sizes of its adapters.
        seed: Decides the initial weights of the adapters.

    Returns:
        The wrapper that saves the adapters; `None` if all weights are trained.

    Raises:
        ValueError: No linear module has one of the target names, or `full` is set for a quantized model.
    """
    if settings.method == "full":
        if getattr(model, "is_quantized", False):
            raise ValueError(
                "Quantized weights cannot be trained. Set `tuning.method=lora`, or `backbone.quantization=null`."
            )
        model.float().requires_grad_(requires_grad=True)
        return None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapper = get_peft_model(model, _peft_config(model, settings))
    assert isinstance(wrapper, PeftModel)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    return wrapper


def save_adapter(wrapper: PeftModel, folder: Path) -> None:
    """Save an adapter so that both PEFT and transformers can load it.

    PEFT saves DoRA's magnitudes without the suffix `.weight`, which transformers expects; PEFT loads either name.
    """
    wrapper.save_pretrained(str(folder))
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    renamed = {re.sub(r"lora_magnitude_vector$", "lora_magnitude_vector.weight", k): v for k, v in weights.items()}
    if renamed.keys() != weights.keys():
        save_file(renamed, file, metadata={"format": "pt"})


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def effect_digest(model: nn.Module) -> str:
    """SHA-256 of the trainable weights that affect the model's outputs, in hexadecimal digits.

    It ignores the factor A of a low-rank product B · A: while B is zero, a change of A has no effect.
    """
    digest = hashlib.sha256()
    for name, parameter in trainable(model).items():
        if ".lora_A." not in name:
            digest.update(name.encode())
            digest.update(_bytes(parameter))
    return digest.hexdigest()


@contextmanager
def quiet_tuning() -> Iterator[None]:
    """Silence the messages of Lightning, transformers and PEFT at every fit, save and load in this context."""
    checkpoint_log = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    level, bars = checkpoint_log.level, hf_logging.is_progress_bar_enabled()
    checkpoint_log.setLevel(logging.WARNING)
    hf_logging.disable_progress_bar()
    try:
        with quiet_lightning(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # PEFT counts no features of norms
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # PEFT uses the old name
            yield
    finally:
        checkpoint_log.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _peft_config(model: PreTrainedModel, settings: TuningSettings) -> PeftConfig:
    if settings.method == "ln":
        return LNTuningConfig(task_type="CAUSAL_LM", target_modules=_norm_names(model))
    targets = list(settings.target_modules)
    _check_targets(model, targets)
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    if settings.method == "ia3":
        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=[name for name in targets if name.rpartition(".")[2] in _FEED_FORWARD_OUTPUTS],
            fan_in_fan_out=transposed,
        )
    blocks = settings.layers_to_transform
    if blocks is not None and max(blocks) >= model.config.num_hidden_layers:
        raise ValueError(
            f"This {type(model).__name__} has {model.config.num_hidden_layers} blocks, numbered from 0; got "
            f"{list(blocks)}. Set `tuning.layers_to_transform` among them."
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=targets,
        layers_to_transform=None if blocks is None else list(blocks),
        layers_pattern=None if blocks is None else list_of_blocks(model)[0],
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  # PEFT accepts real numbers
        lora_dropout=settings.dropout,
        use_dora=settings.method == "dora",
        fan_in_fan_out=transposed,
    )


def list_of_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of blocks, and the last component of its name, such as `layers`, by which PEFT counts them.

    Without it PEFT finds no block in a model without head, where that list has no component in front of its name.

    Raises:
        ValueError: The blocks are in no list.
    """
    blocks = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == blocks:
            return name.rpartition(".")[2], module
    raise ValueError(
        f"This {type(model).__name__} keeps its {blocks} blocks in no list, so single blocks cannot be named or "
        "divided. Set `tuning.layers_to_transform=null` and `tuning.shard_weights=false`."
    )


def _norm_names(model: PreTrainedModel) -> list[str]:
    """Last components of the norms' names; unlike full names, they are the same with and without a head."""
    norms = (name for name, module in model.named_modules() if re.search(r"Norm\d*d?$", type(module).__name__))
    names = sorted({name.rpartition(".")[2] for name in norms})
    if not names:
        raise ValueError(f"A {type(model).__name__} has no norms to tune. Set `tuning.method=lora`.")
    return names


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if missing:
        available = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"No linear module of this {type(model).__name__} is called {', '.join(missing)}. There are "
            f"{', '.join(available)}. Set `tuning.target_modules` among these."
        )
