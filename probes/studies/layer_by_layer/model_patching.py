"""Where does the gain in answer quality enter? Activations of tuned models in the base and back, layer by layer.

Both models read the same prompts and answers. The residual stream of one model after layer k goes on in the other, so
that the blocks up to k are those of the source and the blocks after it those of the target.

Source: cross-model activation patching, Prakash et al. 2024 (arXiv:2402.14811).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from probes.analysis.effects import effect_estimates, log_odds_of_right, normalised_effect, without_null
from probes.answers import LanguageModel, Questions, answer_ids
from probes.backbones import FrozenBackbone
from probes.interventions import KeptArrays, Streams, token_groups
from probes.progress import tracked
from probes.studies.layer_by_layer.models import ModelTuner, TunedModels
from probes.tasks import Task
from probes.tuning import TunedModel, load_tuned_language_model
from probes.values import LayerProfile, Reading

BASE, CONTROL, EXPERIMENTAL, OTHER = "base", "control", "experimental", "other_control"
POSITIONS = ("all", "last")
INTO_BASE, INTO_TUNED = "{}_into_base", "base_into_{}"


@dataclass(frozen=True, kw_only=True)
class ModelPatchingSettings:
    """What is patched between models.

    Attributes:
        every: The last layer and every so many layers before it are patched.
        rows: Test rows of each task at most.
        positions: Groups of tokens: `all`, or the `last` one of the prompt, where the answer is predicted.
        tokens_per_batch: Tokens of one pass at most.

    Raises:
        ValueError: A field is out of its range.
    """

    every: int = 5
    rows: int = 64
    positions: Sequence[str] = POSITIONS
    tokens_per_batch: int = 1024

    def __post_init__(self) -> None:
        unknown = [name for name in self.positions if name not in POSITIONS]
        if unknown or not self.positions:
            raise ValueError(
                f"Unknown positions {unknown}. There are {list(POSITIONS)}. Set `study.patching.positions`."
            )
        for key, least in {"every": 1, "rows": 3, "tokens_per_batch": 1}.items():
            if getattr(self, key) < least:
                raise ValueError(f"`study.patching.{key}` must be at least {least}; got {getattr(self, key)}.")

    def layers(self, last: int) -> tuple[int, ...]:
        """The patched layers, ascending."""
        return tuple(range(last % self.every, last + 1, self.every))


@dataclass(frozen=True)
class AnswerRows:
    """Test rows of a task with their answers as options.

    Attributes:
        task: The task.
        questions: Prompts, and as options all labels, or without labels the row's own answer alone.
        right: Number of each row's right option, shape `(rows,)`.
    """

    task: Task
    questions: Questions
    right: np.ndarray

    @classmethod
    def of(cls, task: Task, backbone: FrozenBackbone, settings: ModelPatchingSettings) -> AnswerRows:
        """The first test rows of a task."""
        split = task.splits["test"]
        prompts, targets = (list(own)[: settings.rows] for own in (split.prompts, split.targets))
        options = [task.labels] * len(prompts)
        right = np.array([task.labels.index(t) if t in task.labels else -1 for t in targets], dtype=np.int64)
        if len(task.labels) < 2 or (right < 0).any():  # free text has no other answers to compare with
            options, right = [(target,) for target in targets], np.zeros(len(targets), dtype=np.int64)
        by_option = [answer_ids(backbone, list(own), prompts) for own in zip(*options, strict=True)]
        questions = Questions.of(
            backbone.tokenize(prompts).ids,
            list(zip(*by_option, strict=True)),
            tokens_per_batch=settings.tokens_per_batch,
            pad_id=backbone.pad_id,
        )
        return cls(task, questions, right)

    def qualities(self, log_probs: np.ndarray) -> dict[str, np.ndarray]:
        """How good the answers are, for log-probabilities `(…, rows, options)`: measure → `(…, rows)`, nats."""
        index = np.broadcast_to(self.right[:, None], (*log_probs.shape[:-1], 1))
        found = {"log_prob": np.take_along_axis(log_probs, index, axis=-1)[..., 0]}
        if log_probs.shape[-1] > 1:
            found["log_odds"] = log_odds_of_right(log_probs, self.right)
        return found


@dataclass(frozen=True)
class ModelPatching:
    """Patches between the base and the tuned models of a study.

    Attributes:
        tuner: Has the base, the tasks and the folder of the cache.
        models: The tuned models.
        settings: What is patched.
    """

    tuner: ModelTuner
    models: TunedModels
    settings: ModelPatchingSettings

    def profiles(self) -> Iterator[LayerProfile]:
        """How much of a tuned model's gain its layers bring into the base, and how much the base's take from it.

        Every task is patched with its first control model, with the first experimental model, and, for comparison, with
        the control model of another task; the base's activations are patched into the first two.
        """
        tasks = self.tuner.suite.tasks
        rows = {task.name: AnswerRows.of(task, self.tuner.base, self.settings) for task in tasks}
        found: dict[tuple[str, str], Mapping[str, np.ndarray]] = {}
        jobs = self._jobs()
        for tuned, places in tracked(jobs, "models patched", total=len(jobs)):
            loaded = _Loaded(self.tuner.base, tuned)
            for task, role in places:
                found[task, role] = self._patch(rows[task], loaded, back=role != OTHER)
        for task in tasks:
            for role in (CONTROL, EXPERIMENTAL, OTHER):
                if (task.name, role) in found:
                    yield from self._of_role(rows[task.name], role, found[task.name, role], found[task.name, CONTROL])

    def _jobs(self) -> list[tuple[TunedModel, list[tuple[str, str]]]]:
        """Each tuned model with the tasks that it is patched on, so that one is loaded at a time."""
        controls = {task: own[0] for task, own in self.models.controls.items()}
        jobs = [(model, [(task, CONTROL)]) for task, model in controls.items()]
        for task in self.tuner.suite.tasks:
            other = _another(task, self.tuner.suite.tasks)
            if other is not None:
                jobs[list(controls).index(other.name)][1].append((task.name, OTHER))
        experimental = [(self.models.experimental[0], [(t, EXPERIMENTAL) for t in controls])]
        return jobs + experimental

    def _patch(self, rows: AnswerRows, tuned: _Loaded, *, back: bool) -> dict[str, np.ndarray]:
        """Log-probabilities of the options: `base` and `tuned` unpatched, and both ways for each group of tokens."""
        key = {
            "model_patching": rows.questions.digest,
            "source": tuned.tuned.key,
            "layers": list(self._layers),
            "positions": list(self.settings.positions),
            "back": back,
        }
        return self._kept.get(key, lambda: self._compute(rows, tuned, back=back))

    def _compute(self, rows: AnswerRows, tuned: _Loaded, *, back: bool) -> dict[str, np.ndarray]:
        base, other, questions = self._base, tuned.lm, rows.questions
        found = {"base": base.log_probs(questions).numpy(), "tuned": other.log_probs(questions).numpy()}
        ways = {"into_base": (other, base), "into_tuned": (base, other)} if back else {"into_base": (other, base)}
        for way, (source, target) in ways.items():
            by_group = patched_log_probs(source, target, questions, self._layers, self.settings.positions)
            found |= {f"{way}/{name}": values for name, values in by_group.items()}
        return found

    def _of_role(
        self, rows: AnswerRows, role: str, found: Mapping[str, np.ndarray], of_control: Mapping[str, np.ndarray]
    ) -> Iterator[LayerProfile]:
        reading = Reading(self.tuner.base.stacks[0], "residual", "tokens")
        base, tuned = rows.qualities(found["base"]), rows.qualities(found["tuned"])
        goal = rows.qualities(of_control["tuned"]) if role == OTHER else tuned  # another task's model: the own gain
        for measure in base:
            for name, values in ((BASE, base[measure]), (role, tuned[measure])):
                if name != BASE or role == CONTROL:
                    estimates = effect_estimates(values[None], rows.right)
                    yield LayerProfile(
                        quantity=f"answer/{measure}",
                        unit="nats",
                        task=rows.task.name,
                        role=name,
                        layers=(None,),
                        estimates=estimates if measure == "log_odds" else without_null(estimates),
                    )
            for way, start, end, of in (
                ("into_base", base, goal, INTO_BASE), ("into_tuned", tuned, base, INTO_TUNED)
            ):  # fmt: skip
                for positions in self.settings.positions:
                    if f"{way}/{positions}" not in found:
                        continue
                    patched = rows.qualities(found[f"{way}/{positions}"])[measure]
                    yield LayerProfile(
                        quantity=f"model_patching/{measure}_{positions}",
                        unit="share of the gap",
                        task=rows.task.name,
                        role=of.format(role),
                        reading=reading,
                        layers=self._layers,
                        estimates=normalised_effect(
                            patched - start[measure], end[measure] - start[measure], over="rows"
                        ),
                    )

    @property
    def _layers(self) -> tuple[int, ...]:
        return self.settings.layers(self.tuner.base.num_layers)

    @cached_property
    def _base(self) -> LanguageModel:
        return LanguageModel.of(self.tuner.base)

    @cached_property
    def _kept(self) -> KeptArrays:
        return KeptArrays(self.tuner.cache_dir / "interventions", {"model": self.tuner.base.fingerprint()})


@dataclass(frozen=True)
class _Loaded:
    """A tuned model with its head, loaded when it is first needed."""

    base: FrozenBackbone
    tuned: TunedModel

    @cached_property
    def lm(self) -> LanguageModel:
        return load_tuned_language_model(self.base, self.tuned)


def patched_log_probs(
    source: LanguageModel,
    target: LanguageModel,
    questions: Questions,
    layers: Sequence[int],
    positions: Sequence[str],
) -> dict[str, np.ndarray]:
    """Log-probabilities of the options in a target model that goes on from another model's layers.

    Args:
        source: The model whose layers are taken.
        target: The model that goes on, of the same shape.
        questions: What both read.
        layers: Ascending.
        positions: Some of `all` and `last`, the tokens that are taken.

    Returns:
        Group of tokens → float64, shape `(layers, rows, options)`.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in positions}
    ours, theirs = Streams.at_input(target, questions), Streams.at_input(source, questions)
    for layer in layers:
        ours, theirs = ours.carried(layer), theirs.carried(layer)
        for name in positions:
            mixed = theirs.hidden if name == "all" else _at_last_tokens(theirs, ours)
            found[name].append(Streams(target, questions, layer, mixed).log_probs().numpy())
    return {name: np.stack(values) for name, values in found.items()}


def _at_last_tokens(new: Streams, old: Streams) -> tuple[Tensor, ...]:
    """Hidden states of one model at the last token of each prompt, and those of another one elsewhere."""
    masks = (token_groups(batch, "last")["last"][..., None] for batch in old.questions.batches)
    parts = zip(masks, new.hidden, old.hidden, strict=True)
    return tuple(torch.where(mask.to(own.device), other.to(own.device), own) for mask, other, own in parts)


def _another(task: Task, tasks: Sequence[Task]) -> Task | None:
    """The next task of another cluster, or else the next one; `None` where there is no other."""
    place = [own.name for own in tasks].index(task.name)
    others = [*tasks[place + 1 :], *tasks[:place]]
    return next((own for own in others if own.cluster != task.cluster), others[0] if others else None)
