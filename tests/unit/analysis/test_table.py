from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from probes.analysis import (
    LayerTable,
    confidence_interval,
    find_segments,
    layer_by_task,
    permutation_p,
    result_rows,
    specificity,
)
from probes.analysis.between_tasks.specificity import specificity_profiles
from probes.analysis.significance import with_p_values
from probes.analysis.table import segment_profiles
from probes.values import Estimates, Layer, LayerProfile, Reading, Result, RunNames

LAYERS: tuple[Layer, ...] = (0, 1, "final")
READING = Reading("decoder", "residual", "mean")
LAST = Reading("decoder", "residual", "last")
THREE_LAYERS: tuple[Layer, ...] = (0, 1, 2)
ROLES = ("base", "experimental")


def profile(task: str, seed: int = 0, *, draws: int | None = 99, errors: int | None = 30, quantity: str = "label_cka"):
    rng = np.random.default_rng(seed)
    estimates = Estimates(
        values=rng.normal([0, 0, 4]),
        n=30 + seed,
        errors=None if errors is None else rng.normal(size=(errors, 3)) * 0.05,
        null=None if draws is None else rng.normal(size=(draws, 3)),
        note="why not",
    )
    return LayerProfile(quantity=quantity, unit="CKA", task=task, reading=READING, layers=LAYERS, estimates=estimates)


def rows_with_p(profiles: list[LayerProfile]) -> list[Result]:
    return result_rows(with_p_values(profiles))


def specificity_rows(profiles: list[LayerProfile]) -> list[Result]:
    return result_rows(specificity_profiles(profiles))


def test_every_cell_is_one_result_with_interval_null_and_n():
    profiles = [profile("sst2"), profile("trec", 1)]
    results = rows_with_p(profiles)
    assert [(r.task, r.layer) for r in results] == [(t, layer) for t in ("sst2", "trec") for layer in LAYERS]
    for r in results:
        assert (r.stack, r.site, r.pooling, r.split, r.metric) == ("decoder", "residual", "mean", "test", "label_cka")
    own = profiles[1].estimates
    assert own.errors is not None
    assert own.null is not None
    low, high = confidence_interval(own.values, own.errors)
    for i, r in enumerate(results[3:]):
        assert (r.value, r.ci_low, r.ci_high) == (own.values[i], low[i], high[i])
        assert r.null_mean == pytest.approx(own.null[:, i].mean())
        assert (r.n, r.note, r.interval_over) == (31, "", "rows")


def test_p_is_corrected_over_the_cells_of_all_tasks():
    profiles = [profile("sst2"), profile("trec", 1), profile("topic", 2)]
    known = [(c.estimates.values, c.estimates.null) for c in profiles]
    observed = np.concatenate([v for v, _ in known])
    by_cell, together = permutation_p(observed, np.concatenate([n for _, n in known if n is not None], axis=1))
    assert [r.p for r in rows_with_p(profiles)] == together.tolist()
    assert [r.p_cell for r in rows_with_p(profiles)] == by_cell.tolist()
    alone = [r.p for r in rows_with_p(profiles[:1])]
    assert all(a is not None and a <= b for a, b in zip(alone, together, strict=False))
    assert alone != together[:3].tolist()


def test_without_errors_there_is_no_interval():
    found = {(r.ci_low, r.ci_high, r.interval_over) for r in rows_with_p([profile("sst2", errors=None)])}
    assert found == {(None, None, "")}


def test_a_missing_value_carries_its_note_and_nothing_else():
    sst2 = profile("sst2")
    sst2.estimates.values[1] = np.nan
    results = rows_with_p([sst2, profile("trec", 1)])
    missing = results[1]
    assert np.isnan(missing.value)
    assert (missing.ci_low, missing.ci_high, missing.null_mean, missing.p) == (None,) * 4
    assert missing.note == "why not"
    assert all(r.note == "" and r.p is not None for r in results if r is not missing)


