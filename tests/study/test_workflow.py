"""The workflow: what a dry run of the study and of the grid would do, what is left to do, and what a failure says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment, make_project, study_root

pytest.importorskip("snakemake")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny project with the workflow, whose data are prepared."""
    folder = make_project(tmp_path_factory.mktemp("workflow") / "project")
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    study = study_root(folder)
    study.mkdir(parents=True)
    (study / "data.txt").write_text("table.csv\n")
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def dry_run(folder: Path, *arguments: str) -> str:
    """What a dry run shows; it changes no file of the project."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".snakemake" not in path.parts}
    done = snakemake(folder, "--dry-run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    now = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".snakemake" not in path.parts}
    assert {path: now.get(path) for path in before if path.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }
    assert now.keys() >= before.keys()
    return done.stdout + done.stderr


def test_study_trains_each_variant_and_realisation(project):
    given = ("--config", "config=tiny", "realisations=2", "variants=stc,lim_ms_all-detach")
    shown = dry_run(project, "--printshellcmds", "--forceall", *given)
    assert shown.count("rule train:") == 4
    assert "-p variant lim_ms_all-detach" in shown and "OMP_NUM_THREADS=" in shown and "MALLOC_MMAP_MAX_=0" in shown
    assert "train_chapter" in shown and "evaluate" in shown and "map" in shown


def test_braces_in_a_path_are_no_wildcards(project):
    shutil.copy(project / "table.csv", project / "photos {v2}.csv")
    shown = dry_run(project, "--printshellcmds", "--config", "config=tiny", "data=photos {v2}.csv")
    assert "papermill" in shown and "'photos {v2}.csv'" in shown


def test_controls_and_rivals_are_trained_like_variants(project):
    shown = dry_run(project, "--forceall", "--config", "config=paper", "realisations=1", "--", "study")
    trained = re.findall(r"wildcards: backbone=\S+, variant=(\S+), seed=0", shown)
    assert len(trained) == 12 + 4 + 7 and {"stc", "bl_fc", "lim_ms_all-shuffled", "chain-random"} <= set(trained)


def test_grid_is_four_cities_with_half_the_data(project):
    given = ("--printshellcmds", "--forceall", "--config", "grid_realisations=2", "--", "grid")
    shown = dry_run(project, *given)
    assert shown.count("rule grid_run:") == 4 * 3 * 2
    assert re.search(
        r"""overrides '\{"city_facades": 10000, .*"interdependency": "0.5", "ambiguity": "0.3"\}'""", shown
    )
    assert "-m mtclim grid runs/grid results" in shown


def test_prediction_in_parts_for_several_machines(project):
    given = ("--printshellcmds", "--forceall", "--config", "config=tiny", "variants=bl")
    shown = dry_run(project, *given, "parts=3", "--", "map")
    assert shown.count("rule predict_part:") == 3 and all(f"part-{i}-of-3.done" in shown for i in range(3))
    assert re.search(r'mtclim predict runs/tiny-[^/ ]+ "\$\(head -n 1 \S+/data.txt\)" \S+ --part 2/3', shown)
    assert "predict_part" not in dry_run(project, *given, "--", "map")


def test_a_finished_run_is_not_made_again_and_a_lost_one_is(project):
    """The marker in the run's folder decides."""
    run = study_root(project) / "test_byobnet/bl_ms/seed-0"
    run.mkdir(parents=True)
    (run / "COMPLETE").touch()
    shown = dry_run(project, "--config", "config=tiny")
    assert shown.count("rule train:") == 1 and "variant=bl," in shown, shown
    assert "runs_per_gpu=1" in shown
    assert (run / "COMPLETE").exists()
    shutil.rmtree(run)
    assert dry_run(project, "--config", "config=tiny").count("rule train:") == 2


def test_what_prepare_prints_names_the_table(project):
    place = study_root(project).relative_to(project) / "data.txt"
    done = snakemake(project, "--config", "config=tiny", "--forcerun", "data", "--", str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path((project / place).read_text().splitlines()[0]).samefile(project / "table.csv")


def test_a_failed_run_is_named_with_its_log_and_leaves_no_folder(project):
    place = f"{study_root(project).relative_to(project)}/test_byobnet/lim_xs/seed-0"
    done = snakemake(project, "--config", "config=tiny", "variants=lim_xs", "--", f"{place}.done")
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"FAILED: run lim_xs, test_byobnet, seed 0; its log: {place}.log" in shown
    assert "found 'lim_xs'; expected one of stc, bl" in shown and "'lim_xs'" in (project / f"{place}.log").read_text()
    assert not (project / place).exists()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("target", ["study", "grid"])
def test_what_make_types_is_understood(project, target):
    printed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in printed.replace("\\\n", " ").splitlines() if "bin/snakemake" in line)
    assert line.endswith(f" -- {target}")
    shown = dry_run(project, *shlex.split(line)[1:-2], "--quiet", "progress", "--", target)
    assert "train" in shown or "grid_run" in shown


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("cores, workers", [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_make_test_has_a_worker_a_core_and_at_most_four(cores, workers):
    command = ["make", "-n", "--no-print-directory", "test", f"CORES={cores}", "TESTS=tests/test_model.py -k gru"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith(f"pytest -n {workers} --dist loadfile tests/test_model.py -k gru")


def test_the_workflow_holds_rules_and_no_logic():
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    for word in ("python -c", "-c '", "unlink", "rmtree", "os.remove", ".touch(", "import os", "    run:"):
        assert word not in text, f"the Snakefile has {word!r}"
    assert len(text.splitlines()) <= 270
