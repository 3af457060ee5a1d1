"""Channels between the heads of a model: which components of earlier heads do later heads read, and for what?"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probes.analysis.composition import KINDS, WrittenComponents, composition_scores, reading_matrices
from probes.backbones.heads import BlockHeads
from probes.probe_measures import TaskTable
from probes.progress import tracked
from probes.values import SIGNIFICANCE_LEVEL, Estimates, LayerByLayer, LayerProfile, Reading

SMALLEST_P = 1e-12
"""Smaller p are written as this one: so far out, nothing has checked the approximation."""
SCORES = ("whole", "component")
"""Of the whole value–output matrix of the earlier head, or of its components one by one."""


@dataclass(frozen=True, order=True)
class Channel:
    """A component of an earlier head, and a later head that reads it.

    Attributes:
        score: The composition score.
        kind: One of `KINDS`.
        writer: Layer and head that write; layers count from 1, heads from 0.
        component: Number of the component, 0 for the one with the largest singular value; -1 for the whole matrix.
        reader: Layer and head that read.
        log_p: Natural logarithm of the p of this one score.
        log_p_of_all: The same, corrected for all scores of its sort.
    """

    score: float
    kind: str
    writer: tuple[int, int]
    component: int
    reader: tuple[int, int]
    log_p: float
    log_p_of_all: float

    @property
    def name(self) -> str:
        """Such as `3.1 c0 → 5.2 query`."""
        component = "" if self.component < 0 else f" c{self.component}"
        return f"{self.writer[0]}.{self.writer[1]}{component} → {self.reader[0]}.{self.reader[1]} {self.kind}"


@dataclass(frozen=True)
class Composed:
    """All compositions of a model.

    Attributes:
        top: For each of `SCORES` the channels with the largest scores, descending.
        written: The components of each block's heads.
        cells: Number of scores of each of `SCORES`.
        largest: For each kind and each of `SCORES`, the largest score of any pair of heads of two blocks, shape
            `(readers' layers, writers' layers)`; NaN where the reader is not behind the writer.
        log_p: Smallest log p of the same scores, not corrected.
        significant: For each kind and each of `SCORES` the number of corrected p below 0.05 and of all scores of each
            reader's layer, shape `(2, layers)`.
        features: Of the residual stream.
    """

    top: dict[str, list[Channel]]
    written: tuple[WrittenComponents, ...]
    cells: dict[str, int]
    largest: dict[tuple[str, str], np.ndarray]
    log_p: dict[tuple[str, str], np.ndarray]
    significant: dict[tuple[str, str], np.ndarray]
    features: int

    @property
    def layers(self) -> tuple[int, ...]:
        """Names of the layers: that of a block is the one it puts out."""
        return tuple(range(1, 1 + len(self.written)))


def composed(blocks: Sequence[BlockHeads], *, keep: int) -> Composed:
    """Score every head with every head of every earlier block.

    Args:
        blocks: The heads of a model, two blocks or more.
        keep: Channels of each sort that are kept.

    Raises:
        ValueError: There is one block only.
    """
    if len(blocks) < 2:
        raise ValueError("Heads of one block do not read each other: a model with two blocks or more is needed.")
    written = tuple(WrittenComponents.of(own.value, own.output) for own in blocks)
    heads, rank = written[0].sizes.shape
    pairs = len(KINDS) * heads * heads * len(blocks) * (len(blocks) - 1) // 2
    cells = {"whole": pairs, "component": pairs * rank}
    shape = len(blocks), len(blocks)
    keys = [(kind, sort) for kind in KINDS for sort in SCORES]
    largest, log_p = ({key: np.full(shape, np.nan) for key in keys} for _ in range(2))
    significant = {key: np.zeros((2, len(blocks))) for key in keys}
    top: dict[str, list[tuple[float, Channel]]] = {sort: [] for sort in SCORES}
    for place in tracked(range(1, len(blocks)), "blocks compared with all earlier ones", total=len(blocks) - 1):
        own = blocks[place]
        reading = reading_matrices(own.query, own.key, own.value, own.output)
        for kind in KINDS:
            for before in range(place):
                found = composition_scores(reading[kind], written[before])
                for sort, scores, p in (
                    ("whole", found.whole, found.whole_log_p),
                    ("component", found.components, found.components_log_p),
                ):
                    largest[kind, sort][place, before] = scores.max()
                    log_p[kind, sort][place, before] = p.min()
                    below = p + math.log(cells[sort]) < math.log(SIGNIFICANCE_LEVEL)
                    significant[kind, sort][:, place] += below.sum(), below.size
                    _keep_largest(top[sort], scores, p, kind, (place, before), keep, cells[sort])
    return Composed(
        top={sort: [channel for _, channel in sorted(kept, reverse=True)] for sort, kept in top.items()},
        written=written,
        cells=cells,
        largest=largest,
        log_p=log_p,
        significant=significant,
        features=blocks[0].query.shape[-1],
    )


def _keep_largest(
    kept: list[tuple[float, Channel]],
    scores: np.ndarray,
    log_p: np.ndarray,
    kind: str,
    places: tuple[int, int],
    keep: int,
    cells: int,
) -> None:
    """Take the largest scores of a pair of blocks into a heap of at most `keep`."""
    flat = scores.ravel()
    for index in np.argpartition(-flat, min(keep, len(flat)) - 1)[:keep]:
        if len(kept) == keep and flat[index] <= kept[0][0]:
            continue
        place = [int(i) for i in np.unravel_index(index, scores.shape)]
        channel = Channel(
            score=float(flat[index]),
            kind=kind,
            writer=(places[1] + 1, place[1]),
            component=place[2] if len(place) == 3 else -1,
            reader=(places[0] + 1, place[0]),
            log_p=float(log_p[tuple(place)]),
            log_p_of_all=min(0.0, float(log_p[tuple(place)]) + math.log(cells)),
        )
        (heapq.heappushpop if len(kept) == keep else heapq.heappush)(kept, (channel.score, channel))


def channel_table(found: Composed, sort: str, reading: Reading) -> TaskTable:
    """The strongest channels of a sort, for a file of their own and the page of the run."""
    channels = found.top[sort]
    return TaskTable(
        name="channels",
        task={"whole": "whole_heads", "component": "single_components"}[sort],
        reading=reading,
        columns={
            "writer": [f"{layer}.{head}" for layer, head in (own.writer for own in channels)],
            "component": ["all" if own.component < 0 else own.component for own in channels],
            "reader": [f"{layer}.{head}" for layer, head in (own.reader for own in channels)],
            "read_as": [own.kind for own in channels],
            "score": [own.score for own in channels],
            "by_chance": [1 / math.sqrt(found.features)] * len(channels),
            "p_cell": _p(np.array([own.log_p for own in channels])).tolist(),
            "p": _p(np.array([own.log_p_of_all for own in channels])).tolist(),
        },
    )


def composition_profiles(found: Composed, reading: Reading) -> Iterator[LayerProfile]:
    """The largest score of the heads of each reader's layer, and the share of scores that are beyond rotations.

    Yields:
        `composition/largest_whole`, `composition/largest_component`, and `composition/share_beyond_rotations_…`; the
        task is what the later head reads for.
    """
    for sort in SCORES:
        for kind in KINDS:
            common = {"task": kind, "layers": found.layers[1:], "reading": reading}
            largest = np.nanmax(found.largest[kind, sort][1:], axis=1)
            smallest = np.nanmin(found.log_p[kind, sort][1:], axis=1)
            count, total = found.significant[kind, sort][:, 1:]
            scores = Estimates(
                largest,
                int(total.sum()),
                p=_p(smallest + math.log(found.cells[sort])),
                p_cell=_p(smallest + np.log(total)),
                note="",
            )
            yield LayerProfile(quantity=f"composition/largest_{sort}", unit="score", estimates=scores, **common)
            share = Estimates(count / total, int(total.sum()), note="")
            yield LayerProfile(
                quantity=f"composition/share_beyond_rotations_{sort}", unit="share of scores", estimates=share, **common
            )


def composition_matrices(found: Composed, reading: Reading) -> list[LayerByLayer]:
    """The largest scores between the heads of each two blocks, a matrix for each sort and kind."""
    return [
        LayerByLayer(
            quantity=f"composition/{sort}",
            unit="largest score",
            task=kind,
            x_name="the reader",
            y_name="the writer",
            x_layers=found.layers,
            y_layers=found.layers,
            values=found.largest[kind, sort],
            reading=reading,
            n=found.cells[sort] // len(KINDS),
        )
        for sort in SCORES
        for kind in KINDS
    ]


def distinct_components(channels: Sequence[Channel], most: int) -> list[Channel]:
    """The first channels of different components whose p, corrected for all scores, is below 0.05."""
    chosen: Mapping[tuple[tuple[int, int], int], Channel] = {}
    for channel in channels:
        key = (channel.writer, channel.component)
        if channel.log_p_of_all < math.log(SIGNIFICANCE_LEVEL) and key not in chosen and len(chosen) < most:
            chosen = {**chosen, key: channel}
    return list(chosen.values())


def _p(log_p: np.ndarray) -> np.ndarray:
    return np.clip(np.exp(np.minimum(0.0, log_p)), SMALLEST_P, 1.0)
