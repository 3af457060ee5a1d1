"""The tasks of FLAN 2021 and the clusters they stand in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

CLUSTERS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "natural_language_inference": (
        "anli_r1", "anli_r2", "anli_r3", "cb", "mnli_matched", "mnli_mismatched", "qnli", "rte", "snli", "wnli",
    ),
    "reading_comprehension": ("bool_q", "drop", "multirc", "openbookqa", "squad_v1", "squad_v2"),
    "closed_book_qa": ("arc_challenge", "arc_easy", "natural_questions", "trivia_qa"),
    "commonsense": ("copa", "hellaswag", "piqa", "story_cloze"),
    "coreference": ("definite_pronoun_resolution", "winogrande", "wsc"),
    "reading_comprehension_with_commonsense": ("cosmos_qa", "record"),
    "paraphrase": ("glue_mrpc", "glue_qqp", "paws_wiki", "stsb"),
    "sentiment": ("imdb_reviews", "sentiment140", "sst2", "yelp_polarity_reviews"),
    "struct_to_text": ("common_gen", "dart", "e2e_nlg", "web_nlg_en"),
    "summarization": (
        "aeslc", "ag_news_subset", "cnn_dailymail", "gigaword", "multi_news", "newsroom", "opinion_abstracts_idebate",
        "opinion_abstracts_rotten_tomatoes", "samsum", "wiki_lingua_english_en", "xsum",
    ),
    "translation": (
        "para_crawl_enes", "wmt14_enfr", "wmt16_translate_csen", "wmt16_translate_deen", "wmt16_translate_fien",
        "wmt16_translate_roen", "wmt16_translate_ruen", "wmt16_translate_tren",
    ),
    "miscellaneous": (
        "coqa", "cola", "fix_punct", "math_dataset", "quac", "trec", "true_case", "wic", "word_segment",
    ),
})  # fmt: skip
"""Cluster → its tasks (Wei et al. 2022, arXiv:2109.01652)."""

UNSEEN = ("cola", "trec", "math_dataset")
"""Kept out of a tuning mixture by default: no other task of FLAN 2021 is of their kind, so none stands in for them."""

CLUSTER_OF: Mapping[str, str] = MappingProxyType({task: cluster for cluster, own in CLUSTERS.items() for task in own})
"""Task → its cluster, in the order of `CLUSTERS`."""


def held_out(unseen: Sequence[str]) -> set[str]:
    """The tasks that names of tasks and clusters stand for.

    Raises:
        ValueError: There is no task or cluster of a name.
    """
    names = [unseen] if isinstance(unseen, str) else unseen
    for name in names:
        if name not in CLUSTER_OF and name not in CLUSTERS:
            close = difflib.get_close_matches(name, [*CLUSTER_OF, *CLUSTERS], n=1)
            meant = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"FLAN 2021 has no task or cluster '{name}'.{meant} Set `suite.unseen` to tasks or to clusters: "
                f"{', '.join(CLUSTERS)}."
            )
    return {task for name in names for task in CLUSTERS.get(name, (name,))}
