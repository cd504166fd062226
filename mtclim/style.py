"""What all figures share: the page's width and style, colours safe for colour-blind readers, panels and axes."""

import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtclim.tasks import Tasks, ordinal
from mtclim.variants import title

WIDTH = 7.5
"""Inches: 750 px at 100 dpi, a page of the book."""
STYLE = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.linewidth": 0.6, "xtick.color": "#444444",
    "ytick.color": "#444444", "xtick.major.width": 0.6, "ytick.major.width": 0.6, "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 200,
    "figure.constrained_layout.use": True, "svg.fonttype": "none", "pdf.fonttype": 42,
    "text.parse_math": False,  # a "$" in a label is a "$"
}  # fmt: skip
BRIGHT = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#7F7F7F")
"""Paul Tol's bright scheme, its grey darkened to show on white."""
RAINBOW = ("#D1BBD7", "#AE76A3", "#882E72", "#1965B0", "#5289C7", "#7BAFDE", "#4EB265", "#90C987", "#CAE0AB", "#F7F056",
           "#F6C141", "#F1932D", "#E8601C", "#DC050C", "#72190E", "#42150A")  # fmt: skip
"""Paul Tol's discrete rainbow: neighbours stay apart for colour-blind readers."""
FAMILIES = {"stc": "#7F7F7F", "bl": "#222222", "clim": "#4477AA", "tlim": "#228833", "lim": "#AA3377"}
KEPT, DROPPED = "#E08214", "#8DB4D9"


def palette(tasks: Tasks) -> dict[str, dict[str, str]]:
    """Task -> class -> "#rrggbb": rising ranges (heights) in a sequential map, others Tol's bright or rainbow."""
    chosen = {}
    for task, classes in tasks.items():
        k = len(classes)
        if ordinal(classes):
            colours = [to_hex(c) for c in mpl.colormaps["viridis_r"](np.linspace(0.08, 1, k))]
        elif k <= len(BRIGHT):
            colours = BRIGHT
        else:
            steps = np.linspace(0, len(RAINBOW) - 1, k)  # beyond 16 classes colours between neighbours are mixed
            mixed = mpl.colors.LinearSegmentedColormap.from_list("tol", RAINBOW, N=1024)
            colours = [
                to_hex(mixed(step / (len(RAINBOW) - 1))) if k > len(RAINBOW) else RAINBOW[round(step)] for step in steps
            ]
        chosen[task] = dict(zip(classes, colours, strict=False))
    return chosen


def variant_colour(variant: str) -> str:
    """Grey STC, black BL family, blue CLIM, green TLIM, purple LIM."""
    return FAMILIES.get(variant.split("_")[0].split("-")[0], "#7F7F7F")


def variant_marker(variant: str) -> str:
    """Circle for a plain module, square for stacked BL probabilities, triangle for all; cross for a control."""
    if "-detach" in variant or variant == "bl_fc":
        return "X"
    return "^" if variant.endswith("_all") else "s" if "_ms" in variant else "o"


def drawn(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the house style; adds the parameter ``synthetic``; closes the figure so that notebooks show it once."""

    @functools.wraps(function)
    def wrapper(*args, synthetic: bool = False, **options) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*args, **options)
            if synthetic:
                style = {"x": 0.995, "ha": "right", "fontsize": 6.5, "color": "#8a5a00", "style": "italic"}
                if figure.get_supxlabel():  # taken: beside it, on the same line
                    figure.text(y=0.01, s="synthetic data", va="bottom", **style)
                else:
                    figure.supxlabel("synthetic data", **style)
            plt.close(figure)
        return figure

    return wrapper


def panels(n: int, columns: int, height: float, **options) -> tuple[Figure, list[Axes]]:
    """n equal panels, ``height`` inches each."""
    rows = -(-n // columns)
    figure, axes = plt.subplots(rows, min(columns, n), figsize=(WIDTH, rows * height + 0.3), squeeze=False, **options)
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return figure, list(axes.flat[:n])


def masonry(sizes: Sequence[float], columns: int, unit: float, extra: float) -> tuple[Figure, list[Axes]]:
    """Panels of unequal height in columns, read downwards: ``sizes`` in units of ``unit`` inches, ``extra`` units each."""
    heights = [size + extra for size in sizes]
    columns = min(columns, len(sizes))
    cuts = min(combinations(range(1, len(sizes)), columns - 1), key=lambda c: max(map(sum, _cut(heights, c)))) if (
        len(sizes) <= 24) else tuple(round(len(sizes) * k / columns) for k in range(1, columns))  # fmt: skip
    parts = _cut(heights, cuts)
    tallest = max(map(sum, parts))
    figure = plt.figure(figsize=(WIDTH, tallest * unit + 0.45))
    axes = []
    for side, part in zip(np.atleast_1d(figure.subfigures(1, columns)), parts, strict=True):
        spare = tallest - sum(part)
        ratios = [*part, spare] if spare > 0 else part
        grid = side.add_gridspec(len(ratios), 1, height_ratios=ratios)
        axes += [side.add_subplot(grid[i, 0]) for i in range(len(part))]
    return figure, axes


def _cut(values: Sequence[float], cuts: Sequence[int]) -> list[list[float]]:
    edges = [0, *cuts, len(values)]
    return [list(values[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


def variants_axis(ax: Axes, variants: Sequence[str]) -> None:
    """Variants down the y axis, the first on top."""
    rows_axis(ax, [title(name) for name in variants])
    ax.grid(axis="x")


def rows_axis(ax: Axes, names: Sequence[str], size: float = 7.5) -> None:
    """Names down the y axis, the first on top, without ticks."""
    ax.set_yticks(range(len(names)), names, fontsize=size)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def variant_legend(figure: Figure, variants: Iterable[str], **options) -> None:
    """A legend of colours and marks above the panels."""
    handles = [
        Line2D([], [], color=variant_colour(v), marker=variant_marker(v), ls="", ms=5, label=title(v)) for v in variants
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, handletextpad=0.1, columnspacing=1.0, **options)
