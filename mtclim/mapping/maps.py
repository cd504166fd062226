"""Maps of predictions: Fig. 13, maps of areas, frequencies, and a GeoPackage with QGIS styles (section 4.5).

The functions take the frame of :func:`mtclim.mapping.predict.predict` and the tasks. Polygons are GeoDataFrames in any
CRS. Maps are drawn in metres, in the UTM zone of the data.
"""

import textwrap
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from itertools import chain, count
from pathlib import Path
from string import Template
from xml.sax.saxutils import quoteattr

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyogrio
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mtclim.files import whole_or_absent
from mtclim.mapping.areas import points
from mtclim.mapping.frequencies import METHODS
from mtclim.metrics import codes, metrics
from mtclim.style import TOP, WIDTH, drawn, first_tasks, masonry, most_frequent, palette, rows_axis
from mtclim.tasks import Tasks

LAND, LINE, FEW = "#f1efea", "#c9c4b8", "#d9d9d9"
FEWEST = 20
"""Façades: an area with fewer is drawn in grey, because its shares say little."""
_TEMPLATES = files("mtclim.mapping")


def test_scores(predictions: pd.DataFrame, tasks: Mapping) -> dict | None:
    """Accuracy, kappa and F1 from the images of test blocks only, as in metrics.json; None where there are none."""
    if any(f"{task}:true" not in predictions for task in tasks):
        return None
    test = predictions[predictions["split"] == "test"]
    return metrics(test, tasks) if len(test) else None


# ---------------------------------------------------------------- backdrops


def tiles(bounds: Sequence[float], crs, timeout: float = 10.0, cache: str | Path = ".cache/tiles"):
    """(image, extent in ``crs``, attribution) of a web backdrop, or None where it does not come within ``timeout`` s.

    ``bounds`` (west, south, east, north) are in ``crs``. Tiles that are in ``cache`` are not fetched again.
    """
    try:
        import contextily
    except ImportError:
        return None
    source = contextily.providers.OpenStreetMap.Mapnik  # needs no key
    contextily.set_cache_dir(str(cache))
    box, found = gpd.GeoSeries.from_xy(bounds[::2], bounds[1::2], crs=crs).to_crs(3857).total_bounds, []

    def fetch() -> None:
        with suppress(Exception):  # no network, no such tile, a captive portal: the caller draws its own backdrop
            image, extent = contextily.bounds2img(*box, source=source, wait=0, max_retries=0)
            found.extend(contextily.warp_tiles(image, extent, t_crs=crs))

    thread = threading.Thread(target=fetch, daemon=True)  # requests has no overall time limit; this one may hang
    thread.start()
    thread.join(timeout)
    return (*found, source["attribution"]) if len(found) == 2 else None


def outlines(layer: gpd.GeoDataFrame) -> list[np.ndarray]:
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
    ax.set(xlim=(west - margin, east + margin), ylim=(south - margin, north + margin), aspect="equal")
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
    for artist in ax.collections:
        artist.set_in_layout(False)  # they fill the axes; measuring them would take longer than drawing
    ax.spines[:].set_visible(False)


def scale_length(width: float) -> float:
    """The round number of metres (1, 2 or 5 times a power of ten) nearest below a third of a map's width in metres."""
    power = 10.0 ** np.floor(np.log10(width / 3))
    return float(max(step * power for step in (1, 2, 5) if step * power <= width / 3))


def north_and_scale(ax) -> None:
    """A north arrow and a scale bar, in the corners of an axes in metres."""
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    length, height = scale_length(east - west), north - south
    halo = [withStroke(linewidth=3, foreground="white")]
    x, y = west + 0.05 * (east - west), south + 0.05 * height
    ax.plot([x, x + length], [y, y], color="black", linewidth=2, solid_capstyle="butt", zorder=5)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    ax.text(x, y + 0.02 * height, text, fontsize=8, zorder=5, path_effects=halo)
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "path_effects": halo}
    ax.annotate("", (0.93, 0.96), (0.93, 0.84), xycoords="axes fraction", arrowprops=arrow, zorder=5)
    ax.text(0.93, 0.78, "N", transform=ax.transAxes, ha="center", fontsize=8, zorder=5, path_effects=halo)


