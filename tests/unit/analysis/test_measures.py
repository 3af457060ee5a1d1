from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tensor_samples import draw

from probes.analysis import (
    BetweenTasks,
    LabelCKA,
    LayerAnalysis,
    ReferenceCKA,
    RowMeasure,
    SpectralMeasure,
    TaskRows,
    between_share,
    biased_cka_floor,
    cka_pairs,
    confidence_interval,
    effective_rank,
    group_identity_accuracy,
    label_cka,
    silhouette,
    silhouette_of_draws,
)
from probes.cli import CONFIG_DIR

PLANTED = 1


def task_rows(kind: str = "classification", rows: int = 60) -> TaskRows:
    """Three layers, of which the middle one encodes the labels and is similar to the reference's middle layer."""
    values, reference = draw(3, rows, 8), draw(3, rows, 6, seed=1)
    hidden = draw(rows, 3, seed=2)
    values[PLANTED, :, :3] += 3 * hidden
    reference[PLANTED, :, :3] += 3 * hidden
    labels = {"classification": hidden.argmax(1), "multilabel": (hidden > 0).float(), "regression": hidden[:, 0]}
    return TaskRows(values, labels[kind], reference)


def configured(analysis: str, *overrides: str) -> LayerAnalysis:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return instantiate(compose("train", overrides=[f"analysis={analysis}", *overrides]).analysis)


class TestLabelCKA:
    @pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
    def test_it_equals_label_cka_and_finds_the_planted_layer_for_every_kind_of_labels(self, kind: str):
        rows = task_rows(kind)
        assert rows.labels is not None
        estimates = LabelCKA()(rows)
        np.testing.assert_allclose(estimates.values, label_cka(rows.values, rows.labels), atol=1e-6)
        assert estimates.errors is not None
        assert estimates.null is not None
        assert (estimates.n, estimates.errors.shape, estimates.null.shape) == (60, (60, 3), (200, 3))
        assert abs(estimates.null.mean()) < 0.01
        assert (estimates.null >= estimates.values).mean(0)[PLANTED] == 0
        assert (estimates.null >= estimates.values).mean(0)[[0, 2]].max() > 0.05
        low, high = confidence_interval(estimates.values, estimates.errors)
        assert low[PLANTED] > 0.1 > 0.06 > low[0]
        assert (low <= estimates.values).all()
        assert (estimates.values <= high).all()

    @pytest.mark.parametrize(
        ("odd", "note"), [(0, "all rows have the same label"), (1, "all rows but one have the same label")]
    )
    def test_labels_without_variation_give_nan_and_a_note(self, odd: int, note: str):
        labels = torch.full((60,), 2)
        labels[:odd] = 0
        estimates = LabelCKA(permutations=5)(replace(task_rows(), labels=labels))
        assert np.isnan(estimates.values).all()
        assert estimates.note == note
        labels[:2] = 0
        assert np.isfinite(LabelCKA(permutations=5)(replace(task_rows(), labels=labels)).values).all()

    def test_a_constant_layer_is_nan_with_its_own_note(self):
        rows = task_rows()
        rows.values[0] = 1.5
        estimates = LabelCKA(permutations=5)(rows)
        assert np.isnan(estimates.values).tolist() == [True, False, False]
        assert estimates.note == "constant layer: all rows, or all but one, are equal"

    def test_permutations_are_determined_by_the_seed_and_may_be_none(self):
        rows = task_rows()
        nulls = [LabelCKA(permutations=9, seed=seed)(rows).null for seed in (0, 0, 1)]
        first, again, other = (null for null in nulls if null is not None)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert LabelCKA(permutations=0)(rows).null is None


class TestReferenceCKA:
    def test_it_equals_the_cka_of_matched_layers_and_has_a_null(self):
        rows = task_rows()
        assert rows.reference is not None
        estimates = ReferenceCKA(permutations=50)(rows)
        np.testing.assert_allclose(estimates.values, cka_pairs(rows.values, rows.reference).diagonal(), atol=1e-6)
        assert estimates.null is not None
        assert estimates.null.shape == (50, 3)
        assert np.argmax(estimates.values) == PLANTED
        assert ((estimates.null >= estimates.values).mean(0) == 0).tolist() == [False, True, False]

    def test_the_biased_estimate_has_its_floor_as_null_and_another_name(self):
        rows = task_rows()
        assert rows.reference is not None
        biased = ReferenceCKA(debiased=False)
        estimates = biased(rows)
        expected = cka_pairs(rows.values, rows.reference, debiased=False).diagonal()
        np.testing.assert_allclose(estimates.values, expected, atol=1e-6)
        assert estimates.null is not None
        np.testing.assert_allclose(estimates.null, biased_cka_floor(rows.values, rows.reference)[None], atol=1e-12)
        assert estimates.errors is not None
        assert estimates.errors.shape == (60, 3)
        assert (biased.quantity, ReferenceCKA().quantity) == ("reference_cka_biased", "reference_cka")


