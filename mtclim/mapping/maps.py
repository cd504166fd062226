"""Maps of predictions: Fig. 13, aggregates, an interactive page and a GeoPackage with QGIS styles (section 4.5).

All functions take the frame that :func:`mtclim.mapping.predict.predict` writes (``pd.read_parquet``) and the tasks; polygons
are GeoDataFrames in any CRS. Maps are drawn in metres, in the UTM zone of the data.
"""

import base64
import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from string import Template
from xml.sax.saxutils import quoteattr

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from mtclim.mapping.frequencies import probabilities
from mtclim.metrics import metrics
from mtclim.style import WIDTH, drawn, masonry, palette, rows_axis

LAND, LINE = "#f1efea", "#c9c4b8"
SCALES = (1, 2, 5)
_TEMPLATES = files("mtclim.mapping")


def points(predictions: pd.DataFrame) -> gpd.GeoDataFrame:
    """The predictions with a position, as points in metres (UTM zone of the data); ValueError if there is none."""
    placed = predictions[predictions["lon"].notna() & predictions["lat"].notna()]
    if not len(placed):
        raise ValueError("map: found no prediction with a position (lon, lat); expected at least one.")
    geometry = gpd.points_from_xy(placed["lon"], placed["lat"], crs=4326)
    frame = gpd.GeoDataFrame(placed.drop(columns="geometry", errors="ignore"), geometry=geometry)
    return frame.to_crs(frame.estimate_utm_crs())


def test_scores(predictions: pd.DataFrame, tasks: Mapping) -> dict | None:
    """Accuracy, kappa and F1 from the images of test blocks only, as in metrics.json; None where there are none."""
    if any(f"{task}:true" not in predictions for task in tasks):
        return None
    test = predictions[predictions["split"] == "test"]
    return metrics(test, tasks) if len(test) else None


# ---------------------------------------------------------------- backdrops


def tiles(bounds: Sequence[float], crs, timeout: float = 10.0, cache: str | Path = ".cache/tiles", source=None):
    """(image, extent in `crs`, attribution) of a web backdrop, or None without a network; never waits over `timeout` s.

    `bounds` (west, south, east, north) in `crs`. Fetched once, then read from `cache`.
    """
    try:
        import contextily
    except ImportError:
        return None
    source = source or contextily.providers.OpenStreetMap.Mapnik  # needs no key
    west, south, east, north = gpd.GeoSeries.from_xy(bounds[::2], bounds[1::2], crs=crs).to_crs(3857).total_bounds
    name = hashlib.sha256(f"{source.get('url')}{[round(v) for v in (west, south, east, north)]}{crs}".encode())
    file = Path(cache) / f"{name.hexdigest()[:16]}.npz"
    if not file.exists():
        fetched: list = []

        def fetch() -> None:
            try:
                image, extent = contextily.bounds2img(west, south, east, north, source=source, wait=0, max_retries=0)
                fetched.append(contextily.warp_tiles(image, extent, t_crs=crs))
            except Exception:  # no network, no such tile, a captive portal: the caller draws its own backdrop
                return

        # requests has no overall time limit: a daemon thread may hang, the caller doesn't
        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        thread.join(timeout)
        if not fetched:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, image=fetched[0][0], extent=np.array(fetched[0][1]))
    with np.load(file) as loaded:
        return loaded["image"], tuple(loaded["extent"]), source.get("attribution", "")


def _outlines(layer: gpd.GeoDataFrame) -> list[np.ndarray]:
    """The outer rings of a layer's polygons, each (n, 2) in its CRS."""
    shapes = layer.geometry.explode(index_parts=False).dropna()
    return [np.array(s.exterior.coords)[:, :2] for s in shapes if s.geom_type == "Polygon"]


