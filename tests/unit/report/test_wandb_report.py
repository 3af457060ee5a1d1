"""Reports, charts and sweeps of W&B as descriptions; what they name is what runs log and commands accept."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from probes.cli import check_overrides
from probes.commands.wandb_report import main
from probes.report import group_report, save_group_report
from probes.report.loggers import run_logger
from probes.report.loggers.run_logger import TABLE_COLUMNS
from probes.report.loggers.wandb_report import chart_name, layer_curves_spec

ROOT = Path(__file__).parents[3]
needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="needs the package wandb-workspaces"
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic", "ignore::DeprecationWarning:wandb")


def spec_of(report: Any) -> dict[str, Any]:
    return json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def every(value: Any, key: str) -> list[Any]:
    """All values that stand under a key, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in every(item, key)]
    if not isinstance(value, dict):
        return []
    return [v for k, v in value.items() if k == key] + [found for item in value.values() for found in every(item, key)]


class TestChart:
    def test_it_reads_columns_that_every_table_of_a_run_has(self) -> None:
        text = json.dumps(layer_curves_spec())
        fields = set(re.findall(r"\$\{field:(\w+)\}", text))
        assert {"layer", "task", "value", "ci_low", "ci_high", "null_mean"} <= fields <= set(TABLE_COLUMNS)
        assert set(re.findall(r"\$\{string:(\w+)\}", text)) == {"title"}
        assert layer_curves_spec()["data"] == {"name": "wandb"}

    def test_its_name_is_one_that_wandb_accepts(self) -> None:
        assert re.fullmatch(r"[a-z0-9-]{1,128}", chart_name())


@needs_workspaces
class TestReport:
    def test_it_has_one_chart_per_quantity_of_the_runs_of_the_group(self) -> None:
        report = spec_of(group_report("sweep-7", entity="me", project="p", quantities=["probe/macro_f1", "label_cka"]))
        text = json.dumps(report)
        for quantity in ("probe/macro_f1", "label_cka"):
            assert text.count(f'"layer_by_task/{quantity}"') == 1
        assert every(report, "panelDefId") == [f"me/{chart_name()}"] * 2
        assert [settings["title"] for settings in every(report, "stringSettings")] == ["probe/macro_f1", "label_cka"]
        (filters,) = every(report, "filters")[:1]
        assert "sweep-7" in json.dumps(filters)
        assert {"section": "run", "name": "group"} in every(report, "key")

    def test_the_command_writes_it_to_a_file_without_a_server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(wandb, "Api", lambda: pytest.fail("contacted W&B"))
        file = tmp_path / "report.json"
        main(["sweep-7", "--entity", "me", "--quantities", "label_cka", "--spec", str(file)])
        written = json.loads(file.read_text())
        assert every(written, "panelDefId") == [f"me/{chart_name()}"]
        assert '"layer_by_task/label_cka"' in json.dumps(written)
        assert str(file) in capsys.readouterr().out.replace("\n", "")

    def test_saving_makes_the_chart_first_and_goes_on_if_it_exists(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[Any] = []

        def create(**arguments: Any) -> str:
            calls.append(arguments)
            if len(calls) > 1:
                raise wandb.Error("already exists")
            return "me/chart"

        monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(create_custom_chart=create))
        saved = []
        report: Any = SimpleNamespace(
            entity="me", save=lambda: saved.append(True), url="https://wandb.ai/me/p/reports/r"
        )
        with caplog.at_level(logging.WARNING):
            assert save_group_report(report) == save_group_report(report) == "https://wandb.ai/me/p/reports/r"
        assert len(saved) == 2
        assert (calls[0]["entity"], calls[0]["name"], calls[0]["spec"]) == ("me", chart_name(), layer_curves_spec())
        assert [record.message for record in caplog.records] == [
            f"W&B did not make the chart {chart_name()}, as when it exists already: already exists"
        ]

    def test_a_report_of_no_quantity_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs at least one quantity, such as probe/macro_f1"):
            group_report("sweep-7", entity="me", quantities=[])


def test_without_the_package_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logger.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"`probes wandb-report` needs wandb_workspaces\. .*'\.\[wandb-report\]'"):
        main(["sweep-7", "--entity", "me"])


def test_every_job_of_the_sweep_is_a_command_that_train_py_accepts() -> None:
    sweep = yaml.safe_load((ROOT / "conf/wandb_sweep.yaml").read_text())
    assert (sweep["method"], sweep["metric"]) == ("grid", {"name": "objective", "goal": "maximize"})
    assert (ROOT / sweep["program"]).is_file()
    values = {key: own.get("values", [own.get("value")]) for key, own in sweep["parameters"].items()}
    jobs = [dict(zip(values, job, strict=True)) for job in itertools.product(*values.values())]
    assert len(jobs) == 12
    for job in (jobs[0], jobs[-1]):
        variables = create_sweep_command_args({"args": {key: {"value": value} for key, value in job.items()}})
        command = create_sweep_command(list(sweep["command"]))
        assert command == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
        check_overrides(variables["args_no_hyphens"])
