"""A model whose whole history is known: does the study find in its layers what it was taught, and no more?

A Llama of four blocks, with words for tokens, is trained from scratch on the prompts of two starter tasks, which ask
about the same kind of sentence: those of `sentence_length` with the right answers, those of `word_content` without.
Two twins of it are then tuned on the answers of both tasks, all weights: one on the right answers, one on the same
answers shuffled over the rows. A control model of each task is tuned on its right answers alone.

Not among the benchmarks that `run_all.py` runs, as it measures no time. It takes one to three minutes on one core,
prints what it finds, and draws `layer_by_layer_planted_history.png` in the folder `--figures`.
"""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

import probes
from probes.analysis import confidence_interval, tuning_gain
from probes.analysis.between_tasks.tuning_gain import paired_difference
from probes.backbones import FrozenBackbone, ReadableBackbone
from probes.report import save_png
from probes.tasks import Suite, Task, starter_suite
from probes.trainers import default_trainer
from probes.training import TaskProbes
from probes.tuning import TunedBackbone, TuningExamples, TuningSettings, tune
from probes.values import SPLITS, Activations, Estimates

TAUGHT, UNTAUGHT = "sentence_length", "word_content"
"""The task whose answers the base was trained on, and the one of which it has read the prompts alone."""
RIGHT, SHUFFLED = "tuned on right answers", "tuned on shuffled answers"
PAD, END = 1, 2
TUNING = TuningSettings(method="full", learning_rate=2e-3, max_epochs=4, batch_size=32, generate_rows=0)


@dataclass(frozen=True)
class Found:
    """What the study finds of one task, over layers.

    Attributes:
        macro_f1: Model → score of its probes on test rows.
        probe_gain: Twin → the same less that of the base, errors paired.
        tuning_gain: Twin → CKA of the control with the twin less that with the base.
        cka: CKA of the control with the base.
    """

    macro_f1: Mapping[str, Estimates]
    probe_gain: Mapping[str, Estimates]
    tuning_gain: Mapping[str, Estimates]
    cka: Estimates


