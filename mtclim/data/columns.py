"""The columns of a table that have a meaning of their own: position, viewing direction, block, building, weight, split.

What looks like a position is read or refused, never ignored. Columns of degrees come first, then a geometry, then
columns named x and y.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mtclim.data.reading import Source, clear_errors, find_geometry, geometry_columns, numbers, numeric, row_count, some

_DEGREES = {"lon": {"lon", "lng", "long", "longitude", "longitud"}, "lat": {"lat", "latitude", "latitud"}}
_PLANE = {"lon": {"x", "easting", "este"}, "lat": {"y", "northing", "norte"}}
_BEARINGS = ("bearing", "compassangle", "heading", "imgdirection", "direction", "azimuth")
_DECORATION = re.compile(r"wgs_?84|(epsg|srid)?_?4326|gps|exif|utm|coord(inate)?s?|point|degrees?|deg|decimal|dd|[\W_]")
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_WORD = re.compile(r"[^\W\d_]{2}[^\d]*")


def read_positions(source: Source, listed: Collection[str], complete: bool) -> None:
    """Make ``lon`` and ``lat`` of the frame float64 degrees (EPSG:4326), and note where they come from.

    Parameters
    ----------
    listed : Columns that are tasks, and so no position.
    complete : Whether every row needs a position. Otherwise single rows may lack one, and are NaN.
    """
    shapes, axes = geometry_columns(source), _axes(source, _DEGREES, listed)
    unused = list(shapes)
    geometry = find_geometry(source) if len(axes) < 2 else None
    if geometry is not None and not geometry.isna().all():
        source.frame = source.frame.drop(columns=list(axes.values()))
        source.frame["lon"], source.frame["lat"] = _points(source, geometry, complete)
        axes = {"lon": "lon", "lat": "lat"}
        if source.geometry is None:
            unused.remove("geometry" if "geometry" in unused else unused[0])
    if unused:
        source.notes.append(f"Not used: {some(unused)} (a geometry; the position comes from other columns).")
    source.frame = source.frame.drop(columns=list(shapes))
    axes = axes or _plane(source, listed)
    if len(axes) == 1:
        other = "lon" if "lat" in axes else "lat"
        source.fail(f"there is no column {other!r} beside it", f"add {other!r}, or leave both out", *axes.values())
    if not axes:
        source.frame = source.frame.drop(columns=["lon", "lat"], errors="ignore")
        source.notes.append("No position: there are no columns lon and lat, and no geometry.")
        return
    lon, lat = (_degrees(source, axes[axis], limit, complete) for axis, limit in (("lon", 180), ("lat", 90)))
    if set(axes.values()) != {"lon", "lat"}:
        source.notes.append(f"Position from columns {axes['lon']!r} and {axes['lat']!r}, in degrees.")
        source.frame = source.frame.drop(columns=list(axes.values()))
    source.frame["lon"], source.frame["lat"] = lon, lat
    zero = ((lon == 0) & (lat == 0)).sum()
    if zero:
        source.notes.append(f"Longitude and latitude are 0 in {row_count(zero)}, as where a camera had no position.")


def ordinary(source: Source, listed: Collection[str]) -> set[str]:
    """Which of bearing and building are columns like any other: no numbers, and the value of a tag (OpenStreetMap).

    A tag has words that repeat (house, apartments, yes), and does so more often than one building is photographed. Up
    to a tenth of the rows may hold something else.
    """
    others = set()
    if "bearing" in source.frame and not numeric(source.cells("bearing")):
        others.add("bearing")
    if "building" in source.frame and "building" not in listed:
        found = source.cells("building")
        found = found[found != ""]
        words = found[[bool(_WORD.fullmatch(text)) for text in found]]
        often = 2 if words.nunique() <= 20 else 20
        if 0 < often * words.nunique() <= len(words) and len(words) >= 0.9 * len(found):
            source.notes.append("Column 'building' holds words, not numbers of buildings; it is read like any column.")
            others.add("building")
    return others - set(listed)


def read_computed(source: Source, listed: Collection[str], name: str) -> None:
    """Let what Mapillary computed from the photographs replace what was measured, where a row has it, and note it.

    Parameters
    ----------
    listed, name : Columns such as tasks that replace nothing, and the measured one, which ``computed_<name>`` replaces.
    """
    better = f"computed_{name}"
    if better in source.frame and better not in listed:
        filled = (source.cells(better) != "").to_numpy()
        source.notes.append(f"Column {better!r} is used in place of {name!r}, in {row_count(filled.sum())}.")
        source.frame[name] = source.frame.pop(better).where(filled, source.frame.get(name))


def read_bearing(source: Source, listed: Collection[str], strict: bool = False) -> None:
    """Make ``bearing`` of the frame degrees clockwise from north in [0, 360), NaN where missing, and note it.

    Parameters
    ----------
    listed : Columns that are never taken for it, such as tasks.
    strict : Names such as ``compass_angle`` and ``heading`` are taken for it where all their cells are numbers; if this
        is set, other cells are an error.
    """
    read_computed(source, listed, "compass_angle")
    frame = source.frame
    columns = {_key(name): name for name in reversed(frame.columns) if name not in listed}
    known = _BEARINGS[:1] if "bearing" in frame else _BEARINGS
    found = [columns[key] for key in known if key in columns]
    column = next((name for name in found if numeric(source.cells(name))), found[0] if found and strict else None)
    if column is None:
        return
    cells = source.cells(column)
    bearing = numbers(cells)
    mend = f"write degrees clockwise from north, or name the column '_{column}' if it is no viewing direction"
    source.check(np.isnan(bearing) & (cells != ""), "not a number", mend, column)
    source.check(np.abs(bearing) > 360, "outside the range of a direction", mend, column)
    del frame[column]
    frame["bearing"] = bearing % 360
    source.notes.append(f"Viewing direction from column {column!r}, known in {row_count(np.isfinite(bearing).sum())}.")


def read_texts(source: Source, others: Collection[str], complete: bool) -> None:
    """Make block, building and municipality text, missing where empty.

    Parameters
    ----------
    others, complete : Columns that are like any other, and whether a column of blocks must have one in every row.
    """
    frame = source.frame
    for name in ("block", "building", "municipality"):
        if name not in frame or name in others:
            continue
        found = source.cells(name, means="missing")
        missing = found == ""
        if missing.all():
            del frame[name]
            continue
        mend = "give every row a block, or remove the column so that blocks come from a grid"
        source.check(missing & complete & (name == "block"), "no block", mend, name)
        frame[name] = found.mask(missing)
        if name == "building":
            source.notes.append(f"Column 'building' numbers {found[~missing].nunique():,} buildings.")
            if missing.any():
                empty = row_count(missing.sum())
                source.notes.append(f"Column 'building' is empty in {empty}; each is a building of its own.")


def read_weight(source: Source) -> None:
    """Make ``weight`` of the frame float64, 1 where missing."""
    if "weight" not in source.frame:
        return
    found = source.cells("weight")
    weight = np.where(found == "", 1.0, numbers(found))
    commas = found[found.str.contains(",")]
    thousands = found.str.fullmatch(r"[1-9]\d{0,2}(,\d{3})+") & commas.str.fullmatch(r"[1-9]\d{0,2}(,\d{3})+").all()
    source.check(thousands, "a thousand or a decimal comma", "write numbers without commas", "weight")
    mend = "write how many buildings the row stands for, such as 1 or 2.5, or rename the column"
    source.check(~(np.isfinite(weight) & (weight >= 0)), "expected a number from 0 on", mend, "weight")
    if (found == "").any():
        source.notes.append(f"Column 'weight' is empty in {row_count((found == '').sum())}; it is taken as 1.")
    source.frame["weight"] = weight


def read_split(source: Source, use: bool) -> None:
    """Make ``split`` of the frame train, val or test in every row; without ``use`` drop it."""
    if "split" not in source.frame:
        return
    if not use:
        del source.frame["split"]
        source.notes.append("Column 'split' is not used.")
        return
    split = source.cells("split").str.lower().replace(_SPLITS)
    mend = "write one of them in every row, rename the column, or set use_split to False"
    source.check(~split.isin(["train", "val", "test"]), "expected train, val or test", mend, "split")
    source.frame["split"] = split
    counts = ", ".join(f"{(split == name).sum()} {name}" for name in ("train", "val", "test"))
    source.notes.append(f"Column 'split' is used ({counts}); `use_split: false` draws a new split.")


def grid_blocks(lon: pd.Series, lat: pd.Series, cell: float = 500.0) -> pd.Series:
    """Names of square grid cells in each point's UTM zone, as a Series of str with the index of ``lon``.

    Parameters
    ----------
    lon, lat, cell : Degrees (n,), and the width of a cell in metres.

    Raises
    ------
    ValueError
        For missing coordinates and a cell size that isn't positive and finite.
    """
    try:
        from pyproj import Transformer
    except ImportError:
        problem = "blocks from coordinates need the package pyproj"
        raise ImportError(f"{problem}; install it with pip install pyproj, or add a column 'block'.") from None
    if not 0 < cell < math.inf:
        raise ValueError(f"cell is {cell!r}; expected the width of a block in metres, for example 500.")
    index = pd.Series(lon).index
    lon, lat = np.asarray(lon, dtype=float), np.asarray(lat, dtype=float)
    unknown = np.flatnonzero(~np.isfinite(lon + lat))[:5].tolist()
    if unknown:
        raise ValueError(f"grid_blocks: no coordinates at positions {unknown}; expected degrees for every row.")
    zone = (np.floor((lon + 180) / 6).astype(int) % 60) + 1
    code = zone + np.where(lat < 0, 32700, 32600)  # EPSG
    names = pd.Series("", index=index, name="block", dtype="str")
    for epsg in np.unique(code).tolist():
        here = code == epsg
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon[here], lat[here])
        east, north = np.floor(x / cell).astype(np.int64), np.floor(y / cell).astype(np.int64)
        prefix = f"{epsg % 100}{'S' if epsg > 32700 else 'N'}"
        names[here] = [f"{prefix}_{c}_{r}" for c, r in zip(east, north, strict=True)]
    return names


def _key(name: str) -> str:
    """A column's name without what decorates it: lon_wgs84 is lon, POINT_X is x, but _lon means nothing and stays."""
    if name.startswith("_"):
        return name
    return re.sub(r"^.*(longitude|latitude)[nsew]?$", r"\1", _DECORATION.sub("", name.lower()))


