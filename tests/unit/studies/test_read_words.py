"""Words of a suite are read in one pass, found again by sentence, and kept on disk by content."""

from __future__ import annotations

import logging

import pytest
import torch

from probes.activations import ExtractionSettings, extract
from probes.backbones import tiny_backbone
from probes.studies.suite_activations import facts_of, read_suite, refuse_words
from probes.tasks import Sentence, Split, Suite, Task, treebank_suite
from probes.tasks.words.build import word_suite
from probes.token_values import token_mode

SETTINGS = ExtractionSettings(texts_per_shard=7)


@pytest.fixture(scope="module")
def suite():
    return treebank_suite(["upos", "edge", "trees"], max_rows=12)


def _sentences(task):
    return [sentence for split in task.splits.values() for sentence in split.words.sentences]


def of_mode(read, mode):
    (reading,) = (r for r in read.layers if token_mode(r) == mode)
    return reading


def test_the_vector_of_a_word_is_that_of_its_last_token_in_its_sentence(tmp_path, suite):
    backbone = tiny_backbone()
    read = read_suite(suite, backbone, SETTINGS, tmp_path)
    reading = of_mode(read, "words")
    upos = suite.tasks[0]
    rows = upos.splits["test"].words
    found = read.rows(upos, "test", reading)
    assert found.values.shape == (4, len(rows), 32)
    for row in (0, 5, len(rows) - 1):
        sentence = rows.sentences[rows.sentence[row]]
        end = sentence.ranges[rows.spans[row, 0, 0]][1]
        alone = extract(backbone, [sentence.text[:end]], pooling="last")  # the model is causal, and a byte is a token
        torch.testing.assert_close(found.values[:, row], alone.values[:, 0], rtol=1e-4, atol=1e-5)


def test_a_pair_has_the_vectors_of_both_words(tmp_path, suite):
    read = read_suite(suite, tiny_backbone(), SETTINGS, tmp_path)
    reading = of_mode(read, "words")
    upos, edge, _ = suite.tasks
    words = read.rows(upos, "test", reading).values
    pairs = read.rows(edge, "test", reading).values
    rows, place = upos.splits["test"].words, {}
    for row, (sentence, spans) in enumerate(zip(rows.sentence.tolist(), rows.spans.tolist(), strict=True)):
        place[sentence, spans[0][0]] = row
    of_pairs = edge.splits["test"].words
    for row, (sentence, (word, head)) in enumerate(
        zip(of_pairs.sentence.tolist(), of_pairs.spans[:, :, 0].tolist(), strict=True)
    ):
        expected = torch.cat([words[:, place[sentence, word]], words[:, place[sentence, head]]], dim=-1)
        assert torch.equal(pairs[:, row], expected)


def test_a_padded_tensor_has_the_words_of_each_tree(tmp_path, suite):
    read = read_suite(suite, tiny_backbone(), SETTINGS, tmp_path)
    reading = of_mode(read, "words")
    upos, _, trees = suite.tasks
    tokens = read.tokens(trees, "train", reading)
    sentences = trees.splits["train"].words.sentences
    assert tokens.lengths.tolist() == [len(sentence) for sentence in sentences]
    values, mask = tokens.padded()
    assert values.shape[1:3] == mask.shape == (len(sentences), max(map(len, sentences)))
    assert torch.equal(values[:, mask], read.rows(upos, "train", reading).values)
    assert not values[:, ~mask].any()
    some = tokens.of_texts([3, 0])
    assert torch.equal(some.of_text(1), tokens.of_text(0))
    assert some.row_ids == (tokens.row_ids[3], tokens.row_ids[0])


def test_words_and_pooled_vectors_come_from_one_pass_and_are_read_from_disk(tmp_path, suite):
    settings = ExtractionSettings(pooling="mean", texts_per_shard=7)
    first = read_suite(suite, tiny_backbone(), settings, tmp_path)
    assert [reading.pooling for reading in first.layers] == ["mean", "words.last"]
    assert first.report.texts_computed == 36
    backbone = tiny_backbone()
    backbone.model.forward = None  # a pass would fail
    again = read_suite(suite, backbone, settings, tmp_path)
    assert again.report.forward_passes == 0
    reading = of_mode(again, "words")
    for split in ("train", "test"):
        values = [read.rows(suite.tasks[0], split, reading).values for read in (first, again)]
        assert torch.equal(*values)


