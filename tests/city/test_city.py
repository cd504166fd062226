"""The city's writer: the same whatever the workers, resumable after a kill, refusing to mix cities, small in memory."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mtclim import SANTIAGO
from mtclim.city import draw, make_city
from mtclim.city.plan import CRS, plan
from mtclim.city.street import TASKS

SMALL = {"facades": 260, "labelled": 150, "size": 64, "progress": False}


def digest(folder):
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.jpg")))
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("city") / "one"
    make_city(folder, workers=1, **SMALL)
    return folder


def test_tables(city):
    images, truth = pd.read_parquet(city / "images.parquet"), pd.read_parquet(city / "truth.parquet")
    assert len(images) == len(truth) == 260 and images["height"].notna().sum() == 150
    assert all((city / name).exists() for name in images["image"])
    known = images["height"].notna()
    assert (images.loc[known, "sbst"].astype(str) == truth.loc[known, "sbst"].astype(str)).all()


def test_geoparquet_geopackage_and_data_dictionary(city):
    import geopandas as gpd

    dictionary = (city / "README.md").read_text(encoding="utf-8")
    described = {row.split("|")[1].strip(): row for row in dictionary.splitlines() if row.startswith("| ")}
    assert all(", ".join(names) in described[task] for task, names in SANTIAGO.items())
    written = {path.name for path in city.iterdir() if path.is_file()}
    assert written - {"README.md"} == {name for cell in described for name in cell.split(", ") if "." in name}
    for layer in ("facades", "blocks", "municipalities", "streets", "footprints", "cameras"):
        parquet = gpd.read_parquet(city / ("images.parquet" if layer == "facades" else f"{layer}.parquet"))
        package = gpd.read_file(city / "city.gpkg", layer=layer)
        assert len(parquet) == len(package) and list(parquet.columns) == list(package.columns)
        assert parquet.crs == package.crs == ("EPSG:4326" if layer in ("facades", "cameras") else CRS)
        assert parquet.geometry.geom_equals(package.geometry).all()
    facades = gpd.read_parquet(city / "images.parquet")
    missing = [column for column in facades.columns if column not in dictionary]
    assert not missing and np.allclose(facades.geometry.x, facades["lon"])
    written_down = json.loads((city / "city.json").read_text())
    assert written_down["synthetic"] is True and all(
        f"- {k}: {v}" in dictionary for k, v in written_down["parameters"].items()
    )


def test_an_image_depends_on_its_own_row_only(city):
    facades = plan(260, 150).facades
    for i in (0, 7, 199, 200, 259):
        row = facades.iloc[i]
        alone = draw(*row[list(TASKS)], (0, i), 64, 0.3, row["street_seed"])
        assert (city / f"images/000/{i:06d}.jpg").read_bytes() == alone


def test_workers_and_resuming_change_nothing(city, tmp_path):
    other = tmp_path / "two"
    make_city(other, workers=2, **SMALL)
    assert digest(other) == digest(city)
    (other / "city.json").rename(other / "city.partial.json")
    for path in sorted(other.rglob("*.jpg"))[:40]:
        path.unlink()
    make_city(other, workers=1, **SMALL)
    assert digest(other) == digest(city) and not (other / "city.partial.json").exists()


def test_several_views_and_views_of_no_facade(city, tmp_path):
    table = make_city(tmp_path / "street", **SMALL, views=2, not_facade=0.3)
    images, truth, cameras = (
        pd.read_parquet(table.with_name(f"{name}.parquet")) for name in ("images", "truth", "cameras")
    )
    once = pd.read_parquet(city / "truth.parquet")
    assert (
        len(images) == 520 and (truth["image"] == images["image"]).all() and (cameras["image"] == images["image"]).all()
    )
    pd.testing.assert_frame_equal(truth.head(260).drop(columns="kind"), once.drop(columns="kind"))
    assert (images["building"] == truth["building"]).all() and images["building"].value_counts().eq(2).all()
    other = truth["kind"] != "facade"
    assert 0.2 < other.mean() < 0.4 and truth["kind"].nunique() == 8
    assert (images.loc[truth["labelled"], "view"] == np.where(other, "other", "facade")[truth["labelled"]]).all()
    assert (
        images.loc[other, list(SANTIAGO)].isna().all(axis=None) and images.loc[~truth["labelled"], "view"].isna().all()
    )
    assert images.loc[~other & truth["labelled"], list(SANTIAGO)].notna().all(axis=None)
    for name in images["image"][:260][~other]:
        assert (table.parent / name).read_bytes() == (city / name).read_bytes(), "the first views are as ever"


def test_another_city_is_refused(city):
    with pytest.raises(ValueError, match="another city"):
        make_city(city, **{**SMALL, "labelled": 151})


def start(folder, tmp_path, facades=260, **popen):
    """A plain script without a guard makes the city, in a process of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom mtclim.city import make_city\n"
        f"print(make_city(sys.argv[1], facades={facades}, labelled=150, size=64, workers=2))\n"
    )
    return subprocess.Popen([sys.executable, script, folder], start_new_session=True, text=True, **popen)


def wait_for_pictures(process, folder, least):
    deadline = time.monotonic() + 120
    while process.poll() is None and len(list(folder.rglob("*.jpg"))) < least and time.monotonic() < deadline:
        time.sleep(0.01)


