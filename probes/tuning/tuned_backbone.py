"""A tuned model on disk, and the backbone that reads it and loads its weights only when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from probes.answers import LanguageModel
from probes.backbones import AlignedTexts, FrozenBackbone, LayerSpec, Ranges, Spans, TokenizedTexts, pad_right
from probes.files import file_name
from probes.kept_files import folder_fault, manifest_digest, read_sealed_json, write_sealed_json
from probes.tuning.adapters import quiet_tuning
from probes.tuning.answer_scores import AnswerScores
from probes.values import Layer, Reading

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A tuned model on disk.

    Attributes:
        name: Name of the data it was tuned on.
        kind: `adapter` (load it with `FrozenBackbone.load(…, adapter=folder)`), `full` (a whole model; load it with
            `path=folder`) or `unchanged` (the settings allowed no step: the base model itself).
        folder: The folder of its weights; `None` if unchanged.
        key: 24 hexadecimal digits over everything that decided the weights.
        steps: Optimizer steps that led to the weights.
        validation_losses: Step → mean cross-entropy of answer tokens on the validation split, nats.
        base: How well the base model answers.
        tuned: How well the tuned model answers.
        reused: Whether the finished model was found on disk.
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


class TunedBackbone:
    """A tuned model as a `ReadableBackbone`, whose weights are loaded only when they are needed.

    Tokens, layers and readings are those of the base. The fingerprint of the tuned weights is kept on disk, so that
    activations which are in the store already are found without loading the model.

    Args:
        base: The backbone from which the model was tuned.
        tuned: The tuned model.
        cache_dir: Fingerprints are kept in its folder `adapters/fingerprints`.

    Raises:
        ValueError: On loading: the tuned model does not fit the base, or it changes nothing.
    """

    def __init__(self, base: FrozenBackbone, tuned: TunedModel, cache_dir: Path) -> None:
        self.base, self.tuned = base, tuned
        self.name = base.name if tuned.folder is None else f"{base.name}+{tuned.name}"
        self.tokenizer, self.pad_id, self.decoder_input = base.tokenizer, base.pad_id, base.decoder_input
        model = f"{file_name(tuned.name)}-{tuned.key}"  # models of equal data under other names have files of their own
        file = f"{model}-transformers-{transformers.__version__}.json"  # a fingerprint covers the configuration too
        self._cache_dir, self._fingerprint_file = cache_dir, cache_dir / "adapters" / "fingerprints" / file

    @property
    def reload(self) -> Callable[[], TunedBackbone] | None:
        """Loads the base and the tuned model in another process; `None` where the base cannot be loaded there."""
        base = self.base.reload
        return None if base is None else partial(_tuned_again, base, self.tuned, self._cache_dir)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """What hidden states are computed in."""
        return self.base.dtype

    @property
    def streamed(self) -> bool:
        """Never: tuned weights are in memory."""
        return False

    def run_together(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Call functions that each run the model once."""
        return [call() for call in calls]

    @property
    def hidden_size(self) -> int:
        """Features of one layer."""
        return self.base.hidden_size

    @property
    def model(self) -> PreTrainedModel:
        """The tuned transformers model without its head; loads the weights."""
        return self.loaded.model

    @cached_property
    def loaded(self) -> FrozenBackbone:
        """The tuned model, loaded and frozen; the base itself if it is unchanged."""
        model = load_tuned_backbone(self.base, self.tuned)
        if self.tuned.folder is not None:
            _refuse_unchanged(self.base, model, self.tuned)
        return model

    def fingerprint(self) -> str:
        """Identity by content of the tuned weights; loads them only if their fingerprint is not on disk."""
        if self.tuned.folder is None:
            return self.base.fingerprint()
        key = f"{self.tuned.key} {manifest_digest(self.tuned.folder)}"
        kept = read_sealed_json(self._fingerprint_file, key=key, remedy="It is computed again.")
        if kept is not None:
            return kept["fingerprint"]
        fingerprint = self.loaded.fingerprint()
        with suppress(PermissionError):  # in a cache that cannot be written, it is computed by every run
            write_sealed_json(self._fingerprint_file, {"fingerprint": fingerprint}, key=key)
        return fingerprint

    def layers(self, stack: str, *, site: str = "residual", spec: LayerSpec | None = None) -> tuple[Layer, ...]:
        """The base's layers."""
        return self.base.layers(stack, site=site, spec=spec)

    def readings(
        self, poolings: str | Sequence[str] | None = None, sites: str | Sequence[str] = "residual"
    ) -> tuple[Reading, ...]:
        """The base's readings."""
        return self.base.readings(poolings, sites)

    def tokenize(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenizedTexts:
        """The base's tokens."""
        return self.base.tokenize(texts, max_length=max_length)

    def align(self, texts: Sequence[str], ranges: Sequence[Ranges], *, max_length: int | None = None) -> AlignedTexts:
        """The base's tokens and the words they belong to."""
        return self.base.align(texts, ranges, max_length=max_length)

    def reported(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        spans: Spans | None = None,
    ) -> dict[Reading, dict[Layer, Tensor]]:
        """Pooled hidden states that the tuned model itself reports; see `FrozenBackbone.reported`."""
        return self.loaded.reported(input_ids, attention_mask, readings=readings, spans=spans)

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        readings: Sequence[Reading],
        layers: LayerSpec | None = None,
        spans: Spans | None = None,
    ) -> dict[Reading, Tensor]:
        """One pass of the tuned model over a right-padded batch; see `FrozenBackbone.forward`."""
        return self.loaded(input_ids, attention_mask, readings=readings, layers=layers, spans=spans)


