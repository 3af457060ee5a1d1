"""The study of masks of heads on a circuit that is known, and what a run of it leaves."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from logged_objectives import with_logged_objective
from planted_circuit import circuit_pairs, planted_circuit

from probes.analysis import LayerAnalysis
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.interventions import pairs as pairs_module
from probes.report import FilesOnly, read_results
from probes.studies import HeadSettings, HeadsStudy, RunContext
from probes.studies.interventions.heads import CONTROL, HeadMasks


@pytest.fixture(scope="module", autouse=True)
def planted_pairs():
    with pytest.MonkeyPatch.context() as patch:
        for flipped, kind in enumerate(("read", "ignored")):
            patch.setitem(pairs_module.PAIRS, kind, lambda flipped=flipped: circuit_pairs(flipped, 96))
        patch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
        yield


def backbone() -> FrozenBackbone:
    lm = planted_circuit()
    return FrozenBackbone(lm.model, lm.backbone.tokenizer.wrapped, name="planted", with_head=lambda: lm.model)


def settings() -> HeadSettings:
    return HeadSettings(
        pairs=["read", "ignored"], train=24, test=16, penalty=0.05, steps=60, pairs_per_step=24, random_sets=19
    )


def run_study(folder, cache=None) -> float:
    context = RunContext.of(logger=FilesOnly(), seed=0, cache_dir=cache or folder / "cache", output_dir=folder / "out")
    study = HeadsStudy(heads=settings())
    return with_logged_objective(lambda: study.run(context, backbone=backbone, analysis=LayerAnalysis()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, planted_pairs):
    folder = tmp_path_factory.mktemp("heads")
    return folder, run_study(folder), read_results(folder / "out" / "results.csv")


def number(results, metric: str, task: str = "read", control: str = ""):
    (row,) = [r for r in results if (r.metric, r.task, r.control, r.layer) == (metric, task, control, None)]
    return row


def test_the_planted_heads_close_the_gap_of_other_pairs_and_random_ones_do_not(finished):
    _, objective, results = finished
    effect = number(results, "mask/effect")
    assert effect.value > 0.9
    assert effect.ci_low <= effect.value <= effect.ci_high
    assert effect.interval_over == "pairs"
    assert effect.null_mean < 0.6
    assert effect.p_cell < 0.5  # a third of random pairs of twelve heads hold one of the two heads of the chain
    assert 1 <= number(results, "mask/size").value <= 2
    assert abs(number(results, "mask/effect_of_all_others").value) < 1.01
    assert objective == pytest.approx(effect.value)


def test_the_gates_are_a_matrix_of_layers_and_heads(finished):
    folder, _, results = finished
    gates = {(r.layer, r.task): r.value for r in results if (r.metric, r.control) == ("mask_gate/read", "")}
    assert len(gates) == 12
    assert max(v for place, v in gates.items() if place not in {(1, "head 2"), (2, "head 0")}) < 0.05
    assert (folder / "out" / "layer_by_task" / "mask_gate_read.csv").is_file()
    page = (folder / "out" / "report.html").read_text()
    assert re.search(
        r"For read, a mask of [12] heads? closes 1\.00 \[.*\] of the gap, random sets of as many 0\.", page
    )


def test_pairs_that_contradict_each_other_keep_no_head(finished):
    _, _, results = finished
    assert number(results, "mask/size", control=CONTROL).value == 0
    assert number(results, "mask/effect", control=CONTROL).value == 0


def test_what_the_model_ignores_has_no_gap_and_no_mask(finished):
    _, _, results = finished
    assert np.isnan(number(results, "mask/all_heads_effect", "ignored").value)
    assert not [r for r in results if r.task == "ignored" and r.metric == "mask/effect"]


def test_a_run_whose_pairs_are_not_told_apart_ends_with_its_report(tmp_path):
    context = RunContext.of(logger=FilesOnly(), seed=0, cache_dir=tmp_path / "cache", output_dir=tmp_path / "out")
    study = HeadsStudy(heads=HeadSettings(pairs=["ignored"], train=8, test=8))
    assert np.isnan(study.run(context, backbone=backbone, analysis=LayerAnalysis()))
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_second_run_learns_nothing_and_finds_the_same(finished, tmp_path, monkeypatch):
    folder, objective, _ = finished
    monkeypatch.setattr(HeadMasks, "_learn", lambda *_: pytest.fail("was learned again"))
    monkeypatch.setattr(HeadMasks, "_judge", lambda *_: pytest.fail("was judged again"))
    assert run_study(tmp_path, folder / "cache") == objective


def test_pairs_are_shared_out_between_learning_and_judging():
    found = HeadMasks.of(planted_circuit(), "read", HeadSettings(train=60, test=60), None, 0)  # pyright: ignore[reportArgumentType]
    assert len(found.train) == 48
    assert len(found.test) == 48


@pytest.mark.parametrize("tokens", [64, 1024])
def test_a_pass_has_at_most_the_tokens_that_are_allowed(tokens: int):
    settings = HeadSettings(train=24, test=24, tokens_per_batch=tokens)
    masks = HeadMasks.of(planted_circuit(), "read", settings, None, 0)  # pyright: ignore[reportArgumentType]
    swaps = masks._swaps(masks.test)
    assert max(swap.batch.input_ids.numel() for swap in swaps) <= tokens
    assert sum(len(swap.batch.rows.unique()) for swap in swaps) == 24
    assert (len(swaps) > 1) == (tokens == 64)


@pytest.mark.parametrize("kind", ["facts", "boxes"])
def test_no_pair_is_both_learned_on_and_judged_on_in_either_order(kind: str):
    settings = HeadSettings(train=7, test=7)
    found = HeadMasks.of(SimpleNamespace(backbone=tiny_backbone()), kind, settings, None, 0)  # pyright: ignore[reportArgumentType]
    train, test = ([frozenset((pair.clean, pair.corrupted)) for pair in part] for part in (found.train, found.test))
    assert len(train) == len(test) == 7
    assert len({*train, *test}) == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "middle"}, r"Unknown positions 'middle'.*study\.heads\.positions"),
        ({"test": 2}, r"study\.heads\.test` must be at least 4"),
        ({"penalty": 0.0}, r"study\.heads\.penalty` and"),
        ({"pairs_per_step": 1}, r"pairs_per_step` must be at least 2"),
        ({"tokens_per_batch": 0}, r"study\.heads\.tokens_per_batch` must be at least 1"),
        ({"pairs": ["weather"]}, r"kinds of pairs; got \['weather'\].*agreement.*study\.heads\.pairs"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        HeadSettings(**options)