def test_killed_and_repeated_gives_the_same_city(city, tmp_path):
    folder = tmp_path / "killed"
    for least in (5, 120):
        with start(folder, tmp_path, stderr=subprocess.DEVNULL) as made:
            wait_for_pictures(made, folder, least)
            os.killpg(made.pid, signal.SIGKILL)
    assert not (folder / "city.json").exists() and not (folder / "images.parquet").exists()
    with start(folder, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as made:
        out, bar = made.communicate(timeout=120)
    assert made.returncode == 0 and out.strip() == str(folder / "images.parquet") and "260/260" in bar
    assert digest(folder) == digest(city)
    names = {path.relative_to(city) for path in city.rglob("*")}
    assert {path.relative_to(folder) for path in folder.rglob("*")} == names, "something is left of the killed ones"
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "truth.parquet"), pd.read_parquet(city / "truth.parquet"))


@pytest.mark.skipif(os.name == "nt", reason="signals of a terminal")
def test_interrupted_stops(tmp_path):
    """As Ctrl-C does in a terminal: every process of the group gets the signal, also where the tests ignore it."""
    folder = tmp_path / "stopped"
    options = {"stderr": subprocess.PIPE, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with start(folder, tmp_path, facades=5000, **options) as made:
        wait_for_pictures(made, folder, 5)
        os.killpg(made.pid, signal.SIGINT)
        _, errors = made.communicate(timeout=60)
    assert made.returncode != 0 and "KeyboardInterrupt" in errors and not (folder / "city.json").exists()


WRONG = {
    "facades": (0, 2.5), "labelled": (0, 261), "seed": (-1, 1.0), "size": (63, 301, "64"), "workers": (0, 1.5),
    "views": (0, 10), "not_facade": (-0.1, 1.1), "interdependency": (-0.1, 1.1), "ambiguity": (float("nan"), 2),
    "missing": (-1, "none"), "noise": (1.5, None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_settings_out_of_range(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is .*expected a .*number from"):
        make_city(tmp_path / "none", **{**SMALL, name: value})
    assert not (tmp_path / "none").exists()


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    with pytest.raises(ValueError, match="size is 20.*; noise is 3"):
        make_city(tmp_path / "none", **{**SMALL, "size": 20, "noise": 3})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux' /proc")
def test_memory_at_the_papers_size(tmp_path):
    """Everything but the drawing, whose workers hold a job of 200 each, in a process of its own."""
    script = """
import re, sys
from pathlib import Path
import mtclim.city as city
from mtclim.city.plan import plan
made = plan()
city._tables(Path(sys.argv[1]), made, city._views(made, 1, 0.0), made.annotations(0.1, 0.1))
status = Path("/proc/self/status").read_text()  # ru_maxrss counts the parent
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1e9 and len(pd.read_parquet(tmp_path / "images.parquet", columns=["image"])) == 204_030


def test_neighbours_look_alike():
    """A nearest neighbour among tiny thumbnails does better on a random split than on whole blocks."""
    from sklearn.neighbors import KNeighborsClassifier

    facades = plan(600, 600).facades
    labels = np.stack([facades[task].cat.codes for task in SANTIAGO], axis=1)
    streets, rng, gains = facades["street_seed"], np.random.default_rng(0), []
    pictures = [
        draw(*row, (0, i), 64, 0.1, street)
        for i, (*row, street) in enumerate(zip(*(facades[task] for task in TASKS), streets, strict=True))
    ]
    pixels = np.stack(
        [np.ravel(Image.open(io.BytesIO(data)).resize((8, 8), Image.Resampling.BOX)) for data in pictures]
    )
    for _ in range(20):
        blocks = rng.choice(facades["block"].unique(), int(0.3 * facades["block"].nunique()), replace=False)
        accuracy = []
        for test in (rng.random(600) < 0.3, facades["block"].isin(blocks).to_numpy()):
            nearest = KNeighborsClassifier(1).fit(pixels[~test].astype(float), labels[~test])
            accuracy.append((nearest.predict(pixels[test].astype(float)) == labels[test]).mean())
        gains.append(accuracy[0] - accuracy[1])
    assert np.mean(gains) > 0.01 and np.mean(gains) > 2 * np.std(gains) / len(gains) ** 0.5


def test_difficulty_of_the_demo():
    """In the reference study BL has a mean OA of 70 to 92 %, and in each task clearly more than the largest class."""
    from mtclim.analysis.comparison import run_scores
    from mtclim.analysis.study import load_study

    results = Path(os.environ.get("MTCLIM_RESULTS", Path(__file__).parents[2] / "results"))
    if not (results / "tables" / "study.json").exists():
        pytest.skip(f"no reference study in {results}")
    study = load_study(results)
    oa = run_scores(study).query("variant == 'bl'").groupby("task")["oa"].mean()
    assert 0.70 <= oa["mean"] <= 0.92 and list(study.tasks) == list(SANTIAGO)
    for task, codes in zip(SANTIAGO, study.true.T, strict=True):
        share = np.bincount(codes[codes >= 0]).max() / (codes >= 0).sum()
        assert oa[task] > share + 0.10, f"{task}: OA {oa[task]:.3f}, largest class {share:.3f}"
