"""Panoramas with posts at known bearings, and tables as the usual tools write them; all made here."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mtclim.data.table import read_table
from mtclim.mapping.predict import read_source
from mtclim.mapping.views import cut_views, read_views

pytest.importorskip("py360convert", reason="pip install 'mtclim[maps]'")
POSTS = {0: (255, 0, 0), 45: (255, 128, 0), 90: (0, 255, 0), 180: (0, 0, 255), 225: (255, 0, 255), 270: (255, 255, 0)}
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">{{}}</rdf:RDF></x:xmpmeta>'
POSE = '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" GPano:PoseHeadingDegrees="{}"/>'


def panorama(path, heading, width=1440, **saved):
    """A grey equirectangular picture, whose middle looks at the heading, with a post 4 degrees wide at each bearing."""
    bearings = heading + (np.arange(width) + 0.5) / width * 360 - 180
    picture = np.full((width // 2, width, 3), 90, np.uint8)
    for bearing, colour in POSTS.items():
        picture[:, np.abs((bearings - bearing + 180) % 360 - 180) < 2] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95, **saved)


def posts_of(path, bearing, fov):
    """Bearing -> colour of the posts in a view, from the middle row of its pixels and the geometry of a pinhole."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    row, size = pixels[len(pixels) // 2], pixels.shape[1]
    right = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.radians(fov / 2))
    seen = {}
    for post, colour in POSTS.items():
        like = np.abs(row - colour).sum(1) < 60
        if like.any():
            seen[post] = (bearing + np.degrees(np.arctan(right[like].mean()))) % 360
    return seen


def visible(bearing, fov):
    return {post for post in POSTS if abs((post - bearing + 180) % 360 - 180) < fov / 2 - 2}


@pytest.mark.parametrize(
    ("heading", "settings", "bearings"),
    [
        (0.0, {}, [270, 90]),
        (137.5, {"sides": [0, 90]}, [137.5, 227.5]),
        (350.0, {"towards": 45.0, "field_of_view": 100}, [45]),
        (90.0, {"towards": -90.0}, [270]),
    ],
)
def test_views_show_what_stands_at_their_bearing(heading, settings, bearings, tmp_path):
    panorama(tmp_path / "in" / "a.jpg", heading, xmp=XMP.format(POSE.format(heading)).encode())
    table = pd.read_csv(cut_views(tmp_path / "in", tmp_path / "out", size=300, **settings))
    assert sorted(table["bearing"]) == sorted(bearings) and set(table["_panorama"]) == {"a.jpg"}
    for view in table.itertuples():
        assert Image.open(tmp_path / "out" / view.image).size == (300, 300)
        seen = posts_of(tmp_path / "out" / view.image, view.bearing, view.field_of_view)
        assert set(seen) >= visible(view.bearing, view.field_of_view)
        for post, found in seen.items():
            assert abs((found - post + 180) % 360 - 180) < 1.5


def test_the_table_is_one_that_prediction_reads(tmp_path):
    panorama(tmp_path / "in" / "pano.jpg", 10.0)
    Image.new("RGB", (60, 40)).save(tmp_path / "in" / "flat.png")
    rows = {"image": ["pano.jpg", "flat.png"], "heading": [10, 200], "lng": [-70.6, -70.7], "lat": [-33.4, -33.5]}
    pd.DataFrame(rows | {"block": ["p", "q"]}).to_csv(tmp_path / "in" / "t.csv", index=False)
    path = cut_views(tmp_path / "in" / "t.csv", tmp_path / "out", size=64)
    found = read_source(path, {"any": ["x", "y"]})
    assert found["bearing"].tolist() == [280, 100, 200] and found["block"].tolist() == ["p", "p", "q"]
    assert found["lon"].tolist() == [-70.6, -70.6, -70.7] and found["lat"].tolist() == [-33.4, -33.4, -33.5]
    assert all((tmp_path / "out" / name).is_file() for name in found["image"])
    assert not len(pd.read_csv(tmp_path / "out" / "listed.csv"))


