"""A model whose weights are set by hand, so that one head tells a later one where to look, through one direction.

Prompts are items with a marker in front of one of them, and end with a question: `i3 ! i5 i1 ?`. Head 2 of block 1
looks at the token before and, where that is the marker, writes a flag. Head 1 of block 3 looks from the question at
what is flagged and copies the item. All other heads are noise, and so are the other components of these two.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from probes.answers import LanguageModel, Questions

ITEMS, LONGEST, FEATURES, HEADS = 6, 7, 32, 4
WIDTH = FEATURES // HEADS
MARKER, QUESTION, PAD = ITEMS, ITEMS + 1, ITEMS + 2
WRITER, READER = (1, 2), (3, 1)
"""Layer, counted from 1, and head, counted from 0."""
NOISE = 0.02


@cache
def planted_model() -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=ITEMS + 4, n_embd=FEATURES, n_layer=3, n_head=HEADS, n_positions=LONGEST + 1, n_inner=8,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = GPT2LMHeadModel(config).eval()
        # Directions at right angles to each other and to (1, …, 1), so that the norms change their length alone.
        basis = torch.linalg.qr(torch.cat([torch.ones(FEATURES, 1), torch.randn(FEATURES, FEATURES - 1)], 1))[0].T[1:]
        tokens, places = basis[: ITEMS + 2], basis[ITEMS + 2 : ITEMS + 2 + LONGEST + 1]
        flag = basis[ITEMS + 3 + LONGEST]
        for name, parameter in model.named_parameters():
            parameter.data.zero_()
            if "attn" in name and name.endswith("weight"):
                parameter.data.normal_(std=NOISE)
            elif "ln_" in name and name.endswith("weight"):
                parameter.data.fill_(1.0)
        model.transformer.wte.weight.data[: ITEMS + 2] = tokens
        model.transformer.wpe.weight.data[:] = places
        first, last = model.transformer.h[0].attn, model.transformer.h[2].attn
        query, key, value = (slice(part * FEATURES + WRITER[1] * WIDTH, None) for part in range(3))
        for place in range(LONGEST):  # the place before is the key of each place
            first.c_attn.weight.data[:, query.start + place] += 6 * places[place + 1]
            first.c_attn.weight.data[:, key.start + place] += 6 * places[place]
        first.c_attn.weight.data[:, value.start] += tokens[MARKER]
        first.c_proj.weight.data[WRITER[1] * WIDTH] += 2 * flag
        query, key, value = (part * FEATURES + READER[1] * WIDTH for part in range(3))
        last.c_attn.weight.data[:, query] += 6 * tokens[QUESTION]
        last.c_attn.weight.data[:, key] += 6 * flag
        for item in range(ITEMS):
            last.c_attn.weight.data[:, value + item] += tokens[item]
            last.c_proj.weight.data[READER[1] * WIDTH + item] += 8 * tokens[item]
    return model


@cache
def planted_language_model() -> LanguageModel:
    vocabulary = {f"i{item}": item for item in range(ITEMS)} | {"!": MARKER, "?": QUESTION, "<pad>": PAD, "<unk>": 9}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    return LanguageModel(planted_model(), wrapped, name="planted")


def recall_of_the_marked(count: int, *, items: int = 3) -> tuple[Questions, torch.Tensor]:
    """Questions whose options are the items of the prompt, the marked one being right."""
    draw = random.Random(0)
    prompts, answers, labels = [], [], []
    for row in range(count):
        chosen, marked = draw.sample(range(ITEMS), items), row % items
        prompts.append([token for i, item in enumerate(chosen) for token in ([MARKER] * (i == marked) + [item])])
        prompts[-1].append(QUESTION)
        answers.append([[item] for item in chosen])
        labels.append(marked)
    return Questions.of(prompts, answers), torch.tensor(labels)
