"""The workflow: what a dry run of the study and of the grid would do."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake")
ROOT = Path(__file__).parent.parent


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
