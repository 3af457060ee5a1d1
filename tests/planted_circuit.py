"""A model whose circuit is known by construction: one head moves a sign, another moves it on to the answer.

Every prompt begins with a cue, whose embedding has two signs, and goes on with words that have none. All heads attend
to all tokens alike, and all weights are 0 except those of two chains:

- the first sign: `head.1.2` moves it to direction 2, `head.2.0` moves direction 2 to the answer;
- the second sign: `head.1.1` moves it to direction 3, `head.2.3` moves direction 3 to direction 5, which nothing reads.
"""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from probes.answers import LanguageModel
from probes.interventions import PromptPair

HEADS, WIDTH, FEATURES, BLOCKS = 4, 8, 32, 3
CUES = tuple(f"c{first}{second}" for first in "01" for second in "01")
NEUTRAL = ("n0", "n1", "n2")
ANSWERS = ("no", "yes")
CHAINS = {(1, 2): (0, 2), (2, 0): (2, 4), (1, 1): (1, 3), (2, 3): (3, 5)}
"""(block, head) → the direction that it reads, and the one that it writes to."""


@cache
def planted_circuit() -> LanguageModel:
    vocabulary = {word: i for i, word in enumerate((*CUES, *NEUTRAL, *ANSWERS, "<pad>"))}
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=FEATURES, intermediate_size=8, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=32, tie_word_embeddings=False,
        pad_token_id=vocabulary["<pad>"],
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        embeddings = model.get_input_embeddings().weight
        embeddings[:, 7] = 1.0  # so that no embedding has length 0
        for cue in CUES:
            embeddings[vocabulary[cue], :2] = torch.tensor([2.0 * (sign == "1") - 1 for sign in cue[1:]])
        for (block, head), (read, written) in CHAINS.items():
            attention = model.model.layers[block - 1].self_attn
            attention.v_proj.weight[head * WIDTH, read] = 1.0
            attention.o_proj.weight[written, head * WIDTH] = 3.0
        model.lm_head.weight[vocabulary["yes"], 4], model.lm_head.weight[vocabulary["no"], 4] = 1.0, -1.0
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=32)
    return LanguageModel(model.eval(), wrapped, name="planted circuit")


def circuit_pairs(flipped: int, count: int = 24) -> list[PromptPair]:
    """Prompts whose cues differ in one sign, 0 or 1; answers are by the first sign, or arbitrary where it is kept."""
    pairs = []
    for number in range(count):
        signs = [number % 2, number // 2 % 2]
        other = [sign ^ (place == flipped) for place, sign in enumerate(signs)]
        rest = " ".join(NEUTRAL[(number + step) % 3] for step in range(1 + number % 3))
        prompts = [f"c{one}{two} {rest}" for one, two in (signs, other)]
        answers = [ANSWERS[own[0]] for own in (signs, other)] if flipped == 0 else [*ANSWERS]
        pairs.append(PromptPair(*prompts, *answers))
    return pairs
