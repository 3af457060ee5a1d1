from __future__ import annotations

import logging
from io import StringIO

from rich.console import Console

from probes import progress
from probes.progress import counted, tracked


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end():
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    assert list(tracked(range(3), "tasks probed", total=3, console=console)) == [0, 1, 2]
    assert "tasks probed" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line was erased


def test_without_a_terminal_long_loops_leave_a_line_a_minute(monkeypatch, caplog):
    clock = iter(range(0, 1000, 40))  # 40 s for every look at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        list(tracked(range(5), "figures", total=5, console=Console(file=StringIO())))
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 5 figures, about 120 s left",
        "4 of 5 figures, about 40 s left",
    ]


def test_what_was_done_before_counts_and_does_not_shorten_the_time_left(monkeypatch, caplog):
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), counted("steps", total=6, done=2, console=Console(file=StringIO())) as count:
        count()
        count()
    assert caplog.messages == ["4 of 6 steps, about 80 s left"]


def test_short_loops_say_nothing(caplog):
    with caplog.at_level(logging.INFO):
        assert list(tracked("ab", "letters", total=2, console=Console(file=StringIO()))) == ["a", "b"]
    assert not caplog.records
