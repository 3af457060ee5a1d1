from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from gaussian_rows import draw
from torchmetrics import Metric, MetricCollection

from probes.analysis import streaming
from probes.analysis.geometry.point_cloud import anisotropy
from probes.analysis.geometry.spectra import effective_rank, matrix_entropy, participation_ratio
from probes.analysis.similarity.alignment import matched_cosine
from probes.analysis.similarity.cca import pwcca, svcca
from probes.analysis.similarity.cka import label_cka, linear_cka

LAYERS, ROWS, FEATURES = 3, 47, 5


def x_rows() -> torch.Tensor:
    return draw(LAYERS, ROWS, FEATURES) * torch.logspace(0, -1, FEATURES) + 2 + torch.arange(ROWS)[:, None] / ROWS


def y_rows() -> torch.Tensor:
    return x_rows().flip(-1) + draw(LAYERS, ROWS, FEATURES, seed=1) - 5


def class_labels() -> torch.Tensor:
    return (x_rows()[1, :, 0] > 2.5).long() + (torch.arange(ROWS) > 30).long()


@dataclass(frozen=True)
class Case:
    """A metric, the function it must equal, and what both take: one side, two, or a side and labels."""

    metric: Callable[[], Metric]
    function: Callable[..., torch.Tensor]
    takes: str

    def inputs(self) -> list[torch.Tensor]:
        return {
            "x": [x_rows()],
            "xy": [x_rows(), y_rows()],
            "classes": [x_rows(), class_labels()],
            "reals": [x_rows(), y_rows()[1, :, 0]],
        }[self.takes]


SIZES = (LAYERS, FEATURES)
PAIR = (LAYERS, FEATURES, FEATURES)
CASES = {
    "linear_cka": Case(partial(streaming.LinearCKA, *PAIR), linear_cka, "xy"),
    "biased_cka": Case(partial(streaming.LinearCKA, *PAIR, debiased=False), partial(linear_cka, debiased=False), "xy"),
    "label_cka": Case(partial(streaming.LinearLabelCKA, *SIZES, 3), label_cka, "classes"),
    "label_cka_of_unseen_class": Case(partial(streaming.LinearLabelCKA, *SIZES, 5), label_cka, "classes"),
    "biased_label_cka": Case(
        partial(streaming.LinearLabelCKA, *SIZES, 3, debiased=False), partial(label_cka, debiased=False), "classes"
    ),
    "label_cka_of_reals": Case(partial(streaming.LinearLabelCKA, *SIZES, None), label_cka, "reals"),
    "svcca": Case(partial(streaming.SVCCA, *PAIR, variance=0.9), partial(svcca, variance=0.9), "xy"),
    "svcca_by_default": Case(partial(streaming.SVCCA, *PAIR), svcca, "xy"),
    "pwcca": Case(partial(streaming.PWCCA, *PAIR, ridge=0.1), partial(pwcca, ridge=0.1), "xy"),
    "pwcca_by_default": Case(partial(streaming.PWCCA, *PAIR), pwcca, "xy"),
    "matched_cosine": Case(partial(streaming.MatchedCosine, *SIZES), matched_cosine, "xy"),
    "effective_rank": Case(partial(streaming.EffectiveRank, *SIZES), effective_rank, "x"),
    "participation_ratio": Case(partial(streaming.ParticipationRatio, *SIZES), participation_ratio, "x"),
    "matrix_entropy": Case(partial(streaming.MatrixEntropy, *SIZES), matrix_entropy, "x"),
    "matrix_entropy_uncentred_bits": Case(
        partial(streaming.MatrixEntropy, *SIZES, alpha=2, normalise=False, centred=False),
        partial(matrix_entropy, alpha=2, normalise=False, centred=False),
        "x",
    ),
    "anisotropy": Case(partial(streaming.Anisotropy, *SIZES), anisotropy, "x"),
}
every_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def cut(inputs: list[torch.Tensor], sizes: list[int]) -> list[tuple[torch.Tensor, ...]]:
    """Batches of these numbers of rows."""
    parts = [side.split(sizes, dim=1 if side.ndim == 3 else 0) for side in inputs]
    return list(zip(*parts, strict=True))


