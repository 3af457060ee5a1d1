"""The generated treebank has exact trees, tags that follow from its words, and no sentence in two splits."""

from __future__ import annotations

import pytest

from probes.tasks import treebank_suite


@pytest.fixture(scope="module")
def suite():
    return treebank_suite()


def sentences(suite, split="train"):
    return suite.tasks[0].splits[split].words.sentences


def test_every_sentence_is_one_tree_whose_arcs_do_not_cross(suite):
    for sentence in sentences(suite):
        heads = sentence.heads
        assert heads.count(0) == 1
        for word in range(1, len(heads) + 1):
            above, steps = word, 0
            while above and steps <= len(heads):
                above, steps = heads[above - 1], steps + 1
            assert above == 0
        arcs = [sorted((word, head)) for word, head in enumerate(heads, start=1) if head]
        assert not any(a < c < b < d for a, b in arcs for c, d in arcs)


def test_tags_follow_from_the_place_in_the_tree(suite):
    for sentence in sentences(suite, "test"):
        for word, head in enumerate(sentence.heads):
            expected = {"det": "DET", "amod": "ADJ", "case": "ADP", "nsubj": None, "mark": "SCONJ", "advmod": "ADV"}
            tag = expected.get(sentence.relations[word])
            assert tag is None or sentence.upos[word] == tag
            if sentence.relations[word] == "nsubj" and sentence.upos[word] == "NOUN":
                verb = sentence.feats[head - 1]
                assert verb.get("Number", sentence.feats[word]["Number"]) == sentence.feats[word]["Number"]
        assert sentence.upos[-1] == "PUNCT"
        assert [sentence.text[a:b] for a, b in sentence.ranges] == list(sentence.words)


def test_noun_phrases_begin_with_their_determiner_and_end_with_their_noun(suite):
    for sentence in sentences(suite)[:100]:
        for word, tag in enumerate(sentence.entities):
            assert (tag[0] == "B") == (sentence.upos[word] == "DET")
            following = sentence.entities[word + 1] if word + 1 < len(sentence) else "O"
            assert (tag[0] != "O" and following[0] != "I") == (sentence.upos[word] == "NOUN")


def test_splits_share_no_sentence_and_depend_on_the_seed_alone(suite):
    texts = {split: {s.text for s in sentences(suite, split)} for split in ("train", "validation", "test")}
    assert [len(some) for some in texts.values()] == [300, 100, 200]
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    again = treebank_suite(["upos"])
    assert sentences(again) == sentences(suite)
    assert sentences(treebank_suite(["upos"], seed=1)) != sentences(suite)


def test_held_out_words_occur_in_test_sentences_only():
    suite = treebank_suite(["upos"], held_out_words=True)
    nouns = {
        split: {w for s in sentences(suite, split) for w, tag in zip(s.words, s.upos, strict=True) if tag == "NOUN"}
        for split in ("train", "test")
    }
    assert not nouns["train"] & nouns["test"]
    shared = treebank_suite(["upos"])
    assert {w for s in sentences(shared) for w in s.words} & {w for s in sentences(shared, "test") for w in s.words}


def test_fewer_sentences_are_drawn_from_the_same_ones(suite):
    some = treebank_suite(["upos"], max_rows={"train": 20, "test": 10})
    assert len(sentences(some)) == 20
    assert {s.text for s in sentences(some)} <= {s.text for s in sentences(suite)}
