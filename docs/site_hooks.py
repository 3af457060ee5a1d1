"""What MkDocs does beyond Markdown: generated pages, links to files outside `docs/`, formulas without JavaScript."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("probes", "probes.tasks", "probes.analysis", "probes.training", "probes.report")
_PICTURES = {f"benchmarks/{name}.png": f"figures/{name}.png" for name in ("growth", "larger_than_memory")}
"""Pictures that are kept elsewhere in the repository → their place on the site."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)\s]+)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and pictures from elsewhere."""
    files.append(File.generated(config, "configuration.md", content=_generator().page()))
    files.append(File.generated(config, "api.md", content=api_page()))
    for source, place in _PICTURES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that leave `docs/` work in a checkout; the site names the file instead."""
    return _LINK.sub(_inside_the_site, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas become MathML, which browsers draw without a script."""
    return _FORMULA.sub(lambda found: _mathml(found[3], displayed=found[2] == "["), html)


def api_page() -> str:
    """The page `api.md`: the public names of the packages that are called from Python."""
    parts = [_INTRODUCTION]
    for package in PACKAGES:
        parts.append(f"## {package}")
        parts += [f"::: {package}.{name}" for name in public_names(package)]
    return "\n\n".join(parts) + "\n"


def public_names(package: str) -> list[str]:
    """Names that a package exports: its `__all__`, else what it imports as itself; read without importing it."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return [alias.name for node in imports for alias in node.names if alias.asname == alias.name]


def _inside_the_site(found: re.Match[str]) -> str:
    picture, text, target = found.groups()
    path, _, _ = os.path.normpath(target.removeprefix("../")).partition("#")
    if picture:
        return f"![{text}]({_PICTURES[path]})"
    named = text.strip("`")
    return f"`{path}`" if named in path else f"{text} (`{path}`)"


def _mathml(formula: str, *, displayed: bool) -> str:
    tex = formula.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()
    return convert(tex, display="block" if displayed else "inline")


def _generator() -> ModuleType:
    """`gen_configuration.py`, which lies beside this file and in no package."""
    spec = importlib.util.spec_from_file_location("gen_configuration", Path(__file__).with_name("gen_configuration.py"))
    if spec is None or spec.loader is None:
        raise ImportError("docs/gen_configuration.py cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_INTRODUCTION = """# Python

Everything the command line does is a call from Python. [Recipes](recipes.md) has complete examples; these are the
public names, with shapes, units and errors. Tensors of activations are `(layers, rows, features)` throughout."""
