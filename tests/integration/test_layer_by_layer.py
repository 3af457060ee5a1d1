"""The whole layer-by-layer study on a tiny backbone: the files it writes, its presets, and a second run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from wandb_log import OfflineRun, offline_run_dirs, read_offline_run

from probes.cli import CONFIG_DIR
from probes.report import read_results
from probes.run import run
from probes.values import Result

TASKS = ("sentiment", "topic", "tense", "agreement")
LAYERS = ("0", "1", "2", "3")
FEW_STEPS = ("tuning.max_steps=6", "tuning.generate_rows=2", "tuning.max_new_tokens=2")
SMALL = (
    "backbone=tiny", f"suite.tasks=[{','.join(TASKS)}]", "suite.max_rows=32", "study.mixture.unseen=[agreement]",
    "study.mixture.replicate_tasks=1", "study.similarity_rows=30", "study.similarity_every=1",
    "~study.similarity.pwcca", "~study.similarity.rsa",
    "study.maps.layers=2", "study.maps.rows_per_task=8", "~analysis.between.between_share", "probe.penalties=[0.1]",
    *FEW_STEPS,
)  # fmt: skip


def configured(folder: Path, *overrides: str, experiment: str = "layer_by_layer", cache: Path | None = None):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        paths = (f"paths.cache_dir={cache or folder / 'cache'}", f"paths.output_dir={folder / 'out'}")
        chosen = "logger=csv" if not any(o.startswith("logger=") for o in overrides) else "seed=0"
        return compose("train", overrides=[f"experiment={experiment}", chosen, *paths, *overrides])


class Finished:
    """What a run left."""

    def __init__(self, folder: Path, objective: float) -> None:
        self.folder, self.out, self.objective = folder, folder / "out", objective
        self.results: list[Result] = read_results(self.out / "results.csv")
        self.facts = json.loads((self.out / "provenance.json").read_text())

    def matrix(self, name: str) -> dict[tuple[str, str], float]:
        with (self.out / f"layer_by_task/{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {(row["layer"], task): float(value) for row in rows for task, value in row.items() if task != "layer"}

    def cells(self, metric: str, *, role: str = "") -> dict[tuple[str, str], Result]:
        return {(str(r.layer), r.task): r for r in self.results if (r.metric, r.role) == (metric, role)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("whole")
    return Finished(folder, run(configured(folder, *SMALL, "logger=wandb", "logger.mode=offline")))


@pytest.fixture(scope="module")
def logged(finished) -> OfflineRun:
    (run_dir,) = offline_run_dirs(finished.out)
    return read_offline_run(run_dir)


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """Drawing takes most of a run's time and is looked at once, in `finished`."""
    monkeypatch.setattr("probes.report.run_report.save_pictures", lambda drawings: None)
    monkeypatch.setattr(
        "probes.studies.layer_by_layer.study.report_figures", lambda folder, *_, **__: [folder / "none.png"]
    )
    monkeypatch.setattr("probes.report.run_report.report_bands", lambda *_, **__: [])


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


