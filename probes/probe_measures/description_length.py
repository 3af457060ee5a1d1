"""How many bits the labels take once a layer is known: the online code of Voita and Titov (2020).

The labels of the training rows are sent in a random order, in blocks that double in length. Sender and receiver both
know the activations. The first block is sent by the uniform code; each further block by a probe that was trained on all
blocks before it. Probes that learn from few rows, and learn more, make the code short.

Two details make this a code that could be sent, whatever the labels:

- Which penalty is best is not known beforehand, and changes with the number of rows. All penalties predict together: a
  row's code length is −log2 of their mixture, whose weights follow how well each predicted the rows before (Bayes; at a
  new block a share of 1/blocks is spread evenly, the fixed share of Herbster and Warmuth 1998).
- A class that a prefix lacks must have a probability above 0. Each prefix holds one row more, at the mean of all
  activations, divided evenly among the classes.

All prefixes, orders, penalties and layers are one call of the exact solver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

from probes.metrics import TargetKind, widened
from probes.probe_measures.linear_refits import SolvedLayers, bits_of_targets, has_independent_vectors, solve_sets
from probes.probe_measures.protocol import ProbedTask
from probes.seeds import derive_seed
from probes.training import ProbeSettings
from probes.values import Estimates, LayerProfile

UNIT = "bits per label"


@dataclass(frozen=True, kw_only=True)
class DescriptionLength:
    """The online code of each layer by linear probes, with and without activations.

    It gives, over layers, `description_length`; `code_saved`, the bits that the same code without activations takes
    more, whose null is 0 and which has p but no interval; and `compression`, the uniform code over this one. Two codes
    belong to no layer: `description_length` with the control `uniform`, and with `no_activations`, which knows the
    class frequencies of each prefix alone. Regression has no code.

    Attributes:
        orders: Random orders of the rows, over which the code is averaged.
        smallest_prefix: Least rows of the first block; it also holds as many rows as there are classes.
    """

    orders: int = 8
    smallest_prefix: int = 16

    def __post_init__(self) -> None:
        if self.orders < 2 or self.smallest_prefix < 2:
            raise ValueError(
                f"A code needs at least 2 orders and a first block of 2 rows; got {self.orders} and "
                f"{self.smallest_prefix}. Set `analysis.probe_measures.description_length`."
            )

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """Profiles over the layers of the task."""
        data = probed.data
        if data.kind == "regression" or not has_independent_vectors(data):
            return
        rows = len(data.train.targets)
        starts = block_starts(rows, max(self.smallest_prefix, data.num_classes))
        orders = row_orders(rows, self.orders, seed=derive_seed(probed.seed, "description length"))
        targets = data.train.targets
        if starts:
            code = online_code(data.kind, data.train.activations.values, targets, orders, starts, probed.settings)
        else:
            code = torch.full((len(data.layers), len(orders), rows), torch.nan, dtype=torch.float64)
        without = code_without_activations(data.kind, targets, orders, starts, classes=data.num_classes)
        uniform = uniform_bits(data.kind, data.num_classes)
        whole, saved = mean_with_errors(code, orders, starts), mean_with_errors(without - code, orders, starts)
        # u / L, whose derivative by L is −u / L²
        slope = -uniform / whole.values.square()
        ratio = Mean(uniform / whole.values, slope * whole.over_rows, slope * whole.over_orders)
        note = "constant layer: all rows are equal" if starts else f"fewer than two blocks in {rows} rows"
        common = {"layers": data.layers, "task": data.task, "reading": data.reading, "seed": probed.seed}
        for quantity, unit, estimates in (
            ("description_length", UNIT, whole.estimates(rows, note, alternative="less")),
            ("code_saved", UNIT, saved.estimates(rows, note, has_interval=False, null=np.zeros((1, len(data.layers))))),
            ("compression", "uniform code / online code", ratio.estimates(rows, note)),
        ):
            yield LayerProfile(quantity=quantity, unit=unit, estimates=estimates, **common)
        for control, bits in (("uniform", uniform), ("no_activations", float(without.mean()))):
            yield LayerProfile(
                quantity="description_length",
                unit=UNIT,
                estimates=Estimates(torch.tensor([bits]).double().numpy(), rows),
                **{**common, "layers": (None,), "control": control},
            )


def block_starts(rows: int, smallest: int) -> list[int]:
    """Where blocks after the first begin, ascending: rows halved as long as at least `smallest` remain.

    >>> block_starts(100, 16)
    [25, 50]
    """
    starts = []
    while rows // 2 >= smallest:
        rows //= 2
        starts.insert(0, rows)
    return starts


def row_orders(rows: int, orders: int, *, seed: int) -> Tensor:
    """Seeded random orders of the rows, int64 `(orders, rows)`: entry i is the row that is sent as number i."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(rows, generator=generator) for _ in range(orders)])


