"""`probes plan OVERRIDES`: what a run will do and cost, before it is started.

    probes plan suite=starter backbone=smollm2
    probes plan experiment=layer_by_layer_paper plan.gpus=64

Nothing is computed but a benchmark of some seconds, which is kept in the cache. `probes submit OVERRIDES --dry-run`
lists every job of a layer-by-layer study with its cost.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from probes.commands.plugins import CONFIG_DIR
from probes.planning.measured import Clock, kept_rates, machine_key, seconds_since_start

if TYPE_CHECKING:
    from probes.backbones import FrozenBackbone
    from probes.planning import Job, ModelShape, Rates, TaskTexts, Texts
    from probes.tasks import Suite

_log = logging.getLogger(__name__)

_GB = 1e9


@dataclass(frozen=True)
class Subject:
    """What is planned.

    Attributes:
        shape: Of the model.
        tasks: Of the suite, in numbers.
        texts: All different texts of it.
        jobs: Of the study.
        rates: At which they are priced.
        assumptions: What was not counted or measured, in sentences.
    """

    shape: ModelShape
    tasks: Sequence[TaskTexts]
    texts: Texts
    jobs: Sequence[Job]
    rates: Rates
    assumptions: Sequence[str]


def main(arguments: Sequence[str]) -> None:
    """Print the plan of a run; `--json` prints numbers for programs, `--dry-run` every job."""
    parser = argparse.ArgumentParser(prog="probes plan", description="What a run will do and cost, before it starts.")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, and plan.KEY=VALUE of conf/plan.yaml"
    )
    parser.add_argument("--dry-run", action="store_true", help="list every job with its cost")
    parser.add_argument("--json", action="store_true", help="print numbers for programs")
    options = parser.parse_args(arguments)
    from probes.run import with_local_folder

    cfg = with_local_folder(composed(options.overrides))
    cfg.paths.remote = None  # what is measured here is of no use to others
    subject = planned(cfg)
    if options.json:
        sys.stdout.write(json.dumps(numbers(subject, cfg), allow_nan=False) + "\n")
    elif options.dry_run:
        _print_jobs(subject, cfg)
    else:
        _print_plan(subject, cfg)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of a run with the node `plan`; overrides of Hydra itself are left out."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("plan", overrides=[word for word in overrides if not word.startswith("hydra")])


def planned(cfg: DictConfig, *, clock: Clock = time.perf_counter) -> Subject:
    """Count and measure what a config describes.

    Args:
        cfg: As `composed` makes it.
        clock: As in `measured_rates`.

    Raises:
        TypeError: The study is neither probe nor layer_by_layer.
        ValueError: There is no such GPU, a job has more GPUs than there are, the suite of a model that is not here
            is not known by its numbers, or there is nothing to probe.
    """
    from probes.planning import GPUS, layer_by_layer_jobs, probe_jobs
    from probes.planning.rates import rates_of
    from probes.studies import LayerByLayerStudy, ProbeStudy

    study = instantiate(cfg.study)
    if not isinstance(study, ProbeStudy | LayerByLayerStudy):
        raise TypeError(
            f"`probes plan` knows the costs of study=probe and study=layer_by_layer; got {cfg.study._target_}."
        )
    if cfg.plan.gpu not in GPUS:
        raise ValueError(f"There is no GPU '{cfg.plan.gpu}'. Set `plan.gpu` to {', '.join(GPUS)}.")
    if not 1 <= cfg.plan.gpus_per_job <= max(1, cfg.plan.gpus):
        raise ValueError(
            f"A job of {cfg.plan.gpus_per_job} GPUs needs as many; there are {cfg.plan.gpus}. Set `plan.gpus_per_job` "
            "from 1 to `plan.gpus`."
        )
    here = seconds_since_start() if clock is time.perf_counter else clock()
    material = _material(cfg, study, clock)
    batch = cfg.extraction.tokens_per_batch
    batch = (1024 if not cfg.plan.gpus else 65536) if batch == "auto" else int(batch)
    if isinstance(study, ProbeStudy):
        jobs = probe_jobs(
            material.shape, material.texts, material.tasks, readings=material.readings, tokens_per_batch=batch
        )
    else:
        jobs = layer_by_layer_jobs(
            material.shape, material.tasks, study.mixture, instantiate(cfg.tuning), with_probes=study.with_probes,
            readings=material.readings, tokens_per_batch=batch,
        )  # fmt: skip
    rates = _rates(cfg, material, start=here, jobs=jobs, clock=clock)
    assumptions = list(material.assumptions)
    if cfg.plan.gpus:
        gpu = GPUS[cfg.plan.gpu]
        shares = {"forward_share": cfg.plan.forward_share, "tuning_share": cfg.plan.tuning_share}
        rates = rates_of(gpu, material.shape, rates, link=cfg.plan.link_gb_per_s * _GB, **shares)
        assumptions.append(
            f"{gpu.name}: {shares['forward_share']:.0%} of {gpu.flop / 1e12:,.0f} TFLOP/s in passes and "
            f"{shares['tuning_share']:.0%} in tuning steps (`plan.forward_share`, `plan.tuning_share`); what a CPU "
            "does is priced at this machine's rates."
        )
    if cfg.plan.gpus_per_job > 1:
        assumptions.append(
            f"The {cfg.plan.gpus_per_job} GPUs of a job reach the same shares as one, but no step is faster than "
            f"reading the weights twice; each sends {cfg.plan.link_gb_per_s:g} GB/s (`plan.link_gb_per_s`)."
        )
    return Subject(material.shape, material.tasks, material.texts, jobs, rates, assumptions)


def numbers(subject: Subject, cfg: DictConfig) -> dict[str, Any]:
    """The plan in numbers."""
    from probes.planning import hours_of
    from probes.planning.rates import loads_of

    jobs, shape = subject.jobs, subject.shape
    apart, together = bool(cfg.plan.gpus), int(cfg.plan.gpus_per_job)
    starts = len(jobs) if apart else 1
    by_part: dict[str, float] = {}
    for job in jobs:
        loads = loads_of(job, apart=apart)
        for part, seconds in subject.rates.seconds(job, shape.layers, loads=loads, gpus=together).items():
            by_part[part] = by_part.get(part, 0.0) + seconds
    return {
        "model": shape.name,
        "tasks": len(subject.tasks),
        "texts": subject.texts.number,
        "tokens": subject.texts.tokens,
        "jobs": len(jobs),
        "models_tuned": sum(job.stage == "tune" for job in jobs),
        "tokens_read": sum(job.read.tokens for job in jobs),
        "tokens_tuned": sum(job.tuning.tokens for job in jobs),
        "tokens_generated": sum(job.generated for job in jobs),
        "flop": sum(job.flop for job in jobs),
        "stored_bytes": sum(job.stored_bytes for job in jobs),
        "memory_bytes": max(job.memory_bytes for job in jobs),
        "network_bytes": network_bytes(subject, cfg),
        "hours": hours_of(jobs, subject.rates, shape, processes=int(cfg.plan.gpus), gpus_per_job=together),
        "seconds_by_part": by_part | {"start": starts * subject.rates.start, "end": subject.rates.end},
        "rates": {key: None if rate == math.inf else rate for key, rate in asdict(subject.rates).items()},
        "assumptions": list(subject.assumptions),
    }


def network_bytes(subject: Subject, cfg: DictConfig) -> dict[str, int]:
    """Bytes that cross a network: from the Hub, between jobs and the disk they share, and gradients within jobs."""
    shape, jobs = subject.shape, subject.jobs
    from_hub = cfg.backbone.get("name") is not None
    of_hub = any(word in cfg.suite._target_ for word in ("hub", "flan2021"))  # about 4 bytes a token
    stored = sum(job.stored_bytes for job in jobs)
    apart, together = cfg.plan.gpus and len(jobs) > 1, int(cfg.plan.gpus_per_job)
    return {
        "hub": (shape.weight_bytes if from_hub else 0) + (4 * subject.texts.tokens if of_hub else 0),
        "shared_disk_written": stored if apart else 0,
        "shared_disk_read": (stored + shape.weight_bytes * len(jobs) * together) if apart else 0,
        "gradients": round(together * sum(job.exchanged_bytes(together) for job in jobs)),
    }


@dataclass(frozen=True)
class _Material:
    shape: ModelShape
    tasks: Sequence[TaskTexts]
    texts: Texts
    readings: int
    suite: Suite | None
    backbone: FrozenBackbone | None
    load: float
    assumptions: Sequence[str]


def _material(cfg: DictConfig, study: Any, clock: Clock) -> _Material:
    """Model and suite, loaded if they are here, else known by name and assumed."""
    from probes.planning import counted_tasks, shape_of
    from probes.planning.model_shape import KNOWN
    from probes.planning.texts import unique_texts
    from probes.studies.layer_by_layer.mixture import mark_unseen

    before, notes = clock(), []
    name = cfg.plan.model or cfg.backbone.get("name")
    if name in KNOWN:
        shape, backbone = KNOWN[name], None
        notes.append(f"Sizes of {name} are known by its name; its weights were not loaded.")
    else:
        backbone = instantiate(cfg.backbone)
        shape = shape_of(backbone.model.config, name=backbone.name, dtype=str(backbone.dtype).removeprefix("torch."))
    load = clock() - before
    if backbone is None:
        tasks, texts, more = _assumed(cfg)
        return _Material(shape, tasks, texts, 1, None, None, load, [*notes, *more])
    suite = instantiate(cfg.suite)
    mixture = getattr(study, "mixture", None)
    suite = _read_by_probing(cfg, suite) if mixture is None else mark_unseen(suite, mixture.unseen)
    limit = cfg.extraction.max_length

    def lengths(prompts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in backbone.tokenize(prompts, max_length=limit).ids] if prompts else []

    readings = len(backbone.readings(cfg.extraction.pooling, cfg.extraction.site))
    tasks = counted_tasks(suite.tasks, lengths)
    return _Material(shape, tasks, unique_texts(suite.tasks, lengths), readings, suite, backbone, load, notes)


def _read_by_probing(cfg: DictConfig, suite: Suite) -> Suite:
    """The tasks that `study=probe` reads: those with labels, and pairs of texts where a measure asks for them.

    Raises:
        ValueError: No task has labels.
    """
    from probes.architectures import reads_tokens
    from probes.studies.probe import with_labels
    from probes.tasks import Suite

    measures = () if reads_tokens(instantiate(cfg.probe).architecture) else instantiate(cfg.analysis).probe_measures
    of_pairs = any(hasattr(measure, "of_pairs") for measure in measures)
    pairs = [task for task in suite.tasks if of_pairs and task.kind == "pairs"]
    return Suite(suite.name, (*with_labels(suite).tasks, *pairs))


def _assumed(cfg: DictConfig) -> tuple[Sequence[TaskTexts], Texts, list[str]]:
    """The tasks of FLAN 2021 by what is assumed of them.

    Raises:
        ValueError: The suite is another one.
    """
    from probes.planning import Texts, assumed_tasks
    from probes.planning.flan2021 import ANSWER_TOKENS, LACKING, PROMPT_TOKENS, WITHOUT_LABELS
    from probes.tasks.flan2021 import CLUSTERS, expand_clusters

    if "flan2021" not in cfg.suite._target_:
        raise ValueError(
            f"The plan of a model that is not here needs a suite that is known by its numbers, which is flan2021; got "
            f"{cfg.suite._target_}. Set `suite=flan2021`, or `backbone` to a model that is here."
        )
    caps = {split: cfg.suite.max_rows.get(split) for split in cfg.plan.rows}
    rows = {split: min(number, caps[split] or number) for split, number in cfg.plan.rows.items()}
    clusters = {cluster: [name for name in names if name not in LACKING] for cluster, names in CLUSTERS.items()}
    tasks = assumed_tasks(
        clusters,
        unseen=expand_clusters(cfg.suite.unseen),
        rows=rows,
        rows_per_cluster=cfg.suite.train_rows_per_cluster,
        tokens=cfg.plan.tokens_per_text or PROMPT_TOKENS,
        answer_tokens=cfg.plan.answer_tokens or ANSWER_TOKENS,
        without_labels=WITHOUT_LABELS,
    )
    texts = sum((texts for task in tasks for texts in task.prompts.values()), Texts())
    notes = [
        f"The suite was not loaded: each task is assumed to have {rows['train']:,} training rows at most (a cluster "
        f"{cfg.suite.train_rows_per_cluster:,}), {rows['validation']:,} of validation and {rows['test']:,} of test "
        "(`plan.rows`), of the lengths in probes/planning/flan2021.py (`plan.tokens_per_text`, `plan.answer_tokens`)."
    ]
    return tasks, texts, notes


def _rates(cfg: DictConfig, material: _Material, *, start: float, jobs: Sequence[Job], clock: Clock) -> Rates:
    """This machine's rates for the run, measured once; of a model that is not here, those of a tiny one stand in."""
    from probes.backbones import tiny_backbone
    from probes.planning import shape_of
    from probes.planning.measure_run import RunParts, measured_rates

    backbone = material.backbone or tiny_backbone()
    shape = material.shape if material.backbone else shape_of(backbone.model.config, name="tiny", dtype="float32")
    parts = RunParts(
        backbone=backbone,
        suite=material.suite,
        extraction=instantiate(cfg.extraction),
        probe=instantiate(cfg.probe) if any(job.fits for job in jobs) else None,
        trainer=instantiate(cfg.trainer, accelerator="cpu") if material.backbone is None else instantiate(cfg.trainer),
        analysis=instantiate(cfg.analysis),
        tuning=instantiate(cfg.tuning) if any(job.steps for job in jobs) else None,
    )
    classes = sorted({task.classes for task in material.tasks})
    of_run = {key: str(cfg[key]) for key in ("probe", "extraction", "analysis", "tuning")}
    key = machine_key(
        backbone,
        clock=clock.__name__,
        classes=classes,
        tokens=material.texts.tokens,
        shape=str(material.shape),
        **of_run,
    )
    return kept_rates(
        Path(cfg.paths.cache_dir).expanduser(),
        key,
        lambda: measured_rates(
            parts, shape, material.tasks, features=material.shape.hidden, start=start, load=material.load, clock=clock
        ),
        again=cfg.plan.again,
    )


