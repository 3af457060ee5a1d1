"""`make calibrate`: the long simulations, and the table of `docs/calibration.md`.

Each simulation's rates are stored in a file named after it and after the digest of the code, so that a run that was
interrupted goes on where it stopped, and code that changed is measured anew. `--only` measures some simulations, after
a change that concerns no other, and leaves the other rows of the table as they are; `--times` measures them more often,
where too few repetitions leave a rate undecided.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

import joblib
import torch
from calibration.catalogue import SIMULATIONS
from calibration.simulation import Measured, Simulation, measure
from rich.console import Console

from probes.files import replaced_file

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "calibration.md"
CODE = (
    "probes/analysis",
    "probes/metrics",
    "probes/training",
    "probes/probe_measures",
    "probes/values.py",
    "tests/calibration",
)
MARKS = ("<!-- table: make calibrate -->", "<!-- end of table -->")


def digest_of_code() -> str:
    digest = hashlib.blake2b(digest_size=6)
    for name in CODE:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def stored(simulation: Simulation, calls: int, folder: Path) -> list[Measured]:
    """The rates of so many calls of a simulation, measured unless they are in the folder."""
    name = re.sub(r"[^a-z0-9.]+", "-", simulation.name.lower())
    path = folder / f"{name}-{calls}.json"
    if not path.exists():
        torch.set_num_threads(1)
        start = time.perf_counter()
        rates = [asdict(rate) for rate in measure(simulation, calls)]
        content = {"rates": rates, "seconds": time.perf_counter() - start}
        with replaced_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1))
    return [Measured(**rate) for rate in json.loads(path.read_text())["rates"]]


HEAD = (
    "| quantity | setting | what is counted | nominal | measured | its 95 % interval | repetitions | claim |\n"
    "|---|---|---|---|---|---|---|---|"
)


def row(rate: Measured) -> str:
    """Markdown of one quantity in one setting."""
    low, high = rate.interval
    return (
        f"{key(rate)} {nominal(rate)} | {rate.value:.3f} | {low:.3f} – {high:.3f} | {rate.repetitions:,} | "
        f"{verdict(rate)} |"
    )


def key(rate: Measured) -> str:
    """The first cells of a row, which tell it from all others."""
    return f"| `{rate.quantity}` | {rate.setting} | {rate.rate} |"


def with_rows(rows: list[str], rates: list[Measured]) -> list[str]:
    """Rows of a table in which those of some rates take the place of those with the same first cells.

    Rows of new rates come last, until all simulations are measured in their order.
    """
    rows = list(rows)
    for rate in rates:
        places = [i for i, old in enumerate(rows) if old.startswith(key(rate))]
        if places:
            rows[places[0]] = row(rate)
        else:
            rows.append(row(rate))
    return rows


def nominal(rate: Measured) -> str:
    if rate.claim == "power" and rate.nominal == 0:
        return "–"
    sign = {"conservative": "≥ " if rate.rate == "coverage" else "≤ ", "power": "≥ "}.get(rate.claim, "")
    return f"{sign}{rate.nominal:.2f}"


def verdict(rate: Measured) -> str:
    if rate.claim == "limit":
        return "known limit"
    if rate.holds:
        return "holds"
    return "too few to tell" if rate.may_hold else "**misses**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="simulations at the same time")
    parser.add_argument("--store", type=Path, default=ROOT / "outputs" / "calibration", help="folder of the rates")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="simulations whose names start so")
    parser.add_argument("--times", type=int, default=1, help="so many times the usual repetitions")
    options = parser.parse_args()
    folder = options.store / digest_of_code()
    chosen = [simulation for simulation in SIMULATIONS if simulation.name.startswith(tuple(options.only))]
    jobs = (joblib.delayed(stored)(simulation, options.times * simulation.long, folder) for simulation in chosen)
    by_simulation = joblib.Parallel(n_jobs=options.jobs, verbose=5)(jobs)
    rates = [rate for of_simulation in by_simulation for rate in of_simulation]
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    old, _, after = rest.partition(MARKS[1])
    is_whole = len(chosen) == len(SIMULATIONS)
    rows = [row(rate) for rate in rates] if is_whole else with_rows(old.strip().splitlines()[2:], rates)
    table = "\n".join([HEAD, *rows])
    with replaced_file(PAGE) as temporary:
        temporary.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")
    missed = [rate for rate in rates if not rate.may_hold]
    console = Console()
    console.print(f"{len(rates)} rates, {len(missed)} of them outside what is claimed. Written to {PAGE}.")
    for rate in missed:
        console.print(f"misses: {rate.quantity}, {rate.setting}: {rate.value:.3f} (nominal {nominal(rate)})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
