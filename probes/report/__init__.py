"""Files, figures, tables and W&B: the only room that draws or logs. It arranges numbers; others compute them.

Names are loaded when first asked for, so that a run without W&B never imports it,
and naming a tracker does not import matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.lazy_names import lazy_names

if TYPE_CHECKING:
    from probes.report.band_figure import Curve, band_profiles
    from probes.report.band_report import BandedProfiles, report_bands
    from probes.report.csv_files import file_stem, read_results, write_layer_by_task, write_results
    from probes.report.heatmap_figure import heatmap
    from probes.report.layer_by_layer_report import report_layer_by_layer
    from probes.report.layer_summary import layer_table
    from probes.report.learning_summary import learning_table
    from probes.report.map_figure import TaskMap, task_maps
    from probes.report.png import save_png
    from probes.report.profile_figure import profiles
    from probes.report.run_report import report_run
    from probes.report.tables import best_layer_table, print_best_layers, print_screen
    from probes.report.tracker import FilesOnly, Tracker
    from probes.report.tracking import WandbTracker

__all__ = [
    "BandedProfiles",
    "Curve",
    "FilesOnly",
    "TaskMap",
    "Tracker",
    "WandbTracker",
    "band_profiles",
    "best_layer_table",
    "file_stem",
    "heatmap",
    "layer_table",
    "learning_table",
    "print_best_layers",
    "print_screen",
    "profiles",
    "read_results",
    "report_bands",
    "report_layer_by_layer",
    "report_run",
    "save_png",
    "task_maps",
    "write_layer_by_task",
    "write_results",
]

__getattr__ = lazy_names(
    __name__,
    {
        "band_figure": ("Curve", "band_profiles"),
        "band_report": ("BandedProfiles", "report_bands"),
        "csv_files": ("file_stem", "read_results", "write_layer_by_task", "write_results"),
        "heatmap_figure": ("heatmap",),
        "profile_figure": ("profiles",),
        "layer_by_layer_report": ("report_layer_by_layer",),
        "layer_summary": ("layer_table",),
        "learning_summary": ("learning_table",),
        "map_figure": ("TaskMap", "task_maps"),
        "png": ("save_png",),
        "run_report": ("report_run",),
        "tables": ("best_layer_table", "print_best_layers", "print_screen"),
        "tracker": ("FilesOnly", "Tracker"),
        "tracking": ("WandbTracker",),
    },
)
