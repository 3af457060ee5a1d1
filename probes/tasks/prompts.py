"""From a row to its prompt: the instruction, the bare text with the fields the answer needs, or a template."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from probes.tasks.task import Render, Row

PROMPTS = ("instruction", "raw")
ANSWER_FIELDS = ("targets", "target", "label", "labels")
"""Fields that hold the answer and never enter a prompt."""
NAMED_FIELDS = (
    "context", "passage", "paragraph", "article", "document", "story", "dialogue", "premise", "sentence", "sentence1",
    "sentence2", "first", "second", "claim", "question", "question1", "question2", "hypothesis", "word", "options",
    "choices",
)  # fmt: skip
"""Fields that a `raw` prompt includes unless `text` already contains them."""

_IGNORED_FIELDS = {"inputs", "text", "task", "id", "idx"}
"""Fields that a `raw` prompt need not include; `text` is there already."""
_MIN_FRAME_TEXTS = 20
"""With fewer distinct texts, what they share may be chance."""
_SENTENCE_ENDS = (".", "!", "?", ":")
_ROWS_SEARCHED = 50
"""Rows in which the fields of a `raw` prompt are looked for in the text."""


def prompt_renderer(
    task: str, rows: Sequence[Row], *, prompt: str = "instruction", template: str | None = None
) -> Render:
    r"""The function that turns a row of one task into its prompt.

    * `instruction`: the field `inputs`.
    * `raw`: the field `text` without the frame that all training rows share (see `shared_frame`), followed by those
      fields among `NAMED_FIELDS` (`options`, `hypothesis`, ...) that the text does not contain, each on its own line,
      in the order of the row. Rows without `text` consist of these fields alone.
    * a template: a string with `{field}` placeholders, which takes precedence over `prompt`. The answer (`targets`,
      `label`) is not available as a field.

    Args:
        task: Name of the task, for messages.
        rows: All its training rows; they show which fields there are.
        prompt: `instruction` or `raw`.
        template: Used in place of `prompt` if given.

    Raises:
        ValueError: The field needed is missing, the template names a missing field, or it is unclear which fields a
            `raw` prompt needs.

    Example:
        >>> render = prompt_renderer("demo", [{"text": "Pick one:", "options": "(A) oak (B) elm"}], prompt="raw")
        >>> render({"text": "Pick one:", "options": "(A) oak (B) elm"})
        'Pick one:\n(A) oak (B) elm'
    """
    if template is not None:
        return template_renderer(task, template, prompt_fields(rows))
    if prompt not in PROMPTS:
        raise ValueError(
            f"No prompt '{prompt}'. Set `suite.prompt` to {' or '.join(PROMPTS)}, or `suite.template` to a string with "
            "{field} placeholders."
        )
    return _instruction_renderer(task, rows) if prompt == "instruction" else _raw_renderer(task, rows)


def template_renderer(task: str, template: str, fields: Sequence[str], key: str = "suite.template") -> Render:
    """The function that fills `{field}` placeholders from a row.

    Args:
        task: Name of the task, for messages.
        template: A string with placeholders.
        fields: Those it may name.
        key: The configuration key the template comes from, for messages.

    Raises:
        ValueError: The template is malformed, has no placeholder, or names a field that does not exist.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(
            f"`{key}` is not a template: {error} in {template!r}. Write literal braces as {{{{ }}}}."
        ) from error
    unknown = sorted({name for name in names if name not in fields})
    if unknown or not names:
        named = ", ".join(f"{{{name}}}" for name in unknown) or "no field at all"
        raise ValueError(
            f"`{key}` names {named} for task '{task}'. Its fields are {', '.join(fields) or 'none'} "
            "(the answer is not a field). Use these, or leave the task out of `suite.tasks`."
        )

    def render(row: Row) -> str:
        return template.format_map({name: _as_text(row[name]) for name in names})

    return render


def column_template(
    task: str, *, text: str, instruction: str | None, prompt: str, template: str | None
) -> tuple[str, str]:
    """The template of the prompts of a task whose rows are columns, and the configuration key it comes from.

    Args:
        task: Name of the task, for messages.
        text: The raw prompt: a column, or a template with `{column}` placeholders.
        instruction: The instruction prompt: a template, or `None` if the task has none.
        prompt: `raw` or `instruction`.
        template: Used in place of `prompt` if given.

    Raises:
        ValueError: There is no such prompt, or the task has no instruction.

    Example:
        >>> column_template("demo", text="body", instruction=None, prompt="raw", template=None)
        ('{body}', 'suite.text')
    """
    if template is not None:
        return template, "suite.template"
    if prompt not in PROMPTS:
        raise ValueError(f"No prompt '{prompt}'. Set `suite.prompt` to {' or '.join(PROMPTS)}, or `suite.template`.")
    if prompt == "raw":
        return (text if "{" in text else f"{{{text}}}"), "suite.text"
    if instruction is None:
        raise ValueError(
            f"Task '{task}' has no instruction. Set `suite.instruction` to a template with {{column}} placeholders, or "
            "`suite.prompt=raw`."
        )
    return instruction, "suite.instruction"


