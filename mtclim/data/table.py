"""Tables of images: one row an image, one column a task; read strictly, so that a mistake is one clear error.

Reading ends in notes: which columns are tasks, which were left out and why, what was taken as missing. The rules:

- Column names are stripped of spaces. The `RESERVED` ones are found in any case and are no tasks.
- Paths of images are data. They are used as they are in the table.
- What is missing is decided in one place, `mtclim.data.reading.cells`.
- What looks like a position is read or refused. Columns of degrees come first, then a geometry, then ``x`` and ``y``.
- ``building`` is the number of a building, unless its cells are words as in OpenStreetMap; ``bearing`` is the viewing
  direction, unless its cells are no numbers. Otherwise each of them is a column like any other.
- A column ``split`` of train, val and test is used, and may hold nothing else.
"""

import difflib
import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtclim.data.reading import MISSING, Cells, Source, TableError, find_geometry, geometry_columns, number, read_frame
from mtclim.tasks import Tasks

RESERVED = (
    "image", "lon", "lat", "geometry", "block", "building", "weight", "id", "split", "municipality", "bearing",
)  # fmt: skip
MAX_CLASSES = 1000  # without a YAML; one that lists more is taken at its word
_DEGREES = {
    "lon": {"lon", "lng", "long", "longitude", "longitud", "longitudine"},
    "lat": {"lat", "latitude", "latitud", "latitudine"},
}
_PLANE = {"lon": {"x", "easting", "east", "este"}, "lat": {"y", "northing", "north", "norte"}}
_BEARINGS = ("bearing", "compassangle", "heading", "imgdirection", "direction", "azimuth")
_DECORATION = re.compile(r"wgs_?84|(epsg|srid)?_?4326|gps|exif|utm|coord(inate)?s?|point|degrees?|deg|decimal|dd|[\W_]")
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_WHOLE = re.compile(r"([+-]?[0-9]+)[.,]0+")
_WORD = re.compile(r"[^\W\d_]{2}[^\d]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SPREADSHEET_ERRORS = {"#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"}


@dataclass(frozen=True)
class Table:
    """A table that was read and checked.

    ``frame`` has a RangeIndex and the column ``image`` (as given). It may have ``lon`` and ``lat`` (degrees of
    EPSG:4326), ``bearing`` (degrees clockwise from north, in [0, 360)), ``weight`` (1 where it was empty), ``block``,
    ``building`` and ``municipality`` (str, missing where empty) and ``split`` (train, val or test). Each task is an
    ordered categorical, missing where not annotated. Other columns stay as they are.
    ``notes`` are plain sentences about what was made of the columns. ``image_root`` is the folder of the images, by
    default the table's.
    """

    frame: pd.DataFrame
    tasks: Tasks
    path: Path
    notes: Sequence[str] = ()
    image_root: Path | None = None

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
        """Absolute paths of the images, as they are found on the disk."""
        folders = [str(self.image_root or self.path.parent), str(self.path.parent)]
        return [Path(_locate(name, folders)) for name in self.frame["image"]]

    @property
    def has_coordinates(self) -> bool:
        """Whether ``lon`` and ``lat`` are there."""
        return "lon" in self.frame

    @property
    def split(self) -> pd.Series | None:
        """The table's own split of its rows (train, val or test), None if it has none or it is not used."""
        return self.frame.get("split")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is used: tasks, names of images, labels, coordinates, blocks and split.

        It does not depend on how the table's path, or a name of an image, is spelt.
        """
        digest = hashlib.sha256(json.dumps(self.tasks.to_dict()).encode())
        root = str(self.image_root or self.path.parent)
        digest.update(json.dumps(["image", *(_plain(name, root) for name in self.frame["image"])]).encode())
        for column in ("block", "split"):
            if column in self.frame:
                digest.update(json.dumps([column, *self.frame[column].fillna("")]).encode())
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
    image_root: str | Path | None = None,
    na_values: Iterable[str] | None = None,
    use_split: bool = True,
) -> Table:
    """Read and check a table of images.

    Parameters
    ----------
    path
        A table of any kind that `mtclim.data.reading.read_frame` reads.
    tasks
        Tasks, a mapping, or the path of a YAML, naming tasks and the order of their classes. Without it every column is
        a task that looks like one; its classes are what occurs, in natural order (1, 2, 10, 10+) or in that of a
        Parquet file's ordered categories. Names that begin with ``_`` are left out.
    require_images
        Check that every image file exists.
    require_labels
        False is for prediction: task columns may be empty or absent, single rows may lack position (``lon`` and ``lat``
        are then NaN) or block (then missing), and a column ``split`` is left out.
    image_root
        The folder that the images' names are relative to, by default the table's. A relative name that leads out of
        it is looked for beside the table. Absolute paths to any place are allowed only if it is given.
    na_values
        The texts that mean "missing" beside empty cells, by default `mtclim.data.reading.MISSING`. A class that
        ``tasks`` lists is never missing.
    use_split
        Use a column ``split`` that holds train, val and test.

    Raises
    ------
    TableError
        For whatever cannot be read as meant.
    """
    path = Path(os.path.realpath(Path(path).parent), Path(path).name)
    source = read_frame(path)
    missing = (
        MISSING if na_values is None else (na_values,) if isinstance(na_values, str) else tuple(map(str, na_values))
    )
    given = _given(source, tasks)
    source = replace(source, frame=_renamed(source, given or ()), missing=missing)
    frame = source.frame
    if "image" not in frame:
        source.fail(f"no column 'image'; found {_some(frame.columns)}", "name the column of image paths 'image'")
    if not len(frame):
        source.fail("the table has no rows", "add one row an image")
    frame["image"] = _images(source)
    listed = set(given or ())
    _positions(source, listed, require_labels)
    ordinary = _special_texts(source, listed, require_labels) | _special_numbers(source, listed)
    _split(source, use_split and require_labels)
    chosen = _untold(source, ordinary) if given is None else _told(source, given, require_labels)
    for task, classes in chosen.items():
        frame[task] = _labels(source, task, classes, require_labels)
    _drop(frame, ordinary - set(chosen))
    root = Path(os.path.realpath(image_root)) if image_root else path.parent
    table = Table(frame, chosen, path, tuple(source.notes), root)
    _check_paths(source, table, bool(image_root), require_images)
    return table


def grid_blocks(lon: pd.Series, lat: pd.Series, cell: float = 500.0) -> pd.Series:
    """Names of square grid cells, ``cell`` metres wide, in each point's UTM zone; lon and lat in degrees (n,).

    Returns a Series of str with lon's index. ValueError for missing coordinates and a cell size that isn't positive.
    """
    from pyproj import Transformer

    if not cell > 0 or not math.isfinite(cell):
        raise ValueError(f"cell is {cell!r}; expected the width of a block in metres, for example 500.")
    index = lon.index if isinstance(lon, pd.Series) else None
    lon, lat = np.asarray(lon, dtype=float), np.asarray(lat, dtype=float)
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.all():
        first = np.flatnonzero(~known)[:5].tolist()
        raise ValueError(f"grid_blocks: no coordinates at positions {first}; expected degrees for every row.")
    zone = (np.floor((lon + 180) / 6).astype(int) % 60) + 1
    names = np.empty(len(lon), dtype=object)
    for zone_number, south in sorted(set(zip(zone.tolist(), (lat < 0).tolist(), strict=True))):
        here = (zone == zone_number) & ((lat < 0) == south)
        to_metres = Transformer.from_crs(4326, (32700 if south else 32600) + zone_number, always_xy=True)
        x, y = to_metres.transform(lon[here], lat[here])
        columns, rows = np.floor(x / cell).astype(np.int64), np.floor(y / cell).astype(np.int64)
        prefix = f"{zone_number}{'S' if south else 'N'}"
        names[here] = [f"{prefix}_{c}_{r}" for c, r in zip(columns, rows, strict=True)]
    return pd.Series(names, index=index, name="block", dtype="str")


def _drop(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    for column in columns:
        del frame[column]


def _some(values: Iterable[Any], most: int = 12) -> str:
    values = [str(value) for value in values]
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(repr(value[:60]) for value in values[:most]) + more


def _like(name: str, names: Iterable[str]) -> str:
    names = {str(other).lower(): other for other in list(names)[:1000]}
    close = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


# ---------------------------------------------------------------- names and images


def _given(source: Source, tasks: Any) -> Tasks | None:
    try:
        if isinstance(tasks, str | Path):
            tasks = Tasks.from_yaml(tasks)
        elif tasks is not None and not isinstance(tasks, Tasks):
            tasks = Tasks(tasks)
    except (ValueError, OSError) as error:
        raise TableError(f"{source.path}: the tasks cannot be read. {error}") from error
    for task in tasks or ():
        if task.lower() in RESERVED and task.lower() not in ("building", "bearing"):
            source.fail("this name cannot be a task, because it has a meaning of its own", "rename the task", task)
    return tasks


def _renamed(source: Source, listed: Iterable[str]) -> pd.DataFrame:
    """A copy with a RangeIndex and clean, distinct column names."""
    names = [" ".join(str(column).split()) for column in source.frame.columns]
    found = [name.lower() if name.lower() in RESERVED and name not in listed else name for name in names]
    twice = sorted({name for name in found if found.count(name) > 1} - {"id"})
    if twice:
        source.fail("two columns have this name (spaces don't count)", "rename one", twice[0])
    return source.frame.set_axis(found, axis=1).reset_index(drop=True)


def _images(source: Source) -> pd.Series:
    found = source.cells("image", clean=False)
    names = np.asarray(found)
    if found.missing.any():
        source.fail("no image", "name an image in every row, or leave these rows out", "image", found.missing)
    addresses = np.array([bool(_URL.match(name)) for name in names])
    if addresses.any():
        mend = "download the photographs, and name the files"
        source.fail("an address on the internet (URL), not a file", mend, "image", addresses, names)
    return pd.Series(names, dtype="str")


def _locate(name: str, folders: Sequence[str]) -> str:
    """Where an image is: the name as it stands under the first folder, else another spelling or folder that exists.

    Other spellings are those with slashes for backslashes, in either normal form of Unicode, and without outer spaces.
    The second folder counts for a name that leads out of the first.
    """
    first = os.path.join(folders[0], name)
    if os.path.exists(first) and _within(first, folders[0]):
        return first
    slashes = name.replace("\\", "/")
    forms = [unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")]
    paths = [os.path.join(folder, form) for folder in folders for form in (name, slashes, *forms, slashes.strip())]
    found = [path for path in paths if os.path.exists(path)]
    return next((path for path in found if _within(path, folders[0])), found[0] if found else paths[1])


def _within(path: str, folder: str) -> bool:
    inside = folder.rstrip(os.sep) + os.sep
    return os.path.normpath(path).startswith(inside) or os.path.realpath(path).startswith(inside)


def _plain(name: str, root: str) -> str:
    """One spelling of an image's name: relative to the root if it lies there, with slashes, composed Unicode."""
    plain = os.path.normpath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))
    return os.path.relpath(plain, root) if os.path.isabs(plain) and _within(plain, root) else plain


