"""Fixed rows, read again and again off a model in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel

from probes.activations import extract
from probes.backbones import FrozenBackbone, frozen_view
from probes.values import Activations


@dataclass
class LiveRows:
    """Texts whose layers are watched while a model is tuned.

    Attributes:
        base: The backbone tuning starts from; its tokenizer, stack and layers are used, and its activations of the
            same texts are what layers are compared with.
        texts: Task → prompts.
        labels: Task → labels as measures want them; tasks without are left out.
    """

    base: FrozenBackbone
    texts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Tensor]
    _start: dict[str, Activations] = field(default_factory=dict)

    def before(self, task: str) -> Activations:
        """The base's activations of a task's texts, read once."""
        if task not in self._start:
            self._start[task] = extract(self.base, self.texts[task])
        return self._start[task]

    def now(self, model: PreTrainedModel) -> Iterator[tuple[str, Activations]]:
        """The live model's activations of each task's texts."""
        options = {"stack": self.base.stacks, "layers": self.base.layer_spec}
        with frozen_view(model, self.base.tokenizer.wrapped, name="in training", **options) as live:
            for task, texts in self.texts.items():
                yield task, extract(live, texts)


def language_model(module: nn.Module) -> PreTrainedModel:
    """The transformers model inside a module.

    Raises:
        ValueError: There is none.
    """
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            return part
    raise ValueError(
        f"Reading a live model wants a module that holds one of transformers; got {type(module).__name__}."
    )