def _backdrop(ax, tile, layers: Sequence[Sequence[np.ndarray]]) -> None:
    if tile:
        ax.imshow(tile[0], extent=tile[1], interpolation="bilinear", zorder=0)
    for level, rings in enumerate(layers):
        face = "none" if tile or level else LAND
        look = {"facecolors": face, "edgecolors": LINE, "linewidths": 0.15 + 0.4 * level, "zorder": 1}
        ax.add_collection(PolyCollection(rings, rasterized=True, **look), autolim=False)


def _frame(ax, bounds: Sequence[float]) -> None:
    west, south, east, north = bounds
    margin = 0.03 * max(east - west, north - south, 100.0)
    ax.set(
        xlim=(west - margin, east + margin),
        ylim=(south - margin, north + margin),
        xticks=[],
        yticks=[],
        xlabel="",
        ylabel="",
    )
    ax.set_aspect("equal")
    for artist in ax.collections:
        artist.set_in_layout(False)  # they fill the axes; measuring them would take longer than drawing
    ax.spines[:].set_visible(False)


def scale_length(width: float) -> float:
    """The round number of metres (1, 2 or 5 times a power of ten) nearest below a third of a map's width in metres."""
    power = 10.0 ** np.floor(np.log10(width / 3))
    return float(max(s * power for s in SCALES if s * power <= width / 3))


def north_and_scale(ax) -> None:
    """A north arrow and a scale bar, in the corners of an axes in metres."""
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    length, height = scale_length(east - west), north - south
    x, y = west + 0.05 * (east - west), south + 0.05 * height
    ax.plot([x, x + length], [y, y], color="black", linewidth=2, solid_capstyle="butt", zorder=5)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    ax.text(x, y + 0.02 * height, text, fontsize=6, zorder=5)
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (0.93, 0.96), (0.93, 0.84), xycoords="axes fraction", arrowprops=arrow, zorder=5)
    ax.text(0.93, 0.78, "N", transform=ax.transAxes, ha="center", fontsize=7, zorder=5)


# ---------------------------------------------------------------- Fig. 13


