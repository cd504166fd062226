"""The benchmarks at toy size: that they run and write what they promise, not what they measure."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from tiny import ROOT, environment

from benchmarks import common, gpu, steps
from mtclim import SANTIAGO, runs
from mtclim.city.joint import joint
from mtclim.data.labels import lprus
from mtclim.variants import VARIANT_TABLE

ABSENT = ("geopandas", "pyproj", "shapely", "pyogrio", "papermill", "snakemake", "joblib", "sklearn", "seaborn")
TOY = "pretrained=false backbone=test_byobnet max_epochs=1 image_size=32 batch_size=48".split()


def test_the_command_for_a_gpu_at_toy_size(tmp_path):
    """A benchmark and two runs, in an environment that has only what such machines have."""
    absent = f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(absent)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", str(out), "10", "--facades", "700", "--size", "64"]
    command += ["--runs", "2", "--together", "2", "--benchmarks", "labels", "--set", *TOY]
    where = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    done = subprocess.run(command, env=where, capture_output=True, text=True, cwd=ROOT, check=False)
    logs = {path.name: path.read_text() for path in out.glob("*.log")}
    assert done.returncode == 0, (done.stderr, logs)
    assert {row["row"] for row in json.loads((out / "bench.json").read_text())["rows"]} == {7}
    table = pd.read_csv(out / "runs.csv")
    assert table["variant"].tolist() == ["bl"] and table["kappa"].between(-0.5, 1).all()
    assert table["epochs"].tolist() == [1] and table["at_cap"].all()
    spread = json.loads((out / "spread.json").read_text())
    assert set(spread["share of answers that differ"].values()) == {0}  # a processor repeats itself to the last bit
    assert spread["test"][0] == spread["test"][1]
    assert runs.read_settings(out / "runs/bl/seed-0")["synthetic"]


def test_runs_are_stopped_at_the_deadline(tmp_path):
    """What is not finished is stopped, and a run that fails is named, not repeated for ever."""
    began = time.monotonic()
    settings = ["--data", str(tmp_path / "none.csv"), "--set", *TOY]
    assert gpu.train(tmp_path, settings, environment(), began + 1.5, together=2) == []
    assert time.monotonic() - began < 10 and len(list(tmp_path.glob("*.log"))) == 2
    failed = gpu.train(tmp_path, ["--set", "max_epochs=0"], environment(), began + 60, together=1, most=1)
    assert failed == ["runs/bl/seed-0"] and "max_epochs" in (tmp_path / "runs-bl-seed-0.log").read_text()


def test_labels_without_the_plan_of_the_city():
    """The labelsets have the city's frequencies, neighbours share them, and the paper's number is left by LPRUS."""
    table = gpu.labels(29_567).astype(dict.fromkeys(SANTIAGO, str))
    found = table.groupby(list(SANTIAGO)).size()
    cells = joint().astype(dict.fromkeys(SANTIAGO, str)).set_index(list(SANTIAGO))["p"] * 29_567
    assert (found.reindex(cells.index, fill_value=0) - cells).abs().max() <= 1
    assert abs(lprus(table[list(SANTIAGO)]).sum() - 25_133) < 100
    same = (table["sbst"] == table["sbst"].shift()).mean()
    assert same > 0.6 and table["block"].value_counts().max() == 20


def test_a_step_of_every_network():
    """Every name of the table of variants makes a step that changes its weights; of stc each of its networks does."""
    for name in VARIANT_TABLE:
        steps.train_step(name, "test_byobnet", 32, 4)()
    lines = steps._against_bl(3, ["stc", "chain-random"], "test_byobnet", 32, 4, 3, {"stc": 1e9})
    assert [line["what"].split(", ")[1] for line in lines] == ["stc", "chain-random"] and lines[0]["met"]
    assert lines[0]["ratio"] > lines[1]["ratio"] and all(line["row"] == 3 for line in lines)


def test_rounds_are_timed_in_turn():
    said = []
    times = common.rounds({name: lambda name=name: said.append(name) for name in "ab"}, 3, warm=1)
    assert said == ["a", "b"] * 4 and len(times["a"]) == 3 and np.all(times["b"] >= 0)
