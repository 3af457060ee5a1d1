"""Files, figures, tables and loggers: the only package that draws or logs. Other packages compute the numbers.

Names are loaded when they are first used, so that a run without W&B does not import it, and naming a logger does not
import matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.report.attributions import AttributedText, read_attributions, write_attributions
    from probes.report.csv_files import (
        file_stem,
        read_results,
        write_best_layers,
        write_layer_by_task,
        write_results,
        write_task_maps,
        write_task_table,
    )
    from probes.report.figures.band_profiles import Curve, band_profiles
    from probes.report.figures.heatmap import heatmap
    from probes.report.figures.profiles import profiles
    from probes.report.figures.task_maps import TaskMap, task_maps
    from probes.report.job_table import report_jobs
    from probes.report.loggers.mlflow_logger import MlflowRunLogger
    from probes.report.loggers.run_logger import FilesOnly, RunLogger
    from probes.report.loggers.tensorboard_logger import TensorBoardRunLogger
    from probes.report.loggers.wandb_logger import WandbRunLogger
    from probes.report.loggers.wandb_report import group_report, save_group_report
    from probes.report.page.build import write_report
    from probes.report.pictures import save_png
    from probes.report.predictions_file import read_predictions, write_predictions
    from probes.report.run_report import (
        RunReport,
        curve_of,
        report_channel_removal,
        report_decodable_and_used,
        report_dose_response,
        report_findings,
        report_layer_by_layer,
        report_lenses,
        report_model_patching,
        report_run,
    )
    from probes.report.saved_run import SavedRun, read_run
    from probes.report.tables import (
        best_layer_table,
        difference_table,
        layer_table,
        learning_table,
        path_lines,
        print_best_layers,
        print_screen,
    )
    from probes.report.token_pictures import DrawnTree, WeighedText, report_token_weights, report_trees

__all__ = [
    "AttributedText",
    "Curve",
    "DrawnTree",
    "FilesOnly",
    "MlflowRunLogger",
    "RunLogger",
    "RunReport",
    "SavedRun",
    "TaskMap",
    "TensorBoardRunLogger",
    "WandbRunLogger",
    "WeighedText",
    "band_profiles",
    "best_layer_table",
    "curve_of",
    "difference_table",
    "file_stem",
    "group_report",
    "heatmap",
    "layer_table",
    "learning_table",
    "path_lines",
    "print_best_layers",
    "print_screen",
    "profiles",
    "read_attributions",
    "read_predictions",
    "read_results",
    "read_run",
    "report_channel_removal",
    "report_decodable_and_used",
    "report_dose_response",
    "report_findings",
    "report_jobs",
    "report_layer_by_layer",
    "report_lenses",
    "report_model_patching",
    "report_run",
    "report_token_weights",
    "report_trees",
    "save_group_report",
    "save_png",
    "task_maps",
    "write_attributions",
    "write_best_layers",
    "write_layer_by_task",
    "write_predictions",
    "write_report",
    "write_results",
    "write_task_maps",
    "write_task_table",
]

__getattr__ = lazy_names(
    __name__,
    {
        "attributions": ("AttributedText", "read_attributions", "write_attributions"),
        "figures.band_profiles": ("Curve", "band_profiles"),
        "csv_files": (
            "file_stem",
            "read_results",
            "write_best_layers",
            "write_layer_by_task",
            "write_results",
            "write_task_maps",
            "write_task_table",
        ),
        "figures.heatmap": ("heatmap",),
        "figures.profiles": ("profiles",),
        "figures.task_maps": ("TaskMap", "task_maps"),
        "job_table": ("report_jobs",),
        "page.build": ("write_report",),
        "loggers.mlflow_logger": ("MlflowRunLogger",),
        "pictures": ("save_png",),
        "predictions_file": ("read_predictions", "write_predictions"),
        "run_report": (
            "RunReport",
            "curve_of",
            "report_channel_removal",
            "report_decodable_and_used",
            "report_dose_response",
            "report_findings",
            "report_layer_by_layer",
            "report_lenses",
            "report_model_patching",
            "report_run",
        ),
        "saved_run": ("SavedRun", "read_run"),
        "tables": (
            "best_layer_table",
            "difference_table",
            "layer_table",
            "learning_table",
            "path_lines",
            "print_best_layers",
            "print_screen",
        ),
        "token_pictures": ("DrawnTree", "WeighedText", "report_token_weights", "report_trees"),
        "loggers.run_logger": ("FilesOnly", "RunLogger"),
        "loggers.tensorboard_logger": ("TensorBoardRunLogger",),
        "loggers.wandb_logger": ("WandbRunLogger",),
        "loggers.wandb_report": ("group_report", "save_group_report"),
    },
)
