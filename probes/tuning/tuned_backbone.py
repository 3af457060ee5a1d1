"""What a tuning leaves: where the weights are, how many steps made them, how much better the model answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from transformers import PreTrainedModel

from probes.backbones import FrozenBackbone
from probes.tuning.adapters import quiet_tuning
from probes.tuning.answer_scores import AnswerScores
from probes.tuning.examples import transformers_tokenizer


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A tuned model on disk.

    Attributes:
        name: What it was tuned on.
        kind: `adapter` (load with `FrozenBackbone.load(…, adapter=folder)`), `full` (a whole model; load with
            `path=folder`) or `unchanged` (no step was asked for: the base model itself).
        folder: Where it is; `None` if unchanged.
        key: 24 hexadecimal digits over all that decided the weights.
        steps: Optimizer steps behind the weights.
        validation_losses: Step → mean cross-entropy of answer tokens on the validation split, nats.
        base: How well the base model answers.
        tuned: How well the tuned model answers.
        reused: Whether it was found finished.
    """

    name: str
    kind: Literal["adapter", "full", "unchanged"]
    folder: Path | None
    key: str
    steps: int
    validation_losses: Mapping[int, float]
    base: AnswerScores
    tuned: AnswerScores
    reused: bool


def tuned_backbone(base: FrozenBackbone, tuned: TunedModel) -> FrozenBackbone:
    """The tuned model frozen, with the stack and layers of the base; the base itself if unchanged.

    Works for every backbone that can be tuned, also one that `FrozenBackbone.load` does not know.

    Raises:
        ValueError: The adapter does not fit the base.
    """
    if tuned.folder is None:
        return base
    with quiet_tuning():
        return _load(base, tuned.folder, tuned.kind)


def _load(base: FrozenBackbone, folder: Path, kind: str) -> FrozenBackbone:
    if kind == "full":
        return FrozenBackbone.load(
            path=str(folder),
            stack=base.stacks,
            layers=base.layer_spec,
            dtype=str(base.dtype).removeprefix("torch."),
            device=str(base.device),
            chat_template=base.tokenizer.chat_template,
        )
    model = cast(PreTrainedModel, base.load_with_head().base_model)
    info = model.load_adapter(str(folder))
    lost = sorted([*info.missing_keys, *info.unexpected_keys])
    if lost:
        raise ValueError(
            f"Adapter '{folder}' does not fit '{base.name}': {len(lost)} weights find no place, such as "
            f"'{lost[0]}'. Load the backbone that it was tuned from."
        )
    return FrozenBackbone(
        model,
        transformers_tokenizer(base),
        name=f"{base.name}+{folder}",
        stack=base.stacks,
        layers=base.layer_spec,
        chat_template=base.tokenizer.chat_template,
    )
