"""The jobs of a study, and what each reads, tunes, computes and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from probes.planning.model_shape import ModelShape
from probes.planning.texts import TaskTexts, Texts
from probes.studies.layer_by_layer.job_graph import BASE, Stage, StudyJob, jobs_of_study
from probes.studies.layer_by_layer.mixture import MixtureSettings
from probes.studies.layer_by_layer.models import MIXTURE
from probes.tuning import TuningSettings

_ALL_WEIGHTS = "full"
_NONE = Texts()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one job does; a study in one process is the sum of its jobs.

    Attributes:
        stage: `run` for a study that is one job, else `tune`, `read` or `compare`.
        model: What is tuned or read, as `study.only_models` names it; empty for a job about all models.
        steps: Optimizer steps.
        tuning: Texts whose tokens pass through these steps, each time they do.
        tuning_flop: Operations of these steps.
        read: Texts of passes without gradients: what is extracted, and answers that are scored.
        read_flop: Operations of these passes.
        generated: Tokens that are generated greedily.
        stored_bytes: Bytes of activations and weights that are written.
        fits: Classes of each task whose probes are trained, once for each model that is probed.
        compared: Tasks times layers that are compared.
        memory_bytes: Most memory of the device that computes, weights included.
        gradient_bytes: Bytes of the gradients of one step, in float32.
    """

    stage: str
    model: str = ""
    steps: int = 0
    tuning: Texts = _NONE
    tuning_flop: float = 0.0
    read: Texts = _NONE
    read_flop: float = 0.0
    generated: int = 0
    stored_bytes: int = 0
    fits: tuple[int, ...] = ()
    compared: int = 0
    memory_bytes: int = 0
    gradient_bytes: int = 0

    @property
    def flop(self) -> float:
        """All operations of the model."""
        return self.tuning_flop + self.read_flop

    def exchanged_bytes(self, gpus: int) -> float:
        """Bytes that each of some GPUs sends when they sum the gradients of all steps in a ring."""
        return self.steps * self.gradient_bytes * 2 * (gpus - 1) / gpus


def probe_jobs(
    shape: ModelShape,
    texts: Texts,
    tasks: Sequence[TaskTexts],
    *,
    readings: int = 1,
    tokens_per_batch: int = 1024,
) -> list[Job]:
    """The one job of a probe study.

    Args:
        shape: Of the backbone.
        texts: All different texts.
        tasks: Those with labels are probed and compared.
        readings: Stacks, sites and poolings that are read.
        tokens_per_batch: Tokens of one pass.
    """
    classes = tuple(task.classes for task in tasks if task.classes)
    batch = max(tokens_per_batch, texts.longest)
    return [
        Job(
            stage="run",
            read=texts,
            read_flop=shape.forward_flop(texts),
            stored_bytes=readings * shape.stored_bytes(texts.number),
            fits=classes * readings,
            compared=readings * len(classes) * shape.layers,
            memory_bytes=shape.weight_bytes + shape.pass_bytes(batch, longest=texts.longest),
        )
    ]


def layer_by_layer_jobs(
    shape: ModelShape,
    tasks: Sequence[TaskTexts],
    mixture: MixtureSettings,
    tuning: TuningSettings,
    *,
    with_probes: bool = True,
    readings: int = 1,
    tokens_per_batch: int = 1024,
) -> list[Job]:
    """The jobs of a layer-by-layer study, in the order of its stages.

    Args:
        shape: Of the base.
        tasks: Of the suite.
        mixture: How the experimental model is made.
        tuning: How models are tuned.
        with_probes: Whether base and experimental model are probed.
        readings: Stacks, sites and poolings that are read.
        tokens_per_batch: Tokens of one pass.
    """
    by_name = {task.name: task for task in tasks}
    planner = _Planner(shape, tasks, mixture, tuning, readings, tokens_per_batch)
    names = [task.name for task in tasks]
    jobs = []
    for job in jobs_of_study(names, mixture):
        if job.stage is Stage.TUNE:
            jobs.append(planner.tuned(job))
        elif job.stage is Stage.READ:
            jobs.append(planner.read(job, whole_suite=with_probes))
        else:
            probed = tuple(by_name[name].classes for name in names if by_name[name].classes) * 2 if with_probes else ()
            jobs.append(Job(stage="compare", fits=probed * readings, compared=readings * len(tasks) * shape.layers))
    return jobs


