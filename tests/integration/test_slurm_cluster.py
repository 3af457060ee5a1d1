"""A sweep on a real SLURM of one node, which the test starts where Debian's `slurmctld` and `slurmd` are found."""

from __future__ import annotations

import csv
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = (
    "hydra.sweep.dir=sweep", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=3", "hydra.launcher.timeout_min=10",
)  # fmt: skip
SWEEP = (
    "-m", "experiment=quick", "suite.tasks=[topic]", "analysis=none", "logger=csv", "backbone.layers=[1],[9]",
)  # fmt: skip
SUBMIT = (
    "submit", "experiment=layer_by_layer", "backbone=tiny", "logger=csv", "suite.tasks=[sentiment]",
    "suite.max_rows=32", "study.mixture.unseen=[]", "study.mixture.replicate_tasks=0", "study.similarity_rows=30",
    "~study.similarity.pwcca", "~study.similarity.rsa", "study.maps.layers=0", "~analysis.between.between_share",
    "probe.penalties=[0.1]", "tuning.max_steps=3", "tuning.generate_rows=2", "tuning.max_new_tokens=2", "trainer=ddp",
    "trainer.accelerator=cpu", "trainer.devices=2", "hydra.launcher.tasks_per_node=2",
)  # fmt: skip


def found(name: str) -> Path | None:
    """A daemon, by its own name or by that of Debian's alternative."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    path = shutil.which(name, path=places) or shutil.which(f"{name}-wlm", path=places)
    return Path(path).resolve() if path else None


DAEMONS = {name: found(name) for name in ("slurmctld", "slurmd", "slurmstepd", "munged")}
MISSING = [name for name, path in DAEMONS.items() if path is None] + [
    name for name in ("sbatch", "srun", "sacct") if shutil.which(name) is None
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs a SLURM of one node: {', '.join(MISSING)} not found"),
    pytest.mark.skipif(find_spec("submitit") is None, reason="`hydra/launcher=submitit_slurm` needs submitit"),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[None]:
    """A SLURM of this machine alone, on loopback, whose files are under the test's folder."""
    host, user, folder = socket.gethostname().split(".")[0], getpass.getuser(), tmp_path / "slurm"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o711)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    plugins = DAEMONS["slurmctld"].parents[1] / "lib/x86_64-linux-gnu/slurm-wlm"
    (folder / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={free_port()}\nSlurmdPort={free_port()}\n"
        f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge/socket\nSlurmUser={user}\nSlurmdUser={user}\n"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\nSlurmctldPidFile={folder}/slurmctld.pid\n"
        f"SlurmdPidFile={folder}/slurmd.pid\nSlurmctldLogFile={folder}/slurmctld.log\nSlurmdLogFile={folder}/slurmd.log\n"
        f"PluginDir={plugins}\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\n"
        "MpiDefault=none\nReturnToService=2\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n"
        "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n"
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=4000 State=UNKNOWN\n"
        f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
    )
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    starts = [
        [DAEMONS["munged"], "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge/socket",
         f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge/seed", f"--log-file={folder}/munged.log"],
        [DAEMONS["slurmctld"], "-D", "-f", folder / "slurm.conf"],
        [DAEMONS["slurmd"], "-D", "-f", folder / "slurm.conf", "-N", host, "-d", DAEMONS["slurmstepd"]],
    ]  # fmt: skip
    processes = []
    try:
        for words in starts:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            processes.append(subprocess.Popen([str(word) for word in words], start_new_session=True, **quiet))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, text=True, check=False).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield
    finally:
        for process in reversed(processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def run_train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PROBES_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words, *SLURM], cwd=folder, env=environment, capture_output=True,
        text=True, check=False, timeout=600,
    )  # fmt: skip


def job_table(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "jobs.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_jobs_of_a_sweep_are_jobs_of_slurm(cluster, tmp_path):
    done = run_train(tmp_path, *SWEEP)
    assert done.returncode == 1, done.stdout + done.stderr
    good, failed = job_table(tmp_path / "sweep")
    assert (good["state"], failed["state"]) == ("finished", "failed")
    assert failed["error"].startswith("Backbone 'tiny-0' has no layer 9.")
    assert [path.name for path in (tmp_path / "sweep/.submitit").glob("*/*submission.sh")]


def test_the_ranks_of_every_job_of_a_study_are_tasks_of_slurm(cluster, tmp_path):
    done = run_train(tmp_path, *SUBMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = job_table(tmp_path / "sweep")
    assert [job["state"] for job in jobs] == ["finished"] * 6  # 2 models are tuned, 3 are read, and all compared
    records = [json.loads(path.read_text()) for path in (tmp_path / "cache/adapters").glob("*-*/tuning.json")]
    assert [record["processes"] for record in records] == [2, 2]
    logs = [path.read_text() for path in (tmp_path / "sweep/.submitit").glob("*/*_log.out")]
    assert len(logs) == 12  # of two tasks a job
    assert (tmp_path / "sweep/5/results.csv").stat().st_size > 1000
