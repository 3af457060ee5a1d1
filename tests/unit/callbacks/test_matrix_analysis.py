"""Layers of a model in tuning: watched as they change, without changing how they change."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tuning_samples import toy_splits

from probes.analysis import (
    BetweenTasks,
    LabelCKA,
    LayerAnalysis,
    ReferenceCKA,
    SpectralMeasure,
    TaskRows,
    cka_pairs,
    label_cka,
    layer_by_task,
    result_rows,
    silhouette,
    specificity,
)
from probes.architectures import LinearProbe
from probes.backbones import tiny_backbone
from probes.callbacks import LiveRows, MatrixAnalysis
from probes.report import FilesOnly, read_results, report_findings
from probes.training import LabelledActivations, ProbeSettings, TaskData, default_trainer, fit_task
from probes.tuning import TuningSettings, tune
from probes.values import Activations, Estimates, Layer, LayerByTask, Reading, Result, RunNames

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
SETTINGS = TuningSettings(learning_rate=1e-2, max_steps=6, batch_size=8, rank=4, dropout=0.1, generate_rows=0)
TEXTS = tuple(f"{word} so {number}:" for word in ("cat", "a bird") for number in range(8))


def tuned_with(cache_dir, *callbacks):
    backbone = tiny_backbone()
    done = tune(
        "toy",
        backbone,
        toy_splits(),
        SETTINGS,
        trainer=default_trainer,
        seed=0,
        cache_dir=cache_dir,
        callbacks=callbacks,
    )
    assert done.folder is not None
    return load_file(done.folder / "adapter_model.safetensors")


def matrices_of(analysis: LayerAnalysis) -> list[LayerByTask]:
    return [layer_by_task(result_rows(group)) for group in analysis.finish().matrices]


def results_of(analysis: LayerAnalysis) -> list[Result]:
    return result_rows(analysis.finish().profiles)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    live = LiveRows(tiny_backbone(), {"toy": TEXTS}, {"toy": torch.arange(16) % 2})
    measures = {"a": LabelCKA(permutations=0), "b": SpectralMeasure(), "c": ReferenceCKA(permutations=0)}
    analysis = LayerAnalysis(measures, specificity_of=["*"], segments_of=["*"])
    callback = MatrixAnalysis(analysis, live=live, every_n_steps=3)
    return analysis, tuned_with(tmp_path_factory.mktemp("watched"), callback)


def test_each_due_step_is_a_column_of_each_measure(watched):
    matrices = {matrix.quantity: matrix for matrix in matrices_of(watched[0])}
    assert set(matrices) == {"live/toy/label_cka", "live/toy/effective_rank", "live/toy/reference_cka"}
    assert matrices["live/toy/label_cka"].tasks == ("step_0", "step_3", "step_6")


def test_layers_start_as_the_base_and_move_away(watched):
    (matrix,) = [m for m in matrices_of(watched[0]) if m.quantity == "live/toy/reference_cka"]
    known = np.isfinite(matrix.values).all(1)
    assert known.sum() >= 3
    np.testing.assert_allclose(matrix.values[known, 0], 1, atol=1e-6)
    assert (matrix.values[known, 2] < 1 - 1e-4).any()


def test_a_model_is_watched_through_the_chat_template_of_its_base():
    base = tiny_backbone()
    base.tokenizer.wrapped.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    base.tokenizer.chat_template = True
    live = LiveRows(base, {"toy": TEXTS}, {})
    ((_, now),) = live.now(base.model)
    before = live.before("toy")
    assert now.row_ids == before.row_ids
    assert torch.equal(now.values, before.values)
    plain = LiveRows(tiny_backbone(), {"toy": TEXTS}, {}).before("toy")
    assert plain.row_ids != now.row_ids  # the control: the template changes what is read


def test_watching_does_not_change_what_is_learnt(watched, tmp_path):
    alone = tuned_with(tmp_path)
    assert alone.keys() == watched[1].keys()
    for name, weight in alone.items():
        assert torch.equal(weight, watched[1][name])


def test_without_a_step_or_without_rows_nothing_is_read(tmp_path):
    analysis = LayerAnalysis({"b": SpectralMeasure()})
    tuned_with(tmp_path, MatrixAnalysis(analysis, every_n_steps=1))
    assert analysis.finish().matrices == ()


def test_a_module_without_language_model_and_an_impossible_interval_are_refused():
    live = LiveRows(tiny_backbone(), {"toy": TEXTS}, {})
    callback = MatrixAnalysis(LayerAnalysis(), live=live, every_n_steps=1)
    module = type("Plain", (torch.nn.Linear,), {})(2, 2)
    trainer = type("Trainer", (), {"global_step": 0, "is_global_zero": True})()
    with pytest.raises(ValueError, match=r"got Plain\."):
        callback.on_train_start(trainer, module)
    with pytest.raises(ValueError, match=r"`callbacks\.every_n_steps` must be at least 1"):
        MatrixAnalysis(LayerAnalysis(), every_n_steps=0)
    other_rank = type("Trainer", (), {"global_step": 0, "is_global_zero": False})()
    callback.on_train_start(other_rank, module)


LAST, MEAN = Reading("decoder", "residual", "last"), Reading("decoder", "residual", "mean")
LAYERS: tuple[Layer, ...] = (0, 1, 2)
PROBE_SETTINGS = ProbeSettings(bootstrap_samples=10, penalties=(0.1,))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def split_of(name: str, rows: int, seed: int, *, reading: Reading) -> LabelledActivations:
    """Layer 1 holds the labels."""
    labels, values = torch.arange(rows) % 2, draw(3, rows, 6, seed=seed)
    values[1, :, 0] += 3 * labels
    return LabelledActivations(Activations(values, LAYERS, tuple(f"{name}-{i}" for i in range(rows)), reading), labels)


def data_of(task: str = "sst2", seed: int = 0, *, reading: Reading = LAST, validation: int = 0) -> TaskData:
    sizes = {"train": 40, "validation": validation, "test": 24}
    splits = {
        split: split_of(f"{task}-{split}", rows, 10 * seed + i, reading=reading)
        for i, (split, rows) in enumerate(sizes.items())
    }
    return TaskData(task=task, kind="classification", labels=("no", "yes"), **splits)


class Spread:
    """A measure of the user's own, which remembers what it was shown."""

    quantity: ClassVar = "spread"
    unit: ClassVar = "activation"
    needs: ClassVar = "rows"

    def __init__(self) -> None:
        self.seen: list[TaskRows] = []

    def __call__(self, rows: TaskRows) -> Estimates:
        self.seen.append(rows)
        return Estimates(rows.values.std((1, 2)).double().numpy(), rows.values.shape[1])


