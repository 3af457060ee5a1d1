"""How well each tuned model answers its task, beside its base: a table for the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from probes.values import Result

_METRICS = {"answer_loss_nats": "loss (nats)", "exact_match": "exact match", "rouge_l": "ROUGE-L", "chrf": "chrF"}


def learning_table(results: Iterable[Result]) -> Table:
    """Arrange test scores of answers: base → tuned, a line a model.

    Args:
        results: Any results; those of the roles `base`, `control` and `experimental` with an answer metric are shown.
            Models of one task and role after the first are told apart by their seeds.
    """
    base: dict[tuple[str, str], Result] = {}
    tuned: dict[tuple[str, str, int | None], dict[str, Result]] = {}
    for result in results:
        if result.metric not in _METRICS or result.layer is not None:
            continue
        if result.role == "base":
            base[result.task, result.metric] = result
        else:
            tuned.setdefault((result.task, result.role, result.seed), {})[result.metric] = result
    table = Table(
        title="Test answers of the base → of the tuned model", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("model")
    for title in _METRICS.values():
        table.add_column(title, justify="right", no_wrap=True)
    first: dict[tuple[str, str], int | None] = {}
    for task, role, seed in tuned:
        first.setdefault((task, role), seed)
    for (task, role, seed), scores in tuned.items():
        again = "" if seed in {None, first[task, role]} else f", seed {seed}"
        cells = [_change(base.get((task, metric)), scores.get(metric)) for metric in _METRICS]
        table.add_row(escape(f"{task} ({role}{again})"), *cells)
    return table


def _change(before: Result | None, after: Result | None) -> str:
    return f"{_number(before)} → {_number(after)}"


def _number(result: Result | None) -> str:
    return "" if result is None or result.value != result.value else f"{result.value:.3f}"
