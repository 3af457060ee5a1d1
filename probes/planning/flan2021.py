"""What is assumed of the tasks of FLAN 2021 where the data set is not at hand: lengths in tokens of Llama 2."""

from __future__ import annotations

LACKING = ("newsroom", "winogrande", "xsum")
"""Tasks that the public copy lacks."""

PROMPT_TOKENS = {
    "natural_language_inference": 120,
    "reading_comprehension": 350,
    "closed_book_qa": 60,
    "commonsense": 120,
    "coreference": 70,
    "reading_comprehension_with_commonsense": 300,
    "paraphrase": 100,
    "sentiment": 160,
    "struct_to_text": 90,
    "summarization": 550,
    "translation": 70,
    "miscellaneous": 200,
}
"""Cluster → mean tokens of a prompt. These are estimates from the kind of text, not counts: hours are in proportion."""

ANSWER_TOKENS = {
    "natural_language_inference": 6,
    "reading_comprehension": 8,
    "closed_book_qa": 8,
    "commonsense": 18,
    "coreference": 6,
    "reading_comprehension_with_commonsense": 14,
    "paraphrase": 5,
    "sentiment": 5,
    "struct_to_text": 35,
    "summarization": 70,
    "translation": 45,
    "miscellaneous": 14,
}
"""Cluster → mean tokens of an answer, likewise."""

WITHOUT_LABELS = (
    "reading_comprehension", "closed_book_qa", "reading_comprehension_with_commonsense", "struct_to_text",
    "summarization", "translation",
)  # fmt: skip
"""Clusters most of whose tasks are answered in free words, so that they are not probed."""