class TestWhatItLeaves:
    def test_every_table_is_there_with_a_cell_for_every_layer_and_task(self, finished):
        of_tasks = {
            "cka_control_vs_base", "cka_control_vs_base_biased", "cka_control_vs_experimental",
            "cka_control_vs_experimental_biased", "tuning_gain", "tuning_gain_biased", "tuning_gain_by_svcca",
            "tuning_gain_by_procrustes", "probe_gain_macro_f1",
            *(f"{role}_{name}" for role in ("base", "experimental")
              for name in ("macro_f1", "accuracy", "cross_entropy_bits", "selectivity", "label_cka", "effective_rank",
                           "specificity_label_cka", "specificity_macro_f1")),
            "specificity_tuning_gain", "specificity_cka_control_vs_base", "specificity_cka_control_vs_experimental",
        }  # fmt: skip
        for name in of_tasks:
            assert set(finished.matrix(name)) == {(layer, task) for layer in LAYERS for task in TASKS}, name
        for name in ("tuning_gain", "cka_control_vs_base", "cka_control_vs_experimental"):
            groups = {task for _, task in finished.matrix(f"group_mean_{name}")}
            assert groups == {"seen_tasks", "unseen_tasks", "semantics", "morphology"}
        assert {task for _, task in finished.matrix("cka_control_vs_control")} == {"sentiment"}
        between = {f"{role}_task_separability_silhouette" for role in ("base", "experimental")}
        left = {path.stem for path in (finished.out / "layer_by_task").glob("*.csv")}
        assert between < left
        of_two_classes = {f"{role}_auroc" for role in ("base", "experimental")}
        for name in of_two_classes:
            assert {task for _, task in finished.matrix(name)} == set(TASKS) - {"topic"}
        others = {"cka_control_vs_control", "control_seed_noise_tuning_gain", *between, *of_two_classes}
        assert {name for name in left - of_tasks - others if not name.startswith("group_mean")} == set()

    def test_every_picture_is_there(self, finished):
        pictures = {path.name for path in (finished.out / "figures").iterdir()}
        assert pictures >= {
            "control_models.png", "tuning_gain_groups.png", "map_base.png", "map_experimental.png",
            "bands_tuning_gain.png", "bands_cka_control_vs_base.png", "bands_cka_control_vs_experimental.png",
            "bands_base_label_cka.png", "bands_experimental_label_cka.png", "tuning_gain.png",
            "tuning_gain_profiles.png", "base_macro_f1.png", "probe_gain_macro_f1.png",
        }  # fmt: skip
        assert all((finished.out / "figures" / name).stat().st_size > 2000 for name in pictures)

    def test_the_first_layer_is_constant_and_the_others_have_intervals_and_nulls(self, finished):
        for metric in ("tuning_gain", "cka/control_vs_base", "cka/control_vs_experimental"):
            for (layer, _), r in finished.cells(metric).items():
                if layer == "0":  # every instruction ends in the same token
                    assert math.isnan(r.value)
                    assert r.note.startswith("constant layer")
                    continue
                assert r.ci_low is not None
                assert r.ci_high is not None
                assert r.ci_low < r.value < r.ci_high
                assert r.n == 32
        biased = finished.cells("cka/control_vs_base_biased")
        assert all(r.null_mean is not None and 0 < r.null_mean < r.value for (la, _), r in biased.items() if la != "0")

    def test_the_gain_is_the_difference_of_the_two_similarities(self, finished):
        cka = {side: finished.matrix(f"cka_control_vs_{side}") for side in ("base", "experimental")}
        gains = finished.matrix("tuning_gain")
        for cell, gain in gains.items():
            assert same(gain, cka["experimental"][cell] - cka["base"][cell])
        seen = [gain for (_, task), gain in gains.items() if task != "agreement"]
        assert finished.objective == pytest.approx(np.nanmean(seen))
        means = finished.matrix("group_mean_tuning_gain")
        assert means["3", "seen_tasks"] == pytest.approx(np.mean([gains["3", task] for task in TASKS[:3]]))
        assert means["3", "unseen_tasks"] == pytest.approx(gains["3", "agreement"])

    def test_the_probes_gain_is_what_the_experimental_model_has_over_the_base(self, finished):
        before, after = (finished.matrix(f"{role}_macro_f1") for role in ("base", "experimental"))
        gains = finished.matrix("probe_gain_macro_f1")
        for cell, gain in gains.items():
            assert same(gain, after[cell] - before[cell])
        assert any(abs(gain) > 0.01 for gain in gains.values())
        for layer, task in ((la, t) for la in LAYERS[1:] for t in TASKS):
            cell = finished.cells("probe_gain/macro_f1")[layer, task]
            assert cell.ci_low is not None
            assert cell.ci_low <= cell.value

    def test_each_tuned_model_has_lower_loss_than_the_base_on_what_it_was_tuned_on(self, finished):
        losses = {(r.task, r.role, r.seed): r for r in finished.results if r.metric == "answer_loss_nats"}
        controls = {(task, "control", 0) for task in TASKS} | {("sentiment", "control", 1)}
        assert {key for key in losses if key[1] != "base"} == controls | {("mixture", "experimental", 0)}
        for (task, role, _), r in losses.items():
            if role != "base":
                assert r.value < losses[task, "base", None].value
                assert r.note in {"4 steps", "6 steps"}  # two passes over 32 rows, or as many as are allowed
        for model in finished.facts["tuned_models"]:
            validation = list(model["validation_losses"].values())
            assert validation[-1] == min(validation)

    def test_answers_are_scored(self, finished):
        for metric in ("exact_match", "rouge_l", "chrf"):
            scored = [r for r in finished.results if r.metric == metric]
            assert len(scored) == 5 + 5 + 1  # bases of five models' data, controls with one repeat, experimental
            assert {r.n for r in scored} == {2}
            assert all(0 <= r.value <= 1 for r in scored)

    def test_each_other_measure_says_how_far_it_agrees(self, finished):
        agreement = {r.metric: r for r in finished.results if r.metric.startswith("agreement/")}
        assert set(agreement) == {f"agreement/tuning_gain_by_cka_and_{name}" for name in ("svcca", "procrustes")}
        for r in agreement.values():
            assert -1 <= r.value <= 1
            assert r.ci_low is not None
            assert r.n == 3 * 4

    def test_bands_are_reported_or_why_there_are_none(self, finished):
        boundaries = {(r.role, r.metric): r for r in finished.results if r.metric.startswith("boundary/")}
        assert set(boundaries) == {
            ("base", "boundary/label_cka"), ("experimental", "boundary/label_cka"), ("", "boundary/tuning_gain"),
            ("", "boundary/cka/control_vs_base"), ("", "boundary/cka/control_vs_experimental"),
        }  # fmt: skip
        assert {r.note for r in boundaries.values()} == {"not tried: 3 usable layers, at least 8 are needed"}

    def test_provenance_counts_the_texts_of_all_models(self, finished):
        rows = 32
        base_and_experimental = 2 * 4 * 3 * rows
        assert finished.facts["texts"] == 4 * 3 * rows
        assert finished.facts["texts_computed"] == base_and_experimental + 5 * rows
        assert {"tune", "read", "compare", "probes", "report"} <= set(finished.facts["seconds"])
        names = [model["name"] for model in finished.facts["tuned_models"]]
        assert names == ["sentiment", "sentiment", "topic", "tense", "agreement", "mixture"]

    def test_the_offline_wandb_run_holds_the_same_numbers_and_pictures(self, finished, logged):
        for name in ("tuning_gain", "cka/control_vs_base", "probe_gain/macro_f1"):
            table = logged["tables"][f"layer_by_task/{name}"]
            assert table["columns"][:3] == ["layer", "task", "value"]
            values = {(layer, task): value for layer, task, value, *_ in table["data"]}
            matrix = finished.matrix(name.replace("/", "_"))
            assert values == {cell: None if math.isnan(value) else value for cell, value in matrix.items()}
        assert {"control_models", "tuning_gain_groups", "map_base", "map_experimental", "heatmap/tuning_gain"} <= set(
            logged["images"]
        )
        assert (logged["config"]["study"]["mixture"]["unseen"], logged["exit_code"]) == (["agreement"], 0)


