"""Every word gets the tokens that hold its characters, whatever the kind of tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tokenizer_samples import TOKENIZERS, tokenizer_of

from probes.backbones import FrozenBackbone, pad_right
from probes.backbones.alignment import align
from probes.backbones.tiny import byte_tokenizer
from probes.backbones.token_batches import Tokenizer
from probes.tasks import Sentence
from probes.values import Reading

SENTENCES = {
    "plain": ["the", "cat", "sat"],
    "accents": ["naïve", "café", "déjà", "vu"],
    "emoji": ["so", "🙂", "👩‍🚀", "!"],
    "quotes": ["“", "the", "”", "…"],
}


def aligned(kind: str, sentences: list[Sentence], **options):
    tokenizer = Tokenizer(tokenizer_of(kind), max_length=1000)
    return align(tokenizer, [s.text for s in sentences], [s.ranges for s in sentences], **options)


def decoded(kind: str, ids: np.ndarray) -> str:
    return tokenizer_of(kind).decode(ids.tolist(), skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("words", SENTENCES.values(), ids=SENTENCES)
def test_the_tokens_of_each_word_decode_to_the_word(kind: str, words: list[str]):
    sentence = Sentence.of_words(words)
    found = aligned(kind, [sentence])
    kept = found.words[0].tolist()
    assert kept == list(range(len(words)))
    ids, spans = found.tokenized.ids[0], found.tokenized.spans[0]
    if kind == "wordpiece":  # lower case, no accents, unknown characters
        texts = [decoded(kind, ids[first:end]) for first, end in spans]
        assert all(texts)
        assert len(np.unique(spans, axis=0)) == len(words)
    else:
        assert [decoded(kind, ids[first:end]) for first, end in spans] == words


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_of_a_contraction_share_no_token_if_the_tokenizer_divides_them(kind: str):
    sentence = Sentence("I don't.", ("I", "do", "n't", "."), ((0, 1), (2, 4), (4, 7), (7, 8)))
    found = aligned(kind, [sentence])
    tokens = [set(range(first, end)) for first, end in found.tokenized.spans[0].tolist()]
    assert all(tokens)
    assert tokens[0].isdisjoint(tokens[1] | tokens[2] | tokens[3])
    assert len(tokens) == 4


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_without_spaces_between_them_are_found_in_chinese(kind: str):
    sentence = Sentence.of_words(["我", "喜欢", "猫"], joined_by="")
    found = aligned(kind, [sentence])
    spans = found.tokenized.spans[0]
    assert found.words[0].tolist() == [0, 1, 2]
    assert (spans[1:, 0] >= spans[:-1, 0]).all()
    texts = [decoded(kind, found.tokenized.ids[0][first:end]) for first, end in spans]
    if kind == "byte_fallback":
        assert texts == list(sentence.words)
    elif kind == "byte_bpe":  # its first token joins two words, and so belongs to both
        assert all(word in text for word, text in zip(sentence.words, texts, strict=True))
        assert spans[0, 1] > spans[1, 0]


def test_a_word_without_a_token_is_left_out_and_counted():
    sentence = Sentence.of_words(["the", "\u200b", "cat"])  # BERT's normalizer drops the zero-width space
    found = aligned("wordpiece", [sentence])
    assert found.words[0].tolist() == [0, 2]
    assert (found.num_without, found.num_cut) == (1, 0)
    assert aligned("byte_bpe", [sentence]).num_without == 0  # the control: bytes have tokens


def test_words_that_the_limit_cuts_are_left_out_and_counted():
    long, short = Sentence.of_words(["abcdef", "the", "cat"]), Sentence.of_words(["the", "cat"])
    whole = aligned("byte_bpe", [long, short])
    limit = len(whole.tokenized.ids[0]) - 1  # takes one token from the first word
    cut = aligned("byte_bpe", [long, short], max_length=limit)
    assert [words.tolist() for words in whole.words] == [[0, 1, 2], [0, 1]]
    assert [words.tolist() for words in cut.words] == [[1, 2], [0, 1]]
    assert (cut.num_without, cut.num_cut, whole.num_cut) == (0, 1, 0)
    for before, after in zip(whole.tokenized.spans[0][1:], cut.tokenized.spans[0], strict=True):
        ids = cut.tokenized.ids[0][slice(*after)]
        assert ids.tolist() == whole.tokenized.ids[0][slice(*before)].tolist()


def test_special_tokens_belong_to_no_word():
    found = aligned("wordpiece", [Sentence.of_words(["the", "cat"])])
    tokens = {token for first, end in found.tokenized.spans[0].tolist() for token in range(first, end)}
    assert tokens.isdisjoint({0, len(found.tokenized.ids[0]) - 1})


def test_words_are_found_inside_a_chat_template():
    raw = tokenizer_of("byte_bpe")
    raw.chat_template = "{% for m in messages %}<the cat {{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer = Tokenizer(raw, max_length=1000, chat_template=True)
    sentence = Sentence.of_words(["the", "cat"])
    found = align(tokenizer, [sentence.text], [sentence.ranges])
    ids, spans = found.tokenized.ids[0], found.tokenized.spans[0]
    assert [raw.decode(ids[first:end].tolist()).strip() for first, end in spans] == ["the", "cat"]
    assert spans[0, 0] > 3  # not the words of the template


def test_a_slow_tokenizer_is_refused(monkeypatch):
    tokenizer = Tokenizer(tokenizer_of("byte_bpe"), max_length=100)
    monkeypatch.setattr(type(tokenizer.wrapped), "is_fast", property(lambda self: False))
    with pytest.raises(ValueError, match=r"no fast tokenizer.*extraction\.tokens=null"):
        align(tokenizer, ["the"], [[(0, 3)]])


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@pytest.mark.parametrize("how", ["last", "first", "mean"])
def test_a_word_has_the_vectors_of_its_tokens(family: str, how: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer())
    sentences = [Sentence.of_words(["one", "two"]), Sentence.of_words(["three", "is", "a", "number"])]
    found = backbone.align([s.text for s in sentences], [s.ranges for s in sentences])
    length = max(map(len, found.tokenized.ids))
    inputs = pad_right(found.tokenized.ids, length=length, pad_id=backbone.pad_id)
    stack = backbone.stacks[0]
    words, every = Reading(stack, "residual", f"words.{how}"), Reading(stack, "residual", "subwords")
    read = backbone(*inputs, readings=[words, every], spans=found.tokenized.spans)
    starts = np.cumsum([0, *map(len, found.tokenized.ids)])
    expected = []
    for start, spans in zip(starts, found.tokenized.spans, strict=False):
        for first, end in spans.tolist():
            tokens = read[every][:, start + first : start + end]
            expected.append({"last": tokens[:, -1], "first": tokens[:, 0], "mean": tokens.mean(1)}[how])
    torch.testing.assert_close(read[words], torch.stack(expected, dim=1), rtol=1e-5, atol=1e-6)
    assert read[words].shape[1] == 6


def test_words_of_a_decoder_that_reads_the_text_come_after_its_start_token():
    backbone = FrozenBackbone(tiny_model("t5"), byte_tokenizer(), stack="decoder", decoder_input="text")
    found = backbone.align(["ab"], [[(0, 1), (1, 2)]])
    inputs = pad_right(found.tokenized.ids, length=2, pad_id=backbone.pad_id)
    words, last = (Reading("decoder", "residual", name) for name in ("words.last", "last"))
    read = backbone(*inputs, readings=[words, last], spans=found.tokenized.spans)
    assert torch.equal(read[words][:, 1], read[last][:, 0])
    assert not torch.equal(read[words][:, 0], read[last][:, 0])


def test_a_decoder_of_its_start_token_alone_has_no_words():
    backbone = FrozenBackbone(tiny_model("t5"), byte_tokenizer(), stack="decoder")
    with pytest.raises(ValueError, match="reads its start token alone"):
        backbone.readings("words.last")
