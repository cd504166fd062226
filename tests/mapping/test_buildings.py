"""Which building a view shows, against exact geometry; gates; the fusion of views, against loops."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from fake_city import fake_predictions
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiPolygon, Point, Polygon, box
from tiny import PRESET, environment, told

import mtclim
from mtclim import Tasks
from mtclim.city import make_city
from mtclim.city.plan import CRS, ORIGIN, plan
from mtclim.config import load_config
from mtclim.mapping import buildings
from mtclim.mapping.buildings import NEARLY, assign, assign_file, fuse, passes, read_footprints, read_gate
from mtclim.mapping.exposure import exposure
from mtclim.mapping.maps import write_geopackage

TASKS = Tasks({"view": ["facade", "other"], "height": ["H1", "H2", "H3-4"]})


def scene(shapes, x=0.0, y=0.0, bearing=0.0, **more):
    """Footprints around the city's origin, where grid north is true north, and one view."""
    moved = [shapely.transform(shape, lambda points: points + ORIGIN) for shape in shapes]
    layer = gpd.GeoDataFrame({"building": [f"b{n}" for n in range(len(moved))]}, geometry=moved, crs=CRS)
    place = gpd.GeoSeries([Point(ORIGIN[0] + x, ORIGIN[1] + y)], crs=CRS).to_crs(4326)
    return pd.DataFrame({"lon": place.x, "lat": place.y, "bearing": [bearing], **more}), layer


def exact_shares(shapes, x, y, bearing, fov, reach, rays=2000):
    """Shares of the angle, ray by ray with shapely's own intersections: independent of angles of walls."""
    counts, union = np.zeros(len(shapes)), shapely.union_all(shapes)
    for k in range(rays):
        angle = np.radians(bearing + ((k + 0.5) / rays - 0.5) * fov)
        ray = LineString([(x, y), (x + reach * np.sin(angle), y + reach * np.cos(angle))])
        meets = ray.intersection(union)
        if not meets.is_empty:
            far = meets.distance(Point(x, y))
            counts[np.argmin([abs(ray.intersection(s).distance(Point(x, y)) - far) if ray.intersects(s) else np.inf
                              for s in shapes])] += 1  # fmt: skip
    return counts / rays


place = st.floats(-30, 30)
house = st.builds(lambda x, y, w, h: box(x, y, x + w, y + h), place, place, st.floats(1, 15), st.floats(1, 15))


@settings(max_examples=25, deadline=None)
@given(st.lists(house, min_size=1, max_size=6), st.floats(0, 360), st.sampled_from([20.0, 60.0, 120.0, 180.0]))
def test_shares_are_those_of_exact_geometry(houses, bearing, fov):
    shapes = []
    for one in houses:  # none over another, none over the camera
        if one.distance(Point(0, 0)) > 0.5 and all(one.distance(other) > 0.1 for other in shapes):
            shapes.append(one)
    if not any(one.distance(Point(0, 0)) <= 25 for one in shapes):
        return
    shares = exact_shares(shapes, 0, 0, bearing, fov, 25.0, rays=500)
    found = assign(*scene(shapes, bearing=bearing), field_of_view=fov, reach=25.0).iloc[0]
    first, second = np.append(np.sort(shares)[::-1], 0)[:2]
    step = 1 / 120 * len(shapes) + 0.01
    assert found["share"] == pytest.approx(first, abs=step) and found["second"] == pytest.approx(second, abs=step)
    if found["reason"] == "":
        assert shares[int(found["building"][1:])] >= first - step
    elif found["reason"].startswith("two"):
        assert second >= NEARLY * first - step
    else:
        assert first <= step


def test_a_nearer_building_hides_what_is_behind_it():
    wall, tower = box(-20, 5, 20, 6), box(-50, 10, 50, 40)
    assert assign(*scene([tower, wall])).loc[0, ["building", "share", "reason"]].tolist() == ["b1", 1.0, ""]
    assert assign(*scene([tower, wall], bearing=180)).loc[0, "reason"] == "no building within 50 m"
    far = box(60, 60, 70, 70)
    assert assign(*scene([far]), reach=90).loc[0, "reason"] == "no building within 90 m"
    court = Polygon(box(-30, -30, 30, 30).exterior, [box(-25, -25, 25, 25).exterior])  # the camera is in its court
    assert assign(*scene([court], bearing=77)).loc[0, ["building", "share"]].tolist() == ["b0", 1.0]


