"""Texts become token ids that keep a prompt's end, and batches that are padded on the right."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import tiny_model
from tokenizers.processors import TemplateProcessing

from probes.backbones import FrozenBackbone
from probes.backbones.tiny import byte_tokenizer
from probes.backbones.token_batches import Tokenizer, longest_input, pad_right, text_id

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_special_tokens():
    tokenizer = byte_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="a $A b", special_tokens=[("a", 64), ("b", 65)])
    return tokenizer


def test_a_long_text_keeps_its_end_and_its_special_tokens():
    tokenizer = Tokenizer(with_special_tokens(), max_length=6)
    whole = Tokenizer(with_special_tokens(), max_length=100)(["Is it 42?"])
    cut = tokenizer(["Is it 42?"])
    assert cut.ids[0].tolist() == [64, *whole.ids[0].tolist()[-5:-1], 65]
    assert (cut.num_cut, cut.num_tokens_cut) == (1, 5)
    assert (whole.num_cut, whole.num_tokens_cut) == (0, 0)


def test_cutting_one_text_leaves_the_next_call_uncut():
    tokenizer = Tokenizer(byte_tokenizer(), max_length=50)
    tokenizer(["abcdefgh"], max_length=3)
    assert len(tokenizer(["abcdefgh"]).ids[0]) == 8


def test_text_ids_depend_on_token_ids_alone():
    ids = Tokenizer(byte_tokenizer(), max_length=4)(["no yes", "oh yes", "yes!", "no yes"]).text_ids
    assert ids[0] == ids[1] == ids[3] != ids[2]  # cut to " yes", all but one
    assert text_id(np.array([1, 23])) != text_id(np.array([12, 3]))


def test_the_error_for_an_empty_text_tells_its_number():
    with pytest.raises(ValueError, match=r"1 of 2 texts have no tokens; the first is text 2 \(''\)"):
        Tokenizer(byte_tokenizer(), max_length=9)(["fine", ""])


def test_a_chat_template_writes_its_own_special_tokens_once():
    inner = with_special_tokens()
    inner.chat_template = CHAT
    chat = Tokenizer(inner, max_length=100, chat_template=True)(["hi"])
    plain = Tokenizer(byte_tokenizer(), max_length=100)(["<user>hi<assistant>"])
    assert chat.ids[0].tolist() == plain.ids[0].tolist()
    with pytest.raises(ValueError, match=r"no chat template\. Set `backbone\.chat_template=false`"):
        Tokenizer(byte_tokenizer(), max_length=100, chat_template=True)


def test_padding_is_on_the_right_and_masked():
    ids, mask = pad_right([np.array([5]), np.array([6, 7])], length=3, pad_id=9)
    assert ids.tolist() == [[5, 9, 9], [6, 7, 9]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 0]]


def test_roberta_loses_the_positions_up_to_its_pad_id():
    tokenizer = byte_tokenizer()
    assert longest_input(tokenizer, tiny_model("bert")) == 130
    assert longest_input(tokenizer, tiny_model("roberta")) == 128
    assert longest_input(tokenizer, tiny_model("t5")) == tokenizer.model_max_length


@pytest.mark.parametrize("family", ["roberta", "bert", "gpt2", "opt", "bart"])
def test_a_text_of_the_greatest_length_can_be_run(family: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer(), decoder_input="text")
    ids = backbone.tokenize(["x" * 500]).ids
    assert len(ids[0]) == backbone.tokenizer.max_length
    backbone(*pad_right(ids, length=len(ids[0]), pad_id=backbone.pad_id), readings=backbone.readings("last"))


def test_a_tokenizer_without_a_pad_token_pads_with_id_zero():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    backbone = FrozenBackbone(tiny_model("gpt2"), tokenizer)
    assert backbone.pad_id == 0
    readings = backbone.readings(["last", "mean", "max"])
    ids = backbone.tokenize(["a", "longer text"]).ids
    together = backbone(*pad_right(ids, length=11, pad_id=backbone.pad_id), readings=readings)
    alone = backbone(*pad_right(ids[:1], length=1, pad_id=backbone.pad_id), readings=readings)
    for reading in readings:
        np.testing.assert_allclose(together[reading][:, 0], alone[reading][:, 0], rtol=1e-4, atol=1e-5)


def test_many_texts_are_tokenized_as_each_text_alone():
    tokenizer = Tokenizer(byte_tokenizer(), max_length=6)
    texts = [f"text {i}" for i in range(2100)]
    together = tokenizer(texts)
    rows = [0, 9, 10, 1023, 1024, 2047, 2048, 2099]
    assert [together.text_ids[i] for i in rows] == [tokenizer([texts[i]]).text_ids[0] for i in rows]
    assert len(together.ids) == 2100
    assert together.num_cut == 2090
    assert together.num_tokens_cut == sum(len(text) - 6 for text in texts)


def test_the_number_of_an_empty_text_counts_across_chunks():
    with pytest.raises(ValueError, match=r"1 of 1501 texts have no tokens; the first is text 1501 \(''\)"):
        Tokenizer(byte_tokenizer(), max_length=9)([*map(str, range(1500)), ""])
