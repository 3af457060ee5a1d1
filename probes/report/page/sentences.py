"""What a run asked and found, in a few sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

import numpy as np

from probes.report.audit import audit_at_best_layers
from probes.report.page.content import score_table
from probes.report.saved_run import SavedRun
from probes.values import SIGNIFICANCE_LEVEL, Layer, LayerByTask

_NAMES_SHOWN = 6
_ENDED = {"failed": "failed", "interrupted": "was interrupted"}


def findings_in_words(run: SavedRun) -> list[str]:
    """The question, the main findings and their limits: about five sentences.

    Args:
        run: Any run; of a study that is not known here, only its question and its extremes are told.
    """
    tell = _TELLERS.get(run.kind, _extremes)
    ended = _ENDED.get(run.state)
    warning = [f"This run {ended} before its end: its results are not complete."] if ended else []
    return [*warning, _question(run), *tell(run), *_limits(run)]


def _question(run: SavedRun) -> str:
    if not run.matrices:
        return "This run has no layer × task matrix."
    first, matrix = run.rows[0], run.matrices[0]
    what = {
        "probe": f"what a probe can decode from each of {_count(matrix.layers, 'layer')} of {first.backbone}",
        "compare": f"how similar the layers of {first.backbone} and {first.reference} are",
        "transfer": f"whether probes of {first.backbone} that are trained on one task serve another",
        "compare_runs": f"whether the probes of {first.reference} and {first.backbone} differ on the same test rows",
        "layer_by_layer": f"which layers of {first.backbone} multi-task tuning changes",
        "erase": f"what {first.backbone} uses of what a probe can decode from its layers",
        "steer": f"how directions added at layers of {first.backbone} move its answers",
        "channels": f"which heads of {first.backbone} read what earlier heads write",
        "lens": f"at which layer {first.backbone} would answer already",
        "heads": f"which attention heads carry the answers of {first.backbone}",
        "attribute": f"which parts of its prompts the answers of {first.backbone} owe themselves to",
        "patch": f"which layers and tokens carry the answers of {first.backbone}",
        "trees": f"which layers of {first.backbone} hold the trees of sentences",
        "readers": f"whether probes of {first.backbone} gain by reading all tokens of a text",
    }.get(run.kind, f"what the layers of {first.backbone} hold")
    tasks = list(dict.fromkeys(row.task for row in run.rows if row.layer is not None and row.cluster))
    tasks = tasks or list(matrix.tasks)
    return f"This run asks {what}, on {_count(tasks, 'task')} of the suite {first.suite or 'given'} ({matrix.reading})."


def _probe_sentences(run: SavedRun) -> Iterator[str]:
    table = score_table(run)
    if not table:
        return
    tested = [row for row in table if row["score"].p is not None]
    found = [row for row in tested if row["score"].p < SIGNIFICANCE_LEVEL]
    if tested:
        lacking = [row["task"] for row in tested if row not in found]
        none = f"; for {_names(lacking)} it is not" if lacking else ""
        yield (
            f"At its best layer, chosen on validation rows, the score is above chance for {len(found)} of "
            f"{_count(tested, 'task')} (p < {SIGNIFICANCE_LEVEL}, corrected for all cells){none}."
        )
    yield from _audit_sentences(run)
    ranked = sorted(table, key=lambda row: row["score"].value)
    high, low = ranked[-1]["score"], ranked[0]["score"]
    text = f"{ranked[-1]['task']} is decoded best, {_number(high)} at layer {high.layer}"
    if len(ranked) > 1:
        text += f", and {ranked[0]['task']} worst, {_number(low)} at layer {low.layer}"
    yield f"{text} ({high.metric})."
    numbered = sorted((row["layer"], row["task"]) for row in table if isinstance(row["layer"], int))
    if len(numbered) > 1:
        yield (
            f"The best layers lie between {numbered[0][0]} ({numbered[0][1]}) and {numbered[-1][0]} "
            f"({numbered[-1][1]}); their median is {median(layer for layer, _ in numbered):g}."
        )
    sets = {task: best.layers for task, best in run.best_layers.items() if best.layers is not None}
    if sets:
        wide = max(sets, key=lambda task: len(sets[task]))
        single = [task for task, layers in sets.items() if len(layers) == 1]
        alone = f"only for {_names(single)} is it one layer alone" if single else "for no task is it one layer alone"
        yield (
            "Validation rows cannot tell the best layer from several others: "
            f"{alone}, and for {wide} it may be any of {len(sets[wide])}."
        )


def _audit_sentences(run: SavedRun) -> Iterator[str]:
    tasks: dict[str, list[str]] = {}
    for row in audit_at_best_layers(run.rows, run.best_layers):
        tasks.setdefault(row.verdict, []).append(row.task)
    explained = [
        f"{names[0] if len(names) == 1 else _names(names)} ({verdict.removeprefix('explained by ')})"
        for verdict, names in tasks.items()
        if verdict.startswith("explained by ")
    ]
    parts = []
    if stands := tasks.get("stands"):
        parts.append(f"{_names(stands)} {'stands' if len(stands) == 1 else 'stand'}")
    if explained:
        parts.append(f"{_names(explained)} {'is' if len(explained) == 1 else 'are'} explained by a nuisance")
    if unknown := tasks.get("not identifiable"):
        parts.append(f"for {_names(unknown)} label and nuisance cannot be told apart")
    if parts:
        yield f"By the audit for nuisances at the best layers, {'; '.join(parts)}."


def _compare_sentences(run: SavedRun) -> Iterator[str]:
    if "reference_cka" in run.quantities:
        matrix, what = run.matrix("reference_cka"), "debiased CKA of matched layers"
        yield from _extremes_of(matrix, what)
        yield _by_depth(matrix, what)


def _layer_by_layer_sentences(run: SavedRun) -> Iterator[str]:
    for quantity, what in (
        ("cka/control_vs_base", "CKA of control models with the base"),
        ("tuning_gain", "tuning gain"),
    ):
        if quantity in run.quantities:
            matrix = run.matrix(quantity)
            yield _by_depth(matrix, what)
            if quantity == "tuning_gain":
                yield from _extremes_of(matrix, what)
                yield _significant(matrix)
    entered = "control_into_base/model_patching/log_prob_all"
    if entered in run.quantities:
        yield _by_depth(
            run.matrix(entered), "share of a control model's gain that its layers up to this one bring into the base"
        )
    shares = [row for row in run.rows if row.metric.startswith("boundary/") and row.layer is not None]
    tested = [row for row in run.rows if row.metric.startswith("boundary/") and row.p is not None]
    if shares:
        yield f"Bands of layers are found: {_names([f'{row.metric} at layer {row.layer}' for row in shares])}."
    elif tested:
        lowest = min(tested, key=lambda row: row.p if row.p is not None else 1)
        yield f"No bands of layers are found (lowest p = {lowest.p:.2g}, {lowest.metric.removeprefix('boundary/')})."


def _transfer_sentences(run: SavedRun) -> Iterator[str]:
    for matrix in run.matrices:
        if matrix.quantity.startswith("transfer/minus_own_"):
            yield _significant(matrix)
            yield from _extremes_of(matrix, "score of a transferred probe less that of the task's own")
        elif matrix.quantity == "transfer/cosine":
            yield from _extremes_of(matrix, "cosine between probe directions")


def _difference_sentences(run: SavedRun) -> Iterator[str]:
    for matrix in run.matrices:
        if "difference/" in matrix.quantity:
            yield _significant(matrix)
            yield from _extremes_of(matrix, matrix.quantity)
    at_best = [row for row in run.rows if row.metric.startswith("difference_at_best_layers/") and row.p is not None]
    if at_best:
        moved = [f"{row.task} ({_number(row)})" for row in at_best if row.p is not None and row.p < SIGNIFICANCE_LEVEL]
        where = _names(moved) if moved else "no task"
        yield f"At the best layer of each run, p < {SIGNIFICANCE_LEVEL}, corrected for all tasks, for {where}."


def _head_sentences(run: SavedRun) -> Iterator[str]:
    found = {(row.metric, row.task): row for row in run.rows if row.metric.startswith("mask/") and not row.control}
    for (metric, task), effect in found.items():
        size = found.get(("mask/size", task))
        if metric != "mask/effect" or size is None:
            continue
        text = f"For {task}, a mask of {_count(range(int(size.value)), 'head')} closes {_number(effect)} of the gap"
        if effect.null_mean is not None and effect.p_cell is not None:
            text += f", random sets of as many {effect.null_mean:.2f} (p = {effect.p_cell:.2g})"
        yield f"{text}, on pairs that it was not learned on."


def _extremes(run: SavedRun) -> Iterator[str]:
    if run.matrices:
        yield from _extremes_of(run.matrix(run.main_quantity), run.main_quantity)


def _extremes_of(matrix: LayerByTask, what: str) -> Iterator[str]:
    if np.isfinite(matrix.values).any():
        ends = []
        for find in (np.nanargmax, np.nanargmin):
            row, column = np.unravel_index(find(matrix.values), matrix.values.shape)
            low, high = matrix.ci_low[row, column], matrix.ci_high[row, column]
            interval = f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""
            value = f"{matrix.values[row, column]:.2f}{interval}"
            ends.append(f"{value} ({matrix.tasks[column]}, layer {matrix.layers[row]})")
        yield f"The highest {what} is {ends[0]}, the lowest {ends[1]}."


def _by_depth(matrix: LayerByTask, what: str) -> str:
    """Means over tasks at the first, the middle and the last layer that have values."""
    means = [(layer, np.nanmean(row)) for layer, row in zip(matrix.layers, matrix.values, strict=True) if _known(row)]
    chosen = [means[0], means[len(means) // 2], means[-1]] if means else []
    values = ", ".join(f"{mean:.2f} at layer {layer}" for layer, mean in chosen)
    return f"Averaged over tasks, the {what} is {values}." if values else f"The {what} is nowhere defined."


def _significant(matrix: LayerByTask) -> str:
    count, tested = int(matrix.significant.sum()), int(np.isfinite(matrix.p).sum())
    if tested == 0:
        return f"{matrix.quantity} was not tested."
    tasks = [task for task, column in zip(matrix.tasks, matrix.significant.T, strict=True) if column.any()]
    where = f" They belong to {_names(tasks)}." if tasks else ""
    return (
        f"{matrix.quantity} differs from its null in {count} of {tested} cells (p < {SIGNIFICANCE_LEVEL}, corrected "
        f"for all of them).{where}"
    )


def _limits(run: SavedRun) -> Iterator[str]:
    """What a reader must know before quoting the numbers."""
    overs = sorted({matrix.interval_over for matrix in run.matrices if matrix.interval_over})
    if overs:
        yield f"Intervals are of 95 %, not corrected, and about what would be drawn anew: {'; '.join(overs)}."
    cut = {task: count for task, count in run.provenance.get("rows_cut", {}).items() if count}
    if cut:
        rows = _names([f"{count} of {task}" for task, count in cut.items()])
        yield f"Rows longer than the limit lost their beginning: {rows}."


_TELLERS: Mapping[str, Callable[[SavedRun], Iterator[str]]] = {
    "probe": _probe_sentences,
    "compare": _compare_sentences,
    "layer_by_layer": _layer_by_layer_sentences,
    "compare_runs": _difference_sentences,
    "heads": _head_sentences,
    "transfer": _transfer_sentences,
}


def _known(row: np.ndarray) -> bool:
    return bool(np.isfinite(row).any())


def _number(row: object) -> str:
    value, low, high = (getattr(row, name) for name in ("value", "ci_low", "ci_high"))
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _count(items: Sequence[Layer] | Sequence[object], name: str) -> str:
    return f"{len(items)} {name}" if len(items) == 1 else f"{len(items)} {name}s"


def _names(names: Sequence[str]) -> str:
    shown = list(names[:_NAMES_SHOWN])
    if len(names) > _NAMES_SHOWN:
        return f"{', '.join(shown)} and {len(names) - _NAMES_SHOWN} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
