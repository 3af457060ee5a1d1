"""What processes that tune one model together do: `torchrun … rank_tunings.py FOLDER` leaves notes in the folder."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from tuning_samples import toy_splits

from probes.answers.answer_model import AnswerModel
from probes.backbones import tiny_backbone
from probes.trainers import default_trainer
from probes.tuning import InstructionTuner, TuningExamples, TuningSettings, tune, tuning_job
from probes.tuning.ranks import Ranks

SETTINGS = TuningSettings(
    learning_rate=1e-2, max_steps=6, batch_size=7, rank=4, dropout=0.0, generate_rows=5, max_new_tokens=4,
    micro_batch_tokens=20, validate_every_n_steps=2, gradient_clip_norm=0.5,
)  # fmt: skip
DATA = toy_splits(train=20)  # the third step of an epoch has 6 rows
FEW = DATA | {"train": TuningExamples(DATA["train"].prompts[:4], DATA["train"].targets[:4])}
WORSENS = DATA | {"validation": TuningExamples(DATA["validation"].prompts, ("zebra",) * 20)}
PATIENT = replace(SETTINGS, patience=2, max_steps=20, max_epochs=10, validate_every_n_steps=1, schedule="constant")
CASES: dict[str, tuple[TuningSettings, dict[str, TuningExamples]]] = {
    "plain": (SETTINGS, DATA),
    "fewer rows than ranks": (replace(SETTINGS, batch_size=3, max_steps=4), FEW),
    "patience": (PATIENT, WORSENS),
    "all weights": (replace(SETTINGS, method="full", learning_rate=1e-3), DATA),
}
SHARDED = ("lora", "dora", "ia3", "ln")


def of_method(method: str) -> TuningSettings:
    """Settings under which each method changes the tiny model."""
    more = {"ia3": {"target_modules": ("k_proj", "down_proj"), "learning_rate": 0.1}, "ln": {"learning_rate": 0.1}}
    return replace(SETTINGS, method=method, **more.get(method, {}))


def tuned(folder: Path, settings: TuningSettings, data: dict[str, TuningExamples], **trainer: Any) -> dict[str, Any]:
    """Tune the tiny model; what a test compares, apart from its weights."""
    factory = partial(default_trainer, **trainer) if trainer else default_trainer
    model = tune("toy", tiny_backbone(), data, settings, trainer=factory, seed=0, cache_dir=folder)
    assert model.folder is not None
    kept = asdict(model)
    return {name: kept[name] for name in ("steps", "validation_losses", "base", "tuned", "reused")} | {
        "folder": str(model.folder)
    }


class KilledError(Exception):
    pass


def killed_and_resumed(folder: Path, **trainer: Any) -> dict[str, Any]:
    steps, step = [], InstructionTuner.training_step

    def noted(self: InstructionTuner, batch: Any) -> None:
        if len(steps) == 4:
            raise KilledError
        steps.append(self.global_step)
        step(self, batch)

    InstructionTuner.training_step = noted
    settings = replace(SETTINGS, checkpoint_every_n_steps=3, dropout=0.3)
    try:
        tuned(folder, settings, DATA, **trainer)
        raise AssertionError("was not killed")
    except KilledError:
        steps.clear()
        result = tuned(folder, settings, DATA, **trainer)
    finally:
        InstructionTuner.training_step = step
    return result | {"steps made": steps}


def out_of_memory(folder: Path, rank: int, **trainer: Any) -> dict[str, Any]:
    """Memory runs out in rank 1 alone, once."""
    calls, forward = [], AnswerModel.forward

    def limited(self: AnswerModel, batch: Any) -> torch.Tensor:
        if rank == 1 and self.training and not calls:
            calls.append(1)
            raise torch.OutOfMemoryError("planted")
        return forward(self, batch)

    AnswerModel.forward = limited
    try:
        return tuned(folder, SETTINGS, DATA, **trainer) | {"ran out": len(calls)}
    finally:
        AnswerModel.forward = forward


def mean_of_means(folder: Path, **trainer: Any) -> dict[str, Any]:
    """The well-known error: each rank normalises by its own answer tokens."""
    accumulate = InstructionTuner._accumulate_share

    def naive(self: InstructionTuner, batch: Any, answer_tokens: int) -> float:
        own = sum(len(example.answer) for example in self.ranks.share(batch))
        return accumulate(self, batch, own * self.ranks.size) * answer_tokens / (own * self.ranks.size)

    InstructionTuner._accumulate_share = naive
    try:
        return tuned(folder, SETTINGS, DATA, **trainer)
    finally:
        InstructionTuner._accumulate_share = accumulate


def sharded(folder: Path, method: str, **trainer: Any) -> dict[str, Any]:
    """Tune with divided weights; a note of how much of the frozen weights of the blocks a rank holds."""
    notes, shard = {}, tuning_job.shard_frozen_weights

    def noted(model: Any, device: torch.device) -> None:
        whole = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and not p.requires_grad)
        shard(model, device)
        ours = [p for name, p in model.named_parameters() if ".layers." in name and not p.requires_grad]
        notes["share"] = sum(p.to_local().numel() for p in ours if isinstance(p, DTensor)) / whole

    tuning_job.shard_frozen_weights = noted
    try:
        return tuned(folder, replace(of_method(method), shard_weights=True), DATA, **trainer) | notes
    finally:
        tuning_job.shard_frozen_weights = shard


def messages() -> dict[str, Any]:
    """What ranks tell each other, without a model."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size())

    def fail() -> None:
        raise ValueError("rank 0 says no")

    try:
        ranks.first(fail)
        error = ""
    except ValueError as raised:
        error = str(raised)
    if ranks.number == 0:  # another job has finished model a after rank 0 looked and before rank 1 did
        found = ranks.agree("a", lambda: "a is finished")
        together = ranks.agree("b", lambda: None)
    else:
        found, together = "", ranks.agree("b", lambda: None)
    return {"error": error, "found": found, "together": together, "total": ranks.total(0.1 + ranks.number)}


def main(folder: Path) -> None:
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    notes: dict[str, Any] = {}
    for name, (settings, data) in CASES.items():
        notes[name] = tuned(folder / name, settings, data, **trainer)
    rank = dist.get_rank()
    notes["found again"] = tuned(folder / "plain", SETTINGS, DATA, **trainer)
    further = replace(SETTINGS, generate_rows=7)
    notes["scored again"] = tuned(folder / "plain", further, DATA, **trainer)
    notes["killed"] = killed_and_resumed(folder / "killed", **trainer)
    notes["not killed"] = tuned(folder / "whole", replace(SETTINGS, dropout=0.3), DATA, **trainer)
    notes["out of memory"] = out_of_memory(folder / "memory", rank, **trainer)
    notes["mean of means"] = mean_of_means(folder / "naive", **trainer)
    for method in SHARDED:
        notes[f"sharded {method}"] = sharded(folder / f"sharded {method}", method, **trainer)
    notes["sharded, scored again"] = tuned(
        folder / "sharded lora", replace(SETTINGS, shard_weights=True, generate_rows=7), DATA, **trainer
    )
    notes["messages"] = messages()
    (folder / f"rank-{rank}.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
