"""Texts that a tokenizer or a model cannot take, and weights that are not finite, are named before the first pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from study_samples import toy_suite
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probes.activations import ExtractionSettings
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.studies.suite_activations import read_suite
from probes.tasks import Suite
from probes.tasks.build import build_task
from probes.tasks.task import RawTask


def word_level(*words: str, unknown: str | None = None) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, **({} if unknown is None else {"unk_token": unknown})))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown, model_max_length=128)


def characters(*known: str) -> PreTrainedTokenizerFast:
    """A BPE tokenizer without merges, which leaves out every other character without a word."""
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(known)}, merges=[]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128)


def with_text(text: str) -> Suite:
    """A suite whose task b has this text as the third row of its test split."""
    suite = toy_suite()
    changed = []
    for task in suite.tasks:
        if task.name == "b":
            test = task.splits["test"]
            prompts = (*test.prompts[:2], text, *test.prompts[3:])
            task = replace(task, splits={**task.splits, "test": replace(test, prompts=prompts)})
        changed.append(task)
    return Suite(suite.name, tuple(changed))


def refused(backbone: FrozenBackbone, suite: Suite, tmp_path, message: str) -> None:
    """Reading the suite is refused with the message before the model is run."""
    passes = []
    backbone.model.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match=message):
        read_suite(suite, backbone, ExtractionSettings(), tmp_path)
    assert not passes
    assert not list(tmp_path.rglob("*.safetensors"))


def test_half_of_a_surrogate_pair_is_named_by_task_and_text(tmp_path):
    message = r"Task 'b', split 'test': text 3 \('a\\ud800b'\) .*half of a surrogate pair"
    refused(tiny_backbone(), with_text("a\ud800b"), tmp_path, message)
    read_suite(with_text("a\U00010000b"), tiny_backbone(), ExtractionSettings(), tmp_path)


def test_half_of_a_surrogate_pair_in_a_row_of_any_source_is_named_by_row():
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(20)]
    splits = {"train": rows, "validation": rows[:4], "test": [*rows[:5], {"text": "a\udfff", "label": 0}]}
    with pytest.raises(
        ValueError, match=r"task 'mine', split 'test', row 6 holds half of a surrogate pair.*character 2"
    ):
        build_task(RawTask(name="mine", rows=splits), lambda row: row["text"])


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [(word_level("one", "two"), "one three two"), (characters(*"abc "), "abc xyz"), (characters(*"abc "), "Ab")],
    ids=["words", "characters", "capital"],
)
def test_a_tokenizer_without_unknown_token_that_meets_one_is_named_by_text(tokenizer, text):
    backbone = FrozenBackbone(tiny_model("llama"), tokenizer)
    good = tokenizer.decode([0, 1])
    assert len(backbone.tokenize([good]).ids) == 1
    with pytest.raises(ValueError, match=r"text 1202 \('.*no token for, and it has no unknown token.*Set|`backbone`"):
        backbone.tokenize([*[good] * 1201, text])


def test_the_error_of_an_unknown_token_names_the_task(tmp_path):
    known = sorted(
        {word for task in toy_suite().tasks for s in task.splits.values() for p in s.prompts for word in p.split()}
    )
    refused(
        FrozenBackbone(tiny_model("llama"), word_level(*known)), with_text("newword"), tmp_path,
        r"Task 'b', split 'test': text 3 \('newword'\).*no unknown token",
    )  # fmt: skip


def test_a_tokenizer_with_unknown_token_goes_on():
    backbone = FrozenBackbone(tiny_model("llama"), word_level("one", "unk", unknown="unk"))
    assert backbone.tokenize(["one three"]).ids[0].tolist() == [0, 1]


def test_a_tokenizer_of_bytes_is_not_searched_for_omissions():
    assert not tiny_backbone().tokenizer._may_omit
    assert FrozenBackbone(tiny_model("llama"), characters("a")).tokenizer._may_omit


def test_token_ids_without_embedding_are_named_by_task_and_text(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["extra"])
    backbone = FrozenBackbone(tiny_model("llama"), tokenizer)
    message = r"Task 'b', split 'test': text 3 \('an extra'\) has the token id 257, .*ids 0 to 256 only"
    refused(backbone, with_text("an extra"), tmp_path, message)


def test_a_pad_token_without_embedding_is_not_fed_to_the_model(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<other pad>"})
    backbone = FrozenBackbone(tiny_model("llama"), tokenizer)
    assert tokenizer.pad_token_id == 257
    assert backbone.pad_id == 0
    read_suite(toy_suite(), backbone, ExtractionSettings(), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj.weight", "embed_tokens.weight", "norm.weight"])
def test_one_weight_that_is_not_finite_is_named_also_if_only_a_rare_token_uses_it(name, value):
    model = tiny_model("llama")
    FrozenBackbone(model, byte_tokenizer())
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value
    pattern = rf"Weights of 'mine' are NaN or infinite: {name.replace('.', r'[.]')} \(1 of [\d,]+ entries\)"
    with pytest.raises(ValueError, match=pattern):
        FrozenBackbone(model, byte_tokenizer(), name="mine")


def test_of_many_weights_that_are_not_finite_five_are_named():
    model = tiny_model("llama")
    with torch.no_grad():
        for weight in model.parameters():
            weight.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=r"embed_tokens\.weight .* and \d+ others"):
        FrozenBackbone(model, byte_tokenizer())


def test_finite_weights_that_overflow_are_told_from_damaged_ones():
    model = tiny_model("llama")
    with torch.no_grad():
        model.layers[0].mlp.down_proj.weight[:] = 3e38
    with pytest.raises(ValueError, match=r"computes NaN for three tokens at layers \[.*weights are finite"):
        FrozenBackbone(model, byte_tokenizer())
