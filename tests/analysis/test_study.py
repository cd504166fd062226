"""Studies from run folders and from their collected tables: any tasks, any number of runs, missing and failed ones."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run, write_study

from mtclim import Tasks
from mtclim.analysis import comparison, effects, evidence
from mtclim.analysis.joint import fit_joint
from mtclim.analysis.labelsets import labelsets_of
from mtclim.analysis.study import _FRAMES, calibration_gap, collect, load_study, reliability
from mtclim.metrics import codes, rescale

SMALL = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]}, {"roof": "roof shape"})
RESERVED = [
    "delta_m",
    "runs",
    "run",
    "count",
    "image",
    "class",
    "variant",
    "seed",
    "task",
    "kappa",
    "value",
    "block",
    "oa",
]


def assert_same(one, other) -> None:
    assert one.tasks == other.tasks and one.tasks.titles == other.tasks.titles
    assert (one.predicted == other.predicted).all()
    for name in _FRAMES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_dtype=False, obj=name)


@pytest.mark.parametrize(
    "tasks, seeds, options",
    [
        (SMALL, 1, {}),
        (SMALL, 3, {"missing": 0.3, "blocks": None}),
        (Tasks({f"t{i:02d}": [f"c{k}" for k in range(2 + i % 6)] for i in range(20)}), 2, {"missing": 0.05}),
        (Tasks({"only": ["a", "b"]}), 2, {}),
    ],
    ids=["2 tasks, 1 realisation", "labels missing, no blocks", "20 tasks", "1 task"],
)
def test_any_tasks_and_realisations(tmp_path, tasks, seeds, options):
    root = write_study(tmp_path / "runs", ("stc", "bl", "lim_ms_all"), seeds, tasks, n=60, **options)
    study = collect(root, tmp_path / "results")
    assert_same(study, load_study(tmp_path / "results"))
    assert study.variants == ["stc", "bl", "lim_ms_all"] and len(study.runs) == 3 * seeds and study.problems.empty
    scores = comparison.run_scores(study).set_index(["run", "task"])
    for run in study.runs["run"]:
        stored = json.loads((root / run / "metrics.json").read_text())["test"]
        for task in (*tasks, "mean"):
            assert scores.loc[(run, task), "kappa"] == pytest.approx(stored[task]["kappa"], abs=1e-12)
            assert scores.loc[(run, task), "oa"] == pytest.approx(stored[task]["oa"], abs=1e-12)
    assert effects.effects(study, draws=20)["low"].isna().all() == (seeds == 1)
    assert len(evidence.decodings(study)) == 6 and len(evidence.cost(study, "none.json")) == 3
    assert comparison.table3(study)[(":delta_m", "kappa")].notna().sum() == 2


def test_seeds_are_in_numeric_order(tmp_path):
    study = load_study(write_study(tmp_path, ("bl", "bl_ms"), 12, Tasks({"a": ["x", "y"]}), n=30))
    assert study.runs["seed"].tolist() == [*range(12), *range(12)]
    assert study.runs["stopped"].tolist() == [1, 1, 0] * 8, "every third run goes on to the last epoch"


def test_variants_are_in_the_order_of_table_2_for_every_backbone(tmp_path):
    tasks = Tasks({"a": ["x", "y"]})
    write_study(tmp_path, ("bl",), 1, tasks, n=30, backbone="a_first")
    study = load_study(write_study(tmp_path, ("clim", "bl_fc", "bl", "stc"), 1, tasks, n=30))
    order = [("a_first", "bl"), *(("densenet121", name) for name in ("stc", "bl", "clim", "bl_fc"))]
    for table in (comparison.table3(study), comparison.finished(study), evidence.cost(study, "none.json")):
        assert list(table.index) == order
    assert study.backbones == ["densenet121", "a_first"], "most runs first"
    assert list(evidence.decodings(study).index) == [(*key, way) for key in order for way in ("argmax", "joint")]


def test_no_name_of_a_task_meets_one_of_ours(tmp_path):
    tasks = Tasks({name: ["NA", "yes", "1"] for name in RESERVED})
    study = collect(write_study(tmp_path / "runs", ("stc", "bl", "lim_ms_all"), 1, tasks, n=60), tmp_path)
    assert_same(study, load_study(tmp_path))
    assert list(study.tasks) == RESERVED and set(study.counts["class"]) == {"NA", "yes", "1"}
    table = comparison.table3(study)
    assert (table[":runs", ""] == 1).all() and table["runs", "OA"].between(0, 100).all()
    assert list(comparison.run_scores(study)["task"].unique()) == [*RESERVED, "mean"]
    gains = evidence.class_gains(study)
    assert len(gains) == 2 * tasks.total and len(comparison.class_scores(study)) == 3 * tasks.total
    assert comparison.residuals(study)["value"].notna().all()


@pytest.fixture
def runs(tmp_path):
    return write_study(tmp_path / "runs", ("bl", "lim"), 2, SMALL, n=40)


def test_what_is_wrong_is_listed_and_left_out(runs):
    (runs / "densenet121/lim/seed-1/COMPLETE").unlink()
    (runs / "densenet121/lim/seed-1").rename(runs / "densenet121/lim/seed-1.partial")
    (runs / "densenet121/bl/seed-1/predictions.parquet").write_bytes(b"cut off")
    write_run(runs, SMALL, "tlim", 0, n=40, data_seed=5)  # other test images
    write_run(runs, SMALL, "tlim", 3, n=40)
    write_run(runs, SMALL, "lim_ms_all-own", 0, n=40, table="other")
    shutil.copytree(runs / "densenet121/bl/seed-0", runs / "copy/seed-0")
    study = load_study(runs)
    assert set(study.runs["run"]) == {f"densenet121/{name}" for name in ("bl/seed-0", "lim/seed-0", "tlim/seed-3")}
    said = study.problems.groupby("run")["problem"].agg(" ".join)
    assert "unreadable" in said["densenet121/bl/seed-1"] and "unfinished" in said["densenet121/lim/seed-1"]
    assert "not comparable" in said["densenet121/tlim/seed-0"] and "twice" in said["densenet121/bl/seed-0"]
    assert "missing" in said["densenet121/tlim/seed-1"] and "table" in said["densenet121/lim_ms_all-own/seed-0"]


def test_states_of_the_code_are_not_mixed(runs, tmp_path):
    write_run(runs, SMALL, "bl", 2, n=40, code="beef")
    with pytest.raises(
        ValueError, match=r"different states of the code.*beef: densenet121/bl/seed-2; c0de: .*lim/seed-1"
    ):
        load_study(runs)
    study = collect(runs, tmp_path, code="c0")
    assert len(study.runs) == 4 and set(study.runs["code"]) == {"c0de"}
    assert "made by the code beef" in study.problems.set_index("run")["problem"]["densenet121/bl/seed-2"]
    assert load_study(runs, code="beef").runs["run"].tolist() == ["densenet121/bl/seed-2"]
    with pytest.raises(ValueError, match="no run has the code digest 'f00'"):
        load_study(runs, code="f00")
    shutil.rmtree(runs / "densenet121/lim"), shutil.rmtree(runs / "densenet121/bl/seed-0")
    shutil.rmtree(runs / "densenet121/bl/seed-1")
    with pytest.raises(ValueError, match="different states of the code"):
        collect(runs, tmp_path)
    assert len(load_study(tmp_path).runs) == 4, "what was there stays"


def test_no_runs_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no complete run folder.*train one first"):
        load_study(tmp_path)


def test_collected_tables_are_appended_to(runs, tmp_path):
    results = tmp_path / "results"
    first = collect(runs, results)
    more = write_study(tmp_path / "more", ("bl", "bl_ms"), 3, SMALL, n=40)  # bl again, and new ones
    merged = collect(more, results)
    everything = tmp_path / "all"
    shutil.copytree(runs, everything)
    shutil.copytree(more, everything, dirs_exist_ok=True)
    assert len(first.runs) == 4 and len(merged.runs) == 8
    assert_same(merged, load_study(results))
    assert_same(merged, load_study(everything))
    assert not list(results.glob("tables.*")), "nothing half-written is left"


def test_a_folder_of_something_else_is_kept(runs, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "photos.csv").write_text("labels")
    with pytest.raises(ValueError, match="holds files that are no study and would be lost"):
        collect(runs, tmp_path)
    assert (tmp_path / "tables" / "photos.csv").read_text() == "labels"
    (tmp_path / "killed" / ".tables.new").mkdir(parents=True)
    (tmp_path / "killed" / ".tables.new" / "runs.parquet").write_text("half")
    whole = collect(runs, tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["tables"]
    (tmp_path / "killed" / "tables").rename(tmp_path / "killed" / ".tables.old")
    one = next(runs.rglob("COMPLETE")).parent
    assert len(collect(one, tmp_path / "killed").runs) == len(whole.runs) > 1, "a kill between two moves loses no run"


def test_tables_of_another_study_are_kept(runs, tmp_path):
    collect(runs, tmp_path / "results")
    other = write_study(tmp_path / "other", ("bl",), 1, SMALL, n=41)
    with pytest.raises(ValueError, match="another table or other test images; choose another folder"):
        collect(other, tmp_path / "results")
    assert len(load_study(tmp_path / "results").runs) == 4


def test_labels_and_labelsets_are_those_of_the_run(runs):
    study, folder = load_study(runs), runs / "densenet121/bl/seed-0"
    frame = pd.read_parquet(folder / "predictions.parquet").sort_values("image")
    for n, (task, classes) in enumerate(SMALL.items()):
        assert np.array(classes)[study.true[:, n]].tolist() == frame[f"{task}:true"].tolist()
    at = list(study.runs["run"]).index("densenet121/bl/seed-0")
    assert np.array(SMALL["roof"])[study.predicted[at, :, 1]].tolist() == frame["roof:pred"].tolist()
    stored = json.loads((folder / "metrics.json").read_text())["val"]
    assert study.runs["val_kappa"][at] == pytest.approx(np.mean([stored[t]["kappa"] for t in SMALL]))
    assert study.runs["stopped"].tolist() == [1, 1, 1, 1] and study.runs["steps_to_best"][at] == 5 * 16
    assert study.runs["epochs_to_best"][at] == 5
    counts = study.counts.query("task == 'roof'").set_index("class")["test"]
    assert counts.to_dict() == frame["roof:true"].value_counts().to_dict()


def test_images_match_by_name_and_stand_alone_without_blocks(tmp_path):
    root = write_study(tmp_path, ("bl", "lim"), 1, SMALL, n=40, blocks=None)
    before = load_study(root)
    assert (before.test["block"] == before.test["image"]).all()
    path = root / "densenet121/lim/seed-0/predictions.parquet"
    pd.read_parquet(path).iloc[::-1].to_parquet(path, index=False)
    assert_same(load_study(root), before)


def test_joint_answers_are_made_of_calibrated_probabilities(runs):
    folder, p, true = runs / "densenet121/bl/seed-0", [], []
    temperatures = json.loads((folder / "calibration.json").read_text())
    for split in ("validation", "predictions"):
        frame = pd.read_parquet(folder / f"{split}.parquet")
        own = {t: frame[[f"{t}:p:{name}" for name in names]].to_numpy(float) for t, names in SMALL.items()}
        p.append({t: rescale(own[t], temperatures[t]["temperature"]) for t in SMALL})
        true.append(np.stack([codes(frame[f"{t}:true"], names) for t, names in SMALL.items()], axis=1))
    found = fit_joint(p[0], true[0], *labelsets_of(folder, SMALL), SMALL).decode(p[1])
    gaps = [calibration_gap(reliability(found.marginals[t], true[1][:, n])) for n, t in enumerate(SMALL)]
    row = load_study(runs).decoded.query("run == 'densenet121/bl/seed-0' and decoding == 'joint'").squeeze()
    assert row["ece"] == pytest.approx(np.mean(gaps))
    assert row["exact_match"] == (found.labels == true[1]).all(axis=1).mean()
