"""Probes that read tokens in a bank: padding, independence, outputs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tensor_samples import draw
from torch import Tensor, nn

from probes.architectures import (
    AttentionProbe,
    DepthProbe,
    DistanceProbe,
    MultiMaxProbe,
    ProbeArchitecture,
    SyntacticDistanceProbe,
    reads_tokens,
)
from probes.training.bank.minibatch_module import row_loss_for
from probes.training.bank.probe_bank import ProbeBank
from probes.training.bank.probe_module import Standardiser, row_batched_logits
from probes.training.ragged import RaggedRows

LENGTHS = torch.tensor([4, 1, 7, 3])
ARCHITECTURES = (AttentionProbe, partial(AttentionProbe, position_bias=False), MultiMaxProbe, DistanceProbe, DepthProbe,
                 SyntacticDistanceProbe)  # fmt: skip


def shaken(bank: ProbeBank) -> ProbeBank:
    """The bank with other values of its parameters, since queries start at zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return bank


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_do_not_depend_on_padding_and_are_vectorised(architecture: ProbeArchitecture) -> None:
    bank = shaken(ProbeBank(architecture, 5, 3, layers=(0, 1), replicas=("a", "b")))
    x, mask = RaggedRows(draw(2, int(LENGTHS.sum()), 5), LENGTHS).padded()
    together = bank(x, mask)
    assert bank.vectorised
    for row, length in enumerate(LENGTHS.tolist()):
        alone = bank(x[:, row : row + 1, :length], mask[row : row + 1, :length])[:, :, 0]
        inside = together[:, :, row]
        for axis in range(2, inside.ndim):  # outputs for tokens are cut to the sentence
            inside = (
                inside
                if inside.shape[axis] == 3 and architecture in ARCHITECTURES[:3]
                else inside.narrow(axis, 0, length)
            )
        if architecture is SyntacticDistanceProbe:  # the last word has no gap behind it
            inside, alone = inside[..., :-1], alone[..., :-1]
        torch.testing.assert_close(inside, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_probe_taken_out_of_its_bank_gives_its_outputs(architecture: ProbeArchitecture) -> None:
    bank = shaken(ProbeBank(architecture, 5, 3, layers=(0, 1), replicas=("a", "b")))
    x, mask = RaggedRows(draw(2, int(LENGTHS.sum()), 5), LENGTHS).padded()
    torch.testing.assert_close(bank.probe_at(1, 1)(x[1], mask), bank(x, mask)[1, 1], rtol=1e-4, atol=1e-5)


def test_a_bank_reads_rows_in_batches_as_at_once() -> None:
    bank = shaken(ProbeBank(AttentionProbe, 5, 3, layers=(0, 1)))
    rows = RaggedRows(draw(2, int(LENGTHS.sum()), 5), LENGTHS)
    standardiser, _ = Standardiser.of(rows.tokens)
    at_once = row_batched_logits(bank, standardiser, rows)
    torch.testing.assert_close(row_batched_logits(bank, standardiser, rows, rows=1), at_once, rtol=1e-4, atol=1e-5)
    assert row_batched_logits(bank, standardiser, rows.at(slice(0, 0))).shape == (2, 1, 0, 3)


def test_attention_starts_as_the_mean_and_its_weights_sum_to_1() -> None:
    probe = AttentionProbe(5, 3, num_heads=2)
    x, mask = RaggedRows(draw(1, int(LENGTHS.sum()), 5), LENGTHS).padded()
    weights = probe.weights(x[0], mask)
    torch.testing.assert_close(weights[..., 0], mask / LENGTHS[:, None])
    nn.init.normal_(probe.queries.weight)
    weights = probe.weights(x[0], mask)
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 2))
    assert (weights[~mask] == 0).all()


