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
import shapely
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from mtclim.files import whole_or_absent
from mtclim.mapping.areas import points
from mtclim.mapping.frequencies import METHODS
from mtclim.metrics import metrics
from mtclim.style import TOP, WIDTH, drawn, first_tasks, masonry, most_frequent, palette, rows_axis, shorten
from mtclim.tasks import Tasks

LAND, LINE, FEW = "#f1efea", "#c9c4b8", "#d9d9d9"
_BARE = {"xticks": [], "yticks": [], "frame_on": False}
FEWEST = 20
"""Façades: an area with fewer is drawn in grey, because its shares say little."""


def test_scores(predictions: pd.DataFrame, tasks: Mapping) -> dict | None:
    """Accuracy, kappa and F1 from the images of test blocks only, as in metrics.json; None where there are none."""
    if not {"split", *(f"{task}:true" for task in tasks)} <= set(predictions):
        return None
    test = predictions[predictions["split"] == "test"]
    return metrics(test, tasks) if len(test) else None


# ---------------------------------------------------------------- maps


def tiles(bounds: Sequence[float], crs, timeout: float = 10.0, cache: str | Path = ".cache/tiles"):
    """(image, extent in ``crs``, attribution) of a web backdrop, or None where it does not come within ``timeout`` s.

    Parameters
    ----------
    bounds, cache : West, south, east and north in ``crs``, and a folder; tiles that are in it are not fetched again.
    """
    found = []

    def fetch() -> None:
        with suppress(Exception):  # no contextily, no network, a captive portal: the caller draws its own backdrop
            import contextily

            contextily.set_cache_dir(str(cache))
            source = contextily.providers.OpenStreetMap.Mapnik  # needs no key
            box = gpd.GeoSeries.from_xy(bounds[::2], bounds[1::2], crs=crs).to_crs(3857).total_bounds
            image, extent = contextily.bounds2img(*box, source=source, wait=0, max_retries=0)
            found.extend([*contextily.warp_tiles(image, extent, t_crs=crs), source["attribution"]])

    thread = threading.Thread(target=fetch, daemon=True)  # requests has no overall time limit; this one may hang
    thread.start()
    thread.join(timeout)
    return tuple(found) or None


def outlines(layer: gpd.GeoDataFrame) -> list[np.ndarray]:
    """The outer rings of a layer's polygons, each (n, 2) in its CRS."""
    return [shapely.get_coordinates(ring) for ring in layer.geometry.explode().exterior.dropna()]


def _frame(ax, bounds: Sequence[float], tile=None, layers: Sequence[Sequence[np.ndarray]] = ()) -> None:
    """Make an axes a map of the bounds (west, south, east, north), with tiles or layers of rings beneath."""
    if tile:
        ax.imshow(tile[0], extent=tile[1], interpolation="bilinear", zorder=0)
    for level, rings in enumerate(layers):
        look = {"facecolors": "none" if tile or level else LAND, "edgecolors": LINE, "linewidths": 0.15 + 0.4 * level}
        ax.add_collection(PolyCollection(rings, rasterized=True, zorder=1, **look), autolim=False)
    west, south, east, north = bounds
    margin = 0.03 * max(east - west, north - south, 100.0)
    ax.set(xlim=(west - margin, east + margin), ylim=(south - margin, north + margin), aspect="equal")
    ax.set(xlabel="", ylabel="")
    for artist in ax.collections:
        artist.set_in_layout(False)  # they fill the axes; measuring them would take longer than drawing


def scale_length(width: float) -> float:
    """The round number of metres (1, 2 or 5 times a power of ten) nearest below a third of a map's width in metres."""
    power = 10.0 ** np.floor(np.log10(width / 3))
    return float(max(step * power for step in (1, 2, 5) if step * power <= width / 3))


def north_and_scale(ax) -> None:
    """A north arrow and a scale bar, in the corners of an axes in metres."""
    length = scale_length(np.ptp(ax.get_xlim()))
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    ax.add_artist(AnchoredSizeBar(ax.transData, length, text, "lower left", label_top=True, pad=0.2, zorder=5))
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 0.8}
    ax.annotate("N", (0.93, 0.98), (0.93, 0.8), "axes fraction", arrowprops=arrow, ha="center", fontsize=8, zorder=5)