def test_specificity_is_the_centred_matrix_with_normal_intervals():
    profiles = [profile(task, seed) for seed, task in enumerate(("sst2", "trec", "topic"))]
    errors = [c.estimates.errors for c in profiles if c.estimates.errors is not None]
    values, deviations = specificity(np.stack([c.estimates.values for c in profiles], axis=1), errors)
    results = specificity_rows(profiles)
    assert [(r.task, r.layer) for r in results] == [(c.task, layer) for c in profiles for layer in LAYERS]
    np.testing.assert_allclose([r.value for r in results], values.T.ravel(), atol=1e-12)
    for r, deviation in zip(results, deviations.T.ravel(), strict=True):
        assert r.ci_low is not None
        assert r.ci_high is not None
        expected = stats.norm(r.value, deviation).interval(0.95)
        assert (r.ci_low, r.ci_high) == pytest.approx(expected)
        assert (r.metric, r.null_mean, r.p) == ("specificity/label_cka", 0.0, None)


def test_specificity_of_a_probes_score_is_named_without_probe():
    profiles = [profile(task, seed, quantity="probe/selectivity") for seed, task in enumerate(("sst2", "trec"))]
    assert {r.metric for r in specificity_rows(profiles)} == {"specificity/selectivity"}


def test_one_column_without_errors_leaves_no_interval_to_any_cell():
    results = specificity_rows([profile("sst2"), profile("trec", 1, errors=None)])
    assert {(r.ci_low, r.ci_high) for r in results} == {(None, None)}
    assert all(np.isfinite(r.value) for r in results)


def test_specificity_leaves_a_missing_cell_missing_with_its_note():
    profiles = [profile(task, seed) for seed, task in enumerate(("sst2", "trec", "topic"))]
    profiles[0].estimates.values[2] = np.nan
    missing, *others = sorted(specificity_rows(profiles), key=lambda r: np.isfinite(r.value))
    assert (missing.task, missing.layer, missing.note) == ("sst2", "final", "why not")
    assert (missing.ci_low, missing.null_mean) == (None, None)
    assert all(np.isfinite(r.value) and r.note == "" for r in others)


def stepped(tasks: int = 30, *, at: int = 8) -> list[LayerProfile]:
    """Columns whose spread over tasks grows sixfold from one layer on."""
    sd = np.repeat([0.02, 0.12], [at, 16 - at])
    values = sd[:, None] * np.random.default_rng(0).standard_normal((16, tasks))
    return [
        LayerProfile(
            quantity="cka",
            unit="CKA",
            task=f"task-{i}",
            reading=READING,
            layers=tuple(range(16)),
            estimates=Estimates(of_task, 50),
            role="base",
        )
        for i, of_task in enumerate(values.T)
    ]


def test_segments_are_the_spread_at_every_layer_and_a_row_a_boundary():
    profiles = stepped()
    found = find_segments(layer_by_task(result_rows(profiles)).values, layers=range(16))
    rows = result_rows(segment_profiles(profiles, found))
    spread = [r for r in rows if r.metric == "between_task_sd/cka"]
    expected = np.std([c.estimates.values for c in profiles], axis=0, ddof=1)
    np.testing.assert_allclose([r.value for r in spread], expected)
    (boundary,) = (r for r in rows if r.metric == "boundary/cka")
    assert (boundary.layer, boundary.task, boundary.role, boundary.n) == (8, "all_tasks", "base", 30)
    assert boundary.value == found.boundaries[0].share > 0.9
    assert boundary.p == found.p <= 0.05
    assert boundary.note == "refinement begins; the shift is spread over 1 layer"


def test_where_tasks_begin_to_differ_is_a_boundary_without_p():
    profiles = stepped()
    values = np.vstack([np.ones((3, len(profiles))), layer_by_task(result_rows(profiles)).values])
    found = find_segments(values, layers=range(len(values)))
    certain, tested = (r for r in result_rows(segment_profiles(profiles, found)) if r.metric == "boundary/cka")
    assert (certain.layer, certain.value, certain.p) == (3, 1.0, None)
    assert certain.note == "tasks begin to differ; they are equal at layers 0 to 2"
    assert (tested.layer, tested.p) == (3 + 8, found.p)
    assert [band.name for band in found.all_bands] == ["equal", "shared", "refinement"]


