"""Runs of studies whose objective is compared with what they log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probes.report import FilesOnly


def with_logged_objective(run: Callable[[], float]) -> float:
    """What a study without a tracker returns, after a check that it is what a tracker would be given as `objective`."""
    logged: dict[str, float | int | str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FilesOnly, "summarize", lambda _, scalars: logged.update(scalars))
        returned = run()
    np.testing.assert_equal(logged["objective"], returned)  # NaN is equal to NaN
    return returned
