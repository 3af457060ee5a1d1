from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from probes.analysis import (
    Column,
    column_results,
    confidence_interval,
    family_wise_p,
    group_means,
    specificity,
    specificity_results,
)
from probes.analysis.table import ColumnTable, column_segments
from probes.values import Estimates, Layer, Reading

LAYERS: tuple[Layer, ...] = (0, 1, "final")
READING = Reading("decoder", "residual", "mean")


def column(task: str, seed: int = 0, *, draws: int | None = 99, errors: int | None = 30, quantity: str = "label_cka"):
    rng = np.random.default_rng(seed)
    estimates = Estimates(
        values=rng.normal([0, 0, 4]),
        n=30 + seed,
        errors=None if errors is None else rng.normal(size=(errors, 3)) * 0.05,
        null=None if draws is None else rng.normal(size=(draws, 3)),
        note="why not",
    )
    return Column(quantity, "CKA", task, READING, LAYERS, estimates)


def test_every_cell_is_one_result_with_interval_null_and_n():
    columns = [column("sst2"), column("trec", 1)]
    results = column_results(columns)
    assert [(r.task, r.layer) for r in results] == [(t, layer) for t in ("sst2", "trec") for layer in LAYERS]
    for r in results:
        assert (r.stack, r.site, r.pooling, r.split, r.metric) == ("decoder", "residual", "mean", "test", "label_cka")
    own = columns[1].estimates
    assert own.errors is not None
    assert own.null is not None
    low, high = confidence_interval(own.values, own.errors)
    for i, r in enumerate(results[3:]):
        assert (r.value, r.ci_low, r.ci_high) == (own.values[i], low[i], high[i])
        assert r.null_mean == pytest.approx(own.null[:, i].mean())
        assert (r.n, r.note) == (31, "")


def test_p_is_corrected_over_the_cells_of_all_tasks():
    columns = [column("sst2"), column("trec", 1), column("topic", 2)]
    known = [(c.estimates.values, c.estimates.null) for c in columns]
    together = family_wise_p(
        np.concatenate([v for v, _ in known]), np.concatenate([n for _, n in known if n is not None], axis=1)
    )
    assert [r.p for r in column_results(columns)] == together.tolist()
    alone = [r.p for r in column_results(columns[:1])]
    assert all(a is not None and a <= b for a, b in zip(alone, together, strict=False))
    assert alone != together[:3].tolist()


@pytest.mark.parametrize("draws", [(99, 50), (99, None), (1, 1)], ids=["unequal", "missing", "mean alone"])
def test_without_the_same_draws_in_all_columns_there_is_no_p(draws: tuple[int | None, int | None]):
    results = column_results([column("sst2", draws=draws[0]), column("trec", 1, draws=draws[1])])
    assert {r.p for r in results} == {None}
    assert [r.null_mean is None for r in results] == [False] * 3 + [draws[1] is None] * 3


def test_without_errors_there_is_no_interval():
    assert {(r.ci_low, r.ci_high) for r in column_results([column("sst2", errors=None)])} == {(None, None)}


def test_a_missing_value_carries_its_note_and_nothing_else():
    sst2 = column("sst2")
    sst2.estimates.values[1] = np.nan
    results = column_results([sst2, column("trec", 1)])
    missing = results[1]
    assert np.isnan(missing.value)
    assert (missing.ci_low, missing.ci_high, missing.null_mean, missing.p) == (None,) * 4
    assert missing.note == "why not"
    assert all(r.note == "" and r.p is not None for r in results if r is not missing)


def test_specificity_is_the_centred_matrix_with_normal_intervals():
    columns = [column(task, seed) for seed, task in enumerate(("sst2", "trec", "topic"))]
    errors = [c.estimates.errors for c in columns if c.estimates.errors is not None]
    values, deviations = specificity(np.stack([c.estimates.values for c in columns], axis=1), errors)
    results = specificity_results(columns)
    assert [(r.task, r.layer) for r in results] == [(c.task, layer) for c in columns for layer in LAYERS]
    np.testing.assert_allclose([r.value for r in results], values.T.ravel(), atol=1e-12)
    for r, deviation in zip(results, deviations.T.ravel(), strict=True):
        assert r.ci_low is not None
        assert r.ci_high is not None
        expected = stats.norm(r.value, deviation).interval(0.95)
        assert (r.ci_low, r.ci_high) == pytest.approx(expected)
        assert (r.metric, r.null_mean, r.p) == ("specificity/label_cka", 0.0, None)


