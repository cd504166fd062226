"""Predictions as points in metres, and what they say of an area: hexagons, or blocks and other columns."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.stats import entropy

from mtclim.analysis.labelsets import unseen
from mtclim.data.reading import read_frame, read_layer, row_count
from mtclim.mapping.frequencies import probabilities
from mtclim.mapping.photographs import check_placed, mean_longitude
from mtclim.metrics import codes
from mtclim.tasks import Tasks

AREAS = ("hexagon", "block", "municipality")
"""What predictions are summarised by."""


def points(predictions: pd.DataFrame) -> gpd.GeoDataFrame:
    """The predictions with a position, as points in metres (UTM zone of their middle); ValueError if there is none."""
    check_placed(predictions)
    placed = predictions.dropna(subset=["lon", "lat"])
    geometry = gpd.points_from_xy(placed["lon"], placed["lat"], crs=4326)
    frame = gpd.GeoDataFrame(placed.drop(columns="geometry", errors="ignore"), geometry=geometry)
    lon, lat = mean_longitude(placed["lon"], np.zeros(len(placed))), [placed["lat"].mean()]
    return frame.to_crs(gpd.GeoSeries.from_xy(lon, lat, crs=4326).estimate_utm_crs())


def read_polygons(path: str | Path) -> gpd.GeoDataFrame:
    """A layer as :func:`mtclim.data.reading.read_layer` reads it; ValueError where none of it is a polygon."""
    layer = read_layer(path)
    if not (layer.geom_type.isin(["Polygon", "MultiPolygon"]) & ~layer.is_empty).any():
        raise ValueError(f"{path}: found no polygon among {row_count(len(layer))}; expected a layer of polygons.")
    return layer


def check_areas(by: str, width: float, source: str | Path | None = None) -> None:
    """ValueError where there can be no such areas of a source, so that it is known before anything is predicted.

    Parameters
    ----------
    by, width, source : As in :func:`aggregate`, and what is predicted: for municipalities, a table with that column.
    """
    if by not in AREAS:
        raise ValueError(f"by: found {by!r}; expected one of {', '.join(AREAS)}.")
    if not (np.isfinite(width) and width >= 1):
        raise ValueError(f"width: found {width!r}; expected the width of a hexagon in metres, 1 or more, such as 500.")
    if by == "municipality" and source is not None:
        table = None if Path(source).is_dir() else read_frame(source)
        columns = [] if table is None else [name for name in table.frame if str(name).strip().lower() == by]
        if not any((table.cells(name) != "").any() for name in columns):
            raise ValueError(f"by: found no {by} in {source}; add the column {by!r}, or expected hexagon or block.")


def hexagons(places: np.ndarray, width: float) -> np.ndarray:
    """Hexagons (n,), ``width`` metres across, around the nearest points of a hexagonal lattice to places (n, 2)."""
    step = width * np.array([1, np.sqrt(3)])  # the lattice is two of rectangles, one in the middles of the other's
    corner, middle = np.rint(places / step) * step, (np.floor(places / step) + 0.5) * step
    nearer = np.hypot(*(places - corner).T) < np.hypot(*(places - middle).T)
    centres = np.where(nearer[:, None], corner, middle).round(3)
    angle = np.pi / 6 + np.arange(6) * np.pi / 3
    return shapely.polygons(centres[:, None] + width / np.sqrt(3) * np.column_stack([np.cos(angle), np.sin(angle)]))


def aggregate(
    predictions: pd.DataFrame,
    tasks: Tasks,
    by: str = "hexagon",
    width: float = 500.0,
    labelsets: np.ndarray | None = None,
) -> gpd.GeoDataFrame:
    """Summarise predictions by area, one row an area, in metres.

    Parameters
    ----------
    by, width : One of ``AREAS``, and the width of a hexagon in metres, 1 or more.
    labelsets : Those of training (L, N).

    Returns
    -------
    GeoDataFrame
        The columns are ``by``, façades, and for each task ``<task>:n:<class>`` (predicted), ``<task>:share:<class>``,
        ``<task>:entropy`` (mean, 0 sure to 1 unsure) and ``<task>:mode``. With ``labelsets`` there is also unseen: the
        share of façades whose labels training never showed (:func:`mtclim.analysis.labelsets.unseen`). Blocks and
        municipalities are drawn as the hulls of their points.
    """
    check_areas(by, width)
    frame = points(predictions)
    if by == "hexagon":
        frame.geometry = hexagons(shapely.get_coordinates(frame.geometry), width)
        middles = shapely.get_coordinates(frame.centroid).round().astype(int)
        frame[by] = [f"{x}_{y}" for x, y in middles]
    elif by not in frame:
        raise ValueError(f"by: found no column {by!r} in these predictions; expected hexagon, or add it to the table.")
    key = frame[by] = frame[by].fillna("none").astype(str)
    total = key.value_counts().sort_index().rename("façades")
    parts = [total]
    for task, classes in tasks.items():
        counts = pd.crosstab(key, frame[f"{task}:pred"]).reindex(columns=list(classes), fill_value=0)
        unsure = pd.Series(entropy(probabilities(frame, task, classes), base=len(classes), axis=1), frame.index)
        parts += [counts.add_prefix(f"{task}:n:"), counts.div(total, axis=0).add_prefix(f"{task}:share:")]
        parts += [unsure.groupby(key).mean().rename(f"{task}:entropy"), counts.idxmax(axis=1).rename(f"{task}:mode")]
    if labelsets is not None:
        answers = np.stack([codes(frame[f"{task}:pred"], classes) for task, classes in tasks.items()], axis=1)
        parts.append(pd.Series(unseen(answers, labelsets), frame.index, name="unseen").groupby(key).mean())
    areas = pd.concat(parts, axis=1).rename_axis(by).reset_index()
    shapes = frame[[by, "geometry"]].drop_duplicates().dissolve(by).convex_hull
    return gpd.GeoDataFrame(areas, geometry=shapes.to_numpy(), crs=frame.crs)
