"""Reading files: one function for every table, one for every layer, and one that decides what is missing.

The suffix says what a file is. Text keeps the line of each row, so that an error can name it. Nothing is interpreted
here but what the file's own format says: column names and cells are as they stand in it.
"""

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

MISSING = ("NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "nan", "NaN")
"""What is taken as missing beside empty cells, None and NaN."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""How an address on the internet begins."""
_NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf")
_BBOX = {"xmin", "ymin", "xmax", "ymax"}
_WKT = re.compile(r"\s*(SRID=\d+;)?\s*(MULTI)?(POINT|LINESTRING|POLYGON|GEOMETRYCOLLECTION)\s*[ZM]*\s*(\(|EMPTY)", re.I)
_WKB = re.compile(r"01[0-9A-F]{2}0[0-3]00[02468ACE]0[0-9A-F]{8}", re.I)  # little endian, as all write it


class TableError(ValueError):
    """A file that cannot be read as meant: names file, column and first rows, and how to mend it."""


@dataclass(frozen=True)
class Cells:
    """The cells of one column as text.

    ``codes`` (n,) int64 are positions in ``texts``, -1 where a cell is missing. ``taken`` counts the rows of each text
    that was taken as missing. Numbers in ``texts`` have no ``.0`` if they came as numbers.
    """

    codes: np.ndarray
    texts: list[str]
    taken: dict[str, int]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Every cell as text (n,), empty where missing."""
        return np.array([*self.texts, ""], dtype=object)[self.codes]

    @property
    def missing(self) -> np.ndarray:
        """Which cells are missing, (n,) bool."""
        return self.codes < 0

    @cached_property
    def numbers(self) -> np.ndarray:
        """Every cell as a number (n,), with a decimal point or comma; NaN where missing or not a number."""
        return np.array([*map(number, self.texts), np.nan])[self.codes]

    @property
    def numeric(self) -> bool:
        """Whether there are cells and all of them are numbers."""
        return bool(self.texts) and not np.isnan(self.numbers[~self.missing]).any()


@dataclass(frozen=True)
class Source:
    """The columns of a table as they stand in the file.

    ``lines`` are the lines of its rows, where the format has lines. ``geometry`` reads the geometry that the file
    declares, as a GeoSeries; it is called only where needed, so that other columns can be read without geopandas.
    ``notes`` are sentences about what was made of the columns, ``missing`` the texts that stand for a missing cell.
    """

    path: Path
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    lines: Sequence[int] | None = None
    geometry: Callable[[], Any] | None = None
    notes: list[str] = field(default_factory=list)
    missing: Collection[str] = MISSING

    def cells(self, column: str, keep: Collection[str] = (), clean: bool = True) -> Cells:
        """The cells of a column; texts in ``keep`` are never missing."""
        return cells(self.frame[column], [text for text in self.missing if text not in keep], clean)

    def fail(self, problem: str, mend: str, column: str | None = None) -> NoReturn:
        """Raise TableError: what was found, what to do, and the column where it was found."""
        where = f"column {column!r}: " if column is not None else ""
        raise TableError(f"{self.path}: {where}{problem}. {mend[0].upper()}{mend[1:]}.")

    def note_missing(self, column: str, found: Cells, means: str) -> None:
        """Note which texts of a column were taken as missing, in how many rows, and what that means."""
        if found.taken:
            taken = ", ".join(f"{text!r} in {row_count(count)}" for text, count in found.taken.items())
            self.notes.append(f"Column {column!r}: {taken} taken as {means}.")

    def check(self, wrong: Any, problem: str, mend: str, column: str, values: Any = None) -> None:
        """Raise TableError if there are wrong rows: a mask (n,). ``values`` (n,) are shown for the first of them."""
        where = np.flatnonzero(wrong)
        if len(where):
            more = f" ({len(where)} rows in all)" if len(where) > 5 else ""
            shown = [f"row {i + 1}" for i in where[:5]]
            if self.lines is not None:
                shown = [f"{row} (line {self.lines[i]})" for row, i in zip(shown, where, strict=False)]
            if values is not None:
                shown = [f"{row}: {str(values[i])[:60]!r}" for row, i in zip(shown, where, strict=False)]
            self.fail(f"{problem} at {', '.join(shown)}{more}", mend, column)


def read_frame(path: str | Path, key: str = "image") -> Source:
    """Read a table of any kind that pandas and geopandas read; the suffix says which.

    These are CSV, TSV and text (also ``.gz``; any of ``, ; | tab``; UTF-8, UTF-16 with a mark, else Windows-1252),
    Parquet, GeoParquet, Feather, GeoPackage, GeoJSON, FlatGeobuf, Shapefile and Excel. ``key`` is a column that the
    table is known to have; it tells which delimiter, layer or sheet is meant.
    TableError for a file that is absent, damaged, of another kind, or has several layers that could be meant.
    """
    path = Path(path)
    kind = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()
    nothing = Source(path)
    if re.search(r"\b\w{2,}:/", path.as_posix()):  # a path keeps one slash of the two
        nothing.fail("is a URL", "download the file and give its path")
    if not kind and not path.exists():
        nothing.fail("no such file or folder", "check the path; it is taken relative to the working directory")
    if kind not in _READERS:
        nothing.fail(f"unknown kind of table {kind!r}", f"use one of {', '.join(_READERS)}")
    if not path.is_file():
        nothing.fail("no such file", "check the path; it is taken relative to the working directory")
    with clear_errors(nothing):
        return _READERS[kind](nothing, key.lower())


@contextmanager
def clear_errors(source: Source) -> Iterator[None]:
    """Make one TableError of whatever the parsers of damaged and foreign files raise, and of a missing package."""
    try:
        yield
    except TableError:
        raise
    except ImportError as error:
        mend = "install it, for example with pip install 'mtclim[maps,excel]'"
        source.fail(f"reading it needs a package that is not installed ({_one_line(error)})", mend)
    except Exception as error:
        mend = "check that the file is complete, readable and of the kind that its name says"
        reason = f"{type(error).__name__}: {_one_line(error)}"
        source.fail(f"cannot be read as {source.path.suffix[1:]} ({reason})", mend)


def read_layer(path: str | Path) -> Any:
    """Read a layer of a map, for example polygons, as a GeoDataFrame that has a coordinate reference system.

    TableError for whatever `read_frame` refuses, for a file without a geometry, and for a layer without a coordinate
    reference system. Of several layers the only one with polygons is read; otherwise they are named in the error.
    """
    source = read_frame(path, key="")
    geometry = find_geometry(source)
    if geometry is None:
        source.fail("has no geometry", "give a layer of points or polygons, such as a GeoPackage")
    import geopandas

    if geometry.crs is None:
        mend = "set it, for example with GeoDataFrame.set_crs(4326) or in QGIS with 'Assign projection'"
        source.fail("the layer has no coordinate reference system", mend)
    return geopandas.GeoDataFrame(source.frame, geometry=geometry.set_axis(source.frame.index))


def cells(column: pd.Series, missing: Collection[str] = MISSING, clean: bool = True) -> Cells:
    """Decide what the cells of a column are, as text, and which of them are missing; the only place that does.

    Missing are None, NaN, cells that are empty or blank, and the texts ``missing``. ``clean`` folds runs of spaces to
    one and drops those at the ends; without it a text stays as it is, as paths must. The order of ``texts`` is that of
    a column's categories, else that of their first row.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(np.int64), column.cat.categories
    else:
        try:
            codes, values = pd.factorize(column)
        except TypeError:  # lists and other cells that cannot be compared
            codes, values = pd.factorize(column.where(column.isna(), column.astype(str)))
    place: dict[str, int] = {}
    taken: Counter[str] = Counter()
    to = np.full(len(values) + 1, -1, np.int64)
    for i, count in enumerate(np.bincount(codes[codes >= 0], minlength=len(values)).tolist()):
        text = _text(values[i], clean)
        if text.strip() in missing:
            taken[text] += count
        elif text.strip():
            to[i] = place.setdefault(text, len(place))
    return Cells(to[codes], list(place), {text: count for text, count in taken.items() if count})


def _text(value: Any, clean: bool) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split()) if clean else text


