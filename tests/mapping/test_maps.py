import socket
import sqlite3
import time
from xml.etree import ElementTree

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
import pyogrio
import pytest
from fake_city import fake_predictions
from shapely import Point, box
from sklearn.metrics import cohen_kappa_score

from mtclim import SANTIAGO, Tasks
from mtclim.mapping import exposure, maps

matplotlib.use("agg")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def municipalities():
    shapes = [box(-70.75, -33.6, -70.65, -33.4), box(-70.65, -33.6, -70.55, -33.4)]
    return gpd.GeoDataFrame({"municipality": ["west", "east"]}, geometry=shapes, crs=4326)


def test_fig13_has_a_panel_per_class_and_says_its_backdrop(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = maps.fig13(fake_predictions(300), SANTIAGO, [municipalities()])
    titles = [title for ax in figure.axes if (title := ax.get_title(loc="left") or ax.get_title())]
    assert len(titles) == SANTIAGO.total
    assert titles[0].startswith("H1\n") and "F1" in titles[0]
    words = figure.get_supxlabel()
    assert "the data's own polygons" in words and "test blocks only" in words
    assert [part.get_suptitle().split(":")[0] for part in figure.subfigs] == list(SANTIAGO)
    assert all("κ" in part.get_suptitle() for part in figure.subfigs)
    assert figure.get_figwidth() == 7.5, "inches: the page of the book is 750 px wide"


def test_scores_are_those_of_test_blocks_only():
    frame = fake_predictions(600)
    cheat = frame.copy()
    for task in SANTIAGO:  # perfect outside the test blocks
        cheat[f"{task}:pred"] = cheat[f"{task}:pred"].where(cheat["split"] == "test", cheat[f"{task}:true"])
    assert maps.test_scores(cheat, SANTIAGO) == maps.test_scores(frame, SANTIAGO)
    test = frame[frame["split"] == "test"]
    kappa = cohen_kappa_score(test["height:true"], test["height:pred"])
    assert maps.test_scores(frame, SANTIAGO)["height"]["kappa"] == pytest.approx(kappa)
    assert maps.test_scores(frame.assign(split=None), SANTIAGO) is None


def test_a_network_that_never_answers_does_not_hang(tmp_path, monkeypatch):
    contextily = pytest.importorskip("contextily")
    monkeypatch.setattr(contextily, "bounds2img", lambda *_, **__: time.sleep(30))
    start = time.perf_counter()
    assert maps.tiles((340000, 6280000, 350000, 6290000), "EPSG:32719", timeout=0.3, cache=tmp_path) is None
    assert time.perf_counter() - start < 5


def test_tiles_are_cached(tmp_path, monkeypatch):
    contextily = pytest.importorskip("contextily")
    calls = []

    def fetch(west, south, east, north, **_):
        calls.append(1)
        return np.full((8, 8, 4), 200, np.uint8), (west, east, south, north)

    monkeypatch.setattr(contextily, "bounds2img", fetch)
    first, second = (maps.tiles((340000, 6280000, 350000, 6290000), "EPSG:32719", cache=tmp_path) for _ in range(2))
    assert len(calls) == 1 and np.array_equal(first[0], second[0]) and "OpenStreetMap" in first[2]


@pytest.mark.parametrize("width, length", [(33000, 10000), (16000, 5000), (900, 200), (3.3, 1)])
def test_scale_bars_are_round(width, length):
    assert maps.scale_length(width) == length


def test_hexagons_hold_their_points():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-5000, 5000, (2, 500))
    q, r = maps.hexagons(x, y, 300.0)
    for a, b, c, d in zip(q, r, x, y, strict=True):
        assert maps._hexagon(a, b, 300.0).buffer(1e-6).contains(Point(c, d))


@pytest.mark.parametrize("by", ["hexagon", "block"])
def test_aggregates_agree_with_pandas(by):
    frame = fake_predictions(400)
    labelsets = frame.loc[:199, [f"{task}:pred" for task in SANTIAGO]].set_axis(list(SANTIAGO), axis=1)
    areas = maps.aggregate(frame, SANTIAGO, by, labelsets=labelsets.assign(**{":count": 1}))
    assert areas["façades"].sum() == 400
    assert np.allclose(areas[[f"height:share:{name}" for name in SANTIAGO["height"]]].sum(axis=1), 1)
    assert (areas["unseen"] * areas["façades"]).sum() <= 200
    if by == "block":
        counts = frame.groupby("block")["height:pred"].value_counts().unstack(fill_value=0)
        assert np.array_equal(areas.set_index("block")["height:n:H1"], counts["H1"].reindex(areas["block"]))
    assert len(maps.fig_aggregates(areas, ["façades", "height:entropy"]).axes) >= 2


def test_entropy_and_unseen():
    assert np.allclose(maps.entropy(np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])), [0, 1])
    tasks = Tasks({"a": ["x", "y"], "b": ["u", "v"]})
    labelsets = pd.DataFrame({"a": ["x", "y"], "b": ["u", None], ":count": [3, 1]})
    predictions = pd.DataFrame({"a:pred": ["x", "y"], "b:pred": ["u", "v"]})
    assert maps.unseen(predictions, tasks, labelsets).tolist() == [False, True]


def test_geopackage_opens_again_with_its_styles(tmp_path):
    frame = exposure.attributes(fake_predictions(50), SANTIAGO)
    path = maps.write_geopackage(frame, SANTIAGO, tmp_path / "city.gpkg", {"municipalities": municipalities()})
    assert {"facades", "municipalities", "layer_styles"} <= set(pyogrio.list_layers(path)[:, 0])
    read = gpd.read_file(path, layer="facades")
    assert read.crs == "EPSG:4326" and read["height"].tolist() == frame["height"].tolist()
    assert np.allclose(read.geometry.x, frame["lon"])
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT styleName, styleQML, useAsDefault FROM layer_styles").fetchall()
    assert [row[0] for row in rows] == list(SANTIAGO) and [row[2] for row in rows] == [1, 0, 0, 0, 0]
    styles = pyogrio.read_dataframe(path, layer="layer_styles")  # GDAL's reading
    assert styles["styleName"].tolist() == list(SANTIAGO) and set(styles["f_table_name"]) == {"facades"}
    assert pyogrio.read_info(path, layer="facades")["geometry_type"] == "Point"
    for task, style, _ in rows:
        root = ElementTree.fromstring(style)
        assert root.find("renderer-v2").get("attr") == task
        assert tuple(c.get("value") for c in root.iter("category")) == SANTIAGO[task]
