from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from probes.analysis import group_means, linear_cka, procrustes_similarity, rank_agreement, result_rows, svcca
from probes.studies.layer_by_layer.comparison import GAIN, Comparison, TaskModels
from probes.tasks import Split, Suite, Task
from probes.values import Activations, Layer, LayerProfile, Reading, Result

READING = Reading("decoder", "residual", "last")
LAYERS: tuple[Layer, ...] = (0, 1, "final")
EMPTY = {"test": Split((), (), ())}
SUITE = Suite(
    "s",
    tuple(
        Task(name, "generation", (), EMPTY, cluster, unseen)
        for name, cluster, unseen in (("a", "x", False), ("b", "y", False), ("c", "x", False), ("d", "", True))
    ),
)


def draw(seed: int, rows: int = 40) -> Tensor:
    return torch.randn(3, rows, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(values: Tensor, rows: list[str] | None = None) -> Activations:
    return Activations(values, LAYERS, tuple(rows or map(str, range(values.shape[1]))), READING)


def models(seed: int, *, controls: int = 1, gain: float = 0.5) -> TaskModels:
    base, tuning = draw(seed), draw(seed + 1000)
    others = [activations(base + tuning + 0.2 * draw(seed + 100 * i)) for i in range(2, 2 + controls)]
    return TaskModels.joined(activations(base), [activations(base + gain * tuning)], others)


def compared(*tasks: str, measures: dict | None = None, max_rows: int = 400, controls: int = 1) -> Comparison:
    comparison = Comparison(SUITE, READING, LAYERS, measures or {}, max_rows)
    for seed, task in enumerate(tasks):
        comparison.add(task, models(seed, controls=controls))
    return comparison


def of_quantity(comparison: Comparison, quantity: str) -> list[LayerProfile]:
    return [profile for profile in comparison.profiles() if profile.quantity == quantity]


def quantities(comparison: Comparison) -> set[str]:
    return {profile.quantity for profile in comparison.profiles()}


class TestJoining:
    def test_rows_that_any_model_lacks_are_left_out_of_all_in_the_order_of_the_base(self, caplog):
        values = draw(0, rows=6)
        base = activations(values, list("abcdef"))
        experimental = activations(values.flip(1), list("fedcba"))
        controls = [activations(values[:, 1:], list("bcdef")), activations(values[:, [4, 2, 1]], list("ecb"))]
        joined = TaskModels.joined(base, [experimental], controls)
        for side in (joined.base, *joined.experimental, *joined.controls):
            assert side.row_ids == ("b", "c", "e")
            torch.testing.assert_close(side.values, values[:, [1, 2, 4]], rtol=0, atol=0)
        assert "dropped on both" in caplog.text

    def test_a_row_that_is_not_finite_in_a_control_is_left_out_of_all(self):
        values = draw(0, rows=6)
        broken = values.clone()
        broken[1, 2] = torch.nan
        joined = TaskModels.joined(activations(values), [activations(values)], [activations(broken)])
        assert all(len(s.row_ids) == 5 for s in (joined.base, *joined.experimental, *joined.controls))


class TestProfiles:
    def test_each_task_has_both_similarities_and_the_gain_debiased_and_biased(self):
        comparison = compared("a", "b")
        names = {f"{name}{end}" for name in ("cka/control_vs_base", "cka/control_vs_experimental", GAIN)
                 for end in ("", "_biased")}  # fmt: skip
        assert {name for name in quantities(comparison) if not name.startswith("group_mean/")} == names
        for name in names:
            assert [(p.task, p.layers, p.reading, p.unit) for p in of_quantity(comparison, name)] == [
                (task, LAYERS, READING, "CKA") for task in "ab"
            ]
        own = models(1)
        expected = linear_cka(own.controls[0].values, own.base.values).numpy()
        np.testing.assert_allclose(of_quantity(comparison, "cka/control_vs_base")[1].estimates.values, expected)
        assert (of_quantity(comparison, GAIN)[0].estimates.values > 0.01).all()

    def test_other_measures_see_the_first_rows_alone_and_give_the_same_kind_of_gain(self):
        comparison = compared("a", measures={"procrustes": procrustes_similarity}, max_rows=15)
        (column,) = of_quantity(comparison, "tuning_gain_by/procrustes")
        own = models(0)
        sides = (own.controls[0], own.experimental[0], own.base)
        control, experimental, base = (side.values[:, :15] for side in sides)
        expected = procrustes_similarity(control, experimental) - procrustes_similarity(control, base)
        np.testing.assert_allclose(column.estimates.values, expected.numpy(), rtol=1e-12)
        assert (column.estimates.n, column.unit) == (15, "procrustes")

    def test_a_measure_that_refuses_its_rows_leaves_its_reason_in_place_of_values(self, caplog):
        def refuses(x: Tensor, y: Tensor) -> Tensor:
            raise ValueError("too few rows for so many directions")

        (column,) = of_quantity(compared("a", measures={"odd": refuses}), "tuning_gain_by/odd")
        assert np.isnan(column.estimates.values).all()
        assert column.estimates.note == "too few rows for so many directions"
        assert "too few rows" in caplog.text

    def test_the_second_control_is_compared_with_the_first(self):
        assert "cka/control_vs_control" not in quantities(compared("a"))
        (column,) = of_quantity(compared("a", controls=2), "cka/control_vs_control")
        first, second = (control.values for control in models(0, controls=2).controls)
        np.testing.assert_allclose(column.estimates.values, linear_cka(first, second).numpy())


class TestGroups:
    def test_seen_and_unseen_tasks_and_clusters_have_means(self):
        comparison = compared("a", "b", "c", "d")
        groups = of_quantity(comparison, f"group_mean/{GAIN}")
        assert [c.task for c in groups] == ["seen_tasks", "unseen_tasks", "x", "y"]
        values = {c.task: c.estimates.values for c in of_quantity(comparison, GAIN)}
        means = {c.task: c.estimates.values for c in groups}
        np.testing.assert_allclose(means["seen_tasks"], np.mean([values[task] for task in "abc"], axis=0))
        np.testing.assert_allclose(means["unseen_tasks"], values["d"])
        np.testing.assert_allclose(means["x"], np.mean([values["a"], values["c"]], axis=0))

    def test_what_is_not_averaged_is_still_there_once(self):
        comparison = compared("a", "b", measures={"procrustes": procrustes_similarity}, controls=2)
        keys = [(profile.quantity, profile.task) for profile in comparison.profiles()]
        assert len(keys) == len(set(keys))
        compared_by_cka = ("cka/control_vs_base", "cka/control_vs_experimental", GAIN)
        assert {quantity for quantity, _ in keys} == {
            *compared_by_cka,
            *(f"{name}_biased" for name in compared_by_cka),
            *(f"group_mean/{name}" for name in compared_by_cka),
            "cka/control_vs_control",
            f"{GAIN}_by/procrustes",
            f"seed_noise/{GAIN}",
            f"agreement/{GAIN}_by_cka_and_procrustes",
        }
        assert group_means([], {}) == []

    def test_the_mean_over_tasks_is_that_of_all_of_them(self):
        comparison = compared("a", "b", "c")
        mean = comparison.mean_over_tasks(GAIN)
        assert mean is not None
        values = [profile.estimates.values for profile in of_quantity(comparison, GAIN)]
        np.testing.assert_allclose(mean.estimates.values, np.mean(values, axis=0))
        assert comparison.mean_over_tasks("cka/control_vs_control") is None


class TestNoise:
    def test_it_is_the_deviation_of_the_gain_over_seeds(self):
        comparison = compared("a", "b", controls=3)
        gains = []
        for seed in range(2):
            own = models(seed, controls=3)
            sides = (own.experimental[0].values, own.base.values)
            pairs = [(control.values, side) for control in own.controls for side in sides]
            cka = np.stack([linear_cka(control, side).numpy() for control, side in pairs])
            gains.append(cka[::2] - cka[1::2])
        deviation, freedom = comparison.noise("control")
        assert freedom == 4
        np.testing.assert_allclose(deviation, np.sqrt(np.mean([np.var(g, axis=0, ddof=1) for g in gains], axis=0)))
        assert (deviation > 1e-4).all()

    def test_equal_controls_have_none(self):
        own = models(0)
        comparison = Comparison(SUITE, READING, LAYERS, {}, 400)
        comparison.add("a", TaskModels(own.base, own.experimental, own.controls * 2))
        assert comparison.noise("control")[0].tolist() == [0, 0, 0]
        np.testing.assert_allclose(of_quantity(comparison, "cka/control_vs_control")[0].estimates.values, 1)

    def test_experimental_models_of_several_seeds_have_gains_and_noise_of_their_own(self):
        comparison, by_seed = Comparison(SUITE, READING, LAYERS, {}, 400), []
        for seed, task in enumerate("ab"):
            one, other = models(seed), models(seed, gain=0.3)
            both = TaskModels(one.base, (*one.experimental, *other.experimental), one.controls)
            comparison.add(task, both)
            control, base = one.controls[0].values, one.base.values
            vs_base = linear_cka(control, base)
            by_seed.append(np.stack([(linear_cka(control, e.values) - vs_base).numpy() for e in both.experimental]))
        for task, profile in enumerate(of_quantity(comparison, f"{GAIN}_replicate/1")):
            np.testing.assert_allclose(profile.estimates.values, by_seed[task][1], atol=1e-12)
            assert profile.estimates.errors is not None
        (noise,) = of_quantity(comparison, f"seed_noise/{GAIN}")
        assert (noise.role, noise.estimates.n) == ("experimental", 2)
        expected = np.sqrt(np.mean([np.var(gains, axis=0, ddof=1) for gains in by_seed], axis=0))
        np.testing.assert_allclose(noise.estimates.values, expected)
        means = of_quantity(comparison, f"group_mean/{GAIN}_replicate/1")
        assert [mean.task for mean in means] == ["seen_tasks", "x", "y"]

    def test_without_replicates_it_is_unknown(self):
        deviation, freedom = compared("a").noise("control")
        assert np.isnan(deviation).tolist() == [True] * 3
        assert freedom == 0


def agreement(comparison: Comparison) -> list[Result]:
    return result_rows(p for p in comparison.profiles() if p.quantity.startswith("agreement/"))


def test_agreement_is_the_rank_correlation_of_gains_cell_by_cell():
    measures = {"procrustes": procrustes_similarity, "svcca": svcca}
    comparison = compared("a", "b", "c", "d", measures=measures)

    def matrix(name: str) -> np.ndarray:
        return np.stack([c.estimates.values for c in of_quantity(comparison, name)], axis=1)

    found = agreement(comparison)
    assert [r.metric for r in found] == [f"agreement/tuning_gain_by_cka_and_{name}" for name in measures]
    for name, result in zip(measures, found, strict=True):
        expected = rank_agreement(matrix(GAIN), matrix(f"tuning_gain_by/{name}"))
        assert (result.value, result.ci_low, result.ci_high, result.n) == pytest.approx(expected)
        assert (result.null_mean, result.pooling, result.layer) == (0, "last", None)
        assert result.n == 12


def test_agreement_of_two_tasks_has_no_interval():
    (result,) = agreement(compared("a", "b", measures={"procrustes": procrustes_similarity}))
    assert (result.ci_low, result.ci_high) == (None, None)
