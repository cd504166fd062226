"""The paper's figures from data frames: each function returns a matplotlib Figure 7.5 inches (750 px) wide.

Every function also takes ``synthetic=True``, which prints "synthetic data" in the corner.
"""

import html
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mtclim import style
from mtclim.style import BRIGHT, PARTS, TOP, WIDTH, condensed, drawn, masonry, rows_axis, shorten, variant_colour
from mtclim.tasks import Tasks
from mtclim.variants import ordered, title


@drawn
def sheet(images: Mapping[tuple[str, str], Sequence[np.ndarray]], tasks: Tasks) -> Figure:
    """Example photographs of each class, one block a task (Fig. 3).

    ``images``: (task, class or any words) -> arrays (H, W, 3) uint8 of one size; words may stand on several lines. Of
    many classes only the first of each task are shown, so that the figure is at most some 18 lines high.
    """
    side = 0.58  # inches of a photograph
    width = max(side * max(map(len, images.values()), default=1), 1.75)
    more = max((name.count("\n") for _, name in images), default=0)  # lines of text beyond the first
    across = max(1, int(WIDTH / (width + 0.12)))
    blocks, lines = list(dict.fromkeys(task for task, _ in images)), []
    for task in blocks:
        found = [(name, pictures) for (own, name), pictures in images.items() if own == task and len(pictures)]
        found = found[: across * max(1, 18 // len(blocks))]
        lines += [(task, found[i : i + across], i == 0) for i in range(0, len(found), across)]
    size = (WIDTH, (side + 0.4 + 0.14 * more) * len(lines))
    figure, axes = plt.subplots(len(lines), across, figsize=size, squeeze=False, subplot_kw={"anchor": "W"})
    for ax in axes.flat:
        ax.set_axis_off()
    for row, (task, line, first) in zip(axes, lines, strict=True):
        for ax, (name, pictures) in zip(row, line, strict=False):
            framed = [np.pad(p, ((0, 0), (0, len(p) // 16), (0, 0)), constant_values=255) for p in pictures]
            ax.imshow(np.hstack(framed))
            words = [shorten(line, int(width / 0.068)) for line in tasks.title(task, name).split("\n")]
            ax.set_title("\n".join([""] * first + words), fontweight="normal", fontsize=8)
        if first:
            look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontweight": "bold"}
            row[0].annotate(tasks.title(task), (0, 1), (0, 16 + 10 * more), **look).set_in_layout(False)
    return figure


@drawn
def cooccurrence(matrix: pd.DataFrame, tasks: Tasks) -> Figure:
    """P(column | row) of the labels (Fig. 4): ``labels.cooccurrence``'s matrix; undefined cells are grey."""
    edges, side = np.cumsum([0, *tasks.sizes]), WIDTH - 1.5
    middles, cell = (edges[:-1] + edges[1:]) / 2, 72 * side / tasks.total
    readable = cell >= 8
    names = [shorten(tasks.title(task, name), 20) for task in tasks for name in tasks[task]] if readable else False
    headings = [shorten(tasks.title(task), 20) if cell * len(tasks[task]) >= 12 else "" for task in tasks]
    figure, ax = plt.subplots(figsize=(WIDTH, side + 1.3))
    bar = {"location": "bottom", "shrink": 0.6, "aspect": 30, "pad": 0.01, "label": "P(column | row)"}
    look = {"vmin": 0, "vmax": 1, "cmap": "Blues", "square": True, "cbar_kws": bar}
    ax.set_facecolor("#e2dccf")
    sns.heatmap(matrix.to_numpy(float), ax=ax, xticklabels=names, yticklabels=names, **look)
    for edge in edges[1:-1]:
        ax.axhline(edge, color="#777777", lw=0.8)
        ax.axvline(edge, color="#777777", lw=0.8)
    look = {"fontweight": "bold", "rotation": 25 if readable else 45, "rotation_mode": "anchor", "va": "bottom"}
    for middle, heading in zip(middles, headings, strict=True):
        ax.text(middle, -0.01 * tasks.total, heading, **look)
    if not readable:
        ax.set_yticks(middles, headings, rotation=0)
    ax.tick_params(length=0, pad=1.5)
    return figure


@drawn
def lprus(bins: pd.DataFrame, cut: int, tasks: Tasks) -> Figure:
    """The 25 most frequent labelsets, kept up to the cut-off and dropped beyond it (Fig. 7a).

    Parameters
    ----------
    bins, cut : What ``labels.labelsets`` returns, and the cut-off point in images (``labels.cutoff``).
    """
    shown, counts = bins.head(25), bins[":count"].head(25)
    parts = pd.DataFrame({"kept": counts.clip(upper=cut), "dropped": (counts - cut).clip(lower=0)})
    names = shown[list(tasks)].astype(object).fillna("?").astype(str).agg(" · ".join, axis=1)
    figure, ax = plt.subplots(figsize=(WIDTH, 0.19 * len(shown) + 0.9))
    parts.plot.barh(stacked=True, ax=ax, color=[PARTS["after"], PARTS["before"]], width=0.72)
    ax.axvline(cut, color="#222222", lw=1, ls="--")
    ax.annotate(f"cut-off {cut:,}", (cut, len(shown) - 0.6), (3, 0), textcoords="offset points")
    rows_axis(ax, [shorten(name, 70) for name in names])
    ax.set(xlabel="images", ylabel="")
    kept, total = int(bins[":count"].clip(upper=cut).sum()), int(bins[":count"].sum())
    text = f"{kept:,} of {total:,} images kept ({kept / total:.1%}); {len(shown)} of {len(bins):,} labelsets shown"
    figure.suptitle(text, fontsize=8.5, fontweight="bold", x=0.01, ha="left")
    ax.legend(loc="lower right")
    return figure


@drawn
def histograms(parts: Mapping[str, pd.DataFrame], tasks: Tasks, share: bool = False) -> Figure:
    """How many images have each class, a bar for each part.

    Parameters
    ----------
    parts, share : Part -> labels (a column a task); whether bars are percent of the part's annotated images.
    """
    counts = {}
    for task, classes in tasks.items():
        found = pd.DataFrame({name: labels[task].value_counts() for name, labels in parts.items()})
        found = found.reindex(list(classes)).fillna(0)
        shown = 100 * found / found.sum().clip(lower=1) if share else found
        counts[task] = condensed(shown, found.sum(axis=1))
    figure, axes = masonry([len(found) for found in counts.values()], 2, 0.16 + 0.03 * len(parts), 2.4)
    colours = [PARTS.get(part, BRIGHT[0]) for part in parts]
    for ax, (task, found) in zip(axes, counts.items(), strict=True):
        found.plot.barh(ax=ax, color=colours, width=0.8, legend=False, xlabel="", ylabel="")
        rows_axis(ax, [shorten(tasks.title(task, name)) for name in found.index])
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        ax.set_title(shorten(tasks.title(task), 24))
    figure.supxlabel("share of the part's images [%]" if share else "images", fontsize=8)
    if len(parts) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(parts))
    return figure


def balanced(before: pd.DataFrame, after: pd.DataFrame, tasks: Tasks, synthetic: bool = False) -> Figure:
    """Class frequencies before and after LPRUS (Fig. 7b).

    Parameters
    ----------
    before, after : Labels, a column a task.
    """
    return histograms({"before": before, "after": after}, tasks, synthetic=synthetic)


def splits(labels: pd.DataFrame, split: pd.Series, tasks: Tasks, synthetic: bool = False) -> Figure:
    """Class frequencies of the training, validation and test images (Fig. 8).

    Parameters
    ----------
    labels, split : Labels, a column a task, and each row's split: "train", "val" or "test".
    """
    parts = {name: labels[np.asarray(split) == name] for name in ("train", "val", "test")}
    return histograms(parts, tasks, share=True, synthetic=synthetic)


@drawn
def places(frame: pd.DataFrame, split: Sequence[str]) -> Figure:
    """Where the images of each split are: a dot an image, columns lon and lat in degrees."""
    figure, ax = plt.subplots(figsize=(WIDTH, 5.2))
    shown = {"hue": np.asarray(split), "hue_order": ["train", "val", "test"], "palette": PARTS, "s": 3, "lw": 0}
    sns.scatterplot(frame, x="lon", y="lat", ax=ax, **shown)
    ax.set_aspect(1 / np.cos(np.radians(frame["lat"].mean())))
    ax.set(xlabel="longitude [°]", ylabel="latitude [°]")
    ax.legend(markerscale=3, loc="upper right")
    return figure


@drawn
def residuals(frame: pd.DataFrame) -> Figure:
    """Boxplots of Delta_m(median) per variant for OA and kappa (Fig. 9): ``comparison.residuals``'s frame.

    Dots are single runs (STC: all combinations, in the box). With a single run a variant there are dots alone.
    """
    variants = ordered(frame["variant"].unique())
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.27 * len(variants) + 0.9), sharey=True)
    many = frame[frame["variant"] != "stc"].duplicated(["metric", "variant"]).any()
    shared = {"x": "value", "y": "variant", "order": variants, "hue": "variant", "legend": False}
    shared |= {"palette": {name: variant_colour(name) for name in variants}}
    box = {"showfliers": False, "width": 0.62, "linewidth": 0.8, "boxprops": {"alpha": 0.4}}
    for ax, (metric, name) in zip(axes, (("oa", "OA"), ("kappa", "κ")), strict=True):
        own = frame[frame["metric"] == metric]
        if many:
            sns.boxplot(own, ax=ax, medianprops={"color": "#111111", "lw": 1.4}, **box, **shared)
            own = own[own["variant"] != "stc"]
        sns.swarmplot(own, ax=ax, size=2.6 if many else 5, **shared)
        ax.axvline(0, color="#555555", lw=0.8)
        rows_axis(ax, [title(name) for name in variants])
        ax.set(xlabel=f"Δₘ(median), {name} [%]", ylabel="")
    if (count := frame.attrs.get("combinations", 0)) > 1:
        kind = "a sample of" if frame.attrs["sampled"] else "all"
        axes[0].set_title(f"STC: {kind} {count:,} combinations", fontweight="normal", fontsize=8)
    return figure


@drawn
def f1(frame: pd.DataFrame, tasks: Tasks, counts: pd.DataFrame) -> Figure:
    """Mean F1 of each class by variant (Fig. 10).

    Parameters
    ----------
    frame, counts : ``comparison.class_scores`` of one backbone, and ``Study.counts``.
    """
    test, options = counts.set_index(["task", "class"])["test"], {"vmin": 0, "vmax": 100, "cmap": "viridis"}
    return class_map(frame.assign(value=100 * frame["f1"]), tasks, test, "F1 [%]", {}, fmt=".0f", **options)


def class_map(frame: pd.DataFrame, tasks: Tasks, counts: pd.Series, label: str, notes: Mapping, **options) -> Figure:
    """One heat map of mean values by class and variant; missing cells are light grey.

    Parameters
    ----------
    frame : Has the columns task, class, variant and value.
    counts, notes : (task, class) -> how frequent the class is, and what stands beside its name.
    label, **options : What the values are, written below the map, and options of seaborn's ``heatmap``.
    """
    mean = frame.groupby(["task", "class", "variant"])["value"].mean().unstack("variant")
    mean, parts, rows = mean[ordered(mean)], [], []
    for task, classes in tasks.items():
        part = condensed(mean.loc[task].loc[list(classes)], counts[task][list(classes)], "mean")
        parts += [part.iloc[:0].reindex([""]), part]  # an empty row bears the task's name
        rows += ["", *(shorten(tasks.title(task, name)) + notes.get((task, name), "") for name in part.index)]
    table = pd.concat(parts)
    names = [title(name) for name in table]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.165 * len(table) + 1.7))
    ax.set_facecolor("#f4f4f4")
    sns.heatmap(table.to_numpy(), ax=ax, annot=len(names) <= 24, annot_kws={"fontsize": 8}, cbar=False, **options)
    ax.set_yticks(np.arange(len(table)) + 0.5, rows, rotation=0)
    ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=45, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=2)
    for row, task in zip(np.flatnonzero(table.index == ""), tasks, strict=True):
        ax.axhspan(row, row + 1, color="white")
        ax.text(0, row + 0.55, shorten(tasks.title(task), 60), fontweight="bold", va="center")
    figure.supxlabel(label, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def confusion(counts: Mapping[str, np.ndarray], tasks: Tasks) -> Figure:
    """Confusion matrices (K, K) of up to ``TOP`` tasks in percent of the reference (row), grey if empty (Fig. 11)."""
    parts, (shown, left_out) = {}, style.first_tasks(tasks)
    for task, classes in shown.items():
        found = pd.DataFrame(counts[task], list(classes), list(classes), dtype=float)
        frequent = found.sum(axis=1)
        parts[task] = condensed(condensed(found, frequent).T, frequent).T
    lines: list[list[str]] = [[]]  # as many matrices side by side as the page holds, at a fifth of an inch a cell
    for task, part in parts.items():
        if lines[-1] and sum(len(parts[own]) + 9 for own in lines[-1]) + len(part) + 9 > 40:
            lines.append([])
        lines[-1].append(task)
    heights = [max(len(parts[task]) for task in line) + 8 for line in lines]
    figure, axes = plt.figure(figsize=(WIDTH, 0.19 * sum(heights) + 0.3)), []
    for line, side in zip(lines, np.atleast_1d(figure.subfigures(len(lines), 1, height_ratios=heights)), strict=True):
        widths = [len(parts[task]) + 9 for task in line]
        axes += list(side.subplots(1, len(line), squeeze=False, width_ratios=widths)[0])
    for ax, (task, part) in zip(axes, parts.items(), strict=True):
        percent = 100 * part.div(part.sum(axis=1), axis=0)  # an empty row is NaN
        text = percent.map(lambda value: f"{value:.0f}" if value >= 0.5 else "")
        oa = f": OA {np.trace(part) / part.to_numpy().sum():.1%}" if part.to_numpy().sum() else ""
        ax.set_facecolor("#eeeeee")
        look = {"annot": text, "fmt": "", "annot_kws": {"fontsize": 8}, "cmap": "Blues", "vmin": 0, "vmax": 100}
        rows, columns = ([shorten(tasks.title(task, name), width) for name in part] for width in (30, 14))
        sns.heatmap(percent, ax=ax, cbar=False, square=True, yticklabels=rows, xticklabels=columns, **look)
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(axis="y", rotation=0)
        ax.tick_params(length=0, pad=2)
        ax.set_title(shorten(tasks.title(task), 20) + oa)
    text = "rows: reference; columns, in the same order: answers; percent of the reference class"
    figure.supxlabel(text + left_out, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def times(costs: pd.DataFrame) -> Figure:
    """Time by variant (Fig. 12): of a step, epochs, and both together as a share of STC's (``evidence.cost``)."""
    names = ("time of a step, BL = 1", "epochs to the best weights", "training time / STC's")
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 0.24 * len(costs) + 0.8), sharey=True)
    for ax, column, name in zip(axes, ("step", "epochs_to_best", "of_stc"), names, strict=True):
        values = costs[column]
        ax.barh(range(len(costs)), values, 0.66, color=[variant_colour(v) for v in costs.index], alpha=0.85)
        ax.set(xlabel=name, xlim=(0, None))
        rows_axis(ax, [title(variant) for variant in costs.index])
        if values.isna().all():
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
    return figure


