"""Studies from run folders and from their collected tables: any tasks, any number of runs, missing and failed ones."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run, write_study

from mtclim import Tasks
from mtclim.analysis import comparison, evidence
from mtclim.analysis.study import _FRAMES, collect, grid_scores, load_study, ordered
from mtclim.variants import VARIANTS

SMALL = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})


def assert_same(one, other) -> None:
    assert one.tasks == other.tasks
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
    contrasts = comparison.compare(study, draws=20)
    assert contrasts["low"].isna().all() == (seeds == 1) and contrasts["boot_low"].notna().all()
    assert len(evidence.consistency(study)) == 3 * seeds + 1 and len(evidence.cost(study)) == 3
    assert comparison.table3(study)[("delta_m", "kappa")].notna().sum() == 2


def test_thirty_realisations(tmp_path):
    tasks = Tasks({"a": ["x", "y"]})
    study = load_study(write_study(tmp_path, ("bl", "bl_ms"), 30, tasks, n=30))
    row = comparison.compare(study, draws=10).query("a == 'bl_ms'").iloc[0]
    assert row["n"] == 30 and 0 <= row["p"] <= row["p_holm"] <= 1
    assert study.runs["seed"].tolist() == [*range(30), *range(30)], "in numeric order"


@pytest.fixture
def runs(tmp_path):
    return write_study(tmp_path / "runs", ("bl", "lim"), 2, SMALL, n=40)


def test_what_is_wrong_is_listed_and_left_out(runs):
    (runs / "densenet121/lim/seed-1/COMPLETE").unlink()
    (runs / "densenet121/lim/seed-1").rename(runs / "densenet121/lim/seed-1.partial")
    (runs / "densenet121/bl/seed-1/predictions.parquet").write_bytes(b"cut off")
    write_run(runs, SMALL, "tlim", 0, n=40, data_seed=5)  # other test images
    write_run(runs, SMALL, "tlim", 3, n=40)
    shutil.copytree(runs / "densenet121/bl/seed-0", runs / "copy/seed-0")
    study = load_study(runs)
    assert set(study.runs["run"]) == {f"densenet121/{name}" for name in ("bl/seed-0", "lim/seed-0", "tlim/seed-3")}
    said = study.problems.groupby("run")["problem"].agg(" ".join)
    assert "unreadable" in said["densenet121/bl/seed-1"] and "unfinished" in said["densenet121/lim/seed-1"]
    assert "not comparable" in said["densenet121/tlim/seed-0"] and "twice" in said["densenet121/bl/seed-0"]
    assert "missing" in said["densenet121/bl/seed-3"] and len(study.only("densenet121").problems) == len(study.problems)


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


def test_tables_of_another_study_are_kept(runs, tmp_path):
    collect(runs, tmp_path / "results")
    other = write_study(tmp_path / "other", ("bl",), 1, SMALL, n=41)
    with pytest.raises(ValueError, match="other tasks or test images; choose another folder"):
        collect(other, tmp_path / "results")
    assert len(load_study(tmp_path / "results").runs) == 4


def test_order_of_variants():
    mixed = ["lim_ms_all-detach", "bl_fc", *reversed(VARIANTS)]
    assert ordered(mixed) == [*VARIANTS, "lim_ms_all-detach", "bl_fc"]


def test_labels_and_labelsets_are_those_of_the_run(runs):
    study, folder = load_study(runs), runs / "densenet121/bl/seed-0"
    frame = pd.read_parquet(folder / "predictions.parquet").sort_values("image")
    for task, classes in SMALL.items():
        assert np.array(classes)[study.test[task]].tolist() == frame[f"{task}:true"].tolist()
    at = list(study.runs["run"]).index("densenet121/bl/seed-0")
    assert np.array(SMALL["roof"])[study.predicted("roof")[at]].tolist() == frame["roof:pred"].tolist()
    counts = study.counts.query("split == 'test' and task == 'roof'").set_index("class")["count"]
    assert counts.to_dict() == frame["roof:true"].value_counts().to_dict()


def test_scores_of_a_grid_are_kept_and_added_to(tmp_path):
    def write(level: float, seed: int, kappa: float):
        folder = write_run(tmp_path / f"i{level}-{kappa}", SMALL, "bl", seed, n=40)
        config = f"\ninterdependency: {level}\nambiguity: 0.3\n"
        (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + config)
        part = {"kappa": kappa}
        (folder / "metrics.json").write_text(json.dumps({"test": {"height": part, "roof": part, "mean": part}}))
        return folder.parents[2]

    stored = tmp_path / "results.csv"
    grid_scores(write(0.0, 0, 0.5), stored).to_csv(stored, index=False)
    grid_scores(write(1.0, 0, 0.6), stored).to_csv(stored, index=False)
    table = grid_scores(write(1.0, 0, 0.7), stored)  # made again
    assert table[["interdependency", "seed", "mean"]].to_numpy().tolist() == [[0.0, 0, 0.5], [1.0, 0, 0.7]]
    assert list(table.columns[:4]) == ["interdependency", "ambiguity", "variant", "seed"]
    with pytest.raises(FileNotFoundError, match="make grid"):
        grid_scores(tmp_path / "none", tmp_path / "none.csv")
