"""`probes compare RUN RUN…` and `probes report RUN`: finished runs, from their folders alone."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from probes.report import SavedRun, difference_table, path_lines, print_screen, read_run, write_report
from probes.studies.compare_runs import compare_runs


def compare(arguments: Sequence[str]) -> None:
    """Compare runs whose folders or W&B paths are given; `probes compare --help` lists the options."""
    parser = argparse.ArgumentParser(
        prog="probes compare",
        description="Compare the probes of the first run with those of the others, on the same test rows.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or entity/project/run of W&B")
    parser.add_argument("--output", type=Path, help="folder to write (default: outputs/compare/…)")
    parser.add_argument("--names", nargs="+", help="short names of the runs, in their order")
    parser.add_argument("--resamples", type=int, default=1000, help="of the rows, for intervals (default: 1000)")
    parser.add_argument("--exchanges", type=int, default=500, help="draws of the null, for p (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of both (default: 0)")
    options = parser.parse_args(arguments)
    if options.names is not None and len(options.names) != len(options.runs):
        parser.error(f"--names expects {len(options.runs)} names, one for each run; got {len(options.names)}.")
    with tempfile.TemporaryDirectory() as downloads:
        try:
            runs = [_open(name, Path(downloads)) for name in options.runs]
            found = compare_runs(
                runs,
                options.output or _default_output(runs),
                labels=options.names,
                resamples=options.resamples,
                exchanges=options.exchanges,
                seed=options.seed,
            )
        except (ValueError, FileNotFoundError, FileExistsError) as error:
            sys.exit(str(error))
    folder = found.output_dir
    tables = [difference_table(found.rows, label=label, reference=found.labels[0]) for label in found.labels[1:]]
    print_screen(*tables, *path_lines(report=folder / "report.html", everything=folder))


def report(arguments: Sequence[str]) -> None:
    """Write `report.html` of runs again; `probes report --help` lists the options."""
    parser = argparse.ArgumentParser(prog="probes report", description="Write the report of finished runs again.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run")
    for folder in parser.parse_args(arguments).runs:
        try:
            print_screen(*path_lines(report=write_report(folder)))
        except (ValueError, FileNotFoundError) as error:
            sys.exit(str(error))


def _open(name: str, downloads: Path) -> SavedRun:
    """A run from its folder, or from W&B if there is no such folder and the name has three parts."""
    if not Path(name).exists() and name.count("/") == 2:
        from probes.report.loggers.wandb_download import download_run

        return read_run(download_run(name, downloads))
    return read_run(name)


def _default_output(runs: Sequence[SavedRun]) -> Path:
    names = ["-".join(run.path.resolve().parts[-2:]) for run in runs]
    return Path("outputs", "compare", "_and_".join(names)[:150])
