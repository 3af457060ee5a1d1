import pytest

from probes.analysis.streaming import PWCCA, SVCCA, MatrixEntropy


@pytest.mark.parametrize("metric", [SVCCA, PWCCA])
def test_options_of_canonical_correlations_are_checked_before_the_first_batch(metric):
    with pytest.raises(ValueError, match=r"`variance` expects a share in \(0, 1\]; got 2"):
        metric(1, 4, 4, variance=2)
    with pytest.raises(ValueError, match="`ridge` expects a share of the mean variance, 0 or more; got -1"):
        metric(1, 4, 4, ridge=-1)


def test_the_order_of_an_entropy_is_checked_before_the_first_batch():
    with pytest.raises(ValueError, match="`alpha`, the order of Rényi's entropy, expects a number above 0; got 0"):
        MatrixEntropy(1, 4, alpha=0)
