"""Tables of images: one row an image, one column a task; read strictly, so that a mistake is one clear error.

Formats: CSV (any of ``, ; | tab``; UTF-8, UTF-16 with a mark, else Windows-1252), Parquet, GeoParquet and GeoPackage.
Column names are stripped of spaces; ``image``, ``lon``/``longitude``, ``lat``/``latitude`` and ``block`` are found in
any case. Empty cells, and ``NaN`` where it isn't a class, mean "not annotated".
"""

import csv
import difflib
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from mtclim.tasks import Tasks

RESERVED = ("image", "lon", "lat", "geometry", "block", "building", "weight", "id", "split", "municipality")
MAX_CLASSES = 1000  # without a YAML; one that lists more is taken at its word
_ALIASES = {"longitude": "lon", "latitude": "lat"}
_FOUND_IN_ANY_CASE = ("image", "lon", "lat", "block")
_NUMBER, _WHOLE = re.compile(r"[+-]?\d+([.,]\d+)?"), re.compile(r"([+-]?\d+)[.,]0+")
_SPREADSHEET_ERRORS = {"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"}


class TableError(ValueError):
    """A table that cannot be read as meant: names file, column and first rows, what was expected and how to mend it."""


@dataclass(frozen=True)
class Table:
    """A table that was read and checked.

    ``frame`` has a RangeIndex, ``image`` (as given), optional ``lon`` and ``lat`` (degrees, EPSG:4326) and ``block``
    (str), an ordered categorical a task (missing = not annotated) and the other columns untouched.
    """

    frame: pd.DataFrame
    tasks: Tasks
    path: Path

    @property
    def labels(self) -> pd.DataFrame:
        """The task columns."""
        return self.frame[list(self.tasks)]

    @property
    def codes(self) -> np.ndarray:
        """Targets (n, N) int64, -1 = not annotated."""
        return np.stack([self.frame[task].cat.codes.to_numpy(np.int64) for task in self.tasks], axis=1)

    @cached_property
    def paths(self) -> list[Path]:
        """Absolute paths of the images, which are given relative to the table's folder."""
        return [self.path.parent / _slashes(image) for image in self.frame["image"]]

    @property
    def has_coordinates(self) -> bool:
        """Whether ``lon`` and ``lat`` are there."""
        return "lon" in self.frame

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content that is used: tasks, images, labels, coordinates and blocks."""
        digest = hashlib.sha256(json.dumps(self.tasks.to_dict()).encode())
        for column in ("image", "block"):
            if column in self.frame:
                digest.update(json.dumps([column, *self.frame[column]]).encode())
        for column in ("lon", "lat"):
            if column in self.frame:
                digest.update(self.frame[column].to_numpy("<f8").tobytes())
        digest.update(np.ascontiguousarray(self.codes, "<i8").tobytes())
        return digest.hexdigest()

    def blocks(self, cell: float = 500.0) -> pd.Series | None:
        """Blocks of the rows: the ``block`` column, else a grid of ``cell`` metres, else None (no coordinates)."""
        if "block" in self.frame:
            return self.frame["block"]
        return grid_blocks(self.frame["lon"], self.frame["lat"], cell) if self.has_coordinates else None


def read_table(
    path: str | Path,
    tasks: Tasks | Mapping[str, Sequence[str]] | str | Path | None = None,
    require_images: bool = True,
    require_labels: bool = True,
) -> Table:
    """Read and check a table of images.

    ``tasks``: Tasks, a mapping, or the path of a YAML, naming tasks and the order of their classes. Without it every
    column is a task but the RESERVED ones and those starting with ``_``; its classes are what occurs,
    sorted (as numbers if all are whole). ``require_images`` checks that every image file exists.
    ``require_labels=False`` is for prediction: task columns may be empty or absent, and single rows may lack position
    (``lon`` and ``lat`` are then NaN) or block (then missing).

    Raises TableError for whatever cannot be read as meant.
    """
    path = Path(path).absolute()
    source = _load(path, require_labels)
    source = _Source(path, _rename(source), source.lines)
    frame = source.frame
    if "image" not in frame:
        source.fail(f"no column 'image'; found {_some(frame.columns)}", "name the column of image paths 'image'")
    if not len(frame):
        source.fail("the table has no rows", "add one row an image")
    frame["image"] = _images(source, require_images)
    _coordinates(source, require_labels)
    _blocks(source, require_labels)
    chosen = _choose_tasks(source, tasks, require_labels)
    for task, classes in chosen.items():
        frame[task] = _labels(source, task, classes, require_labels)
    return Table(frame, chosen, path)


def grid_blocks(lon: pd.Series, lat: pd.Series, cell: float = 500.0) -> pd.Series:
    """Names of square grid cells, ``cell`` metres wide, in each point's UTM zone; lon and lat in degrees (n,).

    Returns a Series of str with lon's index. ValueError for missing coordinates and a cell size that isn't positive.
    """
    from pyproj import Transformer

    if not cell > 0 or not math.isfinite(cell):
        raise ValueError(f"cell is {cell!r}; expected the width of a block in metres, for example 500.")
    index = lon.index if isinstance(lon, pd.Series) else None
    lon, lat = np.asarray(lon, dtype=float), np.asarray(lat, dtype=float)
    if not (np.isfinite(lon) & np.isfinite(lat)).all():
        first = np.flatnonzero(~(np.isfinite(lon) & np.isfinite(lat)))[:5].tolist()
        raise ValueError(f"grid_blocks: no coordinates at positions {first}; expected degrees for every row.")
    zone = (np.floor((lon + 180) / 6).astype(int) % 60) + 1
    names = np.empty(len(lon), dtype=object)
    for number, south in sorted(set(zip(zone.tolist(), (lat < 0).tolist(), strict=True))):
        here = (zone == number) & ((lat < 0) == south)
        to_metres = Transformer.from_crs(4326, (32700 if south else 32600) + number, always_xy=True)
        x, y = to_metres.transform(lon[here], lat[here])
        columns, rows = np.floor(x / cell).astype(np.int64), np.floor(y / cell).astype(np.int64)
        prefix = f"{number}{'S' if south else 'N'}"
        names[here] = [f"{prefix}_{c}_{r}" for c, r in zip(columns, rows, strict=True)]
    return pd.Series(names, index=index, name="block", dtype="str")


def _slashes(image: str) -> str:
    return image.replace("\\", "/")


def _some(values: Any, most: int = 12) -> str:
    values = [str(value) for value in values]
    return ", ".join(repr(v[:60]) for v in values[:most]) + (
        f" and {len(values) - most} more" if len(values) > most else ""
    )


def _like(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name.lower(), [str(n).lower() for n in list(names)[:1000]], n=1)
    return f" (did you mean {next(n for n in names if str(n).lower() == close[0])!r}?)" if close else ""


@dataclass(frozen=True)
class _Source:
    """The raw columns of a table, with the line of each row where the format has lines."""

    path: Path
    frame: pd.DataFrame
    lines: Sequence[int] | None = None

    def fail(
        self, problem: str, mend: str, column: str | None = None, rows: Any = None, values: Any = None
    ) -> NoReturn:
        """Raise TableError; ``rows`` a boolean mask or positions, ``values`` what stands in all the rows."""
        message = f"{self.path}: " + (f"column {column!r}: " if column is not None else "") + problem
        if rows is not None:
            rows = np.asarray(rows)
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows
            message += " at " + ", ".join(self._row(i, values) for i in rows[:5].tolist())
            message += f" ({len(rows)} rows in all)" if len(rows) > 5 else ""
        raise TableError(f"{message}. {mend[0].upper()}{mend[1:]}.")

    def _row(self, i: int, values: Any) -> str:
        line = f" (line {self.lines[i]})" if self.lines is not None else ""
        return f"row {i + 1}{line}" + (f": {str(values[i])[:60]!r}" if values is not None else "")


def _load(path: Path, complete: bool) -> _Source:
    readers = {
        **dict.fromkeys([".csv", ".tsv", ".txt"], _load_text),
        **dict.fromkeys([".parquet", ".geoparquet", ".pq"], partial(_load_parquet, complete=complete)),
        ".gpkg": partial(_load_geopackage, complete=complete),
    }
    nothing = _Source(path, pd.DataFrame())
    if path.suffix.lower() not in readers:
        nothing.fail(f"unknown kind of table {path.suffix!r}", f"use one of {', '.join(readers)}")
    try:
        if not path.is_file():
            nothing.fail("no such file", "check the path; it is taken relative to the working directory")
        if not path.stat().st_size:
            nothing.fail("the file is empty", "write the table again")
        return readers[path.suffix.lower()](path)
    except TableError:
        raise
    except Exception as error:  # parsers of damaged or foreign files raise anything
        reason = " ".join(str(error).split())[:300]
        raise TableError(
            f"{path}: cannot be read as {path.suffix[1:]} ({type(error).__name__}: {reason}). "
            "Check that the file is complete, readable and of the kind that its name says."
        ) from error


def _load_text(path: Path) -> _Source:
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1" if set(raw) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "cp1252")
    nothing = _Source(path, pd.DataFrame())
    if "\0" in text:
        nothing.fail("holds NUL bytes, so it isn't plain text", "export the table as CSV in UTF-8")
    lines = io.StringIO(text, newline="")
    if text.startswith("sep="):
        lines.readline()
    start = lines.tell()
    reader = csv.reader(lines, delimiter=_delimiter(text[start:]), strict=True)
    header, rows, numbers = None, [], []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = cells
                continue
            if len(cells) > len(header) and not any(cells[len(header) :]):
                cells = cells[: len(header)]  # a trailing delimiter
            if len(cells) != len(header):
                found = f"{len(cells)} cells in line {reader.line_num + (start > 0)}, {len(header)} in the header"
                nothing.fail(
                    found, "quote cells that contain the delimiter, and give every row the same number of cells"
                )
            rows.append(cells)
            numbers.append(reader.line_num + (start > 0))
    except csv.Error as error:
        nothing.fail(
            f"line {reader.line_num + (start > 0)}: {error}", "check the quotes and the length of the cells there"
        )
    if header is None:
        nothing.fail("the file has no header", "start the table with one line of column names")
    columns = [name if name.strip() else f"_unnamed_{i}" for i, name in enumerate(header)]
    frame = pd.DataFrame(np.array(rows, dtype=object).reshape(len(rows), len(columns)), dtype=object)
    return _Source(path, frame.set_axis(columns, axis=1), numbers)


def _delimiter(text: str) -> str:
    """The delimiter whose header has a column ``image``, else the one that gives most columns."""
    header = text.lstrip("\r\n").split("\n")[0].split("\r")[0].lower()
    columns = {d: [c.strip().strip("\"'").strip() for c in header.split(d)] for d in (",", ";", "\t", "|")}
    return max(columns, key=lambda d: ("image" in columns[d], len(columns[d])))


def _load_parquet(path: Path, complete: bool) -> _Source:
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
    geometries = set(geo.get("columns", {}))
    plain = [name for name in schema.names if name not in geometries and not name.startswith("__index_level_")]
    frame = pq.read_table(path, columns=plain).to_pandas(ignore_metadata=True)
    read = partial(_read_geometry, path, geo["primary_column"]) if geometries else lambda: None
    return _with_geometry(_Source(path, frame), read, complete)


def _read_geometry(path: Path, column: str) -> Any:
    import geopandas

    return geopandas.read_parquet(path, columns=[column]).geometry


def _load_geopackage(path: Path, complete: bool) -> _Source:
    import geopandas
    import pyogrio

    layers = [str(layer) for layer in pyogrio.list_layers(path)[:, 0]]
    fields = {
        layer: [str(f).strip().lower() for f in pyogrio.read_info(path, layer=layer)["fields"]] for layer in layers
    }
    layer = next((layer for layer in layers if "image" in fields[layer]), layers[0])
    frame = geopandas.read_file(path, layer=layer)
    if not isinstance(frame, geopandas.GeoDataFrame):
        return _Source(path, frame)
    geometry = frame.geometry
    return _with_geometry(_Source(path, pd.DataFrame(frame.drop(columns=geometry.name))), lambda: geometry, complete)


def _with_geometry(source: _Source, read: Any, complete: bool) -> _Source:
    """Add lon and lat from the geometry unless the table has them as columns."""
    names = {_ALIASES.get(n, n) for n in (str(c).strip().lower() for c in source.frame.columns)}
    geometry = read() if not {"lon", "lat"} <= names else None
    if geometry is None or geometry.isna().all():
        return source
    empty = (geometry.isna() | geometry.is_empty).to_numpy()
    if complete and empty.any():
        source.fail("no geometry", "give every row a point, or leave these rows out", "geometry", empty)
    if geometry.crs is None:
        source.fail("no coordinate reference system", "set it, for example with GeoDataFrame.set_crs", "geometry")
    points = geometry.to_crs(4326)
    points = points if (points.geom_type[~empty] == "Point").all() else points.representative_point()
    keep = [
        c for c in source.frame if _ALIASES.get(str(c).strip().lower(), str(c).strip().lower()) not in ("lon", "lat")
    ]
    return _Source(source.path, source.frame[keep].assign(lon=points.x.to_numpy(), lat=points.y.to_numpy()))


def _rename(source: _Source) -> pd.DataFrame:
    """A copy with a RangeIndex and clean, distinct column names."""
    names = []
    for column in source.frame.columns:
        name = " ".join(str(column).split())
        lower = _ALIASES.get(name.lower(), name.lower())
        names.append(lower if lower in _FOUND_IN_ANY_CASE else name)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        source.fail(
            "two columns have this name (spaces and, for lon and lat, spelling don't count)", "rename one", twice[0]
        )
    return source.frame.set_axis(names, axis=1).reset_index(drop=True)


def _text(value: Any) -> str:
    """One label as text: whole floats without their ``.0``, spaces collapsed."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join((value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).split())


