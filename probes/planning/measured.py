"""A short benchmark of this machine: the rates at which a plan is priced, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.activations.batches import Batch, plan_batches, token_budget
from probes.analysis import LayerAnalysis
from probes.answers import Example, end_token
from probes.answers.answer_model import AnswerModel
from probes.answers.greedy import greedy_answers
from probes.backbones import FrozenBackbone
from probes.kept_files import read_sealed_json, write_sealed_json
from probes.planning.model_shape import ModelShape
from probes.planning.rates import Rates
from probes.planning.texts import Texts
from probes.trainers import TrainerFactory
from probes.training import LabelledActivations, ProbeSettings, TaskData, fit_task
from probes.tuning import TuningExamples, TuningSettings, encode_splits
from probes.tuning.adapters import make_trainable, quiet_tuning
from probes.tuning.tuning_job import fit_model
from probes.values import Activations, Reading

_log = logging.getLogger(__name__)

Clock = Callable[[], float]

_BATCHES = 6
"""Batches of the plan that passes are timed on, evenly spaced."""
_STEPS = 3
"""Tuning steps that are timed, after one that is not."""
_LAYERS = 3
"""Layers of the probes that are timed."""
_ROWS = 1000
"""Most rows of a split of theirs; what more rows take is in proportion."""
_FORMAT = 2


def seconds_since_start() -> float:
    """Seconds since this process was started; on systems that do not tell, those of its own processor time."""
    with suppress(OSError, ValueError, IndexError):
        started = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return up - started / os.sysconf("SC_CLK_TCK")
    return time.process_time()


def machine_key(backbone: FrozenBackbone, **of_run: object) -> str:
    """What rates depend on: the machine, the number of threads, the model's sizes, and the run's own sizes."""
    about = {
        "format": _FORMAT,
        "host": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(backbone.device),
        "dtype": str(backbone.dtype),
        "model": [backbone.name, backbone.num_layers, backbone.hidden_size],
        "torch": torch.__version__,
    }
    return json.dumps(about | of_run, sort_keys=True, default=str)


def kept_rates(folder: Path, key: str, measure: Callable[[], Rates], *, again: bool = False) -> Rates:
    """The rates that were measured before under the same key, else new ones.

    Args:
        folder: Of the cache; rates are kept in its `rates`.
        key: `machine_key`.
        measure: Measures them.
        again: Measure in any case.
    """
    path = folder / "rates" / f"{hash_of(key):016x}.json"
    if not again and (kept := read_sealed_json(path, key=key, remedy="The rates are measured again.")) is not None:
        kept["fit"] = {int(classes): seconds for classes, seconds in kept["fit"].items()}
        return Rates(**kept)
    rates = measure()
    with suppress(OSError):  # a cache that cannot be written
        write_sealed_json(path, asdict(rates), key=key)
    return rates


def hash_of(key: str) -> int:
    """A number of 64 bits that names a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def measure_passes(
    backbone: FrozenBackbone, shape: ModelShape, texts: Sequence[str], settings: ExtractionSettings, clock: Clock
) -> float:
    """Operations per second of an extraction by one process, writing included, over batches as it would form them."""
    settings = replace(settings, workers=1)
    tokenized = backbone.tokenize(texts, max_length=settings.max_length)
    lengths = [len(ids) for ids in tokenized.ids]
    budget = token_budget(backbone, settings.tokens_per_batch, longest=max(lengths))
    batches = plan_batches(lengths, tokens_per_batch=budget, limit=backbone.tokenizer.max_length)
    spaced = np.linspace(0, len(batches) - 1, min(_BATCHES, len(batches))).round().astype(int)
    chosen: list[Batch] = [batches[i] for i in dict.fromkeys(spaced.tolist())]
    sample = backbone.tokenize([texts[i] for batch in chosen for i in batch.texts], max_length=settings.max_length)
    warm = backbone.tokenize([texts[chosen[-1].texts[0]]], max_length=settings.max_length)
    with tempfile.TemporaryDirectory() as folder:
        for name, tokens in (("warm", warm), ("timed", sample)):
            stores = open_stores(backbone, settings, Path(folder, name))
            start = clock()
            fill_stores(backbone, tokens, stores, settings)
            seconds = clock() - start
    different = dict(zip(sample.text_ids, sample.ids, strict=True)).values()
    return shape.forward_flop(Texts.of(map(len, different))) / seconds