def _check_paths(source: Source, table: Table, anywhere: bool, require: bool) -> None:
    names, root = table.frame["image"].to_numpy(), str(table.image_root)
    paths = [os.path.normpath(path) for path in table.paths]
    outside = np.array([
        "\0" in name or not (_within(path, root) or (anywhere and os.path.isabs(name)))
        for name, path in zip(names, paths, strict=True)
    ])  # fmt: skip
    if outside.any():
        what = "image_root" if anywhere else "the table's folder"
        mend = "name the images relative to a folder above them, and give that folder as image_root"
        source.fail(f"the path leaves {what}", mend, "image", outside, names)
    twice = pd.Series(paths).duplicated(keep=False).to_numpy()
    if twice.any():
        source.fail("the same image more than once", "keep one row an image", "image", twice, names)
    absent = np.array([require and not os.path.exists(path) for path in paths])
    if absent.any():
        mend = f"check the paths, which are relative to {root}, leave these rows out, or give another image_root"
        source.fail("no such file", mend, "image", absent, names)


# ---------------------------------------------------------------- columns with a meaning of their own


def _key(name: str) -> str:
    """A column's name without what decorates it: lon_wgs84 and GPS-lon are lon, X_coord and POINT_X are x."""
    return _DECORATION.sub("", name.lower())


