"""The paper's figures from data frames: each function returns a matplotlib Figure 7.5 inches (750 px) wide.

Every function also takes ``synthetic=True``, which prints "synthetic data" in the corner. Colours are safe for
colour-blind readers and shared with the maps; tasks, classes and variants keep their order and bear readable names.
Of a task with many classes the most frequent stand one by one, and one line holds the rest.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mtclim.style import (
    BRIGHT,
    DROPPED,
    KEPT,
    TOP,
    WIDTH,
    class_names,
    drawn,
    masonry,
    most_frequent,
    rows_axis,
    shorten,
    variant_colour,
    variants_axis,
)
from mtclim.tasks import Tasks
from mtclim.variants import ordered, title

PARTS = {"before": DROPPED, "after": KEPT, "train": BRIGHT[0], "val": BRIGHT[3], "test": BRIGHT[1]}


# ---------------------------------------------------------------- labels, balance, splits


@drawn
def sheet(images: Mapping[tuple[str, str], Sequence[np.ndarray]], tasks: Tasks, size: float = 0.72) -> Figure:
    """Example photographs of each class, one block a task (Fig. 3).

    ``images``: (task, class or any words) -> arrays (H, W, 3) uint8, at ``size`` inches each. Of many only the first
    of each task are shown, so that the figure is at most some 18 lines high.
    """
    lines: list[tuple[str, list, bool]] = []
    each = max((len(pictures) for pictures in images.values()), default=1)
    across = max(1, int(WIDTH / (each * size + 0.12)))
    blocks = list(dict.fromkeys(task for task, _ in images))
    most = min(TOP, across * max(1, 18 // len(blocks)))
    for task in blocks:
        found = [(name, pictures) for (own, name), pictures in images.items() if own == task and len(pictures)][:most]
        lines += [(task, found[i : i + across], i == 0) for i in range(0, len(found), across)]
    whole = (WIDTH, (size + 0.4) * len(lines))
    figure, axes = plt.subplots(len(lines), each * across, figsize=whole, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, (task, line, first) in zip(axes, lines, strict=True):
        row[0].set_title("\n" if first else " ")  # keeps the room for the words, which may be wider than a photograph
        for k, (name, pictures) in enumerate(line):
            words = [(shorten(tasks.title(task, name), int(each * size / 0.068)), 2, "normal")]
            words += [(tasks.title(task), 13, "bold")] if first and k == 0 else []
            for text, above, weight in words:
                place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, above), "textcoords": "offset points"}
                row[k * each].annotate(text, fontweight=weight, **place).set_in_layout(False)
            for ax, picture in zip(row[k * each :], pictures, strict=False):
                ax.imshow(picture)
    return figure


@drawn
def matrices(
    parts: Mapping[str, pd.DataFrame], tasks: Tasks, label: str = "P(column | row)", signed: bool = False
) -> Figure:
    """Square matrices over "task:class" side by side (Fig. 4 and the influence of tasks); undefined cells are grey.

    ``signed``: changes, whose colours run from -limit to limit, each matrix to its own; else probabilities. With more
    classes than can be read only the tasks are named.
    """
    edges = np.cumsum([0, *tasks.sizes])
    middles, side = (edges[:-1] + edges[1:]) / 2, (WIDTH - 1.5) / len(parts)
    readable = 72 * side / tasks.total >= 8
    size = (WIDTH, side + (1.3 if readable else 1.7))
    figure, axes = plt.subplots(1, len(parts), figsize=size, squeeze=False)
    names = [name for task in tasks for name in class_names(tasks, task, 20)]
    headings = [shorten(tasks.title(task), 20) for task in tasks]
    headings = [h if 72 * side * k / tasks.total >= 12 else "" for h, k in zip(headings, tasks.sizes, strict=True)]
    for ax, (name, matrix) in zip(axes[0], parts.items(), strict=True):
        values = matrix.to_numpy(dtype=float)
        limit = (np.nanmax(np.abs(values), initial=1e-9) if np.isfinite(values).any() else 1) if signed else 1
        colours = mpl.colormaps["PuOr" if signed else "Blues"].with_extremes(bad="#e2dccf")
        bar = {"location": "bottom", "shrink": 0.6, "aspect": 30, "pad": 0.01, "label": label}
        ax.set_facecolor("#e2dccf")
        sns.heatmap(
            values, ax=ax, vmin=-limit if signed else 0, vmax=limit, cmap=colours, square=True, cbar_kws=bar,
            xticklabels=names if readable else False, yticklabels=names if readable and ax is axes[0, 0] else False,
        )  # fmt: skip
        for edge in edges[1:-1]:
            ax.axhline(edge, color="#777777", lw=0.8)
            ax.axvline(edge, color="#777777", lw=0.8)
        ax.tick_params(length=0, pad=1.5)
        for at, heading in zip(middles, headings if readable else (), strict=readable):
            style = {"fontsize": 8, "fontweight": "bold", "rotation": 25, "rotation_mode": "anchor"}
            ax.text(at, -0.01 * tasks.total, heading, va="bottom", ha="left", **style)
        if not readable:
            ax.set_xticks(middles, headings, rotation=45, ha="right", rotation_mode="anchor")
            ax.set_yticks(middles, headings if ax is axes[0, 0] else [""] * len(tasks), rotation=0)
        ax.set_title(name, pad=52 if readable else 6)
    return figure


def cooccurrence(matrix: pd.DataFrame, tasks: Tasks, synthetic: bool = False) -> Figure:
    """Conditional probabilities of labels, row = condition (Fig. 4): ``labels.cooccurrence``'s matrix."""
    return matrices({"": matrix}, tasks, synthetic=synthetic)


