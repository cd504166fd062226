"""From views to buildings: which footprint each view shows, and one answer from all views of a building.

Positions are in degrees (EPSG:4326), bearings in degrees clockwise from true north, and footprints in any coordinate
reference system. Distances are in metres, in a transverse Mercator projection about the middle of views that lie near
each other.
"""

import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer
from scipy.stats import entropy

from mtclim.data.reading import row_count, some
from mtclim.files import refuse_source
from mtclim.mapping.areas import read_polygons
from mtclim.mapping.frequencies import fused, probabilities
from mtclim.mapping.photographs import mean_longitude, write_csv
from mtclim.mapping.views import read_views
from mtclim.tasks import Tasks

NUMBERS = ("building", "id", "full_id", "osm_id", "osmid", "@id")
"""Columns, in any case, that may number the buildings of a layer; the first without a gap is used."""
NEARLY = 0.8
"""A view is doubtful if a second building fills this part of what the first one fills, or more."""
PANORAMA = "a panorama, of which views are to be cut first"
_RAYS, _CHUNK = 120, 4096  # rays across the field of view; views at a time within 50 m, which bounds the memory


def read_gate(gate: str, tasks: Tasks) -> tuple[str, str, float]:
    """Task, class and least probability of a gate such as ``view=facade >= 0.8``; ValueError for what is none.

    Without a probability it is 0, and the class has to be the most probable one.
    """
    found = re.fullmatch(r"(.*?)\s*>=\s*(0?\.\d+|1)\s*", gate)
    name = found[1] if found else gate
    known = {f"{task}={label}": (task, label) for task, classes in tasks.items() for label in classes}
    if name.strip() not in known:
        form = "task=class or task=class >= 0.8"
        raise ValueError(f"gate: found {gate!r}; expected {form}, with one of {some(known)}.")
    return *known[name.strip()], float(found[2]) if found else 0.0


def passes(predictions: pd.DataFrame, tasks: Tasks, gate: str) -> np.ndarray:
    """Which predictions (n,) bool pass a gate; ValueError where none does.

    Parameters
    ----------
    gate : A text as :func:`read_gate` reads it.
    """
    task, label, least = read_gate(gate, tasks)
    passed = predictions[f"{task}:p:{label}"] >= least if least else predictions[f"{task}:pred"] == label
    if not passed.any():
        raise ValueError(f"gate: none of {row_count(len(predictions))} passes {gate!r}; choose a lower probability.")
    return passed.to_numpy(bool)


def read_footprints(path: str | Path) -> gpd.GeoDataFrame:
    """Read a layer of footprints in its own system: ``building`` (text) and a polygon, one row a building.

    Polygons may overlap, and the nearest wall decides. The walls of an invalid polygon count as they are drawn.
    ``attrs["notes"]`` says which column of ``NUMBERS`` is used, else the number of the file's row, and what is not.
    ValueError for a layer without polygons or coordinate reference system, and for one number on two polygons.
    """
    layer = read_polygons(path)
    area = layer.geom_type.isin(["Polygon", "MultiPolygon"]) & ~layer.is_empty
    notes = [] if area.all() else [f"Not used: {row_count((~area).sum())} of the footprints that are no polygons."]
    layer = layer[area]
    named = {str(name).lower(): name for name in layer.columns[::-1]}
    empty = {named[name]: layer[named[name]].replace("", None).isna().sum() for name in NUMBERS if name in named}
    notes += [f"Column {name!r} is empty in {row_count(n)} and not used." for name, n in empty.items() if n]
    columns = [name for name, n in empty.items() if not n]
    if columns and columns[0].lower() == "building" and layer[columns[0]].astype(str).str.contains(r"\d").mean() < 0.5:
        del columns[0]  # a tag, as in OpenStreetMap: yes, house, house;2 ...
    numbers = layer[columns[0]] if columns else pd.Series(layer.index + 1)
    numbers = numbers.astype(int if pd.api.types.is_float_dtype(numbers) else object).astype(str)
    twice = numbers[numbers.duplicated()].unique()
    if len(twice):
        mend = "join the parts of a building to one polygon, or rename the column"
        raise ValueError(f"{path}: column {columns[0]!r} has {some(twice, 5)} on more than one polygon; {mend}.")
    frame = gpd.GeoDataFrame({"building": numbers.to_numpy(object)}, geometry=layer.geometry.to_numpy(), crs=layer.crs)
    notes.append(f"Buildings have the numbers of {f'column {columns[0]!r}' if columns else 'their rows'}.")
    frame.attrs["notes"] = notes
    return frame


