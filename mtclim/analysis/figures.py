"""Figures from data frames: each function returns a matplotlib Figure that fits a page 7.5 inches (750 px) wide.

Every function also takes ``synthetic=True``, which prints "synthetic data" in the corner. Colours are safe for
colour-blind readers and shared with the maps through ``palette``; tasks, classes and variants keep their order.
"""

import re  # noqa: I001
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtclim.style import (
    BRIGHT, DROPPED, KEPT, RAINBOW, WIDTH, drawn, masonry, palette, panels, rows_axis, variant_colour, variant_legend,
    variant_marker, variants_axis,
)  # fmt: skip
from mtclim.analysis.comparison import interval, ordered, title
from mtclim.tasks import Tasks

__all__ = ["palette", "variant_colour"]


# ---------------------------------------------------------------- data: labels, balance, splits


@drawn
def matrices(parts: Mapping[str, pd.DataFrame], label: str = "P(column | row)", signed: bool = False) -> Figure:
    """Square matrices over "task:class" side by side (Fig. 4 and the influence of tasks); undefined cells are grey.

    ``signed``: changes, whose colours run from -limit to limit, each matrix to its own; else probabilities.
    """
    order = list(next(iter(parts.values())).columns)
    task_of, classes = zip(*(column.split(":", 1) for column in order), strict=True)
    edges = [0, *(k for k in range(1, len(order)) if task_of[k] != task_of[k - 1]), len(order)]
    middles = [(a + b - 1) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    side = (WIDTH - 1.5) / len(parts)
    figure, axes = plt.subplots(1, len(parts), figsize=(WIDTH, side + 1.0 + 0.5 * signed), squeeze=False)
    font = 72 * side / len(order) * 0.85
    for i, (ax, (name, matrix)) in enumerate(zip(axes[0], parts.items(), strict=True)):
        colours, values = mpl.colormaps["PuOr" if signed else "Blues"], matrix.to_numpy(dtype=float)
        low, high = (-np.nanmax(np.abs(values)), np.nanmax(np.abs(values))) if signed else (0, 1)
        image = ax.imshow(values, vmin=low, vmax=high, cmap=colours.with_extremes(bad="#e2dccf"), interpolation="none")
        if signed or i == len(parts) - 1:
            bar = figure.colorbar(image, ax=ax if signed else axes, shrink=0.6, aspect=30, pad=0.01, label=label,
                                  location="bottom" if signed else "right")  # fmt: skip
            bar.outline.set_visible(False)
        ticks, names = (range(len(order)), classes) if font >= 4 else (middles, [task_of[a] for a in edges[:-1]])
        size = min(font, 7) if font >= 4 else 6.5
        ax.set_xticks(ticks, names, rotation=90, fontsize=size)
        ax.set_yticks(ticks, names if i == 0 else [], fontsize=size)
        for edge in edges[1:-1]:
            ax.axhline(edge - 0.5, color="#777777", lw=0.8)
            ax.axvline(edge - 0.5, color="#777777", lw=0.8)
        if font >= 4:
            for k, middle in enumerate(middles):
                wide = edges[k + 1] - edges[k] >= 0.16 * len(order)
                ax.text(middle, -0.9, task_of[edges[k]], fontsize=7, ha="center" if wide else "left", va="bottom",
                        rotation=0 if wide else 30, rotation_mode="anchor", fontweight="bold")  # fmt: skip
        ax.tick_params(length=0, pad=1.5)
        ax.spines[:].set_visible(False)
        ax.set_title(name, pad=22 if font >= 4 else 6)
    return figure


def cooccurrence(matrix: pd.DataFrame, synthetic: bool = False) -> Figure:
    """Conditional probabilities of labels, row = condition (Fig. 4): ``labels.cooccurrence``'s matrix."""
    return matrices({"": matrix}, synthetic=synthetic)


@drawn
def lprus(bins: pd.DataFrame, cut: int, top: int = 25) -> Figure:
    """The most frequent labelset bins, kept up to the cut-off, dropped beyond it (Fig. 7a).

    ``bins``: one row a labelset in descending order, columns the tasks and ":count" (``labels.labelsets``).
    """
    shown = bins.head(top)
    counts = shown[":count"].to_numpy()
    names = (
        shown.drop(columns=":count")
        .astype("object")
        .where(lambda f: f.notna(), "?")
        .astype(str)
        .agg(" · ".join, axis=1)
    )
    figure, ax = plt.subplots(figsize=(WIDTH, 0.19 * len(shown) + 0.9))
    y = np.arange(len(shown))
    ax.barh(y, np.minimum(counts, cut), color=KEPT, height=0.72, label="kept")
    ax.barh(y, np.maximum(counts - cut, 0), left=cut, color=DROPPED, height=0.72, label="dropped")
    ax.axvline(cut, color="#222222", lw=1, ls="--")
    ax.annotate(f"cut-off {cut:,}", (cut, len(shown) - 0.6), (3, 0), textcoords="offset points", fontsize=7.5)
    ax.set_yticks(y, [name if len(name) < 60 else name[:57] + "..." for name in names], fontsize=6.5)
    ax.set(ylim=(len(shown) - 0.4, -0.6), xlabel="images")
    kept, total = int(bins[":count"].clip(upper=cut).sum()), int(bins[":count"].sum())
    ax.set_title(
        f"{kept:,} of {total:,} images kept ({kept / total:.1%}); {len(shown)} of {len(bins):,} labelsets shown"
    )
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower right", ncols=2)
    return figure


@drawn
def histograms(counts: pd.DataFrame, by: str = "split", share: bool = False) -> Figure:
    """Class frequencies per task, one bar per part (Figs 7b and 8).

    ``counts``: columns ``by`` (such as train, val, test, or before, after), task, class, count, in the order to draw.
    """
    parts = list(dict.fromkeys(counts[by]))
    tasks = {task: list(dict.fromkeys(rows["class"])) for task, rows in counts.groupby("task", sort=False)}
    known = {"before": DROPPED, "after": KEPT, "train": BRIGHT[0], "val": BRIGHT[3], "test": BRIGHT[1]}
    figure, axes = masonry([len(classes) for classes in tasks.values()], 3, 0.16 + 0.03 * len(parts), 2.4)
    for ax, (task, classes) in zip(axes, tasks.items(), strict=True):
        rows = counts[counts["task"] == task]
        for i, part in enumerate(parts):
            values = rows[rows[by] == part].groupby("class")["count"].sum().reindex(classes, fill_value=0)
            values = 100 * values / max(values.sum(), 1) if share else values
            y = np.arange(len(classes)) + (i - (len(parts) - 1) / 2) * 0.8 / len(parts)
            ax.barh(y, values, 0.8 / len(parts), color=known.get(part, BRIGHT[i % len(BRIGHT)]), label=part)
        rows_axis(ax, classes, 7)
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
        ax.set_title(task)
    figure.supxlabel("share of the part's images [%]" if share else "images", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(parts))
    return figure


@drawn
def sheet(images: Mapping[tuple[str, str], Sequence[np.ndarray]], size: float = 0.72) -> Figure:
    """Example photographs per (task, class), one block a task (Fig. 3); arrays (H, W, 3) uint8, ``size`` in inches."""
    groups: dict[str, dict[str, Sequence[np.ndarray]]] = {}
    for (task, name), pictures in images.items():
        groups.setdefault(task, {})[name] = pictures
    each = max((len(pictures) for pictures in images.values()), default=1)
    across = max(1, int(WIDTH / (each * size + 0.12)))
    blocks = {
        task: [list(found.items())[i : i + across] for i in range(0, len(found), across)]
        for task, found in groups.items()
    }
    lines = [(task, k, line) for task, block in blocks.items() for k, line in enumerate(block)]
    step = size + 0.2
    figure = plt.figure(figsize=(WIDTH, sum(step + 0.22 * (k == 0) for _, k, _ in lines) + 0.15), layout="none")
    total, top = figure.get_figheight(), figure.get_figheight()
    for task, k, line in lines:
        if k == 0:
            top -= 0.22
            figure.text(0.002, (top + 0.03) / total, task, fontweight="bold", fontsize=8.5)
        for column, (name, pictures) in enumerate(line):
            left = column * (each * size + 0.12)
            figure.text(left / WIDTH, (top - 0.13) / total, name, fontsize=7)
            for j, picture in enumerate(pictures):
                side = size - 0.03
                at = ((left + j * size) / WIDTH, (top - 0.16 - size) / total, side / WIDTH, side / total)
                ax = figure.add_axes(at)
                ax.imshow(picture)
                ax.set_axis_off()
        top -= step
    return figure


# ---------------------------------------------------------------- accuracy


@drawn
def residuals(frame: pd.DataFrame) -> Figure:
    """Boxplots of Delta_m(median) per variant for OA and kappa (Fig. 9): ``comparison.residuals``'s frame.

    Boxes: quartiles and median; whiskers: 1.5 interquartile ranges; dots: single runs (STC: all combinations, in the box).
    """
    variants = ordered(frame["variant"].unique())
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.27 * len(variants) + 0.9), sharey=True)
    rng = np.random.default_rng(0)
    for ax, (metric, name) in zip(axes, (("oa", "OA"), ("kappa", "κ")), strict=True):
        groups = frame[frame["metric"] == metric].groupby("variant")["value"]
        values = [groups.get_group(variant).to_numpy() for variant in variants]
        boxes = ax.boxplot(values, positions=range(len(variants)), orientation="horizontal", widths=0.62, patch_artist=True,
                           showfliers=False, medianprops={"color": "#111111", "lw": 1.4})  # fmt: skip
        for variant, box, found in zip(variants, boxes["boxes"], values, strict=True):
            box.set(facecolor=variant_colour(variant), alpha=0.35, edgecolor=variant_colour(variant))
            if variant != "stc":
                jitter = variants.index(variant) + rng.uniform(-0.18, 0.18, len(found))
                ax.plot(found, jitter, ls="", marker="o", ms=2.4, color=variant_colour(variant), alpha=0.8)
        medians = [np.median(found) for found in values]
        best = int(np.argmax(medians))
        style = {"textcoords": "offset points", "va": "center", "fontsize": 7, "fontweight": "bold"}
        ax.annotate(f"{medians[best]:+.1f} %", (np.max(values[best]), best), (6, 0), **style)
        ax.set_xlim(right=max(ax.get_xlim()[1], np.max(values[best]) + 0.16 * np.ptp(ax.get_xlim())))
        ax.axvline(0, color="#555555", lw=0.8)
        ax.set(xlabel=f"Δₘ(median), {name} [%]")
        variants_axis(ax, variants)
    if (count := frame.attrs.get("combinations", 0)) > 1:
        kind = "a sample of" if frame.attrs["sampled"] else "all"
        axes[0].set_title(f"STC: {kind} {count:,} combinations", fontweight="normal", fontsize=7.5)
    return figure


