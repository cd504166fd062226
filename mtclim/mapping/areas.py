"""Predictions as points in metres, and what they say of an area: hexagons, or blocks and other columns."""

import geopandas as gpd
import numpy as np
import pandas as pd

from mtclim.analysis.joint import unseen
from mtclim.mapping.frequencies import probabilities
from mtclim.metrics import codes
from mtclim.tasks import Tasks

AREAS = ("hexagon", "block", "municipality")
"""What predictions are summarised by."""


def points(predictions: pd.DataFrame) -> gpd.GeoDataFrame:
    """The predictions with a position, as points in metres (UTM zone of the data); ValueError if there is none."""
    placed = predictions[predictions["lon"].notna() & predictions["lat"].notna()]
    if not len(placed):
        raise ValueError("map: found no prediction with a position (lon, lat); expected at least one.")
    geometry = gpd.points_from_xy(placed["lon"], placed["lat"], crs=4326)
    frame = gpd.GeoDataFrame(placed.drop(columns="geometry", errors="ignore"), geometry=geometry)
    return frame.to_crs(frame.estimate_utm_crs())


def check_areas(by: str, width: float) -> None:
    """ValueError where there can be no such areas, so that it is known before anything is predicted."""
    if by not in AREAS:
        raise ValueError(f"by: found {by!r}; expected one of {', '.join(AREAS)}.")
    if not (np.isfinite(width) and width >= 1):
        raise ValueError(f"width: found {width!r}; expected the width of a hexagon in metres, 1 or more, such as 500.")


def hexagons(x: np.ndarray, y: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Axial coordinates (q, r), int64 (n,), of the hexagons, ``width`` metres across, that hold the points."""
    side = width / np.sqrt(3)
    q, r = (np.sqrt(3) / 3 * x - y / 3) / side, (2 / 3 * y) / side
    s = -q - r
    rounded = np.rint([q, r, s])
    off = np.abs(rounded - [q, r, s])
    fix_q = (off[0] > off[1]) & (off[0] > off[2])
    fix_r = ~fix_q & (off[1] > off[2])
    rounded[0] = np.where(fix_q, -rounded[1] - rounded[2], rounded[0])
    rounded[1] = np.where(fix_r, -rounded[0] - rounded[2], rounded[1])
    return rounded[0].astype(np.int64), rounded[1].astype(np.int64)


def _hexagon(q: int, r: int, width: float):
    from shapely import Polygon

    side, angle = width / np.sqrt(3), np.pi / 6 + np.arange(6) * np.pi / 3
    x, y = width * (q + r / 2), 1.5 * side * r
    return Polygon(np.column_stack([x + side * np.cos(angle), y + side * np.sin(angle)]))


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy (n,) of class probabilities (n, K) as a fraction of the largest possible: 0 sure, 1 no idea."""
    return -(p * np.log(np.maximum(p, 1e-12))).sum(1) / np.log(p.shape[1])


def aggregate(
    predictions: pd.DataFrame,
    tasks: Tasks,
    by: str = "hexagon",
    width: float = 500.0,
    labelsets: np.ndarray | None = None,
    polygons: gpd.GeoDataFrame | None = None,
) -> gpd.GeoDataFrame:
    """Summarise predictions by area, one row an area.

    Parameters
    ----------
    predictions, tasks : the frame of predictions and its tasks.
    by : one of ``AREAS``.
    width : of a hexagon in metres.
    labelsets : class positions (L, N) of the training labelsets, -1 where there was no label.
    polygons : the areas' shapes, with the column ``by``; without them the hexagons or the hulls of the points.

    Returns
    -------
    GeoDataFrame
        ``by``, façades, and for each task ``<task>:n:<class>`` (predicted), ``<task>:share:<class>``,
        ``<task>:entropy`` (mean, 0 sure to 1 unsure) and ``<task>:mode``; with ``labelsets`` also unseen, the share of
        labelsets that training never showed (:func:`mtclim.analysis.joint.unseen`).

    Raises
    ------
    ValueError
        For a ``by`` or a ``width`` that cannot be.
    """
    check_areas(by, width)
    frame = points(predictions)
    if by == "hexagon":
        q, r = hexagons(frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy(), width)
        key = pd.Series([f"{a}_{b}" for a, b in zip(q, r, strict=True)], frame.index)
    elif by in frame:
        key = frame[by].fillna("none").astype(str)
    else:
        raise ValueError(f"by: found no column {by!r} in these predictions; expected hexagon, or add it to the table.")
    names, group = np.unique(key.to_numpy(str), return_inverse=True)
    total = np.bincount(group)
    columns: dict[str, object] = {by: names, "façades": total}
    answers = np.stack([codes(frame[f"{task}:pred"], classes) for task, classes in tasks.items()], axis=1)  # (n, N)
    for own, (task, classes) in zip(answers.T, tasks.items(), strict=True):
        counts = np.bincount(group * len(classes) + own, minlength=len(names) * len(classes)).reshape(len(names), -1)
        columns |= {f"{task}:n:{name}": counts[:, k] for k, name in enumerate(classes)}
        columns |= {f"{task}:share:{name}": counts[:, k] / total for k, name in enumerate(classes)}
        columns[f"{task}:entropy"] = np.bincount(group, entropy(probabilities(frame, task, classes))) / total
        columns[f"{task}:mode"] = np.asarray(classes, object)[counts.argmax(1)]
    if labelsets is not None:
        columns["unseen"] = np.bincount(group, unseen(answers, labelsets)) / total
    if polygons is not None:
        shapes = polygons.assign(**{by: polygons[by].astype(str)}).to_crs(frame.crs).set_index(by).geometry
        geometry = shapes[~shapes.index.duplicated()].reindex(names).to_numpy()
    elif by == "hexagon":
        geometry = [_hexagon(*(int(part) for part in name.split("_")), width) for name in names]
    else:
        geometry = frame.geometry.groupby(group).agg(lambda shape: shape.union_all().convex_hull).to_numpy()
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=frame.crs)