def _axes(source: Source, names: Mapping[str, set[str]], listed: Collection[str]) -> dict[str, str]:
    """The column of each axis whose name is one of ``names``, unless it is listed as a task; {} where all are empty."""
    axes = {}
    for axis, known in names.items():
        columns = [name for name in source.frame.columns if _key(name) in known and name not in listed]
        columns = [name for name in columns if _key(name) != "long" or np.isfinite(numbers(source.cells(name))).any()]
        if len(columns) > 1:
            mend = f"begin the name of the one that is not to be used with '_', for example '_{columns[1]}'"
            source.fail(f"two columns may be this position: {some(columns)}", mend, axis)
        if columns:
            axes[axis] = columns[0]
    return axes if any((source.cells(name) != "").any() for name in axes.values()) else {}


def _points(source: Source, geometry: Any, complete: bool) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of a geometry; of a point in each shape where they are no points."""
    empty = (geometry.isna() | geometry.is_empty).to_numpy()
    source.check(empty & complete, "no geometry", "give every row a point, or leave these rows out", "geometry")
    if geometry.crs is None:
        mend = "set it, for example with GeoDataFrame.set_crs, or give lon and lat in degrees"
        source.fail("no coordinate reference system", mend, "geometry")
    source.notes.append(f"Position from the geometry, in {geometry.crs.to_string()[:60]}.")
    if not (geometry.geom_type[~empty] == "Point").all():
        source.notes.append("Shapes that are no points stand for one point inside each.")
        geometry = geometry.representative_point()
    with clear_errors(source):
        points = geometry.to_crs(4326)
    return points.x.to_numpy(), points.y.to_numpy()


def _plane(source: Source, listed: Collection[str]) -> dict[str, str]:
    """Columns named like x and y if both hold numbers, but neither small whole ones, as of classes, nor those of boxes.

    A box in a picture has a width and a height beside them, or is in parts of the picture.
    """
    axes = _axes(source, _PLANE, listed)
    found = [source.cells(name) for name in axes.values()]
    if len(axes) < 2 or not all(map(numeric, found)):
        return {}
    values = np.nan_to_num([numbers(texts) for texts in found])
    sides = [name for name in source.frame if _key(name) in ("w", "h", "width", "height")]
    boxes = sum(numeric(source.cells(name)) for name in sides) >= 2
    if boxes or ((values >= 0) & (values <= 1)).all():
        return {}
    return axes if (values % 1 != 0).any() or (np.abs(values) > 180).any() else {}


def _degrees(source: Source, name: str, limit: int, complete: bool) -> np.ndarray:
    found = source.cells(name)
    degrees, missing = numbers(found), found == ""
    source.check(missing & complete, "no coordinate", "fill it in, or leave these rows out", name)
    source.check(np.isnan(degrees) & ~missing, "not a number", "write degrees such as -70.65", name)
    beyond = np.abs(degrees) > limit
    antarctic = (degrees < -60) & (limit == 90)  # Where hardly anyone builds, but where the swapped Americas lie.
    swap = " (are lon and lat swapped?)" if limit == 90 and not (np.abs(degrees) > 180).any() else ""
    mend = (
        f"write degrees (EPSG:4326) from -{limit} to {limit}. Metres need a geometry with a CRS, as in a GeoPackage. "
        "If this is no position, begin the names of both columns with '_'"
    )
    source.check(beyond | antarctic, f"outside the range{swap}", mend, name)
    return degrees