def _texts(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes (n,), -1 = missing, and the distinct texts (not unique after cleaning; '' where a cell is blank)."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(np.int64), [_text(value) for value in column.cat.categories]
    try:
        codes, distinct = pd.factorize(column)
    except TypeError:  # lists and other cells that cannot be compared
        codes, distinct = pd.factorize(column.astype(str))
    return codes, [_text(value) for value in distinct]


def _cells(column: pd.Series) -> np.ndarray:
    """Every cell as text (n,), '' where missing."""
    codes, texts = _texts(column)
    return np.array([*texts, ""], dtype=object)[codes]


def _images(source: _Source, require: bool) -> pd.Series:
    names = source.frame["image"]
    texts = _cells(names)
    folder = str(source.path.parent)
    clean = [os.path.normpath(os.path.join(folder, _slashes(text))) for text in texts]
    blank = texts == ""
    if blank.any():
        source.fail("no image", "name an image in every row, or leave these rows out", "image", blank)
    outside = np.array([os.path.commonpath([folder, path]) != folder or "\0" in path for path in clean])
    if outside.any():
        mend = "put the images under the table's folder and name them relative to it"
        source.fail("the path leaves the table's folder", mend, "image", outside, texts)
    twice = pd.Series(clean).duplicated(keep=False).to_numpy()
    if twice.any():
        source.fail("the same image more than once", "keep one row an image", "image", twice, texts)
    if require:
        absent = np.array([not os.path.exists(path) for path in clean])
        if absent.any():
            mend = "check the paths, which are relative to the table's folder, or leave these rows out"
            source.fail("no such file", mend, "image", absent, texts)
    return pd.Series(texts, dtype="str")


def _coordinates(source: _Source, complete: bool) -> None:
    """Make lon and lat float64 degrees in place, or drop them where all cells are empty; else all, if `complete`."""
    frame = source.frame
    given = [name for name in ("lon", "lat") if name in frame]
    texts = {name: _cells(frame[name]) for name in given}
    texts = {name: np.where(np.isin(cells, ["nan", "NaN"]), "", cells) for name, cells in texts.items()}
    if all((cells == "").all() for cells in texts.values()):
        for name in given:
            del frame[name]
        return
    if len(given) == 1:
        other = "lat" if given == ["lon"] else "lon"
        source.fail(f"there is no column {other!r} beside it", f"add {other!r}, or leave both out", given[0])
    for name, limit in (("lon", 180), ("lat", 90)):
        cells = texts[name]
        blank = cells == ""
        if complete and blank.any():
            source.fail("no coordinate", "fill it in, or leave these rows out", name, blank)
        if pd.api.types.is_numeric_dtype(frame[name]):
            numbers = frame[name].to_numpy(np.float64, na_value=np.nan)
        else:
            plain = pd.Series(cells).str.replace("\u2212", "-").str.replace(",", ".")
            numbers = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64)
        if np.isnan(numbers[~blank]).any():
            source.fail("not a number", "write degrees such as -70.65", name, np.isnan(numbers) & ~blank, cells)
        beyond = ~(np.abs(numbers) <= limit) & ~blank
        if beyond.any():
            mend = f"write degrees (EPSG:4326) from -{limit} to {limit}; metres need a geometry with a CRS"
            swap = " (are lon and lat swapped?)" if name == "lat" and (np.abs(numbers[~blank]) <= 180).all() else ""
            source.fail(f"outside the range{swap}", mend, name, beyond, cells)
        if name == "lat" and (numbers < -60).any():
            source.fail("in Antarctica", "check whether lon and lat are swapped", name, numbers < -60, cells)
        frame[name] = numbers