def test_what_is_not_clear_is_listed_and_not_guessed():
    row = [box(-20, 5, 0, 10), box(0, 5, 20, 10)]
    found = assign(*scene(row)).iloc[0]
    assert pd.isna(found["building"]) and found["reason"] == "two buildings fill it alike"
    assert found["share"] == found["second"] == pytest.approx(0.5, abs=0.01)
    assert assign(*scene(row, bearing=20)).loc[0, "building"] == "b1"
    twice = assign(*scene([row[0], row[0]], bearing=-20)).iloc[0]  # one polygon, two numbers
    assert twice["reason"] == "two buildings fill it alike"
    inside = assign(*scene([box(-5, -5, 5, 5), box(-20, 7, 20, 9)])).iloc[0]
    assert pd.isna(inside["building"]) and inside["reason"].startswith("the position lies inside a building")
    corner = assign(*scene([box(0, 0, 9, 9), box(-20, -9, 20, -7)], bearing=180.0)).iloc[0]
    assert corner["reason"] == inside["reason"], "a wall one stands on would be seen through"


def test_views_without_bearing_or_position_are_listed_and_a_table_of_such_is_refused():
    views, layer = scene([box(-5, 5, 5, 9)])
    views = pd.concat([views, views.assign(bearing=np.nan), views.assign(lat=np.nan)]).set_axis([7, 3, 5])
    found = assign(views, layer)
    assert found.index.tolist() == [7, 3, 5] and found["building"].fillna("").tolist() == ["b0", "", ""]
    assert found["reason"].tolist() == ["", "no bearing", "no position"]
    with pytest.raises(ValueError, match="none with a bearing among 1 row"):
        assign(views.loc[[3]], layer)
    with pytest.raises(ValueError, match="none with a bearing"):
        assign(views.drop(columns="bearing"), layer)
    with pytest.raises(ValueError, match="no coordinate reference system"):
        assign(views, layer.set_crs(None, allow_override=True))
    for wrong in ({"field_of_view": 0}, {"field_of_view": 181}, {"reach": -1}, {"reach": np.nan}):
        with pytest.raises(ValueError, match="expected degrees above 0"):
            assign(views, layer, **wrong)


def test_a_view_may_have_a_field_of_view_of_its_own():
    row = [box(-20, 5, 0.2, 10), box(0.2, 5, 20, 10)]
    wide, narrow = (assign(*scene(row, field_of_view=[fov])).iloc[0] for fov in (np.nan, 4.0))
    assert wide["reason"] == "two buildings fill it alike"
    assert (narrow["building"], narrow["share"]) == ("b0", 1.0)


@pytest.mark.parametrize(
    "bow", [Polygon([(-2, 5), (2, 9), (2, 5), (-2, 9)]), MultiPolygon([box(-9, 5, 0, 6), box(1, 5, 9, 6)])]
)
def test_invalid_and_overlapping_polygons_and_parts_are_read(bow, tmp_path):
    views, layer = scene([bow, box(-20, 7.5, 20, 20)])
    layer.to_file(tmp_path / "layer.gpkg")
    found = assign(views, read_footprints(tmp_path / "layer.gpkg")).iloc[0]
    assert found["building"] == "b0" and 0 < found["second"] < found["share"]


@pytest.mark.filterwarnings("error")
def test_footprints_that_lie_elsewhere_are_refused_with_both_places():
    views, layer = scene([box(-5, 5, 5, 9)])
    swapped = views.rename(columns={"lon": "lat", "lat": "lon"})
    for wrong, there in ((swapped, layer), (views, layer.set_crs(32601, allow_override=True))):
        with pytest.raises(
            ValueError, match=r"no footprint within 50 m .*views lie at lon -\d+\.\d+ to .*, footprints at"
        ):
            assign(wrong, there)
    layer = pd.concat(
        [layer.to_crs(4326), gpd.GeoDataFrame({"building": ["far"]}, geometry=[box(19, 33, 20, 34)], crs=4326)]
    )
    assert assign(views, layer)["building"].tolist() == ["b0"], "what cannot be projected is no warning"


@pytest.mark.parametrize("east", [179.9998, -179.9998])
def test_the_antimeridian_is_no_border(east, tmp_path):
    at = lambda lon, lat: box(lon - 4e-5, lat, lon + 4e-5, lat + 1e-4)  # noqa: E731
    across = Polygon([(179.99995, 0.0002), (-179.99995, 0.0002), (-179.99995, 0.0004), (179.99995, 0.0004)])
    layer = gpd.GeoDataFrame({"id": ["x", "y"]}, geometry=[across, at(east, 0.0002)], crs=4326)
    layer.to_file(tmp_path / "layer.geojson")
    layer = read_footprints(tmp_path / "layer.geojson")
    views = pd.DataFrame({"lon": [180.0, -180.0, east], "lat": 0.0, "bearing": [0.0, 360.0, 0.0]})
    assert assign(views, layer)["building"].tolist() == ["x", "x", "y"]


