"""No secret and no text of a suite is in any file of a run, nor in what a tracker is sent."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from wandb_log import offline_run_dirs, read_offline_run

from probes.cli import CONFIG_DIR
from probes.report import FilesOnly, WandbRunLogger
from probes.run import run
from probes.runs.masking import MASK, SecretFilter, is_secret_name, mask_secrets, mask_text
from probes.studies import RunContext

ROOT = Path(__file__).parents[2]
SECRET = "Zq7-not-for-anyone"


def holders(folder: Path, needle: str) -> list[str]:
    """The files below a folder that contain a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path.relative_to(folder)) for path in files if needle.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "name",
    [
        "token", "HF_TOKEN", "hf_token", "hub.token", "access-token", "authToken", "password", "passwd",
        "db_pwd", "secret", "client_secret", "api_key", "API_KEY", "apiKey", "apikey", "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY", "private_key", "credentials", "Authorization", "passphrase", "AUTH", "cookie",
    ],
)  # fmt: skip
def test_a_name_of_a_secret_is_recognised(name):
    assert is_secret_name(name)
    assert mask_secrets({name: SECRET, "x": {"y": [{name: 123456}]}}) == {name: MASK, "x": {"y": [{name: MASK}]}}


@pytest.mark.parametrize(
    "name",
    [
        "tokens_per_batch", "max_tokens", "max_new_tokens", "tokenizer", "num_tokens", "pad_token", "eos_token_id",
        "token_ids", "token_type", "token_classification", "key", "keys", "author", "secretary", "passes", "monkey",
    ],
)  # fmt: skip
def test_a_name_of_something_else_is_left_alone(name):
    assert mask_secrets({name: "value", "list": [{name: 3}]}) == {name: "value", "list": [{name: 3}]}


@pytest.mark.parametrize(
    "text",
    [
        f"hydra.job.env_set.HF_TOKEN={SECRET}",
        f"+hydra.job.env_set={{HF_TOKEN: {SECRET}, OTHER: x}}",
        f"+hydra.job.env_set={{OTHER: x, 'HF_TOKEN': '{SECRET}'}}",
        f"seed=1,x.password={SECRET}",
        f"https://me:{SECRET}@host.org/path",
        f"https://host.org/?api_key={SECRET}&n=1",
        f"Authorization: Bearer {SECRET}",
        "hf_abcdefghijklmnopqrstuv",
        f"export WANDB_API_KEY='{SECRET}'",
    ],
)
def test_a_secret_within_a_text_is_masked(text):
    masked = mask_text(text)
    assert MASK in masked
    assert SECRET not in masked
    assert "abcdefghijkl" not in masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HF_TOKEN}", None, True, "", "???",
    ],
)  # fmt: skip
def test_a_reference_to_a_secret_is_none(value):
    assert mask_secrets({"token": value}) == {"token": value}
    assert mask_secrets({"token": "${oc.env:HF_TOKEN,abcdef}"}) == {"token": MASK}


def test_a_secret_is_masked_wherever_it_recurs():
    config = {
        "hub": {"credentials": {"user": "someone"}},
        "notes": ["by someone", "seed=1"],
        "template": "Password: {text}",
    }
    masked = mask_secrets(config)
    assert masked == {
        "hub": {"credentials": {"user": MASK}},
        "notes": [f"by {MASK}", "seed=1"],
        "template": "Password: {text}",
    }
    assert config["notes"] == ["by someone", "seed=1"]


_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20)


@given(st.recursive(_VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner)))
def test_masking_keeps_the_form_of_any_config_and_hides_what_is_added_under_a_secret_key(config):
    masked = mask_secrets({"config": config, "deep": [{"api_key": SECRET}], "again": f"<{SECRET}>"})
    assert set(masked) == {"config", "deep", "again"}
    assert SECRET not in json.dumps(masked)
    assert mask_secrets(masked) == masked


def test_a_secret_of_the_environment_is_masked_without_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    assert mask_secrets({"notes": f"of {SECRET}"}) == {"notes": f"of {MASK}"}
    monkeypatch.setenv("MY_TOKEN", "disabled")
    assert mask_secrets({"mode": "disabled"}) == {"mode": "disabled"}


def test_logs_are_masked_with_their_tracebacks():
    stream = io.StringIO()
    logger, handler = logging.getLogger("a test of masking"), logging.StreamHandler(stream)
    handler.addFilter(SecretFilter([SECRET]))
    logger.addHandler(handler)
    try:
        raise ValueError(f"no access with {SECRET}")
    except ValueError:
        logger.exception("%s and %s", f"token={SECRET}", "more")
    logger.removeHandler(handler)
    assert SECRET not in stream.getvalue()
    assert f"token={MASK} and more" in stream.getvalue()
    assert f"no access with {MASK}" in stream.getvalue()