def _blocks(source: _Source, complete: bool) -> None:
    if "block" not in source.frame:
        return
    cells = _cells(source.frame["block"])
    if (cells == "").all():
        del source.frame["block"]
    elif complete and (cells == "").any():
        mend = "give every row a block, or remove the column so that blocks come from a grid"
        source.fail("no block", mend, "block", cells == "")
    else:
        source.frame["block"] = pd.Series(cells, dtype="str").mask(cells == "")


def _choose_tasks(source: _Source, tasks: Any, require_labels: bool) -> Tasks:
    try:
        if isinstance(tasks, str | Path):
            tasks = Tasks.from_yaml(tasks)
        elif tasks is not None and not isinstance(tasks, Tasks):
            tasks = Tasks(tasks)
    except (ValueError, OSError) as error:
        raise TableError(f"{source.path}: the tasks cannot be read. {error}") from error
    names = [str(name) for name in source.frame.columns]
    if tasks is not None:
        for task in tasks:
            if task in _FOUND_IN_ANY_CASE or task == "geometry":
                source.fail("this name cannot be a task", "rename the task", task)
            if task not in names and require_labels:
                found = f"the task has no column in the table; found {_some(names)}{_like(task, names)}"
                source.fail(found, "rename the column or the task", task)
        return tasks
    columns = [name for name in names if name.lower() not in RESERVED and not name.startswith(("_", "Unnamed:"))]
    if not columns:
        source.fail(f"no column is a task; found {_some(names)}", "add one column a task")
    try:
        return Tasks({column: _classes(source, column) for column in columns})
    except TableError:
        raise
    except ValueError as error:
        raise TableError(f"{source.path}: {error}") from error


