"""Masks over heads: known heads are found, and none where the pairs contradict each other."""

from __future__ import annotations

import torch
from planted_circuit import circuit_pairs, planted_circuit
from toy_language_model import LAYERS, toy_language_model, toy_pairs

from probes.interventions.heads import HeadSwap, contradictory_signs, learn_gates, one_head
from probes.studies.interventions.patching import pair_questions


def swaps_and_gaps(flipped: int):
    lm, pairs = planted_circuit(), circuit_pairs(flipped)
    source, target = (pair_questions(lm, pairs, side, tokens_per_batch=40) for side in ("clean", "corrupted"))
    swaps = [
        HeadSwap.of(lm, theirs, own, own.prompt_mask.bool())
        for theirs, own in zip(source.batches, target.batches, strict=True)
    ]
    return lm, swaps, [swap.gaps for swap in swaps]


def learned(signs=torch.ones_like, penalty: float = 0.05) -> torch.Tensor:
    lm, swaps, gaps = swaps_and_gaps(0)
    size = torch.cat(gaps).abs().mean()
    wanted = [signs(gap.abs()) * gap.sign() / size for gap in gaps]
    return learn_gates(lm, swaps, wanted, penalty=penalty, steps=60, learning_rate=0.05)


def test_the_heads_of_the_planted_chain_are_found_and_no_others():
    gates = learned()
    chosen = {tuple(place) for place in (gates > 0.5).nonzero().tolist()}
    assert chosen
    assert chosen <= {(0, 2), (1, 0)}  # head.1.2 and head.2.0, each of which carries all of the answer
    assert gates[[0, 0, 1, 2], [0, 1, 3, 0]].max() == 0


def test_where_half_of_the_pairs_want_the_opposite_no_head_is_kept():
    assert learned(contradictory_signs).max() < 0.5


def test_a_head_costs_more_than_it_brings_if_the_penalty_exceeds_the_gap():
    assert learned(penalty=3.0).max() < 0.5


def test_one_head_of_the_chain_closes_the_gap_and_one_beside_it_does_not():
    lm, swaps, gaps = swaps_and_gaps(0)
    for (layer, head), share in {(0, 2): 1.0, (1, 0): 1.0, (0, 1): 0.0, (1, 3): 0.0, (2, 0): 0.0}.items():
        gates = torch.zeros(3, 4)
        gates[layer] = one_head(head, 4)
        for swap, gap in zip(swaps, gaps, strict=True):
            change = swap.log_odds(lm, gates) - swap.log_odds(lm, torch.zeros(3, 4))
            torch.testing.assert_close(change, share * gap, rtol=1e-5, atol=1e-5)


def test_all_heads_together_close_the_whole_gap_of_the_sign_that_is_read_and_change_nothing_of_the_other():
    for flipped in (0, 1):
        lm, swaps, gaps = swaps_and_gaps(flipped)
        for swap, gap in zip(swaps, gaps, strict=True):
            change = swap.log_odds(lm, torch.ones(3, 4)) - swap.log_odds(lm, torch.zeros(3, 4))
            torch.testing.assert_close(change, gap, rtol=1e-5, atol=1e-5)
            assert (gap.abs() > 0.5).all() if flipped == 0 else gap.abs().max() < 1e-5


def swaps_of_toy(which: int, half: int) -> list[HeadSwap]:
    """Of the toy whose attention carries the sign; every second pair is in each half."""
    lm, pairs = toy_language_model(carried=True), toy_pairs(which, carried=True, every=5)[half::2]
    source, target = (pair_questions(lm, pairs, side, tokens_per_batch=999) for side in ("clean", "corrupted"))
    (theirs,), (own,) = source.batches, target.batches
    return [HeadSwap.of(lm, theirs, own, own.prompt_mask.bool())]


def change(which: int, gates: torch.Tensor) -> torch.Tensor:
    lm, (swap,) = toy_language_model(carried=True), swaps_of_toy(which, 1)
    return swap.log_odds(lm, gates) - swap.log_odds(lm, torch.zeros_like(gates))


def test_a_mask_learned_on_the_trained_toy_carries_the_sign_that_is_read_and_not_the_ignored_one_in_other_pairs():
    lm, (swap,) = toy_language_model(carried=True), swaps_of_toy(0, 0)
    wanted = [swap.gaps.sign() / swap.gaps.abs().mean()]
    gates = learn_gates(lm, [swap], wanted, penalty=0.02, steps=60, learning_rate=0.05)
    mask = (gates > 0.5).float()
    assert 0 < mask.sum() < 4 * LAYERS
    gaps = swaps_of_toy(0, 1)[0].gaps
    assert (gaps.abs() > 1).all()
    assert (change(0, mask) * gaps.sign()).mean() / gaps.abs().mean() > 0.9
    assert change(1, mask).abs().mean() / gaps.abs().mean() < 0.05
