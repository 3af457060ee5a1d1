from __future__ import annotations

import logging
from io import StringIO

import torch
from rich.console import Console

from probes import progress
from probes.progress import MinuteLines, counted, tracked
from probes.training import solve_linear


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


def test_a_long_computation_says_once_a_minute_how_much_is_done(monkeypatch, caplog):
    clock = iter([0.0, 10.0, 70.0, 80.0, 140.0, 300.0])
    monkeypatch.setattr("probes.progress.time.monotonic", lambda: next(clock))
    lines = MinuteLines("parts solved", 5)
    with caplog.at_level(logging.INFO, logger="probes.progress"):
        for _ in range(5):
            lines.advance()
    assert caplog.messages == ["2 of 5 parts solved, about 105 s left", "4 of 5 parts solved, about 35 s left"]


def test_the_solver_counts_its_layers_and_batches_of_penalties(monkeypatch):
    made: list[MinuteLines] = []

    def kept(what: str, total: int) -> MinuteLines:
        made.append(MinuteLines(what, total))
        return made[-1]

    monkeypatch.setattr("probes.training.linear_solver.solve.MinuteLines", kept)
    x = torch.randn(3, 80, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(80) % 40
    solve_linear("classification", x, targets[None], torch.tensor([0.1, 1.0]), classes=40)
    (lines,) = made
    assert lines.done == lines.total == 6
