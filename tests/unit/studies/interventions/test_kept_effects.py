"""What is kept of a model's answers belongs to the tokens that it read, whatever the texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from probes.answers import LanguageModel, Questions
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.interventions import TunedLensSettings
from probes.studies import ErasureSettings, HeadSettings, SteeringSettings
from probes.studies.interventions.answered import AnsweredTask, kept_arrays
from probes.studies.interventions.erasure import TaskErasure
from probes.studies.interventions.heads import HeadMasks
from probes.studies.interventions.lensing import Lenses
from probes.studies.interventions.steering import TaskSteering
from probes.tasks import Split, Task

PROMPTS = tuple(f"It is {number}.\nOdd or even?" for number in range(6))
LABELS = ("even", "odd")
TUNED = TunedLensSettings(texts=12, tokens=60, held_out_tokens=60, steps=2, batch_tokens=16, check_every=2)


def language_model(*, chat: bool) -> LanguageModel:
    """The same weights, whether prompts are rendered as turns of a chat or not."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}[user] {{ message['content'] }} [assistant]{% endfor %}"
    model = tiny_backbone(hidden_size=8, num_layers=1).load_with_head()
    assert isinstance(model, LlamaForCausalLM)
    backbone = FrozenBackbone(model.model, tokenizer, name="tiny", chat_template=chat, with_head=lambda: model)
    return LanguageModel.of(backbone)


def answered(lm: LanguageModel) -> AnsweredTask:
    numbers = [number % 2 for number in range(len(PROMPTS))]
    rows = Split(PROMPTS, numbers, tuple(LABELS[number] for number in numbers))
    task = Task("parity", "classification", LABELS, dict.fromkeys(("train", "validation", "test"), rows))
    return AnsweredTask.of(task, lm.backbone, tokens_per_batch=1024)


def erased(lm: LanguageModel, cache: Path) -> list[np.ndarray]:
    settings = ErasureSettings(erasers=("leace",), from_layer_on=(), every=1, random_subspaces=2, collateral_rows=4)
    task = TaskErasure(lm, answered(lm), {}, {}, settings, kept_arrays(lm, cache), 0)
    return [task.unedited()["test"], task.at(0)["alone/leace"], task.at(0)["text"]]


def steered(lm: LanguageModel, cache: Path) -> list[np.ndarray]:
    settings = SteeringSettings(directions=("mean_difference",), random_directions=2)
    task = TaskSteering(lm, answered(lm), None, settings, kept_arrays(lm, cache), 0)
    return [task.unedited()["content_free"], task.at(1)["mean_difference"]]


def masked(lm: LanguageModel, cache: Path) -> list[np.ndarray]:
    masks = HeadMasks.of(lm, "boxes", HeadSettings(train=4, test=4), kept_arrays(lm, cache), 0)
    return [profile.estimates.values for profile in islice(masks.profiles(), 2)]


def looked_at(lm: LanguageModel, cache: Path) -> list[np.ndarray]:
    train = [f"A text of {number} for training" for number in range(12)]
    lenses = Lenses(lm, (0, 1), kept_arrays(lm, cache), 0, TUNED, train, PROMPTS)
    translators = lenses.translators()
    assert translators is not None
    return [translators.biases.numpy(), lenses.on_held_out()["unigram"]]


@pytest.mark.parametrize("results", [erased, steered, masked, looked_at])
def test_results_after_other_tokens_of_the_same_texts_are_computed_anew(
    results: Callable[[LanguageModel, Path], list[np.ndarray]], tmp_path
):
    plain = results(language_model(chat=False), tmp_path / "shared")
    chat = results(language_model(chat=True), tmp_path / "shared")
    anew = results(language_model(chat=True), tmp_path / "fresh")
    for before, found, wanted in zip(plain, chat, anew, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert not np.array_equal(before, found)


def test_what_a_model_reads_of_training_test_and_content_free_prompts_names_its_answers():
    own, chat = (answered(language_model(chat=chat)) for chat in (False, True))
    changed = Questions.of([[1, 2]] * len(PROMPTS), [[[0]]] * len(PROMPTS))
    keys = [own.key, chat.key]
    keys += [replace(own, **{part: changed}).key for part in ("train", "test", "content_free")]
    assert len(set(keys)) == 5
    assert answered(language_model(chat=False)).key == own.key
