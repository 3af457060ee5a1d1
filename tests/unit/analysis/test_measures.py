from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

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


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task_rows(kind: str = "classification", rows: int = 60) -> TaskRows:
    """Three layers; the middle one holds the labels and is like the reference's middle layer."""
    values, reference = draw(3, rows, 8), draw(3, rows, 6, seed=1)
    hidden = draw(rows, 3, seed=2)
    values[PLANTED, :, :3] += 3 * hidden
    reference[PLANTED, :, :3] += 3 * hidden
    labels = {"classification": hidden.argmax(1), "multilabel": (hidden > 0).float(), "regression": hidden[:, 0]}
    return TaskRows(values, labels[kind], reference)


def configured(name: str) -> dict[str, Any]:
    """The node `analysis` of the config, its measures built and the analysis itself not."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        node = compose("train", overrides=[f"analysis={name}"]).analysis
    node = OmegaConf.to_container(node, resolve=True)
    del node["_target_"]
    return instantiate(node, _convert_="all")


class TestLabelCKA:
    @pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
    def test_it_is_label_cka_and_finds_the_planted_layer_in_every_kind_of_labels(self, kind: str):
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

    @pytest.mark.parametrize(("odd", "note"), [(0, "all rows have one label"), (1, "all rows but one have one label")])
    def test_one_label_only_is_nan_with_that_note(self, odd: int, note: str):
        labels = torch.full((60,), 2)
        labels[:odd] = 0
        estimates = LabelCKA(permutations=5)(replace(task_rows(), labels=labels))
        assert np.isnan(estimates.values).all()
        assert estimates.note == note
        labels[:2] = 0
        assert np.isfinite(LabelCKA(permutations=5)(replace(task_rows(), labels=labels)).values).all()

    def test_a_constant_layer_is_nan_with_another_note(self):
        rows = task_rows()
        rows.values[0] = 1.5
        estimates = LabelCKA(permutations=5)(rows)
        assert np.isnan(estimates.values).tolist() == [True, False, False]
        assert estimates.note == "constant layer: all rows, or all but one, are equal"

    def test_permutations_are_decided_by_the_seed_and_may_be_none(self):
        rows = task_rows()
        nulls = [LabelCKA(permutations=9, seed=seed)(rows).null for seed in (0, 0, 1)]
        first, again, other = (null for null in nulls if null is not None)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert LabelCKA(permutations=0)(rows).null is None


class TestReferenceCKA:
    def test_it_is_the_cka_of_matched_layers_with_its_own_null(self):
        rows = task_rows()
        assert rows.reference is not None
        estimates = ReferenceCKA(permutations=50)(rows)
        np.testing.assert_allclose(estimates.values, cka_pairs(rows.values, rows.reference).diagonal(), atol=1e-6)
        assert estimates.null is not None
        assert estimates.null.shape == (50, 3)
        assert np.argmax(estimates.values) == PLANTED
        assert ((estimates.null >= estimates.values).mean(0) == 0).tolist() == [False, True, False]

    def test_the_biased_one_stands_beside_its_floor_under_another_name(self):
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


def test_a_spectral_measure_is_its_plain_function_with_errors():
    rows = task_rows()
    estimates = SpectralMeasure()(rows)
    np.testing.assert_allclose(estimates.values, effective_rank(rows.values), rtol=1e-5)
    assert estimates.errors is not None
    assert (estimates.n, estimates.errors.shape, estimates.null) == (60, (60, 3), None)


class TestRowMeasure:
    @staticmethod
    def of_squares(**options) -> RowMeasure:
        return RowMeasure(
            quantity="squares", unit="", function=lambda x, *_: x.square().mean((1, 2)), needs="rows", **options
        )

    def test_it_sees_all_rows_in_order_or_a_seeded_sample_and_says_how_many(self):
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

    def test_its_errors_are_those_of_its_rows(self):
        x = draw(40, 200, 5)
        estimates = self.of_squares(half_samples=100)(TaskRows(x))
        assert estimates.errors is not None
        expected = x.square().mean(2).std(1).numpy() / np.sqrt(200)
        assert np.sqrt((estimates.errors**2).sum(0)).mean() == pytest.approx(expected.mean(), rel=0.1)
        assert self.of_squares(half_samples=0)(TaskRows(x)).errors is None

    def test_only_one_that_needs_the_reference_is_given_it(self):
        rows, sides = task_rows(), []

        def count(*given: torch.Tensor) -> torch.Tensor:
            sides.append([tuple(part.shape) for part in given])
            return torch.zeros(3)

        RowMeasure(quantity="m", unit="", function=count, half_samples=2)(rows)
        RowMeasure(quantity="m", unit="", function=count, half_samples=2, needs="reference", max_rows=10)(rows)
        half, whole = [(3, 30, 8)], [(3, 60, 8)]
        assert sides[:3] == [half, half, whole]
        assert sides[3:] == [[(3, 5, 8), (3, 5, 6)]] * 2 + [[(3, 10, 8), (3, 10, 6)]]

    def test_both_sides_are_of_the_same_rows_in_sample_and_halves(self):
        x = draw(3, 60, 8)

        def apart(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return (own - other).abs().sum((1, 2))

        measure = RowMeasure(quantity="m", unit="", function=apart, needs="reference", max_rows=20)
        alike = measure(TaskRows(x, reference=x.clone()))
        assert alike.errors is not None
        assert not alike.values.any()
        assert not alike.errors.any()
        assert measure(TaskRows(x, reference=x.flip(1))).values.all()


class TestConfigs:
    def test_each_builds_on_the_one_before(self):
        none, default, full = (configured(name) for name in ("none", "default", "full"))
        assert (none["measures"], none["between"], none["specificity_of"]) == ({}, {}, [])
        assert set(default["measures"]) == {"label_cka", "effective_rank", "reference_cka", "reference_cka_biased"}
        assert set(default["measures"]) < set(full["measures"])
        assert set(default["between"]) < set(full["between"])
        quantities = [m.quantity for name in ("measures", "between") for m in full[name].values()]
        assert len(set(quantities)) == len(quantities)

    def test_every_measure_of_full_gives_finite_values_with_intervals_about_them(self):
        rows = task_rows()
        for name, measure in configured("full")["measures"].items():
            estimates = measure(rows)
            assert isinstance(measure.quantity, str), name
            assert estimates.values.dtype == np.float64, name
            assert estimates.values.shape == (3,), name
            assert np.isfinite(estimates.values).all(), name
            assert estimates.errors is not None, name
            assert np.isfinite(estimates.errors).all(), name
            assert (np.square(estimates.errors).sum(0) > 0).all(), name
            assert estimates.n == 60, name
            if measure.needs == "reference":
                assert np.argmax(estimates.values) == PLANTED, name  # all of them find the layer that is alike

    def test_every_measure_between_tasks_of_full_gives_finite_values(self):
        sides = [draw(3, 30, 8, seed=seed) for seed in (1, 2)]
        sides[0][PLANTED] += 2
        for name, measure in configured("full")["between"].items():
            assert isinstance(measure, BetweenTasks), name
            estimates = measure(sides)
            assert np.isfinite(estimates.values).all(), name
            assert np.argmax(estimates.values) == PLANTED, name

    def test_the_seed_of_the_analysis_reaches_every_measure(self):
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose("train", overrides=["analysis=full", "analysis.seed=7"])
        analysis = instantiate(cfg.analysis)
        assert isinstance(analysis, LayerAnalysis)
        assert analysis.seed == 7
        seeded = [m for m in (*analysis.measures, *analysis.between) if hasattr(m, "seed")]
        assert len(seeded) > 10
        assert {m.seed for m in seeded if getattr(m, "debiased", True)} == {7}


def draw_between(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tasks(*, apart: float = 3.0, sizes: tuple[int, ...] = (30, 20, 40)) -> list[torch.Tensor]:
    """Rows of three tasks at two layers; at the second they lie apart."""
    rows = [draw_between(2, size, 6, seed=seed) for seed, size in enumerate(sizes)]
    for number, own in enumerate(rows):
        own[1, :, number] += apart
    return rows


SILHOUETTE = BetweenTasks(quantity="silhouette", unit="silhouette", function=silhouette)


def test_it_is_its_function_of_all_rows_and_the_task_of_each():
    rows = tasks()
    expected = silhouette(torch.cat(rows, dim=1), torch.tensor([0] * 30 + [1] * 20 + [2] * 40))
    estimates = SILHOUETTE(rows)
    np.testing.assert_allclose(estimates.values, expected)
    assert estimates.n == 90
    assert estimates.errors is not None
    assert estimates.errors.shape == (20, 2)


def test_draws_answered_at_once_give_the_errors_of_draws_one_after_the_other():
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
def test_tasks_that_lie_apart_are_found_at_their_layer_and_alike_ones_nowhere(function):
    chance = 1 / 3 if isinstance(function, partial) and function.func is group_identity_accuracy else 0.0
    estimates = BetweenTasks(quantity="q", unit="", function=function)(tasks())
    assert estimates.errors is not None
    low, _ = confidence_interval(estimates.values, estimates.errors)
    assert low[1] > chance + 0.1
    assert abs(estimates.values[0] - chance) < 0.1
    assert abs(BetweenTasks(quantity="q", unit="", function=function)(tasks(apart=0)).values - chance).max() < 0.1


def test_chance_is_a_number_or_one_over_the_number_of_tasks():
    for chance, expected in ((0.0, 0.0), (0.25, 0.25), (None, 1 / 3)):
        estimates = BetweenTasks(quantity="q", unit="", function=silhouette, chance=chance, half_samples=0)(tasks())
        np.testing.assert_array_equal(estimates.null, [[expected, expected]])
        assert estimates.errors is None


def test_the_seed_decides_the_halves():
    halved = [BetweenTasks(quantity="q", unit="", function=silhouette, seed=seed)(tasks()) for seed in (0, 0, 1)]
    first, again, other = (estimates.errors for estimates in halved if estimates.errors is not None)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_constant_layer_is_nan():
    rows = tasks()
    for own in rows:
        own[0] = 1.5
    assert np.isnan(SILHOUETTE(rows).values).tolist() == [True, False]


def test_one_task_alone_is_refused():
    with pytest.raises(ValueError, match="'silhouette' lies between tasks and expects at least 2; got 1"):
        SILHOUETTE(tasks()[:1])


def test_every_half_holds_half_of_every_task():
    seen: list[list[int]] = []

    def count(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        seen.append(groups.bincount(minlength=3).tolist())
        return torch.zeros(len(x))

    BetweenTasks(quantity="q", unit="", function=count)(tasks(sizes=(4, 10, 6)))
    assert seen[0] == [4, 10, 6]
    assert seen[1:] == [[2, 5, 3]] * 20
