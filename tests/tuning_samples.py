"""A toy task for a tiny model, its examples as token ids, and a tiny model with adapters."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from probes.answers import Example
from probes.answers.answer_model import AnswerModel
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.tuning import TuningExamples, TuningSettings
from probes.tuning.adapters import make_trainable
from probes.tuning.examples import encode_splits

WORDS = {"cat": "yes", "dogs": "no", "a bird": "no"}


def toy_examples(rows: int, seed: int) -> TuningExamples:
    draw = random.Random(seed)
    words = [draw.choice(list(WORDS)) for _ in range(rows)]
    return TuningExamples(tuple(f"{word} {'so' * draw.randint(0, 3)}:" for word in words), tuple(map(WORDS.get, words)))


def toy_splits(train: int = 40) -> dict[str, TuningExamples]:
    return {"train": toy_examples(train, 0), "validation": toy_examples(20, 1), "test": toy_examples(20, 2)}


def encoded(backbone: FrozenBackbone, rows: int = 12, seed: int = 0) -> tuple[Example, ...]:
    examples = {"train": toy_examples(rows, seed)}
    return encode_splits("toy", backbone, examples, TuningSettings())["train"]


def labelled(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The same batch for transformers' own loss: a mask, and labels that are -100 on prompts and pads."""
    width = max(len(e.prompt) + len(e.answer) for e in examples)
    ids, mask = (torch.zeros(len(examples), width, dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(examples):
        sequence = torch.from_numpy(np.concatenate([prompt, answer])).long()
        ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
        labels[row, len(prompt) : len(sequence)] = sequence[len(prompt) :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def tuned_model(settings: TuningSettings, *, seed: int = 0, moved: bool = False) -> AnswerModel:
    """A tiny model with new adapters; if `moved`, their weights are random and change the outputs."""
    model = tiny_backbone().load_with_head()
    make_trainable(model, settings, seed=seed)
    if moved:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return AnswerModel(model)