# ---------------------------------------------------------------- which building


def assign(
    views: pd.DataFrame, footprints: gpd.GeoDataFrame, field_of_view: float = 60.0, reach: float = 50.0
) -> pd.DataFrame:
    """Say which building each view shows: the one that ends most of the rays across its field of view.

    Parameters
    ----------
    views : A frame with lon, lat, bearing, field_of_view where it is not that of all, and maybe panorama (bool): a
        panorama shows no single building.
    footprints, reach : From :func:`read_footprints`, and the distance in metres beyond which no wall is seen.
    field_of_view : Horizontal, in degrees above 0 and up to 180.

    Returns
    -------
    DataFrame
        With the index of ``views``: building (missing where it is not clear), share of the rays that end at it, second
        (the share of the next building) and reason (why it is not clear, else "").

    Raises
    ------
    ValueError
        For settings out of range, where footprints have no CRS or no view has a position and a bearing, and where no
        view has a footprint within reach.
    """
    frame = views.reindex(columns=["lon", "lat", "bearing", "field_of_view"]).astype(float)
    frame["field_of_view"] = frame["field_of_view"].fillna(field_of_view)
    if not (frame["field_of_view"].between(0, 180, "right").all() and 0 < reach < np.inf):
        found = f"field_of_view {frame['field_of_view'].min():g} to {frame['field_of_view'].max():g}, reach {reach:g}"
        raise ValueError(f"views: found {found}; expected degrees above 0 and up to 180, and metres above 0.")
    if footprints.crs is None:
        raise ValueError("footprints: found no coordinate reference system; set it, for example with set_crs(4326).")
    unplaced, unturned = frame[["lon", "lat"]].isna().any(axis=1).to_numpy(), frame["bearing"].isna().to_numpy()
    used = np.flatnonzero(~unplaced & ~unturned)
    if not len(used):
        what = "position (lon, lat)" if unplaced.all() else "bearing"
        raise ValueError(f"views: found none with a {what} among {row_count(len(frame))}; add it to the table.")
    lon, lat, bearing, fov = frame.iloc[used].to_numpy().T
    regions = np.unique(np.floor(np.stack([lon, lat]) / 6), axis=1, return_inverse=True)[1].ravel()
    found = []
    for own in (np.flatnonzero(regions == region) for region in range(regions.max() + 1)):
        plan = _in_metres(lon[own], lat[own], bearing[own], footprints)
        part, within, near = _seen(*plan, np.radians(fov[own]), reach)
        found.append((part.assign(view=own[part["view"]]), own[within], near))
    seen, inside, near = zip(*found, strict=True)
    seen, inside = pd.concat(seen, ignore_index=True), np.concatenate(inside)
    if not any(near):
        boxes = (lon.min(), lon.max(), lat.min(), lat.max()), footprints.to_crs(4326).total_bounds[[0, 2, 1, 3]]
        where = ["lon {:.4f} to {:.4f}, lat {:.4f} to {:.4f}".format(*box) for box in boxes]
        problem = f"views: no footprint within {reach:g} m of any; views lie at {where[0]}, footprints at {where[1]}; "
        raise ValueError(problem + "check the coordinate reference system, and whether lon and lat are swapped.")
    best, next_ = seen.drop_duplicates("view"), seen[seen.duplicated("view")].drop_duplicates("view")
    first, share, second = np.full(len(frame), -1), np.zeros(len(frame)), np.zeros(len(frame))
    first[used[best["view"]]], share[used[best["view"]]] = best["building"], best["share"]
    second[used[next_["view"]]] = next_["share"]
    reasons = {
        PANORAMA: views["panorama"].to_numpy(bool) if "panorama" in views else np.zeros(len(frame), bool),
        "no position": unplaced,
        "no bearing": unturned,
        "the position lies inside a building, or on its wall": np.isin(np.arange(len(frame)), used[inside]),
        f"no building within {reach:g} m": share == 0,
        "two buildings fill it alike": second >= NEARLY * share,
    }
    reason = np.select(list(reasons.values()), list(reasons), "")
    building = np.where(reason == "", footprints["building"].to_numpy(object)[first], None)
    return pd.DataFrame({"building": building, "share": share, "second": second, "reason": reason}, frame.index)