class Remembering(FilesOnly):
    def __init__(self) -> None:
        self.matrices: list[str] = []
        self.pictures: list[str] = []

    def log_picture(self, name: str, picture: Path) -> None:
        self.pictures.append(name)

    def log_matrix(self, matrix: LayerByTask, heatmap: Path, *, primary: bool) -> None:
        self.matrices.append(matrix.quantity if primary else f"{matrix.quantity}@{matrix.reading}")


SILHOUETTE = BetweenTasks(quantity="task_separability/silhouette", unit="silhouette", function=silhouette)


def callback_of(*measures: Any, between: Sequence[BetweenTasks] = (), reference: Any = None, **options: Any):
    """A callback with an analysis of these measures."""
    named = {measure.quantity: measure for measure in measures}
    analysis = LayerAnalysis(named, between={measure.quantity: measure for measure in between}, **options)
    return MatrixAnalysis(analysis, reference=reference)


def values_of(results: Sequence[Result], metric: str, task: str) -> list[float]:
    return [r.value for r in results if (r.metric, r.task) == (metric, task)]


class TestTrainers:
    @pytest.mark.parametrize(
        ("settings", "validation"),
        [
            (PROBE_SETTINGS, 0),
            (PROBE_SETTINGS, 40),
            (
                ProbeSettings(
                    bootstrap_samples=10, architecture=LinearProbe, fit="minibatch", penalties=(0.0,), max_epochs=1,
                    max_bank_bytes=1, min_validation_rows=10,
                ),
                40,
            ),
        ],
        ids=["folds", "exact", "turns"],
    )  # fmt: skip
    def test_each_task_is_added_once_however_many_fits_it_takes(self, settings: ProbeSettings, validation: int):
        spread, fits = Spread(), Counter()

        def factory(**overrides: Any):
            fits[task.task] += 1
            return default_trainer(callbacks=[shared], **overrides)

        shared = callback_of(spread, LabelCKA(permutations=9))
        for seed, name in enumerate(("sst2", "trec")):
            task = data_of(name, seed, validation=validation)
            fit_task(task, settings, factory, 0)
        assert len(fits) == 2
        assert min(fits.values()) >= (1 if validation and settings is PROBE_SETTINGS else 3)
        assert [rows.values.shape for rows in spread.seen] == [(3, 24, 6)] * 2
        results = results_of(shared.analysis)
        assert Counter(r.metric for r in results) == {"spread": 6, "label_cka": 6}
        for seed, name in enumerate(("sst2", "trec")):
            test = data_of(name, seed).test
            expected = label_cka(test.activations.values, test.targets)
            np.testing.assert_allclose(values_of(results, "label_cka", name), expected, atol=1e-6)
            assert expected.argmax() == 1

    def test_a_reading_each_is_its_own_matrix(self):
        shared = callback_of(Spread())
        for reading in (LAST, MEAN):
            for name in ("sst2", "trec"):
                fit_task(
                    data_of(name, reading=reading),
                    PROBE_SETTINGS,
                    partial(default_trainer, callbacks=[shared]),
                    0,
                )
        assert [(m.quantity, m.reading, m.tasks) for m in matrices_of(shared.analysis)] == [
            ("spread", reading, ("sst2", "trec")) for reading in (LAST, MEAN)
        ]

    def test_a_test_loop_adds_the_task_too(self):
        spread = Spread()
        trainer = SimpleNamespace(is_global_zero=True, datamodule=SimpleNamespace(task_data=data_of()))
        callback_of(spread).on_test_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
        assert len(spread.seen) == 1

    @pytest.mark.parametrize("hook", ["on_fit_end", "on_test_end"])
    def test_other_ranks_and_other_data_modules_add_nothing(self, hook: str):
        spread = Spread()
        shared = callback_of(spread)
        for rank_zero, data in ((False, SimpleNamespace(task_data=data_of())), (True, SimpleNamespace()), (True, None)):
            getattr(shared, hook)(SimpleNamespace(is_global_zero=rank_zero, datamodule=data), SimpleNamespace())
        assert spread.seen == []
        assert results_of(shared.analysis) == []
        getattr(shared, hook)(  # positive control
            SimpleNamespace(is_global_zero=True, datamodule=SimpleNamespace(task_data=data_of())), SimpleNamespace()
        )
        assert len(spread.seen) == 1