def test_specificity_of_a_probes_score_is_named_without_probe():
    columns = [column(task, seed, quantity="probe/selectivity") for seed, task in enumerate(("sst2", "trec"))]
    assert {r.metric for r in specificity_results(columns)} == {"specificity/selectivity"}


def test_one_column_without_errors_leaves_no_interval_to_any_cell():
    results = specificity_results([column("sst2"), column("trec", 1, errors=None)])
    assert {(r.ci_low, r.ci_high) for r in results} == {(None, None)}
    assert all(np.isfinite(r.value) for r in results)


def test_specificity_leaves_a_missing_cell_missing_with_its_note():
    columns = [column(task, seed) for seed, task in enumerate(("sst2", "trec", "topic"))]
    columns[0].estimates.values[2] = np.nan
    missing, *others = sorted(specificity_results(columns), key=lambda r: np.isfinite(r.value))
    assert (missing.task, missing.layer, missing.note) == ("sst2", "final", "why not")
    assert (missing.ci_low, missing.null_mean) == (None, None)
    assert all(np.isfinite(r.value) and r.note == "" for r in others)


def stepped(tasks: int = 30, *, at: int = 8) -> list[Column]:
    """Columns whose spread over tasks grows sixfold from one layer on."""
    sd = np.repeat([0.02, 0.12], [at, 16 - at])
    values = sd[:, None] * np.random.default_rng(0).standard_normal((16, tasks))
    return [
        Column("cka", "CKA", f"task-{i}", READING, tuple(range(16)), Estimates(own, 50), role="base")
        for i, own in enumerate(values.T)
    ]


def test_segments_are_the_spread_at_every_layer_and_a_row_a_boundary():
    columns = stepped()
    found, rows = column_segments(columns)
    spread = [r for r in rows if r.metric == "between_task_sd/cka"]
    expected = np.std([c.estimates.values for c in columns], axis=0, ddof=1)
    np.testing.assert_allclose([r.value for r in spread], expected)
    (boundary,) = (r for r in rows if r.metric == "boundary/cka")
    assert (boundary.layer, boundary.task, boundary.role, boundary.n) == (8, "all_tasks", "base", 30)
    assert boundary.value == found.boundaries[0].share > 0.9
    assert boundary.p == found.p <= 0.05
    assert boundary.note == "refinement begins; the shift is spread over 1 layer"


def test_without_a_boundary_a_row_says_so():
    short = [replace(c, estimates=Estimates(c.estimates.values[:3], 50), layers=LAYERS) for c in stepped()]
    _, rows = column_segments(short)
    assert [r.metric for r in rows] == ["between_task_sd/cka"] * 3 + ["boundary/cka"]
    assert (rows[-1].layer, rows[-1].p) == (None, None)
    assert np.isnan(rows[-1].value)
    assert rows[-1].note.startswith("not tried: 3 usable layers")


class TestTable:
    def test_a_column_replaces_the_one_of_the_same_quantity_role_reading_and_task(self):
        table = ColumnTable()
        for seed, task in enumerate(("sst2", "trec", "sst2")):
            table.add(column(task, seed))
        assert [(c.task, c.estimates.n) for c in table.columns("label_cka", READING)] == [("sst2", 32), ("trec", 31)]
        assert table.columns("other", READING) == []

    def test_roles_stay_apart_and_stand_before_the_quantity(self):
        table = ColumnTable(specificity_of=["base/*"])
        for task in ("sst2", "trec"):
            for role in ("base", "control"):
                table.add(replace(column(task), role=role))
        found = table.findings()
        names = ["base/label_cka", "control/label_cka", "base/specificity/label_cka"]
        assert [m.quantity for m in found.matrices] == names
        assert {(r.role, r.metric) for r in found.results} == {
            *(("base", "label_cka"), ("control", "label_cka"), ("base", "specificity/label_cka"))
        }

    def test_a_column_reported_elsewhere_only_serves_what_is_derived_of_it(self):
        table = ColumnTable(specificity_of=["probe/*"])
        for seed, task in enumerate(("sst2", "trec")):
            table.add(column(task, seed, quantity="probe/selectivity"), reported=False)
        assert [m.quantity for m in table.findings().matrices] == ["specificity/selectivity"]

    def test_one_column_has_neither_specificity_nor_segments(self):
        table = ColumnTable(specificity_of=["*"], segments_of=["*"])
        table.add(column("sst2"))
        assert [m.quantity for m in table.findings().matrices] == ["label_cka"]
        table.add(column("trec", 1))
        found = table.findings()
        assert [m.quantity for m in found.matrices] == ["label_cka", "specificity/label_cka"]
        assert [len(columns) for columns, _ in found.segmented] == [2]


