import numpy as np
import pytest
import torch

from probes.values import RESULT_COLUMNS, Activations, LayerByTask, Reading, Result

READING = Reading("decoder", "residual", "last")


def test_a_pivot_puts_every_result_in_its_cell_layers_ascending_and_nan_elsewhere():
    results = [
        Result(task="a", layer="final", value=1.5),
        Result(task="a", layer=10, value=1.0, ci_low=0.5),
        Result(task="b", layer=10, value=2.0, null_mean=0.1),
        Result(task="b", layer=2, value=3.0, note="constant layer"),
        Result(task="a", layer=None, value=9.0),
    ]
    matrix = LayerByTask.pivot("probe/accuracy", "share", results, READING)
    assert (matrix.layers, matrix.tasks) == ((2, 10, "final"), ("a", "b"))
    np.testing.assert_equal(matrix.values, [[np.nan, 3.0], [1.0, 2.0], [1.5, np.nan]])
    np.testing.assert_equal(matrix.ci_low, [[np.nan, np.nan], [0.5, np.nan], [np.nan, np.nan]])
    np.testing.assert_equal(matrix.null_mean, [[np.nan, np.nan], [np.nan, 0.1], [np.nan, np.nan]])
    assert matrix.notes == {(2, "b"): "constant layer"}


def test_two_results_in_one_cell_are_refused():
    with pytest.raises(ValueError, match=r"Two results of 'q' claim layer 1 of task 'a'"):
        LayerByTask.pivot("q", "", [Result(task="a", layer=1), Result(task="a", layer=1)], READING)


def test_a_matrix_of_the_wrong_shape_is_refused():
    square, wide = np.zeros((1, 1)), np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"expects `ci_low` of shape \(layers, tasks\) = \(1, 1\); got \(1, 2\)"):
        LayerByTask("q", "", (0,), ("a",), square, wide, square, square, READING)


def test_activations_hold_layers_by_examples_by_features():
    with pytest.raises(ValueError, match=r"\(2, 3, 'features'\); got \(3, 2, 4\)"):
        Activations(torch.zeros(3, 2, 4), (0, 1), ("a", "b", "c"), READING)


def test_the_columns_of_results_are_those_the_documentation_lists():
    assert ",".join(RESULT_COLUMNS) == (
        "study,role,backbone,reference,suite,task,cluster,stack,layer,site,pooling,probe,penalty,control,seed,split,"
        "metric,value,ci_low,ci_high,null_mean,p,n,note"
    )