@drawn
def against_paper(ours: pd.DataFrame, paper: pd.DataFrame, backbone: str, paper_backbone: str | None = None) -> Figure:
    """Delta_m(mean) of Table 3 per variant, here and in the paper (another data set): two ``table3`` frames."""
    known = [v for v in ours.loc[backbone].index if v != "stc"]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.25 * len(known) + 0.9), sharey=True)
    published = paper.loc[paper_backbone or backbone] if (paper_backbone or backbone) in paper.index else paper.iloc[:0]
    for ax, (metric, name) in zip(axes, (("OA", "OA"), ("kappa", "κ")), strict=True):
        here = ours.loc[backbone].loc[known, ("delta_m", metric)]
        ax.barh(range(len(known)), here, 0.6, color=[variant_colour(v) for v in known], alpha=0.8, label="here")
        there = published[("delta_m", metric)].reindex(known) if len(published) else here * np.nan
        diamond = {"ls": "", "marker": "D", "ms": 4.5, "mfc": "white", "mec": "#111111"}
        ax.plot(there, range(len(known)), label="paper (Santiago de Chile)", **diamond)
        ax.axvline(0, color="#555555", lw=0.8)
        ax.set(xlabel=f"Δₘ(mean), {name} [%]")
        variants_axis(ax, known)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@drawn
