"""Files, figures, tables and W&B: the only package that draws or logs. Other packages compute the numbers.

Names are loaded when they are first used, so that a run without W&B does not import it, and naming a logger does not
import matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.report.csv_files import file_stem, read_results, write_best_layers, write_layer_by_task, write_results
    from probes.report.figures.band_profiles import Curve, band_profiles
    from probes.report.figures.heatmap import heatmap
    from probes.report.figures.profiles import profiles
    from probes.report.figures.task_maps import TaskMap, task_maps
    from probes.report.job_table import report_jobs
    from probes.report.pictures import save_png
    from probes.report.run_logger import FilesOnly, RunLogger
    from probes.report.run_report import RunReport, curve_of, report_findings, report_layer_by_layer, report_run
    from probes.report.tables import best_layer_table, layer_table, learning_table, print_best_layers, print_screen
    from probes.report.wandb_logger import WandbRunLogger

__all__ = [
    "Curve",
    "FilesOnly",
    "RunLogger",
    "RunReport",
    "TaskMap",
    "WandbRunLogger",
    "band_profiles",
    "best_layer_table",
    "curve_of",
    "file_stem",
    "heatmap",
    "layer_table",
    "learning_table",
    "print_best_layers",
    "print_screen",
    "profiles",
    "read_results",
    "report_findings",
    "report_jobs",
    "report_layer_by_layer",
    "report_run",
    "save_png",
    "task_maps",
    "write_best_layers",
    "write_layer_by_task",
    "write_results",
]

__getattr__ = lazy_names(
    __name__,
    {
        "figures.band_profiles": ("Curve", "band_profiles"),
        "csv_files": ("file_stem", "read_results", "write_best_layers", "write_layer_by_task", "write_results"),
        "figures.heatmap": ("heatmap",),
        "figures.profiles": ("profiles",),
        "figures.task_maps": ("TaskMap", "task_maps"),
        "job_table": ("report_jobs",),
        "pictures": ("save_png",),
        "run_report": ("RunReport", "curve_of", "report_findings", "report_layer_by_layer", "report_run"),
        "tables": ("best_layer_table", "layer_table", "learning_table", "print_best_layers", "print_screen"),
        "run_logger": ("FilesOnly", "RunLogger"),
        "wandb_logger": ("WandbRunLogger",),
    },
)