def _axes(source: Source, names: Mapping[str, set[str]], listed: Iterable[str]) -> dict[str, str]:
    """The column of each axis whose name is one of ``names``, unless it is listed as a task."""
    axes = {}
    for axis, known in names.items():
        columns = [name for name in source.frame.columns if _key(name) in known and name not in listed]
        columns = [name for name in columns if _key(name) != "long" or np.isfinite(source.cells(name).numbers).any()]
        if len(columns) > 1:
            mend = f"begin the name of the one that is not to be used with '_', for example '_{columns[1]}'"
            source.fail(f"two columns may be this position: {_some(columns)}", mend, axis)
        if columns:
            axes[axis] = columns[0]
    return axes


def _positions(source: Source, listed: Iterable[str], complete: bool) -> None:
    """Make lon and lat float64 degrees, from columns of degrees, a geometry, or columns x and y; note which."""
    frame = source.frame
    shapes = list(geometry_columns(source))
    axes = _axes(source, _DEGREES, listed)
    if all(source.cells(name).missing.all() for name in axes.values()):
        _drop(frame, axes.values())
        axes = {}
    geometry = find_geometry(source) if len(axes) < 2 else None
    if geometry is not None and not geometry.isna().all():
        _drop(frame, [*axes.values(), *shapes])
        _from_geometry(source, geometry, complete)
        axes = {"lon": "lon", "lat": "lat"}
    elif not axes:
        axes = _plane(source, listed)
    for name in shapes:
        if name in frame:
            source.notes.append(
                f"Column {name!r} is left out: it holds a geometry, and the position comes from elsewhere."
            )
            del frame[name]
    if "geometry" in frame:
        mend = "write it as WKT, such as POINT (-70.65 -33.44), or rename the column"
        source.fail("holds no geometry", mend, "geometry")
    if len(axes) == 1:
        ((axis, name),) = axes.items()
        other = "lat" if axis == "lon" else "lon"
        source.fail(f"there is no column {other!r} beside it", f"add {other!r}, or leave both out", name)
    if not axes:
        source.notes.append("No position: there are no columns lon and lat and no geometry.")
        return
    for axis, limit in (("lon", 180), ("lat", 90)):
        frame[axis] = _degrees(source, axes[axis], limit, complete)
    if axes != {"lon": "lon", "lat": "lat"}:
        _drop(frame, axes.values())
        source.notes.append(f"Position from columns {axes['lon']!r} and {axes['lat']!r}, in degrees.")
    zero = int(((frame["lon"] == 0) & (frame["lat"] == 0)).sum())
    if zero:
        source.notes.append(f"{zero} rows lie at longitude 0, latitude 0, as photographs without a position often do.")


