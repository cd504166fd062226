import io
import socket
import sqlite3
import time
from types import SimpleNamespace
from xml.etree import ElementTree

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
import pyogrio
import pytest
from fake_city import fake_predictions
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from pyproj import Geod
from shapely import Point, box, unary_union
from sklearn.metrics import cohen_kappa_score

from mtclim import SANTIAGO, Tasks
from mtclim.mapping import exposure, frequencies, maps
from mtclim.mapping.areas import aggregate, check_areas, hexagons, points, read_polygons

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
    assert titles[0].startswith("1 storey\n") and "F1" in titles[0]
    words = figure.get_supxlabel()
    assert "the data's own polygons" in words and "test blocks only" in words
    assert [part.get_suptitle().split(":")[0] for part in figure.subfigs] == [SANTIAGO.title(task) for task in SANTIAGO]
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


def test_tiles_are_fetched_once(tmp_path, monkeypatch):
    contextily = pytest.importorskip("contextily")
    calls, png = [], io.BytesIO()
    Image.new("RGB", (256, 256), (10, 200, 30)).save(png, "PNG")

    def get(url, **_):
        calls.append(url)
        return SimpleNamespace(content=png.getvalue(), raise_for_status=lambda: None)

    monkeypatch.setattr(contextily.tile.requests, "get", get)
    bounds = (340000, 6280000, 350000, 6290000)
    first, second = (maps.tiles(bounds, "EPSG:32719", cache=tmp_path) for _ in range(2))
    assert 0 < len(calls) == len(set(calls)) and np.array_equal(first[0], second[0]) and "OpenStreetMap" in first[2]
    west, east, south, north = first[1]
    assert west <= bounds[0] and east >= bounds[2] and south <= bounds[1] and north >= bounds[3]
    height, width, _ = first[0].shape
    assert tuple(first[0][height // 2, width // 2, :3]) == (10, 200, 30)


@pytest.mark.parametrize("width, length", [(33000, 10000), (16000, 5000), (900, 200), (3.3, 1)])
def test_scale_bars_are_round(width, length):
    assert maps.scale_length(width) == length


def test_places_on_both_sides_of_180_degrees_lie_beside_each_other():
    frame = points(pd.DataFrame({"lon": [179.99, -179.99, -179.98], "lat": [-16.8, -16.8, -16.79]}))
    _, _, far = Geod(ellps="WGS84").inv(179.99, -16.8, -179.99, -16.8)
    assert frame.geometry[0].distance(frame.geometry[1]) == pytest.approx(far, rel=2e-3)
    assert points(fake_predictions(30)).crs.to_epsg() == 32719


def test_hexagons_hold_their_points():
    rng = np.random.default_rng(0)
    places = rng.uniform(-5000, 5000, (500, 2))
    found = hexagons(places, 300.0)
    for place, hexagon in zip(places, found, strict=True):
        assert hexagon.buffer(1e-2).contains(Point(place)) and hexagon.area == pytest.approx(300**2 * np.sqrt(3) / 2)
    different = list({hexagon.wkt: hexagon for hexagon in found}.values())
    assert unary_union(different).area == pytest.approx(sum(hexagon.area for hexagon in different), rel=1e-3)


@pytest.mark.parametrize("by", ["hexagon", "block"])
def test_aggregates_agree_with_pandas(by):
    frame = fake_predictions(400)
    answers = np.stack([pd.Index(c).get_indexer(frame[f"{task}:pred"]) for task, c in SANTIAGO.items()], axis=1)
    areas = aggregate(frame, SANTIAGO, by, labelsets=np.unique(answers[:200], axis=0))
    assert areas["façades"].sum() == 400
    assert np.allclose(areas[[f"height:share:{name}" for name in SANTIAGO["height"]]].sum(axis=1), 1)
    seen = set(map(tuple, answers[:200]))
    assert (areas["unseen"] * areas["façades"]).sum() == pytest.approx(sum(tuple(a) not in seen for a in answers))
    p = frame[[f"height:p:{name}" for name in SANTIAGO["height"]]].to_numpy(float)
    unsure = -(p * np.log(p.clip(1e-300))).sum(1) / np.log(p.shape[1])
    assert (areas["height:entropy"] * areas["façades"]).sum() == pytest.approx(unsure.sum())
    if by == "block":
        counts = frame.groupby("block")["height:pred"].value_counts().unstack(fill_value=0)
        assert np.array_equal(areas.set_index("block")["height:n:H1"], counts["H1"].reindex(areas["block"]))


def test_areas_with_few_facades_are_grey_and_every_legend_prints_n():
    areas = aggregate(fake_predictions(1500), SANTIAGO, width=2500)
    few = areas["façades"] < maps.FEWEST
    assert 0 < few.sum() < len(areas)
    figure = maps.fig_aggregates(areas, SANTIAGO)
    grey = matplotlib.colors.to_rgba(maps.FEW)
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(panels) == 1 + len(SANTIAGO)
    for ax in panels[1:]:
        colours = [
            tuple(c) for part in ax.collections for c in np.repeat(part.get_facecolor(), len(part.get_paths()), 0)
        ]
        assert sum(c == grey for c in colours) >= few.sum()
    legends = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    rest = areas.loc[~few, "façades"].sum()
    assert legends[0] == f"n = 1,500 façades in {len(areas)} areas"
    assert set(legends[1:]) == {f"n = {rest:,} façades in {(~few).sum()} areas"}
    bars = [ax for ax in figure.axes if ax.get_xlabel()]
    assert len({ax.get_xlim() for ax in bars[1:]}) == 1, "one scale for all entropies"
    assert all(
        text.get_fontsize() >= 8 for text in figure.findobj(matplotlib.text.Text) if text.get_text() not in ("", "1e6")
    )


@pytest.mark.parametrize("width", [0, -5, float("nan"), float("inf")])
def test_a_width_that_cannot_be_is_refused(width):
    with pytest.raises(ValueError, match="width: found .*; expected the width of a hexagon in metres"):
        aggregate(fake_predictions(10), SANTIAGO, width=width)
    with pytest.raises(ValueError, match="by: found 'blocks'; expected one of hexagon, block"):
        aggregate(fake_predictions(10), SANTIAGO, "blocks")


def test_what_a_map_cannot_be_made_of_is_refused_before_anything_is_predicted(tmp_path):
    (tmp_path / "t.csv").write_text("image,Municipality\na.png,m\n")
    check_areas("municipality", 500, tmp_path / "t.csv")
    (tmp_path / "empty.csv").write_text("image,municipality\na.png,NA\n")
    for source in (tmp_path, tmp_path / "empty.csv"):
        with pytest.raises(ValueError, match="no municipality in .*; add the column 'municipality'"):
            check_areas("municipality", 500, source)
    layer = gpd.GeoDataFrame({"n": [1, 2]}, geometry=[box(0, 0, 1, 1), Point(0, 0)], crs=4326)
    for rows, polygons in ((layer, True), (layer[1:], False), (layer[:0], False)):
        rows.to_parquet(tmp_path / "layer.parquet")
        if polygons:
            assert len(read_polygons(tmp_path / "layer.parquet")) == len(rows)
        else:
            with pytest.raises(ValueError, match="found no polygon"):
                read_polygons(tmp_path / "layer.parquet")


def test_figures_of_many_long_classes_are_bounded(tmp_path):
    names = [f"a product whose name has forty letters {k:02d}" for k in range(81)]
    tasks = Tasks({"product": names, "kind": ["x", "y"]})
    frame = fake_predictions(500, tasks)
    figure = maps.fig13(frame, tasks, web=False)
    assert figure.get_figheight() < 20
    assert "61 rarer classes" in figure.subfigs[0].get_suptitle()
    table = frequencies.class_frequencies(frame, frame, tasks)
    figure = maps.fig_frequencies(table, tasks, len(frame))
    assert figure.get_figheight() < 12 and len(figure.axes[0].get_yticks()) == 20
    assert "61 rarer classes" in figure.axes[0].get_title(loc="left").replace("\n", " ")


def test_figures_of_many_tasks_show_the_first_and_say_so():
    tasks = Tasks({f"task {n}": ["no", "yes"] for n in range(23)})
    frame = fake_predictions(60, tasks)
    map_, areas = maps.fig13(frame, tasks, web=False), maps.fig_aggregates(aggregate(frame, tasks), tasks)
    assert len(map_.subfigs) == 20 and map_.get_size_inches()[1] < 60
    assert all("3 more tasks" in figure.get_supxlabel() for figure in (map_, areas))


def test_frequencies_of_a_task_without_validation_labels_are_drawn():
    tasks = Tasks({"a": ["x", "y"], "b": ["u", "v"]})
    frame = fake_predictions(50, tasks)
    table = frequencies.class_frequencies(frame, frame.assign(**{"a:true": None}), tasks)
    assert len(maps.fig_frequencies(table, tasks, 50).axes) == 2


def test_names_of_frequencies_do_not_touch():
    frame = fake_predictions(300)
    figure = maps.fig_frequencies(frequencies.class_frequencies(frame, frame, SANTIAGO), SANTIAGO, len(frame))
    FigureCanvasAgg(figure).draw()
    for ax in figure.findobj(matplotlib.axes.Axes):
        boxes = sorted((label.get_window_extent() for label in ax.get_yticklabels()), key=lambda box: box.y0)
        assert len(boxes) > 2 and all(b.y0 > a.y1 for a, b in zip(boxes, boxes[1:], strict=False)), ax.get_title()


NAMES = [
    ("Height", "height"),
    ("fid", "geom"),
    ("ogc_fid", "geometry"),
    ("GEM", "image"),
    ("lon", "Façade"),
    ("a b", "select"),
]


@pytest.mark.parametrize("first, second", NAMES)
def test_tasks_and_classes_of_any_name_reach_the_geopackage(tmp_path, first, second):
    tasks = Tasks({first: ["Flat", "flat", "fid"], second: ["a:b", "'; drop table x", "0"]})
    frame = fake_predictions(30, tasks)
    flat = exposure.attributes(frame, tasks)
    path = maps.write_geopackage(flat, tasks, tmp_path / "t.gpkg", {"areas": aggregate(frame, tasks, "block")})
    read, fields = gpd.read_file(path, layer="facades"), maps.gis_names(flat.columns)
    for column in (f"{first}:pred", f"{second}:pred"):
        assert read[fields[column]].tolist() == flat[column].tolist()
    areas = gpd.read_file(path, layer="areas")
    assert areas[f"{first}:n:Flat"].sum() == (frame[f"{first}:pred"] == "Flat").sum()
    assert areas[f"{first}:n:flat_1"].sum() == (frame[f"{first}:pred"] == "flat").sum()
    with sqlite3.connect(path) as database:
        styles = database.execute("SELECT styleQML FROM layer_styles").fetchall()
    assert ElementTree.fromstring(styles[0][0]).find("renderer-v2").get("attr") == fields[f"{first}:pred"]


def test_names_that_clash_in_a_geopackage_are_numbered():
    names = maps.gis_names(["Height", "height", "HEIGHT_1", "fid", "geom", "image"])
    assert names == {"Height": "Height", "height": "height_1", "HEIGHT_1": "HEIGHT_1_1", "fid": "fid_1",
                     "geom": "geom_1", "image": "image"}  # fmt: skip


def test_geopackage_opens_again_with_its_styles(tmp_path):
    frame = exposure.attributes(fake_predictions(50), SANTIAGO)
    path = maps.write_geopackage(frame, SANTIAGO, tmp_path / "city.gpkg", {"municipalities": municipalities()}, "about")
    assert {"facades", "municipalities", "layer_styles"} <= set(pyogrio.list_layers(path)[:, 0])
    read = gpd.read_file(path, layer="facades")
    assert read.crs == "EPSG:4326" and read["height:pred"].tolist() == frame["height:pred"].tolist()
    assert np.allclose(read.geometry.x, frame["lon"])
    with sqlite3.connect(path) as database:
        contents = "SELECT table_name FROM gpkg_contents WHERE description = 'about'"
        assert {name for (name,) in database.execute(contents)} == {"facades", "municipalities"}
        rows = database.execute("SELECT styleName, styleQML, useAsDefault FROM layer_styles").fetchall()
    assert [row[0] for row in rows] == list(SANTIAGO) and [row[2] for row in rows] == [1, 0, 0, 0, 0]
    styles = pyogrio.read_dataframe(path, layer="layer_styles")  # GDAL's reading
    assert styles["styleName"].tolist() == list(SANTIAGO) and set(styles["f_table_name"]) == {"facades"}
    assert pyogrio.read_info(path, layer="facades")["geometry_type"] == "Point"
    for task, style, _ in rows:
        root = ElementTree.fromstring(style)
        assert root.find("renderer-v2").get("attr") == f"{task}:pred"
        assert tuple(c.get("value") for c in root.iter("category")) == SANTIAGO[task]
        assert [c.get("label") for c in root.iter("category")] == [SANTIAGO.title(task, k) for k in SANTIAGO[task]]