def _missing(text: str) -> bool:
    return text in ("", "nan", "NaN")


def _classes(source: _Source, column: str) -> list[str]:
    """The classes that occur in a column, sorted; an error where the column doesn't look like a task."""
    not_a_task = f"if it is no task, rename it '_{column}' or list the tasks in a YAML"
    codes, texts = _texts(source.frame[column])
    used = sorted({texts[code] for code in np.unique(codes) if code >= 0} - {"", "nan", "NaN"})
    numeric = all(_NUMBER.fullmatch(text) for text in used)
    classes = sorted({_whole(text) for text in used}) if numeric else used
    annotated = int((codes >= 0).sum())
    fractions = numeric and any(not re.fullmatch(r"[+-]?\d+", name) for name in classes)
    if not classes:
        source.fail("no row has a label", f"annotate some, or leave the column out; {not_a_task}", column)
    if len(classes) == 1:
        source.fail(f"the only class is {classes[0][:60]!r}; a task has two or more", not_a_task, column)
    if len(classes) > MAX_CLASSES or (len(classes) > 20 and (fractions or len(classes) > annotated / 2)):
        found = f"{len(classes)} distinct values in {annotated} rows look like measurements, names or free text"
        source.fail(f"{found}, for example {_some(classes, 3)}", not_a_task, column)
    long = [name for name in classes if len(name) > 200]
    if long:
        rows = np.isin(codes, [i for i, text in enumerate(texts) if text in set(long)])
        source.fail("a class name of more than 200 characters", not_a_task, column, rows, _cells(source.frame[column]))
    return sorted(classes, key=int) if numeric and not fractions else classes


