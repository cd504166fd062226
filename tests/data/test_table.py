"""Tables: the right reading or a TableError that names file, column, rows and the mend; nothing else."""

import csv
import io
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtclim import Tasks, load_config
from mtclim.data.labels import cooccurrence, lprus, partition
from mtclim.data.table import Table, TableError, grid_blocks, read_table

shared = pytest.mark.skipif(
    "MTCLIM_SHARED_DATA" not in os.environ, reason="MTCLIM_SHARED_DATA is not set: the real tables are not part of this"
)


def read(folder: Path, text: str | bytes, tasks=None, name="table.csv", images=False) -> Table:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(folder / name, tasks, require_images=images)


def fails(folder: Path, text: str | bytes, *parts: str, **options) -> str:
    with pytest.raises(TableError) as caught:
        read(folder, text, **options)
    message = str(caught.value)
    for part in (str(folder), *parts):
        assert part in message, message
    return message


def test_the_plain_case(tmp_path):
    table = read(tmp_path, "image,lon,lat,block,roof,note,_x\na.jpg,-70.6,-33.4,7,FLT,n,1\nb.jpg,-70.5,-33.5,8,,m,2\n",
                 {"roof": ["PIT", "FLT"]})  # fmt: skip
    assert list(table.frame) == ["image", "lon", "lat", "block", "roof", "note", "_x"]
    assert table.codes.tolist() == [[1], [-1]] and table.codes.dtype == np.int64
    assert table.paths == [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    assert table.frame["lon"].tolist() == [-70.6, -70.5] and table.has_coordinates
    assert table.frame["block"].tolist() == ["7", "8"] == table.blocks().tolist()
    assert table.labels["roof"].cat.ordered and list(table.labels["roof"].cat.categories) == ["PIT", "FLT"]
    assert table.frame["note"].tolist() == ["n", "m"]


def test_without_yaml_tasks_are_the_columns_that_are_not_reserved(tmp_path):
    header = "image,id,split,weight,municipality,building,block,_note,b,a,Unnamed: 0,\n"
    table = read(
        tmp_path, header + "1,1,train,1,m,1,k,x,no,10,0,0\n2,2,val,2,m,2,k,y,yes,9.0,1,1\n3,2,val,2,m,2,k,y,,,2,2\n"
    )
    assert table.tasks == Tasks({"b": ["no", "yes"], "a": ["9", "10"]})
    assert table.codes.tolist() == [[0, 1], [1, 0], [-1, -1]]


@pytest.mark.parametrize(
    "text",
    [
        "image;lon;lat;a\nx;-70,5;-33,25;é\ny;-70,6;-33,5;u\n",
        "image\tlon\tlat\ta\nx\t-70.5\t-33.25\té\ny\t-70.6\t-33.5\tu\n",
        "image|lon|lat|a\nx|-70.5|-33.25|é\ny|-70.6|-33.5|u\n",
        "sep=;\nimage;lon;lat;a\nx;-70,5;-33,25;é\ny;-70,6;-33,5;u\n",
        'IMAGE, Longitude ,LATITUDE,a \r\nx,"-70,5","-33,25",é\r\ny,-70.6,-33.5,u\r\n',
        "\r\nimage,lon,lat,a,\r\rx, -70.5,-33.25,  é ,\ry,\u221270.6,-33.5,u,\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_delimiters_line_ends_encodings_and_decimal_commas_are_read(tmp_path, text, encoding):
    if "\u2212" in text and encoding in ("latin-1", "cp1252"):
        text = text.replace("\u2212", "-")
    table = read(tmp_path, text.encode(encoding))
    assert table.frame["lon"].tolist() == [-70.5, -70.6] and table.frame["lat"].tolist() == [-33.25, -33.5]
    assert table.tasks == Tasks({"a": ["u", "é"]}) and table.frame["image"].tolist() == ["x", "y"]


def test_whole_floats_and_yaml_names(tmp_path):
    (tmp_path / "tasks.yaml").write_text("n: [1, 2]\nyes: [no, yes]\nv: [1.0, 1.5]\n")
    table = read(tmp_path, "image,n,yes,v\nx,2.0,no,1.0\ny,1,yes,1.5\n", tmp_path / "tasks.yaml")
    assert table.codes.tolist() == [[1, 0, 0], [0, 1, 1]]
    frame = pd.DataFrame({"image": ["x", "y", "z"], "n": [2.0, 1.0, np.nan]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", require_images=False).tasks == Tasks({"n": ["1", "2"]})


def test_nan_is_a_class_only_where_the_tasks_say_so(tmp_path):
    text = "image,a\nx,NaN\ny,b\nz,c\n"
    assert read(tmp_path, text).codes.ravel().tolist() == [-1, 0, 1]
    assert read(tmp_path, text, {"a": ["NaN", "b", "c"]}).codes.ravel().tolist() == [0, 1, 2]
    frame = "image,a\nx,None\ny,NA\nz,b\nw,c\n"
    assert read(tmp_path, frame).tasks == Tasks({"a": ["b", "c"]})
    kept = read_table(tmp_path / "table.csv", require_images=False, na_values=[])
    assert kept.tasks == Tasks({"a": ["b", "c", "NA", "None"]})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"", ["the file is empty"]),
        ("\n \n", ["no header"]),
        ("image,a\n", ["no rows"]),
        ("picture,a\nx,1\n", ["no column 'image'", "'picture'"]),
        ("image\nx\n", ["no column is a task"]),
        ("image,a\nx,b\n,c\n", ["column 'image'", "row 2 (line 3)", "no image"]),
        ("image,a\nx,b\nx,b\n./x,c\n", ["column 'image'", "same image", "row 1 (line 2): 'x', row 2", "row 3"]),
        ("image,a\nx,b\ny,\n", ["no column is a task", "'a': the only class is 'b'"]),
        ("image,a\nx,\ny,\n", ["no column is a task", "'a': no row has a label"]),
        ("image,a,a \nx,b,c\n", ["column 'a'", "two columns"]),
        ("image,lon,longitude,a\nx,1,1,c\n", ["column 'lon'", "two columns"]),
        ("image,a,b\nx,1,2\ny,1\n", ["2 cells in line 3, 3 in the header"]),
        ("image,a\nx,1,2\n", ["3 cells in line 2"]),
        ('image,a\nx,"1\ny,2\n', ["unexpected end of data"]),
        ("image,a\nx,\0\n", ["NUL"]),
        ("image,a\nx," + "y" * 200_000 + "\n", ["line 2", "field larger"]),
        ("image,a\nx," + "y" * 300 + "\nz,b\n", ["no column is a task", "200 characters"]),
        ("image,a\n../x,b\ny,c\n", ["column 'image'", "leaves the table's folder", "'../x'"]),
        ("image,a\n/etc/passwd,b\ny,c\n", ["leaves the table's folder"]),
        ("image,a\n..\\x,b\ny,c\n", ["leaves the table's folder"]),
        ("image,lon,a\nx,1,b\ny,1,c\n", ["column 'lon'", "no column 'lat'"]),
        ("image,lon,lat,a\nx,1,1,b\ny,,1,c\n", ["column 'lon'", "no coordinate", "row 2"]),
        ("image,lon,lat,a\nx,1,1,b\ny,1,north,c\n", ["column 'lat'", "not a number", "'north'"]),
        ("image,lon,lat,a\nx,35,139,b\ny,1,2,c\n", ["column 'lat'", "outside the range (are lon and lat swapped?)"]),
        ("image,lon,lat,a\nx,-33,-70,b\ny,1,2,c\n", ["column 'lat'", "swapped", "row 1"]),
        ("image,lon,lat,a\nx,350000,6300000,b\ny,1,2,c\n", ["column 'lon'", "outside the range", "metres"]),
        ("image,lon,lat,a\nx,inf,2,b\ny,1,2,c\n", ["column 'lon'", "outside the range"]),
        ("image,lon,lat,a\nx,-70.6,-33.4,b\ny,346000,6298000,c\n", ["column 'lon'", "row 2 (line 3): '346000'", "CRS"]),
        ("image,block,a\nx,1,b\ny,,c\n", ["column 'block'", "row 2", "no block"]),
        ("image,a:b\nx,1\ny,2\n", ["'a:b'", "rename the task"]),
        ("image,v\n" + "\n".join(f"{i},{i / 7}" for i in range(50)), ["'v': 50 distinct values"]),
        ("image,v\n" + "\n".join(f"{i},k{i}" for i in range(10_000)), ["'v': 10000 distinct", "YAML"]),
        ("<html>\n<body>hello</body>\n</html>", ["no column 'image'"]),
    ],
)  # fmt: skip
def test_bad_text_is_one_clear_error(tmp_path, text, parts):
    fails(tmp_path, text, *parts)


def test_unknown_classes_and_tasks_are_named_with_the_nearest_known(tmp_path):
    tasks = {"roof": ["FLT", "PIT"], "height": ["H1", "H2"]}
    message = fails(
        tmp_path, "image,roof,height\nx,flt,H1\ny,PIT,H2\n", "column 'roof'", "row 1 (line 2): 'flt'", tasks=tasks
    )
    assert "did you mean 'FLT'?" in message and "one of 'FLT', 'PIT'" in message
    fails(tmp_path, "image,Roof,height\nx,FLT,H1\n", "column 'roof'", "did you mean 'Roof'?", tasks=tasks)
    fails(tmp_path, "image,roof,height\nx,#REF!,H1\n", "a spreadsheet error", tasks=tasks)
    fails(tmp_path, "image,roof,height\nx,,H1\n", "column 'roof'", "no row has a label", tasks=tasks)
    fails(tmp_path, "image,roof\nx,FLT\n", "column 'image'", "cannot be a task", tasks={"image": ["a", "b"]})
    fails(tmp_path, "image,roof\nx,FLT\n", "at least two", tasks={"roof": ["a"]})
    fails(tmp_path, "image,roof\nx,FLT\n", "No such file", tasks=tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [b\nc: }")
    fails(tmp_path, "image,roof\nx,FLT\n", "tasks cannot be read", tasks=tmp_path / "bad.yaml")


def test_ten_thousand_classes_are_read_when_the_tasks_list_them(tmp_path):
    tasks = {"v": [f"k{i}" for i in range(10_000)]}
    assert read(tmp_path, "image,v\n" + "\n".join(f"{i},k{i}" for i in range(10_000)), tasks).tasks.total == 10_000


def test_formulas_stay_text(tmp_path):
    table = read(tmp_path, 'image,a\nx,"=HYPERLINK(""http://x"")"\ny,@b\nz,+1\n')
    assert set(table.tasks["a"]) == {'=HYPERLINK("http://x")', "@b", "+1"}


def test_images_must_exist_when_required(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert read(tmp_path, "image,a\ndeep\\a.jpg,b\n", {"a": ["b", "c"]}, images=True).paths == [tmp_path / "deep/a.jpg"]
    for name in ("b.jpg", "loop.jpg"):
        fails(tmp_path, f"image,a\ndeep/a.jpg,b\n{name},c\n", "no such file", f"row 2 (line 3): '{name}'", images=True)


def test_missing_folder_kind_and_looping_links(tmp_path):
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, part in [
        ("loop.csv", "no such file"),
        ("folder.csv", "no such file"),
        ("t.docx", "unknown kind of table"),
    ]:
        with pytest.raises(TableError, match=part):
            read_table(tmp_path / name)


@pytest.mark.parametrize("kind", ["parquet", "geoparquet", "gpkg"])
@pytest.mark.parametrize("crs", [4326, 32719])
def test_geometry_in_any_crs_becomes_degrees(tmp_path, kind, crs):
    geopandas = pytest.importorskip("geopandas")
    points = geopandas.points_from_xy([-70.6, -70.5], [-33.4, -33.5], crs=4326)
    frame = geopandas.GeoDataFrame({"Image": ["x", "y"], "a": ["b", None], "k": [1, 2]}, geometry=points).to_crs(crs)
    path = tmp_path / f"t.{kind}"
    if kind == "gpkg":
        geopandas.GeoDataFrame({"z": [1]}, geometry=points[:1]).to_file(path, layer="blocks")
        frame.to_file(path, layer="facades")
    else:
        frame.to_parquet(path)
    table = read_table(path, {"a": ["b", "c"]}, require_images=False)
    np.testing.assert_allclose(table.frame["lon"], [-70.6, -70.5], atol=1e-8)
    np.testing.assert_allclose(table.frame["lat"], [-33.4, -33.5], atol=1e-8)
    assert table.codes.tolist() == [[0], [-1]] and "geometry" not in table.frame


def test_bad_geometry(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    from shapely import Point

    for geometry, crs, part in [
        ([Point(1, 2), None], 4326, "column 'geometry': no geometry at row 2"),
        ([Point(1, 2), Point()], 4326, "column 'geometry': no geometry at row 2"),
        ([Point(1, 2), Point(1, 3)], None, "column 'geometry': no coordinate reference system"),
        ([Point(1, 2), Point(1e9, 3e9)], 32719, "column 'lon'"),
        ([Point(1, 2), Point(float("nan"), float("nan"))], 4326, "column 'geometry': no geometry at row 2"),
    ]:
        frame = geopandas.GeoDataFrame({"image": ["x", "y"], "a": ["b", "c"]}, geometry=geometry, crs=crs)
        frame.to_parquet(tmp_path / "t.parquet")
        with pytest.raises(TableError, match=part):
            read_table(tmp_path / "t.parquet", require_images=False)
    frame = frame.set_geometry([Point(1, 2).buffer(1e-3)] * 2, crs=4326)
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", require_images=False).frame["lon"].between(0.99, 1.01).all()


def test_columns_win_over_geometry_and_need_no_geopandas(tmp_path, monkeypatch):
    geopandas = pytest.importorskip("geopandas")
    points = geopandas.points_from_xy([5, 6], [5, 6], crs=4326)
    frame = geopandas.GeoDataFrame(
        {"image": ["x", "y"], "a": ["b", "c"], "lon": [1, 2], "lat": [3, 4]}, geometry=points
    )
    frame.to_parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(__import__("sys").modules, "geopandas", None)
    assert read_table(tmp_path / "t.parquet", require_images=False).frame["lon"].tolist() == [1.0, 2.0]


def test_damaged_binary_tables(tmp_path):
    pd.DataFrame({"image": ["x", "y"], "a": ["b", "c"]}).to_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    for name, content in [
        ("a.parquet", whole[: len(whole) // 2]),
        ("b.parquet", b"PAR1"),
        ("c.gpkg", b"SQLite format 3\0" * 9),
    ]:
        fails(tmp_path, content, "cannot be read as", name=name)


def test_parquet_with_odd_types(tmp_path):
    frame = pd.DataFrame(
        {
            "image": ["x", "y", "z"],
            "flag": [True, False, None],
            "cat": pd.Categorical(["b", None, "a"], categories=["b", "a", "unused"]),
            "raw": [b"q", b"r", None],
            "lists": [[1], [2], None],
            "when": pd.to_datetime(["2020-01-01", "2021-01-01", None]),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", require_images=False)
    assert (
        table.tasks["flag"] == ("False", "True")
        and table.tasks["cat"] == ("a", "b")
        and table.tasks["raw"] == ("q", "r")
    )


def test_for_prediction_labels_may_be_absent(tmp_path):
    (tmp_path / "t.csv").write_text("image,roof\nx,\ny,\n")
    table = read_table(tmp_path / "t.csv", {"roof": ["a", "b"], "h": ["1", "2"]}, False, require_labels=False)
    assert (table.codes == -1).all() and table.codes.shape == (2, 2)


def test_digest_follows_what_is_used(tmp_path):
    text = "image,lon,lat,a,_n\nx,1,2,b,1\ny,1,2,c,1\n"
    digest = read(tmp_path, text).digest
    assert (
        digest == read(tmp_path, text.replace(",1\n", ",2\n")).digest == read(tmp_path, text.replace(",", ";")).digest
    )
    for old, new in [("x,1", "z,1"), ("1,2,b", "1,3,b"), ("2,c", "2,")]:
        assert read(tmp_path, text.replace(old, new), {"a": ["b", "c"]}).digest != digest
    assert read(tmp_path, text, {"a": ["c", "b"]}).digest != digest


def test_grid_blocks_are_squares_in_metres():
    from pyproj import Geod

    rng = np.random.default_rng(0)
    lon, lat = -70.6 + rng.uniform(-0.05, 0.05, 2000), -33.4 + rng.uniform(-0.05, 0.05, 2000)
    blocks = grid_blocks(pd.Series(lon, index=range(5, 2005)), pd.Series(lat), 500)
    assert blocks.index[0] == 5 and blocks.str.startswith("19S_").all()
    area = 0.1 * np.cos(np.radians(33.4)) * 111.32 * 0.1 * 110.9
    assert 0.9 * area / 0.25 < blocks.nunique() < 1.15 * area / 0.25
    for rows in blocks.reset_index(drop=True).groupby(blocks.to_numpy()).groups.values():
        apart = Geod(ellps="WGS84").inv(
            np.full(len(rows), lon[rows[0]]), np.full(len(rows), lat[rows[0]]), lon[rows], lat[rows]
        )
        assert apart[2].max() <= 500 * 2**0.5 * 1.002
    assert len(set(grid_blocks([-70.6, 139.7, 8.5], [-33.4, 35.7, 47.4]))) == 3
    for bad in (lambda: grid_blocks([np.nan], [1.0]), lambda: grid_blocks([1.0], [1.0], 0)):
        with pytest.raises(ValueError):
            bad()


# --- tables that are read, and then don't do for training ---


def rows_of(blocks: list, labels: list) -> str:
    """A table of so many rows, their blocks and labels repeated in turn."""
    rows = [f"{i}.jpg,{b},{a}" for i, (b, a) in enumerate(zip(blocks, labels, strict=True))]
    return "\n".join(["image,block,roof", *rows])


@pytest.mark.parametrize(
    ("blocks", "labels", "part"),
    [
        (["b"] * 40, ["FLT", "PIT"] * 20, "no row is left for val and test: found 40 balanced rows in 1 blocks, the largest of 40"),
        (["a", "b"] * 20, ["FLT", "PIT"] * 20, "no row is left for test"),
    ],
    ids=["one block", "two blocks"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:partition")
def test_tables_that_cannot_be_split_are_refused_before_training(tmp_path, blocks, labels, part):
    from mtclim.prepare import prepare

    (tmp_path / "t.csv").write_text(rows_of(blocks, labels))
    with pytest.raises(TableError, match=part) as caught:
        prepare(load_config("demo", data=str(tmp_path / "t.csv"), keep=1.0), images=False)
    assert str(tmp_path / "t.csv") in str(caught.value)


def test_ten_rows_and_a_block_larger_than_a_split_are_prepared(tmp_path):
    from mtclim.prepare import prepare

    (tmp_path / "ten.csv").write_text(rows_of(list("abcde") * 2, ["FLT", "PIT"] * 5))
    (tmp_path / "large.csv").write_text(rows_of(["large"] * 60 + list("abcd") * 10, ["FLT", "PIT"] * 50))
    data = prepare(load_config("demo", data=str(tmp_path / "ten.csv"), keep=1.0), images=False)
    assert set(data.split) == {"train", "val", "test"} and len(data.split) == 10
    with pytest.warns(UserWarning, match=r"partition: reached the shares .* the largest, 'large', has 60 rows"):
        data = prepare(
            load_config(
                "demo", data=str(tmp_path / "large.csv"), keep=1.0, train_share=0.4, val_share=0.3, test_share=0.3
            ),
            images=False,
        )
    assert data.split.groupby(data.blocks.to_numpy()).nunique().max() == 1 and set(data.split) == {
        "train",
        "val",
        "test",
    }


# --- any table ---

cell = st.one_of(
    st.sampled_from(["", "a", "b", "H1", "H2", "2", "2.0", "1,5", "NaN", "#N/A", "=1+1", "-70.6", "1e999", "é", '"']),
    st.text(max_size=8),
    st.floats().map(str),
)  # fmt: skip
column = st.sampled_from(
    [
        "image",
        "Image ",
        "lon",
        "lat",
        "Longitude",
        "latitude",
        "block",
        "height",
        "roof",
        "id",
        "",
        "_n",
        "a:b",
        "geometry",
    ]
)


@st.composite
def csv_tables(draw) -> bytes:
    names = (
        draw(st.lists(column, max_size=6))
        if draw(st.integers(0, 9)) == 0
        else ["image"] + draw(st.lists(column, max_size=4))
    )
    rows = draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), max_size=10))
    if draw(st.booleans()):
        rows = [[f"{i}.jpg", *row[1:]] for i, row in enumerate(rows)]
    if draw(st.booleans()):
        plausible = {"lon": st.floats(-181, 181), "lat": st.floats(-91, 91)}
        for i, name in enumerate(names):
            if name in plausible:
                rows = [[*row[:i], str(draw(plausible[name])), *row[i + 1 :]] for row in rows]
    delimiter, end = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = [
        delimiter.join('"' + c.replace('"', '""') + '"' if draw(st.booleans()) else c for c in row)
        for row in [names, *rows]
    ]
    raw = end.join(lines).encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), errors="replace")
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw


def check_sound(table: Table) -> None:
    """What is promised of every table that is read, and that the next step takes it."""
    assert table.codes.shape == (len(table.frame), len(table.tasks)) and (table.codes < table.tasks.sizes).all()
    assert isinstance(table.frame.index, pd.RangeIndex) and table.frame["image"].is_unique
    if table.has_coordinates:
        assert table.frame["lon"].between(-180, 180).all() and table.frame["lat"].between(-90, 90).all()
        table.blocks()
    assert len(table.digest) == 64 and len(table.paths) == len(table.frame)
    cooccurrence(table.labels), lprus(table.labels)
    partition(table.labels)


def check_every(strategy, count: int, check) -> None:
    """Call ``check`` with ``count`` examples of the strategy."""
    every = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    every(given(strategy)(check))()


def counts(short: int, full: int):
    """So many tables in the tests, so many in the soak."""
    return pytest.mark.parametrize("count", [short, pytest.param(full, marks=pytest.mark.soak)])


TASKS = {"height": ["H1", "H2", "2"], "roof": ["a", "b"]}


@counts(300, 1500)
def test_any_text_is_read_or_refused(tmp_path, count, record_property):
    outcomes = Counter()

    def check(example: tuple) -> None:
        raw, tasks = example
        try:
            table = read(tmp_path, raw, tasks)
        except TableError as error:
            outcomes["refused"] += 1
            assert str(tmp_path) in str(error) and len(str(error)) < 4000
        else:
            outcomes["read"] += 1
            check_sound(table)

    check_every(st.tuples(csv_tables(), st.sampled_from([None, TASKS])), count, check)
    assert outcomes["refused"] + outcomes["read"] >= count  # nearly all are refused: they are that wild
    for outcome, number in outcomes.items():
        record_property(outcome, number)


def careless(draw, rows: list[list[str]]) -> list[list[str]]:
    """One mistake, or one oddity, that people and spreadsheets make."""
    header, n = rows[0], len(rows) - 1
    row, column = rows[draw(st.integers(1, n))], draw(st.integers(0, len(header) - 1))
    odd = [
        "",
        "=1+1",
        "@x",
        "-",
        "#REF!",
        "NaN",
        "n/a",
        "x" * 5000,
        "../../etc/passwd",
        "/abs.jpg",
        "-33,45",
        "1e400",
        "\u202e",
        "H1 ",
    ]
    kind = draw(st.integers(0, 9))
    if kind == 0:
        row[column] = draw(st.sampled_from(odd))
    elif kind == 1:
        for other in rows[1:]:  # a whole column in the style of another country, or empty
            other[column] = draw(st.sampled_from([other[column].replace(".", ","), "", other[column].lower()]))
    elif kind == 2:
        header[column] = draw(st.sampled_from(["", "image", "Image", "lat", "bloc", "a:b", "geometry", "_x", "weight"]))
    elif kind == 3:
        rows.append(list(row))
    elif kind == 4:
        a, b = (header.index(name) if name in header else 0 for name in ("lon", "lat"))
        for other in rows[1 : 1 + draw(st.sampled_from([1, n]))]:
            other[a], other[b] = other[b], other[a]
    elif kind == 5 and {"lon", "lat"} <= set(header):  # metres among degrees
        row[header.index("lon")], row[header.index("lat")] = "346000.5", "6298000.25"
    elif kind == 6:
        row.extend(draw(st.sampled_from([[""], ["more"], ["", "", "x"]])))
    elif kind == 7:
        del rows[draw(st.integers(1, n)) :]
    elif kind == 8:
        row[column] = f"new-{draw(st.integers(0, 9))}"
    else:
        del row[column:]
    return rows


@st.composite
def careless_tables(draw) -> bytes:
    """A good table of 1 to 60 rows with up to four mistakes, in any encoding, delimiter and line end."""
    n, names = draw(st.integers(1, 60)), draw(st.sampled_from([["height"], ["height", "roof"]]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    columns = {"image": [f"a/{i}.jpg" for i in range(n)]}
    if draw(st.booleans()):
        spread = draw(st.sampled_from([0.001, 0.1]))
        columns |= {"lon": (-70.6 + spread * rng.random(n)).round(6).astype(str), "lat": (-33.4 + spread * rng.random(n)).round(6).astype(str)}  # fmt: skip
    if draw(st.booleans()):
        columns["block"] = rng.integers(0, draw(st.integers(1, 9)), n).astype(str)
    columns |= {name: rng.choice(TASKS[name][:2], n) for name in names}
    rows = [list(columns), *map(list, zip(*(map(str, values) for values in columns.values()), strict=True))]
    for _ in range(draw(st.integers(0, 4))):
        rows = careless(draw, rows) if len(rows) > 1 and min(map(len, rows)) == len(rows[0]) else rows
    delimiter, end = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace")


@counts(600, 3000)
@pytest.mark.filterwarnings("ignore:partition")
def test_careless_tables_are_prepared_or_refused(tmp_path, count, record_property):
    """Through the door that training goes through: read, balanced, partitioned, or one TableError."""
    from mtclim.prepare import prepare

    outcomes = Counter()
    path, with_tasks = tmp_path / "table.csv", tmp_path / "tasks.yaml"
    with_tasks.write_text("{height: [H1, H2, '2'], roof: [a, b]}")
    configs = {
        given: load_config("demo", data=str(path), tasks=str(with_tasks) if given else "") for given in (True, False)
    }

    def check(example: tuple) -> None:
        raw, tasks = example
        path.write_bytes(raw)
        try:
            data = prepare(configs[tasks], images=False)
        except TableError as error:
            outcomes["refused"] += 1
            assert str(path) in str(error) and len(str(error)) < 4000
        else:
            outcomes["prepared"] += 1
            assert set(data.split) == {"train", "val", "test"}
            assert data.blocks is None or data.split.groupby(data.blocks.to_numpy()).nunique().max() == 1

    check_every(st.tuples(careless_tables(), st.booleans()), count, check)
    assert min(outcomes["prepared"], outcomes["refused"]) > count / 20
    for outcome, number in outcomes.items():
        record_property(outcome, number)


values = st.one_of(st.none(), st.floats(), st.integers(), st.booleans(), st.text(max_size=5), st.binary(max_size=5))


@counts(100, 500)
def test_any_parquet_is_read_or_refused(tmp_path, count, record_property):
    outcomes = Counter()
    check_every(st.data(), count, lambda data: outcomes.update([parquet_outcome(tmp_path, data)]))
    for outcome, number in outcomes.items():
        record_property(outcome, number)


def parquet_outcome(folder: Path, data) -> str:
    """What became of one table, whose cells are drawn here."""
    rows = data.draw(st.integers(0, 6))
    kinds = [
        values,
        st.floats(),
        st.integers(-(2**62), 2**62),
        st.text(max_size=5),
        st.booleans(),
        st.sampled_from(["a", None]),
    ]
    frame = pd.DataFrame({"image": [f"{i}.jpg" for i in range(rows)]})
    for name in data.draw(st.lists(column, unique=True, max_size=5)):
        kind = data.draw(st.sampled_from(kinds))
        frame[name] = pd.Series(data.draw(st.lists(kind, min_size=rows, max_size=rows)), dtype=object).infer_objects()
    try:
        frame.to_parquet(folder / "t.parquet")
    except Exception:  # a mixture that Parquet cannot hold
        return "no Parquet"
    try:
        table = read_table(folder / "t.parquet", require_images=False)
    except TableError as error:
        assert str(folder) in str(error)
        return "refused"
    check_sound(table)
    return "read"


# --- real tables ---


@shared
def test_real_facades(tmp_path):
    source = Path(os.environ["MTCLIM_SHARED_DATA"]) / "facades"
    answer = "[no, yes]"
    (tmp_path / "tasks.yaml").write_text(
        "city: [nyc, tokyo, zurich]\n"
        + "".join(f"{t}: {answer}\n" for t in ("brick", "rustication", "siding", "stucco", "metal", "wood"))
    )
    table = read_table(source / "labels.csv", tmp_path / "tasks.yaml")
    assert len(table.frame) == 971 and len(table.tasks) == 7 and not table.has_coordinates
    with (source / "labels.csv").open(newline="") as lines:
        for i, row in enumerate(csv.DictReader(lines)):
            for task in table.tasks:
                label = table.frame[task].iloc[i]
                assert (row[task] == "" and pd.isna(label)) or row[task] == label
    assert (table.codes == -1).any() and partition(table.labels).nunique() == 3


@shared
def test_real_medellin(tmp_path):
    source = Path(os.environ["MTCLIM_SHARED_DATA"]) / "medellin" / "Raw_Data_Information.csv"
    table = read_table(source, require_images=False)
    assert list(table.tasks) == ["typology", "stories", "Economic_Stratum"] and len(table.frame) == 9989
    assert table.tasks["stories"][:3] == ("1", "2", "3") and table.labels["stories"].isna().sum() == 1
    assert table.frame["lon"].between(-75.7, -75.4).all() and table.frame["lat"].between(6.1, 6.4).all()
    split = partition(table.labels, table.blocks(500))
    assert split.groupby(table.blocks(500)).nunique().max() == 1
    shutil.copy(source, tmp_path / "t.csv")
    with pytest.raises(TableError, match="column 'stories': unknown class"):
        read_table(tmp_path / "t.csv", {"stories": ["1", "2", "3"]}, require_images=False)