@drawn
def lprus(bins: pd.DataFrame, cut: int, tasks: Tasks, top: int = 25) -> Figure:
    """The most frequent labelset bins, kept up to the cut-off, dropped beyond it (Fig. 7a).

    ``bins``: one row a labelset in descending order, columns the tasks and ":count" (``labels.labelsets``).
    """
    shown, width = bins.head(top), max(8, 60 // len(tasks))
    counts = shown[":count"].to_numpy()
    names = [
        " · ".join("?" if pd.isna(row[task]) else shorten(str(row[task]), width) for task in tasks)
        for row in shown.to_dict("records")
    ]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.19 * len(shown) + 0.9))
    y = np.arange(len(shown))
    ax.barh(y, np.minimum(counts, cut), color=KEPT, height=0.72, label="kept")
    ax.barh(y, np.maximum(counts - cut, 0), left=cut, color=DROPPED, height=0.72, label="dropped")
    ax.axvline(cut, color="#222222", lw=1, ls="--")
    ax.annotate(f"cut-off {cut:,}", (cut, len(shown) - 0.6), (3, 0), textcoords="offset points")
    rows_axis(ax, [shorten(name, 70) for name in names])
    ax.set(xlabel="images")
    kept, total = int(bins[":count"].clip(upper=cut).sum()), int(bins[":count"].sum())
    text = f"{kept:,} of {total:,} images kept ({kept / total:.1%}); {len(shown)} of {len(bins):,} labelsets shown"
    figure.suptitle(text, fontsize=8.5, fontweight="bold", x=0.01, ha="left")
    ax.legend(loc="lower right", ncols=2)
    return figure


@drawn
def histograms(parts: Mapping[str, pd.DataFrame], tasks: Tasks, share: bool = False) -> Figure:
    """How many images have each class, a bar for each part: part -> labels (a column a task)."""
    counts = {
        task: pd.DataFrame({name: labels[task].value_counts() for name, labels in parts.items()})
        .reindex(list(classes))
        .fillna(0)
        for task, classes in tasks.items()
    }
    kept = {task: most_frequent(found.sum(axis=1)) for task, found in counts.items()}
    sizes = [len(rows) + (len(rows) < len(tasks[task])) for task, rows in kept.items()]
    columns = 3 if max(len(tasks.title(task, c)) for task in tasks for c in tasks[task]) < 16 else 2
    figure, axes = masonry(sizes, columns, 0.16 + 0.03 * len(parts), 2.4)
    for ax, (task, found) in zip(axes, counts.items(), strict=True):
        found = 100 * found / found.sum().clip(lower=1) if share else found
        names, rest = class_names(tasks, task), found.index.difference(found.index[kept[task]])
        shown = found.iloc[kept[task]].set_axis([names[k] for k in kept[task]])
        if len(rest):
            shown.loc[f"{len(rest)} more"] = found.loc[rest].sum()
        for i, part in enumerate(parts):
            y = np.arange(len(shown)) + (i - (len(parts) - 1) / 2) * 0.8 / len(parts)
            colour = PARTS.get(part, BRIGHT[i % len(BRIGHT)])
            ax.barh(y, shown[part], 0.8 / len(parts), color=colour, label=part)
        rows_axis(ax, shown.index)
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        ax.set_title(shorten(tasks.title(task), 24))
    figure.supxlabel("share of the part's images [%]" if share else "images", fontsize=8)
    if len(parts) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(parts))
    return figure