def uniform_bits(kind: TargetKind, classes: int) -> float:
    """Bits per label of the uniform code: log2 of the number of classes, or 1 for a label that is 0 or 1."""
    return math.log2(classes) if kind == "classification" else 1.0


def online_code(
    kind: TargetKind, values: Tensor, targets: Tensor, orders: Tensor, starts: list[int], settings: ProbeSettings
) -> Tensor:
    """Bits of every row's label in the online code of every layer and order.

    Args:
        kind: `classification` or `multilabel`.
        values: Raw activations, shape `(layers, rows, features)`.
        targets: Shape `(rows,)`, or `(rows, labels)`.
        orders: From `row_orders`.
        starts: From `block_starts`; one at least.
        settings: Penalties and how they are solved.

    Returns:
        float64, bits per label, shape `(layers, orders, rows)`, rows in the order of `values`; NaN at constant layers.
    """
    rows, classes = len(targets), _classes(kind, targets)
    ends = [*starts[1:], rows]
    pseudo = _pseudo_targets(kind, targets, classes)
    # (orders · prefixes, rows + pseudo-rows): 1 in the prefix, and together 1 for the pseudo-rows
    weights = torch.zeros(len(orders), len(starts), rows + len(pseudo))
    weights[:, :, rows:] = 1 / len(pseudo)
    for order, of_order in zip(orders, weights, strict=True):
        for start, of_prefix in zip(starts, of_order, strict=True):
            of_prefix[order[:start]] = 1
    at_mean = values.mean(1, keepdim=True).expand(-1, len(pseudo), -1)

    def reduce(solved: SolvedLayers) -> Tensor:
        costs = solved.rows.new_full((len(solved.rows), len(orders), rows), math.nan, dtype=torch.float64)
        for o, order in enumerate(orders):
            parts = []
            for b, (start, end) in enumerate(zip(starts, ends, strict=True)):
                block = order[start:end]
                parts.append(bits_of_targets(kind, solved.logits(o * len(starts) + b, block), targets[block]))
            costs[:, o, order[: starts[0]]] = uniform_bits(kind, classes)
            labels = 1 if kind == "classification" else classes
            costs[:, o, order[starts[0] :]] = mixture_bits(parts, labels=labels)
        return costs

    return solve_sets(
        kind,
        torch.cat([values, at_mean], dim=1),
        torch.cat([targets, pseudo]),
        weights.flatten(0, 1),
        apply_to=values,
        classes=classes,
        settings=settings,
        reduce=reduce,
    )


def mixture_bits(blocks: list[Tensor], *, labels: int = 1) -> Tensor:
    """Code length of each row under the mixture of all penalties, whose weights follow the rows before.

    Args:
        blocks: For each block the bits per label of each penalty, shape `(layers, penalties, rows of the block)`.
        labels: Labels of a row, whose bits a penalty's weight follows.

    Returns:
        Bits per label, shape `(layers, rows of all blocks)`. Their sum exceeds that of the best penalty by at most
        log2 of the number of penalties, plus what the fixed share costs: about 2 bits in all.
    """
    layers, penalties, _ = blocks[0].shape
    log_weights = blocks[0].new_full((layers, penalties), -math.log2(penalties))
    share, costs = 1 / (len(blocks) + 1), []
    for block in blocks:
        joint = log_weights[..., None] - labels * block.cumsum(-1)  # log2 of weight × probability of rows so far
        total = _logsumexp2(joint, 1)  # (layers, rows)
        before = _logsumexp2(log_weights, 1)[:, None]
        costs.append(torch.cat([before, total[:, :-1]], dim=1) - total)
        posterior = (joint[..., -1] - total[:, -1:]).exp2()
        log_weights = ((1 - share) * posterior + share / penalties).log2()
    return torch.cat(costs, dim=1) / labels