def test_without_a_boundary_a_row_says_so():
    short = [replace(c, estimates=Estimates(c.estimates.values[:3], 50), layers=LAYERS) for c in stepped()]
    rows = result_rows(segment_profiles(short, find_segments(layer_by_task(result_rows(short)).values, layers=LAYERS)))
    assert [r.metric for r in rows] == ["between_task_sd/cka"] * 3 + ["boundary/cka"]
    assert (rows[-1].layer, rows[-1].p) == (None, None)
    assert np.isnan(rows[-1].value)
    assert rows[-1].note.startswith("not tried: 3 usable layers")


def names_of(groups) -> list[str]:
    return [group[0].name for group in groups]


class TestTable:
    def test_a_profile_replaces_the_one_of_the_same_quantity_role_reading_and_task(self):
        table = LayerTable()
        table.add(profile(task, seed) for seed, task in enumerate(("sst2", "trec", "sst2")))
        assert [(c.task, c.estimates.n) for c in table.group("label_cka", READING)] == [("sst2", 32), ("trec", 31)]
        assert table.group("other", READING) == []

    def test_roles_are_kept_apart_and_stand_before_the_quantity(self):
        table = LayerTable(specificity_of=["base/*"])
        table.add(replace(profile(task), role=role) for task in ("sst2", "trec") for role in ("base", "control"))
        found = table.findings()
        names = ["base/label_cka", "control/label_cka", "base/specificity/label_cka"]
        assert names_of(found.matrices) == names
        assert {(r.role, r.metric) for r in result_rows(found.profiles)} == {
            *(("base", "label_cka"), ("control", "label_cka"), ("base", "specificity/label_cka"))
        }

    def test_scores_of_probes_come_first_and_their_specificity_is_named_without_probe(self):
        table = LayerTable(specificity_of=["probe/*"])
        table.add(profile(task) for task in ("sst2", "trec"))
        table.add(profile(task, seed, quantity="probe/selectivity") for seed, task in enumerate(("sst2", "trec")))
        assert names_of(table.findings().matrices) == ["probe/selectivity", "label_cka", "specificity/selectivity"]

    def test_only_test_scores_over_layers_form_matrices_and_everything_is_a_row(self):
        table = LayerTable(specificity_of=["*"])
        single = LayerProfile(
            quantity="rouge_l", unit="F1", task="sst2", layers=(None,), estimates=Estimates(np.ones(1), 5)
        )
        validation, control = (
            replace(profile("sst2"), **change) for change in ({"split": "validation"}, {"control": "shuffled_labels"})
        )
        table.add([single, validation, control, profile("sst2")])
        found = table.findings()
        assert len(found.matrices) == 1
        assert (found.matrices[0][0].split, found.matrices[0][0].control) == ("test", "")
        rows = result_rows(found.profiles)
        assert len(rows) == 1 + 3 * 3
        assert [(r.layer, r.stack) for r in rows if r.metric == "rouge_l"] == [(None, "")]

    def test_one_task_has_neither_specificity_nor_segments(self):
        table = LayerTable(specificity_of=["*"], segments_of=["*"])
        table.add([profile("sst2")])
        assert names_of(table.findings().matrices) == ["label_cka"]
        table.add([profile("trec", 1)])
        found = table.findings()
        assert names_of(found.matrices) == ["label_cka", "specificity/label_cka"]
        assert [len(quantity.profiles) for quantity in found.segmented] == [2]

    def test_the_summary_holds_the_mean_score_of_probes_at_the_best_layers(self):
        table = LayerTable()
        scores = [profile(task, seed, quantity="probe/macro_f1") for seed, task in enumerate(("sst2", "trec", "rte"))]
        table.add(scores)
        summary = table.findings().summary(READING, {"sst2": "final", "trec": 1, "rte": 7})
        assert summary == {
            "mean/macro_f1": pytest.approx((scores[0].estimates.values[2] + scores[1].estimates.values[1]) / 2)
        }

    def test_the_summary_holds_means_of_the_reading_but_not_of_probe_scores(self):
        table = LayerTable(segments_of=["cka"])
        table.add([profile("sst2"), replace(profile("sst2"), quantity="probe/macro_f1"), *stepped()])
        summary = table.findings().summary(READING)
        assert set(summary) == {"mean/label_cka", "mean/base/cka", "boundaries/base/cka"}
        assert summary["mean/label_cka"] == pytest.approx(profile("sst2").estimates.values.mean())
        assert summary["boundaries/base/cka"] == 1.0
        assert table.findings().summary(Reading("encoder", "residual", "mean")) == {}

    def test_bands_are_found_by_the_name_of_their_quantity(self):
        table = LayerTable(segments_of=["cka"])
        table.add(stepped())
        found = table.findings()
        assert [band.name for band in found.bands_of("base/cka", READING)] == ["shared", "refinement"]
        assert found.bands_of("cka", READING) == ()


