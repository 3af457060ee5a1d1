"""How a row becomes a prompt: its instruction, its bare text with the parts the answer needs, or a template."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from probes.tasks.task import Render, Row

PROMPTS = ("instruction", "raw")
ANSWER_FIELDS = ("targets", "target", "label", "labels")
_PROMPT_FIELDS = {"inputs", "text", "task", "id", "idx"}
PART_FIELDS = (
    "context", "passage", "paragraph", "article", "document", "story", "dialogue", "premise", "sentence", "sentence1",
    "sentence2", "first", "second", "claim", "question", "question1", "question2", "hypothesis", "word", "options",
    "choices",
)  # fmt: skip
_FRAME_ROWS = 20
_FRAME_ENDS = (".", "!", "?", ":")


def renderer(task: str, rows: Sequence[Row], *, prompt: str = "instruction", template: str | None = None) -> Render:
    r"""The function row → prompt of one task.

    * `instruction`: the field `inputs`.
    * `raw`: the field `text`, less the frame every training row shares (see `shared_frame`), followed by those named
      parts (`options`, `hypothesis`, ...: `PART_FIELDS`) that it does not contain, each on lines of its own, in the
      order of the row. Rows without `text` are their named parts alone.
    * a template: a string with `{field}` placeholders; it outranks `prompt`. The answer (`targets`, `label`) is no
      field.

    Args:
        task: Its name, for messages.
        rows: All its training rows; they tell which fields there are.
        prompt: `instruction` or `raw`.
        template: Set, it is used whatever `prompt` says.

    Raises:
        ValueError: The field needed is missing, the template names a field there is not, or `raw` is undecidable.

    Example:
        >>> render = renderer("demo", [{"text": "Pick one:", "options": "(A) oak (B) elm"}], prompt="raw")
        >>> render({"text": "Pick one:", "options": "(A) oak (B) elm"})
        'Pick one:\n(A) oak (B) elm'
    """
    if template is not None:
        return template_renderer(task, template, fields_of(rows))
    if prompt not in PROMPTS:
        raise ValueError(
            f"No prompt '{prompt}'. Set `suite.prompt` to {' or '.join(PROMPTS)}, or `suite.template` to a string with "
            "{field} placeholders."
        )
    return _instruction_renderer(task, rows) if prompt == "instruction" else _raw_renderer(task, rows)


def fields_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Fields that every row has, in order, the answer left out."""
    if not rows:
        return ()
    shared = set(rows[0]).intersection(*rows)
    return tuple(name for name in rows[0] if name in shared and name not in ANSWER_FIELDS)


def template_renderer(task: str, template: str, fields: Sequence[str], key: str = "suite.template") -> Render:
    """The function that fills `{field}` placeholders from a row.

    Raises:
        ValueError: The template is malformed, has no placeholder, or names a field there is not.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(
            f"`{key}` is no template: {error} in {template!r}. Write literal braces as {{{{ }}}}."
        ) from error
    unknown = sorted({name for name in names if name not in fields})
    if unknown or not names:
        wanted = ", ".join(f"{{{name}}}" for name in unknown) or "no field at all"
        raise ValueError(
            f"`{key}` names {wanted} for task '{task}'. Its fields are {', '.join(fields) or 'none'} "
            "(the answer is no field). Use these, or leave the task out of `suite.tasks`."
        )

    def render(row: Row) -> str:
        return template.format_map({name: _words(row[name]) for name in names})

    return render


def shared_frame(texts: Sequence[str]) -> tuple[str, str]:
    r"""The opening and the ending that all texts share, when these are whole sentences, headings or lines.

    Such a frame ("Claim: ", "\nTrue or false?") says which task it is, never which label. Frames that stop in the
    middle of a sentence belong to the text, and fewer than 20 distinct texts have no frame.

    Example:
        >>> shared_frame([f"Claim: number {i} is odd.\nTrue or false?" for i in range(20)])
        ('Claim: ', '\nTrue or false?')
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < _FRAME_ROWS:
        return "", ""
    shared = _shared_opening(distinct)
    opening = shared if _closes(shared, distinct) else shared[: _last_close(shared)]
    ending = _shared_opening([text[len(opening) :][::-1] for text in distinct])[::-1]
    line = ending.find("\n")
    return opening, ending[line:] if line >= 0 else ""


def _shared_opening(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # whatever these two share, all between them share
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _closes(shared: str, texts: Sequence[str]) -> bool:
    """Whether a shared opening ends with a sentence or heading in every text."""
    return shared.endswith(_FRAME_ENDS) and all(text[len(shared) : len(shared) + 1].isspace() for text in texts)


def _last_close(shared: str) -> int:
    """Where the last whole sentence, heading or line of a shared opening ends; 0 where it has none."""
    closes = [shared.rfind(end + space) + 2 for end in _FRAME_ENDS for space in " \n" if end + space in shared]
    return max([*closes, shared.rfind("\n") + 1])


def _instruction_renderer(task: str, rows: Sequence[Row]) -> Render:
    if "inputs" not in fields_of(rows):
        raise ValueError(
            f"Task '{task}' has no field `inputs` to be its instruction. Its fields are "
            f"{', '.join(fields_of(rows)) or 'none'}. Set `suite.prompt=raw`, or `suite.template` over these fields."
        )
    return lambda row: _words(row["inputs"])


def _raw_renderer(task: str, rows: Sequence[Row]) -> Render:
    fields = fields_of(rows)
    parts = [name for name in fields if name in PART_FIELDS]
    has_text = "text" in fields
    stray = [
        name
        for name in fields
        if name not in PART_FIELDS and name not in _PROMPT_FIELDS and any(_is_unseen(row, name) for row in rows[:50])
    ]
    if stray or not (has_text or parts):
        why = f"may or may not need `{'`, `'.join(stray)}`" if stray else "has neither `text` nor named parts"
        raise ValueError(
            f"Task '{task}' has no bare text by rule: it {why}. Its fields are {', '.join(fields) or 'none'}. "
            "Set `suite.prompt=instruction`, or `suite.template` over these fields, or leave it out of `suite.tasks`."
        )
    opening, ending = shared_frame([_words(row["text"]) for row in rows]) if has_text else ("", "")

    def render(row: Row) -> str:
        whole = _words(row["text"]) if has_text else ""
        bare = whole.removeprefix(opening).removesuffix(ending).strip()
        lines = [bare, *(_words(row[name]) for name in parts if _words(row[name]) not in whole)]
        return "\n".join(line for line in lines if line)

    return render


def _is_unseen(row: Row, name: str) -> bool:
    """Whether a field holds words that the row's text does not show."""
    value = row[name]
    return isinstance(value, str | list) and _words(value) not in _words(row.get("text", ""))


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "\n".join(str(entry) for entry in value)
    return str(value)
