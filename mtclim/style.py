"""What all figures share: the page's width and style, readable names, colours safe for colour-blind readers, panels."""

import functools
import re
from collections.abc import Callable, Sequence
from importlib.resources import files

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from mtclim.tasks import Tasks, ordinal
from mtclim.variants import CONTROLS, VARIANTS

WIDTH = 7.5  # inches: 750 px at 100 dpi, a page of the book
TOP = 20  # classes of a task that a figure shows one by one, the most frequent; the others share one line
STYLE = mpl.rc_params_from_file(files("mtclim") / "figures.mplstyle", use_default_template=False)
# Paul Tol's bright scheme, its grey darkened to show on white, and his discrete rainbow, for colour-blind readers too.
BRIGHT = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#7F7F7F")
RAINBOW = ("#D1BBD7", "#AE76A3", "#882E72", "#1965B0", "#5289C7", "#7BAFDE", "#4EB265", "#90C987", "#CAE0AB", "#F7F056",
           "#F6C141", "#F1932D", "#E8601C", "#DC050C", "#72190E", "#42150A")  # fmt: skip
FAMILIES = {"stc": "#7F7F7F", "bl": "#222222", "clim": "#4477AA", "tlim": "#228833", "lim": "#AA3377"}
CONTROL, RIVAL = "#EE6677", "#CC8800"
PARTS = {"before": "#8DB4D9", "after": "#E08214", "train": BRIGHT[0], "val": BRIGHT[3], "test": BRIGHT[1]}
BACKBONES = {
    "densenet121": "DenseNet121",
    "tf_efficientnetv2_b3": "EfficientNetV2-B3",
    "tf_efficientnet_lite0": "EfficientNet-Lite0",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenetv3_large_100": "MobileNetV3-Large",
    "test_byobnet": "timm's 0.2 M test network",
}


def backbone_title(name: str) -> str:
    """The readable name of a timm backbone, without the tag of its weights."""
    return BACKBONES.get(name.split(".")[0], name)


def in_words(text: str, tasks: Tasks) -> str:
    """The text with readable names for those of tasks and classes that have them; these must be words of their own."""
    titles = {name.split(":", 1)[-1]: title for name, title in tasks.titles.items()}
    names = "|".join(map(re.escape, sorted(titles, key=len, reverse=True))) or "(?!)"
    return re.sub(rf"(?<![\w+-])({names})(?![\w+-])", lambda found: titles[found[1]], text)


def shorten(name: str, width: int = 30) -> str:
    """A name that fits a figure: its middle is left out beyond ``width`` characters; tables hold the full name."""
    keep = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - keep].rstrip()}…{name[-keep:].lstrip()}"


def first_tasks(tasks: Tasks) -> tuple[dict[str, tuple[str, ...]], str]:
    """The tasks that a figure with a panel for each shows, at most ``TOP``, and what its note says of the others."""
    rest = len(tasks) - TOP
    return dict(list(tasks.items())[:TOP]), f"; {rest} more tasks are not shown" if rest > 0 else ""


def most_frequent(counts: Sequence[float], most: int = TOP) -> list[int]:
    """Positions of the classes that a figure shows one by one, in their order: all, or the ``most`` frequent."""
    return sorted(np.argsort(-np.asarray(counts, float), kind="stable")[:most].tolist())


def condensed(table: pd.DataFrame, counts: Sequence[float], rest: str = "sum") -> pd.DataFrame:
    """A frame with a row for each class as a figure shows it: at most ``TOP`` one by one, the others in a last row.

    Parameters
    ----------
    counts, rest : How frequent each class is, and what of the others is shown, their "sum" or "mean".
    """
    shown = most_frequent(counts)
    others = np.setdiff1d(np.arange(len(table)), shown)
    found = table.iloc[shown].set_axis(list(table.index[shown]))
    if len(others):
        found.loc[f"{'mean of ' * (rest == 'mean')}{len(others)} more"] = table.iloc[others].agg(rest)
    return found


def palette(tasks: Tasks) -> dict[str, dict[str, str]]:
    """Task -> class -> "#rrggbb": rising ranges (heights) in a sequential map, others Tol's bright or rainbow."""
    rainbow, chosen = LinearSegmentedColormap.from_list("tol", RAINBOW, N=1024), {}
    for task, classes in tasks.items():
        colours = mpl.colormaps["viridis_r"](np.linspace(0.08, 1, len(classes)))
        if not ordinal(classes):
            colours = BRIGHT if len(classes) <= len(BRIGHT) else rainbow(np.linspace(0, 1, len(classes)))
        chosen[task] = dict(zip(classes, map(to_hex, colours), strict=False))
    return chosen


def variant_colour(variant: str) -> str:
    """Grey STC, black BL family, blue CLIM, green TLIM, purple LIM; red a control, ochre a rival."""
    if variant in VARIANTS:
        return FAMILIES[variant.split("_")[0]]
    return CONTROL if variant in CONTROLS else RIVAL


def drawn(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the house style; adds the parameter ``synthetic``; closes the figure so that notebooks show it once."""

    @functools.wraps(function)
    def wrapper(*args, synthetic: bool = False, **options) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*args, **options)
            if synthetic:
                style = {"ha": "right", "va": "bottom", "color": "#8a5a00", "style": "italic"}
                figure.text(0.995, 0.01, "synthetic data", **style)
                if not figure.get_supxlabel():
                    figure.supxlabel(" ", fontsize=8)  # keeps the line free
            plt.close(figure)
        return figure

    return wrapper


def masonry(sizes: Sequence[float], columns: int, unit: float, extra: float) -> tuple[Figure, list[Axes]]:
    """Panels of unequal height in columns, read downwards.

    Parameters
    ----------
    sizes, extra, columns, unit : Heights in units, units added to each, number of columns, and inches of a unit.
    """
    heights = np.array(sizes, float) + extra
    side = (columns * (np.cumsum(heights) - heights / 2) / heights.sum()).astype(int)  # where a panel's middle falls
    parts = [heights[side == k] for k in np.unique(side)]
    tallest = max(map(sum, parts))
    figure, axes = plt.figure(figsize=(WIDTH, tallest * unit + 0.45)), []
    for column, part in zip(np.atleast_1d(figure.subfigures(1, len(parts))), parts, strict=True):
        ratios = [*part, max(tallest - sum(part), 1e-3)]
        grid = column.add_gridspec(len(ratios), 1, height_ratios=ratios)
        axes += [column.add_subplot(grid[i, 0]) for i in range(len(part))]
    return figure, axes


def rows_axis(ax: Axes, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top, without ticks, and a grid for the values."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
