import io
import math
from dataclasses import replace

from rich.console import Console

from probes.report import learning_table
from probes.values import Result


def printed(*results: Result) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(learning_table(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def score(task: str, role: str, value: float, metric: str = "answer_loss_nats", seed: int | None = None) -> Result:
    return Result(task=task, role=role, metric=metric, value=value, seed=seed, split="test")


SST2 = [score("sst2", "base", 5.125), score("sst2", "control", 0.25, seed=3)]


def line(text: str, start: str) -> list[str]:
    (found,) = [line.split() for line in text.splitlines() if line.strip().startswith(start)]
    return found


def test_a_model_is_a_line_from_its_base_to_itself():
    text = printed(*SST2, score("sst2", "base", 0.5, "exact_match"), score("sst2", "control", 0.875, "exact_match", 3))
    assert line(text, "sst2") == ["sst2", "(control)", "5.125", "→", "0.250", "0.500", "→", "0.875", "→", "→"]
    assert all(title in text for title in ("loss (nats)", "exact match", "ROUGE-L", "chrF"))


def test_controls_after_the_first_are_told_apart_by_their_seeds():
    text = printed(*SST2, replace(SST2[1], seed=4, value=0.3), score("trec", "control", 1.0, seed=3))
    assert line(text, "sst2 (control)")[2:5] == ["5.125", "→", "0.250"]
    assert line(text, "sst2 (control, seed 4)")[4:7] == ["5.125", "→", "0.300"]
    assert line(text, "trec (control)")[2:4] == ["→", "1.000"]


def test_each_task_meets_its_own_base():
    text = printed(*SST2, score("mixture", "base", 4.0), score("mixture", "experimental", 2.0))
    assert line(text, "mixture (experimental)")[2:5] == ["4.000", "→", "2.000"]
    assert line(text, "sst2")[2:5] == ["5.125", "→", "0.250"]


def test_unknown_scores_and_other_results_leave_no_number():
    text = printed(
        *SST2,
        score("merged", "experimental", math.nan),
        Result(task="probed", role="control", metric="chrf", layer=2, value=0.9),
        Result(task="other", role="control", metric="macro_f1", value=0.9),
    )
    assert line(text, "merged")[2:] == ["→"] * 4
    assert "probed" not in text
    assert "other" not in text


def test_names_with_brackets_are_printed_as_they_are():
    assert "odd[/red] (control)" in printed(score("odd[/red]", "control", 1.0))
