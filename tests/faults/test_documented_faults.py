"""The tables of docs/reliability.md name tests that exist."""

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
    faults = [fault.strip() for fault, *_ in ROWS if not fault.strip().startswith("The same")]
    assert len(set(faults)) == len(faults) >= 60


def test_every_test_that_the_tables_name_exists():
    named = {test.strip(" `") for *_, test in ROWS}
    assert len(named) > 12
    assert named <= {path.name for path in TESTS.glob("test_*.py")}