def f1(frame: pd.DataFrame, tasks: Tasks) -> Figure:
    """Mean F1 per class and variant, one panel a task (Fig. 10): ``comparison.class_scores``'s frame of one backbone.

    Small marks are variants; the best of each class is ringed; a class without test images stays empty.
    """
    variants = ordered(frame["variant"].unique())
    mean = 100 * frame.groupby(["task", "class", "variant"])["f1"].mean().unstack("variant")
    figure, axes = masonry(tasks.sizes, 2 if len(tasks) < 7 else 3, 0.21, 2.6)
    for ax, (task, classes) in zip(axes, tasks.items(), strict=True):
        for i, name in enumerate(classes):
            row = mean.loc[(task, name)].reindex(variants)
            if row.isna().all():
                continue
            ax.plot([row.min(), row.max()], [i, i], color="#cfcfcf", lw=1.2, zorder=1)
            for variant, value in row.items():
                style = {"marker": variant_marker(variant), "color": variant_colour(variant)}
                ax.plot(value, i, ms=3.8, alpha=0.85, zorder=2, **style)
            ax.plot(row.max(), i, marker="o", ms=8, mfc="none", mec="#d1495b", mew=1, zorder=3)
        rows_axis(ax, classes, 7)
        ax.grid(axis="x")
        ax.set_title(task)
    figure.supxlabel("F1 [%]", fontsize=8)
    variant_legend(figure, variants)
    return figure