class TestNeeds:
    def test_measures_whose_needs_are_missing_are_left_out(self):
        shared = callback_of(Spread(), LabelCKA(permutations=5), ReferenceCKA(permutations=5))
        shared.analysis.add("sst2", data_of().test.activations)
        assert {r.metric for r in results_of(shared.analysis)} == {"spread"}
        shared.analysis.add("trec", *data_of("trec").test)
        assert {r.metric for r in results_of(shared.analysis)} == {"spread", "label_cka"}

    def test_the_reference_is_asked_by_task_and_reading_and_joined_by_row_id(self):
        asked: list[tuple[str, Reading]] = []
        test = data_of().test
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))[:20]

        def reference(task: str, reading: Reading) -> Activations:
            asked.append((task, reading))
            x = test.activations
            return Activations(x.values[:, order], x.layers, tuple(x.row_ids[i] for i in order.tolist()), MEAN)

        spread = Spread()
        shared = callback_of(ReferenceCKA(permutations=9), LabelCKA(permutations=9), spread, reference=reference)
        shared.add_task(data_of())
        assert asked == [("sst2", LAST)]
        results = results_of(shared.analysis)
        np.testing.assert_allclose(values_of(results, "reference_cka", "sst2"), 1, atol=1e-6)
        kept = order.sort().values
        expected = label_cka(test.activations.values[:, kept], test.targets[kept])
        np.testing.assert_allclose(values_of(results, "label_cka", "sst2"), expected, atol=1e-6)
        assert {r.n for r in results} == {20}
        assert spread.seen[0].reference is not None

    def test_a_reference_of_other_depth_is_matched_by_depth(self):
        x = data_of().test.activations
        deeper = Activations(draw(5, 24, 8, seed=5), (0, 1, 2, 3, 4), x.row_ids, LAST)
        shared = callback_of(ReferenceCKA(permutations=9), reference=lambda *_: deeper)
        shared.add_task(data_of())
        expected = cka_pairs(x.values, deeper.values)[[0, 1, 2], [0, 2, 4]]
        np.testing.assert_allclose(values_of(results_of(shared.analysis), "reference_cka", "sst2"), expected, atol=1e-6)


