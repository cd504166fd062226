"""Reading files: one function for every table, one for every layer, and one that decides what is missing.

Nothing is interpreted here but what a file's own format says: column names and cells are as they stand in it.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from mtclim.config import LAYER

MISSING = ("NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "nan", "NaN")
"""What is taken as missing beside empty cells, None and NaN."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""How an address on the internet begins."""
_WKT = re.compile(r"\s*(SRID=\d+;)?\s*(MULTI)?(POINT|LINESTRING|POLYGON|GEOMETRYCOLLECTION)\s*[ZM]*\s*(\(|EMPTY)", re.I)
_SRID = re.compile(r"^\s*SRID=(\d+);", re.I)
_WKB = re.compile(r"(01[0-9A-F]{2}0[0-3]00[02468ACE]0|00[02468ACE]0000[0-3][0-9A-F]{2})[0-9A-F]{8}", re.I)


class TableError(ValueError):
    """A file that cannot be read as meant: names file, column and first rows, and how to mend it."""


@dataclass
class Source:
    """The columns of a table as they stand in the file.

    ``lines`` are those of its rows, where the format has lines. ``geometry`` reads the GeoSeries that a file declares,
    only where it is needed, since this takes geopandas. ``layer`` names the one that is meant of several, or a sheet.
    ``notes`` say what was made of the columns, ``missing`` are the texts that stand for a missing cell.
    """

    path: Path
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    lines: Sequence[int] | None = None
    geometry: Callable[[], Any] | None = None
    layer: str = ""
    notes: list[str] = field(default_factory=list)
    missing: Collection[str] = MISSING

    def cells(self, column: str, keep: Collection[str] = (), clean: bool = True, means: str = "") -> pd.Series:
        """The cells of a column as text (n,), "" where missing; the only place that decides what is missing.

        Parameters
        ----------
        keep : Texts that are not missing here. Missing are None, NaN, blank cells, and the other texts in ``missing``.
        clean : Whether to fold and strip spaces, which would spoil a path.
        means : What a missing text means, for a note on which texts were found, and in how many rows; "" for no note.
        """
        values = self.frame[column]
        found = pd.Series([_text(value, clean) for value in values], dtype="str").mask(values.isna().to_numpy(), "")
        plain = found.str.strip()
        taken = plain.isin({_text(value, False) for value in self.missing} - {*keep})
        if means and taken.any():
            counts = [f"{text!r} in {row_count(n)}" for text, n in found[taken].value_counts().items()]
            self.notes.append(f"Column {column!r}: {', '.join(counts)} taken as {means}.")
        return found.mask(taken | (plain == ""), "")

    def fail(self, problem: str, mend: str, column: str | None = None) -> NoReturn:
        """Raise TableError, which also names the file.

        Parameters
        ----------
        problem, mend, column : What was found, what to do, and the column where it was found.
        """
        where = f"column {column!r}: " if column is not None else ""
        raise TableError(f"{self.path}: {where}{problem}. {mend[0].upper()}{mend[1:]}.")

    def check(self, wrong: Any, problem: str, mend: str, column: str) -> None:
        """Raise TableError that shows the first of the wrong rows, if there are any.

        Parameters
        ----------
        wrong, problem, mend, column : A mask (n,) of the wrong rows, and the arguments of :meth:`fail`.
        """
        rows = np.flatnonzero(wrong)
        if not len(rows):
            return
        shown = [f"row {i + 1}" for i in rows[:5]]
        if self.lines is not None:
            shown = [f"{row} (line {self.lines[i]})" for row, i in zip(shown, rows, strict=False)]
        if column in self.frame:
            texts = self.cells(column, keep=self.missing, clean=False)
            shown = [f"{row}: {texts[i][:60]!r}" for row, i in zip(shown, rows, strict=False)]
        more = f" ({len(rows)} rows in all)" if len(rows) > 5 else ""
        self.fail(f"{problem} at {', '.join(shown)}{more}", mend, column)