def test_bearings_are_from_true_north_in_any_projection():
    for lon, lat in ((26.9, 66.0), (-177.2, -45.0)):  # grid north is off by up to 3 degrees
        aim = gpd.points_from_xy([lon], [lat + 4e-4], crs=4326)  # 44 m north
        zone = gpd.GeoSeries(aim).estimate_utm_crs()
        house = gpd.GeoSeries(aim).to_crs(zone).buffer(1.0)
        for crs in (zone, 3857, 4326):
            layer = gpd.GeoDataFrame({"building": ["b"]}, geometry=house.to_crs(crs).to_numpy(), crs=crs)
            views = pd.DataFrame({"lon": [lon] * 2, "lat": [lat] * 2, "bearing": [0.0, 3.0]})
            found = assign(views, layer, field_of_view=2)
            assert found["building"].fillna("").tolist() == ["b", ""] and found.loc[0, "share"] == 1


def test_chunks_of_views_do_not_show(monkeypatch):
    view, layer = scene([box(-5, 5, 5, 9), box(6, -5, 9, 5), box(-5, -9, 5, -5), box(-9, -5, -6, 5)])
    views = pd.concat([view.assign(lon=view["lon"] + k * 1e-5, bearing=70.0 * k) for k in range(7)])
    whole = assign(views, layer)
    monkeypatch.setattr(buildings, "_CHUNK", 2)
    pd.testing.assert_frame_equal(assign(views, layer), whole)
    assert whole["building"].nunique() == 4


def test_on_the_city_it_beats_what_is_nearest():
    city = plan(1500, 1500, 0)
    cameras, shapes = city.cameras(2), city.footprints.astype({"building": str})
    place = cameras.to_crs(4326).geometry
    found = assign(pd.DataFrame({"lon": place.x, "lat": place.y, "bearing": cameras["bearing"]}), shapes)
    true = cameras["building"].astype(str)
    nearest = shapes["building"].to_numpy()[shapely.STRtree(shapes.geometry).nearest(cameras.geometry)]
    assert (found["building"] == true).mean() > 0.98 > 0.975 > (nearest == true).mean()
    assert not (found["building"].notna() & (found["building"] != true)).mean() > 0.002


def test_the_table_of_views_gains_the_building(tmp_path):
    views, layer = scene([box(-5, 5, 5, 9)])
    layer.to_file(tmp_path / "footprints.geojson")
    rows = {"compass_angle": [0, 180, 0, None], "is_pano": [False, False, True, False], "building": ["old"] * 4}
    table = pd.DataFrame({"id": list("abcd")} | rows).assign(lon=views["lon"][0], lat=views["lat"][0])
    table.to_csv(tmp_path / "views.csv", index=False)
    said = assign_file(tmp_path / "views.csv", tmp_path / "footprints.geojson", tmp_path / "out.csv", 60, 50)
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["image"].tolist() == list("abcd") and found["building"].fillna("").tolist() == ["b0", "", "", ""]
    assert found["_reason"].fillna("").str[:11].tolist() == ["", "no building", "a panorama,", "no bearing"]
    assert said[0] == "Viewing direction from column 'compass_angle', known in 3 rows."
    assert said[2] == "4 rows, 1 buildings." and len(said) == 6
    names = ["-a.jpg", "=b.jpg", "+c.jpg", "@d.jpg"]  # what a spreadsheet would run stays a name
    table.assign(id=names, block="-70_-33").to_csv(tmp_path / "views.csv", index=False)
    assign_file(tmp_path / "views.csv", tmp_path / "footprints.geojson", tmp_path / "new" / "out.csv", 60, 50)
    again = mtclim.read_table(tmp_path / "new" / "out.csv", TASKS, require_images=False, require_labels=False).frame
    assert again["image"].tolist() == names and set(again["block"]) == {"-70_-33"}


# ---------------------------------------------------------------- footprints as they come


