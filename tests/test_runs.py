"""Run folders: what they hold, that they load as they were written, and when a run is refused."""

import contextlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from tiny import TASKS, make_project, start

import mtclim
from mtclim import load_config, runs
from mtclim.data.images import decode
from mtclim.runs import RunError
from mtclim.training import fit

FILES = {
    "config.yaml", "history.csv", "metrics.json", "predictions.parquet", "validation.parquet", "model.safetensors",
    "provenance.json", "calibration.json", "labelsets.csv", "split.parquet", "COMPLETE",
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("runs") / "project", max_epochs=2)
    frame = pd.read_csv(folder / "table.csv", dtype=str)
    frame.loc[np.random.default_rng(0).random(len(frame)) < 0.3, "tint"] = None
    frame.to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def run(project):
    with contextlib.chdir(project):
        return fit(load_config("tiny", variant="lim_ms_all"), progress=False)


def test_folder_is_where_and_what_is_promised(run, project):
    (table,) = (project / "runs").glob("tiny-table-*")
    assert run == table / "test_byobnet" / "lim_ms_all" / "seed-0"
    assert {path.name for path in run.iterdir()} == FILES
    assert [path.name for path in run.parent.iterdir() if path.suffix == ".partial"] == []
    assert all(path.stat().st_mtime_ns <= (run / "COMPLETE").stat().st_mtime_ns for path in run.iterdir())
    with safe_open(run / "model.safetensors", "np") as weights:
        assert len(weights.metadata() or {}) <= 1


def test_metrics_are_scikit_learns_of_the_predictions(run):
    found, answers = (
        json.loads((run / "metrics.json").read_text())["test"],
        pd.read_parquet(run / "predictions.parquet"),
    )
    assert set(found) == {*TASKS, "mean"} and set(found["mean"]) == {"oa", "kappa"}
    for task, names in TASKS.items():
        seen = answers[answers[f"{task}:true"].notna()]
        true, predicted = seen[f"{task}:true"], seen[f"{task}:pred"]
        assert 0 < len(seen) and (len(seen) < len(answers)) == (task == "tint"), "only annotated rows count"
        assert found[task]["oa"] == pytest.approx(accuracy_score(true, predicted))
        assert found[task]["kappa"] == pytest.approx(cohen_kappa_score(true, predicted))
        f1 = f1_score(true, predicted, labels=names, average=None, zero_division=0)
        assert found[task]["f1"] == pytest.approx(dict(zip(names, f1, strict=True)))
    assert found["mean"]["oa"] == pytest.approx(np.mean([found[task]["oa"] for task in TASKS]))


def test_predictions_are_one_row_a_test_image(run):
    answers, split = pd.read_parquet(run / "predictions.parquet"), pd.read_parquet(run / "split.parquet")
    wanted = ["image", "block"]
    for task, names in TASKS.items():
        wanted += [f"{task}:true", f"{task}:pred", *(f"{task}:p:{name}" for name in names)]
    assert list(answers.columns) == wanted
    assert sorted(answers["image"]) == sorted(split["image"][split["split"] == "test"])
    table = pd.read_csv("table.csv", dtype=str).set_index("image").loc[answers["image"]]
    for task, names in TASKS.items():
        assert answers[f"{task}:true"].fillna("").tolist() == table[task].fillna("").tolist()
        p = answers[[f"{task}:p:{name}" for name in names]].to_numpy()
        assert np.allclose(p.sum(1), 1, atol=1e-5)
        assert answers[f"{task}:pred"].tolist() == [names[k] for k in p.argmax(1)]


@pytest.mark.parametrize("variant", ["lim_ms_all", "stc"])
def test_a_loaded_model_says_what_was_written(run, variant):
    folder = run if variant == "lim_ms_all" else fit(load_config("tiny", variant="stc", max_epochs=1), progress=False)
    model, answers = mtclim.load(folder), pd.read_parquet(folder / "predictions.parquet")
    assert (
        not model.training and model.image_size == 32 and dict(model.tasks) == {k: tuple(v) for k, v in TASKS.items()}
    )
    pixels = np.stack([decode(image, model.image_size) for image in answers["image"]]) / 255
    x = (pixels - np.array(model.mean)) / np.array(model.std)
    with torch.inference_mode():
        out = model(torch.from_numpy(x).permute(0, 3, 1, 2).float())
    for task, names in TASKS.items():
        written = answers[[f"{task}:p:{name}" for name in names]].to_numpy()
        np.testing.assert_allclose(out.probabilities[task].numpy(), written, atol=2e-5)


