"""Figures beyond the paper's: effects with their intervals, calibration, gains of classes, Grad-CAM."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mtclim.analysis.effects import MARGIN, VERDICTS
from mtclim.analysis.figures import class_map
from mtclim.analysis.study import calibration_gap
from mtclim.style import BRIGHT, WIDTH, drawn, masonry, rows_axis, shorten
from mtclim.tasks import Tasks

COLOURS = dict(zip(VERDICTS, ("#2166AC", "#228833", "#888888"), strict=True))
MARKS = "osD^v<>"


@drawn
def effects(table: pd.DataFrame, metric: str = "kappa") -> Figure:
    """Differences with 95 % intervals (``effects.effects``), a panel a family; the band is the equivalence margin.

    Blue: an effect; green: surely no effect worth having; grey: cannot be told. Marks tell data sets apart where
    ``table`` has a column source.
    """
    table = table.assign(source=table.get("source", ""))
    families, sources = table["family"].unique(), list(table["source"].unique())
    sizes = [table.loc[table["family"] == family, "contrast"].nunique() for family in families]
    figure, axes = masonry(sizes, 1, 0.2 + 0.06 * (len(sources) - 1), 2.0)
    step = min(0.25, 0.75 / len(sources))  # so that the sources of a difference stand closer than the differences
    for ax, family in zip(axes, families, strict=True):
        rows = table[table["family"] == family]
        names = list(rows["contrast"].unique())
        ax.axvspan(-MARGIN, MARGIN, color="#eeeeee", lw=0)
        for row in rows.itertuples():
            k, colour = sources.index(row.source), COLOURS[row.verdict]
            y = names.index(row.contrast) + (k - (len(sources) - 1) / 2) * step
            ax.plot([row.low, row.high], [y, y], color=colour, lw=2, solid_capstyle="butt")
            ax.plot(row.estimate, y, MARKS[k % len(MARKS)], ms=4.5, color="white", mec=colour, mew=1.4)
        ax.axvline(0, color="#333333", lw=0.8)
        if len(sources) > 1:
            ax.hlines(np.arange(len(names) - 1) + 0.5, 0, 1, "#dddddd", lw=0.6, transform=ax.get_yaxis_transform())
        rows_axis(ax, [name.replace(" - ", " − ") for name in names])
        ax.set_title(f"{family[0].upper()}{family[1:]}")
    if len(sources) > 1:
        for k, source in enumerate(sources):
            axes[0].plot([], [], MARKS[k % len(MARKS)], color="#888888", label=source)
        figure.legend(loc="outside upper right", ncols=4)
    name = "OA" if metric == "oa" else "κ"
    figure.supxlabel(f"difference of mean {name} [points]; grey band: no effect worth having", fontsize=8, x=0.4)
    return figure


@drawn
def reliability(bins: pd.DataFrame, tasks: Tasks) -> Figure:
    """Accuracy against confidence per task, before and after temperature scaling (``Study.calibration`` of one run)."""
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    size = (WIDTH, rows * (WIDTH / columns + 0.15) + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    for ax, task in zip(axes.flat, tasks, strict=False):
        ax.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        for scaled, colour, name in ((False, BRIGHT[1], "as trained"), (True, BRIGHT[0], "temperature-scaled")):
            part = bins[(bins["task"] == task) & (bins["scaled"] == scaled)]
            ax.plot(part["confidence"], part["accuracy"], "o-", ms=3, color=colour, lw=1, label=name)
            ax.text(0.97, 0.15 - 0.12 * scaled, f"ECE {100 * calibration_gap(part):.1f} %", color=colour, ha="right")
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_title(shorten(tasks.title(task), 80 // columns))
    figure.supxlabel("confidence", fontsize=8)
    figure.supylabel("accuracy", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@drawn
def gains(table: pd.DataFrame, tasks: Tasks) -> Figure:
    """Gain in mean F1 by class and variant (``evidence.class_gains``); each class with its share and the base's F1."""
    about, notes = table.groupby(["task", "class"])[["frequency", "base"]].first(), {}
    for place, share, base in about.itertuples(name=None):
        notes[place] = f"  {100 * share:.0f} | {base:.0f}".replace("nan", "–")
    limit = table["gain"].abs().quantile(0.97)
    limit = 1 if np.isnan(limit) else limit
    text = "gain in F1 [points]; beside each class: its share of the training images | F1 of the baseline [%]"
    options = {"vmin": -limit, "vmax": limit, "cmap": "PuOr", "fmt": "+.0f"}
    return class_map(table.assign(value=table["gain"]), tasks, about["frequency"], text, notes, **options)


@drawn
def attention(rows: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, str]]], tasks: Tasks) -> Figure:
    """Grad-CAM over sample photographs, a column a task; bright where the network's answer comes from.

    ``rows``: (image (H, W, 3), task -> heat (H, W) in [0, 1], task -> answer).
    """
    shown = list(rows[0][1])
    side = WIDTH / (len(shown) + 1)
    size = (WIDTH, (side + 0.2) * len(rows) + 0.3)
    figure, axes = plt.subplots(len(rows), len(shown) + 1, figsize=size, squeeze=False)
    for line, (image, heat, answers) in zip(axes, rows, strict=True):
        line[0].imshow(image)
        for ax, task in zip(line[1:], shown, strict=True):
            ax.imshow(image)
            ax.imshow(heat[task], cmap="inferno", alpha=0.5, vmin=0, vmax=1)
            ax.set_xlabel(shorten(tasks.title(task, answers[task]), int(side / 0.065)), fontsize=8, labelpad=2)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, task in zip(axes[0, 1:], shown, strict=True):
        ax.set_title(shorten(tasks.title(task), int(side / 0.07)), fontsize=8)
    return figure
