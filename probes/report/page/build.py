"""Writes `report.html` from a run's folder."""

from __future__ import annotations

import base64
import gzip
import json
import shlex
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from probes.files import write_text
from probes.report.attributions import coloured_texts
from probes.report.audit import audit_at_best_layers
from probes.report.page.content import missing_cells, page_content, row_table, score_table, small_tables, whole_run_rows
from probes.report.page.sentences import findings_in_words
from probes.report.page.text_pictures import text_pictures
from probes.report.saved_run import SavedRun, read_run
from probes.values import Result

REPORT = "report.html"


def write_report(run: SavedRun | Path) -> Path:
    """Write `report.html` into a run's folder: one file that needs no network, cache or model.

    Args:
        run: A run, or its folder.

    Returns:
        The file.
    """
    run = read_run(run) if isinstance(run, Path) else run
    return write_text(run.path / REPORT, page(run))


def page(run: SavedRun) -> str:
    """The page of a run as HTML; every text that comes from the run is escaped."""
    first = run.rows[0] if run.rows else Result()
    folder = files("probes.report.page")
    return (
        templates()
        .get_template("page.html.jinja")
        .render(
            title=" · ".join(
                filter(None, (first.study.replace("_", " "), first.backbone, first.reference, first.suite))
            ),
            sentences=findings_in_words(run),
            scores=score_table(run),
            audit=audit_at_best_layers(run.rows, run.best_layers),
            rows=row_table(run.provenance),
            missing=missing_cells(run),
            others=whole_run_rows(run),
            tables=small_tables(run),
            pictures=text_pictures(run.path),
            attributions={task: coloured_texts(texts) for task, texts in run.attributions.items()},
            certificate=_certificate(run.provenance),
            facts=_facts(run),
            command=command_of(run),
            config=json.dumps(run.config, indent=2, default=str),
            files=sorted(str(path.relative_to(run.path)) for path in (run.path / "figures").glob("*.png")),
            style=(folder / "page.css").read_text("utf-8"),
            script=(folder / "page.js").read_text("utf-8"),
            plotly=compressed_plotly(),
            content=_script_safe_json(page_content(run)),
        )
    )


@cache
def templates() -> Environment:
    """The templates of pages, which escape every text."""
    environment = Environment(
        loader=PackageLoader("probes.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval}
    return environment


def command_of(run: SavedRun) -> str:
    """The command line that repeats the run, quoted for a shell; empty if it is not known."""
    script, *arguments = run.provenance.get("command") or [""]
    start = ["python", script] if script.endswith(".py") else [Path(script).name]
    return shlex.join([*start, *arguments]) if script else ""


@cache
def compressed_plotly() -> str:
    """plotly.js as gzip in base64: 2 MB instead of 5, which the browser unpacks."""
    source = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, 6, mtime=0)).decode("ascii")


def _script_safe_json(content: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _certificate(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Largest relative error of each check and reading, over layers."""
    certificate = provenance.get("certificate") or {}
    table = []
    for check in ("in_a_batch", "against_hidden_states"):
        for reading, by_layer in (certificate.get(check) or {}).items():
            errors = {layer: error for layer, error in by_layer.items() if error is not None}
            if errors:
                layer = max(errors, key=lambda name: errors[name])
                table.append(
                    {
                        "check": check.replace("_", " "),
                        "reading": reading,
                        "error": errors[layer],
                        "layer": layer,
                        "tolerance": certificate["tolerance"],
                        "texts": certificate["texts"],
                    }
                )
    return table


def _facts(run: SavedRun) -> dict[str, str]:
    """Provenance in a few lines."""
    facts = run.provenance
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in facts.get("seconds", {}).items())
    lines = {
        "backbone": facts.get("backbone"),
        "fingerprint": facts.get("backbone_fingerprint"),
        "suite": facts.get("suite"),
        "texts": _texts(facts),
        "commit": facts.get("commit"),
        "versions": versions,
        "machine": facts.get("machine"),
        "seconds": seconds,
        "seed": run.config.get("seed"),
    }
    return {name: str(value) for name, value in lines.items() if value not in (None, "")}


def _texts(facts: Mapping[str, Any]) -> str:
    if "texts" not in facts:
        return ""
    return (
        f"{facts['texts']:,}, of which {facts['texts_computed']:,} were run ({facts['tokens_computed']:,} tokens, "
        f"{facts['forward_passes']:,} forward passes) and the others read from the cache"
    )


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None or value != value else format(value, form).replace("-", "\N{MINUS SIGN}")


def _interval(row: Result | None) -> str:
    if row is None:
        return ""
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"
    return (_number(row.value) + interval).replace("-", "\N{MINUS SIGN}")