def test_a_finished_run_is_returned_untouched(run):
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert fit(load_config("tiny", variant="lim_ms_all"), progress=False) == run
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize("setting, value", [("learning_rate", 0.01), ("batch_size", 8), ("keep", 0.9), ("seed", 5)])
def test_other_settings_are_refused_and_named(run, setting, value):
    with pytest.raises(RunError, match=rf"other settings.*{setting}: .* there, {value} now.*Give another `out`"):
        fit(load_config("tiny", variant="lim_ms_all", out=run, **{setting: value}), progress=False)
    assert {path.name for path in run.iterdir()} == FILES


def test_a_changed_table_is_refused(run):
    frame = pd.read_csv("table.csv", dtype=str)
    frame.loc[frame["shade"].eq("dark").idxmax(), "shade"] = "light"
    frame.to_csv("changed.csv", index=False)
    with pytest.raises(RunError, match="other settings.*table: '[0-9a-f]{64}' there"):
        fit(load_config("tiny", variant="lim_ms_all", data="changed.csv", out=run), progress=False)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == "table.csv"


def test_the_same_run_twice_at_once_says_so_and_stops(project):
    """A real second process: the first goes on, the second says what happens and leaves the folder alone."""
    first = start(project, "-m", "mtclim", "train", "--config", "tiny", "--out", "runs/twice", "--set",
                  "max_epochs=100000", "stop_patience=100000")  # fmt: skip
    try:
        until = time.monotonic() + 240
        while not (checkpoint := project / "runs/twice.partial/network.ckpt").exists():
            assert time.monotonic() < until and first.poll() is None, first.communicate()[0]
            time.sleep(0.1)
        with pytest.raises(RunError, match="runs/twice: another process is making this very run; wait for it"):
            fit(load_config("tiny", out="runs/twice", max_epochs=100000, stop_patience=100000), progress=False)
        assert first.poll() is None and checkpoint.exists() and not (project / "runs/twice").exists()
        with pytest.raises(RunError, match="was begun but is not finished.*Repeat its training command"):
            mtclim.load(project / "runs/twice")
    finally:
        first.kill()
        first.communicate()


def test_what_is_no_run_is_not_loaded(tmp_path):
    with pytest.raises(RunError, match="is not there; expected a folder with the marker COMPLETE"):
        mtclim.load(tmp_path / "nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files but no finished run"):
        fit(load_config("tiny", out=tmp_path / "mine"), progress=False)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_table_is_known_by_its_content_not_by_its_spelling(run, project):
    again = fit(load_config("tiny", variant="lim_ms_all", data=project / "table.csv"), progress=False)
    assert again == run
    digest = runs.read_settings(run)["table"]
    assert run in runs.find(project / "runs", digest) and not runs.find(project / "runs", "another")


def test_found_are_only_finished_runs(run, project):
    partial = project / "runs" / "begun.partial"
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "COMPLETE").touch()  # the moment before the folder is renamed
    assert run in runs.find(project / "runs") and partial not in runs.find(project / "runs")
    assert not runs.is_complete(partial)
    with pytest.raises(RunError, match="marker COMPLETE"):
        mtclim.load(partial)


def test_the_code_digest_is_of_what_decides_numbers(run, tmp_path, monkeypatch):
    made = json.loads((run / "provenance.json").read_text())
    assert made["code"] == runs.code_digest() and len(made["code"]) == 12
    package = shutil.copytree(Path(runs.__file__).parent, tmp_path / "mtclim")
    monkeypatch.setattr(runs, "__file__", str(package / "runs.py"))
    assert runs.code_digest() == made["code"], "the folder has no part in it"
    others, deciding = ("style.py", "mapping/maps.py", "data/table.py"), ("model.py", "data/labels.py", "city/joint.py")
    for name, decides in {**dict.fromkeys(others, False), **dict.fromkeys(deciding, True)}.items():
        before = runs.code_digest()
        text = (package / name).read_text()
        (package / name).write_text(
            f'{text.replace("Table 2", "the second table")}\n\n# A comment.\n"""And a text."""\n'
        )
        assert runs.code_digest() == before, f"{name}: words do not count"
        (package / name).write_text(f"{text}\nanother = 1\n")
        assert (runs.code_digest() != before) == decides, name