def read_frame(path: str | Path, key: str = "image") -> Source:
    """Read a table of any kind that pandas and geopandas read; the suffix says which.

    These are CSV, TSV and text (also ``.gz``; any of ``, ; | tab``; UTF-8, UTF-16 with a mark, else Windows-1252),
    Parquet, GeoParquet, Feather, GeoPackage, GeoJSON, FlatGeobuf, Shapefile and Excel. ``key`` is a column that the
    table is known to have; it tells which delimiter, layer or sheet is meant, unless ``|layername=NAME`` after the path
    does, as QGIS writes it. TableError for any other file.
    """
    path, _, layer = str(path).partition(LAYER)
    path = Path(path)
    source = Source(path, layer=layer)
    kind = next((suffix for suffix in _READERS if path.name.lower().endswith(suffix)), None)
    if re.search(r"\b\w{2,}:/", path.as_posix()):  # a path keeps one slash of the two
        source.fail("is a URL", "download the file and give its path")
    if kind is None and (path.suffix or path.is_file()):
        source.fail(f"unknown kind of table {path.suffix!r}", f"use one of {', '.join(_READERS)}")
    if not path.is_file():
        source.fail(f"no such file in {path.absolute().parent}", "check the path")
    with clear_errors(source):
        _READERS[kind](source, key.lower())
    return source


@contextmanager
def clear_errors(source: Source) -> Iterator[None]:
    """Make one TableError of whatever the parsers of damaged and foreign files raise, and of a missing package."""
    try:
        yield
    except TableError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if isinstance(error, ImportError):
            mend = "install it, for example with pip install 'mtclim[maps,excel]'"
            source.fail(f"reading it needs a package that is not installed ({reason})", mend)
        mend = "check that the file is complete, readable and of the kind that its name says"
        source.fail(f"cannot be read as {source.path.suffix[1:]} ({reason})", mend)


def read_layer(path: str | Path) -> Any:
    """Read a layer of a map, for example polygons, as a GeoDataFrame that has a coordinate reference system.

    Of several layers the named one is read, or the only one with polygons. TableError for whatever `read_frame`
    refuses, and for a layer without a geometry or coordinate reference system.
    """
    source = read_frame(path, key="")
    geometry = find_geometry(source)
    if geometry is None:
        source.fail("has no geometry", "give a layer of points or polygons, such as a GeoPackage")
    if geometry.crs is None:
        mend = "set it, for example with GeoDataFrame.set_crs(4326) or in QGIS with 'Assign projection'"
        source.fail("the layer has no coordinate reference system", mend)
    import geopandas

    return geopandas.GeoDataFrame(source.frame, geometry=geometry.set_axis(source.frame.index))


def _text(value: Any, clean: bool) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split()) if clean else text


def numbers(texts: Iterable[str]) -> np.ndarray:
    """Texts (n,) as numbers, with a decimal point or comma; NaN where they are none."""
    plain = pd.Series(texts, dtype="str").str.replace(",", ".").str.replace("\u2212", "-")
    return pd.to_numeric(plain, errors="coerce").to_numpy(float)


def numeric(texts: pd.Series) -> bool:
    """Whether there are cells, and all of them are numbers."""
    filled = texts[texts != ""]
    return len(filled) > 0 and not np.isnan(numbers(filled)).any()


def row_count(count: int) -> str:
    """So many rows, in words: "1 row", "37 rows"."""
    return "1 row" if count == 1 else f"{count} rows"


def some(values: Iterable[Any], most: int = 12) -> str:
    """The first values of many, quoted, for a message."""
    values = [str(value) for value in values]
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(repr(value[:60]) for value in values[:most]) + more


# ---------------------------------------------------------------- kinds of files