def number(text: str) -> float:
    """The number that a text is, with a decimal point or comma; NaN if it is none."""
    text = text.strip().replace("\u2212", "-")
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else np.nan


def row_count(count: int) -> str:
    """So many rows, in words: "1 row", "37 rows"."""
    return "1 row" if count == 1 else f"{count} rows"


def some(values: Iterable[Any], most: int = 12) -> str:
    """The first values of many, quoted, for a message."""
    values = [str(value) for value in values]
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(repr(value[:60]) for value in values[:most]) + more


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# ---------------------------------------------------------------- kinds of files


def _read_text(nothing: Source, key: str) -> Source:
    raw = nothing.path.read_bytes()
    text = _decoded(gzip.decompress(raw) if nothing.path.suffix.lower() == ".gz" else raw)
    if "\0" in text:
        nothing.fail("holds NUL bytes, so it isn't plain text", "export the table as CSV in UTF-8")
    says = text.startswith("sep=")  # as Excel writes it above the header
    header = "".join(text[:100_000].lstrip("\r\n").splitlines()[says : says + 1]).lower()
    columns = {d: [name.strip(" \"'") for name in header.split(d)] for d in (",", ";", "\t", "|")}
    delimiter = max(columns, key=lambda d: (key in columns[d], len(columns[d])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(_filled, row))]
    except csv.Error as error:
        nothing.fail(f"line {reader.line_num}: {error}", "check the quotes and the length of the cells there")
    return _with_header(nothing, rows[says:])


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def _with_header(nothing: Source, rows: list[tuple[int, Sequence]]) -> Source:
    """A source of rows (line, cells), the first of which is the header."""
    if not rows:
        nothing.fail("the file has no header", "start the table with one line of column names")
    header = rows[0][1]
    for line, row in rows[1:]:
        if len(row) < len(header) or any(map(_filled, row[len(header) :])):
            mend = "quote cells that contain the delimiter, and give every row the same number of cells"
            nothing.fail(f"{len(row)} cells in line {line}, {len(header)} in the header", mend)
    columns = [str(name) if _filled(name) else f"_unnamed_{i}" for i, name in enumerate(header)]
    frame = pd.DataFrame([row[: len(header)] for _, row in rows[1:]], columns=columns, dtype=object)
    return Source(nothing.path, frame, [line for line, _ in rows[1:]])


