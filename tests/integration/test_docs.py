"""The documentation site builds without a warning or a network; its links, commands and keys are real."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hydra.utils import get_object

from probes.cli import _COMMANDS, check_overrides

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```bash\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NEEDS_A_PACKAGE = {"hydra/launcher=slurm": "hydra_plugins.hydra_submitit_launcher"}
"""Overrides that exist only where a package is installed, which `make setup` does not install."""
OPTIONS_OF_THE_EXAMPLE = f"hydra.searchpath=[file://{ROOT}/examples/plugin/probes_example_plugin/conf]"


def commands_of(page: Path) -> list[str]:
    """Every line of a page's shell blocks that runs this project, without comments."""
    lines = "".join(FENCE.findall(page.read_text())).replace("\\\n", " ").splitlines()
    plain = [re.split(r"\s#", line)[0].strip() for line in lines]
    return [line for line in plain if re.match(r"(\S+=\S+ )*(python train\.py|probes) ", f"{line} ")]


COMMANDS = [(page.name, command) for page in PAGES for command in commands_of(page)]
OF_TRAIN = [(page, command) for page, command in COMMANDS if "train.py" in command]
OF_PROBES = [(page, command) for page, command in COMMANDS if "train.py" not in command]


def test_the_recipes_have_commands():
    named = [command for page, command in COMMANDS if page == "recipes.md"]
    assert len(named) >= 25
    assert {command.split()[1] for _, command in OF_PROBES} >= {"compare", "report", "cache"}


@pytest.mark.parametrize(("page", "command"), OF_TRAIN)
def test_every_override_of_the_pages_exists(page: str, command: str):
    overrides = [word for word in shlex.split(command) if "=" in word]
    for override, module in NEEDS_A_PACKAGE.items():
        if override in overrides and importlib.util.find_spec(module) is None:
            overrides = [word for word in overrides if not word.startswith("hydra")]
    if "suite=sums" in overrides:
        overrides.insert(0, OPTIONS_OF_THE_EXAMPLE)
    check_overrides(overrides)


@pytest.mark.parametrize(("page", "command"), OF_PROBES)
def test_every_subcommand_of_the_pages_exists_with_its_options(page: str, command: str, capsys):
    _, name, *words = shlex.split(command)
    with pytest.raises(SystemExit):
        get_object(_COMMANDS[name])(["--help"])
    told = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in told] == []


def keys(node: object, prefix: str = "") -> list[str]:
    """Dotted paths of all keys of a config, read by another parser than the generator's."""
    if not isinstance(node, dict):
        return []
    return [path for key, value in node.items() for path in (f"{prefix}{key}", *keys(value, f"{prefix}{key}."))]


@cache
def configuration_page() -> str:
    spec = importlib.util.spec_from_file_location("gen_configuration", ROOT / "docs" / "gen_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


OPTIONS = sorted(path for path in (ROOT / "conf").glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_page_of_the_configuration_has_every_key_of_every_option(option: Path):
    name = f"{option.parent.name}{'/' if option.stem.startswith('_') else '='}{option.stem}"
    section = configuration_page().partition(f"### {name}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    assert section
    written = keys(yaml.safe_load(option.read_text()))
    assert [key for key in written if not re.search(rf"\| `{re.escape(key)}`(, |\s\|)", section)] == []


def test_the_page_of_the_configuration_tells_defaults_and_comments():
    page = configuration_page()
    assert "| `study.mixture.merge_coefficient`" not in page
    assert "| `max_epochs` | <code>100</code> | passes over the training rows at most, minibatch fits only |" in page
    assert "| `seed` | <code>0</code> | decides initialisation" in page
    assert r"probe.architecture.\_target\_=my.module.MyProbe" in page  # no emphasis
    assert "Any model on the Hub: `backbone=hub backbone.name=gpt2`." in page


class Page(HTMLParser):
    """Links, ids, and what a browser loads of its own accord."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        loads = tag != "link" or found.get("rel") in {"stylesheet", "icon", "preload"}
        if tag in {"img", "script", "link"} and loads:
            self.loaded += [found[name] for name in ("src", "href") if name in found]


def broken_links(pages: dict[Path, Page]) -> list[str]:
    """Links inside the site whose file or anchor does not exist."""
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].ids if target in pages else set()
            if not target.is_file() or (parts.fragment and target.suffix == ".html" and parts.fragment not in anchors):
                broken.append(f"{path.name}: {link}")
    return broken


@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path):
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env=os.environ | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: Page(path.read_text()) for path in site.glob("*.html") if path.name != "404.html"}
    assert {path.name for path in pages} >= {f"{page.stem}.html" for page in PAGES} | {"configuration.html", "api.html"}
    assert broken_links(pages) == []
    loaded = [place for page in pages.values() for place in page.loaded]
    assert len(loaded) > len(pages)
    assert [place for place in loaded if urlsplit(place).scheme in {"http", "https"}] == []

    methods = (site / "methods.html").read_text()
    formulas = re.findall(r"<math.*?</math>", methods, flags=re.DOTALL)
    assert len(formulas) > 100
    assert 'class="arithmatex"' not in methods  # every formula was converted
    assert [formula for formula in formulas if "\\" in formula] == []  # and every command in it was understood

    api = (site / "api.html").read_text()
    assert '<span class="gp">&gt;&gt;&gt;' in api
    assert "<blockquote>" not in api  # examples are code
    names = {"probes.extract", "probes.analysis.linear_cka", "probes.tasks.table_suite", "probes.read_run"}
    assert names <= pages[site / "api.html"].ids


def test_a_broken_link_would_be_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a> <a href="b.html#gone">x</a> <a href="c.html">x</a>')
    (tmp_path / "b.html").write_text('<h2 id="there">x</h2>')
    pages = {path.resolve(): Page(path.read_text()) for path in tmp_path.glob("*.html")}
    assert broken_links(pages) == ["a.html: b.html#gone", "a.html: c.html"]
