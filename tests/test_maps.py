import json
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

from mtclim import SANTIAGO, Tasks, exposure, maps

matplotlib.use("agg")
NASTY = "<img src=x onerror=window.hacked=1>"


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
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == SANTIAGO.total
    assert titles[0].startswith("H1\n") and "F1" in titles[0]
    words = " ".join(text.get_text() for text in figure.texts)
    assert "the data's own polygons" in words and "test blocks only" in words
    assert "κ" in figure.axes[0].get_ylabel()


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
    areas = maps.aggregate(frame, SANTIAGO, by, labelsets=labelsets.assign(count=1))
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
    labelsets = pd.DataFrame({"a": ["x", "y"], "b": ["u", None], "count": [3, 1]})
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
    for task, style, _ in rows:
        root = ElementTree.fromstring(style)
        assert root.find("renderer-v2").get("attr") == task
        assert tuple(c.get("value") for c in root.iter("category")) == SANTIAGO[task]


def nasty_frame():
    tasks = Tasks({"roof": ["FLT", NASTY], "wall": ["a", "b"]})
    frame = fake_predictions(500, tasks)
    frame.loc[0, "image"] = f"</script><script>window.hacked=1</script>{NASTY}"
    return frame, tasks


def test_page_is_self_contained(tmp_path):
    frame, tasks = nasty_frame()
    text = maps.write_page(frame, tasks, tmp_path / "map.html", title=NASTY).read_text()
    assert NASTY not in text and "http://" not in text and "https://" not in text
    assert json.dumps("FLT") in text


def test_page_in_a_browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    frame, tasks = nasty_frame()
    path = maps.write_page(frame, tasks, tmp_path / "map.html", [municipalities()], title=NASTY, note=NASTY)
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,700"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    except Exception as error:
        pytest.skip(f"no headless Chromium here: {error}")
    try:
        browser.get(path.as_uri())
        time.sleep(0.5)
        assert "500 of 500" in browser.find_element(By.ID, "status").text
        assert NASTY in browser.find_element(By.ID, "classes").text
        painted = (
            "const c=document.getElementById('map'),d=c.getContext('2d').getImageData(0,0,c.width,c.height).data;"
            "const s=new Set();for(let i=0;i<d.length;i+=4)s.add(d[i]+','+d[i+1]+','+d[i+2]);return s.size"
        )
        assert browser.execute_script(painted) >= 4
        Select(browser.find_element(By.ID, "task")).select_by_visible_text("wall")
        assert browser.find_element(By.ID, "classes").text.split("\n")[0].startswith("a")
        assert float(browser.execute_script("return document.getElementById('map').dataset.switchMs")) < 500
        browser.find_elements(By.CSS_SELECTOR, "#classes input")[0].click()
        share = (frame["wall:pred"] == "b").sum()
        assert browser.find_element(By.ID, "status").text.startswith(f"{share} of 500")
        browser.execute_script("const e=document.getElementById('least');e.value=100;e.oninput()")
        assert browser.find_element(By.ID, "status").text.startswith("0 of 500")
        tip = browser.execute_script(
            "document.getElementById('least').value=0;document.getElementById('least').oninput();"
            "document.getElementById('all').click();const c=document.getElementById('map');"
            "const r=devicePixelRatio||1;c.onpointermove({offsetX:px(0)/r,offsetY:py(0)/r});"
            "return document.getElementById('tip').textContent"
        )
        assert "roof:" in tip and "wall:" in tip and "%" in tip
        assert not browser.execute_script("return window.hacked")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.quit()
