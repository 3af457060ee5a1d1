import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
from gaussian_rows import draw

import probes.analysis
from probes.analysis.invariances import (
    Invariance,
    by_layer,
    invariances,
    invariant_to,
    require_matched_rows,
    require_rows,
)

ROWS, FEATURES = 90, 6
NAMES = get_args(Invariance)
CLEARLY = 1e-3


def declared_measures() -> Iterator[Callable]:
    """Every function of every module of the package that declares invariances."""
    modules = list(pkgutil.walk_packages(probes.analysis.__path__, "probes.analysis."))
    for found in modules:
        for member in vars(importlib.import_module(found.name)).values():
            if inspect.isfunction(member) and member.__module__ == found.name and hasattr(member, "invariances"):
                yield member


def sample() -> dict[str, torch.Tensor]:
    """One layer: features of unequal variance, correlated and off the origin; groups differ along the faintest."""
    groups = torch.arange(ROWS) % 3
    latent = draw(ROWS, FEATURES, seed=0)
    latent[:, 0] += groups
    spread = torch.tensor([0.2, 0.5, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    x = latent * spread @ (torch.eye(FEATURES) + 0.1 * draw(FEATURES, FEATURES, seed=1)) + 3 * draw(FEATURES, seed=2)
    y = x @ draw(FEATURES, FEATURES, seed=3) + 3 * draw(ROWS, FEATURES, seed=4) + draw(FEATURES, seed=5)
    return {"x": x, "y": y, "groups": groups, "labels": groups}


def changed(x: torch.Tensor, name: Invariance, seed: int = 0) -> torch.Tensor:
    if name == "rotation":
        orthogonal = torch.linalg.qr(draw(FEATURES, FEATURES, seed=6 + seed)).Q
        orthogonal[:, 0] *= (-1) ** seed
        return x @ orthogonal
    if name == "scale":
        return x * (0.03, 7.0, 3e4)[seed]
    if name == "shift":
        return x + 20 * draw(FEATURES, seed=6 + seed)
    return x @ (draw(FEATURES, FEATURES, seed=6 + seed) * torch.logspace(-1, 1, FEATURES, dtype=torch.float64))


def value(measure: Callable, inputs: dict[str, torch.Tensor]) -> float:
    """The measure of the one layer."""
    arguments = {}
    for name, parameter in inspect.signature(measure).parameters.items():
        if name in ("x", "y"):
            arguments[name] = inputs[name][None]
        elif parameter.default is inspect.Parameter.empty:
            arguments[name] = 0 if name == "seed" else inputs[name]
    return float(measure(**arguments).squeeze())


def differences(measure: Callable, name: Invariance) -> list[float]:
    """How far the value moves when each of three such changes is made to each side in turn."""
    inputs = sample()
    before = value(measure, inputs)
    sides = [side for side in ("x", "y") if side in inspect.signature(measure).parameters]
    return [
        abs(value(measure, {**inputs, side: changed(inputs[side], name, seed)}) - before)
        for side in sides
        for seed in range(3)
    ]


MEASURES = list(declared_measures())
CASES = [pytest.param(measure, name, id=f"{measure.__name__}-{name}") for measure in MEASURES for name in NAMES]


@pytest.mark.parametrize(("measure", "name"), CASES)
def test_a_measure_keeps_its_value_under_what_it_declares_and_no_other_change(measure: Callable, name: Invariance):
    if name in invariances(measure):
        assert max(differences(measure, name)) < 1e-8
    else:
        assert max(differences(measure, name)) > CLEARLY


def test_the_measures_of_this_package_are_found():
    found = {measure.__name__ for measure in MEASURES}
    assert found >= {"linear_cka", "label_cka", "rbf_cka", "procrustes_similarity", "rsa", "neighbour_overlap"}
    assert found >= {"matched_cosine", "two_nn", "silhouette", "between_share", "group_identity_accuracy"}


def test_the_four_changes_are_what_their_names_say():
    x = sample()["x"]
    centred, distances = x - x.mean(0), torch.pdist(x)
    turned = [changed(x, "rotation", seed) for seed in range(3)]
    for other in turned:
        torch.testing.assert_close(torch.pdist(other), distances)
    assert {round(float(torch.linalg.det(torch.linalg.lstsq(x, other).solution))) for other in turned} == {-1, 1}
    torch.testing.assert_close(torch.pdist(changed(x, "scale")), 0.03 * distances)
    moved = changed(x, "shift")
    torch.testing.assert_close(moved - moved.mean(0), centred)
    assert 10 < torch.linalg.cond(torch.linalg.lstsq(x, changed(x, "invertible")).solution) < 1e4


def test_a_wrong_declaration_is_caught_both_ways():
    @invariant_to("scale", "shift")
    def spread(x: torch.Tensor) -> torch.Tensor:
        return x[0].var(dim=0).sum()

    assert max(differences(spread, "scale")) > CLEARLY
    assert max(differences(spread, "rotation")) < CLEARLY


def test_invertible_implies_rotation_and_scale_and_none_is_not_undeclared():
    @invariant_to("invertible")
    def rank(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_rank(x)

    @invariant_to()
    def first(x: torch.Tensor) -> torch.Tensor:
        return x[0, 0]

    assert invariances(rank) == {"invertible", "rotation", "scale"}
    assert invariances(first) == frozenset()
    assert rank(torch.eye(3)) == 3
    with pytest.raises(ValueError, match=r"'draw' declares no invariances\. Decorate it"):
        invariances(draw)


def test_an_unknown_invariance_is_refused_by_name():
    with pytest.raises(ValueError, match=r"No invariance is called 'reflection'\. There are \('rotation', 'scale'"):
        invariant_to("rotation", "reflection")  # pyright: ignore[reportArgumentType]


def test_a_measure_is_applied_to_each_layer_in_float64_except_constant_ones():
    x = draw(3, 8, 2, seed=0).float()
    x[1] = 0.1
    values = by_layer(lambda one, other: (one * other).sum(), x, 2 * x)
    assert values.dtype == torch.float64
    assert values.isnan().tolist() == [False, True, False]
    assert values[2] == 2 * x[2].double().square().sum()


def test_rows_that_no_measure_can_use_are_refused():
    x = draw(2, 9, 3, seed=0)
    with pytest.raises(ValueError, match=r"`y` expects the shape \(layers, rows, features\); got \(9, 3\)"):
        require_matched_rows(x, x[0])
    with pytest.raises(ValueError, match=r"`x` expects at least 4 rows; got 3"):
        require_rows(x[:, :3])
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(2, 8, 3\).*row ids"):
        require_matched_rows(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"same layers and rows; got \(2, 9, 3\) and \(1, 9, 3\)"):
        require_matched_rows(x, x[:1])
    require_matched_rows(x, x[:, :, :2])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_non_finite_rows_are_counted_once_over_all_layers(broken: float):
    y = draw(2, 9, 3, seed=0)
    y[0, 4, 0] = y[1, 4, 1] = y[1, 7, 2] = broken
    with pytest.raises(
        ValueError, match=r"2 of the 9 rows of `y` hold NaN or infinity\. Drop them by row id, in every"
    ):
        require_matched_rows(draw(2, 9, 3, seed=1), y)
