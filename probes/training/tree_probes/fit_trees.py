"""Training probes of trees at every layer and rank, and what they predict for each sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from probes.metrics.trees import Tree
from probes.seeds import derive_seed
from probes.trainers import TrainerFactory
from probes.training.bank.probe_bank import ProbeBank
from probes.training.bank.probe_module import TOKENS_PER_BATCH, Standardiser
from probes.training.probe_settings import ProbeSettings
from probes.training.ragged import RaggedRows
from probes.training.train_bank import BankSpec, TrainedBank, train_bank
from probes.training.tree_probes.tree_data import (
    TREE_TARGETS,
    ParsedSentences,
    TreeData,
    TreeTarget,
    control_trees,
    tree_rows,
)
from probes.values import SPLITS


@dataclass(frozen=True, kw_only=True)
class TreeProbeSettings:
    """How probes of trees are trained and scored.

    Attributes:
        kinds: Which probes: some of `distance`, `depth`, `syntactic distance`.
        ranks: Ranks of the maps of distance and depth probes; one is chosen for each layer on validation sentences.
        controls: Probes of shuffled trees beside each probe.
        learning_rate: Learning rate of AdamW, for distance and depth probes.
        phrase_learning_rate: That of syntactic distance probes, which are linear and need larger steps.
        schedule: `constant`, or `linear`: the learning rate falls to 0 over the steps of `max_epochs`.
        batch_size: Sentences per step.
        max_epochs: Most passes over the training sentences.
        patience: Epochs without a lower validation loss after which a probe stops.
        gradient_clip_norm: Largest norm of one probe's gradient; `None` for no limit.
        bootstrap_samples: Resamples of the sentences behind each 95 % interval; 0 for no intervals.
        permutations: Permutations of the words behind each null; 0 for none.
        max_bank_bytes: Memory in bytes that probes in training may take; more layers are trained in chunks.

    Raises:
        ValueError: A field is out of its range.
    """

    kinds: tuple[str, ...] = tuple(TREE_TARGETS)
    ranks: tuple[int, ...] = (8, 32, 128)
    controls: int = 1
    learning_rate: float = 0.0003
    phrase_learning_rate: float = 0.001
    schedule: Literal["constant", "linear"] = "linear"
    batch_size: int = 32
    max_epochs: int = 25
    patience: int = 10
    gradient_clip_norm: float | None = None
    bootstrap_samples: int = 1000
    permutations: int = 200
    max_bank_bytes: int = 2**31

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "ranks", tuple(self.ranks))
        unknown = [kind for kind in self.kinds if kind not in TREE_TARGETS]
        if unknown:
            raise ValueError(
                f"There is no probe of trees '{unknown[0]}'. There are {', '.join(TREE_TARGETS)}. Set "
                "`study.probes.kinds`."
            )
        if not self.ranks or min(self.ranks) < 1 or len(set(self.ranks)) < len(self.ranks):
            raise ValueError(
                f"`study.probes.ranks` must be distinct whole numbers of at least 1; got {list(self.ranks)}."
            )
        for key in ("learning_rate", "phrase_learning_rate"):
            if not getattr(self, key) > 0:
                raise ValueError(f"`study.probes.{key}` must be a number above 0; got {getattr(self, key)!r}.")
        self.of_kind(TREE_TARGETS["distance"])  # checks the other fields

    def of_kind(self, target: TreeTarget) -> ProbeSettings:
        """The settings of minibatch training for one kind of probe."""
        return ProbeSettings(
            architecture=target.architecture,
            fit="minibatch",
            penalties=(0.0,),
            largest_token=None,  # `study.normalise` makes all words equally large, for trees without labels, too
            controls=self.controls,
            learning_rate=self.learning_rate if target.ranked else self.phrase_learning_rate,
            schedule=self.schedule,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            patience=self.patience,
            gradient_clip_norm=self.gradient_clip_norm,
            bootstrap_samples=self.bootstrap_samples,
            permutations=self.permutations,
            max_bank_bytes=self.max_bank_bytes,
        )


@dataclass(frozen=True)
class TreeFit:
    """The probes of one kind at every layer that varies, and what they predict.

    Attributes:
        kind: Key of `TREE_TARGETS`.
        live: Indices of the layers that have a probe; the others are constant.
        ranks: Rank of each probe; 0 for a linear function.
        trees: Split → the sentences' trees, then those of each control.
        predicted: Split → for each sentence, outputs of probes and controls, float32
            `(live layers, 1 + controls, words)` or `(live layers, 1 + controls, words, words)`.
        by_rank: Rank → outputs for the test sentences, without controls; empty for a single rank.
    """

    kind: str
    live: tuple[int, ...]
    ranks: tuple[int, ...]
    trees: Mapping[str, tuple[Sequence[Tree], ...]]
    predicted: Mapping[str, list[np.ndarray]]
    by_rank: Mapping[int, list[np.ndarray]]


def fit_tree_probe(
    kind: str, data: TreeData, settings: TreeProbeSettings, trainer_factory: TrainerFactory, seed: int
) -> TreeFit:
    """Train the probes of one kind at all layers and ranks; choose each layer's rank by its validation loss.

    Args:
        kind: Key of `TREE_TARGETS`.
        data: Sentences, vectors and trees.
        settings: How to train.
        trainer_factory: Makes a Lightning trainer for each rank.
        seed: Decides starts, order of sentences and controls; 0 is a seed like any other.

    Raises:
        ValueError: All layers are constant.
    """
    target = TREE_TARGETS[kind]
    _, constant = Standardiser.of(data.train.values.tokens)
    live = (~constant).nonzero()[:, 0]
    if len(live) == 0:
        raise ValueError("All layers are constant over the training words; probes of trees have nothing to read.")
    sentences = {split: getattr(data, split).of_layers(live) for split in SPLITS}
    trees = {split: _with_controls(sentences[split], settings.controls, split=split, seed=seed) for split in SPLITS}
    rows = {split: tree_rows(sentences[split], trees[split], target) for split in ("train", "validation")}
    ranks = settings.ranks if target.ranked else (0,)
    outputs: dict[int, dict[str, list[np.ndarray]]] = {}
    losses = []
    for rank in ranks:
        spec = BankSpec(
            None, tuple(data.layers[i] for i in live.tolist()), rank, False, settings.of_kind(target), trainer_factory,
            derive_seed(seed, kind),
        )  # fmt: skip
        trained = train_bank(rows["train"], rows["validation"], spec)
        outputs[rank] = {split: sentence_outputs(trained, sentences[split].values) for split in SPLITS[1:]}
        losses.append(_losses(trained, outputs[rank]["validation"], trees["validation"], target))
    chosen = torch.stack(losses).argmin(0)  # of equal losses the first rank's
    return TreeFit(
        kind=kind,
        live=tuple(live.tolist()),
        ranks=tuple(ranks[i] for i in chosen.tolist()),
        trees=trees,
        predicted={split: _of_chosen([outputs[rank][split] for rank in ranks], chosen.numpy()) for split in SPLITS[1:]},
        by_rank={rank: [sentence[:, 0] for sentence in outputs[rank]["test"]] for rank in ranks if len(ranks) > 1},
    )


@torch.no_grad()
def sentence_outputs(trained: TrainedBank, values: RaggedRows) -> list[np.ndarray]:
    """What the probes give for each sentence, without padding: `(layers, replicas, words)`, or with another axis."""
    bank: ProbeBank = trained.bank.eval()
    sentences, outputs = max(1, TOKENS_PER_BATCH // values.longest), []
    for first in range(0, values.shape[1], sentences):
        some = values.at(slice(first, first + sentences))
        padded, mask = some.padded()
        of_batch = bank(trained.standardiser(padded, mask), mask).numpy()  # (layers, replicas, sentences, words, …)
        for row, words in enumerate(some.lengths.tolist()):
            inside = (slice(0, words),) * (of_batch.ndim - 3)
            outputs.append(of_batch[(slice(None), slice(None), row, *inside)].copy())
    return outputs


def _with_controls(sentences: ParsedSentences, controls: int, *, split: str, seed: int) -> tuple[Sequence[Tree], ...]:
    shuffled = (control_trees(sentences.trees, seed=seed, split=split, control=i) for i in range(controls))
    return (sentences.trees, *shuffled)


def _losses(
    trained: TrainedBank, outputs: Sequence[np.ndarray], trees: tuple[Sequence[Tree], ...], target: TreeTarget
) -> torch.Tensor:
    """Mean loss of the true trees over sentences, shape `(layers,)`; infinite where it is not finite."""
    loss, total = getattr(trained.bank.probe, "loss"), 0.0  # noqa: B009 - pyright knows of no `loss`
    for predicted, tree in zip(outputs, trees[0], strict=True):
        gold = torch.as_tensor(target.of_tree(tree), dtype=torch.float32)
        of_layers = torch.as_tensor(predicted[:, 0])
        total = total + loss(of_layers, gold.expand_as(of_layers))
    assert isinstance(total, torch.Tensor)
    return torch.where(total.isfinite(), total / len(outputs), torch.inf)


def _of_chosen(by_rank: Sequence[list[np.ndarray]], chosen: np.ndarray) -> list[np.ndarray]:
    layers = np.arange(len(chosen))
    return [np.stack(of_sentence)[chosen, layers] for of_sentence in zip(*by_rank, strict=True)]