def measure_tuning(
    backbone: FrozenBackbone,
    shape: ModelShape,
    examples: TuningExamples,
    settings: TuningSettings,
    trainer: TrainerFactory,
    clock: Clock,
) -> tuple[float, float, float]:
    """Operations per second of tuning steps, tokens per second of greedy answers, and seconds to load with the head."""
    start = clock()
    model = backbone.load_with_head()
    load = clock() - start
    few = replace(settings, max_steps=_STEPS + 1, max_epochs=_STEPS + 1, checkpoint_every_n_steps=None, patience=None)
    data = encode_splits("rates", backbone, {"train": examples}, few)
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and backbone.dtype == torch.bfloat16)
    steps = _TimedSteps(clock)
    with quiet_tuning(), tempfile.TemporaryDirectory() as folder:
        make_trainable(model, settings, seed=0)
        answers = AnswerModel(model, autocast=half)
        fit_model(answers, data, few, trainer=trainer, seed=0, checkpoint=Path(folder, "ckpt"), callbacks=[steps])
    timed = steps.timed[1:]
    whole = Texts.of(row.num_inputs for _, rows in timed for row in rows)
    scored = sum(len(row.answer) for _, rows in timed for row in rows)
    flop = shape.tuning_flop(whole, scored=scored, all_weights=settings.method == "full")
    model.eval()
    prompts = [row.prompt for row in data["train"][:8]]
    new = min(8, settings.max_new_tokens)
    start = clock()
    with torch.no_grad():
        generated = greedy_answers(
            answers, prompts, end_id=end_token(backbone), max_new_tokens=new, longest=backbone.tokenizer.max_length,
            tokens_per_batch=settings.micro_batch_tokens,
        )  # fmt: skip
    tokens = sum(min(new, len(answer) + 1) for answer in generated)
    return flop / sum(seconds for seconds, _ in timed), tokens / (clock() - start), load


class _TimedSteps(Callback):
    """The seconds and the rows of each step."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self._start = clock, 0.0
        self.timed: list[tuple[float, Sequence[Example]]] = []

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._start = self._clock()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.timed.append((self._clock() - self._start, batch))


def measure_probes(
    features: int,
    rows: dict[str, int],
    classes: int,
    settings: ProbeSettings,
    trainer: TrainerFactory,
    analysis: LayerAnalysis,
    clock: Clock,
) -> tuple[float, float]:
    """Seconds of one layer of a task of drawn activations: to train and score its probes, and to measure it without."""
    data = drawn_task(features, {split: min(_ROWS, number) for split, number in rows.items()}, classes)
    larger, test = max(1.0, rows["train"] / _ROWS), data.test.activations
    start = clock()
    fit_task(data, settings, trainer, seed=0)
    fit = (clock() - start) / _LAYERS
    start = clock()
    assert isinstance(test, Activations)
    analysis.add("drawn", test, data.test.targets)
    return larger * fit, max(1.0, rows["test"] / _ROWS) * (clock() - start) / _LAYERS


def drawn_task(features: int, rows: dict[str, int], classes: int) -> TaskData:
    """A task whose classes have means that differ, as those of real tasks do, in activations of different sizes."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.linspace(2, -2, features).exp()
    means = 0.3 * sizes * torch.randn(classes, features, generator=draw)
    reading = Reading("decoder", "residual", "last")
    layers = tuple(range(_LAYERS))
    splits = {}
    for split, number in rows.items():
        labels = torch.arange(number) % classes
        values = means[labels] + sizes * torch.randn(_LAYERS, number, features, generator=draw)
        names = tuple(f"{split} {row}" for row in range(number))
        splits[split] = LabelledActivations(Activations(values, layers, names, reading), labels)
    return TaskData(task="drawn", kind="classification", labels=tuple(map(str, range(classes))), **splits)