def balanced(before: pd.DataFrame, after: pd.DataFrame, tasks: Tasks, synthetic: bool = False) -> Figure:
    """Class frequencies before and after LPRUS (Fig. 7b): labels, a column a task."""
    return histograms({"before": before, "after": after}, tasks, synthetic=synthetic)


def splits(labels: pd.DataFrame, split: Sequence[str], tasks: Tasks, synthetic: bool = False) -> Figure:
    """Class frequencies of the training, validation and test images (Fig. 8): labels and each row's split."""
    split = np.asarray(split)
    parts = {name: labels[split == name] for name in ("train", "val", "test")}
    return histograms(parts, tasks, share=True, synthetic=synthetic)


@drawn
def places(frame: pd.DataFrame, split: Sequence[str]) -> Figure:
    """Where the images of each split are: a dot an image, columns lon and lat in degrees."""
    figure, ax = plt.subplots(figsize=(WIDTH, 5.2))
    for name in ("train", "val", "test"):
        rows = frame[np.asarray(split) == name]
        ax.scatter(rows["lon"], rows["lat"], s=3, lw=0, color=PARTS[name], label=name)
    ax.set_aspect(1 / np.cos(np.radians(frame["lat"].mean())))
    ax.set(xlabel="longitude [°]", ylabel="latitude [°]")
    ax.legend(markerscale=3, loc="upper right")
    return figure


# ---------------------------------------------------------------- accuracy


@drawn
def residuals(frame: pd.DataFrame) -> Figure:
    """Boxplots of Delta_m(median) per variant for OA and kappa (Fig. 9): ``comparison.residuals``'s frame.

    Boxes: quartiles and median; whiskers: 1.5 interquartile ranges; dots: single runs (STC: all combinations, in the
    box). With a single run a variant there are dots alone.
    """
    variants = ordered(frame["variant"].unique())
    colours = {name: variant_colour(name) for name in variants}
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.27 * len(variants) + 0.9), sharey=True)
    single = frame[frame["variant"] != "stc"]
    many = single.groupby(["metric", "variant"]).size().max() > 1
    for ax, (metric, name) in zip(axes, (("oa", "OA"), ("kappa", "κ")), strict=True):
        shared = {"x": "value", "y": "variant", "order": variants, "hue": "variant", "palette": colours, "ax": ax}
        shared |= {"legend": False}
        if many:
            own = frame[frame["metric"] == metric]
            median = {"medianprops": {"color": "#111111", "lw": 1.4}, "boxprops": {"alpha": 0.4}}
            sns.boxplot(own, showfliers=False, width=0.62, linewidth=0.8, **median, **shared)
        dots = single if many else frame
        np.random.seed(0)  # seaborn's jitter
        sns.stripplot(dots[dots["metric"] == metric], size=2.6 if many else 5, jitter=0.18 if many else 0, **shared)
        ax.axvline(0, color="#555555", lw=0.8)
        variants_axis(ax, variants)
        ax.set(xlabel=f"Δₘ(median), {name} [%]", ylabel="")
    if (count := frame.attrs.get("combinations", 0)) > 1:
        kind = "a sample of" if frame.attrs["sampled"] else "all"
        axes[0].set_title(f"STC: {kind} {count:,} combinations", fontweight="normal", fontsize=8)
    return figure


