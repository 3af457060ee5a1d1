from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from tuning_samples import encoded

from probes.answers import Example
from probes.backbones import tiny_backbone
from probes.tuning import AnswerScores, TuningSettings
from probes.tuning.answer_scores import AnswerSample
from probes.tuning.model_store import ModelFolder, examples_digest, read_scores, scores_key, weights_key, write_scores

EXAMPLES = encoded(tiny_backbone(), rows=6)
DATA = {"train": EXAMPLES[:4], "validation": EXAMPLES[4:5], "test": EXAMPLES[5:]}
SAMPLE = AnswerSample(rows=2, max_new_tokens=4, end_id=256, longest=64, tokenizer=None)


def test_scores_are_read_as_they_were_written_and_nan_is_null_in_the_file(tmp_path):
    scores = AnswerScores(
        validation_loss=math.nan, test_loss=0.1, exact_match=0.5, rouge_l=0.25, chrf=1.0, n_validation=0, n_test=3,
        n_answered=2,
    )  # fmt: skip
    file = tmp_path / "base" / "scores.json"
    assert read_scores(file, key="k") is None
    write_scores(file, scores, key="k")
    found = read_scores(file, key="k")
    assert math.isnan(found.validation_loss)
    assert replace(found, validation_loss=0) == replace(scores, validation_loss=0)
    assert json.loads(file.read_text())["content"]["validation_loss"] is None


def test_validation_rows_decide_the_weights_only_if_they_can_stop_the_tuning():
    other = {**DATA, "validation": DATA["test"]}
    for patience, equal in ((None, True), (2, False)):
        settings = TuningSettings(patience=patience)
        assert (weights_key("f", DATA, settings, 0) == weights_key("f", other, settings, 0)) is equal


def test_the_key_of_scores_covers_rows_sample_and_precision():
    key = scores_key(DATA, SAMPLE, precision="auto")
    assert key == scores_key({**DATA, "train": ()}, SAMPLE, precision="auto")
    others = [
        scores_key({**DATA, "test": DATA["train"]}, SAMPLE, precision="auto"),
        scores_key(DATA, replace(SAMPLE, rows=3), precision="auto"),
        scores_key(DATA, SAMPLE, precision="float32"),
    ]
    assert len({key, *others}) == 4


def test_the_digest_of_examples_depends_on_their_order_and_on_where_the_answer_starts():
    prompt, answer = EXAMPLES[0]
    shifted = Example(np.append(prompt, answer[0]), answer[1:])
    assert examples_digest(EXAMPLES) == examples_digest(list(EXAMPLES))
    assert examples_digest(EXAMPLES) != examples_digest(EXAMPLES[::-1])
    assert examples_digest([EXAMPLES[0]]) != examples_digest([shifted])


def test_a_model_appears_only_when_it_is_complete_and_then_its_checkpoint_goes(tmp_path):
    folder = ModelFolder.of(tmp_path, "a_b", "key")
    assert folder.path == tmp_path / "adapters" / "a_b-key"
    folder.path.parent.mkdir()
    folder.checkpoint.write_text("state")
    with pytest.raises(FileNotFoundError), folder.finish() as unfinished:
        (unfinished / "missing").rename(unfinished / "tuning.json")
    assert (folder.record(), folder.path.exists(), folder.checkpoint.exists()) == (None, False, True)
    with folder.finish() as unfinished:
        (unfinished / "tuning.json").write_text('{"steps": 3}')
        assert not folder.path.exists()
    assert (folder.record(), folder.checkpoint.exists()) == ({"steps": 3}, False)
    assert [file.name for file in folder.path.parent.iterdir()] == [folder.path.name]