def _filled(cell: Any) -> bool:
    return cell is not None and bool(str(cell).strip())


def _read_sheets(nothing: Source, key: str) -> Source:
    import openpyxl  # pandas would take spreadsheet errors such as #REF! for empty cells

    book = openpyxl.load_workbook(nothing.path, data_only=True)
    lines = {sheet.title: enumerate(sheet.iter_rows(values_only=True), 1) for sheet in book.worksheets}
    sheets = {name: [(i, row) for i, row in rows if any(map(_filled, row))] for name, rows in lines.items()}
    found = {name: (rows[0][1] if rows else [], len(rows) - 1) for name, rows in sheets.items()}
    return _with_header(nothing, sheets[_only(nothing, found, key, "sheet")])


def _read_arrow(nothing: Source, key: str) -> Source:
    import pyarrow.feather
    import pyarrow.parquet
    import pyarrow.types

    path = nothing.path
    feather = path.suffix.lower() == ".feather"
    table = pyarrow.feather.read_table(path) if feather else pyarrow.parquet.ParquetFile(path).read()
    geo = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
    boxes = [f.name for f in table.schema if pyarrow.types.is_struct(f.type) and _BBOX <= {sub.name for sub in f.type}]
    away = [*geo.get("columns", {}), *boxes, *(n for n in table.column_names if n.startswith("__index_level_"))]
    frame = table.drop_columns([name for name in away if name in table.column_names])
    notes = [f"Column {name!r} is left out: it holds the bounding boxes of the geometry." for name in boxes]

    def geometry() -> Any:
        import geopandas

        read = geopandas.read_feather if feather else geopandas.read_parquet
        return read(path, columns=[geo["primary_column"]]).geometry

    return Source(path, frame.to_pandas(ignore_metadata=True), None, geometry if geo else None, notes)