def test_rows_carry_the_names_of_their_run_and_the_cluster_of_their_task():
    names = RunNames(study="probe", backbone="b", reference="r", suite="s", clusters={"sst2": "sentiment"})
    rows = result_rows([profile("sst2"), profile("trec")], names)
    assert {(r.study, r.backbone, r.reference, r.suite) for r in rows} == {("probe", "b", "r", "s")}
    assert [r.cluster for r in rows] == ["sentiment"] * 3 + [""] * 3


def test_an_interval_that_is_given_is_reported_as_it_is():
    ends = np.array([[0.0, 0.1, 0.2], [1.0, 1.1, 1.2]])
    sst2 = profile("sst2")
    rows = result_rows([replace(sst2, estimates=replace(sst2.estimates, interval=ends, remarks=("a", "", "b")))])
    assert [(r.ci_low, r.ci_high) for r in rows] == list(map(tuple, ends.T.tolist()))
    assert [r.note for r in rows] == ["a", "", "b"]


def test_a_matrix_has_layers_ascending_and_nan_where_a_task_lacks_one():
    a, b = (
        LayerProfile(quantity="q", unit="share", task=task, layers=layers, estimates=Estimates(np.array(values), 5))
        for task, layers, values in (("a", (10, "final"), [1.0, 1.5]), ("b", (2, 10), [np.nan, 2.0]))
    )
    matrix = layer_by_task(result_rows([a, b]))
    assert (matrix.layers, matrix.tasks) == ((2, 10, "final"), ("a", "b"))
    np.testing.assert_equal(matrix.values, [[np.nan, np.nan], [1.0, 2.0], [1.5, np.nan]])
    assert matrix.notes == {(2, "b"): b.estimates.note}


def test_a_matrix_refuses_two_quantities_and_two_rows_of_one_cell():
    for profiles in ([profile("a"), profile("b", quantity="other")], [profile("a"), profile("a", 1)], []):
        with pytest.raises(ValueError, match="expects one quantity of one reading and one row for each cell"):
            layer_by_task(result_rows(profiles))


def small_profile(
    task: str, seed: int, *, role: str = "", quantity: str = "label_cka", reading: Reading = LAST
) -> LayerProfile:
    rng = np.random.default_rng(seed)
    estimates = Estimates(rng.normal(size=3), 30, rng.normal(size=(30, 3)) * 0.05)
    return LayerProfile(
        quantity=quantity,
        unit="CKA",
        task=task,
        reading=reading,
        layers=THREE_LAYERS,
        estimates=estimates,
        role=role,
    )


def filled(table: LayerTable) -> LayerTable:
    for seed, task in enumerate(("sst2", "trec", "topic")):
        for role in ROLES:
            table.add([small_profile(task, seed, role=role)])
        table.add([small_profile(task, seed, quantity="tuning_gain")])
    return table