def test_a_strong_position_bias_reads_the_first_or_the_last_token() -> None:
    probe = AttentionProbe(5, 3, num_heads=2)
    assert probe.slopes is not None
    probe.slopes.data = torch.tensor([-50.0, 0.0, 0.0, -50.0])  # head 0 the first token, head 1 the last
    x, mask = RaggedRows(draw(1, int(LENGTHS.sum()), 5), LENGTHS).padded()
    weights = probe.weights(x[0], mask)
    assert weights[:, 0, 0].tolist() == pytest.approx([1.0] * 4)
    assert weights[torch.arange(4), LENGTHS - 1, 1].tolist() == pytest.approx([1.0] * 4)


def test_distances_are_squared_lengths_of_projected_differences() -> None:
    probe = DistanceProbe(5, 2)
    x = draw(1, 4, 5)
    projected = x @ probe.projection.weight.T
    expected = (projected[:, :, None] - projected[:, None]).square().sum(-1)
    mask = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(probe(x, mask), expected)
    depth = DepthProbe(5, 2)
    torch.testing.assert_close(depth(x, mask), (x @ depth.projection.weight.T).square().sum(-1))


def test_losses_leave_out_what_is_not_there() -> None:
    targets = torch.tensor([[1.0, 2.0, torch.nan], [3.0, torch.nan, torch.nan]])
    predicted = torch.tensor([[2.0, 2.0, 9.0], [1.0, 9.0, 9.0]], requires_grad=True)
    losses = DepthProbe(5, 1).loss(predicted, targets)
    assert losses.tolist() == [0.5, 2.0]
    losses.sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[0.5, 0.0, 0.0], [-1.0, 0.0, 0.0]]


def test_only_the_order_of_gaps_matters_to_the_hinge_loss() -> None:
    probe, targets = SyntacticDistanceProbe(5), torch.tensor([[3.0, 1.0, 1.0, torch.nan]])
    # two pairs differ; both are ordered rightly and by 1, then one wrongly by 1
    assert probe.loss(torch.tensor([[1.0, 0.0, 0.0, 5.0]]), targets).tolist() == [0]
    assert probe.loss(torch.tensor([[1.0, 0.0, 2.0, 5.0]]), targets).tolist() == [1]
    assert probe.loss(torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [0]  # nothing differs


def test_a_probe_that_gives_other_outputs_than_it_says_is_refused() -> None:
    class Wrong(DepthProbe):
        outputs = "token pairs"

    with pytest.raises(ValueError, match=r"expected \(rows, tokens, tokens\) = \(4, 7, 7\)"):
        ProbeBank(Wrong, 5, 3, layers=(0,))(*RaggedRows(draw(1, int(LENGTHS.sum()), 5), LENGTHS).padded())


def test_classes_and_partials_tell_whether_they_read_tokens() -> None:
    assert reads_tokens(AttentionProbe)
    assert reads_tokens(partial(MultiMaxProbe, num_heads=2))
    assert not reads_tokens(nn.Linear)


def test_the_loss_of_a_probe_does_not_depend_on_the_others() -> None:
    x, mask = RaggedRows(draw(2, int(LENGTHS.sum()), 5), LENGTHS).padded()
    targets = torch.tensor([[0, 1, 2, 0]])

    def gradient(layers: tuple[int, ...]) -> Tensor:
        bank = ProbeBank(AttentionProbe, 5, 3, layers=layers, seed=3)
        bank.losses(x[list(layers)], targets, row_loss_for("classification"), mask=mask).sum().backward()
        grad = bank.get_parameter("queries/weight").grad
        assert grad is not None
        return grad[-1]

    torch.testing.assert_close(gradient((1,)), gradient((0, 1)))


@pytest.mark.parametrize("rank", [4, 64])
def test_distances_start_at_about_4_whatever_the_rank(rank: int) -> None:
    torch.manual_seed(0)
    distances = DistanceProbe(200, rank)(draw(1, 60, 200, seed=1), torch.ones(1, 60, dtype=torch.bool))
    assert distances[0][~torch.eye(60, dtype=torch.bool)].mean().item() == pytest.approx(4, rel=0.15)