def write(folder, frame, crs=4326):
    shapes = [box(n, 0, n + 0.5, 1) for n in range(len(frame))]
    path = folder / "layer.parquet"
    gpd.GeoDataFrame(frame, geometry=shapes, crs=crs).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        ({"building": [7, 3, 5]}, ["7", "3", "5"]),
        ({"building": ["yes", "yes", "house"] * 2, "osm_id": [11.0, 12, 13, 14, 15, 16]}, ["11", "12", "13"]),
        ({"element": ["way"] * 3, "id": [1, 2, 3], "building": ["yes"] * 3}, ["1", "2", "3"]),
        ({"id": ["08b2a", "08b2b"], "height": [3.0, None]}, ["08b2a", "08b2b"]),
        ({"area": [1.0, 2.0]}, ["1", "2"]),
    ],
)
def test_numbers_of_footprints_as_they_come(frame, numbers, tmp_path):
    layer = read_footprints(write(tmp_path, pd.DataFrame(frame)))
    assert layer["building"].tolist()[: len(numbers)] == numbers and len(layer) == len(next(iter(frame.values())))
    assert "numbers of" in layer.attrs["notes"][-1]


def test_numbers_in_any_case_with_gaps_and_of_the_rows_of_the_file(tmp_path):
    capitals = read_footprints(write(tmp_path, pd.DataFrame({"OSM_ID": [7, 3]})))
    assert capitals["building"].tolist() == ["7", "3"] and "'OSM_ID'" in capitals.attrs["notes"][-1]
    gaps = read_footprints(write(tmp_path, pd.DataFrame({"id": ["a", ""], "osm_id": [7, 3]})))
    assert gaps.attrs["notes"][0] == "Column 'id' is empty in 1 row and not used." and list(gaps["building"]) == [
        "7",
        "3",
    ]
    mixed = gpd.GeoDataFrame({"area": [1, 2]}, geometry=[Point(0, 0), box(1, 1, 2, 2)], crs=4326)
    mixed.to_file(tmp_path / "mixed.gpkg")
    assert read_footprints(tmp_path / "mixed.gpkg")["building"].tolist() == ["2"]