@pytest.mark.parametrize(
    ("pattern", "derived"),
    [
        ("label_cka", {"base", "experimental"}),
        ("base/label_cka", {"base"}),
        ("*/label_cka", {"base", "experimental"}),
        ("experimental/*", {"experimental"}),
        ("tuning_gain", {""}),
        ("*", {"", "base", "experimental"}),
        ("label", set()),
    ],
)
def test_a_name_without_role_means_the_quantity_in_every_role(pattern: str, derived: set[str]):
    found = filled(LayerTable(specificity_of=[pattern], segments_of=[pattern])).findings()
    assert {p.role for p in found.profiles if p.quantity.startswith("specificity/")} == derived
    assert {p.role for p in found.profiles if p.quantity.startswith("boundary/")} == derived
    assert {quantity.profiles[0].role for quantity in found.segmented} == derived


def test_every_matrix_holds_its_own_columns_in_order():
    found = filled(LayerTable()).findings()
    assert names_of(found.matrices) == ["base/label_cka", "experimental/label_cka", "tuning_gain"]
    for matrix in (layer_by_task(result_rows(group)) for group in found.matrices):
        assert matrix.tasks == ("sst2", "trec", "topic")
        for place, seed in enumerate(range(3)):
            np.testing.assert_array_equal(matrix.values[:, place], small_profile("", seed).estimates.values)


def test_readings_stay_apart_in_the_order_of_their_first_column():
    table = LayerTable(segments_of=["*"])
    for seed, reading in enumerate((READING, LAST)):
        for task in ("sst2", "trec", "topic"):
            table.add([small_profile(task, seed, reading=reading)])
    found = table.findings()
    assert [group[0].reading for group in found.matrices] == [READING, LAST]
    assert [quantity.profiles[0].reading for quantity in found.segmented] == [READING, LAST]
    assert [c.task for c in table.group("label_cka", READING)] == ["sst2", "trec", "topic"]


def test_a_later_column_of_a_task_takes_the_place_of_the_earlier():
    table = filled(LayerTable())
    table.add([replace(small_profile("trec", 9), role="base")])
    kept = [c.estimates.values for c in table.group("label_cka", LAST, role="base")]
    np.testing.assert_array_equal(kept[1], small_profile("trec", 9).estimates.values)
    np.testing.assert_array_equal(kept[0], small_profile("sst2", 0).estimates.values)


def test_a_tail_beyond_the_permutations_gives_smaller_p_where_they_end():
    rng = np.random.default_rng(0)
    estimates = Estimates(np.array([9.0, 0.1, 0.0]), 30, null=rng.normal(size=(99, 3)))
    p = {}
    for tail in ("counted", "moments"):
        table = LayerTable(tail=tail)
        table.add([replace(small_profile("sst2", 0), estimates=estimates)])
        p[tail] = [result.p for result in result_rows(table.findings().profiles)]
    assert p["moments"][0] < p["counted"][0] == 0.01
    assert p["moments"][1:] == p["counted"][1:]


def test_an_unknown_tail_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"Unknown tail 'normal'.*counted.*moments.*`analysis\.tail`"):
        LayerTable(tail="normal")  # type: ignore[arg-type]


def test_numbers_of_tasks_have_a_mean_with_an_interval_over_tasks():
    def number(task: str, value: float) -> LayerProfile:
        estimates = Estimates(np.array([value]), 50)
        place = {"task": task, "reading": READING, "layers": (None,)}
        return LayerProfile(quantity="layer_choice/expected_layer", unit="layer", estimates=estimates, **place)

    values = {"a": 3.0, "b": 5.0, "c": 10.0, "d": np.nan}
    table = LayerTable()
    table.add([number(task, value) for task, value in values.items()])
    (mean,) = [p for p in table.findings().profiles if p.quantity == "group_mean/layer_choice/expected_layer"]
    assert (mean.task, mean.estimates.interval_over) == ("all_tasks", "tasks")
    expected = stats.t.interval(0.95, 2, loc=6.0, scale=stats.sem([3.0, 5.0, 10.0]))
    (low,), (high,) = confidence_interval(mean.estimates.values, mean.estimates.errors)
    assert (low, high) == pytest.approx(expected)
    alone = LayerTable()
    alone.add([number("a", 3.0), number("b", 5.0)])
    assert len(alone.findings().profiles) == 2
