"""The table of an audit puts side by side what lies in rows of results, and the page tells it."""

from __future__ import annotations

import csv
from dataclasses import replace

from probes.report.audit import audit_at_best_layers, audit_table, write_audit
from probes.report.csv_files import write_best_layers, write_results
from probes.report.page.build import write_report
from probes.values import BestLayers, Result


def row(metric: str, layer: int | None, value: float, *, task: str = "mood", note: str = "", probe: str = "") -> Result:
    return Result(
        study="probe", backbone="tiny", suite="toys", task=task, stack="decoder", site="residual", pooling="last",
        layer=layer, split="test", metric=metric, unit="F1", probe=probe, value=value, ci_low=value - 0.1,
        ci_high=value + 0.1, n=100, note=note,
    )  # fmt: skip


def audited(task: str, verdict: str) -> list[Result]:
    return [
        row("macro_f1", 1, 0.9, task=task, probe="linear"),
        row("nuisance/residual_macro_f1", 1, 0.5, task=task, note=f"{verdict}; 5% remains; alone 90%"),
        row("nuisance/residual_macro_f1", 2, 0.5, task=task, note="the score is not above chance"),
        row("nuisance/raw_minus_residual_macro_f1", 1, 0.4, task=task),
        row("nuisance/within_strata_macro_f1", 1, 0.45, task=task, note="strata of first word"),
        row("nuisance/alone_length", None, 0.6, task=task),
        row("nuisance/alone_first_word", None, 0.88, task=task, note="strongest by validation rows"),
    ]


def best(task: str, layer: int = 1) -> BestLayers:
    return BestLayers(task, layer, (layer,), "macro_f1", 0.9, n=50)


def test_each_layer_has_its_scores_the_strongest_nuisance_and_its_verdict(tmp_path):
    first, second = audit_table(audited("mood", "explained by first word"))
    assert (first.task, first.layer, first.metric, first.nuisance) == ("mood", 1, "macro_f1", "first word")
    assert [r.value for r in (first.raw, first.residual, first.difference, first.within_strata, first.alone) if r] == [
        0.9, 0.5, 0.4, 0.45, 0.88
    ]  # fmt: skip
    assert (first.verdict, first.reason) == ("explained by first word", "5% remains; alone 90%")
    assert (second.verdict, second.reason) == ("", "the score is not above chance")
    with write_audit([first, second], tmp_path / "audit.csv").open() as file:
        written = list(csv.DictReader(file))
    assert written[0]["verdict"] == "explained by first word"
    assert float(written[0]["alone"]) == 0.88
    assert (written[1]["raw"], written[1]["layer"]) == ("", "2")


def test_a_score_that_is_not_above_chance_when_all_cells_are_corrected_for_has_no_verdict():
    raw, *others = audited("mood", "stands")
    (corrected, _), (kept, _) = (audit_table([replace(raw, p=p, p_cell=0.01), *others]) for p in (0.2, 0.04))
    assert corrected.verdict == ""
    assert corrected.reason == "the score is not above chance, corrected for all cells (p = 0.2)"
    assert kept.verdict == "stands"


def test_rows_without_an_audit_make_no_table():
    assert audit_table([row("macro_f1", 1, 0.9, probe="linear")]) == []


def test_the_page_shows_verdicts_at_best_layers_and_says_them_in_words(tmp_path):
    rows = [*audited("mood", "explained by first word"), *audited("tense", "stands"), *audited("word", "stands")]
    at_best = {"mood": best("mood"), "tense": best("tense"), "word": best("word", 2)}
    assert [(own.task, own.layer) for own in audit_at_best_layers(rows, at_best)] == [
        ("mood", 1),
        ("tense", 1),
        ("word", 2),
    ]
    write_results(rows, tmp_path / "results.csv")
    write_best_layers(at_best.values(), tmp_path / "best_layers.csv")
    page = write_report(tmp_path).read_text()
    assert "<strong>explained by first word</strong>" in page
    assert (
        "By the audit for nuisances at the best layers, tense stands; mood (first word) is explained by a nuisance."
        in page
    )


def test_the_page_of_a_run_without_an_audit_has_no_such_section(tmp_path):
    write_results([row("macro_f1", 1, 0.9, probe="linear")], tmp_path / "results.csv")
    assert 'id="nuisances"' not in write_report(tmp_path).read_text()
