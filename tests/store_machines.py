"""Processes that stand for machines: each has a name and a local folder of its own, and all share one object store."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fault_samples import filled
from object_servers import environment

from probes.activations.remote import ClaimLog, claim_log
from probes.backbones import tiny_backbone

# A clean process that forks the machines: clients of S3 have threads, which do not survive a fork.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["probes.activations.fill", "probes.backbones.tiny"])


def machine(
    name: str,
    root: Path,
    *,
    remote: str,
    server: str,
    texts: list[str],
    barrier: Any = None,
    slow: float = 0.0,
    until_void: float = 60.0,
    hangs: bool = False,
    claims: bool = True,
) -> Any:
    """Start one; `root/report.json` will say how many texts it computed, and `root/log.txt` what it logged.

    Args:
        name: Its host name.
        root: Its local folder.
        remote: URL of the object store.
        server: Address of the server.
        texts: What it wants.
        barrier: All that share it begin together.
        slow: Seconds more for each forward pass.
        until_void: Seconds without a beat after which it takes another machine for dead.
        hangs: Whether the first pass after the first stored shard never ends; `root/hangs` is written when it begins.
        claims: Whether it claims texts, and looks at claims.
    """
    given = (name, root, remote, server, texts, barrier, slow, until_void, hangs, claims)
    process = CONTEXT.Process(target=_work, args=given)
    process.start()
    return process


def _work(name, root, remote, server, texts, barrier, slow, until_void, hangs, claims) -> None:
    root.mkdir()
    logging.basicConfig(filename=root / "log.txt", level=logging.WARNING, force=True)
    os.environ.update(environment(server))
    platform.node = lambda: name
    claim_log.SECONDS_BETWEEN_BEATS, claim_log.SECONDS_UNTIL_VOID = 0.2, until_void
    claim_log.SECONDS_BETWEEN_LOOKS = 0.2
    if not claims:
        ClaimLog.of_others = lambda self: {}
        ClaimLog.claim = lambda self, texts: True
        ClaimLog.beating = lambda self: nullcontext()

    def in_front_of_a_pass(*_) -> None:
        if hangs and list(root.rglob("[!.]*.safetensors")):
            (root / "hangs").touch()
            time.sleep(120)
        time.sleep(slow)

    backbone = tiny_backbone()
    backbone.fingerprint()
    if barrier is not None:
        barrier.wait(240)
    backbone.model.register_forward_pre_hook(in_front_of_a_pass)
    _, report = filled(backbone, root, texts, remote=remote)
    (root / "report.json").write_text(json.dumps({"texts": report.texts_computed}))


def computed(root: Path) -> int:
    """The texts that a machine computed."""
    return json.loads((root / "report.json").read_text())["texts"]