def fed(case: Case, batches: list[tuple[torch.Tensor, ...]]) -> Metric:
    metric = case.metric()
    for batch in batches:
        metric.update(*batch)
    return metric


def assert_equals_one_shot(case: Case, metric: Metric, inputs: list[torch.Tensor]) -> None:
    value = metric.compute()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, case.function(*inputs), rtol=1e-10, atol=1e-11)


@every_metric
@pytest.mark.parametrize("sizes", [[47], [10, 10, 10, 10, 7], [1] * 47, [1, 0, 45, 1], [2, 40, 5]])
def test_streaming_equals_one_shot_for_any_split_into_batches(case: Case, sizes: list[int]):
    inputs = case.inputs()
    assert_equals_one_shot(case, fed(case, cut(inputs, sizes)), inputs)


@every_metric
def test_two_metrics_merged_equal_one_shot(case: Case):
    inputs = case.inputs()
    batches = cut(inputs, [3, 20, 17, 7])
    for first, second in ((batches[:2], batches[2:]), (batches[:1], batches[1:]), ([], batches), (batches, [])):
        merged = fed(case, first)
        merged.merge_state(fed(case, second))
        merged._update_count = 1
        assert_equals_one_shot(case, merged, inputs)


def join_ranks(metric: Metric, other: Metric) -> None:
    """Let `compute` gather as from two ranks: every state of `metric`, then the same state of `other`."""
    position = iter(other.metric_state.values())

    def gather(tensor: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        state = next(position)
        return [tensor, torch.cat(state) if isinstance(state, list) else state]

    metric.dist_sync_fn, metric.distributed_available_fn = gather, lambda: True


@every_metric
def test_two_ranks_with_different_rows_equal_one_shot_and_keep_their_states(case: Case):
    inputs = case.inputs()
    batches = cut(inputs, [11, 2, 30, 4])
    one, two = fed(case, batches[::2]), fed(case, batches[1::2])
    before = {name: state.clone() for name, state in one.metric_state.items()}
    join_ranks(one, two)
    assert_equals_one_shot(case, one, inputs)
    assert all(torch.equal(state, before[name]) for name, state in one.metric_state.items())


@every_metric
def test_calling_the_metric_gives_the_batch_and_adds_it(case: Case):
    inputs = case.inputs()
    metric = case.metric()
    for batch in cut(inputs, [20, 27]):
        torch.testing.assert_close(metric(*batch), case.function(*batch), rtol=1e-10, atol=1e-11)
    assert_equals_one_shot(case, metric, inputs)


@every_metric
def test_a_reset_forgets_every_row(case: Case):
    inputs = case.inputs()
    metric = fed(case, [tuple(3 - side if side.is_floating_point() else side for side in inputs)])
    metric.reset()
    metric.update(*inputs)
    assert_equals_one_shot(case, metric, inputs)


@every_metric
def test_a_mean_100_times_the_spread_costs_no_digits(case: Case):
    inputs = [side + 200 if side.ndim == 3 else side for side in case.inputs()]
    value = fed(case, cut(inputs, [7] * 6 + [5])).compute()
    torch.testing.assert_close(value, case.function(*inputs), rtol=1e-10, atol=1e-10)


@every_metric
def test_float32_batches_are_summed_in_float64(case: Case):
    inputs = [side.float() if side.is_floating_point() else side for side in case.inputs()]
    wide = [side.double() if side.is_floating_point() else side for side in inputs]
    assert_equals_one_shot(case, fed(case, cut(inputs, [16, 16, 15])), wide)


@every_metric
def test_a_constant_layer_is_nan_beside_others_that_are_not(case: Case):
    inputs = case.inputs()
    inputs[0][1] = 0.1
    value = fed(case, cut(inputs, [5, 1, 30, 11])).compute()
    assert value.isnan().tolist() == [False, True, False]


@every_metric
def test_a_layer_constant_within_each_batch_but_not_over_them_is_not_nan(case: Case):
    inputs = case.inputs()
    inputs[0][1, :20], inputs[0][1, 20:] = 0.1, torch.arange(1.0, FEATURES + 1).double()
    first, second = cut(inputs, [20, 27])
    assert_equals_one_shot(case, fed(case, [first, second]), inputs)
    merged = fed(case, [first])
    merged.merge_state(fed(case, [second]))
    assert_equals_one_shot(case, merged, inputs)


@pytest.mark.parametrize("name", ["matched_cosine", "anisotropy"])
def test_rows_of_zeros_are_left_out_of_cosines(name: str):
    inputs = CASES[name].inputs()
    inputs[0][:, [0, 9]] = 0
    inputs[-1][2, 20:] = 0
    assert CASES[name].function(*inputs).isfinite().all()
    assert_equals_one_shot(CASES[name], fed(CASES[name], cut(inputs, [1, 20, 26])), inputs)


@every_metric
def test_too_few_rows_are_refused_with_their_number(case: Case):
    inputs = case.inputs()
    with pytest.raises(ValueError, match="at least 4 rows; 3 came"):
        fed(case, cut(inputs, [2, 1, 44])[:2]).compute()


@every_metric
def test_other_sizes_than_the_metric_was_made_for_are_refused(case: Case):
    x, *rest = case.inputs()
    metric = case.metric()
    with pytest.raises(
        ValueError, match=r"`x` expects .* \(3, rows, 5\), as the metric was made for; got \(3, 47, 4\)"
    ):
        metric.update(x[..., :4], *rest)
    with pytest.raises(ValueError, match=r"\(3, rows, 5\), .* got \(2, 47, 5\)"):
        metric.update(x[:2], *rest)
    with pytest.raises(ValueError, match=r"\(3, rows, 5\), .* got \(47, 5\)"):
        metric.update(x[0], *rest)


@every_metric
@pytest.mark.parametrize("broken", [torch.nan, -torch.inf])
def test_rows_that_are_not_finite_are_refused(case: Case, broken: float):
    inputs = case.inputs()
    inputs[0][0, [3, 9], 1] = broken
    with pytest.raises(ValueError, match="2 of the 47 rows of a batch of `x` hold NaN or infinity"):
        case.metric().update(*inputs)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.takes != "x"])