def _print_plan(subject: Subject, cfg: DictConfig) -> None:
    from probes.planning import GPUS

    found = numbers(subject, cfg)
    gpus = int(cfg.plan.gpus)
    each = "one job each" if cfg.plan.gpus_per_job == 1 else f"{cfg.plan.gpus_per_job} a job"
    where = f"{gpus} × {cfg.plan.gpu}, {each}" if gpus else "one process of this machine"
    memory = "of each GPU" if gpus else "of this process, beside about 1 GB of libraries"
    if gpus and found["memory_bytes"] > (limit := GPUS[cfg.plan.gpu].memory_bytes):
        memory += f", which has {limit / _GB:.0f}: set `extraction.tokens_per_batch`, `tuning` or `plan.gpu`"
    lines = [
        f"{found['tasks']} tasks, {found['texts']:,} texts, {found['tokens']:,} tokens; {subject.shape.name}: "
        f"{subject.shape.weight_bytes / _GB:.2f} GB of weights, {subject.shape.layers} layers",
        f"{found['jobs']} jobs, {found['models_tuned']} models tuned" if len(subject.jobs) > 1 else "1 job",
        f"tokens      {found['tokens_read']:,} read, {found['tokens_tuned']:,} in tuning steps, "
        f"{found['tokens_generated']:,} generated",
        f"operations  {found['flop']:.3g} FLOP",
        f"disk        {found['stored_bytes'] / _GB:.2f} GB written to the cache",
        "network     " + ", ".join(f"{size / _GB:.2f} GB {name}" for name, size in found["network_bytes"].items()),
        f"memory      {found['memory_bytes'] / _GB:.2f} GB {memory}",
        f"time        {_duration(found['hours'])} on {where}",
        f"of which    {_parts(found)}" + (", in all jobs together" if gpus else ""),
        *(f"Assumed: {sentence}" for sentence in found["assumptions"]),
    ]  # fmt: skip
    sys.stdout.write("\n".join(lines) + "\n")