def main(figures: Path, epochs: int) -> None:
    hf_logging.set_verbosity_error()  # a tuned model is read without its head, which transformers reports
    suite = planted_suite()
    base = train_from_scratch(suite, epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        tuned = partial(tuned_model, base, cache=Path(folder))
        twins = {
            RIGHT: tuned("twin", suite.tasks),
            SHUFFLED: tuned("shuffled", [with_shuffled_answers(task) for task in suite.tasks]),
        }
        found = {task.name: study(task, base, twins, tuned(task.name, [task], seed=1)) for task in suite.tasks}
    for task, findings in found.items():
        show(task, findings)
    print(f"picture: {save_png(draw(found), figures / 'layer_by_layer_planted_history.png')}")


def planted_suite() -> Suite:
    """Two tasks about sentences of one kind, with questions that hold no answer, unlike those of the starter suite."""
    questions = {TAUGHT: "How long ?", UNTAUGHT: "Which word ?"}
    suites = [starter_suite([task], template=f"{{text}} {question}") for task, question in questions.items()]
    return Suite("planted", tuple(task for suite in suites for task in suite.tasks))


def train_from_scratch(suite: Suite, *, epochs: int) -> FrozenBackbone:
    """Train on next tokens: the prompts of both tasks, those of one followed by their answers."""
    tokenizer = word_tokenizer(suite)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    texts = []
    for task in suite.tasks:
        train = task.splits["train"]
        ends = [f" {answer} <end>" if task.name == TAUGHT else "" for answer in train.targets]
        texts += [prompt + end for prompt, end in zip(train.prompts, ends, strict=True)]
    rows = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    for epoch in range(epochs):
        losses = []
        for batch in torch.randperm(len(rows)).split(32):
            ids = pad_sequence([rows[i] for i in batch.tolist()], batch_first=True, padding_value=PAD)
            logits = model(ids).logits[:, :-1]  # right padding, so a causal model needs no mask
            loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: {np.mean(losses):.3f} nats per token", flush=True)
    model.eval()
    return FrozenBackbone(model, tokenizer, name="planted", with_head=lambda: copy.deepcopy(model))


def word_tokenizer(suite: Suite) -> PreTrainedTokenizerFast:
    """A token for each word and punctuation mark of a suite."""
    splitter = pre_tokenizers.Whitespace()
    splits = [split for task in suite.tasks for split in task.splits.values()]
    texts = [text for split in splits for text in (*split.prompts, *split.targets)]
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: number for number, word in enumerate(["<unknown>", "<pad>", "<end>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = splitter  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unknown>", pad_token="<pad>", eos_token="<end>", model_max_length=128
    )


def with_shuffled_answers(task: Task) -> dict[str, TuningExamples]:
    """Every answer as often as before, and none of them about its prompt."""
    examples = answers_of(task)
    draw = random.Random(f"shuffled {task.name}")
    return {
        split: TuningExamples(rows.prompts, tuple(draw.sample(rows.targets, len(rows))))
        for split, rows in examples.items()
    }


def answers_of(task: Task) -> dict[str, TuningExamples]:
    return {split: TuningExamples(rows.prompts, rows.targets) for split, rows in task.splits.items()}


def tuned_model(
    base: FrozenBackbone, name: str, data: list[Task | dict[str, TuningExamples]], *, cache: Path, seed: int = 0
) -> TunedBackbone:
    parts = [answers_of(part) if isinstance(part, Task) else part for part in data]
    examples = {
        split: TuningExamples(
            tuple(prompt for part in parts for prompt in part[split].prompts),
            tuple(target for part in parts for target in part[split].targets),
        )
        for split in SPLITS
    }
    model = tune(name, base, examples, TUNING, trainer=default_trainer, seed=seed, cache_dir=cache)
    print(f"{name}: test loss {model.base.test_loss:.2f} → {model.tuned.test_loss:.2f} nats per token of the answers")
    return TunedBackbone(base, model, cache)


def study(task: Task, base: FrozenBackbone, twins: Mapping[str, TunedBackbone], control: TunedBackbone) -> Found:
    read = {name: read_splits(task, model) for name, model in {"base": base, **twins}.items()}
    scores = {name: probe(task, rows).profile("macro_f1").estimates for name, rows in read.items()}
    of_control = probes.extract(control, task.splits["test"].prompts).values
    ckas = {twin: tuning_gain(of_control, read[twin]["test"].values, read["base"]["test"].values) for twin in twins}
    return Found(
        scores,
        {twin: paired_difference(scores[twin], scores["base"]) for twin in twins},
        {twin: cka["tuning_gain"] for twin, cka in ckas.items()},
        ckas[RIGHT]["cka/control_vs_base"],
    )


def read_splits(task: Task, model: ReadableBackbone) -> dict[str, Activations]:
    return {split: probes.extract(model, rows.prompts) for split, rows in task.splits.items()}


def probe(task: Task, rows: Mapping[str, Activations]) -> TaskProbes:
    values = {split: activations.values for split, activations in rows.items()}
    labels = {split: torch.tensor(task.splits[split].labels) for split in rows}
    return probes.fit_probes(
        values["train"], labels["train"], layers=rows["train"].layers, x_validation=values["validation"],
        y_validation=labels["validation"], x_test=values["test"], y_test=labels["test"],
    )  # fmt: skip


def show(task: str, found: Found) -> None:
    print(f"\n{task}, layers 0 to {len(found.cka.values) - 1}: value [95 %]")
    for name, estimates in found.macro_f1.items():
        print(f"  macro-F1, {name}: {written(estimates)}")
    print(f"  CKA of control and base: {written(found.cka)}")
    for twin in found.tuning_gain:
        print(f"  probe gain, {twin}: {written(found.probe_gain[twin])}")
        print(f"  tuning gain, {twin}: {written(found.tuning_gain[twin])}")


def written(estimates: Estimates) -> str:
    low, high = interval(estimates)
    return "  ".join(f"{value:.2f} [{a:.2f}, {b:.2f}]" for value, a, b in zip(estimates.values, low, high, strict=True))


def interval(estimates: Estimates) -> tuple[np.ndarray, np.ndarray]:
    if estimates.interval is not None:
        return estimates.interval[0], estimates.interval[1]
    assert estimates.errors is not None
    return confidence_interval(estimates.values, estimates.errors)


def draw(found: Mapping[str, Found]) -> Figure:
    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    for row, (task, findings) in zip(figure.subplots(2, 2, sharex=True), found.items(), strict=True):
        draw_curves(row[0], findings.macro_f1, f"{task}: macro-F1")
        draw_curves(row[1], findings.tuning_gain, f"{task}: tuning gain (CKA)")
        row[1].axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        for axes in row:
            axes.set_xlabel("layer (0 = input of the first block)", fontsize=8)
    return figure


def draw_curves(axes: Axes, curves: Mapping[str, Estimates], title: str) -> None:
    colours = {"base": "#444444", RIGHT: "#0072b2", SHUFFLED: "#d55e00"}
    for name, estimates in curves.items():
        layers, (low, high) = range(len(estimates.values)), interval(estimates)
        axes.fill_between(layers, low, high, color=colours[name], alpha=0.2, linewidth=0)
        axes.plot(layers, estimates.values, color=colours[name], marker="o", markersize=3, label=name)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(next(iter(curves.values())).values)))
    axes.legend(fontsize=7, frameon=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, default=Path("outputs"), help="folder of the picture")
    parser.add_argument("--epochs", type=int, default=8, help="passes of the training from scratch")
    arguments = parser.parse_args()
    main(arguments.figures, arguments.epochs)
