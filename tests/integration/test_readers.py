"""`study=readers` and `probe=attention`: tokens beside pooled vectors in whole runs."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from logged_objectives import with_logged_objective

from probes.cli import CONFIG_DIR
from probes.run import run
from probes.studies.readers import ReadersStudy, pooled_tokens
from probes.token_values import TokenActivations
from probes.values import Reading


def configured(tmp_path: Path, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={tmp_path / 'out'}")
        chosen = ("experiment=quick", "analysis=none", *paths)
        return compose("train", overrides=[*chosen, *overrides])


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("readers")
    quick = [f"study.attentive.{name}.max_epochs=3" for name in ("attention", "multi_max")]
    quick += [f"study.attentive.{name}.penalties=[0.0]" for name in ("attention", "multi_max")]
    few = ("suite.tasks=[topic]", "suite.max_rows={train: 60, validation: 40, test: 40}", "study.texts_drawn=2")
    settings = (
        "probe.min_validation_rows=20",
        *(f"study.attentive.{n}.min_validation_rows=20" for n in ("attention", "multi_max")),
    )
    cfg = configured(folder, "study=readers", *quick, *few, *settings)
    objective = with_logged_objective(lambda: run(cfg))
    return folder / "out", objective


def test_all_readers_stand_side_by_side_and_gains_are_paired(readers: tuple[Path, float]) -> None:
    out, objective = readers
    test = [row for row in rows_of(out) if row["split"] == "test" and not row["control"]]
    scores = {(row["role"], row["layer"]): row for row in test if row["metric"] == "macro_f1"}
    assert {role for role, _ in scores} == {"last", "mean", "last+mean", "attention", "multi_max"}
    gains = [row for row in test if row["metric"] == "gain_over_pooled" and row["value"] != "nan"]
    assert {row["role"] for row in gains} == {"attention", "multi_max"}
    for row in gains:
        over = row["note"].removeprefix("over ")
        ours, theirs = (float(scores[role, row["layer"]]["value"]) for role in (row["role"], over))
        assert float(row["value"]) == pytest.approx(ours - theirs)
        assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
    (at_best,) = [r for r in test if (r["metric"], r["role"]) == ("at_best_layer/gain_over_pooled", "attention")]
    assert objective == pytest.approx(float(at_best["value"]))


def test_weights_and_gains_are_drawn(readers: tuple[Path, float]) -> None:
    out, _ = readers
    for name in ("token_weights_topic.png", "attention_gain_over_pooled.png", "attention_macro_f1.png"):
        assert (out / "figures" / name).stat().st_size > 0
    weights = base64.b64encode((out / "figures" / "token_weights_topic.png").read_bytes()).decode()
    page = (out / "report.html").read_text()
    assert f"data:image/png;base64,{weights}" in page
    assert page.count("data:image/png") == 1  # heatmaps are drawn by the page itself


def test_pooled_tokens_are_the_last_the_first_the_mean_and_the_largest() -> None:
    values = torch.tensor([[[1.0], [3.0], [8.0], [5.0]]])
    reading = Reading("decoder", "residual", "subwords")
    tokens = TokenActivations(values, torch.tensor([0, 1, 4]), torch.tensor([0, 0, 1, 2]), (0,), ("a", "b"), reading)
    assert pooled_tokens(tokens, "last").values.flatten().tolist() == [1, 5]
    assert pooled_tokens(tokens, "first+max").values.tolist() == [[[1, 1], [3, 8]]]
    assert pooled_tokens(tokens, "mean").values.flatten().tolist() == pytest.approx([1, 16 / 3])
    assert pooled_tokens(tokens, "mean").reading.pooling == "mean"


def test_every_site_is_read_and_the_objective_is_that_of_the_first(tmp_path: Path) -> None:
    quick = ["study.attentive.attention.max_epochs=1", "study.attentive.attention.penalties=[0.0]"]
    quick += ["~study.attentive.multi_max", "study.poolings=[mean]", "study.texts_drawn=0", "backbone.layers=[1,2]"]
    few = ("suite.tasks=[topic]", "suite.max_rows=40", "probe.penalties=[1.0]", "probe.bootstrap_samples=20")
    no_controls = ("probe.controls=0", "probe.permutations=0", "study.attentive.attention.controls=0")
    sites = "extraction.site=[residual,mlp]"
    objective = run(configured(tmp_path, "study=readers", *quick, *few, *no_controls, sites))
    gains = {
        row["site"]: float(row["value"])
        for row in rows_of(tmp_path / "out")
        if row["metric"] == "at_best_layer/gain_over_pooled"
    }
    assert gains.keys() == {"residual", "mlp"}
    assert objective == pytest.approx(gains["residual"])


def test_unknown_poolings_and_probes_of_vectors_are_refused() -> None:
    from probes.training import ProbeSettings

    with pytest.raises(ValueError, match=r"`study.poolings` must be some of last"):
        ReadersStudy(poolings=("last+median",))
    with pytest.raises(ValueError, match=r"`study.attentive.linear` must be a probe that reads tokens"):
        ReadersStudy(attentive={"linear": ProbeSettings()})


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention")
    sizes = "suite.max_rows={train: 60, validation: 40, test: 40}"
    run(
        configured(
            folder,
            "probe=attention",
            "probe.max_epochs=2",
            "probe.penalties=[0.0]",
            "suite.tasks=[topic]",
            sizes,
            "analysis/probe_measures=[label_free]",
        )
    )
    return folder / "out"


def test_nothing_is_read_for_measures_that_probes_of_tokens_do_not_have(attention: Path) -> None:
    facts = json.loads((attention / "provenance.json").read_text())
    assert facts["texts_computed"] == 140  # no altered copies
    assert not [row for row in rows_of(attention) if row["metric"].startswith("label_free/")]


def test_attention_is_a_probe_like_others_and_reads_tokens(attention: Path) -> None:
    rows = [row for row in rows_of(attention) if row["metric"] == "macro_f1" and row["split"] == "test"]
    assert {row["pooling"] for row in rows} == {"subwords"}
    assert {row["control"] for row in rows} == {"", "shuffled_labels", "majority"}
    assert {row["layer"] for row in rows if not row["control"]} == {"0", "1", "2", "3"}


def test_saved_attention_probes_give_the_reported_accuracy_on_stored_tokens(attention: Path) -> None:
    from hydra.utils import instantiate

    from probes.activations import ExtractionSettings
    from probes.backbones import tiny_backbone
    from probes.studies.suite_activations import read_suite
    from probes.tasks import Suite
    from probes.training import RaggedRows, load_probes

    cfg = configured(attention.parent, "suite.tasks=[topic]", "suite.max_rows={train: 60, validation: 40, test: 40}")
    (task,) = instantiate(cfg.suite).tasks
    settings = ExtractionSettings(tokens="subwords")
    read = read_suite(Suite("starter", (task,)), tiny_backbone(), settings, attention.parent / "cache")
    (reading,) = read.readings(task, all_tokens=True)
    tokens = read.tokens(task, "test", reading)
    probes = load_probes(attention / "probes" / "topic.safetensors")
    predicted = probes.predict(RaggedRows(tokens.values, tokens.lengths))
    right = (predicted == torch.tensor(task.splits["test"].labels)).double().mean(1)
    reported = [
        float(row["value"])
        for row in rows_of(attention)
        if (row["metric"], row["split"], row["control"]) == ("accuracy", "test", "")
    ]
    assert reported == pytest.approx(right.tolist())


def test_probes_of_tokens_refuse_tasks_of_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows of task 'upos' are words.*Set `probe` to linear or mlp"):
        run(configured(tmp_path, "probe=attention", "suite=treebank", "suite.tasks=[upos]", "suite.max_rows=20"))