@pytest.mark.parametrize(
    ("measure", "missing"),
    [
        (LabelCKA(), "labels"),
        (ReferenceCKA(), "reference"),
        (RowMeasure(quantity="overlap", unit="", function=torch.sub, needs="reference"), "reference"),
    ],
    ids=["labels", "reference", "function of two models"],
)
def test_a_measure_called_without_what_it_needs_says_so(measure, missing: str):
    with pytest.raises(ValueError, match=f"'{measure.quantity}' needs `{missing}`"):
        measure(TaskRows(draw(2, 20, 3)))


def test_a_spectral_measure_equals_its_function_and_has_errors():
    rows = task_rows()
    estimates = SpectralMeasure()(rows)
    np.testing.assert_allclose(estimates.values, effective_rank(rows.values), rtol=1e-5)
    assert estimates.errors is not None
    assert (estimates.n, estimates.errors.shape, estimates.null) == (60, (60, 3), None)


class TestRowMeasure:
    @staticmethod
    def mean_square(**options) -> RowMeasure:
        return RowMeasure(
            quantity="mean_square", unit="", function=lambda x, *_: x.square().mean((1, 2)), needs="rows", **options
        )

    def test_its_function_gets_all_rows_in_order_or_a_seeded_sample_whose_size_is_reported(self):
        rows, seen = task_rows(), []

        def first_column(x: torch.Tensor) -> torch.Tensor:
            seen.append(x[0, :, 0])
            return x.mean((1, 2))

        measure = RowMeasure(quantity="m", unit="", function=first_column, half_samples=0)
        assert measure(rows).n == 60
        assert torch.equal(seen[-1], rows.values[0, :, 0])
        assert [replace(measure, max_rows=20, seed=seed)(rows).n for seed in (0, 0, 1)] == [20, 20, 20]
        assert torch.equal(seen[1], seen[2])
        assert not torch.equal(seen[1], seen[3])
        places = [rows.values[0, :, 0].tolist().index(value) for value in seen[1].tolist()]
        assert places == sorted(set(places))

    def test_its_errors_match_the_standard_error_of_a_mean(self):
        x = draw(40, 200, 5)
        estimates = self.mean_square(half_samples=100)(TaskRows(x))
        assert estimates.errors is not None
        expected = x.square().mean(2).std(1).numpy() / np.sqrt(200)
        assert np.sqrt((estimates.errors**2).sum(0)).mean() == pytest.approx(expected.mean(), rel=0.1)
        assert self.mean_square(half_samples=0)(TaskRows(x)).errors is None

    def test_its_function_gets_the_reference_only_if_it_needs_it(self):
        rows, shapes = task_rows(), []

        def count(*given: torch.Tensor) -> torch.Tensor:
            shapes.append([tuple(values.shape) for values in given])
            return torch.zeros(3)

        RowMeasure(quantity="m", unit="", function=count, half_samples=4)(rows)
        RowMeasure(quantity="m", unit="", function=count, half_samples=4, needs="reference", max_rows=10)(rows)
        half, whole = [(3, 30, 8)], [(3, 60, 8)]
        assert shapes[:5] == [half, half, half, half, whole]
        assert shapes[5:] == [[(3, 5, 8), (3, 5, 6)]] * 4 + [[(3, 10, 8), (3, 10, 6)]]

    def test_both_models_are_compared_on_the_same_rows(self):
        x = draw(3, 60, 8)

        def distance(values: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            return (values - reference).abs().sum((1, 2))

        measure = RowMeasure(quantity="m", unit="", function=distance, needs="reference", max_rows=20)
        equal = measure(TaskRows(x, reference=x.clone()))
        assert equal.errors is not None
        assert not equal.values.any()
        assert not equal.errors.any()
        assert measure(TaskRows(x, reference=x.flip(1))).values.all()


class TestConfigs:
    def test_each_config_extends_the_one_before(self):
        none, default, full = (configured(name) for name in ("none", "default", "full"))
        assert (none.measures, none.between, none.table.specificity_of) == ((), (), ())
        quantities = {measure.quantity for measure in default.measures}
        assert quantities == {"label_cka", "effective_rank", "reference_cka", "reference_cka_biased"}
        assert quantities < {measure.quantity for measure in full.measures}
        assert {measure.quantity for measure in default.between} < {measure.quantity for measure in full.between}
        names = [measure.quantity for measure in (*full.measures, *full.between)]
        assert len(set(names)) == len(names)

    def test_every_measure_of_full_gives_finite_values_with_intervals_around_them(self):
        rows = task_rows()
        for measure in configured("full").measures:
            estimates, name = measure(rows), measure.quantity
            assert estimates.values.dtype == np.float64, name
            assert estimates.values.shape == (3,), name
            assert np.isfinite(estimates.values).all(), name
            assert estimates.n == 60, name
            if getattr(measure, "least_rows", 0) > 60:
                assert estimates.errors is None, name
                estimates = replace(measure, least_rows=60)(rows)
            assert estimates.errors is not None, name
            assert np.isfinite(estimates.errors).all(), name
            assert (np.square(estimates.errors).sum(0) > 0).all(), name
            if measure.needs == "reference":
                assert np.argmax(estimates.values) == PLANTED, name

    def test_every_measure_between_tasks_of_full_finds_the_layer_that_separates_them(self):
        rows_by_task = [draw(3, 30, 8, seed=seed) for seed in (1, 2)]
        rows_by_task[0][PLANTED] += 2
        for measure in configured("full").between:
            estimates = measure(rows_by_task)
            assert np.isfinite(estimates.values).all(), measure.quantity
            assert np.argmax(estimates.values) == PLANTED, measure.quantity

    def test_means_of_halves_count_as_the_calibration_of_each_measure_says(self):
        full = configured("full")
        counted = {m.quantity: m.half_means for m in (*full.measures, *full.between) if hasattr(m, "half_means")}
        assert {quantity: what for quantity, what in counted.items() if what != "ignored"} == {
            "participation_ratio": "added",
            "reference_procrustes": "added",
            "task_separability/silhouette": "subtracted",
            "task_separability/between_share": "subtracted",
        }

    def test_the_seed_of_the_analysis_reaches_every_measure(self):
        built = configured("full", "analysis.seed=7")
        seeded = [measure for measure in (*built.measures, *built.between) if hasattr(measure, "seed")]
        assert len(seeded) > 10
        assert {measure.seed for measure in seeded if getattr(measure, "debiased", True)} == {7}


def tasks(*, distance: float = 3.0, sizes: tuple[int, ...] = (30, 20, 40)) -> list[torch.Tensor]:
    """Rows of three tasks at two layers, the second of which separates them."""
    rows_by_task = [draw(2, size, 6, seed=seed) for seed, size in enumerate(sizes)]
    for number, rows in enumerate(rows_by_task):
        rows[1, :, number] += distance
    return rows_by_task


SILHOUETTE = BetweenTasks(quantity="silhouette", unit="silhouette", function=silhouette)


def test_between_tasks_equals_its_function_of_all_rows_and_their_tasks():
    rows = tasks()
    expected = silhouette(torch.cat(rows, dim=1), torch.tensor([0] * 30 + [1] * 20 + [2] * 40))
    estimates = SILHOUETTE(rows)
    np.testing.assert_allclose(estimates.values, expected)
    assert estimates.n == 90
    assert estimates.errors is not None
    assert estimates.errors.shape == (20, 2)


def test_computing_all_half_samples_at_once_gives_the_same_errors():
    at_once = replace(SILHOUETTE, of_draws=silhouette_of_draws)(tasks())
    one_by_one = SILHOUETTE(tasks())
    assert at_once.errors is not None
    assert one_by_one.errors is not None
    np.testing.assert_allclose(at_once.errors, one_by_one.errors, atol=1e-12)
    assert np.abs(at_once.errors).min() > 0


@pytest.mark.parametrize(
    "function",
    [silhouette, partial(between_share, debiased=True), partial(group_identity_accuracy, seed=0)],
    ids=["silhouette", "between_share", "identity"],
)
def test_separated_tasks_are_found_at_their_layer_and_equal_ones_nowhere(function):
    chance = 1 / 3 if isinstance(function, partial) and function.func is group_identity_accuracy else 0.0
    estimates = BetweenTasks(quantity="q", unit="", function=function)(tasks())
    assert estimates.errors is not None
    low, _ = confidence_interval(estimates.values, estimates.errors)
    assert low[1] > chance + 0.1
    assert abs(estimates.values[0] - chance) < 0.1
    assert abs(BetweenTasks(quantity="q", unit="", function=function)(tasks(distance=0)).values - chance).max() < 0.1


def test_chance_is_a_number_or_one_over_the_number_of_tasks():
    for chance, expected in ((0.0, 0.0), (0.25, 0.25), (None, 1 / 3)):
        estimates = BetweenTasks(quantity="q", unit="", function=silhouette, chance=chance, half_samples=0)(tasks())
        np.testing.assert_array_equal(estimates.null, [[expected, expected]])
        assert estimates.errors is None


def test_the_half_samples_are_determined_by_the_seed():
    halved = [BetweenTasks(quantity="q", unit="", function=silhouette, seed=seed)(tasks()) for seed in (0, 0, 1)]
    first, again, other = (estimates.errors for estimates in halved if estimates.errors is not None)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_between_tasks_a_constant_layer_is_nan():
    rows_by_task = tasks()
    for rows in rows_by_task:
        rows[0] = 1.5
    assert np.isnan(SILHOUETTE(rows_by_task).values).tolist() == [True, False]


def test_between_tasks_a_single_task_is_refused():
    with pytest.raises(ValueError, match="'silhouette' compares tasks and needs at least 2; got 1"):
        SILHOUETTE(tasks()[:1])


def test_every_half_sample_has_half_of_every_task():
    seen: list[list[int]] = []

    def count(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        seen.append(groups.bincount(minlength=3).tolist())
        return torch.zeros(len(x))

    BetweenTasks(quantity="q", unit="", function=count)(tasks(sizes=(4, 10, 6)))
    assert seen[0] == [4, 10, 6]
    assert seen[1:] == [[2, 5, 3]] * 40