@drawn
def fig13(
    predictions: pd.DataFrame, tasks: Tasks, polygons: Sequence[gpd.GeoDataFrame] = (), web: bool = True
) -> Figure:
    """Fig. 13: one panel a class of each task, with class frequency and F1, and the task's OA and kappa, in percent.

    Accuracies are those of test blocks. At most ``TOP`` tasks are shown, and of a task with many classes the most
    frequent; a line has the number and share of the others.

    Parameters
    ----------
    polygons : Layers drawn beneath, built-up blocks first, then municipalities.
    web : Whether map tiles lie beneath where there is a network; the figure says which.
    """
    frame, colours, (panels, left_out) = points(predictions), palette(tasks), first_tasks(tasks)
    scores = test_scores(predictions, tasks) or {}
    polygons = [layer.to_crs(frame.crs) for layer in polygons]
    bounds = [frame, *polygons][-1].total_bounds
    tile = tiles(bounds, frame.crs) if web else None
    layers = [outlines(layer) for layer in polygons]
    columns, shown = 5, {}
    for task, classes in panels.items():
        shares = frame[f"{task}:pred"].value_counts(normalize=True).reindex(list(classes), fill_value=0.0)
        shown[task] = shares.iloc[most_frequent(shares, max(columns, min(TOP, 80 // len(panels))))]
    shape = np.clip((bounds[3] - bounds[1]) / max(bounds[2] - bounds[0], 1.0), 0.6, 1.3)
    rows = [-(-len(shares) // columns) for shares in shown.values()]
    heights = [n * (WIDTH / columns * shape + 0.4) + 0.3 for n in rows]
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.7))
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    size = np.clip(12000 / len(frame), 0.08, 6)  # points2: a dot of a third of a pixel still shows, many don't merge
    for part, n, (task, shares) in zip(parts, rows, shown.items(), strict=True):
        score, rest = scores.get(task, {}), len(tasks[task]) - len(shares)
        text = tasks.title(task)
        if score.get("oa") is not None:
            text += f": OA {100 * score['oa']:.1f}, κ {100 * score['kappa']:.1f}"
        if rest:
            text += f" ({rest} rarer classes, {100 * (1 - shares.sum()):.1f} %, not shown)"
        part.suptitle(text, fontsize=9, x=0.01, ha="left")
        axes = part.subplots(n, columns, squeeze=False, subplot_kw=_BARE).flat
        for ax, (name, share) in zip(axes, shares.items(), strict=False):
            here = frame.geometry[frame[f"{task}:pred"] == name]
            ax.scatter(here.x, here.y, s=size, color=colours[task][name], linewidths=0, zorder=3, rasterized=True)
            _frame(ax, bounds, tile, layers)
            f1 = score.get("f1", {}).get(name)
            text = f"{100 * share:.1f} %" + (f", F1 {100 * f1:.0f}" if f1 is not None else "")
            words = textwrap.fill(shorten(tasks.title(task, name), 40), 22)
            ax.set_title(f"{words}\n{text}", fontsize=8, pad=2, weight="normal")
    north_and_scale(figure.axes[0])
    under = f"Backdrop: {tile[2]}" if tile else "Backdrop: the data's own polygons" if polygons else "No backdrop"
    note = "F1, OA and κ in percent, from test blocks only" if scores else "no test blocks among these predictions"
    figure.suptitle(f"Predicted classes of {len(frame):,} façades", fontsize=10)
    note = textwrap.fill(f"{under}. Share of façades above each panel; {note}{left_out}.", 120)
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def fig_aggregates(areas: gpd.GeoDataFrame, tasks: Tasks) -> Figure:
    """Maps of :func:`mtclim.mapping.areas.aggregate`: façades, unseen labelsets, and the tasks' entropies on one scale.

    Areas with fewer than ``FEWEST`` façades are grey, except on the map of their numbers. At most ``TOP`` tasks are
    shown.
    """
    enough, (panels, left_out) = areas["façades"] >= FEWEST, first_tasks(tasks)
    titles = {"façades": "façades"} | ({"unseen": "labelsets never seen [%]"} if "unseen" in areas else {})
    titles |= {f"{task}:entropy": f"unsure: {tasks.title(task)}" for task in panels}
    shown = areas[list(titles)].astype(float).where(enough).assign(façades=areas["façades"])
    highest = shown.max()
    highest[highest.index.str.endswith(":entropy")] = shown.filter(regex=":entropy$").max(axis=None)
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    size = WIDTH, (WIDTH / columns + 0.6) * rows + 0.3
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, subplot_kw=_BARE)
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")  # geopandas draws the whole figure after each map, which its layout makes slow
    for ax, (column, title) in zip(axes.flat, titles.items(), strict=False):
        percent, own = 100 if column == "unseen" else 1, areas if column == "façades" else areas[enough]
        legend = {"label": f"n = {own['façades'].sum():,} façades in {len(own):,} areas", "orientation": "horizontal"}
        legend |= {"shrink": 0.8, "aspect": 30, "pad": 0.02}
        top = np.nan_to_num(highest[column], nan=1.0) or 1.0
        look = {"vmin": 0, "vmax": percent * top, "missing_kwds": {"color": FEW}, "rasterized": True}
        areas.plot(percent * shown[column], ax=ax, legend=True, legend_kwds=legend, **look)
        _frame(ax, areas.total_bounds)
        ax.set_title(textwrap.fill(title, 34), fontsize=9)
    figure.set_layout_engine(engine)
    engine.set(h_pad=0.12)  # room between a legend and the title below it
    north_and_scale(axes[0][0])
    note = f"Entropy from 0 (sure) to 1 (no idea), one scale for all tasks; {enough.sum():,} of {len(areas):,} areas"
    note += f"{'' if enough.all() else f'; grey: fewer than {FEWEST} façades'}{left_out}."
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def fig_frequencies(frequencies: pd.DataFrame, tasks: Tasks, n: int) -> Figure:
    """Class frequencies of n façades, beside the truth if known.

    Parameters
    ----------
    frequencies : From :func:`mtclim.mapping.frequencies.class_frequencies`.
    """
    looks = {
        "truth": {"label": "truth", "color": "black", "marker": "|", "s": 70},
        "balanced": {"label": "validation (balanced)", "color": "#999999", "marker": "x", "s": 18},
        "raw": {"label": METHODS["raw"], "color": "#EE6677", "marker": "o", "s": 18},
        "expected": {"label": METHODS["expected"], "color": "#228833", "marker": "D", "s": 18},
    }
    looks = {kind: look for kind, look in looks.items() if frequencies[kind].notna().any()}
    parts = {task: frequencies[frequencies["task"] == task] for task in tasks}
    parts = {task: part.iloc[most_frequent(part["expected"])] for task, part in parts.items()}
    figure, axes = masonry([0.8 * len(part) + 2.6 for part in parts.values()], min(2, len(parts)), 0.22, 0.0)
    for ax, (task, part) in zip(axes, parts.items(), strict=True):
        for kind, look in looks.items():
            ax.scatter(100 * part[kind], range(len(part)), alpha=0.85, **look)
        rows_axis(ax, [shorten(tasks.title(task, name)) for name in part["class"]])
        rest = len(tasks[task]) - len(part)
        title = tasks.title(task) + (f" ({rest} rarer classes not shown)" if rest else "")
        ax.set_title(textwrap.fill(title, 30), fontsize=9)
        ax.set_xlim(0, 108 * part[list(looks)].max(axis=None))
        ax.grid(axis="both")
    axes[-1].set_xlabel(f"share of n = {n:,} façades [%]")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, handletextpad=0.1, fontsize=8)
    return figure


# ---------------------------------------------------------------- files for a GIS


def qgis_style(field: str, tasks: Tasks, task: str, areas: bool = False) -> str:
    """A QGIS style (QML) that colours points, or areas, by the classes of a task, under readable names.

    Parameters
    ----------
    field, areas : The field that holds the classes, and whether it is one of areas.
    """
    colours, folder = palette(tasks)[task], files("mtclim.mapping")
    symbol, style = (Template((folder / name).read_text(encoding="utf-8")) for name in ("symbol.qml", "style.qml"))
    kind = {"type": "fill", "kind": "SimpleFill"} if areas else {"type": "marker", "kind": "SimpleMarker"}
    categories, symbols = "", ""
    for number, name in enumerate(tasks[task]):
        words = f'symbol="{number}" value={quoteattr(name)} label={quoteattr(tasks.title(task, name))}'
        categories += f'<category render="true" type="string" {words}/>'
        r, g, b = bytes.fromhex(colours[name][1:])
        symbols += symbol.substitute(kind, number=number, r=r, g=g, b=b)
    geometry = 2 if areas else 0
    return style.substitute(column=quoteattr(field), categories=categories, symbols=symbols, geometry=geometry)


def gis_names(columns: Iterable[str]) -> dict[str, str]:
    """Column -> name of the field in a GeoPackage: a name that differs only in case, or is reserved, gets a number."""
    taken, names = {"fid", "geom", "ogc_fid", "geometry"}, {}
    for column in columns:
        tries = chain([column], (f"{column}_{n}" for n in count(1)))
        names[column] = next(name for name in tries if name.casefold() not in taken)
        taken.add(names[column].casefold())
    return names


def write_geopackage(
    attributes: pd.DataFrame, tasks: Tasks, path: str | Path, layers: Mapping[str, gpd.GeoDataFrame], about: str = ""
) -> Path:
    """Write a GeoPackage with façades and other layers; a layer of answers has a QGIS style for each task.

    Parameters
    ----------
    attributes, layers : Façades (:func:`mtclim.mapping.exposure.attributes`), and the other layers by name. Fields are
        renamed as :func:`gis_names` says.
    about : Describes each layer.
    """
    points_ = gpd.points_from_xy(attributes["lon"], attributes["lat"], crs=4326)
    layers, styles = {"facades": gpd.GeoDataFrame(attributes, geometry=points_), **layers}, []
    with whole_or_absent(path) as beside:
        for name, layer in layers.items():
            fields = gis_names(layer.columns.drop(layer.geometry.name))
            layer.rename(columns=fields).to_file(beside, layer=name, driver="GPKG", DESCRIPTION=about)
            for task in tasks:
                if f"{task}:pred" in fields:
                    style = qgis_style(fields[f"{task}:pred"], tasks, task, name != "facades")
                    styles.append({"f_table_name": name, "styleName": task, "styleQML": style})
        styles = pd.DataFrame(styles).assign(f_geometry_column="geom", update_time=pd.Timestamp.now("UTC"))
        styles["useAsDefault"] = ~styles["f_table_name"].duplicated()
        styles[["f_table_catalog", "f_table_schema", "styleSLD", "description", "owner", "ui"]] = ""
        pyogrio.write_dataframe(styles, beside, layer="layer_styles", driver="GPKG", FID="id")  # as QGIS makes it
    return Path(path)