READING_GROUPS = Reading("decoder", "residual", "last")


def column_groups(task: str, seed: int, *, errors: int | None = 25) -> Column:
    rng = np.random.default_rng(seed)
    own = None if errors is None else rng.normal(size=(errors, 3)) * 0.05
    return Column("tuning_gain", "CKA", task, READING_GROUPS, LAYERS, Estimates(rng.normal(size=3), 20 + seed, own))


def interval(of: Column) -> tuple[np.ndarray, np.ndarray]:
    assert of.estimates.errors is not None
    return confidence_interval(of.estimates.values, of.estimates.errors)


def test_each_group_is_the_mean_of_its_tasks_and_others_are_left_out():
    columns = [column_groups(task, seed) for seed, task in enumerate("abcde")]
    seen, unseen = group_means(columns, {"a": "seen", "d": "unseen", "b": "seen", "e": "unseen"})
    assert (seen.task, unseen.task) == ("seen", "unseen")
    for group, members in ((seen, (0, 1)), (unseen, (3, 4))):
        values = np.stack([columns[i].estimates.values for i in members])
        np.testing.assert_allclose(group.estimates.values, values.mean(0), rtol=1e-12)
        assert group.estimates.n == sum(columns[i].estimates.n for i in members)
        assert (group.quantity, group.unit, group.layers) == ("group_mean/tuning_gain", "CKA", LAYERS)
        assert group.reading == READING_GROUPS


def test_from_three_tasks_up_the_interval_is_students_over_tasks():
    columns = [column_groups(task, seed) for seed, task in enumerate("abcd")]
    (group,) = group_means(columns, dict.fromkeys("abcd", "all"))
    values = np.stack([own.estimates.values for own in columns])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(group), (expected.low, expected.high), rtol=1e-10)


@pytest.mark.parametrize("tasks", ["a", "ab"])
def test_below_three_tasks_the_variance_is_that_of_the_rows(tasks: str):
    columns = [column_groups(task, seed) for seed, task in enumerate(tasks)]
    (group,) = group_means(columns, dict.fromkeys(tasks, "all"))
    errors = [own.estimates.errors for own in columns]
    rows = sum(np.square(own).sum(0) for own in errors if own is not None)
    assert group.estimates.errors is not None
    np.testing.assert_allclose(np.square(group.estimates.errors).sum(0), rows / len(tasks) ** 2, rtol=1e-12)


def test_two_tasks_of_which_one_has_no_errors_have_no_interval_and_three_do():
    columns = [column_groups("a", 0), column_groups("b", 1, errors=None), column_groups("c", 2)]
    assert group_means(columns[:2], {"a": "g", "b": "g"})[0].estimates.errors is None
    assert group_means(columns, dict.fromkeys("abc", "g"))[0].estimates.errors is not None


def test_a_layer_that_one_task_lacks_has_no_mean():
    columns = [column_groups(task, seed) for seed, task in enumerate("abc")]
    values = columns[1].estimates.values.copy()
    values[0] = np.nan
    columns[1] = replace(columns[1], estimates=replace(columns[1].estimates, values=values))
    (group,) = group_means(columns, dict.fromkeys("abc", "g"))
    assert np.isnan(group.estimates.values).tolist() == [True, False, False]
    assert np.isnan(interval(group)[0]).tolist() == [True, False, False]


def test_without_members_there_are_no_groups():
    assert group_means([column_groups("a", 0)], {"b": "g"}) == []
    assert group_means([], {"b": "g"}) == []


