"""When layers are analysed while Lightning trains; what is measured is `probes.analysis.LayerAnalysis`'s affair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from probes.activations import extract
from probes.analysis import LayerAnalysis, TaskRows
from probes.analysis.table import LIVE
from probes.backbones import FrozenBackbone, frozen_view
from probes.token_values import TokenActivations
from probes.training import TaskData
from probes.values import Activations, Reading

Reference = Callable[[str, Reading], Activations]
"""A task's name and a reading to another backbone's activations of the task's test rows."""


class MatrixAnalysis(Callback):
    """Hands rows to a `LayerAnalysis` while probes or models are trained; it writes nothing.

    Give one instance to the trainers of all tasks. When a fit or test on an `ActivationDataModule` ends, the test rows
    of its task are measured, once per task and reading. While a language model is tuned, the layers of `live` rows are
    measured every `every_n_steps` optimizer steps. Nothing happens on ranks other than zero.

    Args:
        analysis: Measures the rows, and holds what is found.
        reference: Gives another backbone's activations of the same rows.
        live: Rows to read from the model in training itself, such as an `InstructionTuner`'s: each reading adds a
            column `step_<n>` to a matrix of each measure and task, so that layers can be watched while they change.
        every_n_steps: Optimizer steps between such readings; the first is before training. `None`: no readings.
    """

    def __init__(
        self,
        analysis: LayerAnalysis,
        *,
        reference: Reference | None = None,
        live: LiveRows | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"`callbacks.every_n_steps` must be at least 1, or null; got {every_n_steps}.")
        super().__init__()
        self.analysis, self.reference, self.live, self.every_n_steps = analysis, reference, live, every_n_steps
        self._steps_read: set[int] = set()

    def add_task(self, data: TaskData) -> None:
        """Measure a task's test rows, unless that was done before: several fits may belong to one task.

        Rows with a vector for each token are not measured; measures compare rows of one vector. They also take rows to
        be independent, so that of words one a sentence is measured.
        """
        if isinstance(data.test.activations, TokenActivations):
            return
        activations, labels = data.independent_rows("test", seed=self.analysis.seed)
        if not self.analysis.has(data.task, activations.reading):
            reference = None if self.reference is None else self.reference(data.task, activations.reading)
            self.analysis.add(data.task, activations, labels, reference=reference)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure_task(trainer)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure_task(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure_live(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._measure_live(trainer, pl_module)

    def _measure_task(self, trainer: Trainer) -> None:
        data = getattr(getattr(trainer, "datamodule", None), "task_data", None)
        if trainer.is_global_zero and data is not None:
            self.add_task(data)

    def _measure_live(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the model in training if this step is due and has not been read."""
        live, every, step = self.live, self.every_n_steps, trainer.global_step
        if live is None or every is None or not trainer.is_global_zero or step % every or step in self._steps_read:
            return
        self._steps_read.add(step)
        for task, now in live.now(language_model(pl_module)):
            rows = TaskRows(now.values, live.labels.get(task), live.before(task).values)
            self.analysis.add_rows(rows, now, task=f"step_{step}", role=f"{LIVE}{task}")


@dataclass
class LiveRows:
    """Texts whose layers are read again and again while a model is tuned.

    Attributes:
        base: The backbone tuning starts from; its tokenizer, stack and layers are used, and its activations of the
            same texts are what layers are compared with.
        texts: Task → prompts.
        labels: Task → labels as measures expect them; tasks without labels are left out.
    """

    base: FrozenBackbone
    texts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Tensor]
    _before: dict[str, Activations] = field(default_factory=dict)

    def before(self, task: str) -> Activations:
        """The base's activations of a task's texts, computed once."""
        if task not in self._before:
            self._before[task] = extract(self.base, self.texts[task])
        return self._before[task]

    def now(self, model: PreTrainedModel) -> Iterator[tuple[str, Activations]]:
        """The present activations of each task's texts in the model being tuned."""
        options = {
            "stack": self.base.stacks,
            "layers": self.base.layer_spec,
            "decoder_input": self.base.decoder_input,
            "chat_template": self.base.tokenizer.chat_template,
        }
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
        f"Reading a model in training expects a module that holds a transformers model; got {type(module).__name__}."
    )
