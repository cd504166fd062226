"""Tables: the right reading or a TableError that names file, column, rows and the mend; nothing else."""

import csv
import io
import os
import shutil
import unicodedata
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtclim import Tasks, load_config
from mtclim.data.columns import grid_blocks
from mtclim.data.labels import cooccurrence, lprus, partition
from mtclim.data.table import RESERVED, Table, TableError, read_table

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


def test_texts_for_missing_may_be_given_as_numbers(tmp_path):
    text = "image,n\nx,-99\ny,1\nz,2\n"
    for values in (-99, [-99], ["-99"], [-99.0]):
        (tmp_path / "t.csv").write_text(text)
        assert read_table(tmp_path / "t.csv", require_images=False, na_values=values).tasks == Tasks({"n": ["1", "2"]})


def test_numbers_of_64_bits_stay_what_they_are_beside_empty_cells(tmp_path):
    numbers = pd.array(range(617700169958293500, 617700169958293540), dtype="Int64")
    frame = pd.DataFrame({"image": [f"{i}" for i in range(40)], "a": ["u", "v"] * 20, "building": numbers})
    frame.loc[3, "building"] = pd.NA
    frame.to_parquet(tmp_path / "t.parquet")
    files = [tmp_path / "t.parquet"]
    if geopandas := pytest.importorskip("geopandas", reason="pip install 'mtclim[maps]'"):
        places = geopandas.points_from_xy(np.linspace(16, 17, 40), np.full(40, 48.0))
        geopandas.GeoDataFrame(frame, geometry=places, crs=4326).to_file(tmp_path / "t.gpkg")
        files.append(tmp_path / "t.gpkg")
    for file in files:
        building = read_table(file, require_images=False).frame["building"]
        assert building.dropna().tolist() == [str(n) for n in numbers if n is not pd.NA and n != 617700169958293503]


def test_a_thousand_is_no_one_and_no_decimal(tmp_path):
    table = read(tmp_path, 'image,a\nx,1\ny,"1,000"\nz,"1,0"\nw,2.00\n')
    assert table.tasks == Tasks({"a": ["1", "1,000", "2"]})
    with pytest.raises(TableError, match="column 'weight': a thousand or a decimal comma at row 2"):
        read(tmp_path, 'image,a,weight\nx,u,2\ny,v,"1,200"\n')
    assert read(tmp_path, 'image,a,weight\nx,u,"0,5"\ny,v,"1,25"\n').frame["weight"].tolist() == [0.5, 1.25]


def test_a_box_in_a_picture_is_no_position(tmp_path):
    for names, scale in ((("x", "y", "w", "h"), 1), (("x", "y", "width", "height"), 60), (("x", "y", "p", "q"), 1)):
        values = scale * np.random.default_rng(0).random((4, 4)).round(3)
        rows = "\n".join(f"{i},{'uv'[i % 2]},{','.join(map(str, row))}" for i, row in enumerate(values))
        table = read(tmp_path, f"image,a,{','.join(names)}\n{rows}\n", {"a": ["u", "v"]})
        assert not table.has_coordinates


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"", ["no header"]),
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
        ("image,a\n../x,b\ny,c\n", ["column 'image'", "leaves the folder of the table", "'../x'"]),
        ("image,a\n/etc/passwd,b\ny,c\n", ["leaves the folder of the table"]),
        ("image,a\n..\\x,b\ny,c\n", ["leaves the folder of the table"]),
        ("image,lon,a\nx,1,b\ny,1,c\n", ["column 'lon'", "no column 'lat'"]),
        ("image,lon,lat,a\nx,1,1,b\ny,,1,c\n", ["column 'lon'", "no coordinate", "row 2"]),
        ("image,lon,lat,a\nx,1,1,b\ny,1,north,c\n", ["column 'lat'", "not a number", "'north'"]),
        ("image,lon,lat,a\nx,35,139,b\ny,1,2,c\n", ["column 'lat'", "outside the range (are lon and lat swapped?)"]),
        ("image,lon,lat,a\nx,-33,-70,b\ny,1,2,c\n", ["column 'lat'", "swapped", "row 1"]),
        ("image,lon,lat,a\nx,350000,6300000,b\ny,1,2,c\n", ["column 'lon'", "outside the range", "Metres"]),
        ("image,lon,lat,a\nx,inf,2,b\ny,1,2,c\n", ["column 'lon'", "outside the range"]),
        ("image,lon,lat,a\nx,-70.6,-33.4,b\ny,346000,6298000,c\n", ["column 'lon'", "row 2 (line 3): '346000'", "CRS"]),
        ("image,block,a\nx,1,b\ny,,c\n", ["column 'block'", "row 2", "no block"]),
        ("image,a:b\nx,1\ny,2\n", ["'a:b'", "rename the task"]),
        ("image,v\n" + "\n".join(f"{i},{i / 7}" for i in range(50)), ["'v': 50 distinct numbers"]),
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
    fails(tmp_path, "image,roof,height\nx,#REF!,H1\n", "unknown class", "'#REF!'", tasks=tasks)
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