READING_COLUMN_TABLE, OTHER = Reading("decoder", "residual", "last"), Reading("decoder", "residual", "mean")
LAYERS_COLUMN_TABLE: tuple[Layer, ...] = (0, 1, 2)
ROLES = ("base", "experimental")


def column_column_table(
    task: str, seed: int, *, role: str = "", quantity: str = "label_cka", reading: Reading = READING_COLUMN_TABLE
) -> Column:
    rng = np.random.default_rng(seed)
    estimates = Estimates(rng.normal(size=3), 30, rng.normal(size=(30, 3)) * 0.05)
    return Column(quantity, "CKA", task, reading, LAYERS_COLUMN_TABLE, estimates, role)


def filled(table: ColumnTable) -> ColumnTable:
    for seed, task in enumerate(("sst2", "trec", "topic")):
        for role in ROLES:
            table.add(column_column_table(task, seed, role=role))
        table.add(column_column_table(task, seed, quantity="tuning_gain"))
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
    found = filled(ColumnTable(specificity_of=[pattern], segments_of=[pattern])).findings()
    assert {r.role for r in found.results if r.metric.startswith("specificity/")} == derived
    assert {r.role for r in found.results if r.metric.startswith("boundary/")} == derived
    assert {columns[0].role for columns, _ in found.segmented} == derived


def test_every_matrix_holds_its_own_columns_in_order():
    found = filled(ColumnTable()).findings()
    assert [m.quantity for m in found.matrices] == ["base/label_cka", "experimental/label_cka", "tuning_gain"]
    for matrix in found.matrices:
        assert matrix.tasks == ("sst2", "trec", "topic")
        for place, seed in enumerate(range(3)):
            np.testing.assert_array_equal(matrix.values[:, place], column_column_table("", seed).estimates.values)


def test_a_role_that_is_reported_elsewhere_leaves_the_other_to_be_reported():
    table = ColumnTable(specificity_of=["probe/macro_f1"])
    for seed, task in enumerate(("sst2", "trec")):
        table.add(column_column_table(task, seed, role="base", quantity="probe/macro_f1"), reported=False)
        table.add(column_column_table(task, seed, role="experimental", quantity="probe/macro_f1"))
    assert [m.quantity for m in table.findings().matrices] == [
        "experimental/probe/macro_f1",
        "base/specificity/macro_f1",
        "experimental/specificity/macro_f1",
    ]


def test_readings_stay_apart_in_the_order_of_their_first_column():
    table = ColumnTable(segments_of=["*"])
    for seed, reading in enumerate((OTHER, READING_COLUMN_TABLE)):
        for task in ("sst2", "trec", "topic"):
            table.add(column_column_table(task, seed, reading=reading))
    found = table.findings()
    assert [m.reading for m in found.matrices] == [OTHER, READING_COLUMN_TABLE]
    assert [columns[0].reading for columns, _ in found.segmented] == [OTHER, READING_COLUMN_TABLE]
    assert [c.task for c in table.columns("label_cka", OTHER)] == ["sst2", "trec", "topic"]


def test_a_later_column_of_a_task_takes_the_place_of_the_earlier():
    table = filled(ColumnTable())
    table.add(replace(column_column_table("trec", 9), role="base"))
    kept = [c.estimates.values for c in table.columns("base/label_cka", READING_COLUMN_TABLE)]
    np.testing.assert_array_equal(kept[1], column_column_table("trec", 9).estimates.values)
    np.testing.assert_array_equal(kept[0], column_column_table("sst2", 0).estimates.values)


def test_a_tail_beyond_the_permutations_gives_smaller_p_where_they_end():
    rng = np.random.default_rng(0)
    estimates = Estimates(np.array([9.0, 0.1, 0.0]), 30, null=rng.normal(size=(99, 3)))
    p = {}
    for tail in ("counted", "moments"):
        table = ColumnTable(tail=tail)
        table.add(Column("label_cka", "CKA", "sst2", READING_COLUMN_TABLE, LAYERS_COLUMN_TABLE, estimates))
        p[tail] = [result.p for result in table.findings().results]
    assert p["moments"][0] < p["counted"][0] == 0.01
    assert p["moments"][1:] == p["counted"][1:]


def test_an_unknown_tail_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"Unknown tail 'normal'.*counted.*moments.*`analysis\.tail`"):
        ColumnTable(tail="normal")  # type: ignore[arg-type]