def _read_text(source: Source, key: str) -> None:
    raw = source.path.read_bytes()
    text = _decoded(gzip.decompress(raw) if source.path.suffix.lower() == ".gz" else raw)
    if "\0" in text:
        source.fail("holds NUL bytes, so it isn't plain text", "export the table as CSV in UTF-8")
    says = text.startswith("sep=")  # as Excel writes it above the header
    header = "".join(text[:100_000].lstrip("\r\n").splitlines()[says : says + 1]).lower()
    columns = {d: [name.strip(" \"'") for name in header.split(d)] for d in (",", ";", "\t", "|")}
    delimiter = max(columns, key=lambda d: (key in columns[d], len(columns[d])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(_filled, row))]
    except csv.Error as error:
        source.fail(f"line {reader.line_num}: {error}", "check the quotes and the length of the cells there")
    _take_rows(source, rows[says:])


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def _take_rows(source: Source, rows: list[tuple[int, Sequence]]) -> None:
    """Fill a source with rows (line, cells), the first of which is the header."""
    if not rows:
        source.fail("the file has no header", "start the table with one line of column names")
    (_, header), *rows = rows
    for line, row in rows:
        if len(row) < len(header) or any(map(_filled, row[len(header) :])):
            mend = "quote cells that contain the delimiter, and give every row the same number of cells"
            source.fail(f"{len(row)} cells in line {line}, {len(header)} in the header", mend)
    columns = [str(name) if _filled(name) else f"_unnamed_{i}" for i, name in enumerate(header)]
    source.frame = pd.DataFrame([row[: len(header)] for _, row in rows], columns=columns, dtype=object)
    source.lines = [line for line, _ in rows]


def _filled(cell: Any) -> bool:
    return cell is not None and bool(str(cell).strip())


def _read_sheets(source: Source, key: str) -> None:
    import openpyxl  # pandas would take spreadsheet errors such as #REF! for empty cells

    sheets, formulas = {}, openpyxl.load_workbook(source.path)
    for sheet in openpyxl.load_workbook(source.path, data_only=True).worksheets:
        for cell in chain.from_iterable(formulas[sheet.title].iter_rows()):
            if cell.data_type == "f" and sheet[cell.coordinate].value is None:
                mend = "open the file in Excel or LibreOffice and save it, which stores the values"
                source.fail(f"sheet {sheet.title!r}: the formula in {cell.coordinate} has no stored value", mend)
        _fill_merged(sheet)
        rows = enumerate(sheet.iter_rows(values_only=True), 1)
        sheets[sheet.title] = [(line, row) for line, row in rows if any(map(_filled, row))]
    found = {name: (rows[0][1] if rows else [], len(rows) - 1) for name, rows in sheets.items()}
    _take_rows(source, sheets[_only(source, found, key, "sheet")])


def _fill_merged(sheet: Any) -> None:
    """Give each cell of a merged range the value that is shown for all of it."""
    for merged in list(sheet.merged_cells.ranges):
        value = sheet.cell(merged.min_row, merged.min_col).value
        sheet.unmerge_cells(str(merged))
        for row, column in merged.cells:
            sheet.cell(row, column, value)


def _read_arrow(source: Source, key: str) -> None:
    import pyarrow.feather
    import pyarrow.parquet
    import pyarrow.types

    path, feather = source.path, source.path.suffix.lower() == ".feather"
    table = pyarrow.feather.read_table(path) if feather else pyarrow.parquet.ParquetFile(path).read()
    geo = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
    table = table.drop_columns(list(geo.get("columns", {})))
    nested = [column.name for column in table.schema if pyarrow.types.is_nested(column.type)]
    if nested:
        source.notes.append(f"Left out: {some(nested)} (no single values in its cells, such as a bounding box).")

    def geometry() -> Any:
        import geopandas

        read = geopandas.read_feather if feather else geopandas.read_parquet
        return read(path, columns=[geo["primary_column"]]).geometry

    source.frame = table.drop_columns(nested).to_pandas(ignore_metadata=True, integer_object_nulls=True)
    source.geometry = geometry if geo else None


def _read_vector(source: Source, key: str) -> None:
    import geopandas
    import pyogrio

    names = [str(layer) for layer in pyogrio.list_layers(source.path)[:, 0]]
    layers = {name: pyogrio.read_info(source.path, layer=name, force_feature_count=True) for name in names}
    if not (key or source.layer):  # a layer of polygons is looked for
        placed = {name: info for name, info in layers.items() if info["geometry_type"] is not None}
        polygons = {n: info for n, info in placed.items() if not re.search("Point|Line", info["geometry_type"])}
        layers = polygons or placed or layers
    found = {name: ([*info["fields"], ""], info["features"]) for name, info in layers.items()}
    exact = {"use_arrow": True, "arrow_to_pandas_kwargs": {"integer_object_nulls": True}}  # numbers of 64 bits
    frame = geopandas.read_file(source.path, layer=_only(source, found, key, "layer"), **exact)
    if isinstance(frame, geopandas.GeoDataFrame):
        geometry = frame.geometry
        source.geometry = lambda: geometry
        frame = pd.DataFrame(frame.drop(columns=geometry.name))
    source.frame = frame


