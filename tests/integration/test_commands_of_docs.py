"""Every command of the pages is run, in their order: on a tiny backbone, with few rows, tasks, steps and draws.

Commands of the README are run in `test_readme.py`, those of the page on plug-ins where the example is installed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from integration.test_docs import PAGES, ROOT, commands_of

from probes.cli import _COMMANDS, CONFIG_DIR
from probes.run import run
from probes.runs.run_folder import _WRITTEN, read_state

pytestmark = pytest.mark.slow

RECIPES = commands_of(ROOT / "docs" / "recipes.md")
OTHERS = [command for page in PAGES if page.name not in {"recipes.md", "plugins.md"} for command in commands_of(page)]
COMMANDS = list(dict.fromkeys([*RECIPES, *OTHERS]))
NOT_HERE = {"wandb-report": "asks a server", "suite=hub_words": "asks the Hub"}
OWN_CODE = {
    "my_probes.py": """
from torch import nn

class Bottleneck(nn.Sequential):
    def __init__(self, in_features, num_classes, width=2):
        super().__init__(nn.Linear(in_features, width), nn.Linear(width, num_classes))
""",
    "my_measures.py": """
from dataclasses import dataclass
from probes.values import Estimates

@dataclass(frozen=True)
class Mine:
    quantity: str = "mine"
    unit: str = "activation"
    needs: str = "rows"

    def __call__(self, rows):
        return Estimates(rows.values.double().norm(dim=2).mean(1).numpy(), rows.values.shape[1])
""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder to work in, with the files that the recipes speak of."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, code in OWN_CODE.items():
        (folder / name).write_text(code)
    texts = [(f"It is {i}, and {word}.", stars, i % 12) for i in range(60) for stars, word in ((1, "bad"), (5, "good"))]
    lines = ["body,stars,author", *(f'"{text}",{stars},{author}' for text, stars, author in texts)]
    (folder / "reviews.csv").write_text("\n".join(lines))
    words = folder / "WORDS"
    words.mkdir()
    for split in ("train", "validation", "test"):
        for task, asked in (("color", "it is"), ("paint", "painted in")):
            (folder / "DIR" / task).mkdir(parents=True, exist_ok=True)
            rows = [
                f'{{"inputs": "{split} {i}: {asked} {c}", "targets": "{c}"}}'
                for i in range(20)
                for c in ("red", "blue")
            ]
            (folder / "DIR" / task / f"{split}.jsonl").write_text("\n".join(rows))
        tagged = [f"{split}{i}\tO\nmet\tO\nAnna\tB-person\n" for i in range(20)]
        (words / f"{split}.tsv").write_text("\n".join(tagged))
    return folder


_SMALL = {
    "trees": {
        "backbone.layers": "all",
        "study.probes.ranks": "[4]",
        "study.probes.max_epochs": "1",
        "study.probes.permutations": "10",
    },
    "readers": {"study.attentive.attention.max_epochs": "1", "study.attentive.multi_max.max_epochs": "1"},
    "attention": {"probe.max_epochs": "1"},
    "full_battery": {"suite.tasks": "[topic]"},
    "syntax": {"suite.tasks": "[upos]"},
    "patch": {
        "study.patching.pairs": "[facts]",
        "study.patching.count": "8",
        "study.paths.receivers": "[final,head.2.1]",
    },
    "heads": {"study.heads.pairs": "[facts]", "study.heads.steps": "2", "study.heads.random_sets": "2"},
    "erase": {"study.erasure.random_subspaces": "1", "study.erasure.collateral_rows": "4"},
    "decodable_or_used": {"suite.tasks": "[sentiment]"},
}
"""What a study, experiment or probe is given beside, so that it takes seconds."""