def test_footprints_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    for frame, crs, words in (
        ({"building": ["1a", "b", "c", "1a"]}, 4326, "'1a' on more than one polygon"),
        ({"building": [1, 2]}, None, "no coordinate reference system"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            read_footprints(write(tmp_path, pd.DataFrame(frame), crs))
        assert "\n" not in str(raised.value)
    points = gpd.GeoDataFrame({"id": [1, 2]}, geometry=[Point(0, 0), box(1, 1, 2, 2)], crs=4326)
    points.to_file(tmp_path / "mixed.gpkg")
    layer = read_footprints(tmp_path / "mixed.gpkg")
    assert len(layer) == 1 and layer.attrs["notes"][0].startswith("Not used: 1 row")
    points.iloc[:1].to_file(tmp_path / "points.gpkg")
    with pytest.raises(ValueError, match="found no polygon"):
        read_footprints(tmp_path / "points.gpkg")


def test_views_far_apart_are_each_measured_in_metres():
    views, layers = [], []
    for k, (lon, lat) in enumerate(((-70.0, -33.0), (139.0, 35.0), (179.9999, -17.0))):
        near = f"+proj=aeqd +lon_0={lon} +lat_0={lat} +units=m"
        layers.append(gpd.GeoDataFrame({"building": [str(k)]}, geometry=[box(-20, 40, 20, 50)], crs=near).to_crs(4326))
        views.append([lon, lat, 0.0])
    frame = pd.DataFrame(views, columns=["lon", "lat", "bearing"])
    together = assign(frame, pd.concat(layers, ignore_index=True))
    assert together["building"].tolist() == ["0", "1", "2"] and together["reason"].eq("").all()
    alone = [assign(frame[k : k + 1], layer)["share"].item() for k, layer in enumerate(layers)]
    assert together["share"].tolist() == alone


def test_a_panorama_shows_no_single_building():
    views, layer = scene([box(-20, 10, 20, 20)])
    views = pd.concat([views.assign(panorama=True), views.assign(panorama=False)])
    found = assign(views, layer)
    assert found["building"].isna().tolist() == [True, False] and "are to be cut first" in found["reason"].iloc[0]


def test_footprints_are_the_layer_that_is_meant_and_tags_are_no_numbers(tmp_path):
    square = gpd.GeoDataFrame({"osm_id": [1, 2, 3], "building": ["yes", "yes", "apartments;2"]},
                              geometry=[box(n, 0, n + 1, 1) for n in range(3)], crs=4326)  # fmt: skip
    square.to_file(tmp_path / "osm.gpkg")
    assert read_footprints(tmp_path / "osm.gpkg")["building"].tolist() == ["1", "2", "3"]
    mixed = pd.concat([square, gpd.GeoDataFrame({"osm_id": [4]}, geometry=[Point(0, 9)], crs=4326)])
    square.to_file(tmp_path / "city.gpkg", layer="blocks")
    mixed.to_file(tmp_path / "city.gpkg", layer="buildings")  # points and polygons: GDAL calls this "Unknown"
    with pytest.raises(ValueError, match="several layers have a geometry and rows: 'blocks', 'buildings'"):
        read_footprints(tmp_path / "city.gpkg")


def test_a_table_is_not_replaced_by_what_is_made_of_it(tmp_path):
    (tmp_path / "t.csv").write_text("image,lon,lat,bearing,height\na.jpg,-70,-33,0,H1\n")
    scene([box(0, 0, 9, 9)])[1].to_file(tmp_path / "f.gpkg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for out in before:
        with pytest.raises(ValueError, match="this is the source itself"):
            assign_file(tmp_path / "t.csv", tmp_path / "f.gpkg", out, 60, 50)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- gates and fusion


def test_a_gate_is_the_most_probable_class_or_a_probability():
    frame = fake_predictions(300, TASKS)
    p = frame["view:p:facade"]
    assert (passes(frame, TASKS, "view=facade") == (p > frame["view:p:other"])).all()
    assert (passes(frame, TASKS, " view=facade  >= 0.8 ") == (p >= np.float32(0.8))).all()
    with pytest.raises(ValueError, match="none of 300 rows passes 'view=facade >= 1'; choose a lower probability"):
        passes(frame.assign(**{"view:p:facade": 0.5}), TASKS, "view=facade >= 1")
    assert (passes(frame, TASKS, "view=facade>=.3") == (p >= np.float32(0.3))).all()
    odd = Tasks({"a=b": [">= 2", "x >= 0.5"], "c": ["1", "2"]})
    assert read_gate("a=b=>= 2", odd) == ("a=b", ">= 2", 0.0)
    assert read_gate("a=b=x >= 0.5 >= 0.9", odd) == ("a=b", "x >= 0.5", 0.9)
    for wrong in ("view=facde", "facade", "view=facade >= 1.5", "view=facade >= 80", "view"):
        with pytest.raises(ValueError, match="expected task=class or task=class >= 0.8, with one of 'view=facade'"):
            read_gate(wrong, TASKS)


def test_views_are_fused_as_a_loop_does_and_exposure_counts_buildings(tmp_path):
    frame = fake_predictions(40, seed=1)
    tasks, rng = (
        Tasks(
            {t: sorted({c.split(":p:")[1] for c in frame if c.startswith(f"{t}:p:")}) for t in ("height", "mat_llrs")}
        ),
        np.random.default_rng(0),
    )
    assigned = pd.DataFrame({"building": rng.choice(["u", "v", "w"], 40), "share": rng.uniform(0.2, 1, 40)}).astype(
        {"building": object}
    )
    assigned.loc[::7, "building"] = None
    shapes = [box(n, 0, n + 1, 1) for n in range(4)]
    shapes[1] -= box(1.1, 0.1, 1.9, 1)  # a yard in the middle
    layer = gpd.GeoDataFrame({"building": list("wvux")}, geometry=shapes, crs=CRS)
    fused = fuse(frame, assigned, layer, tasks).set_index("building")
    assert fused.index.tolist() == ["u", "v", "w"] and fused.crs == CRS
    assert fused.loc["u"].geometry.equals(box(2, 0, 3, 1))
    places = gpd.points_from_xy(fused["lon"], fused["lat"], crs=4326).to_crs(CRS)
    assert shapely.contains(fused.geometry, places).all()
    with pytest.raises(ValueError, match="none of 40 rows .* in views.csv, says why"):
        fuse(frame, assigned.assign(building=None), layer, tasks)
    for name, row in fused.iterrows():
        own = np.flatnonzero(assigned["building"] == name)
        assert row["views"] == len(own) and row["block"] == frame["block"][own[0]]
        for task, classes in tasks.items():
            p = np.ones(len(classes))
            for k in own:
                p *= frame.loc[k, [f"{task}:p:{c}" for c in classes]].to_numpy(float) ** assigned["share"][k]
            p **= 1 / assigned["share"][own].sum()
            assert row[[f"{task}:p:{c}" for c in classes]].to_numpy(float) == pytest.approx(p / p.sum(), rel=1e-4)
            assert row[f"{task}:pred"] == classes[p.argmax()]
            q = p / p.sum()
            assert row[f"{task}:entropy"] == pytest.approx(-(q * np.log(q)).sum() / np.log(len(q)), rel=1e-4)
    fused = fused.reset_index()
    path = write_geopackage(frame, tasks, tmp_path / "city.gpkg", {"buildings": fused})
    assert pyogrio.read_info(path, layer="buildings")["geometry_type"] == "Polygon"
    styles = pyogrio.read_dataframe(path, layer="layer_styles").set_index(["f_table_name", "styleName"])["styleQML"]
    root = ElementTree.fromstring(styles["buildings", "height"])
    assert {symbol.get("type") for symbol in root.iter("symbol")} == {"fill"} and len(styles) == 4
    assert root.findtext("layerGeometryType") == "2" and "marker" in styles["facades", "height"]
    fused.to_parquet(tmp_path / "buildings.parquet")
    assert gpd.read_parquet(tmp_path / "buildings.parquet")["height:pred"].tolist() == fused["height:pred"].tolist()
    pytest.importorskip("openquake.gem_taxonomy", reason="pip install 'mtclim[exposure]'")
    assert exposure(fused, tasks)["expected"].sum() == pytest.approx(3)


def test_the_map_counts_buildings_behind_a_gate(tmp_path, monkeypatch):
    """The real notebook on a small city: views that do not pass the gate are nowhere in what it writes."""
    pytest.importorskip("papermill")
    pytest.importorskip("openquake.gem_taxonomy", reason="pip install 'mtclim[exposure]'")
    monkeypatch.chdir(tmp_path)
    city = make_city("city", 260, 240, size=64, views=2, not_facade=0.3, progress=False).parent
    settings = PRESET | {"data": "city/images.parquet", "max_epochs": 1, "pretrained": False, "study": {}}
    run = mtclim.fit(load_config("demo", settings, tasks="city/tasks.yaml", out="runs"), progress=False)
    predictions = mtclim.predict(run, city / "cameras.parquet")
    share = predictions["view:p:facade"].quantile(0.3).round(3)
    given = {
        "runs": run,
        "source": city / "cameras.parquet",
        "footprints": city / "footprints.parquet",
        "out": tmp_path / "map",
    }
    given |= {"gate": f"view=facade >= {share}", "tiles": False, "data": settings["data"], "by": "block"}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    notebook = Path(__file__).parents[2] / "notebooks" / "map.ipynb"
    command = [sys.executable, "-m", "papermill", notebook, "map.ipynb", "--no-progress-bar", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    held, views = pd.read_csv("map/gate.csv"), pd.read_csv("map/views.csv", dtype={"building": str})
    assert len(held) == pytest.approx(0.3 * 520, abs=8) and (held["view:p:facade"] < share).all()
    assert len(held) + len(views) == 520 and not set(held["image"]) & set(views["image"])
    stock, counts = gpd.read_parquet("map/buildings.parquet"), pd.read_csv("map/exposure_expected.csv")
    assert counts["number"].sum() == pytest.approx(len(stock), abs=0.05)
    assert set(stock["building"]) == set(views["building"].dropna()) and stock["views"].max() == 2
    assert pyogrio.read_info("map/facades.gpkg", layer="buildings")["features"] == len(stock)
    facades = pyogrio.read_dataframe("map/facades.gpkg", layer="facades")
    assert facades["building"].fillna("").tolist() == views["building"].fillna("").tolist()
    areas = pyogrio.read_dataframe("map/facades.gpkg", layer="areas")
    counted = {name: areas[f"height:n:{name}"].sum() for name in facades["height:pred"].unique()}
    assert counted == facades["height:pred"].value_counts().to_dict() and "unseen" in areas
    assert pd.read_csv("map/facades.csv")["building"].notna().sum() == views["building"].notna().sum()
    assert {"gem", "height:probability", "height:p:H1"} <= set(stock) and stock["gem"].str.contains("H:").all()
    assert shapely.contains(stock.to_crs(4326).geometry, gpd.points_from_xy(stock["lon"], stock["lat"])).all()
    text = told(tmp_path / "map.ipynb")
    assert f"{len(stock)} of {len(gpd.read_parquet('city/footprints.parquet'))} footprints are seen" in text
    listing, files = Path("map.ipynb").read_text(), [path.name for path in Path("map").iterdir()]
    assert "views.csv" in files and all(f"`{name}` |" in listing for name in files)
