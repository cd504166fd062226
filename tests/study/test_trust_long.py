"""Long runs: what leaks, leaks in hundreds of runs and hundreds of thousands of images. Short forms always run."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny import environment, make_project

from mtclim import load_config, runs
from mtclim.training import fit

SOAK = pytest.mark.soak
MEMORY = """
import sys, threading, time
from pathlib import Path
import psutil
from mtclim.mapping.predict import predict_file

me, peaks = psutil.Process(), []
def watch():
    while True:
        peaks.append((time.perf_counter(), me.memory_info().rss))
        time.sleep(0.02)
run, table, target = sys.argv[1:4]
options = {"shard_rows": 512, "progress": False, "require_position": False, "workers": 1}
predict_file(run, table, target + ".first", limit=600, **options)  # imports, thread pools
threading.Thread(target=watch, daemon=True).start()
predict_file(run, table, target, **options)
third = len(peaks) // 3
print(max(m for _, m in peaks[third : 2 * third]), max(m for _, m in peaks[2 * third :]), peaks[-1][0] - peaks[0][0])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("long") / "project", images=60, max_epochs=1, batch_size=32)


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    monkeypatch.chdir(project)


def held() -> dict[str, int]:
    """What this process holds open, and what stands in shared memory."""
    gc.collect()
    shared = [name for name in os.listdir("/dev/shm") if name.startswith(("torch_", "psm_"))]  # torch's, Python's
    return {
        "file handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "shared memory": len(shared),
        "children": len(psutil.Process().children(recursive=True)),
    }


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="file handles are counted in /proc")
@pytest.mark.parametrize("count", [4, pytest.param(300, marks=SOAK)])
def test_consecutive_runs_leak_nothing(project, count, record_property):
    variants = ("bl", "lim_ms_all")
    for warm in variants:  # the first runs open what stays open: modules, thread pools
        fit(load_config("tiny", variant=warm, out=project / "warm" / warm), progress=False)
    before, memory = held(), psutil.Process().memory_info().rss
    known = {path for path in project.rglob("*") if "runs" not in path.parts}
    for seed in range(count):
        config = load_config("tiny", variant=variants[seed % 2], seed=seed)
        assert runs.is_complete(fit(config, progress=False))
    after, grown = held(), psutil.Process().memory_info().rss - memory
    assert all(after[what] <= before[what] + 1 for what in before), (before, after)
    assert {path for path in project.rglob("*") if "runs" not in path.parts} == known, "files outside the run folders"
    assert len(runs.find("runs")) == count and not list(Path("runs").rglob("*.partial"))
    assert grown < 150 * 2**20 + count * 2**18, f"{grown / 2**20:.0f} MiB more after {count} runs"
    for what, value in {"runs": count, "file handles": f"{before['file handles']} -> {after['file handles']}",
                        "memory grown, MiB": round(grown / 2**20)}.items():  # fmt: skip
        record_property(what, value)
    shutil.rmtree("runs")


@pytest.mark.parametrize("count", [1_000, pytest.param(200_000, marks=SOAK)])
def test_memory_stays_flat_over_a_city(project, tmp_path, count, record_property):
    run = fit(load_config("tiny", out=project / "warm" / "bl", variant="bl"), progress=False)
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(100):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    for i in range(100, count):  # the same hundred pictures under many names
        os.link(folder / f"{i % 100}.png", folder / f"{i}.png")
    pd.DataFrame({"image": [f"images/{i}.png" for i in range(count)]}).to_csv(tmp_path / "city.csv", index=False)
    command = [sys.executable, "-c", MEMORY, str(run), str(tmp_path / "city.csv"), str(tmp_path / "city.parquet")]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    middle, last, seconds = map(float, done.stdout.split())
    assert pq.read_metadata(tmp_path / "city.parquet").num_rows == count
    assert last < 1.1 * middle + 20 * 2**20, (
        f"{middle / 2**20:.0f} MiB in the middle third, {last / 2**20:.0f} in the last"
    )
    for what, value in {"images": count, "MiB in the middle third": round(middle / 2**20),
                        "in the last": round(last / 2**20), "images/s": round(count / seconds)}.items():  # fmt: skip
        record_property(what, value)


@SOAK
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here: how far two identical runs on one differ is not known"
)
def test_spread_of_two_identical_runs_on_a_gpu(project, record_property):
    """On a GPU sums have no fixed order: the spread is reported, and must stay far below what a seed changes."""
    made = [fit(load_config("tiny", max_epochs=4, seed=seed, out=project / "gpu" / name), progress=False)
            for name, seed in {"one": 0, "same": 0, "other": 1}.items()]  # fmt: skip
    one, same, other = (pd.read_parquet(run / "predictions.parquet").filter(like=":p:").to_numpy() for run in made)
    record_property("mean difference of probabilities", f"{np.abs(one - same).mean():.2g}")
    record_property("of two seeds", f"{np.abs(one - other).mean():.2g}")
    assert np.abs(one - same).mean() < 0.5 * np.abs(one - other).mean()