@drawn
def confusion(counts: Mapping[str, np.ndarray], tasks: Tasks) -> Figure:
    """Confusion matrices (K, K) per task, rows (reference) in percent of the class (Fig. 11); empty rows stay grey."""
    cell = min(0.2, (WIDTH - 1.3) / tasks.largest)
    label = {task: float(np.clip(0.062 * max(map(len, names)), 0.3, 1.2)) + 0.08 for task, names in tasks.items()}
    rows: list[list[str]] = [[]]
    for task in tasks:
        used = sum(label[t] + len(tasks[t]) * cell + 0.2 for t in rows[-1])
        if rows[-1] and used + label[task] + len(tasks[task]) * cell > WIDTH:
            rows.append([])
        rows[-1].append(task)
    heights = [max(label[t] + len(tasks[t]) * cell for t in row) + 0.42 for row in rows]
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.15), layout="none")
    top = total = figure.get_figheight()
    for row, height in zip(rows, heights, strict=True):
        left = 0.0
        for task in row:
            side, left = len(tasks[task]) * cell, left + label[task]
            ax = figure.add_axes((left / WIDTH, (top - 0.25 - side) / total, side / WIDTH, side / total))
            _confusion_panel(ax, np.asarray(counts[task], dtype=float), task, tasks[task])
            left += side + 0.2
        top -= height
    text = "rows: reference, columns: predicted; percent of the reference class"
    figure.text(0.003, 0.03 / total, text, fontsize=7, color="#444444")
    return figure


def _confusion_panel(ax: Axes, counts: np.ndarray, task: str, classes: Sequence[str]) -> None:
    total = counts.sum(1, keepdims=True)
    percent = np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan)
    ax.imshow(percent, vmin=0, vmax=100, cmap=mpl.colormaps["Blues"].with_extremes(bad="#eeeeee"), interpolation="none")
    for i, j in np.argwhere(percent >= 0.5):
        colour = "white" if percent[i, j] > 55 else "#222222"
        ax.text(j, i, f"{percent[i, j]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    ax.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6.5)
    ax.set_yticks(range(len(classes)), classes, fontsize=6.5)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)
    share = f"\n{np.trace(counts) / counts.sum():.1%} right" if counts.sum() else ""
    ax.set_title(f"{task}{share}" if len(classes) < 5 else f"{task}, {share.strip()}".rstrip(", "), fontsize=7.5)


