"""From prompts and answers to a tuned model on disk: found if finished, resumed if interrupted, else trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning import Callback, Trainer
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from probes.backbones import FrozenBackbone
from probes.seeds import derive_seed
from probes.trainers import TrainerFactory
from probes.tuning.adapters import effect_digest, make_trainable, quiet_tuning, save_adapter
from probes.tuning.answer_model import AnswerModel
from probes.tuning.answer_scores import AnswerSample, AnswerScores, evaluate
from probes.tuning.examples import (
    Encoded,
    TuningDataModule,
    TuningExamples,
    encode_splits,
    end_token,
    transformers_tokenizer,
)
from probes.tuning.instruction_tuner import AnswerValidation, InstructionTuner, StepCheckpoint
from probes.tuning.model_store import TuningPlace, read_scores, scores_key, weights_key, write_scores
from probes.tuning.tuned_backbone import TunedModel
from probes.tuning.tuning_settings import TuningSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitReport:
    """What a tuning did.

    Attributes:
        steps: Optimizer steps behind the weights.
        tokens: Tokens read in training, pads left out.
        seconds: Time of all steps.
        validation_losses: Step → mean cross-entropy of answer tokens on the validation split, nats.
        micro_batch_tokens: What memory allowed.
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
    callbacks: Sequence[Callback] = (),
) -> FitReport:
    """Tune a model in place, on its own device.

    Args:
        model: Its trainable parameters are those that require gradients.
        data: Training and validation examples.
        settings: How to tune.
        trainer: Makes the Lightning trainer.
        seed: Decides order and dropout.
        checkpoint: Where the state is saved, and from where it goes on if it is there.
        callbacks: Go along with the training.

    Raises:
        ValueError: Steps were made and nothing changed.
    """
    examples, seed, before = data["train"], derive_seed(seed, "tuning"), effect_digest(model)
    total_steps, device = settings.total_steps(len(examples)), model.device
    module = InstructionTuner(model, settings, total_steps=total_steps, seed=seed)
    batches = TuningDataModule(examples, settings.batch_size, total_steps=total_steps, seed=seed)
    interval = settings.validation_interval(len(examples))
    validation = AnswerValidation(data["validation"], every_n_steps=interval, patience=settings.patience)
    every = settings.checkpoint_every_n_steps
    saving = [] if every is None else [StepCheckpoint(checkpoint, every_n_steps=every)]
    lightning = _make_trainer(trainer, device, [validation, *saving, *callbacks])
    if checkpoint.exists():
        _log.info("Tuning goes on from its last checkpoint.")
        lightning.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
    else:
        lightning.fit(module, datamodule=batches)
    model.to(device)  # Lightning leaves it on the CPU
    if effect_digest(model) == before:
        raise ValueError(
            f"Tuning made {lightning.global_step} steps and changed nothing: no gradient reaches what is trained. "
            "Set `tuning.target_modules` to modules that act on the answer, or `tuning.learning_rate` higher."
        )
    steps = lightning.global_step if validation.best_step is None else validation.best_step
    return FitReport(steps, module.tokens, module.seconds, validation.losses, module.micro_batch_tokens)


def _make_trainer(trainer: TrainerFactory, device: torch.device, callbacks: Sequence[Callback]) -> Trainer:
    overrides: dict[str, Any] = {
        "max_epochs": 1,  # the loader serves all passes in a row
        "max_steps": -1,
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "strategy": "auto",
        "precision": "32-true",  # the model itself knows what it multiplies in
        "gradient_clip_val": None,
        "accumulate_grad_batches": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_checkpointing": any(isinstance(callback, StepCheckpoint) for callback in callbacks),
        "callbacks": list(callbacks),
    }
    return trainer(**overrides)


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
    """Tune a backbone's weights, loaded anew with their head, on a task's prompts and answers.

    Args:
        task: What the model is tuned on; names the folder.
        backbone: The base model, which stays as it is; training runs on its device.
        examples: `train`, and if there are any `validation` and `test`.
        settings: How to tune.
        trainer: Makes the Lightning trainer.
        seed: Decides adapters' starts, order and dropout; 0 is a seed like any other.
        cache_dir: Tuned models are kept in its folder `adapters`.
        callbacks: Go along with the training; those that change weights break the promise of the key.

    Raises:
        ValueError: The backbone, the data or the settings do not suit; or steps were made and nothing changed.
    """
    _check_dtype(backbone)
    data = encode_splits(task, backbone, examples, settings)
    fingerprint = backbone.fingerprint()
    key = weights_key(fingerprint, data, settings, seed)
    place = TuningPlace.of(cache_dir, task, key)
    job = _Job(task, backbone, data, settings, trainer, seed, fingerprint, place, tuple(callbacks))
    job.place.root.mkdir(parents=True, exist_ok=True)
    base_scores = job.place.root / "base" / f"scores-{fingerprint}-{job.scores_key}.json"
    if settings.trains_nothing:
        scores = job.scores_of_base(base_scores)
        return TunedModel(
            name=task, kind="unchanged", folder=None, key=key, steps=0, validation_losses={}, base=scores, tuned=scores,
            reused=False,
        )  # fmt: skip
    with FileLock(job.place.lock), quiet_tuning():
        reused = job.place.record() is not None
        if not reused:
            job.train(base_scores)
        return job.result(base_scores, key, reused=reused)