@drawn
def f1(frame: pd.DataFrame, tasks: Tasks, counts: pd.DataFrame) -> Figure:
    """Mean F1 of each class by variant as a heat map (Fig. 10); a class without test images stays empty.

    ``frame``: ``comparison.class_scores`` of one backbone; ``counts``: ``Study.counts``, which says how frequent
    classes are.
    """
    variants = ordered(frame["variant"].unique())
    mean = 100 * frame.groupby(["task", "class", "variant"])["f1"].mean().unstack("variant")[variants]
    test = counts.set_index(["task", "class"])["test"]
    parts = {}
    for task, classes in tasks.items():
        own, shown = mean.loc[task].reindex(list(classes)), most_frequent(test.loc[task].reindex(list(classes)))
        names, rest = class_names(tasks, task), np.setdiff1d(np.arange(len(classes)), shown)
        parts[task] = own.iloc[shown].set_axis([names[k] for k in shown])
        if len(rest):
            parts[task].loc[f"mean of {len(rest)} more"] = own.iloc[rest].mean()
    return class_map(parts, tasks, "F1 [%]", vmin=0, vmax=100, cmap="viridis", fmt=".0f")


def class_map(parts: Mapping[str, pd.DataFrame], tasks: Tasks, label: str, **options) -> Figure:
    """One heat map of classes (rows, under the names of their tasks) by variant; missing cells are light grey."""
    table = pd.concat([pd.concat([part.iloc[:0].reindex([""]), part]) for part in parts.values()])
    names = [title(name) for name in table]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.165 * len(table) + 1.7))
    ax.set_facecolor("#f4f4f4")
    sns.heatmap(table.to_numpy(), ax=ax, annot=len(names) <= 24, annot_kws={"fontsize": 8}, cbar=False, **options)
    ax.set_yticks(np.arange(len(table)) + 0.5, table.index, rotation=0)
    ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=45, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=2)
    for row, task in zip(np.flatnonzero(table.index == ""), parts, strict=True):
        ax.axhspan(row, row + 1, color="white")
        ax.text(0, row + 0.55, shorten(tasks.title(task), 60), fontweight="bold", va="center")
    figure.supxlabel(label, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def confusion(counts: Mapping[str, np.ndarray], tasks: Tasks) -> Figure:
    """Confusion matrices (K, K) per task, rows (reference) in percent of the class (Fig. 11); empty rows stay grey."""
    parts = {}
    for task, classes in tasks.items():
        found, shown = np.asarray(counts[task], dtype=float), most_frequent(np.sum(counts[task], axis=1))
        rest = np.setdiff1d(np.arange(len(classes)), shown)
        names = [class_names(tasks, task, 24)[k] for k in shown]
        if len(rest):
            groups = np.zeros((len(shown) + 1, len(classes)))
            groups[np.arange(len(shown)), shown] = groups[-1, rest] = 1
            found, names = groups @ found @ groups.T, [*names, f"{len(rest)} more"]
        parts[task] = pd.DataFrame(found, index=names, columns=names)
    lines: list[list[str]] = [[]]  # as many matrices side by side as the page holds, at a fifth of an inch a cell
    for task, part in parts.items():
        if lines[-1] and sum(len(parts[own]) + 9 for own in lines[-1]) + len(part) + 9 > 40:
            lines.append([])
        lines[-1].append(task)
    heights = [max(len(parts[task]) for task in line) + 8 for line in lines]
    figure = plt.figure(figsize=(WIDTH, 0.19 * sum(heights) + 0.3))
    axes = {}
    for line, side in zip(lines, np.atleast_1d(figure.subfigures(len(lines), 1, height_ratios=heights)), strict=True):
        ratios = {"width_ratios": [len(parts[task]) + 9 for task in line]}
        axes |= dict(zip(line, side.subplots(1, len(line), squeeze=False, gridspec_kw=ratios)[0], strict=True))
    for task, part in parts.items():
        ax = axes[task]
        percent = 100 * part.div(part.sum(axis=1).where(part.sum(axis=1) > 0), axis=0)
        text = percent.map(lambda value: f"{value:.0f}" if value >= 0.5 else "")
        right = f", {np.trace(part) / part.to_numpy().sum():.1%} right" if part.to_numpy().sum() else ""
        ax.set_facecolor("#eeeeee")
        style = {"annot": text, "fmt": "", "annot_kws": {"fontsize": 8}, "cmap": "Blues", "vmin": 0, "vmax": 100}
        sns.heatmap(percent, ax=ax, cbar=False, square=True, **style)
        ax.set_xticklabels([shorten(name, 14) for name in part], rotation=90)
        ax.set_yticklabels(part.index, rotation=0)
        ax.set_title(shorten(tasks.title(task), 20) + right)
        ax.tick_params(length=0, pad=2)
    text = "rows: reference; columns, in the same order: answers; percent of the reference class"
    figure.supxlabel(text, fontsize=8, x=0.01, ha="left")
    return figure


@drawn
def times(costs: pd.DataFrame, paper_hours: Mapping[str, float] | None = None) -> Figure:
    """Training time by variant: step time, epochs to the best weights, and both together as a share of STC's (Fig. 12).

    ``costs``: ``evidence.cost(study, benchmark).loc[backbone]``; ``paper_hours``: the paper's totals, whose shares of
    its STC are the diamonds.
    """
    variants = list(costs.index)
    columns = [("time of a step, BL = 1", costs["step"]), ("epochs to the best weights", costs["epochs_to_best"])]
    columns += [("training time, STC = 100 %", 100 * costs["of_stc"])]
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 0.24 * len(variants) + 0.8), sharey=True)
    for ax, (name, values) in zip(axes, columns, strict=True):
        ax.barh(range(len(variants)), values, 0.66, color=[variant_colour(v) for v in variants], alpha=0.85)
        ax.set_xlabel(name)
        variants_axis(ax, variants)
        ax.set_xlim(left=0)
        if values.isna().all():
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
    if paper_hours:
        shares = [100 * paper_hours.get(v, np.nan) / paper_hours["stc"] for v in variants]
        style = {"ls": "", "marker": "D", "ms": 4.5, "mfc": "white", "mec": "#111111"}
        axes[2].plot(shares, range(len(variants)), label="the paper's", **style)
        axes[2].legend(loc="lower right", handletextpad=0.1)
    return figure