def test_a_second_run_reads_and_tunes_nothing_and_says_the_same(finished, tmp_path, no_pictures, monkeypatch, capsys):
    monkeypatch.setattr(
        "probes.tuning.tuned_backbone.load_tuned_backbone", lambda *_: pytest.fail("weights were loaded")
    )
    again = Finished(tmp_path, run(configured(tmp_path, *SMALL, cache=finished.folder / "cache")))
    assert (again.facts["forward_passes"], again.facts["texts_computed"]) == (0, 0)
    assert all(model["reused"] for model in again.facts["tuned_models"])
    assert again.objective == finished.objective
    assert (again.out / "results.csv").read_bytes() == (finished.out / "results.csv").read_bytes()
    screen = capsys.readouterr().out
    assert "sentiment (control, seed 1)" in screen
    assert "Test scores of answers: base model → tuned model" in screen


def test_one_model_of_a_sweep_is_tuned_alone(finished, tmp_path):
    cfg = configured(tmp_path, *SMALL, "study.only_models=[tense]", cache=finished.folder / "cache")
    assert math.isnan(run(cfg))
    alone = Finished(tmp_path, math.nan)
    assert [(model["name"], model["reused"]) for model in alone.facts["tuned_models"]] == [("tense", True)]
    assert {r.task for r in alone.results} == {"tense"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("suite.prompt=raw", r"'sentiment' and 'topic' share \d+ training prompts.*`suite\.prompt=instruction`"),
        ("study.only_models=[sst2]", r"No model is called sst2.*mixture.*`study\.only_models`"),
        ("study.stop_after=train", r"no stage 'train'.*`study\.stop_after`"),
        ("study.mixture.unseen=[sst2]", r"no task or cluster sst2.*`study\.mixture\.unseen`"),
        ("study.mixture.unseen=[semantics,morphology]", r"no seen task to mix.*`study\.mixture\.unseen`"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_the_backbone_is_loaded(tmp_path, override: str, message: str):
    missing = ("backbone=hub", "backbone.name=no/such-model")
    with pytest.raises(ValueError, match=message):
        run(configured(tmp_path, *SMALL[1:], *missing, override))


def flan_folder(folder: Path) -> Path:
    """Tasks of FLAN as they lie on the Hub: two of classes in two clusters, and one without classes."""
    answers = {"rte": ("yes", "no"), "sst2": ("good", "bad"), "trec": None}
    for task, words in answers.items():
        for split, rows in (("train", 24), ("validation", 8), ("test", 12)):
            lines = [
                json.dumps({
                    "inputs": f"{task} {split} {i} ends in {'xyzuvw'[i % 6]}",
                    "targets": f"about {i}" if words is None else words[i % 2],
                })
                for i in range(rows)
            ]  # fmt: skip
            (folder / split).mkdir(parents=True, exist_ok=True)
            (folder / split / f"{task}_10templates_{split}.jsonl").write_text("\n".join(lines))
    return folder


class TestPresets:
    def test_the_papers_runs_on_a_folder_of_flan_2021(self, tmp_path, no_pictures):
        folder = flan_folder(tmp_path / "flan")
        one_pass = ("tuning.max_epochs=1", "study.mixture.replicate_tasks=1", "probe.penalties=[0.1]")
        tiny = ("backbone=tiny", "~backbone.name", "trainer=cpu", f"suite.path={folder}")
        cfg = configured(tmp_path, *tiny, *FEW_STEPS, *one_pass, experiment="layer_by_layer_paper")
        assert (cfg.tuning.learning_rate, cfg.tuning.precision, cfg.tuning.batch_size) == (5e-5, "bfloat16", 16)
        found = Finished(tmp_path, run(cfg))
        assert {task for _, task in found.matrix("tuning_gain")} == {"rte", "sst2", "trec"}
        assert {task for _, task in found.matrix("base_macro_f1")} == {"rte", "sst2"}  # trec has no classes
        assert [m["name"] for m in found.facts["tuned_models"]] == [*3 * ["rte"], "sst2", "trec", "mixture"]
        assert all(np.isfinite(value) for value in found.matrix("tuning_gain").values())
        assert found.facts["suite"] == "flan2021"

    def test_the_small_one_runs_with_a_merged_experimental_model(self, tmp_path, no_pictures):
        folder = flan_folder(tmp_path / "flan")
        cfg = configured(
            tmp_path, "backbone=tiny", f"suite.path={folder}", *FEW_STEPS, "study.mixture.experimental=merged",
            "study.mixture.unseen=[trec]", "study.mixture.replicate_tasks=0", "study.with_probes=false",
            "analysis=none", experiment="layer_by_layer_mini",
        )  # fmt: skip
        found = Finished(tmp_path, run(cfg))
        experimental = found.facts["tuned_models"][-1]
        assert (experimental["name"], experimental["steps"]) == ("merged", 0)
        about = json.loads((Path(experimental["folder"]) / "merge.json").read_text())
        assert about["coefficient"] == 0.4
        assert [Path(f).name.split("-")[0] for f in about["merged"]] == ["rte", "sst2"]
        gains = found.matrix("tuning_gain")
        assert all(abs(value) > 1e-6 for (layer, _), value in gains.items() if layer != "0")
        assert {r.note for r in found.results if r.task == "mixture"} == {"not scored"}

    def test_the_small_one_tunes_its_mixture_and_repeats_four_tasks_twice(self, tmp_path):
        cfg = configured(tmp_path, f"suite.path={tmp_path}", experiment="layer_by_layer_mini")
        assert (cfg.study.mixture.experimental, cfg.suite.prompt) == ("tuned", "instruction")
        assert (cfg.study.mixture.replicate_tasks, cfg.study.mixture.replicate_seeds) == (4, 2)
