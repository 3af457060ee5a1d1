"""Run every benchmark, print one table and leave the numbers beside it as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cka
import extraction
import linear_bank
import tuning
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results.json"


def main() -> int:
    claims = [claim for module in (linear_bank, cka, tuning, extraction) for claim in module.main()]
    table = Table("work", "against", "ours s", "theirs s", "ratio", "target", "", title="Claims of speed")
    for claim in claims:
        row = (f"{claim.ours:.2f}", f"{claim.peer:.2f}", f"{claim.ratio:.2f}", f"{claim.target:g}")
        table.add_row(claim.work, claim.against, *row, "pass" if claim.passed else "FAIL")
    console = Console()
    console.print(table)
    for claim in claims:
        console.print(f"{claim.work} against {claim.against}: {claim.note}")
    RESULTS.write_text(json.dumps([claim.as_dict() for claim in claims], indent=1) + "\n")
    return 0 if all(claim.passed for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