def _short(name: str, width: int) -> str:
    """A name on two lines at most."""
    return "\n".join(textwrap.wrap(name, width, max_lines=2, placeholder=" ...")) or name[:width]


@drawn
def fig13(
    predictions: pd.DataFrame, tasks: Tasks, polygons: Sequence[gpd.GeoDataFrame] = (), web: bool = True
) -> Figure:
    """Fig. 13: one panel a class of each task, with class frequency and F1, and the task's OA and kappa, in percent.

    Accuracies are those of test blocks. At most ``TOP`` tasks are shown, and of a task with many classes the most
    frequent; a line has the number and share of the others. ``polygons`` are drawn beneath, built-up blocks first, then
    municipalities. ``web``: whether map tiles lie beneath where there is a network; the figure says which.
    """
    frame, colours, (panels, left_out) = points(predictions), palette(tasks), first_tasks(tasks)
    scores = test_scores(predictions, tasks) or {}
    polygons = [layer.to_crs(frame.crs) for layer in polygons]
    bounds = polygons[-1].total_bounds if polygons else frame.total_bounds
    tile = tiles(bounds, frame.crs) if web else None
    layers = [outlines(layer) for layer in polygons]
    found = {task: codes(frame[f"{task}:pred"], classes) for task, classes in panels.items()}
    shares = {task: np.bincount(k, minlength=len(tasks[task])) / len(k) for task, k in found.items()}
    columns = 5
    most = max(columns, min(TOP, 80 // len(panels)))
    shown = {task: most_frequent(share, most) for task, share in shares.items()}
    shape = np.clip((bounds[3] - bounds[1]) / max(bounds[2] - bounds[0], 1.0), 0.6, 1.3)
    rows = [-(-len(chosen) // columns) for chosen in shown.values()]
    heights = [n * (WIDTH / columns * shape + 0.4) + 0.3 for n in rows]
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.7))
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
    x, y = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    size = np.clip(12000 / len(frame), 0.08, 6)  # points2: a dot of a third of a pixel still shows, many don't merge
    for part, (task, classes), n in zip(parts[:, 0], panels.items(), rows, strict=True):
        score, share, rest = scores.get(task, {}), shares[task], len(classes) - len(shown[task])
        text = tasks.title(task)
        if score.get("oa") is not None:
            text += f": OA {100 * score['oa']:.1f}, κ {100 * score['kappa']:.1f}"
        if rest:
            text += f" ({rest} rarer classes, {100 * (1 - share[shown[task]].sum()):.1f} %, not shown)"
        part.suptitle(text, fontsize=9, x=0.01, ha="left")
        axes = list(part.subplots(n, columns, squeeze=False).flat)
        for ax, k in zip(axes, shown[task], strict=False):
            here, name = found[task] == k, classes[k]
            _backdrop(ax, tile, layers)
            ax.scatter(x[here], y[here], s=size, color=colours[task][name], linewidths=0, zorder=3, rasterized=True)
            _frame(ax, bounds)
            f1 = score.get("f1", {}).get(name)
            text = f"{100 * share[k]:.1f} %" + (f", F1 {100 * f1:.0f}" if f1 is not None else "")
            ax.set_title(f"{_short(tasks.title(task, name), 22)}\n{text}", fontsize=8, pad=2, weight="normal")
        for ax in axes[len(shown[task]) :]:
            ax.set_axis_off()
    north_and_scale(figure.axes[0])
    under = f"Backdrop: {tile[2]}" if tile else "Backdrop: the data's own polygons" if polygons else "No backdrop"
    note = "F1, OA and κ in percent, from test blocks only" if scores else "no test blocks among these predictions"
    figure.suptitle(f"Predicted classes of {len(frame):,} façades", fontsize=10)
    note = textwrap.fill(f"{under}. Share of façades above each panel; {note}{left_out}.", 120)
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


# ---------------------------------------------------------------- figures of areas and frequencies


@drawn
def fig_aggregates(areas: gpd.GeoDataFrame, tasks: Tasks) -> Figure:
    """Maps of :func:`mtclim.mapping.areas.aggregate`: façades, unseen labelsets, and the tasks' entropies on one scale.

    Areas with fewer than ``FEWEST`` façades are grey, except on the map of their numbers. At most ``TOP`` tasks are
    shown.
    """
    enough = areas["façades"] >= FEWEST
    kinds = {"façades": "façades"} | ({"unseen": "labelsets never seen [%]"} if "unseen" in areas else {})
    panels, left_out = first_tasks(tasks)
    entropies = {f"{task}:entropy": f"unsure: {tasks.title(task)}" for task in panels}
    shown = areas[[*kinds, *entropies]].where(enough, np.nan).assign(façades=areas["façades"])
    highest = shown.max().fillna(1.0)
    highest[list(entropies)] = highest[list(entropies)].max()
    columns = min(3, len(kinds | entropies))
    rows = -(-len(kinds | entropies) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, (WIDTH / columns + 0.6) * rows + 0.3), squeeze=False)
    engine, scales = figure.get_layout_engine(), {}
    figure.set_layout_engine("none")  # geopandas draws the whole figure after each map, which its layout makes slow
    for ax, (column, title) in zip(axes.flat, (kinds | entropies).items(), strict=False):
        scale = 100 if column == "unseen" else 1
        scales[column] = Normalize(0, scale * max(highest[column], 1e-9))
        values, look = scale * shown[column].astype(float), {"cmap": "viridis", "missing_kwds": {"color": FEW}}
        areas.plot(values, ax=ax, norm=scales[column], rasterized=True, **look)
        _frame(ax, areas.total_bounds)
        ax.set_title(_short(title, 34), fontsize=9)
    figure.set_layout_engine(engine)
    for ax, (column, norm) in zip(axes.flat, scales.items(), strict=False):
        part = areas if column == "façades" else areas[enough]
        label = f"n = {part['façades'].sum():,} façades in {len(part):,} areas"
        look = {"orientation": "horizontal", "shrink": 0.8, "aspect": 30, "pad": 0.02, "label": label}
        figure.colorbar(ScalarMappable(norm, "viridis"), ax=ax, **look)
    for ax in axes.flat[len(kinds | entropies) :]:
        ax.set_axis_off()
    figure.get_layout_engine().set(h_pad=0.12)  # room between a legend and the title below it
    north_and_scale(axes[0][0])
    note = f"Entropy from 0 (sure) to 1 (no idea), one scale for all tasks; {enough.sum():,} of {len(areas):,} areas"
    note += f"{'' if enough.all() else f'; grey: fewer than {FEWEST} façades'}{left_out}."
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def fig_frequencies(frequencies: pd.DataFrame, tasks: Tasks, n: int) -> Figure:
    """The frame of :func:`mtclim.mapping.frequencies.class_frequencies` of n façades, beside the truth if known."""
    looks = {"truth": ("truth", "black", "|"), "balanced": ("validation (balanced)", "#999999", "x")}
    looks |= {"raw": (METHODS["raw"], "#EE6677", "o"), "expected": (METHODS["expected"], "#228833", "D")}
    parts = {task: frequencies[frequencies["task"] == task] for task in tasks}
    parts = {task: part.iloc[most_frequent(part["expected"])] for task, part in parts.items()}
    names = {task: [_short(tasks.title(task, name), 26) for name in part["class"]] for task, part in parts.items()}
    heights = [(1.5 if any("\n" in name for name in own) else 0.8) * len(own) + 2.6 for own in names.values()]
    figure, axes = masonry(heights, min(2, len(parts)), 0.22, 0.0)
    handles = {}
    for ax, (task, part) in zip(axes, parts.items(), strict=True):
        for kind, (label, colour, marker) in looks.items():
            if part[kind].notna().all():
                look = {"color": colour, "marker": marker, "alpha": 0.85, "s": 70 if kind == "truth" else 18}
                handles[label] = ax.scatter(100 * part[kind], range(len(part)), **look)
        rows_axis(ax, names[task])
        rest = len(tasks[task]) - len(part)
        title = tasks.title(task) + (f" ({rest} rarer classes not shown)" if rest else "")
        ax.set_title(_short(title, 30), fontsize=9)
        ax.set_xlim(0, 108 * np.nanmax(part[list(looks)].to_numpy(float)))
        ax.grid(axis="both")
    axes[-1].set_xlabel(f"share of n = {n:,} façades [%]")
    options = {"loc": "outside lower left", "ncols": 4, "handletextpad": 0.1, "fontsize": 8}
    figure.legend(list(handles.values()), list(handles), **options)
    return figure


def qgis_style(field: str, tasks: Tasks, task: str, areas: bool = False) -> str:
    """A QGIS style (QML) that colours points, or areas, by the classes of a task in a field, under readable names."""
    colours = palette(tasks)[task]
    kind = {"type": "fill", "kind": "SimpleFill"} if areas else {"type": "marker", "kind": "SimpleMarker"}
    symbol, style = (Template((_TEMPLATES / name).read_text(encoding="utf-8")) for name in ("symbol.qml", "style.qml"))
    categories, symbols = [], []
    for number, name in enumerate(tasks[task]):
        words = f'symbol="{number}" value={quoteattr(name)} label={quoteattr(tasks.title(task, name))}'
        categories.append(f'<category render="true" type="string" {words}/>')
        r, g, b = bytes.fromhex(colours[name][1:])
        symbols.append(symbol.substitute(kind, number=number, r=r, g=g, b=b))
    parts = {"column": quoteattr(field), "categories": "".join(categories), "symbols": "".join(symbols)}
    return style.substitute(parts, geometry=2 if areas else 0)


def gis_names(columns: Iterable[str]) -> dict[str, str]:
    """Column -> name of the field in a GeoPackage: a name that differs only in case, or is reserved, gets a number."""
    taken, names = {"fid", "geom", "ogc_fid", "geometry"}, {}
    for column in columns:
        tries = chain([column], (f"{column}_{n}" for n in count(1)))
        names[column] = next(name for name in tries if name.casefold() not in taken)
        taken.add(names[column].casefold())
    return names


def write_geopackage(
    attributes: pd.DataFrame,
    tasks: Tasks,
    path: str | Path,
    layers: Mapping[str, gpd.GeoDataFrame] | None = None,
    about: str = "",
) -> Path:
    """Write a GeoPackage with façades (:func:`mtclim.mapping.exposure.attributes`) and other layers by name.

    Fields are renamed as :func:`gis_names` says, and ``about`` describes each layer. A layer of answers has a QGIS
    style for each task.
    """
    path, styles = Path(path), []
    geometry = gpd.points_from_xy(attributes["lon"], attributes["lat"], crs=4326)
    facades = gpd.GeoDataFrame(attributes.reset_index(drop=True), geometry=geometry)
    with whole_or_absent(path) as beside:
        for name, layer in ({"facades": facades} | dict(layers or {})).items():
            fields = gis_names(layer.columns.drop(layer.geometry.name))
            layer.rename(columns=fields).to_file(beside, layer=name, driver="GPKG", DESCRIPTION=about)
            for task in tasks:
                if f"{task}:pred" in fields:
                    style = qgis_style(fields[f"{task}:pred"], tasks, task, layer is not facades)
                    styles.append({"f_table_name": name, "styleName": task, "styleQML": style})
        if not styles:
            return path
        styles = pd.DataFrame(styles).assign(f_geometry_column="geom", update_time=pd.Timestamp.now("UTC"))
        styles["useAsDefault"] = ~styles["f_table_name"].duplicated()
        styles[["f_table_catalog", "f_table_schema", "styleSLD", "description", "owner", "ui"]] = ""
        pyogrio.write_dataframe(styles, beside, layer="layer_styles", driver="GPKG", FID="id")  # as QGIS makes it
    return path