def prompt_fields(rows: Sequence[Row]) -> tuple[str, ...]:
    """The fields that every row has, in the order of the first row, without those that hold the answer."""
    if not rows:
        return ()
    shared = set(rows[0]).intersection(*rows)
    return tuple(name for name in rows[0] if name in shared and name not in ANSWER_FIELDS)


def shared_frame(texts: Sequence[str]) -> tuple[str, str]:
    r"""The frame of a task: the opening and the ending that all its texts share.

    Such a frame ("Claim: ", "\nTrue or false?") tells which task it is, never which label. It consists of whole
    sentences, headings or lines: a shared opening that stops in the middle of a sentence belongs to the text. Fewer
    than 20 distinct texts have no frame.

    Returns:
        The opening and the ending, each `""` if there is none.

    Example:
        >>> shared_frame([f"Claim: number {i} is odd.\nTrue or false?" for i in range(20)])
        ('Claim: ', '\nTrue or false?')
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < _MIN_FRAME_TEXTS:
        return "", ""
    shared = _common_prefix(distinct)
    opening = shared if _ends_sentences(shared, distinct) else shared[: _end_of_last_sentence(shared)]
    ending = _common_prefix([text[len(opening) :][::-1] for text in distinct])[::-1]
    first_line_break = ending.find("\n")
    return opening, ending[first_line_break:] if first_line_break >= 0 else ""


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # all texts sort between these two, so they share what these two share
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _ends_sentences(prefix: str, texts: Sequence[str]) -> bool:
    """Whether a common prefix ends with a sentence or heading in every text."""
    return prefix.endswith(_SENTENCE_ENDS) and all(text[len(prefix) : len(prefix) + 1].isspace() for text in texts)


def _end_of_last_sentence(prefix: str) -> int:
    """Where the last whole sentence, heading or line of a common prefix ends; 0 if it contains none."""
    ends = [prefix.rfind(end + space) + 2 for end in _SENTENCE_ENDS for space in " \n" if end + space in prefix]
    return max([*ends, prefix.rfind("\n") + 1])


def _instruction_renderer(task: str, rows: Sequence[Row]) -> Render:
    fields = prompt_fields(rows)
    if "inputs" not in fields:
        if any("inputs" in row for row in rows):
            return lambda row: _as_text(row["inputs"])  # names the rows that lack it
        raise ValueError(
            f"Task '{task}' has no field `inputs` to be its instruction. Its fields are {', '.join(fields) or 'none'}. "
            "Set `suite.prompt=raw`, or `suite.template` over these fields."
        )
    return lambda row: _as_text(row["inputs"])


def _raw_renderer(task: str, rows: Sequence[Row]) -> Render:
    fields = prompt_fields(rows)
    anywhere = dict.fromkeys(name for row in rows for name in row)
    named = [name for name in anywhere if name in NAMED_FIELDS]  # a row that lacks one is refused when it is rendered
    has_text = "text" in anywhere
    unclear = [
        name
        for name in fields
        if name not in NAMED_FIELDS and name not in _IGNORED_FIELDS and _adds_to_text(name, rows[:_ROWS_SEARCHED])
    ]
    if unclear or not (has_text or named):
        why = f"may or may not need `{'`, `'.join(unclear)}`" if unclear else "has neither `text` nor named fields"
        raise ValueError(
            f"Task '{task}' has no raw prompt: it {why}. Its fields are {', '.join(fields) or 'none'}. "
            "Set `suite.prompt=instruction`, or `suite.template` over these fields, or leave it out of `suite.tasks`."
        )
    texts = [row["text"] for row in rows if isinstance(row.get("text"), str)] if has_text else []
    opening, ending = shared_frame(texts)

    def render(row: Row) -> str:
        text = _as_text(row["text"]) if has_text else ""
        bare = text.removeprefix(opening).removesuffix(ending).strip()
        lines = [bare, *(value for name in named if (value := _as_text(row[name])) not in text)]
        return "\n".join(line for line in lines if line)

    return render


def _adds_to_text(name: str, rows: Sequence[Row]) -> bool:
    """Whether a field holds words, in any of the rows, that the row's `text` does not contain."""
    return any(
        isinstance(row[name], str | list) and _as_text(row[name]) not in str(row.get("text", "")) for row in rows
    )


def _as_text(value: Any) -> str:
    """A field as part of a prompt: text, a number, or a list of these.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(value, list | tuple):
        return "\n".join(map(_as_text, value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"a field of the prompt must hold text, a number or a list of these; got {value!r}.")
