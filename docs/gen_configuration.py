"""The page `configuration.md`: every group, option and key of `conf/`, with its default and its comment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

CONF = Path(__file__).resolve().parent.parent / "conf"


class Key(NamedTuple):
    """One line of a config: its dotted path, its default as written, and the comment behind it."""

    path: str
    default: str
    comment: str


def page() -> str:
    """The whole page, in Markdown."""
    groups = sorted(folder for folder in CONF.iterdir() if folder.is_dir())
    parts = [_INTRODUCTION, "## The choices of a run", _section(CONF / "train.yaml")]
    for group in groups:
        options = sorted(group.glob("*.yaml"))
        names = ", ".join(f"`{option.stem}`" for option in options if not option.stem.startswith("_"))
        parts.append(f"## {group.name}\n\nOptions: {names}.")
        for option in options:
            name = f"{group.name}={option.stem}" if not option.stem.startswith("_") else f"{group.name}/{option.stem}"
            parts.append(f"### {name}\n\n{_section(option)}")
    return "\n\n".join(parts) + "\n"


def keys_of(path: Path) -> list[Key]:
    """All keys of a file, in its order, parents before their children."""
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text)
    return list(_keys(node, text, "")) if isinstance(node, yaml.MappingNode) else []


def _keys(node: yaml.MappingNode, text: str, prefix: str) -> Iterator[Key]:
    lines = text.splitlines()
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.CollectionNode) and not value.flow_style:
            default, behind = _sequence(value, text), lines[key.end_mark.line][key.end_mark.column + 1 :]
        else:
            default = text[value.start_mark.index : value.end_mark.index].strip()
            behind = lines[value.end_mark.line][value.end_mark.column :] if value.end_mark.line < len(lines) else ""
        comment = behind.strip()
        yield Key(name, default, comment.lstrip("# ") if comment.startswith("#") else "")
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, text, f"{name}.")


def _sequence(value: yaml.Node, text: str) -> str:
    """The items of a list that is written one item per line; nothing for a mapping, whose keys follow."""
    if isinstance(value, yaml.MappingNode):
        return ""
    items = (text[item.start_mark.index : item.end_mark.index] for item in value.value)
    return ", ".join(item.split("#")[0].strip() for item in items)


def _section(path: Path) -> str:
    """What a file says of itself in the comments at its head, and a table of its keys."""
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    told = _plain(" ".join(line for line in head if not line.startswith("@package")))
    keys = keys_of(path)
    rows = [f"| `{key.path}` | {_cell(key.default, code=True)} | {_cell(key.comment)} |" for key in keys]
    table = ["| key | default | |", "|---|---|---|", *rows] if rows else []
    return "\n".join([told, "", *table]).strip()


def _plain(text: str) -> str:
    """Text whose underscores are no emphasis; what stands in backticks is left alone."""
    parts = text.split("`")
    return "`".join(part.replace("_", "\\_") if number % 2 == 0 else part for number, part in enumerate(parts))


def _cell(text: str, *, code: bool = False) -> str:
    """Text for a cell of a table: on one line, with `|` and HTML that are shown and not obeyed."""
    flat = " ".join(text.split())
    for character in "<|*_{[$":
        flat = flat.replace(character, f"&#{ord(character)};")
    return f"<code>{flat}</code>" if code and flat else flat


_INTRODUCTION = """# Configuration

This page is made from the files in `conf/`, one folder per group and one file per option. `group=option` on the command
line chooses a file, `group.key=value` sets a key in it, and `+group.key=value` adds an argument that the code behind
`_target_` takes. `???` is a key that you have to set; `${…}` repeats the value of another key. A file whose `defaults`
name another file starts from its keys.

A mistyped key is an error that suggests the closest match (`sead=1` → *Did you mean `seed`?*), and so is an added key
that nothing reads. `python train.py --help` lists all groups, and `python train.py --cfg job` prints the whole config
of a job without running it."""
