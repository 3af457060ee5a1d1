"""Run every benchmark, print one table and leave the numbers beside it as JSON."""

from __future__ import annotations

import inspect
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import extraction
import growth
import linear_bank
import many_classes
import memory
import mlp_bank
import similarity
import startup
import study
import tuning
import words
from claim import Claim
from device import argument_parser, suffix
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SCRIPTS = (startup, extraction, words, memory, linear_bank, many_classes, mlp_bank, similarity, tuning, study)


def claims_table(claims: list[Claim]) -> Table:
    table = Table("work", "against", "ours", "theirs", "ratio", "reach", "", title="Claims of speed and memory")
    for claim in claims:
        amounts = (f"{claim.ours:.3g} {claim.unit}", f"{claim.peer:.3g} {claim.unit}", f"{claim.ratio:.2f}")
        table.add_row(claim.work, claim.against, *amounts, claim.bound, "pass" if claim.passed else "FAIL")
    return table


def main(device: str) -> int:
    console, start, claims = Console(), time.perf_counter(), []
    for script in SCRIPTS:
        takes_device = "device" in inspect.signature(script.main).parameters
        claims += script.main(device=device) if takes_device else script.main()
        console.print(f"{script.__name__} done after {time.perf_counter() - start:.0f} s")
    console.print(claims_table(claims))
    for claim in claims:
        console.print(f"{claim.work}, {claim.against}: {claim.note}")
    points = growth.main(device)
    (HERE / f"results{suffix(device)}.json").write_text(
        json.dumps(
            {"claims": [claim.as_dict() for claim in claims], "growth": [asdict(point) for point in points]}, indent=1
        )
        + "\n"
    )
    return 0 if all(claim.passed for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main(**vars(argument_parser(__doc__).parse_args())))
