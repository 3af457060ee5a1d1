import pytest
import torch

from probes.analysis.streaming import LinearLabelCKA


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_labels_all_the_same_give_nan_and_two_classes_do_not():
    x, labels = draw(2, 20, 4), torch.zeros(20, dtype=torch.long)
    metric = LinearLabelCKA(2, 4, 2)
    metric.update(x, labels)
    assert metric.compute().isnan().all()
    metric.update(x, labels + 1)
    assert metric.compute().isfinite().all()


def test_a_layer_that_holds_the_labels_is_found():
    labels = torch.arange(300) % 3
    x = draw(2, 300, 16)
    x[1, :, :3] += 3 * torch.nn.functional.one_hot(labels, 3)
    metric = LinearLabelCKA(2, 16, 3)
    for rows, some in zip(x.split(64, dim=1), labels.split(64), strict=True):
        metric.update(rows, some)
    assert metric.compute()[0].abs() < 0.05
    assert metric.compute()[1] > 0.3


@pytest.mark.parametrize(
    ("num_classes", "labels", "message"),
    [
        (3, torch.tensor([0, 1, 2, 3]), "class indices from 0 to 2; got 3. Set `num_classes`"),
        (3, torch.tensor([0, -1, 2, 1]), "class indices from 0 to 2; got -1"),
        (3, torch.rand(4), "expect class indices, int64; got torch.float32. Set `num_classes`"),
        (None, torch.arange(4), r"expect real values \(`num_classes` is None\); got torch.int64"),
        (None, torch.tensor([0.0, torch.nan, 1.0, 2.0]), "1 of the 4 rows of a batch of `labels` hold NaN"),
        (3, torch.zeros(4, 1, dtype=torch.long), r"`labels` expect the shape \(rows,\); got \(4, 1\)"),
    ],
)
def test_labels_of_another_kind_are_refused(num_classes: int | None, labels: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        LinearLabelCKA(1, 2, num_classes).update(draw(1, 4, 2), labels)


def test_no_classes_at_all_are_refused():
    with pytest.raises(ValueError, match="`num_classes` expects 1 or more, or None for real-valued labels; got 0"):
        LinearLabelCKA(1, 2, 0)
