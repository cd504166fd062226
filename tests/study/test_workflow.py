"""The workflow: what a dry run of the study and of the grid would do, what is left to do, and what a failure says."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment, make_project

pytest.importorskip("snakemake")
ROOT = Path(__file__).parents[2]


def dry_run(*arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_study_trains_each_variant_and_realisation():
    shown = dry_run("--printshellcmds", "--forceall", "--config", "realisations=2", "variants=stc,lim_ms_all-detach")
    assert shown.count("rule train:") == 4
    assert "-p variant lim_ms_all -p detach True" in shown and "OMP_NUM_THREADS=" in shown
    assert "train_chapter" in shown and "evaluate" in shown and "map" in shown


def test_grid_is_nine_cities_with_more_variants_at_the_corners():
    shown = dry_run("--quiet", "progress", "--forceall", "grid", "--config", "grid_realisations=1")
    assert shown.count("rule grid_run:") == 9 * 2 + 4 * 2


def test_prediction_in_parts_for_several_machines():
    shown = dry_run("--quiet", "progress", "--forceall", "--config", "variants=bl", "parts=3", "--", "map")
    assert shown.count("rule predict_part:") == 3 and all(f"part-{i}-of-3.done" in shown for i in range(3))
    assert "predict_part" not in dry_run("--quiet", "progress", "--forceall", "--config", "variants=bl", "--", "map")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny project with the workflow, whose data and balancing are done."""
    folder = make_project(tmp_path_factory.mktemp("workflow") / "project")
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    (folder / "runs/tiny-table/results/notebooks").mkdir(parents=True)
    (folder / "runs/tiny-table/.data").touch()
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def test_a_finished_run_is_not_made_again(project):
    run = project / "runs/tiny-table/test_byobnet/bl_ms/seed-0"
    run.mkdir(parents=True)
    (run / "COMPLETE").touch()
    done = snakemake(project, "--dry-run", "--config", "config=tiny")
    shown = done.stdout + done.stderr
    assert done.returncode == 0 and shown.count("rule train:") == 1 and "variant=bl," in shown, shown
    assert "runs_per_gpu=1" in shown


def test_making_a_finished_run_again_keeps_it(project):
    """Whatever makes Snakemake run the job: it must not remove the marker, and the notebook only shows the run."""
    run = project / "runs/tiny-table/test_byobnet/bl/seed-0"
    run.mkdir(parents=True)
    (run / "COMPLETE").touch()
    snakemake(
        project,
        "--config",
        "config=tiny",
        "variants=bl",
        "--forcerun",
        "train",
        "--",
        f"{run.relative_to(project)}.done",
    )
    assert (run / "COMPLETE").exists()
    shutil.rmtree(run)


def test_a_failed_run_is_named_with_its_log_and_leaves_no_folder(project):
    place = "runs/tiny-table/test_byobnet/lim_xs/seed-0"
    done = snakemake(project, "--config", "config=tiny", "variants=lim_xs", "--", f"{place}.done")
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"FAILED: run lim_xs, test_byobnet, seed 0; its log: {place}.log" in shown
    assert "found 'lim_xs'; expected one of stc, bl" in shown and "'lim_xs'" in (project / f"{place}.log").read_text()
    assert not (project / place).exists()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("target", ["study", "grid"])
def test_what_make_types_is_understood(target):
    printed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in printed.replace("\\\n", " ").splitlines() if "bin/snakemake" in line)
    assert line.endswith(f" -- {target}")
    shown = dry_run(*shlex.split(line)[1:-2], "--quiet", "progress", "--", target)
    assert "train" in shown or "grid_run" in shown or "Nothing to be done" in shown