@drawn
def history(frame: pd.DataFrame, tasks: Tasks) -> Figure:
    """Loss and mean validation accuracy by epoch (history.csv), a row for each network; a dot marks the best epoch."""
    networks = list(frame.groupby("network", sort=False))[:TOP]
    size = (WIDTH, 1.5 * len(networks) + 0.9)
    figure, axes = plt.subplots(len(networks), 2, figsize=size, squeeze=False, sharex=True)
    for (left, right), (network, rows) in zip(axes, networks, strict=True):
        losses = {"train_loss": "training", "val_loss": "validation"}
        rows = rows.set_index("epoch").rename(columns=losses)
        rows[list(losses.values())].plot(ax=left, color="#222222", style=["-", "--"], lw=1.2, ylabel="loss")
        accuracy = 100 * rows["val_oa"]
        accuracy.plot(ax=right, color="#222222", lw=1.2, ylabel="validation OA [%]")
        right.plot(accuracy.fillna(-1).idxmax(), accuracy.max(), marker="o", ms=5, color=BRIGHT[1])
        left.set_title("" if network == "all" else shorten(tasks.title(network), 40))
        for ax in (left, right):
            ax.grid(axis="y")
            ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    return figure


def styled(table: pd.DataFrame, best: Sequence = (), decimals: int = 2):
    """A pandas Styler for the book: names as text, never HTML, and "–" for missing.

    Parameters
    ----------
    best, decimals : Columns whose highest value is bold, and decimals of columns that do not hold whole numbers only.
    """
    whole = [name for name in table.select_dtypes("number") if (table[name].dropna() % 1 == 0).all()]
    shown = {"na_rep": "–", "thousands": ",", "escape": "html"}
    style = table.style.format(precision=decimals, **shown).format(precision=0, **shown, subset=whole)
    style = style.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    return style.highlight_max(subset=list(best), props="font-weight: bold") if len(best) and len(table) > 1 else style


def named(frame: pd.DataFrame, tasks: Tasks, classes: Sequence[str] = ("class",)) -> pd.DataFrame:
    """The frame with readable names of tasks and classes.

    Parameters
    ----------
    frame, classes : A frame with a column task, and which of its columns hold classes of that task.
    """
    shown = {column: list(map(tasks.title, frame["task"], frame[column])) for column in classes}
    return frame.assign(task=frame["task"].map(tasks.title), **shown)


def listed(notes: Sequence[str], tasks: Tasks, synthetic: bool = False) -> str:
    """Notes on a table as a Markdown list.

    Parameters
    ----------
    synthetic : Whether the table is the city's, whose names are made readable; a user's file keeps its own.
    """
    return "\n".join(f"- {plain(style.in_words(note, tasks) if synthetic else note)}" for note in notes)


def literal(name: object) -> str:
    """The HTML of a name from a file or of a folder, shown as code; for ``Styler.format_index``."""
    return f"<code>{html.escape(str(name))}</code>"


def plain(text: object) -> str:
    """Text from a user's table or path for use in Markdown: shown as it is, no part of it interpreted."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))
