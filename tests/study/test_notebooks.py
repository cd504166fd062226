"""The source notebooks: thin, without outputs, one parameters cell, only known settings; true of any table and name."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny import environment, make_project, told

from mtclim import SANTIAGO
from mtclim.config import Config
from mtclim.data.table import RESERVED, TableError, read_table
from mtclim.papermill_plugin import assigned

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
OURS = [path for path in NOTEBOOKS if path.stem in ("explore", "balance", "train")]


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_thin_and_clean(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert all(len("".join(cell["source"]).splitlines()) <= 25 for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert "mtclim" in json.loads(path.read_text())["metadata"], "the papermill plug-in knows ours by this entry"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_functions_live_in_the_package(path):
    code = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]
    defined = [node for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 3 for node in defined), [node.name for node in defined]


@pytest.mark.parametrize("path", OURS[:2], ids=lambda path: path.stem)
def test_the_text_is_true_of_any_table(path):
    """What holds for Santiago's classes alone is written by code, where it applies."""
    text = "".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown")
    names = {
        *SANTIAGO,
        *(name for classes in SANTIAGO.values() for name in classes),
        "Santiago",
        "demo",
        "paper preset",
    }
    assert not [name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_parameter_is_explained(path):
    (cell,) = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    source = "".join(cell["source"])
    ast.parse(source)
    assert not any("=" in line.split("  # ")[1] for line in source.splitlines()), "papermill cannot read it"
    assert all("  # " in line and ": " in line.split("  # ")[1] for line in source.splitlines() if line.strip())


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_parameters_are_settings(path):
    (cell,) = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    own = {"config", "overrides", "per_class"}
    assert set(assigned("".join(cell["source"]))) - own <= {field.name for field in fields(Config)}


def test_train_has_what_users_were_promised():
    (cell,) = [c for c in cells(OURS[-1]) if "parameters" in c["metadata"].get("tags", [])]
    assert {"variant", "backbone", "seed", "config", "data", "out"} <= set(assigned("".join(cell["source"])))


# --- names of a user's that are ours too ---

OURS_TOO = (
    *RESERVED, "longitude", "x", "heading", "count", "mean", "run", "true", "pred", "row", "n", "cell", "area", "index",
    "name", "task", "class", "title", "part", "test", "seed", "variant", "epoch", "network", "kappa", "unseen",
    "entropy", "facades", "taxonomy", "number", "expected", "argmax", "truth", "reason", "path", "in_training",
    "synthetic", "ogc_fid", "fid", "geom",
)  # fmt: skip
"""Reserved columns of a table, some aliases, and what frames and files of ours call, or called, their own columns."""
CLASSES = ["no", "yes"]


SHORT = {"count", "Count", "COUNT", "run", "True", "building", "BEARING", "Class", "entropy", "Facades", "in_training",
         "fid", "Fid", "geom"}  # fmt: skip
"""Those that once broke something, or meet a file format's own names: they always go through the notebooks."""


def spellings(name: str) -> list[str]:
    """A name as it is, with a capital and in capitals."""
    return list(dict.fromkeys((name, name.capitalize(), name.upper())))


def labelled(tasks: list[str], images: int = 60) -> pd.DataFrame:
    """A table of the tiny project's images with these tasks."""
    codes = np.random.default_rng(1).integers(0, 2, (images, len(tasks)))
    labels = {task: np.array(CLASSES)[codes[:, n]] for n, task in enumerate(tasks)}
    place = {"lon": -70.6, "lat": -33.4, "block": [f"b{i % 12}" for i in range(images)]}
    return pd.DataFrame({"image": [f"images/{i}.png" for i in range(images)]} | place | labels)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["short", "every"])
def test_any_name_is_a_task_in_all_notebooks_or_refused_at_once(tmp_path, every, record_property):
    for package in ("papermill", "geopandas"):
        pytest.importorskip(package)
    project = make_project(tmp_path / "project", images=60, max_epochs=1)
    tasks = []
    for task in [spelt for name in OURS_TOO for spelt in spellings(name)]:
        labelled([task]).to_csv(project / "one.csv", index=False)
        try:
            read_table(project / "one.csv", {task: CLASSES})
            tasks += [task] if every or task in SHORT else []
        except TableError as error:
            assert repr(task) in str(error) and len(str(error).splitlines()) == 1
            assert task.lower() in {*RESERVED, "mean"}, f"{task} is refused, but nothing else has that name"
    assert every or set(tasks) == SHORT
    tasks.append("mat_llrs")  # has readable names, as the paper's tasks have
    readable = {"title": "structural material", "classes": {"k_no": "another one", "k_yes": "masonry"}}
    labelled(tasks).replace({"mat_llrs": {"no": "k_no", "yes": "k_yes"}}).to_csv(project / "table.csv", index=False)
    classes = dict.fromkeys(tasks, CLASSES) | {"mat_llrs": readable}
    (project / "tasks.yaml").write_text(yaml.safe_dump(classes, sort_keys=False))
    given = ["--no-progress-bar", "-p", "config", "tiny", "-p", "tasks", "tasks.yaml", "-p", "data", "table.csv"]
    for name in ("explore", "balance", "train", "evaluate", "map"):
        command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", f"{name}.ipynb", *given]
        command += ["-p", "tiles", "False"] if name == "map" else []
        said = {"capture_output": True, "text": True, "timeout": 3000 if every else 300}
        done = subprocess.run(command, cwd=project, env=environment(), **said)
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        text = told(project / f"{name}.ipynb")
        assert "structural material" in text, name
        assert not re.findall("mat_llrs|byobnet|densenet121|lim_ms_all", text), name
        assert name == "map" or "k_yes" not in text, f"{name}: only the map lists what its files hold"
    (metrics,) = project.glob("runs/*/*/*/seed-0/metrics.json")
    assert list(json.loads(metrics.read_text())["test"]) == [*tasks, "mean"]
    record_property("names", len(tasks) - 1)