@drawn
def times(costs: pd.DataFrame, paper_hours: Mapping[str, float] | None = None) -> Figure:
    """Training time per variant (Fig. 12) as time per step, epochs and total, and the total as a share of STC's.

    ``costs``: ``evidence.cost(study).loc[backbone]``; ``paper_hours``: the paper's totals, drawn as shares of its STC.
    """
    variants, stc = list(costs.index), costs["hours"].get("stc", np.nan)
    minutes = 60 * costs["hours"]
    unit = ("hours", costs["hours"]) if minutes.max() > 120 else ("minutes", minutes)
    step = 1000 * costs["seconds_per_step"]
    columns = [("time per step [ms]", step), ("epochs", costs["epochs"]), (f"total [{unit[0]}]", unit[1])]
    columns += [("total / STC's [%]", 100 * costs["hours"] / stc)] if stc == stc else []
    figure, axes = plt.subplots(1, len(columns), figsize=(WIDTH, 0.24 * len(variants) + 0.8), sharey=True)
    for ax, (name, values) in zip(axes, columns, strict=True):
        ax.barh(range(len(variants)), values, 0.66, color=[variant_colour(v) for v in variants], alpha=0.85)
        ax.set_xlabel(name)
        variants_axis(ax, variants)
        ax.set_xlim(left=0)
    if paper_hours and len(columns) == 4:
        shares = [100 * paper_hours.get(v, np.nan) / paper_hours["stc"] for v in variants]
        axes[3].plot(shares, range(len(variants)), ls="", marker="D", ms=4.5, mfc="white", mec="#111111", label="paper")
        axes[3].legend(loc="lower right", handletextpad=0.1)
    return figure