def test_what_cannot_be_used_is_refused_or_listed_with_the_reason(tmp_path):
    panorama(tmp_path / "in" / "north.jpg", 0.0)
    with pytest.raises(ValueError, match="no view from 1 row; the first: a panorama without a heading: no bearing"):
        cut_views(tmp_path / "in", tmp_path / "out")
    part = POSE.format('1" GPano:FullPanoWidthPixels="2880" GPano:CroppedAreaImageWidthPixels="1440')
    panorama(tmp_path / "in" / "part.jpg", 0.0, xmp=XMP.format(part).encode())
    Image.new("RGB", (1500, 500)).save(tmp_path / "in" / "strip.jpg", xmp=XMP.format(POSE.format(1)).encode())
    (tmp_path / "in" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    element = "<rdf:Description><GPano:PoseHeadingDegrees>33.5</GPano:PoseHeadingDegrees></rdf:Description>"
    panorama(tmp_path / "in" / "sub" / "good.jpg", 33.5, xmp=XMP.format(element).encode())
    table = pd.read_csv(cut_views(tmp_path / "in", tmp_path / "out", size=64))
    assert table["bearing"].tolist() == [303.5, 123.5]
    listed = pd.read_csv(tmp_path / "out" / "listed.csv").set_index("image")["reason"]
    assert list(listed.index) == ["north.jpg", "part.jpg", "strip.jpg", "torn.jpg"]
    assert listed["part.jpg"].startswith("a part of a panorama (1440 x 720 pixels)")
    assert listed["strip.jpg"].startswith("a part of a panorama (1500 x 500 pixels)")
    assert "truncated" in listed["torn.jpg"].lower()
    for wrong in ({"field_of_view": 180}, {"field_of_view": 0}, {"size": 8}):
        with pytest.raises(ValueError, match="expected degrees between 0 and 180, and 16 to 8192"):
            cut_views(tmp_path / "in", tmp_path / "out", **wrong)


# ---------------------------------------------------------------- tables of the usual tools

ZENSVI = """id,captured_at,compass_angle,is_pano,organization_id,sequence_id,lon,lat
1052471138560123,1655117261000,271.5,True,,AbC,-70.65,-33.44
299846151788000,1655117265000,12.0,False,,AbC,-70.66,-33.45
"""
OFFICE = """ Id ;Longitude; Latitude;Heading;IS_PANO;Datetime
a;-70,65;-33,44;271,5;1;x
b;-70,66;-33,45;12;0;y
"""
DESCRIPTION = [
    {"filename": "/somewhere/else/a.jpg", "filetype": "image", "MAPLatitude": -33.44, "MAPLongitude": -70.65,
     "MAPCaptureTime": "2022_10_06_10_32_43_000", "MAPCompassHeading": {"TrueHeading": 271.5, "MagneticHeading": 270}},
    {"filename": "b.jpg", "filetype": "image", "MAPLatitude": -33.45, "MAPLongitude": -70.66,
     "MAPCaptureTime": "2022_10_06_10_32_47_000", "MAPCompassHeading": {"TrueHeading": 12.0, "MagneticHeading": 12.0}},
]  # fmt: skip
GRAPH = {
    "data": [
        {"id": "1", "geometry": {"coordinates": [-70.65, -33.44]}, "compass_angle": 271.5, "is_pano": True},
        {"id": "2", "geometry": {"coordinates": [-70.66, -33.45]}, "compass_angle": 12.0, "is_pano": False},
    ]
}  # fmt: skip
STAC = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "id": "0005086d-65eb", "geometry": {"coordinates": [-70.65, -33.44]},
         "properties": {"datetime": "2022-04-10T12:13:44+00:00", "view:azimuth": 271.5, "license": "etalab-2.0",
                        "pers:interior_orientation": {"field_of_view": 360}}},
        {"type": "Feature", "id": "0005086d-65ec", "geometry": {"coordinates": [-70.66, -33.45]},
         "properties": {"datetime": "2022-04-10T12:13:48+00:00", "view:azimuth": 12.0, "license": "etalab-2.0",
                        "pers:interior_orientation": {"field_of_view": 70}}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "files", "panoramas"),
    [
        ("office.csv", OFFICE, ["a.jpg", "b.jpg"], [1, 0]),
        ("mly_pids.csv", ZENSVI, ["mly_svi/batch_1/1052471138560123.png", "mly_svi/b/299846151788000.png"], [1, 0]),
        ("mapillary_image_description.json", DESCRIPTION, ["a.jpg", "b.jpg"], [0, 0]),
        ("images.json", GRAPH, ["1.jpg", "2.jpg"], [1, 0]),
        ("search.geojson", STAC, ["0005086d-65eb.jpg", "photos/0005086d-65ec.jpg"], [1, 0]),
    ],
)  # fmt: skip
def test_tables_of_the_usual_tools_are_read_as_they_are(name, content, files, panoramas, tmp_path):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(tmp_path / file)
    found = read_views(tmp_path / name)
    assert found["path"].tolist() == [str(tmp_path / file) for file in files]
    assert found["lon"].tolist() == [-70.65, -70.66] and found["lat"].tolist() == [-33.44, -33.45]
    assert "field_of_view" not in found or found["field_of_view"].fillna(0).tolist() == [0, 70]
    assert found["bearing"].tolist() == [271.5, 12.0] and found["panorama"].tolist() == [bool(k) for k in panoramas]
    assert ("captured_at" in found) == (name != "images.json")
    (tmp_path / files[1]).unlink()
    (tmp_path / "twice").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "twice" / files[0].split("/")[-1])
    assert read_views(tmp_path / name)["path"].isna().all(), "no such file, and two of them"