def _from_geometry(source: Source, geometry: Any, complete: bool) -> None:
    empty = (geometry.isna() | geometry.is_empty).to_numpy()
    if complete and empty.any():
        source.fail("no geometry", "give every row a point, or leave these rows out", "geometry", empty)
    if geometry.crs is None:
        mend = "set it, for example with GeoDataFrame.set_crs, or give lon and lat in degrees"
        source.fail("no coordinate reference system", mend, "geometry")
    kind = "points"
    if not (geometry.geom_type[~empty] == "Point").all():
        geometry, kind = geometry.representative_point(), "a point in each shape"
    points = geometry.to_crs(4326)
    source.frame["lon"], source.frame["lat"] = points.x.to_numpy(), points.y.to_numpy()
    source.notes.append(f"Position from the geometry ({kind}, {geometry.crs.to_string()[:60]}).")


def _plane(source: Source, listed: Iterable[str]) -> dict[str, str]:
    """Columns named like x and y if they hold degrees; an error if they are metres, none if they are small counts."""
    axes = _axes(source, _PLANE, listed)
    found = [source.cells(name) for name in axes.values()]
    if len(axes) < 2 or not all(cells.numeric for cells in found):
        return {}
    numbers = np.concatenate([cells.numbers[~cells.missing] for cells in found])
    if (np.abs(found[0].numbers) > 180).any() or (np.abs(found[1].numbers) > 90).any():
        problem = f"columns {_some(axes.values())} look like a position in metres, without a coordinate system"
        mend = "give lon and lat in degrees, or a GeoPackage, which says its system; if they are no position, "
        source.fail(problem, mend + "begin their names with '_'")
    return axes if (numbers % 1).any() else {}


