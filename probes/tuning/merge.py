"""Task arithmetic: a model made of others by adding up what tuning changed in each, without training."""

from __future__ import annotations

import hashlib
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
from probes.files import digest_of_json, new_folder, write_json


def merge_adapters(base: FrozenBackbone, folders: Sequence[Path | str], *, coefficient: float, out: Path) -> Path:
    """One LoRA adapter that adds `coefficient` · Σ ΔW of several to the base's weights.

    Exact up to rounding: the products `B · A` are laid side by side, so the rank is the sum of theirs.

    Args:
        base: The backbone all adapters were tuned from.
        folders: LoRA adapters over the same modules, as `tune` leaves them or PEFT saves them; their order is of no
            account but for rounding.
        coefficient: What the sum of task vectors is multiplied by; 1 / number gives their mean.
        out: Where the merged adapter's folder goes; it is named by content and reused if it is there.

    Returns:
        The merged adapter's folder, for `FrozenBackbone.load(…, adapter=folder)`.

    Raises:
        ValueError: No folders; an adapter that is no plain LoRA, is of another base or has other modules; a coefficient
            that is 0 or not finite.

    Source:
        Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089.
    """
    if not folders:
        raise ValueError("Merging expects at least one adapter; got none.")
    if not math.isfinite(coefficient) or coefficient == 0:
        raise ValueError(f"The coefficient of a merge expects a finite number other than 0; got {coefficient}.")
    fingerprint = base.fingerprint()
    adapters = [_Adapter.read(Path(folder), fingerprint) for folder in folders]
    _check_modules(adapters)
    contents = [adapter.content for adapter in adapters]
    key = digest_of_json({"base": fingerprint, "adapters": contents, "coefficient": coefficient})
    target = Path(out) / f"merged-{key}"
    if not target.exists():
        about = {"base_fingerprint": fingerprint, "coefficient": coefficient, "merged": [str(f) for f in folders]}
        _write(adapters, coefficient, target, about)
    return target


@dataclass(frozen=True)
class _Adapter:
    folder: Path
    config: LoraConfig
    weights: Mapping[str, Tensor]
    content: str

    @property
    def scale(self) -> float:
        return self.config.lora_alpha / (math.sqrt(self.config.r) if self.config.use_rslora else self.config.r)

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> _Adapter:
        config = PeftConfig.from_pretrained(str(folder))
        patterns = isinstance(config, LoraConfig) and (config.rank_pattern or config.alpha_pattern)
        if not isinstance(config, LoraConfig) or config.use_dora or patterns:
            raise ValueError(
                f"'{folder}' is no plain LoRA adapter, and the changes of others do not add up. "
                "Set `tuning.method=lora`."
            )
        about = folder / "tuning.json"
        if about.exists() and json.loads(about.read_text())["base_fingerprint"] != fingerprint:
            raise ValueError(f"Adapter '{folder}' was tuned from another base. Merge adapters of one `backbone`.")
        file = folder / "adapter_model.safetensors"
        content = hashlib.sha256(file.read_bytes() + (folder / "adapter_config.json").read_bytes()).hexdigest()
        return cls(folder, config, load_file(file), content)


def _check_modules(adapters: Sequence[_Adapter]) -> None:
    first = adapters[0]
    for other in adapters[1:]:
        if other.weights.keys() != first.weights.keys():
            lone = sorted(other.weights.keys() ^ first.weights.keys())
            raise ValueError(
                f"Adapters '{first.folder}' and '{other.folder}' adapt different modules, such as '{lone[0]}'. "
                "Tune them with the same `tuning.target_modules`."
            )


def _write(adapters: Sequence[_Adapter], coefficient: float, target: Path, about: Mapping[str, object]) -> None:
    rank = sum(adapter.config.r for adapter in adapters)
    config = LoraConfig(**{**adapters[0].config.to_dict(), "r": rank, "lora_alpha": rank, "use_rslora": False})
    with new_folder(target) as temporary:
        config.save_pretrained(str(temporary))
        weights = {name: _side_by_side(name, adapters, coefficient) for name in adapters[0].weights}
        save_file(weights, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(temporary / "merge.json", about)


def _side_by_side(name: str, adapters: Sequence[_Adapter], coefficient: float) -> Tensor:
    if ".lora_A." in name:
        return torch.cat([adapter.weights[name] for adapter in adapters], dim=0)
    return torch.cat([coefficient * adapter.scale * adapter.weights[name] for adapter in adapters], dim=1)