def _tuned_again(base: Callable[[], FrozenBackbone], tuned: TunedModel, cache_dir: Path) -> TunedBackbone:
    return TunedBackbone(base(), tuned, cache_dir)


def load_tuned_backbone(base: FrozenBackbone, tuned: TunedModel) -> FrozenBackbone:
    """Load and freeze a tuned model, with the stack and layers of the base; the base itself if unchanged.

    It works for every backbone that can be tuned, also for one that `FrozenBackbone.load` cannot load by name.

    Raises:
        ValueError: The adapter does not fit the base, or a file of the model was damaged since it was tuned or found.
    """
    if tuned.folder is None:
        return base
    folder = _checked_folder(tuned.folder, tuned.key)
    with quiet_tuning():
        if tuned.kind == "full":
            return _load_whole(base, folder)
        model = cast(PreTrainedModel, _load_adapted(base, folder).base_model)
    return FrozenBackbone(model, base.tokenizer.wrapped, **_options(base, f"{base.name}+{folder}"))


def load_tuned_language_model(base: FrozenBackbone, tuned: TunedModel) -> LanguageModel:
    """Load a tuned model with its language-model head; the base with its head if it is unchanged.

    Raises:
        ValueError: As in `load_tuned_backbone`.
    """
    if tuned.folder is None:
        return LanguageModel.of(base)
    folder = _checked_folder(tuned.folder, tuned.key)
    with quiet_tuning():
        if tuned.kind == "full":
            return LanguageModel.of(_load_whole(base, folder))
        model = _load_adapted(base, folder)
    return LanguageModel(model, base.tokenizer.wrapped, **_options(base, f"{base.name}+{tuned.name}"))


def _checked_folder(folder: Path, key: str) -> Path:
    fault = folder_fault(folder, key=key)
    if fault is not None:
        raise ValueError(f"The tuned model '{folder}' {fault}. Run again: then it is set aside and tuned anew.")
    return folder


def _options(base: FrozenBackbone, name: str) -> dict[str, Any]:
    return {
        "name": name, "stack": base.stacks, "layers": base.layer_spec, "chat_template": base.tokenizer.chat_template
    }  # fmt: skip


def _load_whole(base: FrozenBackbone, folder: Path) -> FrozenBackbone:
    return FrozenBackbone.load(
        path=str(folder),
        stack=base.stacks,
        layers=base.layer_spec,
        dtype=str(base.dtype).removeprefix("torch."),
        device=str(base.device),
        chat_template=base.tokenizer.chat_template,
    )


def _load_adapted(base: FrozenBackbone, folder: Path) -> PreTrainedModel:
    """The base with its head, and an adapter in the model below the head."""
    whole = base.load_with_head()
    info = cast(PreTrainedModel, whole.base_model).load_adapter(str(folder))
    unmatched = sorted([*info.missing_keys, *info.unexpected_keys])
    if unmatched:
        raise ValueError(
            f"Adapter '{folder}' does not fit '{base.name}': {len(unmatched)} of the weights match no module, such as "
            f"'{unmatched[0]}'. Set `backbone` to the model from which it was tuned."
        )
    return whole


def _refuse_unchanged(base: FrozenBackbone, model: FrozenBackbone, tuned: TunedModel) -> None:
    before, after = (_few_activations(backbone) for backbone in (base, model))
    if all(torch.equal(before[reading], after[reading].to(before[reading].device)) for reading in before):
        raise ValueError(
            f"The model tuned on '{tuned.name}' changes nothing: hidden states with and without '{tuned.folder}' are "
            "equal. Delete that folder to have it tuned again."
        )


def _few_activations(backbone: FrozenBackbone) -> dict[Reading, Tensor]:
    (ids,) = backbone.tokenize(["Does it change anything?"]).ids
    inputs = pad_right([ids], length=len(ids), pad_id=backbone.pad_id)
    return backbone(*inputs, readings=backbone.readings("mean"), layers="all")
