"""The tables of docs/reliability.md name tests that exist, and every module of fault tests is in them."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = [
    line.strip("|").split("|")
    for line in (TESTS.parents[1] / "docs/reliability.md").read_text(encoding="utf-8").splitlines()
    if re.search(r"\| `test_\w+\.py` \|$", line)
]


def test_at_least_sixty_faults_are_documented_each_once():
    faults = [fault.strip() for fault, *_ in ROWS]
    assert len(faults) >= 60
    assert len(set(faults)) == len([fault for fault in faults if not fault.startswith("The same")]) + len(
        {fault for fault in faults if fault.startswith("The same")}
    )


def test_every_module_of_fault_tests_is_in_the_tables_and_exists():
    named = {test.strip(" `") for *_, test in ROWS}
    assert named == {path.name for path in TESTS.glob("test_*.py")} - {Path(__file__).name}