def _read_vector(nothing: Source, key: str) -> Source:
    import geopandas
    import pyogrio

    names = [str(layer) for layer in pyogrio.list_layers(nothing.path)[:, 0]]
    layers = {name: pyogrio.read_info(nothing.path, layer=name, force_feature_count=True) for name in names}
    if not key:  # a layer of polygons is looked for
        placed = {name: info for name, info in layers.items() if info["geometry_type"] is not None}
        polygons = {name: info for name, info in placed.items() if "Polygon" in info["geometry_type"]}
        layers = polygons or placed or layers
    found = {name: ([*info["fields"], ""], info["features"]) for name, info in layers.items()}
    frame = geopandas.read_file(nothing.path, layer=_only(nothing, found, key, "layer"))
    if not isinstance(frame, geopandas.GeoDataFrame):
        return Source(nothing.path, frame)
    geometry = frame.geometry
    return Source(nothing.path, pd.DataFrame(frame.drop(columns=geometry.name)), None, lambda: geometry)


def _only(nothing: Source, found: dict[str, tuple[Sequence, int]], key: str, kind: str) -> str:
    """The only layer or sheet that has the column ``key`` and rows; without one, the first, whose error will say so."""
    named = [name for name, (columns, _) in found.items() if key in [str(c or "").strip().lower() for c in columns]]
    full = [name for name in named if found[name][1] > 0]
    if len(full) > 1:
        meant = f"a column {key!r} and rows" if key else "a geometry and rows"
        problem = f"several {kind}s have {meant}: {', '.join(map(repr, full))}"
        nothing.fail(problem, f"keep one {kind}, or write the one that is meant to a file of its own")
    return [*full, *named, *found][0]


_READERS: dict[str, Callable[[Source, str], Source]] = {
    **dict.fromkeys([".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"], _read_text),
    **dict.fromkeys([".parquet", ".geoparquet", ".pq", ".feather"], _read_arrow),
    **dict.fromkeys([".gpkg", ".geojson", ".json", ".fgb", ".shp"], _read_vector),
    **dict.fromkeys([".xlsx", ".xlsm"], _read_sheets),
}


# ---------------------------------------------------------------- geometry that a column holds


def find_geometry(source: Source) -> Any:
    """The geometry that a file declares, else the one that a column holds as WKT or WKB; None without one.

    A geometry in a column is taken as degrees (EPSG:4326) if all of it fits, and the notes say so; else it has no
    coordinate reference system.
    """
    with clear_errors(source):
        declared = source.geometry() if source.geometry is not None else None
        columns = geometry_columns(source)
        if not columns or not (declared is None or declared.isna().all()):
            return declared
        import geopandas
        import shapely

        name = columns[0]
        values = [cell if isinstance(cell, str | bytes) and cell.strip() else None for cell in source.frame[name]]
        wkt = any(isinstance(value, str) and _WKT.match(value) for value in values)
        shapes = (shapely.from_wkt if wkt else shapely.from_wkb)(np.array(values, dtype=object), on_invalid="ignore")
        wrong = shapely.is_missing(shapes) & ~pd.isna(pd.Series(values, dtype=object))
        source.check(wrong, "not a geometry", "write it as WKT, such as POINT (-70.65 -33.44)", name, values)
        west, south, east, north = shapely.total_bounds(shapes)
        degrees = -180 <= west and east <= 180 and -90 <= south and north <= 90
        if degrees:
            source.notes.append(f"Column {name!r} is read as degrees of longitude and latitude (EPSG:4326).")
        return geopandas.GeoSeries(shapes, crs=4326 if degrees else None)


def geometry_columns(source: Source) -> list[str]:
    """The columns whose first cell is a geometry as text (WKT, hexadecimal WKB) or bytes (WKB)."""
    found = []
    for name in source.frame:
        first = next((cell for cell in source.frame[name] if isinstance(cell, str | bytes) and cell.strip()), "")
        text = first[:9].hex() if isinstance(first, bytes) else first
        if _WKB.match(text) or (isinstance(first, str) and _WKT.match(text)):
            found.append(name)
    return found
