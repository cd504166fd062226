"""Files of every kind: the same table in each, a clear error for the rest, and one answer to what is missing."""

import gzip
import io
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtclim.data.reading import MISSING, Source, TableError, find_geometry, numbers, numeric, read_frame, read_layer
from mtclim.data.table import read_table

geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")


def photos(crs=4326):
    points = geopandas.points_from_xy([-70.6, -70.5, -70.4], [-33.4, -33.5, -33.6], crs=4326)
    columns = {"image": ["a.png", "b.png", "c.png"], "roof": ["flat", "gable", None], "storeys": [1, 2, 10]}
    return geopandas.GeoDataFrame(columns, geometry=points).to_crs(crs)


def areas(size):
    frame = photos()
    squares = [shapely.box(p.x - size, p.y - size, p.x + size, p.y + size) for p in frame.geometry]
    return frame.set_geometry(squares, crs=4326)


WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "csv.gz": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t", encoding="utf-16"),
    "parquet": lambda frame, path: frame.to_parquet(path),
    "geoparquet": lambda frame, path: frame.to_parquet(path, write_covering_bbox=True, schema_version="1.1.0"),
    "pq": lambda frame, path: frame.to_parquet(path, geometry_encoding="geoarrow", schema_version="1.1.0"),
    "feather": lambda frame, path: frame.to_feather(path),
    "gpkg": lambda frame, path: frame.to_file(path),
    "geojson": lambda frame, path: frame.to_file(path),
    "json": lambda frame, path: frame.to_file(path, driver="GeoJSON"),
    "fgb": lambda frame, path: frame.to_file(path),
    "shp": lambda frame, path: frame.to_file(path),
    "xlsx": lambda frame, path: pd.DataFrame(frame.to_wkt()).to_excel(path, index=False),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_table_gives_the_same(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    WRITERS[kind](photos(), path)
    table = read_table(path, require_images=False)
    assert table.tasks.to_dict() == {"roof": ["flat", "gable"], "storeys": ["1", "2", "10"]}
    order = np.argsort(table.frame["image"])  # a FlatGeobuf orders its rows by place
    assert table.codes[order].tolist() == [[0, 0], [1, 1], [-1, 2]]
    expected = [[-70.6, -33.4], [-70.5, -33.5], [-70.4, -33.6]]
    np.testing.assert_allclose(table.frame[["lon", "lat"]].iloc[order], expected)
    assert any("bbox" in note for note in table.notes) == (kind == "geoparquet")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_layer_has_its_geometry(tmp_path, kind):
    frame = areas(0.01)
    WRITERS[kind](frame, tmp_path / f"t.{kind}")
    layer = read_layer(tmp_path / f"t.{kind}").sort_values("image", ignore_index=True)
    assert layer.crs == 4326 and len(layer) == 3 and "roof" in layer
    assert layer.normalize().geom_equals_exact(frame.normalize(), 1e-6).all()


def test_a_layer_needs_a_geometry_and_its_system(tmp_path, monkeypatch):
    photos().set_crs(None, allow_override=True).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=r"t.parquet: the layer has no coordinate reference system\. Set it"):
        read_layer(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("name,geometry\na,POINT (350000 6300000)\n")
    with pytest.raises(TableError, match="no coordinate reference system"):
        read_layer(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("name\na\n")
    with pytest.raises(TableError, match="has no geometry"):
        read_layer(tmp_path / "t.csv")
    monkeypatch.chdir(tmp_path)
    for absent in ("absent.gpkg", "absent", "absent.csv"):
        for read in (read_layer, read_table):
            with pytest.raises(TableError, match=f"^{absent}: no such file in {tmp_path}. Check"):
                read(absent)
    with pytest.raises(TableError, match="is a URL. Download the file"):
        read_frame("https://example.org/photos.csv")


def test_of_several_layers_or_sheets_the_only_one_that_is_meant(tmp_path):
    path = tmp_path / "t.gpkg"
    photos().iloc[:0].to_file(path, layer="old")
    photos().drop(columns="image").to_file(path, layer="trees")
    photos().to_file(path, layer="photos")
    assert len(read_frame(path).frame) == 3
    areas(0.01).drop(columns="image").to_file(path, layer="blocks")
    assert set(read_layer(path).geom_type) == {"Polygon"}
    photos().to_file(path, layer="more")
    with pytest.raises(TableError, match="several layers have a column 'image' and rows: 'photos', 'more'"):
        read_frame(path)
    areas(0.02).to_file(path, layer="parcels")
    with pytest.raises(TableError, match=r"rows: 'blocks', 'parcels'\. Name .* '.*t\.gpkg\|layername=blocks'"):
        read_layer(path)
    assert read_layer(f"{path}|layername=parcels").total_bounds == pytest.approx(areas(0.02).total_bounds)
    assert set(read_layer(f"{path}|layername=trees").geom_type) == {"Point"}
    assert len(read_table(f"{path}|layername=photos", require_images=False).frame) == 3
    with pytest.raises(TableError, match=r"t.gpkg: no layer 'paths'\. Name one of .*'parcels'"):
        read_layer(f"{path}|layername=paths")
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        pd.DataFrame({"note": ["read me"]}).to_excel(book, sheet_name="about", index=False)
        pd.DataFrame({"Image ": ["a"], "roof": ["x"]}).to_excel(book, sheet_name="data", index=False, startrow=2)
    source = read_frame(tmp_path / "t.xlsx")
    assert list(source.frame) == ["Image ", "roof"] and source.lines == [4]
    assert list(read_frame(tmp_path / "t.xlsx", key="note").frame["note"]) == ["read me"]


def test_a_row_of_zeros_in_a_spreadsheet_is_a_row(tmp_path):
    pd.DataFrame({"taxonomy": ["CR", 0, None], "weight": [1, 0, None]}).to_excel(tmp_path / "t.xlsx", index=False)
    assert read_frame(tmp_path / "t.xlsx", key="taxonomy").frame["weight"].tolist() == [1, 0]


def test_a_spreadsheet_error_is_an_error(tmp_path):
    pd.DataFrame({"image": ["a", "b", "c"], "roof": ["x", "#REF!", "y"]}).to_excel(tmp_path / "t.xlsx", index=False)
    with pytest.raises(TableError, match=r"column 'roof': a spreadsheet error at row 2 \(line 3\): '#REF!'"):
        read_table(tmp_path / "t.xlsx", require_images=False)


@pytest.mark.parametrize(
    "name",
    ["t.parquet", "t.feather", "t.gpkg", "t.geojson", "t.fgb", "t.shp", "t.xlsx", "t.csv.gz"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_damaged_or_something_else_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"no such thing" * 50)
    with pytest.raises(TableError, match=f"{name}: (cannot be read as|reading it needs a package)"):
        read_frame(tmp_path / name)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    photos().to_file(tmp_path / "t.geojson")
    monkeypatch.setitem(__import__("sys").modules, "pyogrio", None)
    with pytest.raises(TableError, match="reading it needs a package that is not installed.*pyogrio.*Install it"):
        read_frame(tmp_path / "t.geojson")


def test_a_position_that_needs_geopandas_says_so(tmp_path, monkeypatch):
    photos().to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("image,roof,geometry\na,flat,POINT (1 2)\nb,gable,POINT (1 3)\n")
    monkeypatch.setitem(__import__("sys").modules, "geopandas", None)
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(TableError, match=f"{name}: reading it needs a package that is not installed.*geopandas"):
            read_table(tmp_path / name, require_images=False)


def test_numbers_of_files_are_no_geometry(tmp_path):
    digests = [bytes([0, 1, 2, 3] * 8), bytes([1] * 32)]
    frame = pd.DataFrame({"image": ["a", "b"], "roof": ["x", "y"], "raw": digests, "hex": [d.hex() for d in digests]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert not read_table(tmp_path / "t.parquet", {"roof": ["x", "y"]}, require_images=False).has_coordinates


def test_a_geopackage_without_geometry_is_a_table(tmp_path):
    geopandas.GeoDataFrame(
        pd.DataFrame({"image": ["a", "b"], "roof": ["x", "y"]}), geometry=[None, None], crs=4326
    ).to_file(tmp_path / "t.gpkg")
    table = read_table(tmp_path / "t.gpkg", require_images=False)
    assert not table.has_coordinates and table.tasks.to_dict() == {"roof": ["x", "y"]}
    with sqlite3.connect(tmp_path / "t.gpkg") as base:
        assert base.execute("select count(*) from t").fetchone() == (2,)


POINT = shapely.Point(-70.6, -33.4)


@pytest.mark.parametrize(
    ("value", "crs"),
    [
        (POINT.wkt, 4326),
        (POINT.wkb, 4326),
        (POINT.wkb_hex, 4326),
        (shapely.to_wkb(shapely.set_srid(POINT, 4326), include_srid=True, hex=True), 4326),
        (shapely.to_wkb(shapely.set_srid(POINT, 32719), include_srid=True), 32719),
        ("SRID=32719;POINT (350000 6300000)", 32719),
        (shapely.to_wkb(POINT, byte_order=0), 4326),
        (shapely.to_wkb(POINT, byte_order=0, hex=True), 4326),
        ("POINT Z (-70.6 -33.4 520)", 4326),
        (" polygon ((0 0, 0 1, 1 1, 0 0))", 4326),
        ("POINT (350000 6300000)", None),
    ],
)
def test_a_geometry_in_a_column_is_read(tmp_path, value, crs):
    pd.DataFrame({"image": ["a", "b"], "where": [value, None]}).to_parquet(tmp_path / "t.parquet")
    geometry = find_geometry(read_frame(tmp_path / "t.parquet"))
    assert (geometry.crs is None) if crs is None else (geometry.crs == crs)
    assert geometry.isna().tolist() == [False, True]


def test_a_missing_text_before_the_first_geometry_hides_it_not(tmp_path):
    (tmp_path / "t.csv").write_text("image,wkt\na,NA\nb,POINT (1 2)\n")
    assert find_geometry(read_frame(tmp_path / "t.csv")).isna().tolist() == [True, False]


def test_a_cell_that_is_no_geometry_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("image,geometry,a\nx,POINT (1 2),b\ny,POINT (1,c\n")
    with pytest.raises(TableError, match=r"column 'geometry': not a geometry at row 2 \(line 3\): 'POINT \(1'"):
        read_table(tmp_path / "t.csv", require_images=False)
    (tmp_path / "t.csv").write_text("image,geometry,a\nx,SRID=32719;POINT (1 2),b\ny,SRID=4326;POINT (1 3),c\n")
    with pytest.raises(TableError, match=r"several coordinate reference systems \(SRID '32719', '4326'\)"):
        read_table(tmp_path / "t.csv", require_images=False)


def test_of_several_geometries_the_one_of_that_name_is_meant(tmp_path):
    rows = {"image": ["a"], "footprint": ["POLYGON ((0 0, 0 1, 1 1, 0 0))"], "place": ["POINT (-70.6 -33.4)"]}
    pd.DataFrame(rows).rename(columns={"place": "geometry"}).to_csv(tmp_path / "t.csv", index=False)
    geometry = find_geometry(read_frame(tmp_path / "t.csv"))
    assert geometry.iloc[0].equals(shapely.Point(-70.6, -33.4))
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(TableError, match="several columns hold a geometry: 'footprint', 'place'"):
        find_geometry(read_frame(tmp_path / "t.csv"))


# --- what is missing ---


def cells(values, **options) -> pd.Series:
    return Source(Path("t.csv"), pd.DataFrame({"a": values})).cells("a", **options)


@pytest.mark.parametrize("values", [["a", "", " ", "b"], ["a", None, np.nan, "b"], ["a", "NA", "<NA>", "b"]])
@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_one_answer_to_what_is_missing(values, dtype):
    assert cells(pd.Series(values, dtype=dtype)).tolist() == ["a", "", "", "b"]


def test_what_is_missing_is_noted_with_its_count():
    source = Source(Path("t.csv"), pd.DataFrame({"a": ["a", "NA", "null", "NA", None]}))
    assert source.cells("a", keep=["null"], means="no answer").tolist() == ["a", "", "null", "", ""]
    assert source.notes == ["Column 'a': 'NA' in 2 rows taken as no answer."]


def test_numbers_come_as_whole_and_with_commas():
    for column in (pd.Series([1.0, 2.5, np.nan]), pd.Series([1, 2.5, None]), pd.Series([1.0, 2.5, np.nan], dtype="f4")):
        assert cells(column).tolist() == ["1", "2.5", ""] and numeric(cells(column))
    found = cells(["1,5", "\u22122", "x", "NaN", "inf"])
    np.testing.assert_equal(numbers(found), [1.5, -2, np.nan, np.nan, np.inf])
    assert not numeric(found) and not numeric(cells([None, ""]))
    assert np.isnan(numbers(["1_0", "0x1", "1.2.3", "", "\uff11"])).all()


def test_texts_are_cleaned_unless_they_are_paths():
    assert cells(["a  b", " a\u00a0b ", b"a b"]).tolist() == ["a b"] * 3
    assert cells(["a  b", " a\u00a0b "], clean=False).tolist() == ["a  b", " a\u00a0b "]


# --- what is written is read back ---

name = st.one_of(
    st.text(min_size=1, max_size=6), st.sampled_from([*MISSING, "1", "01", "1.0", "1,0", "a;b", '"', "=1"])
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(name, min_size=2, max_size=5), st.booleans())
def test_every_class_that_a_table_accepts_is_read_back(tmp_path, names, listed):
    """What CSV, a packed CSV, Parquet and a GeoPackage say of a table is the same, whatever its classes are called."""
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(len(names))], "a": names})
    tasks = {"a": list(dict.fromkeys(names))} if listed else None
    frame.to_parquet(tmp_path / "t.parquet")
    try:
        first = read_table(tmp_path / "t.parquet", tasks, require_images=False, na_values=None if listed else [])
    except TableError:
        return
    written = first.frame[["image", "a"]]
    assert not listed or written["a"].tolist() == names
    written.astype(object).to_parquet(tmp_path / "u.parquet")
    written.to_csv(tmp_path / "u.csv", index=False)
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(written.to_csv(index=False, sep=";").encode("utf-8-sig")))
    for kind in ("parquet", "csv", "csv.gz"):
        again = read_table(tmp_path / f"u.{kind}", first.tasks, require_images=False)
        assert again.tasks == first.tasks and again.codes.tolist() == first.codes.tolist(), kind
        assert again.digest == first.digest


def test_a_file_of_another_encoding_and_delimiter(tmp_path):
    text = "taxonomy;conversion\nCR;Casa é\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        pd.testing.assert_frame_equal(
            read_frame(tmp_path / "t.csv", key="taxonomy").frame.astype(object),
            pd.read_csv(io.StringIO(text), sep=";", dtype=object).astype(object),
        )