def code_without_activations(
    kind: TargetKind, targets: Tensor, orders: Tensor, starts: list[int], *, classes: int
) -> Tensor:
    """Bits of every row's label when each block is sent by the class frequencies of the blocks before it.

    Returns:
        float64, bits per label, shape `(orders, rows)`.
    """
    ends = [*starts, len(targets)][1:]
    pseudo = _pseudo_targets(kind, targets, classes)
    one_hot = torch.nn.functional.one_hot if kind == "classification" else (lambda labels, _: labels)
    known, extra = one_hot(targets, classes).double(), one_hot(pseudo, classes).double().mean(0)
    costs = torch.full((len(orders), len(targets)), uniform_bits(kind, classes), dtype=torch.float64)
    for order, of_order in zip(orders, costs, strict=True):
        for start, end in zip(starts, ends, strict=True):
            block = order[start:end]
            shares = (known[order[:start]].sum(0) + extra) / (start + 1)
            logits = shares.log() if kind == "classification" else shares.logit()
            of_order[block] = bits_of_targets(kind, logits.expand(len(block), -1), targets[block])
    return costs


@dataclass(frozen=True)
class Mean:
    """The mean of a code over rows and orders, with its errors scaled as `Estimates.errors`.

    Attributes:
        values: Shape `(layers,)`.
        over_rows: How much each row's cost, less the mean of its block, adds; shape `(rows, layers)`.
        over_orders: Deviations of the orders, scaled as below, shape `(orders, layers)`.
    """

    values: Tensor
    over_rows: Tensor
    over_orders: Tensor

    def estimates(self, rows: int, note: str, *, has_interval: bool = True, **claims: Any) -> Estimates:
        """Estimates with an interval over the rows, as coded ones and as those that probes are trained on."""
        quantile = float(student_t.ppf(0.975, rows - 1)) if has_interval else math.nan
        reach = quantile * self.over_rows.square().sum(0).sqrt()
        ends = torch.stack([self.values - reach, self.values + reach])
        return Estimates(
            self.values.numpy(),
            rows,
            errors=torch.cat([self.over_rows, self.over_orders]).numpy(),
            freedom=tuple((len(errors), len(errors) - 1) for errors in (self.over_rows, self.over_orders)),
            interval=widened(ends, self.values, self.over_orders).numpy(),
            interval_over="rows and training sets",
            note=note,
            **claims,
        )


def mean_with_errors(costs: Tensor, orders: Tensor, starts: list[int]) -> Mean:
    """Mean over rows and orders, and its errors.

    A row matters twice: its own label is coded, and the probes of later blocks learn from it. The first part is its
    cost less the mean of its block, so that it is not counted as chance that rows of late blocks are cheaper. The
    second shows in how much the code differs between orders of the same rows. With half of the rows in the last
    prefix, codes of R orders vary about their mean as much as the mean of all orders would with rows drawn anew, so
    that the variance V between orders counts 1 + 1/R times (Politis, Romano and Wolf 1999, as in
    `probes.training.training_sets`).

    Args:
        costs: Shape `(layers, orders, rows)`.
        orders: From `row_orders`.
        starts: From `block_starts`.
    """
    count, rows = costs.shape[1:]
    deviations = torch.zeros_like(costs)
    for o, order in enumerate(orders):
        for start, end in zip([0, *starts], [*starts, rows], strict=True):
            block = order[start:end]
            deviations[:, o, block] = costs[:, o, block] - costs[:, o, block].mean(-1, keepdim=True)
    over_rows = deviations.mean(1) / (rows * (rows - 1)) ** 0.5
    by_order = costs.mean(2)
    over_orders = (by_order - by_order.mean(1, keepdim=True)) * ((1 + 1 / count) / (count - 1)) ** 0.5
    return Mean(by_order.mean(1), over_rows.T, over_orders.T)


def _classes(kind: TargetKind, targets: Tensor) -> int:
    return int(targets.max()) + 1 if kind == "classification" else targets.shape[1]


def _pseudo_targets(kind: TargetKind, targets: Tensor, classes: int) -> Tensor:
    """Targets of the pseudo-rows: one of each class; for labels, one row with none and one with all."""
    if kind == "classification":
        return torch.arange(classes)
    return torch.stack([torch.zeros(classes), torch.ones(classes)]).to(targets)


def _logsumexp2(values: Tensor, dim: int) -> Tensor:
    return (values * math.log(2)).logsumexp(dim) / math.log(2)