def test_sides_with_different_rows_are_refused(name: str):
    x, other = CASES[name].inputs()
    with pytest.raises(ValueError, match=r"same rows on both sides; got 46 of `x` and 47 of `(y|labels)`"):
        CASES[name].metric().update(x[:, 1:], other)


def test_measures_of_one_collection_share_their_sums():
    collection = MetricCollection({name: CASES[name].metric() for name in ("linear_cka", "svcca", "pwcca")})
    spectra = MetricCollection(
        {name: CASES[name].metric() for name in ("effective_rank", "participation_ratio", "matrix_entropy")}
    )
    for batch in cut([x_rows(), y_rows()], [20, 27]):
        collection.update(*batch)
        spectra.update(batch[0])
    assert [sorted(group) for group in collection.compute_groups.values()] == [["linear_cka", "pwcca", "svcca"]]
    assert [len(group) for group in spectra.compute_groups.values()] == [3]
    for name, value in {**collection.compute(), **spectra.compute()}.items():
        torch.testing.assert_close(value, CASES[name].function(*CASES[name].inputs()[:2]), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("metric", [streaming.SVCCA, streaming.PWCCA])
def test_options_of_canonical_correlations_are_checked_before_the_first_batch(metric):
    with pytest.raises(ValueError, match=r"`variance` expects a share in \(0, 1\]; got 2"):
        metric(1, 4, 4, variance=2)
    with pytest.raises(ValueError, match="`ridge` expects a share of the mean variance, 0 or more; got -1"):
        metric(1, 4, 4, ridge=-1)


def test_the_order_of_an_entropy_is_checked_before_the_first_batch():
    with pytest.raises(ValueError, match="`alpha`, the order of the Rényi entropy, must be above 0; got 0"):
        streaming.MatrixEntropy(1, 4, alpha=0)
