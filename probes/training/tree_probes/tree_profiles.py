"""Predicted trees, decoded by probes or found without labels, as profiles beside their baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from probes.metrics import errors_of_draws
from probes.metrics.tree_scores import (
    TREE_METRICS,
    SentenceParts,
    TreeScores,
    branching_parts,
    chain_parts,
    depth_parts,
    distance_spearman_parts,
    permuted_root_accuracy,
    permuted_uuas,
    random_tree_uuas,
    score_parts,
    span_parts,
    spanning_trees,
    uuas_parts,
)
from probes.metrics.trees import Tree
from probes.seeds import derive_seed
from probes.training.tree_probes.fit_trees import TreeFit
from probes.values import Estimates, Layer, LayerProfile, Reading

UNITS = {
    **{name: metric.unit for name, metric in TREE_METRICS.items()},
    "uuas_gain_over_chain": "difference of UUAS",
    "span_f1_gain_over_branching": "difference of F1",
}
"""Quantity, without `trees/` → unit."""


@dataclass(frozen=True)
class TreeScorer:
    """Scores predictions over sentences, at all layers at once.

    Attributes:
        layers: Names of all layers; those without a prediction get no value.
        reading: Stack, site and how words became vectors.
        samples: Resamples of the sentences behind each interval; 0 for none.
        permutations: Permutations of the words of each sentence behind each null; 0 for none.
        seed: Decides resamples and permutations.
        split: Name of the split.
    """

    layers: tuple[Layer, ...]
    reading: Reading
    samples: int
    permutations: int
    seed: int
    split: str = "test"

    def distances(
        self, method: Method, predicted: Sequence[np.ndarray], trees: Sequence[Tree]
    ) -> Iterator[LayerProfile]:
        """Attachment, alone and above the chain of neighbours, and correlation of predicted distances.

        Args:
            method: Where the predictions come from.
            predicted: For each sentence distances, shape `(layers, words, words)`.
            trees: The trees that they are compared with.
        """
        joined = spanning_trees(predicted, trees)
        null = self._null("uuas", permuted_uuas, joined, trees, method)
        parts = {"uuas": uuas_parts(joined, trees), "distance_spearman": distance_spearman_parts(predicted, trees)}
        yield from self._profiles(method, parts, null=null, over={"uuas_gain_over_chain": ("uuas", chain_parts(trees))})

    def depths(self, method: Method, predicted: Sequence[np.ndarray], trees: Sequence[Tree]) -> Iterator[LayerProfile]:
        """Accuracy of the root and correlation of predicted depths, for each sentence `(layers, words)`."""
        null = self._null("root_accuracy", permuted_root_accuracy, predicted, trees, method)
        yield from self._profiles(method, depth_parts(predicted, trees), null=null)

    def spans(self, method: Method, predicted: Sequence[np.ndarray], trees: Sequence[Tree]) -> Iterator[LayerProfile]:
        """F1 and recall of spans, and F1 above that of branching trees.

        Args:
            method: Where the predictions come from.
            predicted: For each sentence, how far each word is from the next, shape `(layers, words)`; the last number
                has no meaning.
            trees: The trees that they are compared with.
        """
        heights = [counted_gaps(of_sentence, tree) for of_sentence, tree in zip(predicted, trees, strict=True)]
        baseline = better_branching(trees)[1]["span_f1"]
        over = {"span_f1_gain_over_branching": ("span_f1", baseline)}
        yield from self._profiles(method, span_parts(heights, trees), over=over)

    def baselines(self, trees: Sequence[Tree]) -> Iterator[LayerProfile]:
        """Scores of trees that read nothing: chains of neighbours, random and branching trees."""
        here = replace(self, layers=(None,))  # pyright: ignore[reportArgumentType]  # they belong to no layer
        yield from here._profiles(Method("chain", (0,), control="chain"), {"uuas": chain_parts(trees)})
        random = {"uuas": random_tree_uuas(trees), "root_accuracy": float(np.mean([1 / len(t.places) for t in trees]))}
        for quantity, value in random.items():
            estimates = Estimates(np.array([value]), len(trees))
            yield here._profile(Method("random trees", (0,), control="random"), quantity, estimates)
        for name, right in (("right branching", True), ("left branching", False)):
            yield from here._profiles(Method(name, (0,), control=name), branching_parts(trees, right=right))

    def _null(
        self,
        quantity: str,
        permuted: Callable[..., np.ndarray],
        predicted: Sequence[np.ndarray],
        trees: Sequence[Tree],
        method: Method,
    ) -> dict[str, np.ndarray]:
        if self.permutations == 0 or method.control or self.split != "test":
            return {}
        seed = derive_seed(self.seed, "permutations")
        return {quantity: permuted(predicted, trees, permutations=self.permutations, seed=seed)}

    def _profiles(
        self,
        method: Method,
        parts: Mapping[str, SentenceParts],
        *,
        null: Mapping[str, np.ndarray] | None = None,
        over: Mapping[str, tuple[str, SentenceParts]] | None = None,
    ) -> Iterator[LayerProfile]:
        baselines = {} if method.control else dict(over or {})
        seed = derive_seed(self.seed, "bootstrap", self.split)
        together = {**parts, **{name: baseline for name, (_, baseline) in baselines.items()}}
        scores = score_parts(together, samples=self.samples, seed=seed, null=null)
        for quantity in parts:
            yield self._profile(method, quantity, self._estimates(method, scores, quantity))
        for name, (quantity, _) in baselines.items():
            paired = _difference(scores, quantity, name)
            estimates = self._estimates(method, paired, name)
            known = replace(estimates, null=np.zeros((1, len(self.layers))), alternative="two-sided")
            yield self._profile(method, name, known)

    def _estimates(self, method: Method, scores: TreeScores, quantity: str) -> Estimates:
        interval, draws = scores.interval(quantity), scores.draws.get(quantity, np.empty(0))
        errors = errors_of_draws(torch.tensor(draws), units=scores.sentences).numpy() if len(draws) > 1 else None
        null = scores.null.get(quantity)
        remarks = dict(zip(method.live, method.remarks or ("",) * len(method.live), strict=True))
        return Estimates(
            self._over(method, scores.values[quantity]),
            scores.sentences,
            errors=None if errors is None or method.control else self._over(method, errors),
            null=None if null is None else self._over(method, null),
            note=method.note,
            interval=None if interval is None else self._over(method, interval),
            interval_over="sentences",
            remarks=tuple(remarks.get(i, "") for i in range(len(self.layers))),
            freedom=() if errors is None else ((len(errors), scores.sentences - 1),),
        )

    def _over(self, method: Method, values: np.ndarray) -> np.ndarray:
        """Values of the live layers, the last axis, spread over all layers; NaN elsewhere."""
        spread = np.full((*values.shape[:-1], len(self.layers)), np.nan)
        spread[..., list(method.live)] = values
        return spread

    def _profile(self, method: Method, quantity: str, estimates: Estimates) -> LayerProfile:
        return LayerProfile(
            quantity=f"trees/{quantity}",
            unit=UNITS[quantity],
            estimates=estimates,
            layers=self.layers,
            task=method.name,
            reading=self.reading,
            split=self.split,
            control=method.control,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Method:
    """Where predicted trees come from.

    Attributes:
        name: Its name in results, where it stands as the task.
        live: Indices of the layers that have predictions.
        control: `shuffled_labels` for probes of shuffled trees, or the name of a baseline.
        remarks: What is reported of each of these layers.
        note: Why the other layers have no value.
    """

    name: str
    live: tuple[int, ...]
    control: str = ""
    remarks: tuple[str, ...] = ()
    note: str = "constant layer: no feature varies over the training words"


def probe_profiles(fit: TreeFit, scorer: TreeScorer) -> Iterator[LayerProfile]:
    """Scores of the probes of one kind, and on test sentences those of their controls, and attachment by rank.

    Args:
        fit: The probes and what they predict.
        scorer: Layers, resamples and permutations.
    """
    score = {"distance": scorer.distances, "depth": scorer.depths, "syntactic distance": scorer.spans}[fit.kind]
    ranks = tuple(f"rank {rank}" if rank else "" for rank in fit.ranks)
    name = f"{fit.kind} probe"
    predicted, gold = fit.predicted[scorer.split], fit.trees[scorer.split]
    yield from score(Method(name, fit.live, remarks=ranks), [p[:, 0] for p in predicted], gold[0])
    if scorer.split != "test":
        return
    for number, trees in enumerate(gold[1:2], start=1):
        control = Method(name, fit.live, control="shuffled_labels", remarks=ranks)
        yield from score(control, [p[:, number] for p in predicted], trees)
    chosen = {"distance": "uuas", "depth": "root_accuracy"}.get(fit.kind)
    for rank, outputs in fit.by_rank.items():
        for profile in score(Method(f"rank {rank}", fit.live), outputs, gold[0]):
            if profile.metric == f"trees/{chosen}":
                yield replace(profile, quantity=f"trees/{chosen}_by_rank")


def counted_gaps(predicted: np.ndarray, tree: Tree) -> np.ndarray:
    """Distances between neighbouring counted words, `(layers, counted − 1)`, from those of all words to the next.

    Where words that do not count stand between two, the largest of the distances on the way.
    """
    gaps = [predicted[:, first:last].max(1) for first, last in zip(tree.places[:-1], tree.places[1:], strict=True)]
    return np.stack(gaps, 1) if gaps else np.empty((len(predicted), 0))


def better_branching(trees: Sequence[Tree]) -> tuple[str, dict[str, SentenceParts]]:
    """Of right- and left-branching trees those with the higher F1, and their scores."""
    both = {
        name: branching_parts(trees, right=name == "right branching") for name in ("right branching", "left branching")
    }
    once = np.ones((1, len(trees)))
    best = max(both, key=lambda name: float(np.nan_to_num(both[name]["span_f1"].scores(once))[0, 0]))
    return best, both[best]


def _difference(scores: TreeScores, quantity: str, baseline: str) -> TreeScores:
    """A score minus that of a baseline, which stands under the difference's name, sentence by sentence resampled."""
    return replace(
        scores,
        values={baseline: scores.values[quantity] - scores.values[baseline]},
        draws={baseline: scores.draws[quantity] - scores.draws[baseline]},
        null={},
    )