def test_what_mapillary_computed_goes_before_what_was_measured(tmp_path):
    better = {"computed_compass_angle": 90.5, "computed_geometry": {"type": "Point", "coordinates": [-70.1, -33.1]}}
    rows = [GRAPH["data"][0] | better, GRAPH["data"][1] | {"computed_geometry": None}]
    (tmp_path / "images.json").write_text(json.dumps({"data": rows}))
    found = read_views(tmp_path / "images.json")
    assert found["bearing"].tolist() == [90.5, 12.0] and found["lon"].tolist() == [-70.1, -70.66]
    assert "Column 'computed_compass_angle' is used in place of 'compass_angle', in 1 row." in found.attrs["notes"]
    assert sum(note.startswith("Column 'computed_geometry") for note in found.attrs["notes"]) == 1
    text = "id,lon,lat,compass_angle,computed_compass_angle\na,1,2,271.5,90.5\nb,1,2,12,\n"
    (tmp_path / "t.csv").write_text(text)
    assert read_views(tmp_path / "t.csv")["bearing"].tolist() == [90.5, 12.0]
    (tmp_path / "images.json").write_text('{"error": {"message": "Invalid OAuth access token", "code": 190}}')
    with pytest.raises(ValueError, match="images.json: an error in place of photographs.*Invalid OAuth access token"):
        read_views(tmp_path / "images.json")


def test_what_a_table_calls_a_panorama_is_cut_and_the_rest_copied(tmp_path):
    (tmp_path / "images.json").write_text(json.dumps(GRAPH))
    panorama(tmp_path / "1.jpg", 271.5, width=360)
    Image.new("RGB", (40, 20)).save(tmp_path / "2.jpg")
    table = pd.read_csv(cut_views(tmp_path / "images.json", tmp_path / "out", size=32))
    assert table["bearing"].tolist() == [181.5, 1.5, 12.0] and table["_panorama"].tolist() == [1, 1, 2]
    assert table["lon"].tolist() == [-70.65, -70.65, -70.66]


