"""From prompts and answers to a tuned model on disk: reused if finished, resumed if interrupted, else trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from probes.answers import end_token
from probes.answers.answer_model import AnswerModel
from probes.backbones import FrozenBackbone
from probes.files import remove_litter, write_json
from probes.kept_files import check_writable, read_resume_point
from probes.locks import process_lock
from probes.seeds import derive_seed
from probes.trainers import TrainerFactory
from probes.tuning.adapters import effect_digest, make_trainable, quiet_tuning, save_adapter
from probes.tuning.answer_scores import AnswerSample, AnswerScores, evaluate
from probes.tuning.examples import Encoded, TuningDataModule, TuningExamples, encode_splits
from probes.tuning.instruction_tuner import AnswerValidation, InstructionTuner, StepCheckpoint, StepProgress
from probes.tuning.model_store import ModelFolder, read_scores, scores_key, weights_key, write_scores
from probes.tuning.ranks import ALONE, Ranks
from probes.tuning.resume_points import ResumePoints
from probes.tuning.sharding import refuse_measuring, shard_frozen_weights
from probes.tuning.tuned_backbone import TunedModel
from probes.tuning.tuning_settings import TuningSettings
from probes.tuning.tuning_trainer import make_trainer, ranks_of

_log = logging.getLogger(__name__)


def tune(
    task: str,
    backbone: FrozenBackbone,
    examples: Mapping[str, TuningExamples],
    settings: TuningSettings,
    *,
    trainer: TrainerFactory,
    seed: int,
    cache_dir: Path,
    callbacks: Sequence[Callback] = (),
) -> TunedModel:
    """Tune a copy of a backbone, loaded with its language-model head, on the prompts and answers of a task.

    A trainer with several processes tunes one model in all of them: each computes its share of the sequences of every
    step. One of them holds the lock of the model and writes its files, and all return the same.

    Args:
        task: Name of the data the model is tuned on, which becomes part of the folder's name.
        backbone: The base model, which is not changed; one process trains on its device.
        examples: The split `train`; `validation` and `test` are optional.
        settings: How to tune.
        trainer: Makes the Lightning trainer; its accelerator and devices count where there are several processes.
        seed: Decides the adapters' initial weights, the order of examples and dropout; 0 is a seed like any other.
        cache_dir: Tuned models are kept in its folder `adapters`.
        callbacks: Callbacks of the training; they must not change weights, which the model's key could not tell.

    Raises:
        ValueError: The backbone, the data or the settings do not allow tuning, or the tuning changed no weight.
        RuntimeError: The processes of a job want to tune different models.
        PermissionError: The model is not finished, and its folder cannot be written.
        TimeoutError: Another run tunes the same model and saves no checkpoint for `settings.lock_timeout` seconds.
    """
    _check_dtype(backbone)
    data = encode_splits(task, backbone, examples, settings)
    fingerprint = backbone.fingerprint()
    key = weights_key(fingerprint, data, settings, seed)
    run = _TuningRun(
        task=task,
        backbone=backbone,
        fingerprint=fingerprint,
        data=data,
        settings=settings,
        trainer=trainer,
        seed=seed,
        key=key,
        folder=ModelFolder.of(cache_dir, task, key),
        callbacks=tuple(callbacks),
    )
    if settings.trains_nothing:
        return run.unchanged()
    with quiet_tuning():
        found = run.found()
        if found is not None:
            return found
        ranks, device = ranks_of(trainer, settings)
        if settings.shard_weights:
            refuse_measuring(callbacks)
        return ranks.agree(key, run.found) or replace(run, ranks=ranks, device=device).tuned_or_scored()


@dataclass(frozen=True, kw_only=True)
class _TuningRun:
    """One tuning: its data, its settings, the folder of its result, and who tunes; of several, rank 0 writes files."""

    task: str
    backbone: FrozenBackbone
    fingerprint: str
    data: Encoded
    settings: TuningSettings
    trainer: TrainerFactory
    seed: int
    key: str
    folder: ModelFolder
    callbacks: tuple[Callback, ...]
    ranks: Ranks = ALONE
    device: torch.device | None = None

    def unchanged(self) -> TunedModel:
        """The base itself, as the result of a tuning without steps."""
        scores = self._base_scores()
        return TunedModel(
            name=self.task,
            kind="unchanged",
            folder=None,
            key=self.key,
            steps=0,
            validation_losses={},
            base=scores,
            tuned=scores,
            reused=False,
        )

    def found(self) -> TunedModel | None:
        """The finished model if it lies on disk, whole and with all scores; neither locks nor writes."""
        record = self.folder.record(self.settings.verify)
        base = read_scores(self._base_file, key=self._base_key)
        tuned = read_scores(self._scores_file, key=self._tuned_key)
        if record is None or base is None or tuned is None:
            return None
        return self._result(record, base, tuned, reused=True)

    def tuned_or_scored(self) -> TunedModel:
        """Tune the model if it is not finished, and compute the scores that are missing, while no other run does."""
        folder, first = self.folder, self.ranks.first
        with self._locked():
            reused = first(lambda: folder.record(self.settings.verify) is not None)
            if not reused:
                self.train()
            record = first(lambda: folder.record("quick"))
            assert record is not None
            tuned = first(lambda: read_scores(self._scores_file, key=self._tuned_key))
            if tuned is None:
                tuned = self._score(self._placed(self._load(record["kind"])), self._scores_file, self._tuned_key)
            return self._result(record, self._base_scores(), tuned, reused=reused)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the model, in rank 0, while the others wait for it."""
        folder = self.folder

        def enter() -> None:
            check_writable(folder.path.parent, f"and the model tuned on '{self.task}' is not complete there")
            what, timeout = f"the model tuned on '{self.task}'", self.settings.lock_timeout
            if stack.enter_context(process_lock(folder.lock, what=what, timeout=timeout, progress=folder.progress)):
                remove_litter(folder.path.parent, folder.path.name)

        with ExitStack() as stack:
            self.ranks.first(enter)
            yield

    def train(self) -> None:
        """Train from the start or the last checkpoint, and save the finished model with its scores and record."""
        model = self.backbone.load_with_head()
        base_scores = None if self.ranks.sharded else self._base_scores(self._placed(model))
        wrapper = make_trainable(model, self.settings, seed=derive_seed(self.seed, "adapter"))
        if base_scores is None:  # the base as a whole may fit no single device
            self._placed(model)
            with nullcontext() if wrapper is None else wrapper.disable_adapter():
                base_scores = self._base_scores(model)
        report = fit_model(
            self._answer_model(model),
            self.data,
            self.settings,
            trainer=self.trainer,
            seed=self.seed,
            checkpoint=self.folder.checkpoint,
            key=self.key,
            name=f"steps on '{self.task}'",
            callbacks=self.callbacks,
            ranks=self.ranks,
        )
        scores = self._evaluated(model)

        def finish() -> None:
            with self.folder.finish() as folder:
                write_scores(folder / self._scores_file.name, scores, key=self._tuned_key)
                self._save(model if wrapper is None else wrapper, folder)
                write_json(folder / "tuning.json", self._record(report, base_scores, scores))

        self.ranks.first(finish)

    def _placed(self, model: PreTrainedModel) -> PreTrainedModel:
        """A model on the device of this rank, or its share of it; as it was loaded, where there is one process."""
        if self.device is None:
            return model
        self._answer_model(model)
        if not self.ranks.sharded:
            return model.to(self.device)  # pyright: ignore[reportArgumentType]
        shard_frozen_weights(model, self.device)
        return model

    def _result(self, record: dict[str, Any], base: AnswerScores, tuned: AnswerScores, *, reused: bool) -> TunedModel:
        return TunedModel(
            name=self.task,
            kind=record["kind"],
            folder=self.folder.path,
            key=self.key,
            steps=record["steps"],
            validation_losses={int(step): loss for step, loss in record["validation_losses"].items()},
            base=base,
            tuned=tuned,
            reused=reused,
        )

    @cached_property
    def _sample(self) -> AnswerSample:
        return AnswerSample(
            rows=self.settings.generate_rows,
            max_new_tokens=self.settings.max_new_tokens,
            end_id=end_token(self.backbone),
            longest=self.backbone.tokenizer.max_length,
            tokenizer=self.backbone.tokenizer.wrapped,
        )

    @cached_property
    def _scores_key(self) -> str:
        return scores_key(self.data, self._sample, precision=self.settings.precision)

    @property
    def _scores_file(self) -> Path:
        return self.folder.path / f"scores-{self._scores_key}.json"

    @property
    def _tuned_key(self) -> str:
        return f"{self.key} {self._scores_key}"

    @property
    def _base_file(self) -> Path:
        return self.folder.path.parent / "base" / f"scores-{self.fingerprint}-{self._scores_key}.json"

    @property
    def _base_key(self) -> str:
        return f"{self.fingerprint} {self._scores_key}"

    def _base_scores(self, model: PreTrainedModel | None = None) -> AnswerScores:
        """The base's scores, shared by all models of the same data; `model` is the base if it is loaded already."""
        scores = self.ranks.first(lambda: read_scores(self._base_file, key=self._base_key))
        if scores is not None:
            return scores
        model = self._placed(self.backbone.load_with_head()) if model is None else model
        return self._score(model, self._base_file, self._base_key)

    def _score(self, model: PreTrainedModel, file: Path, key: str) -> AnswerScores:
        scores = self._evaluated(model)
        self.ranks.first(lambda: write_scores(file, scores, key=key))
        return scores

    def _evaluated(self, model: PreTrainedModel) -> AnswerScores:
        return evaluate(
            self._answer_model(model),
            self.data["validation"],
            self.data["test"],
            self._sample,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            ranks=self.ranks,
        )

    def _answer_model(self, model: PreTrainedModel) -> AnswerModel:
        precision = self.settings.precision
        if precision == "float32":
            model.float()
        half = precision == "bfloat16" or (precision == "auto" and self.backbone.dtype == torch.bfloat16)
        return AnswerModel(model, autocast=half)

    def _save(self, model: PeftModel | PreTrainedModel, folder: Path) -> None:
        if isinstance(model, PeftModel):
            save_adapter(model, folder)
            return
        model.to(self.backbone.dtype).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
        self.backbone.tokenizer.wrapped.save_pretrained(folder)

    def _load(self, kind: str) -> PreTrainedModel:
        folder = str(self.folder.path)
        if kind == "full":
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=self.backbone.dtype)
            return model.to(self.backbone.device)
        wrapper: Any = PeftModel.from_pretrained(self.backbone.load_with_head(), folder)
        return wrapper.get_base_model()

    def _record(self, report: FitReport, base_scores: AnswerScores, tuned_scores: AnswerScores) -> dict[str, Any]:
        return {
            "task": self.task,
            "kind": "full" if self.settings.method == "full" else "adapter",
            "base": self.backbone.name,
            "base_fingerprint": self.fingerprint,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "rows": len(self.data["train"]),
            "processes": self.ranks.size,
            **asdict(report),
            "base_scores": asdict(base_scores),
            "tuned_scores": asdict(tuned_scores),
        }


