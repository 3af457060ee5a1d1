"""`probes plan` foretells what a run reads, tunes and writes, and plans what is not at hand from its numbers."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR
from probes.commands.plan import composed, main, numbers, planned
from probes.run import run

QUICK = ("backbone=tiny", "logger=csv", "suite.tasks=[topic,tense]", "suite.max_rows=40", "probe.penalties=[0.1]",
         "probe.permutations=0", "probe.bootstrap_samples=0", "analysis=none")  # fmt: skip
PAPER = ("experiment=layer_by_layer_paper",)
EVERY_CONTROL_TWICE = ("study.mixture.replicate_tasks=66", "study.mixture.replicate_seeds=1")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PROBES_CACHE_DIR", str(tmp_path / "cache"))


def plan(*overrides: str) -> dict:
    cfg = composed(overrides)
    return numbers(planned(cfg), cfg)


PAIRS = ("suite.tasks=[topic]", "suite.pairs=true")
THEIR_MEASURE = ("analysis/probe_measures=[label_free]", "analysis.probe_measures.label_free.copies=0")


@pytest.mark.parametrize(
    "of_suite", [(), PAIRS, (*PAIRS, *THEIR_MEASURE)], ids=["labels", "pairs", "pairs that are read"]
)
def test_a_run_reads_and_writes_what_was_foretold(tmp_path, of_suite):
    overrides = [*QUICK, *of_suite]
    foretold = plan(*overrides)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        run(compose("train", overrides=[*overrides, f"paths.output_dir={tmp_path / 'out'}"]))
    facts = json.loads((tmp_path / "out/provenance.json").read_text())
    assert foretold["texts"] == facts["texts_computed"]
    assert foretold["tokens_read"] == facts["tokens_computed"]
    written = sum(path.stat().st_size for path in (tmp_path / "cache/activations").glob("*/*.safetensors"))
    assert foretold["stored_bytes"] <= written < 1.3 * foretold["stored_bytes"] + 20_000  # and headers
    assert foretold["hours"] > 0
    assert foretold["network_bytes"]["hub"] == 0


def test_numbers_for_programs_are_json_of_a_strict_parser(capsys):
    main([*QUICK, "--json"])
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["rates"]["tuning_flop"] is None
    assert found["rates"]["forward_flop"] > 0


def test_a_model_that_a_gpu_cannot_hold_is_said(capsys):
    main([*PAPER, "plan.gpus=1", "extraction.tokens_per_batch=10000000"])
    assert "which has 80: set `extraction.tokens_per_batch`" in capsys.readouterr().out


def test_the_papers_setting_is_planned_without_model_or_data():
    found = plan(*PAPER, "plan.gpus=1")
    assert (found["tasks"], found["models_tuned"]) == (66, 66 + 6 * 2 + 1)
    assert found["memory_bytes"] > 13.4e9
    assert plan(*PAPER, *EVERY_CONTROL_TWICE)["models_tuned"] == 2 * 66 + 1
    eight = plan(*PAPER, "plan.gpus=8")
    assert eight["flop"] == found["flop"]
    assert eight["hours"] < found["hours"]
    assert len(eight["assumptions"]) == 3
    together = plan(*PAPER, "plan.gpus=8", "plan.gpus_per_job=8")
    assert together["flop"] == found["flop"]
    parts, divided = eight["seconds_by_part"], together["seconds_by_part"]
    assert parts["tuning"] / 8 < divided["tuning"] < parts["tuning"] / 4
    assert divided["passes"] == pytest.approx(parts["passes"] / 8)
    assert together["network_bytes"]["gradients"] > eight["network_bytes"]["gradients"] == 0


def test_half_the_tokens_are_half_the_work_of_matrices():
    whole, half = (plan(*PAPER, f"plan.tokens_per_text={n}", "plan.answer_tokens=1") for n in (200, 100))
    assert half["flop"] == pytest.approx(whole["flop"] / 2, rel=0.03)


def test_a_dry_run_lists_every_job(capsys):
    main([*PAPER, "plan.gpus=64", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[1:3]] == [["tune", "mixture:0"], ["tune", "anli_r1:0"]]
    assert sum(line.split()[:1] == [str(number)] for number, line in enumerate(lines[1:])) == 160
    assert any(line.startswith("time ") and "64 × h100" in line for line in lines)


def test_what_cannot_be_planned_is_named():
    with pytest.raises(TypeError, match="knows the costs of study=probe and study=layer_by_layer"):
        plan("study=compare", "backbone=tiny")
    with pytest.raises(ValueError, match=r"no GPU 'abacus'.*a100"):
        plan(*PAPER, "plan.gpu=abacus")
    with pytest.raises(ValueError, match=r"there are 4\. Set `plan\.gpus_per_job` from 1 to `plan\.gpus`"):
        plan(*PAPER, "plan.gpus=4", "plan.gpus_per_job=8")
    with pytest.raises(ValueError, match="needs a suite that is known by its numbers"):
        plan("plan.model=meta-llama/Llama-2-7b-hf", "suite=starter")