def sheet(path, rows, *merged):
    openpyxl = pytest.importorskip("openpyxl", reason="pip install 'mtclim[excel]'")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cells in merged:
        book.active.merge_cells(cells)
    book.save(path)
    return path


def test_merged_cells_formulas_and_dates_of_a_spreadsheet(tmp_path):
    rows = [["image", "a", "when"], ["x", "u", date(2025, 4, 3)], ["y", None, date(2025, 4, 4)], ["z", "v", None]]
    table = read_table(sheet(tmp_path / "t.xlsx", rows, "B2:B3"), require_images=False)
    assert table.frame["a"].tolist() == ["u", "u", "v"] and "'when' (dates)" in " ".join(table.notes)
    rows[1][1] = '=IF(1,"u","v")'
    with pytest.raises(TableError, match="the formula in B2 has no stored value. Open the file in Excel"):
        read_table(sheet(tmp_path / "t.xlsx", rows), require_images=False)
    rows[1][1] = date(2025, 4, 3)  # what spreadsheets make of 3-4
    with pytest.raises(TableError, match="column 'a': a date among other values at row 1"):
        read_table(sheet(tmp_path / "t.xlsx", rows), require_images=False)


def test_for_prediction_labels_may_be_absent(tmp_path):
    (tmp_path / "t.csv").write_text("image,roof\nx,\ny,\n")
    table = read_table(tmp_path / "t.csv", {"roof": ["a", "b"], "h": ["1", "2"]}, False, require_labels=False)
    assert (table.codes == -1).all() and table.codes.shape == (2, 2)


# --- images: a path is data ---


def test_images_are_found_as_they_are_called(tmp_path):
    names = ["Screenshot 4.42.00\u202fPM.png", "a  b.png", "c\u00a0.png", "写真\u3000001.png", "back\\slash.png"]
    decomposed = unicodedata.normalize("NFD", "Sn\u00edmek.png")
    for name in [*names, decomposed]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.png").write_bytes(b"x")
    text = "\n".join(["image,a", *(f"{name},{i % 2}" for i, name in enumerate(names))])
    table = read(tmp_path, f"{text}\nSn\u00edmek.png,0\nd\\e.png,1\n d/../d/e.png2 ,1\n".replace("e.png2", "f.png"))
    assert table.frame["image"].tolist()[:5] == names and table.frame["image"].iloc[-1] == " d/../d/f.png "
    assert [path.name for path in table.paths[:6]] == [*names, decomposed]
    assert table.paths[6] == tmp_path / "d" / "e.png"
    (tmp_path / "d" / "f.png").write_bytes(b"x")
    assert read_table(tmp_path / "table.csv").paths[7] == tmp_path / "d/../d/f.png"


