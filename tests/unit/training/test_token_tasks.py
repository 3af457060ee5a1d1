"""Tasks whose rows are texts with a vector for each token: what attention finds, what it does not, and the plumbing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from planted_texts import label_in_all_tokens, label_in_one_token, means
from tensor_samples import draw

from probes.analysis import interval_of
from probes.architectures import AttentionProbe, MultiMaxProbe
from probes.studies.readers import reader_profiles
from probes.training import RaggedRows, TaskProbes, fit_probes, load_probes

TRAINING = {"fit": "minibatch", "penalties": (0.0,), "learning_rate": 0.02, "batch_size": 32, "max_epochs": 25,
            "controls": 0, "permutations": 0}  # fmt: skip


READERS = {
    "mean": {"controls": 0, "permutations": 0},
    "attention": {"architecture": AttentionProbe, **TRAINING},
    "multi_max": {"architecture": MultiMaxProbe, **TRAINING},
}


@cache
def planted(plant: Callable[..., tuple[RaggedRows, torch.Tensor]], reader: str) -> TaskProbes:
    (x, y), (xv, yv), (xt, yt) = (plant(rows, seed=seed) for seed, rows in enumerate((300, 200, 300)))
    if reader == "mean":
        x, xv, xt = means(x), means(xv), means(xt)
    splits = {"x_validation": xv, "y_validation": yv, "x_test": xt, "y_test": yt}
    return fit_probes(x, y, **splits, training_sets=0, **READERS[reader])


def accuracy(fit: TaskProbes) -> tuple[float, float, float]:
    estimates = fit.profile("accuracy").estimates
    assert estimates.interval is not None
    return float(estimates.values[0]), float(estimates.interval[0, 0]), float(estimates.interval[1, 0])


def gain(plant: Callable[..., tuple[RaggedRows, torch.Tensor]], reader: str) -> tuple[float, float, float]:
    """The gain over the mean, and its interval, as `study=readers` reports it."""
    fits = {name: planted(plant, name) for name in ("mean", reader)}
    (profile,) = [p for p in reader_profiles(fits, pooled=["mean"]) if p.quantity == "gain_over_pooled"]
    low, high = interval_of(profile)
    return float(profile.estimates.values[0]), float(low[0]), float(high[0])


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["attention", "multi_max"])
def test_a_label_in_one_of_8_to_512_tokens_is_found(reader: str) -> None:
    assert accuracy(planted(label_in_one_token, reader))[0] > 0.95
    assert gain(label_in_one_token, reader)[1] > 0.3


def test_a_label_in_one_of_8_to_512_tokens_is_lost_by_the_mean() -> None:
    _, low, high = accuracy(planted(label_in_one_token, "mean"))
    assert low < 0.56
    assert high < 0.65


@pytest.mark.slow
def test_a_label_in_the_mean_gives_attention_no_advantage() -> None:
    assert accuracy(planted(label_in_all_tokens, "mean"))[0] > 0.85  # the positive control: there is something to find
    value, low, _ = gain(label_in_all_tokens, "attention")
    assert value < 0.03
    assert low < 0


def small(rows: int = 90, *, layers: int = 2, seed: int = 0) -> tuple[RaggedRows, torch.Tensor]:
    """Texts of 1 to 6 tokens whose label is in their first token at the last layer."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (rows,), generator=generator)
    labels = torch.arange(rows) % 3
    tokens = torch.randn(layers, int(lengths.sum()), 5, generator=generator)
    tokens[-1, lengths.cumsum(0) - lengths] += 4 * torch.nn.functional.one_hot(labels, 5)
    return RaggedRows(tokens, lengths), labels


QUICK = {**TRAINING, "architecture": partial(AttentionProbe, num_heads=2), "max_epochs": 8, "folds": 2,
         "bootstrap_samples": 20}  # fmt: skip


def test_rows_of_tokens_are_cross_validated_controlled_and_refitted_as_rows_of_vectors() -> None:
    fit = fit_probes(*small(), **{**QUICK, "penalties": (0.0, 0.1), "controls": 1, "training_sets": 2})
    assert fit.validation_best_layer == 1
    estimates = fit.profile("macro_f1").estimates
    assert estimates.values[1] > 0.8 > estimates.values[0]
    assert estimates.interval_over == "rows and training sets"
    assert np.isfinite(fit.profile("selectivity").estimates.values).all()
    assert "out of fold" in fit.profile("macro_f1", split="validation").estimates.remarks[0]


def test_a_probe_of_tokens_does_not_depend_on_the_other_layers() -> None:
    x, y = small()
    both = fit_probes(x, y, **QUICK).probes.logits(x)
    alone = fit_probes(RaggedRows(x.tokens[1:], x.lengths), y, layers=(1,), **QUICK).probes.logits(
        x.of_layers(slice(1, 2))
    )
    torch.testing.assert_close(both[1], alone[0], rtol=1e-4, atol=1e-5)