@drawn
def fig13(
    predictions: pd.DataFrame, tasks: Mapping, polygons: Sequence[gpd.GeoDataFrame] = (), columns: int = 5,
    web: bool = True, timeout: float = 10.0, scores: Mapping | None = None, title: str = "",
) -> Figure:  # fmt: skip
    """Fig. 13: one panel a class of each task, with class frequency and F1, and the task's OA and kappa, in percent.

    `polygons` (built-up blocks first, then municipalities) lie beneath. With `web` and a network, map tiles do; the
    figure says which. `scores` defaults to those of the test blocks among the predictions.
    """
    frame, colours = points(predictions), palette(tasks)
    scores = scores or test_scores(predictions, tasks) or {}
    polygons = [layer.to_crs(frame.crs) for layer in polygons]
    bounds = polygons[-1].total_bounds if polygons else frame.total_bounds
    tile = tiles(bounds, frame.crs, timeout) if web else None
    layers = [_outlines(layer) for layer in polygons]
    shape = np.clip((bounds[3] - bounds[1]) / max(bounds[2] - bounds[0], 1.0), 0.6, 1.6)
    rows = [-(-len(classes) // columns) for classes in tasks.values()]
    panel = WIDTH / columns
    figure = plt.figure(figsize=(WIDTH, sum(rows) * (panel * shape + 0.3) + 0.25 * len(rows) + 0.6))
    parts = figure.subfigures(
        len(rows), 1, height_ratios=[n * (panel * shape + 0.3) + 0.25 for n in rows], squeeze=False
    )
    x, y = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    size = np.clip(12000 / len(frame), 0.08, 6)  # points2: a dot of a third of a pixel still shows, many don't merge
    for part, (task, classes), n in zip(parts[:, 0], tasks.items(), rows, strict=True):
        part.suptitle(_task_title(task, scores.get(task, {})), fontsize=9, x=0.01, ha="left", weight="bold")
        axes = iter(part.subplots(n, columns, squeeze=False).flat)
        labels = frame[f"{task}:pred"].to_numpy()
        for name in classes:
            ax, here = next(axes), labels == name
            _backdrop(ax, tile, layers)
            ax.scatter(x[here], y[here], s=size, color=colours[task][name], linewidths=0, zorder=3, rasterized=True)
            _frame(ax, bounds)
            f1 = scores.get(task, {}).get("f1", {}).get(name)
            text = f"{100 * here.mean():.1f} %" + (f", F1 {100 * f1:.1f}" if f1 is not None else "")
            ax.set_title(f"{name}\n{text}", fontsize=7, pad=2, weight="normal")
        for ax in axes:  # those left over
            ax.set_axis_off()
    north_and_scale(figure.axes[0])
    under = f"Backdrop: {tile[2]}" if tile else "Backdrop: the data's own polygons" if polygons else "No backdrop"
    note = "F1, OA and κ in percent, from test blocks only" if scores else "no test blocks among these predictions"
    figure.suptitle(title or f"Predicted classes of {len(frame):,} façades", fontsize=10)
    figure.supxlabel(f"{under}. Share of façades above each panel; {note}.", fontsize=6.5, x=0.01, ha="left")
    return figure


def _task_title(task: str, score: Mapping) -> str:
    known = score.get("oa") is not None
    return task + (f": OA {100 * score['oa']:.1f}, κ {100 * score['kappa']:.1f}" if known else "")


# ---------------------------------------------------------------- aggregates


def hexagons(x: np.ndarray, y: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Axial coordinates (q, r), int64 (n,), of the hexagons, `width` metres across, that hold the points."""
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


def unseen(predictions: pd.DataFrame, tasks: Mapping, labelsets: pd.DataFrame) -> np.ndarray:
    """Which façades (n,) have a predicted labelset that never occurs in training (`labelsets`: a run's labelsets.csv).

    Rows of `labelsets` with a missing label don't count as having been seen.
    """
    seen = pd.MultiIndex.from_frame(labelsets[list(tasks)].dropna().astype(str))
    return ~pd.MultiIndex.from_frame(predictions[[f"{task}:pred" for task in tasks]].astype(str)).isin(seen)


def aggregate(
    predictions: pd.DataFrame, tasks: Mapping, by: str = "hexagon", width: float = 500.0,
    labelsets: pd.DataFrame | None = None, polygons: gpd.GeoDataFrame | None = None,
) -> gpd.GeoDataFrame:  # fmt: skip
    """One row a hexagon (`width` metres across) or a value of the column `by` (such as "block").

    Columns: `by`, façades, and per task ``<task>:n:<class>`` (predicted), ``<task>:share:<class>``, ``<task>:entropy``
    (mean, 0 sure to 1 unsure), ``<task>:mode``; and ``unseen``, the share of labelsets that never occur in training.
    Shapes come from `polygons` (which has the column `by`), else hexagons or the hull of the points.
    """
    frame = points(predictions)
    if by == "hexagon":
        q, r = hexagons(frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy(), width)
        key = pd.Series([f"{a}_{b}" for a, b in zip(q, r, strict=True)], frame.index)
    elif by in frame:
        key = frame[by].fillna("none").astype(str)
    else:
        raise ValueError(f"by: found {by!r}; expected 'hexagon' or a column, one of {', '.join(frame.columns[:8])} ...")
    names, group = np.unique(key.to_numpy(str), return_inverse=True)
    total = np.bincount(group)
    columns: dict[str, object] = {by: names, "façades": total}
    for task, classes in tasks.items():
        codes = pd.Index(classes).get_indexer(frame[f"{task}:pred"])
        counts = np.bincount(group * len(classes) + codes, minlength=len(names) * len(classes)).reshape(len(names), -1)
        columns |= {f"{task}:n:{name}": counts[:, k] for k, name in enumerate(classes)}
        columns |= {f"{task}:share:{name}": counts[:, k] / total for k, name in enumerate(classes)}
        columns[f"{task}:entropy"] = np.bincount(group, entropy(probabilities(frame, task, classes))) / total
        columns[f"{task}:mode"] = np.asarray(classes, object)[counts.argmax(1)]
    if labelsets is not None:
        columns["unseen"] = np.bincount(group, unseen(frame, tasks, labelsets)) / total
    if polygons is not None:
        shapes = polygons.assign(**{by: polygons[by].astype(str)}).to_crs(frame.crs).set_index(by).geometry
        geometry = shapes[~shapes.index.duplicated()].reindex(names).to_numpy()
    elif by == "hexagon":
        geometry = [_hexagon(*(int(part) for part in name.split("_")), width) for name in names]
    else:
        geometry = frame.geometry.groupby(group).agg(lambda shape: shape.union_all().convex_hull).to_numpy()
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=frame.crs)


@drawn
def fig_aggregates(
    areas: gpd.GeoDataFrame, columns: Sequence[str], titles: Sequence[str] = (), ncols: int = 3
) -> Figure:
    """Choropleth maps of some columns of :func:`aggregate`, each with its own colour bar."""
    ncols = min(ncols, len(columns))
    nrows = -(-len(columns) // ncols)
    figure, axes = plt.subplots(nrows, ncols, figsize=(WIDTH, WIDTH / ncols * nrows), squeeze=False)
    for ax, column, title in zip(axes.flat, columns, titles or columns, strict=False):
        areas.plot(column, ax=ax, cmap="viridis", legend=True, legend_kwds={"shrink": 0.7}, rasterized=True)
        _frame(ax, areas.total_bounds)
        ax.set_title(title, fontsize=9)
    for ax in axes.flat[len(columns) :]:
        ax.set_axis_off()
    north_and_scale(axes[0][0])
    return figure


@drawn
def fig_frequencies(frequencies: pd.DataFrame) -> Figure:
    """Raw and corrected class frequencies (:func:`mtclim.mapping.frequencies.corrected_frequencies`) beside the truth, if known."""
    kinds = {"truth": ("truth", "black", "_"), "balanced": ("validation (balanced)", "#999999", "x")}
    kinds |= {"raw": ("predicted labels", "#EE6677", "o"), "expected": ("calibrated mean", "#228833", "D")}
    kinds |= {"em": ("EM", "#4477AA", "s"), "confusion": ("confusion matrix", "#66CCEE", "^")}
    sizes = frequencies.groupby("task", sort=False).size()
    figure, axes = masonry([0.8 * k + 2.2 for k in sizes], min(2, len(sizes)), 0.2, 0.0)
    for ax, (task, part) in zip(axes, frequencies.groupby("task", sort=False), strict=True):
        for kind, (label, colour, marker) in kinds.items():
            if kind in part and part[kind].notna().all():
                look = {"s": 60, "marker": "|", "linewidths": 2} if kind == "truth" else {"s": 16, "marker": marker}
                ax.scatter(100 * part[kind], range(len(part)), color=colour, label=label, alpha=0.85, **look)
        rows_axis(ax, list(part["class"]))
        ax.set(title=task, xlim=(0, None))
        ax.grid(axis="both")
    axes[-1].set_xlabel("façades [%]")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=6, handletextpad=0.1)
    return figure


# ---------------------------------------------------------------- interactive page


def _packed(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()


def _rings(polygons: Sequence[gpd.GeoDataFrame], crs, x: float, y: float) -> list[list[int]]:
    simple = [gpd.GeoDataFrame(geometry=layer.to_crs(crs).geometry.simplify(2.0)) for layer in reversed(polygons)]
    rings = [ring for layer in simple for ring in _outlines(layer)]
    return [(ring - [x, y]).round().astype(int).ravel().tolist() for ring in rings]


def write_page(
    predictions: pd.DataFrame, tasks: Mapping, path: str | Path, polygons: Sequence[gpd.GeoDataFrame] = (),
    title: str = "Predicted classes", note: str = "",
) -> Path:  # fmt: skip
    """An interactive map in one HTML file without any outside resource: tasks, classes, confidence, labels on hover.

    Text from tables travels as JSON and is shown with ``textContent`` only: it can't become HTML or script.
    """
    frame, colours = points(predictions), palette(tasks)
    x, y = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    middle = float(x.mean()), float(y.mean())
    entries = []
    for task, classes in tasks.items():
        p = probabilities(frame, task, classes)
        codes = pd.Index(classes).get_indexer(frame[f"{task}:pred"])
        fills = [colours[task][name] for name in classes]
        packed = {"codes": _packed(codes, "<u2"), "p": _packed((p * 200).round(), "u1")}
        entries.append({"name": task, "classes": list(classes), "colours": fills, **packed})
    content = {
        "title": title, "note": note, "tasks": entries, "rings": _rings(polygons, frame.crs, *middle),
        "x": _packed(x - middle[0], "<f4"), "y": _packed(y - middle[1], "<f4"),
        "images": frame["image"].astype(str).tolist(),
        "training": _packed(frame.get("in_training", pd.Series(0, frame.index)).eq(True).fillna(False), "u1"),
    }  # fmt: skip
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = (_TEMPLATES / "map.html").read_text(encoding="utf-8").replace("/*CONTENT*/", text)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")
    return Path(path)


# ---------------------------------------------------------------- GeoPackage


def qgis_style(task: str, classes: Sequence[str], colours: Mapping[str, str]) -> str:
    """A QGIS style (QML) that colours points by the classes of the column `task`."""
    categories, symbols = [], []
    for number, name in enumerate(classes):
        categories.append(
            f'<category render="true" type="string" symbol="{number}" value={quoteattr(name)} label={quoteattr(name)}/>'
        )
        r, g, b = (int(colours[name][i : i + 2], 16) for i in (1, 3, 5))
        symbols.append(Template((_TEMPLATES / "symbol.qml").read_text()).substitute(number=number, r=r, g=g, b=b))
    style = Template((_TEMPLATES / "style.qml").read_text(encoding="utf-8"))
    return style.substitute(column=quoteattr(task), categories="".join(categories), symbols="".join(symbols))


def write_geopackage(
    attributes: pd.DataFrame, tasks: Mapping, path: str | Path, layers: Mapping[str, gpd.GeoDataFrame] | None = None
) -> Path:
    """A GeoPackage with the façades (flat columns; see :func:`mtclim.mapping.exposure.attributes`) and a QGIS style a task.

    The first task's style is the default; other `layers` (blocks, municipalities, aggregates) are added as they are.
    """
    path, colours = Path(path), palette(tasks)
    beside = path.with_name(f".partial-{path.name}")
    beside.unlink(missing_ok=True)
    geometry = gpd.points_from_xy(attributes["lon"], attributes["lat"], crs=4326)
    facades = gpd.GeoDataFrame(attributes.reset_index(drop=True), geometry=geometry)
    facades.to_file(beside, layer="facades", driver="GPKG", engine="pyogrio")
    for name, layer in (layers or {}).items():
        layer.to_file(beside, layer=name, driver="GPKG", engine="pyogrio")
    with closing(sqlite3.connect(beside)) as database, database:
        database.executescript((_TEMPLATES / "layer_styles.sql").read_text())
        for number, (task, classes) in enumerate(tasks.items()):
            row = ("facades", "geom", task, qgis_style(task, classes, colours[task]), number == 0)
            database.execute(
                "INSERT INTO layer_styles (f_table_name, f_geometry_column, styleName, styleQML, useAsDefault)"
                " VALUES (?, ?, ?, ?, ?)", row
            )  # fmt: skip
    beside.replace(path)
    return path
