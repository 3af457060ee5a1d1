"""A small tokenizer of each kind, trained in memory on a few words."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_TEXTS = [
    "the cat sat on the mat",
    "do n't don't naïve café déjà vu",
    "“the” … 🙂 👩‍🚀 !",
    "我喜欢猫 喜欢",
    "I do not .",
] * 5

TOKENIZERS = ("byte_bpe", "wordpiece", "unigram", "byte_fallback")


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A fresh transformers tokenizer: byte-level BPE, WordPiece, Unigram, or BPE with bytes for rare characters."""
    names = {"pad_token": "<pad>", "unk_token": "<unk>"} if kind != "byte_bpe" else {"pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained(kind)), model_max_length=1000, **names)


@cache
def _trained(kind: str) -> str:
    return {"byte_bpe": _byte_bpe, "wordpiece": _wordpiece, "unigram": _unigram, "byte_fallback": _byte_fallback}[
        kind
    ]().to_str()


def _byte_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        _TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """As Llama's: words begin with `▁`, and characters without a token are given as bytes."""
    letters = "▁abcdefghijklmnopqrstuvwxyzI.!'"
    names = ["<unk>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "th", "the", "▁the"]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