def test_a_table_is_the_same_however_it_is_reached(tmp_path, monkeypatch):
    for folder in ("sub", "data"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        (tmp_path / "data" / f"{i}.png").write_bytes(b"x")
    (tmp_path / "data" / "t.csv").write_text("image,roof\n0.png,a\n./1.png,b\n2.png,a\n" + f"{tmp_path}/data/3.png,b\n")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "sub")
    ways = ["../data/t.csv", "../sub/../data/t.csv", tmp_path / "data" / "t.csv", "../link/t.csv"]
    tables = [read_table(way) for way in ways]
    assert {table.digest for table in tables} == {tables[0].digest} and {table.path for table in tables} == {
        (tmp_path / "data" / "t.csv").resolve()
    }
    (tmp_path / "data" / "t.csv").write_text("image,roof\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    assert read_table(ways[0]).digest == tables[0].digest


def test_images_elsewhere_need_an_image_root(tmp_path):
    for folder in ("tables", "photos"):
        (tmp_path / folder).mkdir()
    for name in ("x.png", "y.png"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    table = tmp_path / "tables" / "t.csv"

    def found(names: list, root: str) -> list:
        table.write_text(f"image,a\n{names[0]},1\n{names[1]},2\n")
        return [path.resolve() for path in read_table(table, image_root=root).paths]

    expected = [(tmp_path / "photos" / name).resolve() for name in ("x.png", "y.png")]
    absolute = [str(tmp_path / "photos" / name) for name in ("x.png", "y.png")]
    assert found(["x.png", "y.png"], tmp_path / "photos") == expected
    assert found(["photos/x.png", "photos\\y.png"], tmp_path) == expected
    assert found(["../photos/x.png", "../photos/y.png"], tmp_path) == expected, "looked for beside the table too"
    assert found(absolute, tmp_path / "tables") == expected
    for names in (absolute, ["../photos/x.png", "../photos/y.png"]):
        with pytest.raises(TableError, match="column 'image': the path leaves the folder of the table.*image_root"):
            found(names, None)
    with pytest.raises(TableError, match="the path leaves image_root at row 1"):
        found(["../photos/x.png", "x.png"], tmp_path / "tables")
    fails(tmp_path, "image,a\nhttps://x.org/a.jpg,1\nb.jpg,2\n", "an address on the internet", "row 1 (line 2)")


# --- what is missing, and what was made of the columns ---


def notes(folder: Path, text: str, tasks=None, **options) -> str:
    (folder / "table.csv").write_text(text)
    return " ".join(read_table(folder / "table.csv", tasks, require_images=False, **options).notes)


def test_missing_labels_are_said_once_with_their_count(tmp_path):
    text = "image,storeys,roof\na,1.0,flat\nb,2.0,NA\nc,NA,gable\nd,2.0,None\ne,N/A,NA\n"
    table = read(tmp_path, text)
    assert table.tasks == Tasks({"storeys": ["1", "2"], "roof": ["flat", "gable"]})
    assert table.codes.tolist() == [[0, 0], [1, -1], [-1, 1], [1, -1], [-1, -1]]
    said = "'NA' in 2 rows, 'None' in 1 row taken as not annotated; `na_values: []` keeps it a class."
    assert sum(note == f"Column 'roof': {said}" for note in table.notes) == 1
    kept = read_table(
        tmp_path / "table.csv", {"storeys": ["1", "2", "NA", "N/A"], "roof": ["flat", "gable", "NA"]}, False
    )
    assert kept.codes.tolist() == [[0, 0], [1, 2], [2, 1], [1, -1], [3, 2]]
    assert "'-' in 1 row" in notes(tmp_path, "image,a\nx,-\ny,1\nz,2\n", na_values=["-"])
    assert notes(tmp_path, "image,a\nx,NA\ny,b\n", na_values=[]).startswith("Tasks: a (2 classes)")


def test_the_notes_say_which_columns_are_no_tasks_and_why(tmp_path):
    rows = [f"{i}.png,{i % 2},{1900 + i % 30},free text {i},{i % 5},{i / 7},x,,_" for i in range(120)]
    said = notes(tmp_path, "\n".join(["image,roof,year_built,remark,id,area,country,empty,_own", *rows]))
    assert said.startswith("Tasks: roof (2 classes).")
    for part in (
        "'year_built' (30 distinct numbers in 120 rows are no classes, for example '1900', '1901', '1902' and 27 more)",
        "'remark' (120 distinct values in 120 rows are no classes",
        "'area' (120 distinct numbers in 120 rows",
        "'country' (the only class is 'x'; a task has two or more)",
        "'empty' (no row has a label)",
        "'_own' (a name like this marks what is no task)",
        "'id' (the name has a meaning of its own)",
    ):
        assert part in said, (part, said)
    tasks = {"year_built": [str(year) for year in range(1900, 1930)]}
    (tmp_path / "tasks.yaml").write_text(f"year_built: {tasks['year_built']}")
    told = notes(tmp_path, (tmp_path / "table.csv").read_text(), tmp_path / "tasks.yaml")
    assert told.startswith("Tasks: year_built (30 classes).") and "'roof', 'remark'" in told


def test_classes_that_look_alike_are_named(tmp_path):
    text = "image,a,b,c\nx,1,Flat,W-UNK\ny,01,flat,W UNK\nz,2,Gable,w_unk\nw,2,Gable,H34\nv,2,Gable,H3-4\n"
    said = notes(tmp_path, text)
    assert "Column 'a': the classes '01', '1' look alike." in said
    assert "Column 'b': the classes 'Flat', 'flat' look alike." in said
    assert "'W UNK', 'W-UNK', 'w_unk' look alike" in said and "H34" not in said


def test_classes_come_in_the_order_that_a_person_expects(tmp_path):
    table = read(tmp_path, "image,a,b,c\n1,10+,H3-4,10\n2,2,H1,9.0\n3,10,H13+,-1\n4,1,H2,1.5\n")
    assert table.tasks.to_dict() == {
        "a": ["1", "2", "10", "10+"], "b": ["H1", "H2", "H3-4", "H13+"], "c": ["-1", "1.5", "9", "10"],
    }  # fmt: skip
    sizes = pd.Categorical(["tall", "low", "mid"], categories=["low", "mid", "tall", "none"], ordered=True)
    pd.DataFrame({"image": ["x", "y", "z"], "a": sizes}).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", require_images=False)
    assert table.tasks["a"] == ("low", "mid", "tall") and table.codes.ravel().tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_reserved_names_are_no_tasks(tmp_path, name, spell):
    """Listed as a task, each is refused at once, but for the two whose cells decide what they are."""
    text = f"image,{spell(name)},roof\na,yes,flat\nb,no,gable\nc,yes,flat\nd,no,gable\n"
    if name in ("building", "bearing"):
        assert list(read(tmp_path, text, {spell(name): ["no", "yes"]}).tasks) == [spell(name)]
        assert list(read(tmp_path, text).tasks) == [name, "roof"]
        assert name not in read(tmp_path, text, {"roof": ["flat", "gable"]}).frame
    else:
        fails(
            tmp_path,
            text,
            "this name cannot be a task",
            tasks={spell(name): ["no", "yes"]},
        )


def test_names_that_differ_only_in_case_are_two_tasks(tmp_path):
    assert list(read(tmp_path, "image,Height,height\na,1,2\nb,2,1\n").tasks) == ["Height", "height"]
    fails(tmp_path, "image,a\nx,b\n", "column 'a'", "differ only in spaces", tasks={"a": ["b", " b"]})


# --- columns with a meaning of their own ---


def test_building_is_a_number_or_a_tag(tmp_path):
    table = read(tmp_path, "image,a,building\nx,b,7\ny,c,8\nz,c,\nw,c,NA\n")
    assert table.frame["building"].fillna("-").tolist() == ["7", "8", "-", "-"]
    assert "Column 'building' is empty in 2 rows; each is a building of its own." in table.notes
    tags = "image,a,building\n" + "".join(f"{i},{i % 2},{['house', 'apartments', 'yes'][i % 3]}\n" for i in range(12))
    table = read(tmp_path, tags)
    assert table.tasks["building"] == ("apartments", "house", "yes") and "holds words" in " ".join(table.notes)
    assert "building" not in read(tmp_path, tags, {"a": ["0", "1"]}).frame
    dirty = read(tmp_path, tags.replace("0,0,house", "0,0,house 2"))
    assert dirty.tasks["building"] == ("apartments", "house", "house 2", "yes"), "one odd cell makes no numbers of tags"
    assert list(read(tmp_path, "image,a,building\nx,b,Torre A\ny,c,Torre B\n").tasks) == ["a"]
    words = [f"{a}{b}ing" for a in "abcde" for b in "abcde"]  # 25 kinds of building, 40 façades of each
    many = "image,a,building\n" + "".join(f"{i},{i % 2},{words[i % 25]}\n" for i in range(1000))
    assert read(tmp_path, many).tasks["building"] == tuple(words)
    names = "image,a,building\n" + "".join(f"{i},{i % 2},{words[i % 25]}\n" for i in range(75))
    assert "Column 'building' numbers 25 buildings." in read(tmp_path, names).notes


def test_weight_is_a_number(tmp_path):
    table = read(tmp_path, 'image,a,weight\nx,b,"2,5"\ny,c,\nz,c,3\n')
    assert table.frame["weight"].tolist() == [2.5, 1, 3]
    assert "Column 'weight' is empty in 1 row; it is taken as 1." in table.notes
    for cell in ("heavy", "-1", "inf"):
        fails(tmp_path, f"image,a,weight\nx,b,{cell}\ny,c,1\n", "column 'weight'", f"row 1 (line 2): '{cell}'")


def test_a_split_is_used_or_left_out_or_refused(tmp_path):
    text = "image,a,Split\nx,b,Train\ny,c,validation\nz,c,TESTING\n"
    table = read(tmp_path, text)
    assert table.split.tolist() == ["train", "val", "test"]
    assert "Column 'split' is used (1 train, 1 val, 1 test)" in " ".join(table.notes)
    other = read_table(tmp_path / "table.csv", require_images=False, use_split=False)
    assert other.split is None and "Column 'split' is not used." in other.notes and other.digest != table.digest
    fails(
        tmp_path, text.replace("Train", "left"), "column 'split'", "expected train, val or test", "'left'", "use_split"
    )
    fails(tmp_path, text.replace("Train", ""), "column 'split'", "row 1 (line 2): ''")


@pytest.mark.parametrize("name", ["bearing", "Compass_Angle", "heading", "GPSImgDirection", "direction"])
def test_the_viewing_direction(tmp_path, name):
    table = read(tmp_path, f'image,a,{name}\nx,b,-90\ny,c,\nz,c,360\nw,c,"12,5"\n')
    np.testing.assert_array_equal(table.frame["bearing"], [270, np.nan, 0, 12.5])
    assert "known in 3 rows" in " ".join(table.notes) and list(table.tasks) == ["a"]
    fails(tmp_path, f"image,a,{name}\nx,b,400\ny,c,1\n", "outside the range of a direction", "row 1 (line 2): '400'")
    words = read(tmp_path, f"image,a,{name}\nx,b,north\ny,c,south\n")
    assert list(words.tasks) == ["a", name]


@pytest.mark.parametrize(
    ("lon", "lat"),
    [("lng", "lat"), ("X", "Y"), ("lon_wgs84", "lat_wgs84"), ("Longitude", "Latitude"), ("POINT_X", "POINT_Y"),
     ("GPSLongitude", "GPSLatitude"), ("long", "lat"), ("x_coord", "y_coord"), ("decimalLongitude", "decimalLatitude"),
     ("location-Longitude", "location-Latitude"), ("Longitude (E)", "Latitude (N)")],
)  # fmt: skip
def test_positions_under_usual_names(tmp_path, lon, lat):
    table = read(tmp_path, f"image;a;{lon};{lat}\nx;b;-70,65;-33,44\ny;c;-70.66;-33.45\n")
    assert table.frame["lon"].tolist() == [-70.65, -70.66] and table.frame["lat"].tolist() == [-33.44, -33.45]
    assert f"Position from columns '{lon}' and '{lat}', in degrees." in table.notes and list(table.tasks) == ["a"]


def test_what_looks_like_a_position_is_refused_if_it_cannot_be_read(tmp_path):
    metres = "image,a,x,y\np,b,350000,6300000\nq,c,350010,6300010\n"
    fails(tmp_path, metres, "column 'x': outside the range", "Metres need a geometry", "GeoPackage", "'_'")
    fails(tmp_path, "image,a,lon,gps_lon,lat\np,b,1,2,3\nq,c,1,2,3\n", "two columns", "'lon', 'gps_lon'", "'_gps_lon'")
    fails(tmp_path, "image,a,longitude,latitude\np,b,70W,33S\nq,c,1,2\n", "column 'longitude'", "not a number", "'70W'")
    fails(
        tmp_path,
        "image,a,geometry\np,b,here\nq,c,there\n",
        "column 'geometry'",
        "not a geometry at row 1 (line 2): 'here'",
    )
    assert list(read(tmp_path, "image,x,y,long\np,1,2,yes\nq,2,1,no\n").tasks) == ["x", "y", "long"]
    assert "0 in 1 row" in notes(tmp_path, "image,a,lon,lat\np,b,0,0\nq,c,1,2\n")


def test_a_geometry_in_text_is_a_position(tmp_path):
    pytest.importorskip("geopandas")
    table = read(tmp_path, "image,a,geometry\np,b,POINT (-70.65 -33.44)\nq,c,POINT (-70.66 -33.45)\n")
    assert table.frame["lat"].tolist() == [-33.44, -33.45] and list(table.frame) == ["image", "a", "lon", "lat"]
    assert "Column 'geometry' is read as degrees" in " ".join(table.notes)
    fails(tmp_path, "image,a,geometry\np,b,POINT (350000 6300000)\nq,c,\n", "column 'geometry': no geometry at row 2")
    fails(tmp_path, "image,a,where\np,b,POINT (350000 6300000)\nq,c,POINT (1 1)\n", "no coordinate reference system")
    both = "image,a,lon,lat,geometry\np,b,1,2,POINT (3 4)\nq,c,1,2,POINT (3 4)\n"
    assert "Not used: 'geometry'" in notes(tmp_path, both)
    assert read(tmp_path, both).frame["lon"].tolist() == [1, 1]


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
        (["b"] * 40, ["FLT", "PIT"] * 20, "no row is left for val and test: found 40 balanced rows in 1 blocks"),
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
    shares = {"train_share": 0.4, "val_share": 0.3, "test_share": 0.3}
    config = load_config("demo", data=str(tmp_path / "large.csv"), keep=1.0, **shares)
    data = prepare(config, images=False)
    assert "the largest, 'large', has 60 rows" in " ".join(data.notes)
    assert data.split.groupby(data.blocks.to_numpy()).nunique().max() == 1
    assert set(data.split) == {"train", "val", "test"}


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
        for axis, middle in (("lon", -70.6), ("lat", -33.4)):
            columns[axis] = (middle + spread * rng.random(n)).round(6).astype(str)
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
