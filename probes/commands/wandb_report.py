"""`probes wandb-report GROUP`: a W&B report of all runs of a group, or its description without any server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from probes.files import write_text
from probes.report import group_report, print_screen, save_group_report
from probes.report.loggers.wandb_report import QUANTITIES


def main(arguments: Sequence[str]) -> None:
    """Build the report and save it to W&B, or with `--spec` to a file."""
    options = _parser().parse_args(arguments)
    try:
        report = group_report(
            options.group, entity=options.entity, project=options.project, quantities=options.quantities
        )
    except (ModuleNotFoundError, ValueError) as error:
        sys.exit(str(error))
    if options.spec is None:
        print_screen(f"report: {save_group_report(report)}")
    else:
        model = report._to_model()  # what `Report.save` sends
        write_text(options.spec, model.spec.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
        print_screen(f"spec: {options.spec}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probes wandb-report", description="Make a W&B report with the layer curves of all runs of a group."
    )
    parser.add_argument("group", metavar="GROUP", help="group of the runs (logger.group), such as a sweep")
    parser.add_argument("--entity", required=True, help="W&B user or team")
    parser.add_argument("--project", default="probes", help="W&B project (default: probes)")
    parser.add_argument(
        "--quantities", nargs="+", default=list(QUANTITIES), help=f"to show (default: {' '.join(QUANTITIES)})"
    )
    parser.add_argument("--spec", type=Path, metavar="FILE", help="write the report's JSON, and contact no server")
    return parser