def _whole(text: str) -> str:
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _labels(source: _Source, task: str, classes: Sequence[str], require: bool) -> pd.Categorical:
    """The column as an ordered categorical of the task's classes."""
    if task not in source.frame:
        return pd.Categorical.from_codes(np.full(len(source.frame), -1), categories=list(classes), ordered=True)
    codes, texts = _texts(source.frame[task])
    place = {name: i for i, name in enumerate(classes)}
    tidy = {" ".join(name.split()): i for name, i in place.items()}
    numeric = all(_missing(text) or _NUMBER.fullmatch(text) for text in texts)
    to = np.full(len(texts) + 1, -1)
    unknown = []
    for i, text in enumerate(texts):
        found = place.get(text, tidy.get(text, place.get(_whole(text)) if numeric or _whole(text) in place else None))
        if found is not None:
            to[i] = found
        elif not _missing(text):
            unknown.append(i)
    wrong = np.isin(codes, unknown)
    if wrong.any():
        name = next(texts[code] for code in codes if code in set(unknown))
        what = "a spreadsheet error" if name in _SPREADSHEET_ERRORS else f"unknown class{_like(name, classes)}"
        mend = f"expected one of {_some(classes)}, or an empty cell; correct the cells or the tasks' YAML"
        source.fail(what, mend, task, wrong, _cells(source.frame[task]))
    labels = to[codes]
    if require and (labels < 0).all():
        source.fail("no row has a label", "annotate some rows, or leave the task out of the YAML", task)
    return pd.Categorical.from_codes(labels, categories=list(classes), ordered=True)
