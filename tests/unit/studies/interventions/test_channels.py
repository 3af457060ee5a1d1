"""The study of channels finds what is planted, and removing it breaks what the model does with it."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from intervention_runs import run_on_toy
from planted_channel import READER, WRITER, planted_language_model, recall_of_the_marked
from tiny_models import tiny_model

from probes.answers import recall_lists, recall_questions
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.heads import attention_heads
from probes.backbones.structure import find_stacks
from probes.backbones.tiny import byte_tokenizer
from probes.interventions import KeptArrays
from probes.report import read_results, read_run
from probes.studies import ChannelsStudy
from probes.studies.interventions.channel_removal import ALL_CHANNELS, Removal
from probes.studies.interventions.composing import composed, distinct_components

LM = planted_language_model


def found_in(lm=None):
    return composed(attention_heads((lm or LM()).backbone.main_stack), keep=10)


def removal_of(tmp_path) -> Removal:
    found, (questions, labels) = found_in(), recall_of_the_marked(48)
    blocks = attention_heads(LM().backbone.main_stack)
    return Removal(LM(), blocks, found.written, questions, labels, KeptArrays(tmp_path, {}), 4, 0)


def test_the_planted_channel_is_the_strongest_and_the_only_one():
    found = found_in()
    first = found.top["component"][0]
    assert (first.writer, first.reader, first.kind, first.component) == (WRITER, READER, "key", 0)
    assert first.score > 0.95
    assert np.exp(first.log_p_of_all) < 1e-6
    assert distinct_components(found.top["component"], 5) == [first]
    whole = found.top["whole"][0]
    assert (whole.writer, whole.reader, whole.kind) == (WRITER, READER, "key")
    assert found.largest["key", "component"][READER[0] - 1, WRITER[0] - 1] == first.score
    assert first.name == "1.2 c0 → 3.1 key"


def test_the_model_recalls_the_marked_item_and_cannot_without_the_channel(tmp_path):
    removal = removal_of(tmp_path)
    accuracy = (removal.unedited().argmax(-1) == removal.missing.numpy()).mean()
    assert accuracy == 1
    channel = found_in().top["component"][0]
    effect, beyond = removal.profiles([channel])
    assert not removal.lost([]).any()  # removing nothing changes nothing
    log_probs = removal._kept([(channel.writer, channel.component)], None)
    accuracy_without = (log_probs.argmax(-1) == removal.missing.numpy()).mean()
    assert accuracy_without < 0.6
    assert effect.estimates.values[0] > 2
    assert beyond.estimates.interval[0, 0] > 2
    assert beyond.estimates.p_cell[0] < 0.001
    assert beyond.estimates.interval_over == "rows and other components"


def test_other_components_of_the_head_carry_nothing(tmp_path):
    removal, channel = removal_of(tmp_path), found_in().top["component"][0]
    others = removal.other_components([channel], [channel])
    assert len(others) == 4
    assert len({component for own in others for _, component in own} | {0}) == 5
    for own in others:
        assert abs(removal.lost(own).mean()) < 0.05


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma2", "opt"])
def test_a_random_model_has_no_channels_beyond_the_rate_of_chance(family: str):
    significant = 0
    for seed in range(3):
        (stack,) = find_stacks(tiny_model(family, seed)).values()
        found = composed(attention_heads(stack), keep=5)
        significant += sum(np.exp(found.top[sort][0].log_p_of_all) < 0.01 for sort in ("whole", "component"))
        assert found.cells == {"whole": 3 * 16 * 3, "component": 3 * 16 * 3 * 8}
        assert np.isnan(found.largest["query", "whole"][0]).all()
    assert significant <= 1


def with_a_channel() -> FrozenBackbone:
    """The tiny model, in whose last block one head looks for what a head of the first block writes."""
    backbone = tiny_backbone()
    model = backbone.load_with_head()
    with torch.no_grad():
        written = model.model.layers[0].self_attn.o_proj.weight[:, :8]
        direction = torch.linalg.svd(written @ model.model.layers[0].self_attn.v_proj.weight[:8])[0][:, 0]
        model.model.layers[2].self_attn.k_proj.weight[0] = 20 * direction
    return FrozenBackbone(model, byte_tokenizer(), name="with a channel", with_head=lambda: model)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("channels")
    study = ChannelsStudy(top=12, remove=2, other_components=2, recall_lists=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
        objective = run_on_toy(study, folder, backbone=with_a_channel)
    return folder / "out", objective, read_results(folder / "out" / "results.csv")


def test_a_run_leaves_tables_matrices_figures_and_a_report(finished):
    folder, objective, results = finished
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left >= {
        "results.csv", "report.html", "figures/channel_removal.png",
        "figures/layer_by_layer_composition_component.png", "tables/channels/single_components.csv",
        "layer_by_layer/composition_whole/query.csv",
    }  # fmt: skip
    with (folder / "tables/channels/single_components.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert (rows[0]["reader"].split(".")[0], rows[0]["read_as"], float(rows[0]["p"]) < 0.05) == ("3", "key", True)
    assert "read what earlier heads write" in (folder / "report.html").read_text()
    pairs = read_run(folder).layer_by_layer
    assert {(pair.x_name, pair.y_name, pair.unit) for pair in pairs} == {("the reader", "the writer", "largest score")}
    assert "composition/whole" in {pair.quantity for pair in pairs}
    assert min(pair.n for pair in pairs) > 0
    beyond = [row.value for row in results if row.metric == "channel_removal/beyond_others"]
    assert objective == max(beyond)


def test_results_have_scores_p_and_the_effects_of_removal(finished):
    _, _, results = finished
    largest = {(row.layer, row.task): row for row in results if row.metric == "composition/largest_component"}
    assert set(largest) == {(layer, kind) for layer in (2, 3) for kind in ("query", "key", "value")}
    assert largest[3, "key"].p < 0.05
    assert all(row.p_cell <= row.p or row.p == 1 for row in largest.values())
    effects = [row for row in results if row.metric == "channel_removal/effect"]
    assert effects[0].interval_over == "rows"
    assert all(row.p is not None and row.n == 6 for row in effects)
    assert (len(effects) > 1) == any(row.task == ALL_CHANNELS for row in effects)
    assert {row.task for row in results if row.metric == "answer/accuracy"} == {"list recall"}


def test_without_removal_a_run_gives_the_largest_score(finished, tmp_path):
    _, _, results = finished
    largest = run_on_toy(ChannelsStudy(top=12, remove=0), tmp_path, backbone=with_a_channel)
    scores = [row.value for row in results if row.metric == "composition/largest_component"]
    assert largest == pytest.approx(max(scores))
    assert not (tmp_path / "out" / "figures" / "channel_removal.png").exists()


def test_lists_name_all_items_and_then_all_but_the_missing_one():
    lists = recall_lists(9, items=3, seed=1)
    assert [own.missing for own in lists] == [0, 1, 2] * 3
    for own in lists:
        again = own.prompt.split("takes")[1]
        assert [f"the {item}" in again for item in own.items] == [place != own.missing for place in range(3)]
        assert all(f"a {item}" in own.prompt.split("In the shop")[0] for item in own.items)
    assert lists == recall_lists(9, items=3, seed=1) != recall_lists(9, items=3, seed=2)
    questions, missing = recall_questions(tiny_backbone(), lists)
    assert (questions.rows, questions.options, missing.tolist()) == (9, 3, [0, 1, 2] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall_items": 1}, r"2 to \d+ items; got 1. Set `study\.recall_items`"),
        ({"recall_lists": 5}, r"5 lists of 3 items are too few.*study\.recall_lists"),
        ({"other_components": 1}, r"study\.other_components` must be at least 2"),
        ({"top": 3, "remove": 4}, r"`study\.remove` takes channels from the `study\.top` \(3\).*got 4"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        ChannelsStudy(**options)