@drawn
def history(frame: pd.DataFrame) -> Figure:
    """Loss and mean validation accuracy per epoch (history.csv), a panel a network; the best epoch is marked."""
    networks = list(dict.fromkeys(frame["network"]))[:TOP]
    figure, axes = plt.subplots(
        len(networks), 2, figsize=(WIDTH, 1.5 * len(networks) + 0.9), squeeze=False, sharex=True
    )
    for (left, right), network in zip(axes, networks, strict=True):
        rows = frame[frame["network"] == network]
        left.plot(rows["epoch"], rows["train_loss"], color="#222222", lw=1.2, label="training")
        left.plot(rows["epoch"], rows["val_loss"], color="#222222", lw=1.2, ls="--", label="validation")
        right.plot(rows["epoch"], 100 * rows["val_oa"], color="#222222", lw=1.2)
        best = rows.loc[rows["val_oa"].fillna(-1).idxmax()]
        right.plot(best["epoch"], 100 * best["val_oa"], marker="o", ms=5, color=BRIGHT[1])
        left.set_title("" if network == "all" else shorten(network, 40))
        for ax, name in ((left, "loss"), (right, "validation OA [%]")):
            ax.set_ylabel(name)
            ax.grid(axis="y")
            ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    axes[0, 0].legend()
    return figure


# ---------------------------------------------------------------- tables and text


def styled(table: pd.DataFrame, best: Iterable | None = None, decimals: int = 2):
    """A pandas Styler for the book: fixed decimals, "–" for missing, the best of each of the columns ``best`` in bold."""
    show = table.copy()
    numbers = show.select_dtypes("number").columns
    style = show.style.format(precision=decimals, na_rep="–", thousands=",", escape="html")
    for axis in (0, 1):  # labels come from users' tables: shown as text, never as HTML
        style = style.format_index(escape="html", axis=axis)
    whole = [column for column in numbers if (show[column].dropna() % 1 == 0).all()]
    style = style.format(precision=0, na_rep="–", thousands=",", subset=whole) if whole else style
    chosen = [column for column in (numbers if best is None else best) if column in show]
    return style.highlight_max(subset=chosen, props="font-weight: bold") if chosen and len(show) > 1 else style


def plain(text: object) -> str:
    """Text from a user's table or path for use in Markdown: shown as it is, no part of it interpreted."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))