def test_a_killed_run_resumes_and_a_damaged_shard_is_computed_again(tmp_path, suite):
    read = read_suite(suite, tiny_backbone(), SETTINGS, tmp_path)
    reading = of_mode(read, "words")
    before = read.rows(suite.tasks[0], "test", reading).values
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert len(shards) >= 6  # 36 sentences, at most 7 to a shard
    shards[0].unlink()
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(content)
    again = read_suite(suite, tiny_backbone(), SETTINGS, tmp_path)
    assert 2 <= again.report.texts_computed <= 14
    torch.testing.assert_close(again.rows(suite.tasks[0], "test", reading).values, before, rtol=1e-4, atol=1e-5)


def test_other_words_of_equal_tokens_are_other_texts(tmp_path):
    one = Sentence("ab", ("ab",), ((0, 2),), upos=("X",))
    two = Sentence("ab", ("a", "b"), ((0, 1), (1, 2)), upos=("X", "Y"))
    other = Sentence("cd", ("cd",), ((0, 2),), upos=("Y",))
    sentences = {"train": [one, two, other], "validation": [one], "test": [two]}
    suite = word_suite("s", sentences)
    read = read_suite(suite, tiny_backbone(), SETTINGS, tmp_path)
    reading = of_mode(read, "words")
    train = read.rows(suite.tasks[0], "train", reading).values
    assert train.shape[1] == 4
    assert torch.equal(train[:, 0], train[:, 2])  # both end with b
    assert not torch.equal(train[:, 0], train[:, 1])


def test_named_spans_have_a_vector_each_and_nothing_else_is_kept(tmp_path):
    suite = treebank_suite(["edge"], max_rows=6)
    words = read_suite(suite, tiny_backbone(), ExtractionSettings(subword_pooling="mean"), tmp_path)
    spans = read_suite(suite, tiny_backbone(), ExtractionSettings(subword_pooling="mean", tokens="spans"), tmp_path)
    assert [r.pooling for r in spans.layers] == ["spans.mean"]
    edge = suite.tasks[0]
    values = [read.rows(edge, "test", next(iter(read.layers))).values for read in (words, spans)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)


def test_all_tokens_of_texts_are_kept_beside_pooled_vectors(tmp_path):
    splits = {"train": Split(("one", "three"), (0, 1), ("", "")), "test": Split(("four",), (0,), ("",))}
    suite = Suite("s", (Task("a", "classification", ("no", "yes"), splits),))
    read = read_suite(suite, tiny_backbone(), ExtractionSettings(tokens="subwords"), tmp_path)
    tokens = read.tokens(suite.tasks[0], "train", of_mode(read, "subwords"))
    assert tokens.lengths.tolist() == [3, 5]
    assert tokens.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    pooled = read.rows(suite.tasks[0], "train", next(iter(read.layers)))
    assert pooled.row_ids == tokens.row_ids
    for text in range(2):
        assert torch.equal(tokens.of_text(text)[:, -1], pooled.values[:, text])


def test_words_that_are_cut_off_are_left_out_of_rows_and_trees_and_counted(tmp_path, suite, caplog):
    with caplog.at_level(logging.WARNING):
        read = read_suite(suite, tiny_backbone(), ExtractionSettings(max_length=60), tmp_path)
    readable = read.readable(suite)
    reading = of_mode(read, "words")
    upos, _, trees = readable.tasks
    rows = read.rows(upos, "test", reading)
    assert rows.values.shape[1] == len(upos.splits["test"]) < len(suite.tasks[0].splits["test"])
    assert "words have no vector: their text is longer than the limit" in caplog.text
    facts = facts_of(readable, read)
    assert facts["words_cut"] > facts["words_without_token"] == 0
    assert facts["words"] + facts["words_cut"] == sum(len(s) for t in suite.tasks[:1] for s in _sentences(t))
    whole = [len(sentence.text) <= 60 for sentence in suite.tasks[2].splits["test"].words.sentences]
    assert len(trees.splits["test"]) == sum(whole) > 0
    tokens = read.tokens(trees, "test", reading)
    assert len(tokens.row_ids) == sum(whole)


def test_studies_of_whole_texts_refuse_tasks_of_words(suite):
    with pytest.raises(ValueError, match=r"Task 'upos' is about words, and `study=compare` compares texts"):
        refuse_words(suite, "compare")
    text = Task("a", "classification", ("no", "yes"), {"test": Split(("one",), (0,), ("",))})
    refuse_words(Suite("s", (text,)), "compare")  # the control


def test_tasks_of_words_need_vectors_of_words(tmp_path, suite):
    with pytest.raises(ValueError, match=r"Task 'upos' is about words.*extraction\.tokens"):
        read_suite(suite, tiny_backbone(), ExtractionSettings(tokens="subwords"), tmp_path)


def test_an_unknown_kind_of_tokens_is_refused():
    with pytest.raises(ValueError, match=r"extraction\.tokens.*one of null, words, subwords, spans; got 'letters'"):
        ExtractionSettings(tokens="letters")