def in_small(command: str) -> list[str]:
    """The overrides of a command, of a sweep those of its first job, with a tiny backbone and few rows and steps."""
    words = [word for word in shlex.split(command) if "=" in word]
    swept = " -m " in f"{command} "
    found: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key.startswith(("backbone", "hydra", "reference_backbone.")) and key != "hydra.run.dir":
            continue
        first = value.partition("],[")[0] + "]" if "],[" in value else value.partition(",")[0]
        found[key] = first if swept and not value.startswith("{") else value
    if "experiment" in found and "paper" in found["experiment"]:
        found["experiment"] = "layer_by_layer_mini"  # the paper's own names a backbone of the Hub
    found |= {"backbone": "tiny", "++suite.max_rows": "40", "trainer": "cpu", "probe.permutations": "20"}
    if found.get("suite") in {"glue", "trec"}:
        del found["suite"]
    if found.get("suite") == "local":
        found |= {"suite.tasks": "[color,paint]"}
        found.pop("suite.align", None)
    if not {"suite", "suite.path"} & set(found) and "experiment" not in found:
        found |= {"suite.tasks": "[tense,topic]"}
    if found.get("reference_backbone") in {"minilm", "local", "smollm2"}:
        found |= {"reference_backbone": "tiny", "reference_backbone.seed": "1"}
    if found.get("experiment", "").startswith(("layer_by_layer", "tuned_blocks")):
        found |= {
            "tuning.max_steps": "1",
            "tuning.layers_to_transform": "null",
            "tuning.generate_rows": "0",
            "study.maps.layers": "0",
        }
        found |= {"study.with_probes": "false", "study.mixture.replicate_tasks": "0", "study.similarity": "{}"}
        found |= {"study.patching.rows": "4"}
        if found.get("study.patch_models") == "true":
            found |= {"suite.tasks": "[sentiment,word_content]", "study.mixture.unseen": "[]"}
        if "study.only_models" in found or "suite.path" in found:  # the tasks of the paper and of a FLAN folder
            found |= {"suite": "local", "suite.path": "DIR", "suite.tasks": "[color,paint]"}
            found |= {"study.mixture.unseen": "[]", "study.only_models": "[color]"}
    for key, small in _SMALL.items():
        if key in f"{found.get('study', '')} {found.get('experiment', '')} {found.get('probe', '')}".split():
            found |= small
    if found.get("suite") == "next_word":
        found |= {"suite.tasks": "[pronoun]"}
    if found.get("suite") == "conllu":
        found |= {"suite": "treebank"}
        del found["suite.path"]
    if found.get("suite") == "conll":
        found |= {"suite.path": "WORDS"}
    if found.get("logger") == "wandb":
        found |= {"logger.mode": "offline"}
    found.setdefault("logger", "csv")
    found["paths.output_dir"] = found.pop("hydra.run.dir", f"outputs/{COMMANDS.index(command)}")
    return [f"{key}={value}" if value else key for key, value in found.items()]


@pytest.fixture(autouse=True)
def own_code_is_forgotten():
    """Other tests look whether modules of these names have been imported."""
    yield
    for name in OWN_CODE:
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not NOT_HERE.keys() & set(c.split())])
def test_the_command_works(command: str, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    words = shlex.split(command)
    if words[0] == "probes":
        get_object(_COMMANDS[words[1]])(words[2:])
        assert capsys.readouterr().out
        return
    overrides = [*in_small(command), f"paths.cache_dir={place}/cache"]
    if "logger=csv" in overrides:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose("train", overrides=overrides)
        run(cfg)
        folder = cfg.paths.output_dir
    else:  # trackers leave files and connections open, which later tests would be blamed for
        folder = f"outputs/{COMMANDS.index(command)}"
        words = [word for word in overrides if not word.startswith("paths.output_dir")]
        done = subprocess.run([sys.executable, ROOT / "train.py", *words, f"hydra.run.dir={folder}"], check=False)
        assert done.returncode == 0
    state = read_state(place / folder)
    assert state is not None
    assert state.state == "finished"
    own = {".run.lock", "train.log", "probes.log", "earlier"}
    left = {path.name for path in (place / folder).iterdir()} - own
    assert left <= set(_WRITTEN), "`resume=true` would leave these files among those of another run"


def test_the_pages_have_the_commands_that_are_run():
    assert len(RECIPES) >= 25
    assert len(COMMANDS) >= len(RECIPES) + 15
    assert {"compare", "report", "cache"} <= {shlex.split(command)[1] for command in RECIPES}