def _degrees(source: Source, name: str, limit: int, complete: bool) -> np.ndarray:
    found = source.cells(name)
    if complete and found.missing.any():
        source.fail("no coordinate", "fill it in, or leave these rows out", name, found.missing)
    numbers, shown = found.numbers, np.asarray(found)
    wrong = np.isnan(numbers) & ~found.missing
    if wrong.any():
        source.fail("not a number", "write degrees such as -70.65", name, wrong, shown)
    beyond = np.abs(numbers) > limit
    if beyond.any():
        mend = f"write degrees (EPSG:4326) from -{limit} to {limit}; metres need a geometry with a CRS"
        swap = " (are lon and lat swapped?)" if limit == 90 and not (np.abs(numbers) > 180).any() else ""
        source.fail(f"outside the range{swap}", mend, name, beyond, shown)
    if limit == 90 and (numbers < -60).any():
        source.fail("in Antarctica", "check whether lon and lat are swapped", name, numbers < -60, shown)
    return numbers


def _special_texts(source: Source, listed: Iterable[str], complete: bool) -> set[str]:
    """Make block, building and municipality text, missing where empty; returns ``building`` if its cells are words."""
    ordinary = set()
    for name in [n for n in ("block", "building", "municipality") if n in source.frame and n not in listed]:
        found = source.cells(name)
        if name == "building" and found.texts and _are_words(found):
            source.notes.append("Column 'building' holds words, not numbers of buildings; it is read like any column.")
            ordinary.add(name)
        elif found.missing.all():
            del source.frame[name]
        elif name == "block" and complete and found.missing.any():
            mend = "give every row a block, or remove the column so that blocks come from a grid"
            source.fail("no block", mend, name, found.missing)
        else:
            source.frame[name] = pd.Series(np.asarray(found), dtype="str").mask(found.missing)
        if name == "building" and name in source.frame and name not in ordinary and found.missing.any():
            source.notes.append(f"'building' is empty in {found.missing.sum()} rows; each is a building of its own.")
    return ordinary


def _are_words(found: Cells) -> bool:
    """Whether the cells are a few words that repeat, as values of a tag, and no identifiers."""
    few = len(found.texts) <= 20 and 2 * len(found.texts) <= (~found.missing).sum()
    return few and all(_WORD.fullmatch(text) for text in found.texts)


