"""Tasks whose rows are words: their nuisances and their baseline are words, not sentences."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from nuisance_samples import READING, by_quantity, probed

from probes.probe_measures import Baselines, NuisanceAudit
from probes.tasks import Split, Task
from probes.tasks.words.sentence import Sentence, rows_of_words
from probes.training import LabelledActivations, TaskData
from probes.values import SPLITS, Activations

WORDS = [f"w{i:02d}" for i in range(30)]


def words_task(*, by_word: bool):
    """Words in random sentences, whose activations hold the word by heart or, else, the label itself."""
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    code = torch.randn(30, 24, generator=generator)
    splits, data, sentences_of, types = {}, {}, {}, {}
    for split, count in {"train": 60, "validation": 20, "test": 40}.items():
        sentences = [Sentence.of_words(draw.choices(WORDS, k=6)) for _ in range(count)]
        rows = rows_of_words(sentences, [(i, k) for i in range(count) for k in range(6)])
        ids = [WORDS.index(word) for word in rows.types]
        labels = [own % 2 if by_word else draw.randrange(2) for own in ids]
        values = 0.3 * torch.randn(1, len(ids), 24, generator=generator) + (code[ids] if by_word else 0.0)
        values[0, :, 0] += 0.0 if by_word else 2.0 * torch.tensor(labels)
        prompts = tuple(sentences[i].text for i in rows.sentence.tolist())
        splits[split] = Split(prompts, tuple(labels), ("",) * len(ids), words=rows)
        names = tuple(f"{split}/{i}" for i in range(len(ids)))
        sentences_of[split], types[split] = torch.from_numpy(rows.sentence), rows.types
        data[split] = LabelledActivations(Activations(values, (0,), names, READING), torch.tensor(labels))
    task = Task("words", "classification", ("no", "yes"), splits)
    groups = {"sentences": sentences_of, "word_types": types}
    return probed(task, TaskData(task="words", kind="classification", labels=("no", "yes"), **groups, **data))


def test_a_label_of_the_word_is_the_word_and_another_stands():
    audit = NuisanceAudit(resamples=50, permutations=50)
    by_word = by_quantity(audit(words_task(by_word=True)))
    assert {"alone_word", "alone_spelling", "alone_position"} <= set(by_word)
    assert by_word["residual_macro_f1"].estimates.remarks[0].startswith("not identifiable; ")
    by_context = by_quantity(audit(words_task(by_word=False)))
    assert by_context["residual_macro_f1"].estimates.remarks[0].startswith("stands")
    assert by_context["alone_word"].estimates.values[0] < 0.6
    with_intervals = [p.estimates for p in by_word.values() if p.estimates.interval is not None]
    assert {estimates.interval_over for estimates in with_intervals} == {"sentences"}


def test_words_have_a_baseline_of_random_weights_with_gains_over_sentences():
    trained = words_task(by_word=False)
    noise = torch.Generator().manual_seed(1)
    splits = {
        split: LabelledActivations(
            replace(own.activations, values=torch.randn(own.activations.values.shape, generator=noise)), own.targets
        )
        for split in SPLITS
        for own in [getattr(trained.data, split)]
    }
    probed = replace(trained, random_weights=replace(trained.data, **splits))
    measure = Baselines(words=False, layer_0=False, resamples=50, permutations=50)
    found = {profile.quantity: profile.estimates for profile in measure(probed)}
    assert found["baseline/random_weights_macro_f1"].values[0] < 0.65
    gain = found["gain_over/random_weights_macro_f1"]
    assert gain.interval is not None
    assert gain.interval[0, 0] > 0.1
    assert {estimates.interval_over for estimates in found.values()} == {"sentences"}


def test_the_baseline_of_words_knows_the_word_of_a_row_not_its_sentence():
    measure = Baselines(layer_0=False, random_weights=False, resamples=50, permutations=50)
    by_word, by_context = (
        {profile.quantity: profile.estimates for profile in measure(words_task(by_word=own))} for own in (True, False)
    )
    assert by_word["baseline/tfidf_macro_f1"].values[0] > 0.95
    assert by_context["baseline/tfidf_macro_f1"].values[0] < 0.6
    assert {estimates.interval_over for estimates in by_word.values()} == {"sentences"}


@pytest.mark.parametrize("column", ["words", "columns"])
def test_some_rows_of_a_split_keep_what_belongs_to_them(column):
    rows = words_task(by_word=True).task.splits["test"]
    rows = replace(rows, columns={"place": tuple(range(len(rows)))})
    some = rows.at([5, 2])
    assert some.prompts == (rows.prompts[5], rows.prompts[2])
    if column == "words":
        assert some.words.types == (rows.words.types[5], rows.words.types[2])
    else:
        assert some.columns["place"] == (5, 2)
