import numpy as np
import pytest
import torch

from probes.values import RESULT_COLUMNS, Activations, Estimates, LayerByTask, LayerProfile, Reading

READING = Reading("decoder", "residual", "last")


def test_a_profile_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"profile of 'q' expects values of shape \(layers,\) = \(2,\); got \(3,\)"):
        LayerProfile(quantity="q", unit="", layers=(0, 1), estimates=Estimates(np.zeros(3), 4))


def test_a_profile_is_named_with_its_role_and_a_score_without_probe():
    estimates = Estimates(np.array([0.5]), 4)
    score = LayerProfile(quantity="probe/macro_f1", unit="F1", layers=("final",), estimates=estimates)
    assert (score.metric, score.name) == ("macro_f1", "probe/macro_f1")
    in_role = LayerProfile(quantity="probe/macro_f1", unit="F1", layers=(None,), estimates=estimates, role="base")
    assert in_role.name == "base/macro_f1"
    assert (list(score.by_layer()), list(in_role.by_layer())) == ([("final", 0.5)], [])


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
        "metric,unit,value,ci_low,ci_high,interval_over,null_mean,null_low,null_high,p,p_cell,n,note"
    )