@dataclass(frozen=True)
class _Job:
    task: str
    backbone: FrozenBackbone
    data: Encoded
    settings: TuningSettings
    trainer: TrainerFactory
    seed: int
    fingerprint: str
    place: TuningPlace
    callbacks: tuple[Callback, ...] = ()

    @property
    def sample(self) -> AnswerSample:
        return AnswerSample(
            rows=self.settings.generate_rows,
            max_new_tokens=self.settings.max_new_tokens,
            end_id=end_token(self.backbone),
            longest=self.backbone.tokenizer.max_length,
            tokenizer=transformers_tokenizer(self.backbone),
        )

    @property
    def scores_key(self) -> str:
        return scores_key(self.data, self.sample, precision=self.settings.precision)

    def scores_of_base(self, path: Path) -> AnswerScores:
        return read_scores(path) or self._score(self.backbone.load_with_head(), path)

    def result(self, base_scores: Path, key: str, *, reused: bool) -> TunedModel:
        record = self.place.record()
        assert record is not None
        path = self.place.folder / f"scores-{self.scores_key}.json"
        return TunedModel(
            name=self.task,
            kind=record["kind"],
            folder=self.place.folder,
            key=key,
            steps=record["steps"],
            validation_losses={int(step): loss for step, loss in record["validation_losses"].items()},
            base=self.scores_of_base(base_scores),
            tuned=read_scores(path) or self._score(self._load(record["kind"]), path),
            reused=reused,
        )

    def train(self, base_scores: Path) -> None:
        """Train from the start or the last checkpoint, and leave a finished folder."""
        model, place = self.backbone.load_with_head(), self.place
        base = read_scores(base_scores) or self._score(model, base_scores)
        wrapper = make_trainable(model, self.settings, seed=derive_seed(self.seed, "adapter"))
        report = fit_model(
            self._answer_model(model),
            self.data,
            self.settings,
            trainer=self.trainer,
            seed=self.seed,
            checkpoint=place.checkpoint,
            callbacks=self.callbacks,
        )
        scores = self._score(model, place.partial / f"scores-{self.scores_key}.json")
        self._save(wrapper or model)
        place.finish(self._record(report, base, scores))

    def _answer_model(self, model: PreTrainedModel) -> AnswerModel:
        precision = self.settings.precision
        if precision == "float32":
            model.float()
        half = precision == "bfloat16" or (precision == "auto" and self.backbone.dtype == torch.bfloat16)
        return AnswerModel(model, autocast=half)

    def _score(self, model: PreTrainedModel, path: Path) -> AnswerScores:
        scores = evaluate(
            self._answer_model(model),
            self.data["validation"],
            self.data["test"],
            self.sample,
            micro_batch_tokens=self.settings.micro_batch_tokens,
        )
        write_scores(path, scores)
        return scores

    def _save(self, model: PeftModel | PreTrainedModel) -> None:
        folder = self.place.partial
        if isinstance(model, PeftModel):
            save_adapter(model, folder)
            return
        model.to(self.backbone.dtype).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
        transformers_tokenizer(self.backbone).save_pretrained(folder)

    def _load(self, kind: str) -> PreTrainedModel:
        folder = str(self.place.folder)
        if kind == "full":
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=self.backbone.dtype)
            return model.to(self.backbone.device)
        wrapper: Any = PeftModel.from_pretrained(self.backbone.load_with_head(), folder)
        return wrapper.get_base_model()

    def _record(self, report: FitReport, base: AnswerScores, tuned: AnswerScores) -> dict[str, Any]:
        return {
            "task": self.task,
            "kind": "full" if self.settings.method == "full" else "adapter",
            "base": self.backbone.name,
            "base_fingerprint": self.fingerprint,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "rows": len(self.data["train"]),
            **asdict(report),
            "base_scores": asdict(base),
            "tuned_scores": asdict(tuned),
        }


def _check_dtype(backbone: FrozenBackbone) -> None:
    if backbone.dtype not in {torch.float32, torch.bfloat16}:
        raise ValueError(
            f"Tuning expects weights in float32 or bfloat16, where gradients do not underflow; those of "
            f"'{backbone.name}' are {backbone.dtype}. Set `backbone.dtype`."
        )
