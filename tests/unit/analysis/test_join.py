import logging

import pytest
import torch
from gaussian_rows import draw_float32

from probes.analysis import join_rows, linear_cka, match_layers, values_at_layers
from probes.analysis.join import layer_remarks
from probes.values import Activations, Layer, Reading

READING = Reading("decoder", "residual", "last")


def activations(rows: int = 60, *, layers: tuple[Layer, ...] = (0, 1), features: int = 5, seed: int = 0) -> Activations:
    values = draw_float32(len(layers), rows, features, seed=seed)
    return Activations(values, layers, tuple(f"row-{i}" for i in range(rows)), READING)


def rearranged(x: Activations, order: torch.Tensor) -> Activations:
    return Activations(x.values[:, order], x.layers, tuple(x.row_ids[i] for i in order.tolist()), x.reading)


class TestJoin:
    def test_shuffled_rows_find_each_other_by_their_ids(self):
        x = activations()
        y = rearranged(x, torch.randperm(60, generator=torch.Generator().manual_seed(1)))
        joined = join_rows(x, y)
        assert joined.num_dropped == 0
        assert joined.x.row_ids == joined.y.row_ids == x.row_ids
        assert torch.equal(joined.y.values, x.values)
        assert linear_cka(joined.x.values, joined.y.values).tolist() == pytest.approx([1, 1])
        assert linear_cka(x.values, y.values).abs().max() < 0.2  # matched by position, layers are unrelated

    def test_rows_that_one_side_lacks_or_that_are_not_finite_are_dropped_on_both_and_counted(self, caplog):
        x, y = activations(10), rearranged(activations(10), torch.tensor([9, 0, 2, 3, 4, 5, 6, 8]))
        x.values[1, 4, 2] = torch.nan
        y.values[0, 3, 0] = torch.inf  # row-3
        with caplog.at_level(logging.WARNING):
            joined = join_rows(x, y)
        assert joined.x.row_ids == joined.y.row_ids == ("row-0", "row-2", "row-5", "row-6", "row-8", "row-9")
        assert torch.equal(joined.x.values, joined.y.values)
        assert joined.num_dropped == 4
        assert "4 rows are missing or not finite on one side, and were dropped on both." in caplog.text

    def test_ids_of_either_side_count_as_dropped(self):
        x, y = activations(6), activations(6)
        y = Activations(y.values, y.layers, ("row-0", "row-1", "a", "b", "c", "d"), READING)
        joined = join_rows(x, y)
        assert (joined.x.row_ids, joined.num_dropped) == (("row-0", "row-1"), 8)

    def test_sides_with_equal_rows_are_passed_on_without_a_copy_or_a_warning(self, caplog):
        x, y = activations(), activations(features=3, layers=(0, 1, 2), seed=1)
        joined = join_rows(x, y)
        assert joined.x is x
        assert joined.y is y
        assert not caplog.records

    def test_each_side_keeps_its_layers_and_reading(self):
        x, y = activations(6), activations(4, layers=(0, 1, 2, "final"), features=3, seed=1)
        joined = join_rows(x, y)
        assert (joined.x.layers, joined.y.layers) == ((0, 1), (0, 1, 2, "final"))
        assert (tuple(joined.x.values.shape), tuple(joined.y.values.shape)) == ((2, 4, 5), (4, 4, 3))
        assert joined.y.reading == READING

    def test_nothing_left_to_compare_is_an_error(self):
        x, y = activations(4), activations(4)
        other = Activations(y.values, y.layers, ("a", "b", "c", "d"), READING)
        message = r"No row is left to compare: of 4 and 4 rows.*same task, split and `suite\.seed`"
        with pytest.raises(ValueError, match=message):
            join_rows(x, other)
        y.values[:] = torch.nan
        with pytest.raises(ValueError, match="No row is left to compare"):
            join_rows(x, y)


class TestLayers:
    @pytest.mark.parametrize(
        ("layers", "others", "expected"),
        [
            ((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)),
            ((0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6), (0, 2, 4, 6)),  # a deeper model
            ((0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3), (0, 0, 1, 1, 2, 2, 3)),
            ((1, 2, 3), (1, 2, 3, 4, 5, 6), (2, 4, 6)),  # sublayers begin at 1
            ((2, 3), (0, 1, 2, 3, 4, 5, 6), (2, 3)),  # chosen by name
            ((5, 6), (0, 1, 2, 3), (2, 3)),
            (("final",), (0, 1, 2, "final"), ("final",)),
            ((1, "final"), (0, 1, 2), (2, 2)),  # the last layer stands for a missing final norm
            ((3,), ("final",), ("final",)),
        ],
    )  # fmt: skip
    def test_layers_match_by_name_or_at_the_same_relative_depth(self, layers, others, expected):
        assert match_layers(layers, others) == expected

    @pytest.mark.parametrize(
        ("layers", "others", "depths", "expected"),
        [
            ((0, 1, 2, 3), tuple(range(31)), (30, 30), (0, 1, 2, 3)),  # a few layers of one model
            ((0, 1, 2, 3), tuple(range(31)), (3, 30), (0, 10, 20, 30)),
            ((0, 2, 4), (0, 2, 4, 6, 8), (4, 8), (0, 4, 8)),  # every second layer of both
            ((0, 1, 2), (1, 2), (2, 2), (1, 1, 2)),  # the nearest that was read
            ((3, "final"), (0, 6, "final"), (3, 6), (6, "final")),
            ((3, "final"), (0, 6), (3, 6), (6, 6)),
        ],
    )  # fmt: skip
    def test_known_depths_decide_what_lies_at_the_same_place(self, layers, others, depths, expected):
        assert match_layers(layers, others, depth=depths[0], other_depth=depths[1]) == expected

    def test_layers_compared_with_others_are_named(self):
        assert layer_remarks((0, 1, "final"), (0, 2, "final")) == ("", "against layer 2", "")

    def test_values_at_chosen_layers_may_repeat(self):
        x = activations(layers=(0, 1, "final"))
        assert torch.equal(values_at_layers(x, ("final", 0, 0)), x.values[[2, 0, 0]])
        assert values_at_layers(x, (0, 1, "final")) is x.values