def _only(source: Source, found: dict[str, tuple[Sequence, int]], key: str, kind: str) -> str:
    """The named layer or sheet, else the only one with the column ``key`` and rows, else the first, with its error."""
    if source.layer in found:
        return source.layer
    if source.layer:
        source.fail(f"no {kind} {source.layer!r}", f"name one of {some(found)}")
    named = [name for name, (columns, _) in found.items() if key in [str(c or "").strip().lower() for c in columns]]
    full = [name for name in named if found[name][1] > 0]
    if len(full) > 1:
        meant = f"a column {key!r} and rows" if key else "a geometry and rows"
        problem = f"several {kind}s have {meant}: {', '.join(map(repr, full))}"
        source.fail(problem, f"name the one that is meant, such as {f'{source.path}{LAYER}{full[0]}'!r}")
    return [*full, *named, *found][0]


_READERS: dict[str, Callable[[Source, str], None]] = {
    **dict.fromkeys([".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"], _read_text),
    **dict.fromkeys([".parquet", ".geoparquet", ".pq", ".feather"], _read_arrow),
    **dict.fromkeys([".gpkg", ".geojson", ".json", ".fgb", ".shp"], _read_vector),
    **dict.fromkeys([".xlsx", ".xlsm"], _read_sheets),
}


# ---------------------------------------------------------------- geometry that a column holds


def find_geometry(source: Source) -> Any:
    """The geometry that a file declares, else the one that a column holds as WKT or WKB; None without one.

    A column may name its system (EWKT, EWKB). Else it is taken as degrees (EPSG:4326) if all of it fits, or has none.
    """
    with clear_errors(source):
        if source.geometry is not None:
            return source.geometry()
        columns = geometry_columns(source)
        if not columns:
            return None
        if len(columns) > 1 and "geometry" not in columns:
            source.fail(f"several columns hold a geometry: {some(columns)}", "name the one that is meant 'geometry'")
        import geopandas
        import shapely

        name = "geometry" if "geometry" in columns else next(iter(columns))
        parse = {"wkt": shapely.from_wkt, "wkb": shapely.from_wkb}
        filled = (source.cells(name) != "").to_numpy()
        values = source.frame[name].astype(object).where(filled, None)
        systems = source.cells(name).str.extract(_SRID, expand=False).dropna().unique().tolist()
        if columns[name] == "wkt":
            values = values.str.replace(_SRID, "", regex=True)
        shapes = parse[columns[name]](values.to_numpy(object), on_invalid="ignore")
        mend = "write it as WKT, such as POINT (-70.65 -33.44)"
        source.check(shapely.is_missing(shapes) & filled, "not a geometry", mend, name)
        systems += [str(number) for number in np.unique(shapely.get_srid(shapes)) if number > 0]
        if len(systems) > 1:
            source.fail(f"several coordinate reference systems (SRID {some(systems)})", "bring all rows to one", name)
        if systems:
            return geopandas.GeoSeries(shapes, crs=int(systems[0]))
        west, south, east, north = shapely.total_bounds(shapes)
        degrees = -180 <= west and east <= 180 and -90 <= south and north <= 90
        if degrees:
            source.notes.append(f"Column {name!r} is read as degrees of longitude and latitude (EPSG:4326).")
        return geopandas.GeoSeries(shapes, crs=4326 if degrees else None)


def geometry_columns(source: Source) -> dict[str, str]:
    """The columns named geometry, or whose first cell is one, and how it is written: "wkt", or "wkb" (also as text)."""
    found = {}
    for name in source.frame:
        texts = (cell for cell in source.frame[name] if isinstance(cell, str | bytes) and cell.strip())
        first = next((cell for cell in texts if cell not in source.missing), "")
        text = first[:9].hex() if isinstance(first, bytes) else first
        if _WKB.match(text):
            found[name] = "wkb"
        elif name == "geometry" or _WKT.match(text):
            found[name] = "wkt"
    return found
