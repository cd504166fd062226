"""The user's command, typed in a terminal: `papermill notebooks/train.ipynb -p variant lim_ms_all`, really training."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from test_plugin import COMMAND, in_terminal
from tiny import PRESET, environment, make_project, told

from mtclim import SANTIAGO, runs
from mtclim.style import BACKBONES
from mtclim.variants import VARIANT_TABLE

pytest.importorskip("papermill")
CITY = {"data": "city", "city_facades": 600, "city_labelled": 450, "city_size": 64, "ambiguity": 0.1, "max_epochs": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A fresh checkout in small: the notebooks, and as preset "demo" a tiny network on a tiny synthetic city."""
    folder = make_project(tmp_path_factory.mktemp("command") / "project")
    (folder / "configs" / "demo.yaml").write_text(yaml.safe_dump(PRESET | CITY))
    before = digests(folder / "notebooks")
    yield folder
    assert digests(folder / "notebooks") == before, "a source notebook was touched"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def papermill(project: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True} | options
    command = [COMMAND, *arguments, "--no-progress-bar"]
    return subprocess.run(command, cwd=project, env=environment(), timeout=300, text=True, **options)


def test_typed_in_a_terminal_it_makes_the_city_trains_and_writes_under_runs(project):
    inputs = set(os.listdir(project))
    status, shown = in_terminal(project, "notebooks/train.ipynb", "-p", "variant", "lim_ms_all")
    assert status == 0, shown
    assert "Output Notebook: runs/demo/test_byobnet/lim_ms_all/seed-0.ipynb" in shown
    assert set(os.listdir(project)) - inputs <= {"runs", "data", ".cache"}
    (run,) = runs.find(project / "runs")
    assert run == project / "runs/demo/test_byobnet/lim_ms_all/seed-0"
    scores = json.loads((run / "metrics.json").read_text())["test"]
    assert (
        list(scores) == [*SANTIAGO, "mean"] and yaml.safe_load((run / "config.yaml").read_text())["synthetic"] is True
    )
    (city,) = (project / "data").glob("*/city.json")
    assert len(list(city.parent.rglob("*.jpg"))) == CITY["city_facades"]
    book = nbformat.read(run.with_name("seed-0.ipynb"), as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code) and "papermill" in book.metadata
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2, "history and mistakes"
    text = told(run.with_name("seed-0.ipynb"))
    assert all(name in text for name in ("structural material", "reinforced concrete", "LIM-MS_ALL", "DenseNet121"))
    code = {*SANTIAGO, *sum(SANTIAGO.values(), ()), *VARIANT_TABLE, *BACKBONES} - {"height"}
    assert not code & set(re.findall(r"[\w,+-]+", text)), "names of the code where people read"


@pytest.mark.parametrize("stdin", ["a FIFO", "closed"])
def test_repeated_without_a_terminal_it_shows_the_finished_run(project, stdin, tmp_path):
    (run,) = runs.find(project / "runs")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    command = ("notebooks/train.ipynb", "-p", "variant", "lim_ms_all")
    if stdin == "closed":
        done = papermill(project, *command, stdin=None, preexec_fn=lambda: os.close(0))
    else:
        os.mkfifo(tmp_path / "fifo")
        with open(os.open(tmp_path / "fifo", os.O_RDWR)) as fifo:
            done = papermill(project, *command, stdin=fifo)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "the notebook went to stdout"
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert runs.find(project / "runs") == [run]


@pytest.mark.parametrize(
    "pair, parts",
    [
        (("variant", "lim"), None),
        (("variant", "lim_al"), ["'lim_al'", "lim_ms_all"]),
        (("config", "dem"), ["'dem'", "demo, paper, photos, study, tiny"]),
        (("varaint", "bl"), ["unknown parameter varaint", "config, variant, backbone, seed"]),
        (("overrides", "{max_epoch: 1}"), ["unknown setting max_epoch", "max_epochs"]),
    ],
)
def test_unknown_names_fail_at_once_with_the_valid_ones(project, pair, parts):
    if parts is None:  # the opposite: what is known is prepared
        assert papermill(project, "notebooks/train.ipynb", "-p", *pair, "--prepare-only").returncode == 0
        return
    before = sorted(map(str, project.rglob("*")))
    done = papermill(project, "notebooks/train.ipynb", "-p", *pair)
    assert done.returncode == 1 and all(part in done.stderr for part in parts), done.stderr
    assert len(done.stderr.splitlines()) == 1 and sorted(map(str, project.rglob("*"))) == before


def test_bad_input_ends_with_one_clear_message_and_leaves_no_run(project):
    frame = pd.read_csv(project / "table.csv", dtype=str)
    frame.loc[7, "image"] = frame.loc[3, "image"]
    frame.to_csv(project / "twice.csv", index=False)
    done = papermill(project, "notebooks/train.ipynb", "-p", "data", "twice.csv", "-p", "out", "runs/bad/run")
    assert done.returncode == 1
    last = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).strip().splitlines()[-1]
    assert last.startswith("TableError: ") and "row 4 (line 5): 'images/3.png', row 8 (line 9)" in last, last
    assert os.listdir(project / "runs" / "bad") == ["run.ipynb"], "only the notebook, with the message in it"
