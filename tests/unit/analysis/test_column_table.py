from dataclasses import replace

import numpy as np
import pytest

from probes.analysis import Column, ColumnTable
from probes.values import Estimates, Layer, Reading

READING, OTHER = Reading("decoder", "residual", "last"), Reading("decoder", "residual", "mean")
LAYERS: tuple[Layer, ...] = (0, 1, 2)
ROLES = ("base", "experimental")


def column(task: str, seed: int, *, role: str = "", quantity: str = "label_cka", reading: Reading = READING) -> Column:
    rng = np.random.default_rng(seed)
    estimates = Estimates(rng.normal(size=3), 30, rng.normal(size=(30, 3)) * 0.05)
    return Column(quantity, "CKA", task, reading, LAYERS, estimates, role)


def filled(table: ColumnTable) -> ColumnTable:
    for seed, task in enumerate(("sst2", "trec", "topic")):
        for role in ROLES:
            table.add(column(task, seed, role=role))
        table.add(column(task, seed, quantity="tuning_gain"))
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
            np.testing.assert_array_equal(matrix.values[:, place], column("", seed).estimates.values)


def test_a_role_that_is_reported_elsewhere_leaves_the_other_to_be_reported():
    table = ColumnTable(specificity_of=["probe/macro_f1"])
    for seed, task in enumerate(("sst2", "trec")):
        table.add(column(task, seed, role="base", quantity="probe/macro_f1"), reported=False)
        table.add(column(task, seed, role="experimental", quantity="probe/macro_f1"))
    assert [m.quantity for m in table.findings().matrices] == [
        "experimental/probe/macro_f1",
        "base/specificity/macro_f1",
        "experimental/specificity/macro_f1",
    ]


def test_readings_stay_apart_in_the_order_of_their_first_column():
    table = ColumnTable(segments_of=["*"])
    for seed, reading in enumerate((OTHER, READING)):
        for task in ("sst2", "trec", "topic"):
            table.add(column(task, seed, reading=reading))
    found = table.findings()
    assert [m.reading for m in found.matrices] == [OTHER, READING]
    assert [columns[0].reading for columns, _ in found.segmented] == [OTHER, READING]
    assert [c.task for c in table.columns("label_cka", OTHER)] == ["sst2", "trec", "topic"]


def test_a_later_column_of_a_task_takes_the_place_of_the_earlier():
    table = filled(ColumnTable())
    table.add(replace(column("trec", 9), role="base"))
    kept = [c.estimates.values for c in table.columns("base/label_cka", READING)]
    np.testing.assert_array_equal(kept[1], column("trec", 9).estimates.values)
    np.testing.assert_array_equal(kept[0], column("sst2", 0).estimates.values)


def test_a_tail_beyond_the_permutations_gives_smaller_p_where_they_end():
    rng = np.random.default_rng(0)
    estimates = Estimates(np.array([9.0, 0.1, 0.0]), 30, null=rng.normal(size=(99, 3)))
    p = {}
    for tail in ("counted", "moments"):
        table = ColumnTable(tail=tail)
        table.add(Column("label_cka", "CKA", "sst2", READING, LAYERS, estimates))
        p[tail] = [result.p for result in table.findings().results]
    assert p["moments"][0] < p["counted"][0] == 0.01
    assert p["moments"][1:] == p["counted"][1:]


def test_an_unknown_tail_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"Unknown tail 'normal'.*counted.*moments.*`analysis\.tail`"):
        ColumnTable(tail="normal")  # type: ignore[arg-type]
