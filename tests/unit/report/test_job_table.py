from __future__ import annotations

import csv
from pathlib import Path

import pytest
from report_samples import a_matrix, best_at, results_of

from probes.report import report_jobs, write_best_layers, write_results
from probes.runs.job_records import JobRecord, forget_records, read_records, write_record
from probes.runs.run_folder import run_in_folder

BEST = best_at({"sst2": 1, "trec": "final"})


def a_job(sweep: Path, number: int, *, tasks=("sst2", "trec"), state: str = "finished", **facts) -> JobRecord:
    """A job whose scores are those of `a_matrix`, each with an interval of ± 0.1."""
    folder = sweep / str(number)

    def study() -> float:
        matrix = a_matrix("probe/macro_f1", tasks=tasks)
        write_results(results_of(matrix, "macro_f1"), folder / "results.csv")
        write_best_layers([BEST[task] for task in tasks], folder / "best_layers.csv")
        return 0.7

    if state == "finished":
        run_in_folder(folder, study, digest=str(number))
    record = JobRecord(job=number, overrides=["probe=mlp", f"seed={number}"], folder=str(number), state=state, **facts)
    write_record(sweep, record)
    return record


def jobs(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "jobs.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_score_of_one_task_is_its_test_score_at_the_best_layer_with_its_interval(tmp_path):
    report_jobs(tmp_path, [a_job(tmp_path, 0, tasks=("sst2",))])
    (job,) = jobs(tmp_path)
    value = a_matrix("probe/macro_f1", tasks=("sst2",)).values[1, 0]
    assert [float(job[key]) for key in ("score", "ci_low", "ci_high")] == pytest.approx(
        [value, value - 0.1, value + 0.1]
    )
    assert (job["metric"], job["best_layers"], job["objective"]) == ("macro_f1", "sst2 1", "0.7")
    assert job["started"] <= job["ended"]


def test_the_score_of_several_tasks_is_their_mean_with_the_interval_of_independent_tasks(tmp_path):
    report_jobs(tmp_path, [a_job(tmp_path, 0)])
    (job,) = jobs(tmp_path)
    values = a_matrix("probe/macro_f1", tasks=("sst2", "trec")).values
    mean = (values[1, 0] + values[3, 1]) / 2
    half_width = (0.1**2 + 0.1**2) ** 0.5 / 2
    assert float(job["score"]) == pytest.approx(mean)
    assert float(job["ci_high"]) - float(job["score"]) == pytest.approx(half_width)
    assert job["best_layers"] == "sst2 1; trec final"


def test_a_failed_job_is_listed_with_its_error_beside_the_others(tmp_path, capsys):
    records = [a_job(tmp_path, 0), a_job(tmp_path, 1, state="failed", error="There is no layer 9.")]
    report_jobs(tmp_path, records)
    good, bad = jobs(tmp_path)
    assert (good["state"], good["error"]) == ("finished", "")
    assert (bad["state"], bad["error"], bad["score"]) == ("failed", "There is no layer 9.", "")
    printed = capsys.readouterr().out
    assert "job 1 failed: There is no layer 9." in printed
    assert "seed=1" in printed
    assert "probe=mlp" not in printed  # what all jobs share


def test_a_job_that_was_refused_does_not_show_the_facts_of_the_run_that_is_in_its_folder(tmp_path):
    a_job(tmp_path, 0)
    report_jobs(tmp_path, [a_job(tmp_path, 0, state="failed", error="holds what a run of another config has left")])
    (job,) = jobs(tmp_path)
    assert (job["objective"], job["ended"], job["score"]) == ("", "", "")


def test_the_page_of_a_sweep_shows_every_job_and_escapes_what_they_say(tmp_path):
    report_jobs(tmp_path, [a_job(tmp_path, 0), a_job(tmp_path, 1, state="failed", error="<script>no</script>")])
    page = (tmp_path / "jobs.html").read_text()
    assert "2 jobs: 1 finished, 1 failed." in page
    assert page.count("<tr>") == 3
    assert page.count("<circle") == 1
    assert "seed=1" in page
    assert "common: <code>probe=mlp</code>" in page
    assert "<script>" not in page
    assert "&lt;script&gt;no" in page
    assert "report.html" not in page  # no job has left one
    (tmp_path / "0" / "report.html").write_text("")
    report_jobs(tmp_path, [a_job(tmp_path, 0)])
    assert 'href="0/report.html"' in (tmp_path / "jobs.html").read_text()


def test_records_read_back_in_the_order_of_jobs_and_an_interrupted_one_says_so(tmp_path):
    for number in (10, 2):
        a_job(tmp_path, number)
    with pytest.raises(KeyboardInterrupt):
        run_in_folder(tmp_path / "11", lambda: (_ for _ in ()).throw(KeyboardInterrupt), digest="11")
    a_job(tmp_path, 11, state="running")
    assert [(record.job, record.state) for record in read_records(tmp_path)] == [
        (2, "finished"), (10, "finished"), (11, "interrupted"),
    ]  # fmt: skip
    forget_records(tmp_path)
    assert read_records(tmp_path) == []