def with_huge_first_token(x: RaggedRows, *, size: float = 300.0) -> RaggedRows:
    """The same texts after a token that is much larger than all others, and tells nothing."""
    texts, generator = x.of_rows(), torch.Generator().manual_seed(1)
    constant = torch.randn(len(x), 1, x.shape[-1], generator=torch.Generator().manual_seed(2))
    first = [size * (constant + 0.1 * torch.randn(constant.shape, generator=generator)) for _ in texts]
    tokens = torch.cat([part for pair in zip(first, texts, strict=True) for part in pair], dim=1)
    return RaggedRows(tokens, x.lengths + 1)


@pytest.mark.parametrize("architecture", [AttentionProbe, MultiMaxProbe])
def test_a_huge_first_token_does_not_hide_the_others(architecture: type[torch.nn.Module]) -> None:
    (x, y), (xt, yt) = small(150), small(90, seed=1)
    splits = {"x_test": with_huge_first_token(xt), "y_test": yt, "x_validation": with_huge_first_token(xt),
              "y_validation": yt, "min_validation_rows": 1}  # fmt: skip
    settings = {**QUICK, **splits, "architecture": architecture, "max_epochs": 15, "bootstrap_samples": 0}
    fits = [fit_probes(with_huge_first_token(x), y, **settings, largest_token=limit) for limit in (4.0, None)]
    shortened, as_they_are = (fit.profile("accuracy").estimates.values[1] for fit in fits)
    assert shortened > 0.8
    assert as_they_are < 0.6


def test_vectors_are_shortened_to_a_multiple_of_the_median_size_of_training_tokens(tmp_path) -> None:
    (x, y), (xt, yt) = small(), small(30, seed=1)
    splits = {"x_validation": xt, "y_validation": yt, "x_test": xt, "y_test": yt, "min_validation_rows": 1}
    fit = fit_probes(x, y, **{**QUICK, **splits, "largest_token": 0.5, "bootstrap_samples": 0})
    limits = 0.5 * x.tokens.square().mean(-1).sqrt().median(1).values
    factors = (limits[:, None] / xt.tokens.square().mean(-1).sqrt()).clamp_max(1)
    assert (factors < 1).any()
    shortened = RaggedRows(xt.tokens * factors[..., None], xt.lengths)
    torch.testing.assert_close(fit.probes.logits(shortened), fit.probes.logits(xt), rtol=1e-4, atol=1e-5)
    loaded = load_probes(fit.save(tmp_path / "probes.safetensors"))
    torch.testing.assert_close(loaded.logits(xt), fit.probes.logits(xt))


def test_probes_of_vectors_have_no_largest_token() -> None:
    x, y = draw(2, 90, 5), torch.arange(90) % 3
    one, other = (fit_probes(x, y, largest_token=limit, controls=0, folds=2) for limit in (4.0, None))
    assert torch.equal(one.probes.logits(x), other.probes.logits(x))


def test_saved_probes_of_tokens_give_the_same_logits(tmp_path) -> None:
    x, y = small()
    fit = fit_probes(x, y, **QUICK)
    loaded = load_probes(fit.save(tmp_path / "probes.safetensors"))
    torch.testing.assert_close(loaded.logits(x), fit.probes.logits(x))
    alone = RaggedRows(x.tokens[:, : int(x.lengths[0])], x.lengths[:1])
    torch.testing.assert_close(loaded.logits(alone)[:, 0], fit.probes.logits(x)[:, 0], rtol=1e-4, atol=1e-5)


def test_layers_are_trained_in_chunks_where_a_padded_batch_is_large() -> None:
    x, y = small()
    whole = fit_probes(x, y, **QUICK).probes.logits(x)
    torch.testing.assert_close(
        fit_probes(x, y, **QUICK, max_bank_bytes=1).probes.logits(x), whole, rtol=1e-4, atol=1e-5
    )


def test_a_probe_of_vectors_refuses_tokens_and_the_other_way_round() -> None:
    x, y = small()
    with pytest.raises(ValueError, match=r"LinearProbe reads one vector a row.*Set `probe=attention`"):
        fit_probes(x, y)
    with pytest.raises(ValueError, match=r"AttentionProbe reads all tokens.*Set `probe=linear`"):
        fit_probes(draw(2, 90, 5), y, **QUICK)


def test_an_activation_that_is_not_finite_names_the_text() -> None:
    x, y = small()
    broken = replace(x, tokens=x.tokens.clone())
    broken.tokens[1, int(x.lengths[:4].sum())] = torch.nan
    with pytest.raises(ValueError, match=r"layer 1 are NaN or infinite in 1 train rows \(train/4\)"):
        fit_probes(broken, y, x_test=x, y_test=y, **QUICK)