@dataclass(frozen=True)
class FitReport:
    """What a tuning did.

    Attributes:
        steps: Optimizer steps that led to the weights.
        tokens: Tokens read in training, without pads.
        seconds: Duration of all steps.
        validation_losses: Step → mean cross-entropy of answer tokens on the validation split, nats.
        micro_batch_tokens: Tokens of a forward pass at most, after memory ran out or not.
    """

    steps: int
    tokens: int
    seconds: float
    validation_losses: dict[int, float]
    micro_batch_tokens: int


def fit_model(
    model: AnswerModel,
    data: Encoded,
    settings: TuningSettings,
    *,
    trainer: TrainerFactory,
    seed: int,
    checkpoint: Path,
    key: str = "",
    name: str = "tuning steps",
    callbacks: Sequence[Callback] = (),
    ranks: Ranks = ALONE,
) -> FitReport:
    """Tune a model in place, on its device.

    Args:
        model: Its parameters that require gradients are trained.
        data: Training and validation examples.
        settings: How to tune.
        trainer: Makes the Lightning trainer.
        seed: Decides the order of examples and dropout.
        checkpoint: File to which the state is saved, and from which training resumes if it exists.
        key: The key of the tuned model; a state that was saved under another one, or is damaged, is set aside.
        name: What the progress of its steps is called.
        callbacks: Callbacks of the training.
        ranks: The processes that tune together; rank 0 saves the state, and all resume from it.

    Raises:
        ValueError: Steps were made and no weight that affects the outputs changed.
    """
    examples, seed, before = data["train"], derive_seed(seed, "tuning"), effect_digest(model)
    total_steps, device = settings.total_steps(len(examples)), model.device
    module = InstructionTuner(model, settings, total_steps=total_steps, seed=seed, ranks=ranks)
    batches = TuningDataModule(examples, settings.batch_size, total_steps=total_steps, seed=seed)
    interval = settings.validation_interval(len(examples))
    validation = AnswerValidation(data["validation"], every_n_steps=interval, patience=settings.patience)
    every = settings.checkpoint_every_n_steps
    saving = [] if every is None else [StepCheckpoint(checkpoint, every_n_steps=every)]
    progress = [StepProgress(name, total=total_steps)] if ranks.number == 0 else []
    lightning = make_trainer(trainer, device, [validation, *saving, *progress, *callbacks], ranks)
    lightning.strategy.checkpoint_io = ResumePoints(key)
    remedy = "Tuning starts from the beginning."
    if ranks.first(lambda: read_resume_point(checkpoint, key=key, remedy=remedy) is not None):
        _log.info("Tuning resumes from its last checkpoint.")
        lightning.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
    else:
        lightning.fit(module, datamodule=batches)
    model.to(device)  # Lightning leaves it on the CPU
    if effect_digest(model) == before:
        raise ValueError(
            f"Tuning made {lightning.global_step} steps and changed nothing: no gradient reaches the trained weights. "
            "Set `tuning.target_modules` to modules that act on the answer, or `tuning.learning_rate` higher."
        )
    steps = lightning.global_step if validation.best_step is None else validation.best_step
    return FitReport(steps, module.tokens, module.seconds, validation.losses, module.micro_batch_tokens)


def _check_dtype(backbone: FrozenBackbone) -> None:
    if backbone.dtype not in {torch.float32, torch.bfloat16}:
        raise ValueError(
            f"Tuning expects weights in float32 or bfloat16, whose gradients do not underflow; those of "
            f"'{backbone.name}' are {backbone.dtype}. Set `backbone.dtype`."
        )