@drawn
def history(frame: pd.DataFrame) -> Figure:
    """Loss and mean validation accuracy per epoch (history.csv), a line a network; the best epoch is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    for i, (network, rows) in enumerate(frame.groupby("network", sort=False)):
        colour = "#222222" if network == "all" else (BRIGHT + RAINBOW[2:])[i % 20]
        left.plot(rows["epoch"], rows["train_loss"], color=colour, lw=1.2, label=network)
        left.plot(rows["epoch"], rows["val_loss"], color=colour, lw=1.2, ls="--")
        right.plot(rows["epoch"], 100 * rows["val_oa"], color=colour, lw=1.2, label=network)
        best = rows.loc[rows["val_oa"].idxmax()] if rows["val_oa"].notna().any() else rows.iloc[0]
        right.plot(best["epoch"], 100 * best["val_oa"], marker="o", ms=5, color=colour)
    left.set(xlabel="epoch", ylabel="loss: training –, validation - -")
    right.set(xlabel="epoch", ylabel="validation OA [%]")
    for ax in (left, right):
        ax.grid(axis="y")
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    if frame["network"].nunique() > 1:
        right.legend(ncols=2)
    return figure


# ---------------------------------------------------------------- beyond the paper


@drawn
def contrasts(table: pd.DataFrame, metric: str = "kappa") -> Figure:
    """Paired differences with their 95 % intervals (``comparison.compare`` of one backbone), one panel a family.

    Thick: over realisations (none for one run); thin: over resampled test blocks. Coloured where both clear zero.
    """
    families = {family: rows.reset_index(drop=True) for family, rows in table.groupby("family", sort=False)}
    figure, axes = masonry([len(rows) for rows in families.values()], 2 if len(table) > 8 else 1, 0.19, 2.2)
    limits = (
        np.nanmin(table[["low", "boot_low", "mean"]].to_numpy()),
        np.nanmax(table[["high", "boot_high", "mean"]].to_numpy()),
    )
    for ax, (family, rows) in zip(axes, families.items(), strict=True):
        for i, row in rows.iterrows():
            pairs = ((row["low"], row["high"]), (row["boot_low"], row["boot_high"]))
            clear = all(low > 0 or high < 0 for low, high in pairs)
            colour = "#777777" if not clear else "#2166AC" if row["mean"] > 0 else "#B2182B"
            for pair, width in zip(pairs, (3.5, 1), strict=True):
                ax.plot(pair, [i, i], color=colour, lw=width, solid_capstyle="butt")
            ax.plot(row["mean"], i, "o", ms=4.5, color="white", mec=colour, mew=1.4)
        short = family.startswith("against")
        rows_axis(
            ax,
            [title(a) if short else f"{title(a)} − {title(b)}" for a, b in zip(rows["a"], rows["b"], strict=True)],
            7,
        )
        ax.axvline(0, color="#333333", lw=0.8)
        ax.grid(axis="x")
        ax.set_xlim(min(limits[0], 0) - 0.04 * np.ptp(limits), max(limits[1], 0) + 0.04 * np.ptp(limits))
        ax.set_title(family)
    name = "OA" if metric == "oa" else "κ"
    figure.supxlabel(f"difference of mean {name} [points]; thick: realisations, thin: test blocks", fontsize=8, x=0.4)
    return figure


@drawn
def by_variant(frame: pd.DataFrame, columns: Mapping[str, str], percent: bool = True) -> Figure:
    """Per-run columns of a frame as dots per variant, with mean and 95 % t-interval; ``columns``: column -> axis label.

    A row of variant "reference" becomes a dashed line. Used for labelset consistency and calibration error.
    """
    reference, runs = frame[frame["variant"] == "reference"], frame[frame["variant"] != "reference"]
    variants, scale = ordered(runs["variant"].unique()), 100 if percent else 1
    figure, axes = plt.subplots(
        1, len(columns), figsize=(WIDTH, 0.24 * len(variants) + 0.9), sharey=True, squeeze=False
    )
    for ax, (column, name) in zip(axes[0], columns.items(), strict=True):
        for i, variant in enumerate(variants):
            values = scale * runs.loc[runs["variant"] == variant, column].dropna().to_numpy()
            if not len(values):
                continue
            mean, low, high = interval(values)
            ax.plot(values, np.full(len(values), i), "o", ms=2.4, color=variant_colour(variant), alpha=0.4)
            ax.plot([low, high], [i, i], lw=2.4, color=variant_colour(variant), solid_capstyle="butt")
            mark = {"marker": variant_marker(variant), "color": variant_colour(variant), "mec": "white", "mew": 0.6}
            ax.plot(mean, i, ms=5.5, **mark)
        if len(reference) and reference[column].notna().all() and 0 < reference[column].iloc[0] < 1:
            at = scale * reference[column].iloc[0]
            ax.axvline(at, color="#333333", lw=0.9, ls="--", label="test labels themselves")
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
        ax.set_xlabel(name)
        variants_axis(ax, variants)
        if percent:
            ax.set_xlim(max(ax.get_xlim()[0], 0), min(ax.get_xlim()[1], 100))
    return figure


@drawn
def reliability(bins: pd.DataFrame, tasks: Tasks) -> Figure:
    """Accuracy against confidence per task, before and after temperature scaling (``study.calibration`` of some runs)."""
    columns = 5 if len(tasks) % 5 == 0 or len(tasks) > 8 else min(len(tasks), 4)
    figure, axes = panels(len(tasks), columns, WIDTH / columns + 0.15, sharex=True, sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        ax.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        for scaled, colour, name in ((False, BRIGHT[1], "as trained"), (True, BRIGHT[0], "temperature-scaled")):
            part = bins[(bins["task"] == task) & (bins["scaled"] == scaled)]
            summed = part.assign(c=part["count"] * part["confidence"], a=part["count"] * part["accuracy"])
            summed = summed.groupby("bin")[["count", "c", "a"]].sum()
            ece = (summed["a"] - summed["c"]).abs().sum() / max(summed["count"].sum(), 1)
            sizes = 4 + 40 * summed["count"] / max(summed["count"].max(), 1)
            x, y = summed["c"] / summed["count"], summed["a"] / summed["count"]
            ax.plot(x, y, color=colour, lw=1, label=name)
            ax.scatter(x, y, s=sizes, color=colour, lw=0)
            style = {"color": colour, "fontsize": 7, "ha": "right", "transform": ax.transAxes}
            ax.text(0.97, 0.13 - 0.1 * scaled, f"ECE {100 * ece:.1f}", **style)
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.set_xticks([0, 0.5, 1])
        ax.set_yticks([0, 0.5, 1])
        ax.set_title(task)
    figure.supxlabel("confidence", fontsize=8)
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@drawn
def coverage(curves: pd.DataFrame, tasks: Tasks) -> Figure:
    """Accuracy among the surest images against their share, a panel a task (``study.coverage`` with a column variant)."""
    variants = ordered(curves["variant"].unique())
    columns = 5 if len(tasks) % 5 == 0 or len(tasks) > 8 else min(len(tasks), 4)
    figure, axes = panels(len(tasks), columns, 1.75, sharex=True, sharey=True)
    mean = (
        curves.assign(coverage=curves["coverage"].round(2)).groupby(["task", "variant", "coverage"])["accuracy"].mean()
    )
    for ax, task in zip(axes, tasks, strict=True):
        for variant in variants:
            if (task, variant) in mean.index.droplevel("coverage"):
                line = 100 * mean.loc[task, variant]
                ax.plot(100 * line.index, line, color=variant_colour(variant), lw=1.3, label=title(variant))
        ax.grid()
        ax.set_xticks([0, 50, 100])
        ax.set_title(task)
    figure.supxlabel("share of images answered, surest first [%]", fontsize=8)
    axes[0].set_ylabel("accuracy [%]")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return figure


@drawn
def gains(table: pd.DataFrame, tasks: Tasks) -> Figure:
    """Mean F1 gain over the baseline per class and variant (``evidence.class_gains`` of one backbone).

    On the left the class's share of the training images and the baseline's F1.
    """
    variants = ordered(table["variant"].unique())
    rows = [(task, name) for task, classes in tasks.items() for name in classes]
    wide = table.pivot_table(index=["task", "class"], columns="variant", values="gain").reindex(
        index=rows, columns=variants
    )
    first = table.drop_duplicates(["task", "class"]).set_index(["task", "class"]).reindex(rows)
    limit = np.nanpercentile(np.abs(wide.to_numpy()), 97) if wide.notna().any().any() else 1
    figure, ax = plt.subplots(figsize=(WIDTH, max(0.165 * len(rows), 1) + 1.3))
    colours = mpl.colormaps["PuOr"].with_extremes(bad="#eeeeee")
    image = ax.imshow(wide, vmin=-limit, vmax=limit, cmap=colours, aspect="auto", interpolation="none")
    for i, values in enumerate(wide.to_numpy()):
        if np.isfinite(values).any() and np.nanmax(values) > 0:
            ax.plot(np.nanargmax(values), i, "o", ms=4, color="#111111", mec="white", mew=0.7)
    for x, column, scale, name in ((-34, "frequency", 100, "train %"), (-12, "base", 1, "F1 base")):
        style = {
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
            "fontsize": 6.5,
            "color": "#444444",
        }
        ax.annotate(name, (0, -0.7), (x, 2), ha="center", va="bottom", rotation=90, **style)
        for i, value in enumerate(first[column]):
            shown = "–" if np.isnan(value) else f"{scale * value:.0f}"
            ax.annotate(shown, (0, i), (x, 0), ha="center", va="center", **style)
    for end, task, size in zip(np.cumsum(tasks.sizes), tasks, tasks.sizes, strict=True):
        ax.axhline(end - 0.5, color="white", lw=2.5)
        style = {"va": "center", "fontsize": 7, "fontweight": "bold", "transform": ax.get_yaxis_transform()}
        ax.text(1.01, end - size / 2 - 0.5, task, **style)
    ax.set_yticks(range(len(rows)), [name for _, name in rows], fontsize=6.5)
    ax.set_xticks(range(len(variants)), [title(v) for v in variants], rotation=90, fontsize=7)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.tick_params(axis="y", pad=46)
    ax.spines[:].set_visible(False)
    shape = {"shrink": 0.4, "aspect": 40, "location": "bottom", "pad": 0.01, "extend": "both", "extendfrac": 0.03}
    bar = figure.colorbar(image, ax=ax, **shape)
    bar.set_label("gain in F1 [percentage points]; dot: best of the class where above the baseline")
    bar.outline.set_visible(False)
    return figure


@drawn
def rarity(table: pd.DataFrame, variants: Sequence[str] | None = None) -> Figure:
    """F1 gain against the class's share of the training images, a panel a variant (``evidence.class_gains``)."""
    variants = list(variants or ordered(table["variant"].unique()))
    names = list(dict.fromkeys(table["task"]))
    figure, axes = panels(len(variants), 4, 1.75, sharex=True, sharey=True)
    for ax, variant in zip(axes, variants, strict=True):
        for i, task in enumerate(names):
            part = table[(table["variant"] == variant) & (table["task"] == task)]
            style = {"s": 16, "color": (BRIGHT + RAINBOW[2:])[i % 20], "lw": 0, "alpha": 0.85, "label": task}
            ax.scatter(100 * part["frequency"], part["gain"], **style)
        ax.axhline(0, color="#555555", lw=0.8)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        ax.set_title(title(variant))
    figure.supxlabel("share of training images [%]", fontsize=8)
    figure.supylabel("gain in F1 [points]", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6, handletextpad=0.1)
    return figure