@dataclass(frozen=True)
class _Planner:
    shape: ModelShape
    tasks: Sequence[TaskTexts]
    mixture: MixtureSettings
    settings: TuningSettings
    readings: int
    tokens_per_batch: int

    def tuned(self, job: StudyJob) -> Job:
        """Tune one model: its steps, the losses on validation rows between them, and answers before and after."""
        settings, shape = self.settings, self.shape
        train, validation, test = (self._texts(job, split) for split in ("train", "validation", "test"))
        steps = settings.total_steps(train.number) if train.number else 0
        share = steps * settings.batch_size / max(1, train.number)  # passes over the training rows
        seen = replace(
            train,
            number=round(share * train.number),
            tokens=round(share * train.tokens),
            squared=round(share * train.squared),
        )
        measured = steps // settings.validation_interval(train.number) if train.number else 0
        everything = settings.method == _ALL_WEIGHTS
        answered = test.some(settings.generate_rows)
        passes = _repeated(validation, 2 + measured) + _repeated(test, 2) + _repeated(answered, 2)
        heads = self._answers(job, "validation") * (2 + measured) + 2 * self._answers(job, "test")
        return Job(
            stage="tune",
            model=job.model,
            steps=steps,
            tuning=seen,
            tuning_flop=shape.tuning_flop(
                seen, scored=round(share * self._answers(job, "train")), all_weights=everything
            ),
            read=passes,
            read_flop=shape.forward_flop(passes, scored=heads),
            generated=2 * answered.number * settings.max_new_tokens,
            stored_bytes=shape.weight_bytes if everything else self._adapter_bytes(),
            gradient_bytes=2 * shape.weight_bytes if everything else self._adapter_bytes(),
            memory_bytes=shape.tuning_bytes(max(settings.micro_batch_tokens, train.longest), all_weights=everything),
        )

    def read(self, job: StudyJob, *, whole_suite: bool) -> Job:
        """Read the suite with base and experimental model, and a task's test rows with its controls."""
        if job.model == BASE or job.model.partition(":")[0] == MIXTURE:
            first = job.model in {BASE, f"{MIXTURE}:0"}
            splits = ("train", "validation", "test") if whole_suite and first else ("test",)
            texts = _sum(task.prompts[split] for task in self.tasks for split in splits if split in task.prompts)
        else:
            texts = self._task(job).prompts["test"]
        return Job(
            stage="read",
            model=job.model,
            read=texts,
            read_flop=self.shape.forward_flop(texts),
            stored_bytes=self.readings * self.shape.stored_bytes(texts.number),
            memory_bytes=self.shape.weight_bytes
            + self.shape.pass_bytes(max(self.tokens_per_batch, texts.longest), longest=texts.longest),
        )

    def _task(self, job: StudyJob) -> TaskTexts:
        return next(task for task in self.tasks if task.name == job.name)

    def _texts(self, job: StudyJob, split: str) -> Texts:
        """Prompts and answers of a split of what a model is tuned on."""
        if job.name != MIXTURE:
            return self._task(job).whole(split) if split in self._task(job).prompts else _NONE
        seen = [task for task in self.tasks if not task.unseen and split in task.prompts]
        if split != "train":
            return _sum(task.whole(split) for task in seen)
        clusters = dict.fromkeys(task.cluster for task in seen)
        return _sum(
            _sum(task.whole(split) for task in seen if task.cluster == cluster).some(self.mixture.rows_per_cluster)
            for cluster in clusters
        )

    def _answers(self, job: StudyJob, split: str) -> int:
        tasks = [self._task(job)] if job.name != MIXTURE else [task for task in self.tasks if not task.unseen]
        return sum(task.answers.get(split, 0) for task in tasks)

    def _adapter_bytes(self) -> int:
        """Bytes of an adapter's float32 weights on matrices of hidden × hidden, two a module that is named."""
        of_block = len(self.settings.target_modules) * 2 * self.settings.rank * self.shape.hidden
        return 4 * self.shape.blocks * of_block


def _sum(parts: Iterable[Texts]) -> Texts:
    total = _NONE
    for part in parts:
        total = total + part
    return total


def _repeated(texts: Texts, times: int) -> Texts:
    return Texts(times * texts.number, times * texts.tokens, times * texts.squared, texts.longest)