def _special_numbers(source: Source, listed: Iterable[str]) -> set[str]:
    """Make weight and bearing numbers; returns ``bearing`` if its cells are no numbers."""
    frame = source.frame
    if "weight" in frame:
        found = source.cells("weight")
        wrong = ~found.missing & ~(found.numbers >= 0) | np.isinf(found.numbers)
        if wrong.any():
            mend = "write how many buildings the row stands for, such as 1 or 2.5, or rename the column"
            source.fail("not a number from 0", mend, "weight", wrong, np.asarray(found))
        if found.missing.any():
            source.notes.append(f"'weight' is empty in {found.missing.sum()} rows; it is taken as 1.")
        frame["weight"] = np.where(found.missing, 1.0, found.numbers)
    columns = {_key(name): name for name in reversed(frame.columns) if name not in listed}
    column = next((columns[k] for k in _BEARINGS if k in columns and source.cells(columns[k]).numeric), None)
    if column is None:
        return {"bearing"} & set(frame.columns) - set(listed)
    found = source.cells(column)
    beyond = np.abs(found.numbers) > 360
    if beyond.any():
        mend = f"write degrees clockwise from north, or name the column '_{column}' if it is no viewing direction"
        source.fail("outside the range of a direction", mend, column, beyond, np.asarray(found))
    del frame[column]
    frame["bearing"] = found.numbers % 360
    source.notes.append(f"Viewing direction from column {column!r}: known in {(~found.missing).sum()} rows.")
    return set()


def _split(source: Source, use: bool) -> None:
    if "split" not in source.frame:
        return
    if not use:
        del source.frame["split"]
        source.notes.append("Column 'split' is not used.")
        return
    found = source.cells("split")
    texts = [_SPLITS.get(text.lower(), "") for text in found.texts]
    names = np.array([*texts, ""], dtype=object)[found.codes]
    if (names == "").any():
        mend = "write train, val or test in every row, rename the column, or set use_split to False"
        source.fail("expected train, val or test", mend, "split", names == "", np.asarray(found))
    source.frame["split"] = pd.Series(names, dtype="str")
    counts = ", ".join(f"{(names == name).sum()} {name}" for name in ("train", "val", "test"))
    source.notes.append(f"Column 'split' is used: {counts}; use_split: false draws a new one.")


# ---------------------------------------------------------------- tasks and labels


def _told(source: Source, tasks: Tasks, require_labels: bool) -> Tasks:
    names = [str(name) for name in source.frame.columns]
    for task in tasks:
        if task not in names and require_labels:
            found = f"the task has no column in the table; found {_some(names)}{_like(task, names)}"
            source.fail(found, "rename the column or the task", task)
    _report(source, tasks, {name: "not among the given tasks" for name in names if name not in (*RESERVED, *tasks)})
    return tasks


def _untold(source: Source, ordinary: set[str]) -> Tasks:
    """The tasks of a table that comes without a list of them: the columns that look like classes."""
    tasks, left = {}, {}
    for name in map(str, source.frame.columns):
        if name.startswith(("_", "Unnamed:")):
            left[name] = "a name like this marks what is no task"
        elif name.lower() not in RESERVED or name in ordinary:
            tasks[name], reason = _classes(source, name)
            if reason:
                left[name] = reason
                del tasks[name]
    if not tasks:
        why = f" ({'; '.join(f'{name!r}: {reason}' for name, reason in left.items())})" if left else ""
        mend = "add one column a task, or list tasks and classes in a YAML"
        source.fail(f"no column is a task; found {_some(source.frame.columns)}{why[:1500]}", mend)
    try:
        chosen = Tasks(tasks)
    except ValueError as error:
        raise TableError(f"{source.path}: {error}") from error
    _report(source, chosen, left)
    return chosen


def _report(source: Source, tasks: Tasks, left: Mapping[str, str]) -> None:
    """Note the tasks, the columns left out with the reason, and classes that look alike."""
    sizes = ", ".join(f"{task} ({len(classes)} classes)" for task, classes in tasks.items())
    source.notes.insert(0, f"Tasks: {sizes}.")
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        source.notes.append(f"Left out: {_some(names)} ({reason}).")
    for task, classes in tasks.items():
        alike: dict[str, list[str]] = {}
        for name in classes:
            alike.setdefault(_look(name), []).append(name)
        for names in alike.values():
            if len(names) > 1:
                source.notes.append(f"Column {task!r}: the classes {_some(names)} look alike.")


