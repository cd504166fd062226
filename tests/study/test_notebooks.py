"""The source notebooks: thin, without outputs, one parameters cell, only known settings."""

import ast
import json
from dataclasses import fields
from pathlib import Path

import pytest

from mtclim.config import Config
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