def _in_metres(
    lon: np.ndarray, lat: np.ndarray, bearing: np.ndarray, footprints: gpd.GeoDataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cameras and directions of view (n,) complex, and the footprints' shapes, in metres about the cameras' middle."""
    middle = mean_longitude(pd.Series(lon), np.zeros(len(lon))).iloc[0], lat.mean()
    crs = "+proj=tmerc +lon_0={:.4f} +lat_0={:.4f} +units=m".format(*middle)
    to_metres = Transformer.from_crs(4326, crs, always_xy=True)
    camera, north = (np.array([1, 1j]) @ to_metres.transform(lon, lat + step) for step in (0, 1e-5))
    shapes = footprints.geometry.to_crs(crs).to_numpy()
    shapes[~np.isfinite(shapely.bounds(shapes)).all(1)] = shapely.Polygon()  # too far away for this projection
    return camera, np.exp(1j * (np.angle(north - camera) - np.radians(bearing))), shapes


def assign_file(views: str | Path, footprints: str | Path, out: str | Path, field_of_view: float, reach: float):
    """Write :func:`assign` of a table or folder of views to a CSV; sentences that say what came of it.

    Parameters
    ----------
    out : It has the columns of :func:`mtclim.mapping.views.read_views`, ``building``, and ``_share``, ``_second`` and
        ``_reason``, whose names mark them as no tasks.
    footprints, field_of_view, reach : A file for :func:`read_footprints`, and the settings of :func:`assign`.
    """
    for source in (views, footprints):
        refuse_source(out, source)
    layer, frame = read_footprints(footprints), read_views(views).drop(columns=["path", "building"], errors="ignore")
    found = assign(frame, layer, field_of_view, reach)
    frame = frame.drop(columns="panorama")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_csv(frame.join(found.add_prefix("_").rename(columns={"_building": "building"})), out, exact=True)
    said = [
        *frame.attrs["notes"],
        *layer.attrs["notes"],
        f"{row_count(len(found))}, {found['building'].nunique():,} buildings.",
    ]
    return said + [f"{row_count(n)}: {why}." for why, n in found["reason"].value_counts().items() if why]


def _seen(camera: np.ndarray, ahead: np.ndarray, shapes: np.ndarray, fov: np.ndarray, reach: float):
    """Rows view, building (positions) and share of its rays, largest first; the views whose camera is inside one, or on
    its wall; and whether any footprint is within reach.

    Points of the plane are complex numbers; ``ahead`` (n,) are the directions of view, of length 1.
    """
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points, wall = points @ [1, 1j], np.flatnonzero(ring[1:] == ring[:-1])  # a wall leads to the next point of its ring
    owner = owner[part[ring[wall]]]
    begin = np.searchsorted(owner, np.arange(len(shapes) + 1))
    tree, places, found, met = shapely.STRtree(shapes), shapely.points(camera.real, camera.imag), [], False
    chunk = int(max(1, _CHUNK * min(1, (50 / reach) ** 2)))
    for start in range(0, len(camera), chunk):
        view, near = tree.query(places[start : start + chunk], "dwithin", reach)
        met = met or len(near) > 0
        pair, nth = _spread(begin[near + 1] - begin[near])
        view, own = view[pair] + start, begin[near[pair]] + nth
        p, q = ((points[wall[own] + end] - camera[view]) / ahead[view] for end in (0, 1))
        angle = np.angle(q * p.conj())  # that the wall fills
        low = np.angle(p * np.exp(0.5j * angle)) - np.abs(angle) / 2 + fov[view] / 2
        from_, to = (np.ceil(a / fov[view] * _RAYS - 0.5).clip(0, _RAYS).astype(int) for a in (low, low + abs(angle)))
        hit, nth = _spread(to - from_)
        ray, view, p, along = from_[hit] + nth, view[hit], p[hit], (q - p)[hit]
        aim = np.exp(1j * ((ray + 0.5) / _RAYS - 0.5) * fov[view])
        with np.errstate(divide="ignore", invalid="ignore"):
            far = (p.conj() * along).imag / (aim.conj() * along).imag
        far[~(far <= reach)] = np.inf
        place, nearest = (view - start) * _RAYS + ray, np.full(chunk * _RAYS, np.inf)
        np.minimum.at(nearest, place, far)
        ends = np.isfinite(far) & (far <= nearest[place] + 1e-6)  # of two walls in one place both count
        found.append(pd.DataFrame({"view": view, "building": owner[own[hit]]})[ends].value_counts().reset_index())
    seen = pd.concat(found, ignore_index=True)
    inside = np.unique(tree.query(places, "dwithin", 1e-3)[0])  # a wall one stands on would be seen through
    return seen.assign(share=seen["count"] / _RAYS), inside, met


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each position as often as its count says, and beside it 0, 1, 2 ... within the position."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def fuse(
    predictions: pd.DataFrame, assigned: pd.DataFrame, footprints: gpd.GeoDataFrame, tasks: Tasks
) -> gpd.GeoDataFrame:
    """One answer a building: the mean of its views' log probabilities, weighted by the share of the view it fills.

    Parameters
    ----------
    predictions : They should be calibrated.
    assigned : :func:`assign` of them, row for row. Views whose building is not clear are not used.

    Returns
    -------
    GeoDataFrame
        The columns are building, views (their number), lon, lat (degrees, of a point inside the footprint), block and
        municipality (of the first view), and ``<task>:pred``, ``<task>:p:<class>`` and ``<task>:entropy`` (0 sure to 1
        unsure). Polygons are those of the footprints, in their system.

    Raises
    ------
    ValueError
        Where no building is clear.
    """
    clear = assigned["building"].notna().to_numpy()
    if not clear.any():
        problem = f"fuse: none of {row_count(len(assigned))} shows a building that is clear"
        raise ValueError(f"{problem}; the column reason of the assignment, which a map keeps in views.csv, says why.")
    rows, weight = predictions[clear], assigned["share"].to_numpy(float)[clear]
    names, building = np.unique(assigned["building"][clear].to_numpy(str), return_inverse=True)
    shapes = footprints.set_index("building").geometry.loc[names]
    middle = shapes.representative_point().to_crs(4326)
    frame = rows.filter(["block", "municipality"]).groupby(building).first()
    frame = frame.assign(building=names, views=np.bincount(building), lon=middle.x.to_numpy(), lat=middle.y.to_numpy())
    frame = frame.join(fused(rows, tasks, building, weight))
    for task, classes in tasks.items():
        p = probabilities(frame, task, classes)
        frame[f"{task}:pred"] = np.asarray(classes, object)[p.argmax(1)]
        frame[f"{task}:entropy"] = entropy(p, base=len(classes), axis=1)
    return gpd.GeoDataFrame(frame, geometry=shapes.to_numpy(), crs=footprints.crs)