def _look(name: str) -> str:
    """What the eye sees of a name: neither case, nor leading zeros, nor which space or dash it is."""
    value = number(name)
    plain = re.sub(r"[\s_\-\u2010-\u2015]+", " ", unicodedata.normalize("NFKC", name)).casefold()
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", plain) if math.isnan(value) else f"{value:g}"


def _classes(source: Source, column: str) -> tuple[list[str], str]:
    """The classes that occur in a column, in order, and the reason if they don't look like those of a task."""
    found = source.cells(column)
    names = [found.texts[code] for code in np.unique(found.codes[~found.missing])]
    numeric = found.numeric and np.isfinite(found.numbers[~found.missing]).all()
    names = list(dict.fromkeys(map(_whole, names))) if numeric else names
    rows = int((~found.missing).sum())
    broken = np.isin(np.asarray(found), list(_SPREADSHEET_ERRORS))
    if broken.any():
        source.fail("a spreadsheet error", "mend the cells in the spreadsheet", column, broken, np.asarray(found))
    some = f"for example {_some(names, 3)}"
    if not getattr(source.frame[column].dtype, "ordered", False):
        names = sorted(names, key=(lambda name: (number(name), name)) if numeric else _natural)
    if not names:
        return names, "no row has a label"
    if len(names) == 1:
        return names, f"the only class is {names[0][:60]!r}; a task has two or more"
    if any(len(name) > 200 or "\0" in name for name in names):
        return names, "a class name of more than 200 characters, or with NUL characters"
    counts = numeric and not any(number(name) % 1 or abs(number(name)) >= 100 for name in names)
    measured = numeric and len(names) > 20 and not (counts and rows >= 50 * len(names))
    if measured or len(names) > MAX_CLASSES or (len(names) > 20 and len(names) > rows / 2):
        return names, f"{len(names)} distinct values in {rows} rows look like measurements, names or free text, {some}"
    return names, ""


def _natural(name: str) -> tuple:
    """Sorts 1, 2, 10, 10+ and H1, H2, H3-4 as a person does."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _whole(text: str) -> str:
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _labels(source: Source, task: str, classes: Sequence[str], require: bool) -> pd.Categorical:
    """The column as an ordered categorical of the task's classes."""
    if task not in source.frame:
        return pd.Categorical.from_codes(np.full(len(source.frame), -1), categories=list(classes), ordered=True)
    found = source.cells(task, keep=classes)
    place = {_whole(" ".join(name.split())): i for i, name in reversed(list(enumerate(classes)))}
    place |= {" ".join(name.split()): i for i, name in enumerate(classes)}
    to = np.array([place.get(text, place.get(_whole(text), -1)) for text in found.texts] + [-1])
    labels = to[found.codes]
    wrong = (labels < 0) & ~found.missing
    if wrong.any():
        name = str(np.asarray(found)[wrong][0])
        what = "a spreadsheet error" if name in _SPREADSHEET_ERRORS else f"unknown class{_like(name, classes)}"
        mend = f"expected one of {_some(classes)}, or an empty cell; correct the cells or the tasks' YAML"
        source.fail(what, mend, task, wrong, np.asarray(found))
    if require and (labels < 0).all():
        source.fail("no row has a label", "annotate some rows, or leave the task out of the YAML", task)
    if found.taken:
        taken = ", ".join(f"{text!r} in {count} rows" for text, count in found.taken.items())
        source.notes.append(f"Column {task!r}: {taken} taken as not annotated; `na_values: []` keeps it a class.")
    return pd.Categorical.from_codes(labels, categories=list(classes), ordered=True)