class TestBetweenTasks:
    def test_specificity_and_separability_want_two_tasks(self):
        shared = callback_of(LabelCKA(permutations=5), between=[SILHOUETTE], specificity_of=["label_cka"])
        shared.add_task(data_of("sst2"))
        assert [m.quantity for m in matrices_of(shared.analysis)] == ["label_cka"]
        shared.add_task(data_of("trec", 1))
        found = matrices_of(shared.analysis)
        assert [m.quantity for m in found] == [*("label_cka", "task_separability/silhouette", "specificity/label_cka")]
        label, separability, specific = found
        np.testing.assert_allclose(specific.values, specificity(label.values)[0], atol=1e-12)
        assert specific.tasks == ("sst2", "trec")
        assert separability.tasks == ("all_tasks",)
        assert (separability.null_mean == 0).all()

    def test_separability_sees_a_seeded_sample_of_each_tasks_rows(self):
        tasks = [data_of("sst2"), data_of("trec", 1)]

        def found(rows_per_task: int, seed: int = 0) -> LayerByTask:
            shared = callback_of(between=[SILHOUETTE], rows_per_task=rows_per_task, seed=seed)
            for task in tasks:
                shared.add_task(task)
            return matrices_of(shared.analysis)[-1]

        every = torch.cat([task.test.activations.values for task in tasks], dim=1)
        expected = silhouette(every, torch.arange(2).repeat_interleave(24))
        np.testing.assert_allclose(found(64).values[:, 0], expected)
        np.testing.assert_array_equal(found(10).values, found(10).values)
        assert not np.array_equal(found(10).values, found(64).values)
        assert not np.array_equal(found(10).values, found(10, seed=1).values)

    def test_a_star_stands_for_every_quantity(self):
        shared = callback_of(LabelCKA(permutations=5), Spread(), specificity_of=["*"])
        for seed, name in enumerate(("sst2", "trec")):
            shared.add_task(data_of(name, seed))
        names = {m.quantity for m in matrices_of(shared.analysis)}
        assert names == {"label_cka", "spread", "specificity/label_cka", "specificity/spread"}


def test_every_quantity_goes_to_each_place_exactly_once(tmp_path):
    options: dict[str, Any] = {"specificity_of": ["label_cka"], "segments_of": ["label_cka"]}
    shared = callback_of(LabelCKA(permutations=19), between=[SILHOUETTE], **options)
    for reading in (LAST, MEAN):
        for seed, name in enumerate(("sst2", "trec")):
            shared.add_task(data_of(name, seed, reading=reading))
    logger = Remembering()
    found = report_findings(tmp_path, shared.analysis.finish(), names=RunNames(study="mine"), logger=logger)
    names = ["label_cka", "task_separability/silhouette", "specificity/label_cka"]
    assert logger.matrices == names + [f"{name}@{MEAN}" for name in names]
    stems = [name.replace("/", "_") for name in names]
    stems += [f"{stem}@{MEAN}" for stem in stems]
    assert sorted(p.stem for p in (tmp_path / "layer_by_task").iterdir()) == sorted(stems)
    bands = ["bands_label_cka", f"bands_label_cka@{MEAN}"]
    profiles = [f"{stem}_profiles" for stem in stems[:2]]  # of specificity no curves are drawn
    assert sorted(p.stem for p in (tmp_path / "figures").iterdir()) == sorted([*stems, *profiles, *bands])
    assert logger.pictures == [name.replace("_", "/", 1) for name in bands]
    assert [path.stem for path in found.heatmaps] == stems
    written = read_results(tmp_path / "results.csv")
    cells = Counter((r.metric, r.task, r.layer, r.pooling) for r in written)
    assert set(cells.values()) == {1}
    found_of_segments = 3 + 1  # the spread over tasks at three layers, and that no boundary could be looked for
    assert len(cells) == 2 * (2 * 3 * 2 + 3 + found_of_segments)
    assert {r.study for r in written} == {"mine"}
    assert len(written) == len(found.results)
    by_cell = {(r.metric, r.task, r.layer, r.pooling): r for r in written}
    for matrix in matrices_of(shared.analysis):
        stem = matrix.quantity.replace("/", "_") + ("" if matrix.reading == LAST else f"@{matrix.reading}")
        with (tmp_path / f"layer_by_task/{stem}.csv").open() as file:
            for row in csv.DictReader(file):
                for task in matrix.tasks:
                    cell = by_cell[matrix.quantity, task, int(row["layer"]), matrix.reading.pooling]
                    assert float(row[task]) == cell.value
    tested = [r for r in written if r.metric == "label_cka"]
    assert all(r.ci_low is not None and r.ci_low < r.value and r.p is not None and 0.05 <= r.p <= 1 for r in tested)


def test_without_measures_nothing_is_found():
    shared = callback_of()
    shared.add_task(data_of())
    assert (results_of(shared.analysis), matrices_of(shared.analysis)) == ([], [])
