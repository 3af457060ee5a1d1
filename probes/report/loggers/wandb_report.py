"""A W&B report of all runs of a group: one chart of layer curves per quantity, from the tables that every run logs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.report.loggers.run_logger import TABLE_COLUMNS, require_packages

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import Report

QUANTITIES = ("probe/macro_f1", "probe/selectivity", "label_cka", "effective_rank")
"""What a report shows unless other quantities are named; a run without one of them has no curve there."""

_SPEC = Path(__file__).with_name("layer_curves.vl.json")

_log = logging.getLogger(__name__)


def layer_curves_spec() -> dict[str, Any]:
    """The chart as Vega-Lite, with W&B's placeholders `${field:<column>}` and `${string:title}`."""
    return json.loads(_SPEC.read_text(encoding="utf-8"))


def chart_name() -> str:
    """The name of the chart in W&B, which changes with its content, so that an old one is never overwritten.

    Example:
        >>> chart_name().startswith("probes-layer-curves-")
        True
    """
    return f"probes-layer-curves-{hashlib.sha256(_SPEC.read_bytes()).hexdigest()[:8]}"


def group_report(group: str, *, entity: str, project: str = "probes", quantities: Sequence[str] = QUANTITIES) -> Report:
    """Build a report of all runs of a group; no server is contacted.

    Args:
        group: Of the runs, such as a sweep.
        entity: W&B user or team.
        project: W&B project.
        quantities: Names of tables after `layer_by_task/`.

    Raises:
        ModuleNotFoundError: The package `wandb-workspaces` is not installed.
        ValueError: No quantity is named.
    """
    require_packages("probes wandb-report", "wandb-report", ["wandb_workspaces"])
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import interface as wr

    if not quantities:
        raise ValueError(f"A report needs at least one quantity, such as {', '.join(QUANTITIES)}.")
    charts: list[Any] = [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": f"layer_by_task/{quantity}"}},
            chart_name=f"{entity}/{chart_name()}",
            chart_fields={column: column for column in TABLE_COLUMNS},
            chart_strings={"title": quantity},
            layout=wr.Layout(x=0, y=12 * index, w=24, h=12),
        )
        for index, quantity in enumerate(quantities)
    ]
    runs = wr.Runset(name=group, filters=[expr.Metric("Group") == group])
    return wr.Report(
        project=project,
        entity=entity,
        title=f"Layer curves of {group}"[:128],
        description=f"All runs of the group {group}: values over layers with 95 % intervals, and by chance (dashed).",
        blocks=[wr.PanelGrid(runsets=[runs], panels=charts)],
        width="fluid",
    )


def save_group_report(report: Report) -> str:
    """Make the chart in W&B if it is not there, and save the report.

    Returns:
        The report's address.
    """
    import wandb
    from wandb.errors import Error as WandbError

    try:
        wandb.Api().create_custom_chart(
            entity=report.entity,
            name=chart_name(),
            display_name="Layer curves (probes)",
            spec_type="vega2",
            access="private",
            spec=layer_curves_spec(),
        )
    except WandbError as error:
        _log.warning("W&B did not make the chart %s, as when it exists already: %s", chart_name(), error)
    report.save()
    return report.url