def _parts(found: dict[str, Any]) -> str:
    parts = found["seconds_by_part"].items()
    return ", ".join(f"{part} {_duration(seconds / 3600)}" for part, seconds in parts if seconds >= 0.05)


def _print_jobs(subject: Subject, cfg: DictConfig) -> None:
    from probes.planning.rates import loads_of

    rates, layers = subject.rates, subject.shape.layers
    sys.stdout.write(f"{'job':>4}  {'stage':<8}{'model':<28}{'tokens':>14}{'FLOP':>11}{'written':>11}{'hours':>10}\n")
    for number, job in enumerate(subject.jobs):
        apart = len(subject.jobs) > 1
        loads, gpus = loads_of(job, apart=apart), int(cfg.plan.gpus_per_job)
        seconds = rates.start + sum(rates.seconds(job, layers, loads=loads, gpus=gpus).values())
        tokens = job.read.tokens + job.tuning.tokens
        sys.stdout.write(
            f"{number:>4}  {job.stage:<8}{job.model:<28}{tokens:>14,}{job.flop:>11.2e}"
            f"{job.stored_bytes / _GB:>8.2f} GB{seconds / 3600:>10.3f}\n"
        )
    _print_plan(subject, cfg)


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 0.05 else f"{3600 * hours:.1f} s"
