"""A toy language model, trained here, that reads one planted direction and ignores another one, equally decodable.

Every word's embedding holds two signs, along two directions at right angles, and noise; four words, one for each pair
of signs, share their noise. The model learns to answer yes or no by the first sign of the last word; the second sign,
and the words before it, decide nothing. Both signs of the last word can be decoded from its residual stream at every
layer.

A second model (`carried=True`) reads the same sign of the only word of a prompt of blanks, and answers at the last
blank, so that its attention heads have to carry the sign there.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from probes.answers import LanguageModel
from probes.backbones import FrozenBackbone
from probes.interventions import PromptPair
from probes.tasks import Split, Suite, Task

WORDS, FEATURES, LAYERS = 240, 32, 3
ANSWERS = ("no", "yes")
NOISE = 0.1
"""Deviation of the other part of an embedding, for each feature; the planted parts have length 1."""
NO, YES = WORDS, WORDS + 1
BLANK = WORDS + 3
"""The token of every text that is no word."""


def signs(word: int) -> tuple[int, int]:
    """Whether each of the two planted directions is positive in a word's embedding: 0 or 1 each."""
    return word % 2, word // 2 % 2


def toy_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{word}": word for word in range(WORDS)} | {
        "no": NO,
        "yes": YES,
        "<pad>": WORDS + 2,
        "<unk>": WORDS + 3,
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=64
    )


@cache
def planted_directions() -> torch.Tensor:
    """The two directions, orthonormal, shape `(2, features)`: the one that is read, and the one that is ignored."""
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(FEATURES, 2, generator=generator))[0].T


def blanks_around(word: int, place: int, length: int = 4) -> list[int]:
    """Token ids of a prompt of blanks with a word among them; the last one is a blank."""
    return [word if step == place else BLANK for step in range(length)]


def trained_model(*, carried: bool = False) -> LlamaForCausalLM:
    """Trained in seconds to a loss near 0, once in a session; its embeddings stay as they were planted.

    Args:
        carried: Whether the word stands before the last token.
    """
    return _trained_model(carried)  # the cache tells an argument that is left out from one that is given


@cache
def _trained_model(carried: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=WORDS + 4, hidden_size=FEATURES, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=WORDS + 2, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        embeddings = NOISE * torch.randn(WORDS + 4, FEATURES)
        planted = torch.tensor([[2.0 * sign - 1 for sign in signs(word)] for word in range(WORDS)])
        embeddings[:WORDS] = embeddings[: WORDS // 4].repeat_interleave(4, dim=0) + planted @ planted_directions()
        model.get_input_embeddings().weight.data = embeddings
        model.get_input_embeddings().weight.requires_grad_(False)
        for block in model.model.layers:  # small at first, so that blocks do not cover what they need not
            block.self_attn.o_proj.weight.data *= 0.1
            block.mlp.down_proj.weight.data *= 0.1
        bystander = torch.nn.Linear(FEATURES, 2)  # keeps the second sign decodable; it is no part of the model
        trained = [p for p in (*model.parameters(), *bystander.parameters()) if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.1)
        for _ in range(250):
            ids = torch.randint(WORDS, (64, 4))
            asked = ids[:, -1].tolist()
            if carried:
                places = torch.randint(3, (64,)).tolist()
                ids = torch.tensor([blanks_around(word, place) for word, place in zip(asked, places, strict=True)])
            answers = torch.tensor([YES if signs(word)[0] else NO for word in asked])
            ignored = torch.tensor([signs(word)[1] for word in asked])
            hidden = model.model(input_ids=ids).last_hidden_state[:, -1]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), answers)
            loss += 0.02 * torch.nn.functional.cross_entropy(bystander(hidden), ignored)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def toy_language_model(*, carried: bool = False) -> LanguageModel:
    return _toy_language_model(carried)


@cache
def _toy_language_model(carried: bool) -> LanguageModel:
    return LanguageModel(trained_model(carried=carried), toy_tokenizer(), name="toy")


def toy_pairs(which: int, *, carried: bool = False, every: int = 6) -> list[PromptPair]:
    """Prompts whose last (or only) words differ in one planted sign alone, with their answers by the sign that is read.

    Where the ignored sign differs, both prompts have the same answer, and the other one stands for the corrupted.
    """
    flipped, pairs = {0: 1, 1: 2}[which], []
    for word in range(0, WORDS, every):
        words = (word, word ^ flipped)
        context = f"w{(7 * word) % WORDS} w{(11 * word) % WORDS}"
        texts = [f"{context} w{own}" for own in words]
        if carried:
            ids = [blanks_around(own, word // every % 3) for own in words]
            texts = [" ".join("_" if token == BLANK else f"w{token}" for token in own) for own in ids]
        answers = [ANSWERS[signs(own)[0]] for own in words] if which == 0 else [*ANSWERS]
        pairs.append(PromptPair(*texts, *answers))
    return pairs


def toy_backbone() -> FrozenBackbone:
    """As a study loads it: its head comes from the same weights."""
    model = trained_model()
    return FrozenBackbone(model, toy_tokenizer(), name="toy", with_head=lambda: model)


def toy_task(which: int, *, train: int = 480, test: int = 240) -> Task:
    """Which sign the last of four words has: that of direction 0, which the model reads, or 1, which it ignores."""
    splits = {}
    for split, rows in {"train": train, "validation": 60, "test": test}.items():
        draw = random.Random(f"{split}")
        ids = [[draw.randrange(WORDS) for _ in range(draw.randint(2, 4))] + [row % WORDS] for row in range(rows)]
        labels = tuple(signs(row[-1])[which] for row in ids)
        prompts = tuple(" ".join(f"w{word}" for word in row) for row in ids)
        splits[split] = Split(prompts, labels, tuple(ANSWERS[label] for label in labels))
    return Task(("read", "ignored")[which], "classification", ANSWERS, splits, cluster="toy")


def toy_suite() -> Suite:
    return Suite("toys", (toy_task(0), toy_task(1)))