def test_the_tracker_is_given_a_masked_config_and_no_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", f"x.y={SECRET}"])
    with WandbRunLogger(mode="offline").run({"hub": {"token": SECRET}, "seed": 1}, tmp_path):
        pass
    (folder,) = offline_run_dirs(tmp_path)
    config = read_offline_run(folder)["config"]
    assert {key: config[key] for key in ("hub", "seed")} == {"hub": {"token": MASK}, "seed": 1}
    assert holders(tmp_path, SECRET) == []


def test_every_logger_is_given_a_masked_config(tmp_path):
    given = {}

    class Logger(FilesOnly):
        def run(self, config, output_dir):
            given.update(config)
            return super().run(config, output_dir)

    config = {"hub": {"token": SECRET}, "seed": 1}
    context = RunContext.of(logger=Logger(), seed=0, cache_dir=tmp_path, output_dir=tmp_path, config=config)
    with context.logged():
        assert given == {"hub": {"token": MASK}, "seed": 1}


def test_the_config_that_a_run_keeps_is_masked(tmp_path):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=quick", "suite=local", f"suite.path='nowhere?token={SECRET}'"])
    OmegaConf.update(cfg, "paths.hub_token", SECRET, force_add=True)
    OmegaConf.update(cfg, "paths.output_dir", str(tmp_path), force_add=True)
    with pytest.raises(InstantiationException, match="nowhere"):
        run(cfg)
    assert OmegaConf.load(tmp_path / "config.yaml").paths.hub_token == MASK
    assert holders(tmp_path, SECRET) == []


def marked_suite(folder: Path) -> Path:
    """Two tasks in every text, answer and extra field of which the word `Wombat` stands; a leak and a duplicate too."""
    for task in ("one", "two"):
        (folder / task).mkdir(parents=True)
        for split, rows in (("train", 60), ("validation", 30), ("test", 30)):
            lines = [
                {
                    "inputs": f"Wombat {task} {split} {i}",
                    "targets": ("Wombat yes", "Wombat no")[i % 2],
                    "extra": "Wombat",
                }
                for i in range(rows)
            ]
            lines += [lines[0], {"inputs": f"Wombat {task} everywhere", "targets": "Wombat no", "extra": "Wombat"}]
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The folder of a sweep of one real job with secrets in many places, tracked by an offline W&B run."""
    folder = tmp_path_factory.mktemp("sweep")
    marked_suite(folder / "suite")
    overrides = [
        "-m", "experiment=quick", "logger=wandb", "suite=local", "suite.path=suite", "suite.tasks=null",
        f"+hydra.job.env_set.MY_API_KEY={SECRET}", "hydra.sweep.dir=out", f"logger.notes='https://me:{SECRET}@host.org'",
        f"logger.group='of {SECRET}'", "probe.permutations=20", "probe.bootstrap_samples=20",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=folder,
        env=os.environ | {"PROBES_CACHE_DIR": str(folder / "cache"), "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_no_file_of_a_real_run_holds_a_secret_of_its_command_line(sweep):
    out = sweep / "out"
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    written = {"0/config.yaml", "0/provenance.json", "0/probes.log", "multirun.yaml"}
    written |= {f"0/.hydra/{name}.yaml" for name in ("config", "hydra", "overrides")}
    assert written <= names
    assert holders(out, SECRET) == []
    assert f"MY_API_KEY: '{MASK}'" in (out / "0/.hydra/hydra.yaml").read_text()
    assert f"MY_API_KEY={MASK}" in (out / "multirun.yaml").read_text()
    assert any(f"MY_API_KEY={MASK}" in word for word in json.loads((out / "0/provenance.json").read_text())["command"])


def test_no_text_or_answer_of_a_suite_goes_to_the_tracker(sweep):
    (run,) = offline_run_dirs(sweep / "out")
    logged = read_offline_run(run)
    assert logged["tables"]
    assert logged["summary"]
    assert holders(run.parent, "Wombat") == []
    assert holders(sweep / "suite", "Wombat")


def test_command_line_and_place_of_the_program_do_not_go_to_the_tracker(sweep):
    (log,) = (sweep / "out").rglob("run-*.wandb")
    for needle in ("hydra.sweep.dir", "train.py", str(ROOT), sys.executable):
        assert needle.encode() not in log.read_bytes()


def test_the_working_folder_is_no_password(monkeypatch):
    monkeypatch.setenv("PWD", "/home/somebody/project")
    monkeypatch.setenv("OLDPWD", "/home/somebody/elsewhere")
    monkeypatch.setenv("DB_PWD", "correct-horse-battery")
    paths = {"a": "/home/somebody/project/out", "b": "/home/somebody/elsewhere", "c": "correct-horse-battery"}
    assert mask_secrets(paths) == paths | {"c": MASK}
