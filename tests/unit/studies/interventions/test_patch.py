"""Patches between prompts and between models, on the toy model and in a whole run."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from intervention_runs import cells
from logged_objectives import with_logged_objective
from toy_language_model import LAYERS, toy_language_model, toy_pairs, toy_tokenizer, trained_model

from probes.analysis import LayerAnalysis
from probes.analysis.effects import normalised_effect
from probes.answers import LanguageModel
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.interventions import KeptArrays, PromptPair, Streams, generated_pairs, logit_lens
from probes.interventions.heads import first_over_second
from probes.interventions.paths import PathPatches, Place, places_before
from probes.report import FilesOnly, read_results
from probes.studies import PatchingSettings, PatchStudy, PathSettings, RunContext
from probes.studies.interventions.patching import PATCHED_PAIRS, Patching, changed_groups, pair_questions

LM = toy_language_model


def patching(which: int, tmp_path, source=None) -> Patching:
    questions = [pair_questions(LM(), toy_pairs(which), side, tokens_per_batch=64) for side in ("clean", "corrupted")]
    if source is not None:  # between models, both read the clean prompts
        return Patching(source, LM(), questions[0], questions[0], KeptArrays(tmp_path, {}), "s", questions[1])
    return Patching(LM(), LM(), *questions, KeptArrays(tmp_path, {}), "", questions[0])


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_the_last_token_carries_the_sign_that_is_read_and_no_other(layer: int, tmp_path):
    gap = None
    for which in (0, 1):
        own = patching(which, tmp_path)
        source, target = own.answers()
        change = own.at(layer, "residual", ["last"])["last"] - target
        gap = np.abs(source - target).mean() if gap is None else gap
        if which == 0:
            assert normalised_effect(change[None], source - target).values[0] > 0.9
        else:
            assert np.abs(change).mean() / gap < 0.05


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_patching_all_positions_gives_the_sources_answers_to_the_bit(layer: int, tmp_path):
    own = patching(0, tmp_path)
    source, target = own.answers()
    np.testing.assert_array_equal(own.at(layer, "residual", ["all"])["all"], source)
    assert not np.array_equal(source, target)


def test_a_sublayer_that_both_prompts_share_carries_nothing(tmp_path):
    own = patching(0, tmp_path)
    _, target = own.answers()
    found = own.at(1, "attention", ["between", "last"])
    np.testing.assert_allclose(found["between"], target, atol=1e-6)  # the changed word is the last one
    assert not np.allclose(found["last"], target)


def test_another_models_layers_bring_in_its_answers(tmp_path):
    model = copy.deepcopy(trained_model())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.layers[1].parameters():
            parameter.normal_(std=0.6, generator=generator)
    other = LanguageModel(model, toy_tokenizer(), name="other")
    own = patching(0, tmp_path, source=other)
    source, target = own.answers()
    np.testing.assert_array_equal(own.at(1, "residual", ["all"])["all"], target)  # equal so far
    for layer in (2, 3):  # the blocks after layer 2 are equal
        np.testing.assert_array_equal(own.at(layer, "residual", ["all"])["all"], source)
    assert np.abs(source - target).mean() > 0.3


def test_groups_of_positions_divide_what_follows_the_first_change():
    pair = PromptPair("w1 w2 w3 w4 w5", "w1 w9 w3 w4 w5", "no", "yes")
    clean, corrupted = (pair_questions(LM(), [pair], side, tokens_per_batch=64) for side in ("clean", "corrupted"))
    groups = changed_groups(corrupted.batches[0], clean.batches[0])
    found = {name: mask[0].int().tolist() for name, mask in groups.items()}
    assert found == {
        "changed": [0, 1, 0, 0, 0], "between": [0, 0, 1, 1, 0], "last": [0, 0, 0, 0, 1], "all": [1, 1, 1, 1, 1],
    }  # fmt: skip


def test_the_logit_lens_of_the_last_layer_is_the_model_to_the_bit():
    questions = pair_questions(LM(), toy_pairs(0), "clean", tokens_per_batch=64)
    streams = Streams.at_input(LM(), questions)
    by_layer = [logit_lens(streams.carried(layer)) for layer in range(LAYERS + 1)]
    assert torch.equal(by_layer[-1], LM().log_probs(questions))
    gaps = [(scores[:, 0] - scores[:, 1]).mean().item() for scores in by_layer]
    assert gaps[0] < 0.9 * gaps[-1]  # the embedding is not yet in the coordinates of the head


def test_the_interval_of_a_ratio_holds_it():
    rng, hits = np.random.default_rng(0), []
    for _ in range(400):
        gaps = 2 + rng.normal(size=32)
        found = normalised_effect((0.6 * gaps + rng.normal(size=32))[None], gaps)
        low, high = (
            found.values[0] - 2.04 * np.linalg.norm(found.errors),
            found.values[0] + 2.04 * np.linalg.norm(found.errors),
        )
        hits.append(low <= 0.6 <= high)
    assert 0.92 < np.mean(hits) < 0.98
    assert np.isnan(normalised_effect(np.ones((1, 20)), rng.normal(size=20)).values).all()


def run_study(folder, *, reference=None, paths=None, **settings) -> float:
    context = RunContext.of(
        logger=FilesOnly(), seed=0, cache_dir=folder / "cache", output_dir=folder / "out"
    )  # fmt: skip
    study = PatchStudy(patching=PatchingSettings(every=2, count=8, **settings), paths=paths or PathSettings())
    parts: dict[str, Any] = {"backbone": tiny_backbone, "reference_backbone": reference, "analysis": LayerAnalysis()}
    return with_logged_objective(lambda: study.run(context, **parts))


def test_a_run_leaves_effects_of_every_kind_site_and_group(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
    kinds = ["sentiment", "facts", "boxes"]
    objective = run_study(tmp_path, reference=lambda: tiny_backbone(seed=1), pairs=kinds)
    results = read_results(tmp_path / "out" / "results.csv")
    for name in ("changed", "between", "last"):
        own = [row for row in results if (row.metric, row.role) == (f"patching/{name}", "")]
        assert {(row.site, row.layer, row.task) for row in own} == {
            (site, layer, kind) for site in ("residual", "attention", "mlp") for layer in (1, 3) for kind in kinds
        }
        assert {row.interval_over for row in own} <= {"pairs", ""}
    for role in ("backbone_patched", "reference_patched"):
        own = {(row.layer, row.task): row for row in results if (row.metric, row.role) == ("patching/all", role)}
        assert {layer for layer, _ in own} == {1, 3}
    last = cells([row for row in results if not row.role and row.site == "residual"], "patching/last")
    known = [row.value for (layer, _), row in last.items() if layer == 3 and not np.isnan(row.value)]
    np.testing.assert_allclose(known, 1.0, atol=1e-5)  # at the last layer only the last token is left to answer
    assert np.isfinite(objective) or not known
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_run_leaves_paths_to_every_receiver_and_effects_of_single_heads(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
    paths = PathSettings(receivers=["final", "mlp.2", "head.2.1.q"], senders=["embeddings", "attention", "head"])
    objective = run_study(tmp_path, pairs=["boxes"], sites=["heads"], positions=["all"], paths=paths)
    results = read_results(tmp_path / "out" / "results.csv")
    found = {(r.metric, r.site, r.layer, r.task) for r in results if r.layer is not None}
    heads = [f"head {head}" for head in range(4)]
    assert found == {
        *(("patching/all/boxes", "heads", layer, head) for layer in (1, 3) for head in heads),
        *((f"path_to/{receiver}", "residual", 0, "boxes") for receiver in ("final", "mlp.2", "head.2.1.q")),
        *(("path_to/final", "attention", layer, "boxes") for layer in (1, 2, 3)),
        *(("path_to/mlp.2", "attention", layer, "boxes") for layer in (1, 2)),
        ("path_to/head.2.1.q", "attention", 1, "boxes"),
        *(("path_to/final/boxes", "heads", layer, head) for layer in (1, 2, 3) for head in heads),
        *(("path_to/mlp.2/boxes", "heads", layer, head) for layer in (1, 2) for head in heads),
        *(("path_to/head.2.1.q/boxes", "heads", 1, head) for head in heads),
    }
    assert {row.interval_over for row in results if row.metric.startswith("path_to")} <= {"pairs", ""}
    assert objective == pytest.approx(
        np.mean([max(r.value for r in results if r.task == head and r.site == "heads" and "patching" in r.metric)
                 for head in heads])
    ) or np.isnan(objective)  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
def test_the_direct_paths_together_carry_the_sign_that_is_read_and_no_other(which: int, tmp_path):
    own, lm = patching(which, tmp_path), LM()
    final = Place.parse("final", lm)
    senders = [place for site in ("embeddings", "attention", "mlp") for place in places_before(final, site, lm)]
    changes, gap = [], np.abs(np.subtract(*patching(0, tmp_path).answers())).mean()
    for theirs, target in zip(own.source_questions.batches, own.target_questions.batches, strict=True):
        patches = PathPatches(lm, theirs, target)
        after = patches.log_probs_through([final], senders)
        before = patches.log_probs_through([final], [])
        changes.append(first_over_second(target, after) - first_over_second(target, before))
    change = torch.cat(changes).abs().mean().item()
    assert change > 0.9 * gap if which == 0 else change < 0.05 * gap


def test_pairs_have_prompts_of_equally_many_tokens_and_alternate():
    backbone = tiny_backbone()
    pairs = generated_pairs("boxes", backbone, 12, seed=0, key=PATCHED_PAIRS)
    assert len(pairs) == 12
    for pair in pairs:
        clean, corrupted = backbone.tokenize([pair.clean, pair.corrupted]).ids
        assert len(clean) == len(corrupted)
        asked = pair.clean.split("Box ")[-1][0]
        assert f"Box {asked} contains the {pair.clean_answer}." in pair.clean
        assert f"Box {asked} contains the {pair.corrupted_answer}." in pair.corrupted
    again, others = (generated_pairs("boxes", backbone, 12, seed=seed, key=PATCHED_PAIRS) for seed in (0, 1))
    assert again == pairs != others


@pytest.mark.parametrize(("kind", "count"), [("facts", 14), ("boxes", 56)])
def test_no_two_prompts_are_paired_twice_in_either_order(kind: str, count: int, caplog):
    pairs = generated_pairs(kind, tiny_backbone(), 100, seed=0, key=PATCHED_PAIRS)
    assert len(pairs) == count
    assert len({frozenset((pair.clean, pair.corrupted)) for pair in pairs}) == count
    assert f"{count} pairs '{kind}' have" in caplog.text
    assert "100 were asked for" in caplog.text
    caplog.clear()
    assert len(generated_pairs(kind, tiny_backbone(), count, seed=0, key=PATCHED_PAIRS)) == count
    assert not caplog.text


def test_what_cannot_be_patched_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Only 0 of \d+ pairs 'agreement'.*study\.patching\.pairs"):
        generated_pairs("agreement", tiny_backbone(), 8, seed=0, key=PATCHED_PAIRS)  # a plural is one byte longer
    for kinds in (["boxes", "weather"], []):
        with pytest.raises(ValueError, match=rf"{re.escape(repr(kinds))}.*agreement.*study\.patching\.pairs"):
            PatchingSettings(pairs=kinds)
    with pytest.raises(ValueError, match=r"3 blocks, 16 features\) cannot be patched into.*reference_backbone"):
        run_study(tmp_path, reference=lambda: tiny_backbone(hidden_size=16), pairs=["boxes"])
    with pytest.raises(ValueError, match=r"Unknown sites \['stream'\]"):
        PatchingSettings(sites=["stream"])
    with pytest.raises(ValueError, match=r"Unknown senders \['node'\].*study\.paths\.senders"):
        PathSettings(senders=["node"])
    with pytest.raises(ValueError, match=r"Unknown positions 'first'.*study\.paths\.positions"):
        PathSettings(positions="first")
    with pytest.raises(ValueError, match=r"no place 'mlp\.9'"):
        run_study(tmp_path, pairs=["boxes"], paths=PathSettings(receivers=["mlp.9"]))
    with pytest.raises(ValueError, match=r"count` must be at least 4"):
        PatchingSettings(count=2)
    with pytest.raises(ValueError, match="wrapped around a live model"):
        LanguageModel.of(FrozenBackbone(trained_model(), toy_tokenizer()))
