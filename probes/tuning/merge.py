"""Task arithmetic: a model that is the base plus a multiple of what several tunings changed, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.backbones import FrozenBackbone
from probes.files import digest_of_file, digest_of_json, new_folder, write_json
from probes.kept_files import folder_fault, seal_folder, set_aside


def merge_adapters(base: FrozenBackbone, folders: Sequence[Path | str], *, coefficient: float, out: Path) -> Path:
    """Save one LoRA adapter that adds `coefficient` · Σ ΔW of several adapters to the base's weights.

    The merge is exact up to rounding: the factors B and A of all adapters are concatenated, so the rank is the sum of
    their ranks.

    Args:
        base: The backbone from which all adapters were tuned.
        folders: LoRA adapters on the same modules, as saved by `tune` or PEFT; their order matters only for rounding.
        coefficient: Factor of the sum of task vectors; 1 / number of adapters gives their mean.
        out: Parent of the merged adapter's folder, which is named by its content and reused if it exists.

    Returns:
        The merged adapter's folder, for `FrozenBackbone.load(…, adapter=folder)`.

    Raises:
        ValueError: There are no folders; an adapter is not a plain LoRA adapter, belongs to another base or adapts
            other modules than the first; or the coefficient is 0 or not finite.

    Source:
        Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089.
    """
    if not folders:
        raise ValueError("Merging expects at least one adapter; got none.")
    if not math.isfinite(coefficient) or coefficient == 0:
        raise ValueError(f"The coefficient of a merge must be a finite number other than 0; got {coefficient}.")
    fingerprint = base.fingerprint()
    adapters = [_LoraAdapter.read(Path(folder), fingerprint) for folder in folders]
    _check_modules(adapters)
    contents = [adapter.digests for adapter in adapters]
    key = digest_of_json({"base": fingerprint, "adapters": contents, "coefficient": coefficient})
    target = Path(out) / f"merged-{key}"
    if target.exists() and (fault := folder_fault(target, key=target.name)) is not None:
        set_aside(target, fault, remedy="The adapters are merged again.")
    if not target.exists():
        record = {"base_fingerprint": fingerprint, "coefficient": coefficient, "merged": [str(f) for f in folders]}
        _save_merged(adapters, coefficient, target, record)
    return target


@dataclass(frozen=True)
class _LoraAdapter:
    """An adapter ΔW = scale · B · A of every adapted weight.

    Attributes:
        folder: Where it is saved.
        config: Its rank and scale.
        weights: Name → A, shape `(rank, inputs)`, or B, shape `(outputs, rank)`.
        digests: Of the weights and of the configuration.
    """

    folder: Path
    config: LoraConfig
    weights: Mapping[str, Tensor]
    digests: tuple[str, str]

    @property
    def scale(self) -> float:
        return self.config.lora_alpha / (math.sqrt(self.config.r) if self.config.use_rslora else self.config.r)

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> _LoraAdapter:
        config = PeftConfig.from_pretrained(str(folder))
        patterns = isinstance(config, LoraConfig) and (config.rank_pattern or config.alpha_pattern)
        if not isinstance(config, LoraConfig) or config.use_dora or patterns:
            raise ValueError(
                f"'{folder}' is not a plain LoRA adapter, and only the changes of those can be added. "
                "Set `tuning.method=lora`."
            )
        record = folder / "tuning.json"
        if record.exists() and json.loads(record.read_text(encoding="utf-8"))["base_fingerprint"] != fingerprint:
            raise ValueError(f"Adapter '{folder}' was tuned from another base. Merge adapters of one `backbone`.")
        file = folder / "adapter_model.safetensors"
        digests = digest_of_file(file), digest_of_file(folder / "adapter_config.json")
        return cls(folder, config, load_file(file), digests)


def _check_modules(adapters: Sequence[_LoraAdapter]) -> None:
    first = adapters[0]
    for other in adapters[1:]:
        if other.weights.keys() != first.weights.keys():
            unshared = sorted(other.weights.keys() ^ first.weights.keys())
            raise ValueError(
                f"Adapters '{first.folder}' and '{other.folder}' adapt different modules, such as '{unshared[0]}'. "
                "Tune them with the same `tuning.target_modules`."
            )


def _save_merged(
    adapters: Sequence[_LoraAdapter], coefficient: float, target: Path, record: Mapping[str, object]
) -> None:
    rank = sum(adapter.config.r for adapter in adapters)
    # alpha = rank makes the merged scale 1; the adapters' scales are multiplied into B instead
    config = LoraConfig(**{**adapters[0].config.to_dict(), "r": rank, "lora_alpha": rank, "use_rslora": False})
    with new_folder(target) as folder:
        config.save_pretrained(str(folder))
        weights = {name: _concatenate(name, adapters, coefficient) for name in adapters[0].weights}
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(folder / "merge.json", record)
        seal_folder(folder, key=target.name)


def _concatenate(name: str, adapters: Sequence[_LoraAdapter], coefficient: float) -> Tensor:
    """[c₁B₁ … cₖBₖ] or [A₁; …; Aₖ], whose product is Σ cᵢBᵢAᵢ with cᵢ = coefficient · scaleᵢ."""
    if ".lora_A." in name:
        return torch.cat([adapter.weights[name] for adapter in adapters], dim=0)
    return torch.cat([coefficient * adapter.scale * adapter.weights[name] for adapter in adapters], dim=1)