def test_a_table_without_names_of_photographs_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("lon,lat,bearing\n1,2,3\n")
    with pytest.raises(ValueError, match="no column that names photographs; found 'lon', 'lat', 'bearing'"):
        read_views(tmp_path / "t.csv")
    for name in ("bearing", "heading"):
        (tmp_path / "t.csv").write_text(f"id,lon,lat,{name}\na,1,2,90\nb,1,2,NE\n")
        with pytest.raises(ValueError, match=rf"t.csv: column '{name}': not a number at row 2 \(line 3\): 'NE'"):
            read_views(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=f"absent.json: no such file in {tmp_path}"):
        read_views(tmp_path / "absent.json")
    for text in ('{"type": "Topology"}', '{"type": "FeatureCollection", "features": []}', '{"data": []}'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(ValueError, match="holds no photographs"):
            read_views(tmp_path / "t.json")
    (tmp_path / "t.csv").write_text("id,lon,lat,field_of_view\na,1,2,8\nb,1,2,8°\n")
    with pytest.raises(ValueError, match=r"column 'field_of_view': not a number at row 2 \(line 3\): '8°'"):
        read_views(tmp_path / "t.csv")


def test_a_layer_of_points_has_a_system_of_its_own(tmp_path):
    geopandas = pytest.importorskip("geopandas", reason="pip install 'mtclim[maps]'")
    points = geopandas.points_from_xy([-70.65], [-33.44], crs=4326)
    layer = geopandas.GeoDataFrame({"image": ["a.jpg"], "bearing": [90.0]}, geometry=points)
    layer.to_crs(3857).to_file(tmp_path / "v.geojson")
    assert read_views(tmp_path / "v.geojson")[["lon", "lat", "bearing"]].round(6).to_numpy().tolist() == [
        [-70.65, -33.44, 90]
    ]


def test_a_folder_says_which_photographs_are_panoramas_and_takes_no_views_in(tmp_path):
    panorama(tmp_path / "in" / "a.jpg", 0.0)
    Image.new("RGB", (40, 20)).save(tmp_path / "in" / "b.jpg")
    assert read_views(tmp_path / "in")["panorama"].tolist() == [True, False]
    for out, reason in (("in", "lies within"), ("in/views", "lies within"), ("in/../t", "source itself")):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / "table.csv").write_text("image,lon,lat,bearing,roof\n../in/b.jpg,1,2,3,flat\n")
        source = tmp_path / "t" / "table.csv" if "source" in reason else tmp_path / "in"
        with pytest.raises(ValueError, match=reason):
            cut_views(source, tmp_path / out)
    assert read_views(tmp_path / "t" / "table.csv").attrs["notes"][-1] == "Not carried on: 'roof'."


def test_views_of_a_panorama_do_not_take_over_its_building_and_weight(tmp_path):
    panorama(tmp_path / "a.jpg", 0.0)
    Image.new("RGB", (40, 20)).save(tmp_path / "b.jpg")
    (tmp_path / "t.csv").write_text("image,lon,lat,bearing,building,weight\na.jpg,1,2,0,x,3\nb.jpg,1,2,0,y,2\n")
    made = tmp_path / "out" / "table.csv"
    table = pd.read_csv(cut_views(tmp_path / "t.csv", tmp_path / "out", size=32))
    assert table["building"].fillna("").tolist() == ["", "", "y"] and table["weight"].fillna(0).tolist() == [0, 0, 2]
    table.assign(field_of_view=[90, 90, 70], roof=["flat", "gable", "flat"]).to_csv(made, index=False)
    assert list(read_table(made).tasks) == ["roof"], "the field of view is none"


def test_a_panorama_of_deep_grey_pixels_in_a_png_keeps_its_brightness_and_its_heading(tmp_path):
    (tmp_path / "in").mkdir()
    with_heading = PngInfo()
    with_heading.add_itxt("XML:com.adobe.xmp", XMP.format(POSE.format(30.0)))
    grey = np.where(np.arange(1440) < 720, 16_384, 49_152).astype(np.uint16)[None].repeat(720, axis=0)
    Image.fromarray(grey).save(tmp_path / "in" / "a.png", pnginfo=with_heading)
    table = pd.read_csv(cut_views(tmp_path / "in", tmp_path / "out", size=64))
    assert sorted(table["bearing"]) == [120, 300]
    levels = [np.asarray(Image.open(tmp_path / "out" / name)).mean() for name in table["image"]]
    assert np.allclose(sorted(levels), [64, 191], atol=2)