@drawn
def grid(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """Gain with its 95 % interval over interdependency and ambiguity (``evidence.grid_gains``), a panel a contrast."""
    limit = max((part["mean"].abs().max() for part in parts.values() if len(part)), default=1) or 1
    figure, axes = panels(len(parts), 3, 2.4)
    for i, (ax, (name, part)) in enumerate(zip(axes, parts.items(), strict=True)):
        wide = part.pivot(index="ambiguity", columns="interdependency", values="mean").sort_index(ascending=False)
        image = ax.imshow(wide, vmin=-limit, vmax=limit, cmap="PuOr", aspect="auto")
        for row in part.itertuples():
            x, y = wide.columns.get_loc(row.interdependency), wide.index.get_loc(row.ambiguity)
            weight = "bold" if row.low > 0 or row.high < 0 else "normal"
            style = {"ha": "center", "color": "white" if abs(row.mean) > 0.6 * limit else "#111111"}
            spread = f"{row.low:+.1f} to {row.high:+.1f}" if row.n > 1 else "one run"
            ax.text(x, y, f"{row.mean:+.1f}", va="bottom", fontsize=8, fontweight=weight, **style)
            ax.text(x, y + 0.06, spread, va="top", fontsize=5.8, **style)
        ax.set_xticks(range(len(wide.columns)), [f"{v:g}" for v in wide.columns])
        ax.set_yticks(range(len(wide.index)), [f"{v:g}" for v in wide.index])
        ax.set(xlabel="interdependency of labels", ylabel="" if i % 3 else "ambiguity of façades", title=name)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    if parts:
        style = {"location": "bottom", "shrink": 0.4, "aspect": 40, "pad": 0.02}
        bar = figure.colorbar(image, ax=axes, label="gain in κ [points]", **style)
        bar.outline.set_visible(False)
    return figure


@drawn
def attention(rows: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, str]]]) -> Figure:
    """Grad-CAM per task over sample photographs: rows of (image (H, W, 3), task -> heat (H, W) in [0, 1], task -> label)."""
    tasks = list(rows[0][1])
    side = WIDTH / (len(tasks) + 1)
    size = (WIDTH, (side + 0.16) * len(rows) + 0.2)
    figure, axes = plt.subplots(len(rows), len(tasks) + 1, figsize=size, squeeze=False)
    for line, (image, heat, labels) in zip(axes, rows, strict=True):
        line[0].imshow(image)
        for ax, task in zip(line[1:], tasks, strict=True):
            ax.imshow(image)
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            ax.imshow(heat[task], cmap="inferno", alpha=0.5, vmin=0, vmax=1, extent=extent)
            ax.set_xlabel(labels.get(task, ""), fontsize=6.5, labelpad=2)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    for ax, task in zip(axes[0, 1:], tasks, strict=True):
        ax.set_title(task, fontsize=7.5)
    return figure


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
