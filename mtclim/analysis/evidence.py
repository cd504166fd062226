"""What a reviewer would ask beyond accuracy: do labels fit together, which errors, how sure, where, at what cost.

Functions take a ``Study`` (or frames made from it) and return data frames, as in ``evaluation``.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from mtclim.analysis.comparison import class_scores, confusions, interval, ordered
from mtclim.analysis.study import Study
from mtclim.metrics import codes
from mtclim.tasks import Tasks, ordinal
from mtclim.variants import title

# ---------------------------------------------------------------- labelset consistency


def _known(study: Study, labels: np.ndarray) -> np.ndarray:
    """Whether each labelset (M, N) of positions occurs in training; a missing label there (or here) agrees with any."""
    tasks = list(study.tasks)
    seen = np.stack(
        [pd.Index(c).get_indexer(pd.Index(study.labelsets[t].to_numpy(object))) for t, c in study.tasks.items()], 1
    )
    known = np.zeros(len(labels), bool)
    for ours in np.unique(labels >= 0, axis=0):
        rows = np.flatnonzero(((labels >= 0) == ours).all(axis=1))
        for theirs in np.unique(seen >= 0, axis=0):
            both, sizes = np.flatnonzero(ours & theirs), np.array(study.tasks.sizes)
            pool = seen[((seen >= 0) == theirs).all(axis=1)]
            if not len(both):
                known[rows] = True
            elif sizes[both].astype(float).prod() < 2**62:
                radix = np.concatenate([[1], np.cumprod(sizes[both][:-1])])
                known[rows] |= np.isin(labels[np.ix_(rows, both)] @ radix, pool[:, both] @ radix)
            else:  # many tasks: keys as bytes instead of one integer
                pool_keys = {row.tobytes() for row in np.ascontiguousarray(pool[:, both], dtype=np.int64)}
                known[rows] |= [
                    row.tobytes() in pool_keys
                    for row in np.ascontiguousarray(labels[np.ix_(rows, both)], dtype=np.int64)
                ]
    assert len(tasks) == labels.shape[1]
    return known


def cooccurrence_matrix(labels: np.ndarray, tasks: Tasks) -> np.ndarray:
    """P(column | row) (S, S) of label positions (M, N), -1 = missing; only rows with both tasks count, NaN if none."""
    starts = np.concatenate([[0], np.cumsum(tasks.sizes)[:-1]])
    hot = np.zeros((len(labels), tasks.total))
    row, task = np.nonzero(labels >= 0)
    hot[row, starts[task] + labels[row, task]] = 1
    member = np.repeat(np.eye(len(tasks)), tasks.sizes, axis=1)  # (N, S)
    condition = hot.T @ ((labels >= 0).astype(float) @ member)  # rows with the condition, annotated in the other task
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(condition > 0, hot.T @ hot / condition, np.nan)


def consistency(study: Study) -> pd.DataFrame:
    """How far each run's labels fit together, which OA does not show; the last row, "reference", is of the test labels.

    run, backbone, variant, seed; unseen: share of predicted labelsets that never occur in training; exact: share of
    images right in every annotated task; cooccurrence: mean absolute difference between predicted and reference
    P(column | row) over classes of different tasks (a class never predicted counts as probability 0).
    """
    true = study.test[list(study.tasks)].to_numpy(np.int64)
    annotated = true >= 0
    full = annotated.any(axis=1)
    predicted = np.stack([study.predicted(task) for task in study.tasks], axis=-1).astype(np.int64)  # (R, n, N)
    flat = predicted.reshape(-1, true.shape[1])
    unique, inverse = np.unique(flat, axis=0, return_inverse=True)
    unseen = ~_known(study, unique)[inverse.ravel()].reshape(predicted.shape[:2])
    exact = ((predicted == true) | ~annotated).all(axis=-1)[:, full].mean(axis=1)
    reference = cooccurrence_matrix(true, study.tasks)
    member = np.repeat(np.arange(len(study.tasks)), study.tasks.sizes)
    cells = (member[:, None] != member) & ~np.isnan(reference)
    distance = []
    for labels in predicted:
        found = np.nan_to_num(cooccurrence_matrix(np.where(annotated, labels, -1), study.tasks))
        distance.append(np.abs(found - reference)[cells].mean() if cells.any() else np.nan)
    keys = study.runs[["run", "backbone", "variant", "seed"]]
    table = keys.assign(unseen=unseen.mean(axis=1), exact=exact, cooccurrence=distance)
    own = {"run": "reference", "backbone": "", "variant": "reference", "seed": -1, "exact": 1.0, "cooccurrence": 0.0}
    return pd.concat([table, pd.DataFrame([own | {"unseen": 1 - _known(study, true[full]).mean()}])], ignore_index=True)


# ---------------------------------------------------------------- error structure


def compound(classes: Iterable[str]) -> bool:
    """Whether every class name joins two parts by its last "_", each part shared by several classes: MR_H1-2."""
    parts = [name.rsplit("_", 1) for name in classes]
    return all(len(part) == 2 for part in parts) and all(len({p[i] for p in parts}) < len(parts) for i in (0, 1))


def error_structure(study: Study) -> pd.DataFrame:
    """Shares of the errors of each run: run, backbone, variant, seed, task, kind, share (NaN without errors).

    In tasks of ordered classes kind "adjoining" (section 4.3 says: all height errors); in compound tasks (SBST) "first
    part only", "second part only" and "both" (there: material, height).
    """
    keys, parts = study.runs[["run", "backbone", "variant", "seed"]], []
    for task, classes in study.tasks.items():
        k = np.arange(len(classes))
        kinds = {"adjoining": np.abs(k[:, None] - k) == 1} if ordinal(classes) else {}
        if compound(classes):
            first, second = (np.array([name.rsplit("_", 1)[i] for name in classes]) for i in (0, 1))
            a, b = first[:, None] != first, second[:, None] != second
            kinds |= {"first part only": a & ~b, "second part only": b & ~a, "both": a & b}
        counts = confusions(study, task) * (1 - np.eye(len(classes)))
        total = np.where(counts.sum((1, 2)) > 0, counts.sum((1, 2)), np.nan)
        parts += [
            keys.assign(task=task, kind=kind, share=(counts * cells).sum((1, 2)) / total)
            for kind, cells in kinds.items()
        ]
    return pd.concat(parts, ignore_index=True) if parts else keys.iloc[:0].assign(task="", kind="", share=0.0)


def confused_pairs(study: Study, run: str, top: int = 3, pictures: int = 4) -> pd.DataFrame:
    """The most frequent errors of a run per task: task, reference, predicted, count, share, images (a list)."""
    at, rows = list(study.runs["run"]).index(run), []
    for task, classes in study.tasks.items():
        true, predicted = study.test[task].to_numpy(), study.predicted(task)[at]
        counts = confusions(study, task)[at]
        off = counts * (1 - np.eye(len(classes), dtype=int))
        for cell in np.argsort(-off.ravel(), kind="stable")[:top]:
            i, j = divmod(int(cell), len(classes))
            if off[i, j]:
                images = study.test["image"][(true == i) & (predicted == j)].head(pictures).tolist()
                row = {"task": task, "reference": classes[i], "predicted": classes[j], "count": int(off[i, j])}
                rows.append(row | {"share": off[i, j] / counts[i].sum(), "images": images})
    return pd.DataFrame(rows, columns=["task", "reference", "predicted", "count", "share", "images"])


# ---------------------------------------------------------------- calibration


def calibration_error(study: Study) -> pd.DataFrame:
    """Expected calibration error (15 bins) of each run and task before and after temperature scaling: raw, scaled."""
    bins = study.calibration
    weight = bins["count"] / bins.groupby(["run", "task", "scaled"])["count"].transform("sum")
    gap = bins.assign(ece=weight * (bins["accuracy"] - bins["confidence"]).abs())
    ece = gap.groupby(["run", "task", "scaled"], sort=False)["ece"].sum().unstack("scaled")
    ece = ece.rename(columns={False: "raw", True: "scaled"}).rename_axis(columns=None)
    ece["temperature"] = bins.groupby(["run", "task"])["temperature"].first()
    return study.runs[["run", "backbone", "variant", "seed"]].merge(ece.reset_index(), on="run")


# ---------------------------------------------------------------- where it helps


def class_gains(study: Study, baseline: str = "stc") -> pd.DataFrame:
    """Mean F1 gain per class over ``baseline`` in points: backbone, variant, task, class, base, gain, ...

    ``frequency`` is the class's share of the annotated training images, ``n_test`` its number of test images.
    """
    f1 = (
        class_scores(study)
        .groupby(["backbone", "variant", "task", "class"])["f1"]
        .mean()
        .mul(100)
        .reset_index(name="f1")
    )
    base = f1[f1["variant"] == baseline].drop(columns="variant").rename(columns={"f1": "base"})
    table = f1[f1["variant"] != baseline].merge(base, on=["backbone", "task", "class"])
    counts = study.counts.pivot_table(index=["task", "class"], columns="split", values="count", aggfunc="sum")
    share = counts["train"] / counts["train"].groupby("task").transform("sum")
    extra = pd.DataFrame({"frequency": share, "n_test": counts["test"]}).reset_index()
    table = table.assign(gain=table["f1"] - table["base"]).merge(extra, on=["task", "class"])
    rank = {pair: i for i, pair in enumerate((t, c) for t, names in study.tasks.items() for c in names)}
    order = {name: i for i, name in enumerate(study.variants)}
    place = [
        (b, order[v], rank[t, c])
        for b, v, t, c in table[["backbone", "variant", "task", "class"]].itertuples(index=False)
    ]
    return table.iloc[sorted(range(len(table)), key=place.__getitem__)].reset_index(drop=True)


def rarity(gains: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of gain and class frequency per variant; negative: rare classes gain more."""
    rows = []
    for (backbone, variant), group in gains.dropna(subset="gain").groupby(["backbone", "variant"], sort=False):
        known = len(group) > 2 and group["gain"].nunique() > 1 and group["frequency"].nunique() > 1
        rho, p = stats.spearmanr(group["frequency"], group["gain"]) if known else (np.nan, np.nan)
        rows.append({"backbone": backbone, "variant": variant, "rho": rho, "p": p, "classes": len(group)})
    return pd.DataFrame(rows, columns=["backbone", "variant", "rho", "p", "classes"])


def negative_transfer(gains: pd.DataFrame) -> pd.DataFrame:
    """Classes where BL's mean F1 is below STC's: their gains over STC (points), one column a variant (section 4.2).

    ``gains``: ``class_gains(study, "stc")``. Index backbone, task, class.
    """
    wide = gains.pivot_table(index=["backbone", "task", "class"], columns="variant", values="gain", sort=False)
    return wide[wide["bl"] < 0] if "bl" in wide else wide.iloc[:0]


# ---------------------------------------------------------------- cost, and when it helps


def cost(study: Study) -> pd.DataFrame:
    """Means per backbone and variant: parameters, seconds per step and its ratio to BL's, epochs, epochs to the best weights, hours,
    peak memory, images per second, runs; ``hardware`` names what the runs were made on (times compare only on one).
    """
    columns = [
        "parameters",
        "seconds_per_step",
        "epochs",
        "epochs_to_best",
        "seconds",
        "peak_memory_mb",
        "images_per_second",
    ]
    groups = study.runs.groupby(["backbone", "variant"])
    table = groups[columns].mean()
    table.insert(2, "relative_step", table["seconds_per_step"] / _of_bl(table["seconds_per_step"]))
    table["hours"] = table.pop("seconds") / 3600
    machine = study.runs["hardware"] + ", " + study.runs["threads"].astype(str) + " threads"
    table["hardware"] = machine.groupby([study.runs["backbone"], study.runs["variant"]]).agg(
        lambda x: " | ".join(sorted(set(x)))
    )
    table["runs"] = groups.size()
    return table.loc[[(b, v) for b in study.backbones for v in study.variants if (b, v) in table.index]]


def _of_bl(values: pd.Series) -> pd.Series:
    backbone = values.index.get_level_values("backbone")
    bl = values[values.index.get_level_values("variant") == "bl"].droplevel("variant")
    return pd.Series(backbone.map(bl).astype(float), index=values.index)


def grid_gains(scores: pd.DataFrame, a: str = "lim_ms_all", b: str = "bl", metric: str = "mean") -> pd.DataFrame:
    """Gain of a over b in points on a grid of cities: interdependency, ambiguity, n, mean, low, high (95 % t-interval).

    ``scores``: one row a run (``study.grid_scores``): interdependency, ambiguity, variant, seed and the metric (fraction).
    """
    wide = scores.pivot_table(index=["interdependency", "ambiguity", "seed"], columns="variant", values=metric)
    pairs = (100 * (wide[a] - wide[b])).dropna() if {a, b} <= set(wide) else pd.Series(dtype=float)
    rows = [
        [*place, len(cell), *interval(cell.to_numpy())]
        for place, cell in (pairs.groupby(level=[0, 1]) if len(pairs) else ())
    ]
    return pd.DataFrame(rows, columns=["interdependency", "ambiguity", "n", "mean", "low", "high"])


def grid_table(scores: pd.DataFrame, tasks: Iterable[str], b: str = "bl") -> pd.DataFrame:
    """``grid_gains`` of every variant over b for the mean and each task: variant, task, interdependency, ambiguity, ..."""
    parts = [
        grid_gains(scores, variant, b, task).assign(variant=variant, task=task)
        for variant in ordered(set(scores["variant"]) - {b})
        for task in ("mean", *tasks)
    ]
    table = pd.concat(parts, ignore_index=True) if parts else grid_gains(scores).assign(variant="", task="")
    return table[["variant", "task", *table.columns.drop(["variant", "task"])]]


def grid_verdict(scores: pd.DataFrame, a: str = "lim_ms_all", b: str = "bl", metric: str = "mean") -> list[str]:
    """What a grid of cities says of the gain of a over b, in plain sentences made from its numbers."""
    gains, names = grid_gains(scores, a, b, metric), f"{title(a)} over {title(b)}"
    if gains.empty:
        return [f"No point of the grid has a run of both {title(a)} and {title(b)}: nothing can be said."]
    what = "kappa" if metric == "mean" else f"kappa of {metric}"
    up, down = int((gains["low"] > 0).sum()), int((gains["high"] < 0).sum())
    if gains["n"].max() == 1:
        told = "with one realisation a point there is no interval, so no gain can be told from chance"
    else:
        told = f"the 95 % interval lies above zero at {up or 'none'} of them and below zero at {down or 'none'}"
        told += f", and there is none at {alone}" if (alone := int(gains["low"].isna().sum())) else ""
    best, least = gains.loc[gains["mean"].idxmax()], gains.loc[gains["mean"].idxmin()]
    few, many = int(gains["n"].min()), int(gains["n"].max())
    runs = f"{few} to {many} realisations" if few < many else f"{few} realisation{'s' * (few > 1)}"
    ends = (f"{row['mean']:+.2f} at interdependency {row['interdependency']:g}, ambiguity {row['ambiguity']:g}"
            for row in (best, least))  # fmt: skip
    return [
        f"Gain in {what} of {names} at {len(gains)} points of the grid, {runs} each: {told}. In points, from the largest "
        f"to the smallest: {' ... '.join(ends)}.",
        *(_grid_trend(scores, a, b, metric, dial) for dial in ("interdependency", "ambiguity")),
    ]


def grid_report(scores: pd.DataFrame, tasks: Iterable[str], a: str = "lim_ms_all", b: str = "bl") -> list[str]:
    """What the grid says, sentence by sentence: all in one, a over b in the mean, in each task, then others over b."""
    tasks = list(tasks)  # gone through twice
    lines = [*_grid_summary(scores, tasks, a, b), *grid_verdict(scores, a, b)]
    lines += [" ".join(found[:2]) for task in tasks if len(found := grid_verdict(scores, a, b, task)) > 1]
    return lines + [grid_verdict(scores, other, b)[0] for other in ordered(set(scores["variant"]) - {a, b})]


def _grid_summary(scores: pd.DataFrame, tasks: Iterable[str], a: str, b: str) -> list[str]:
    """One sentence on all points and tasks together, beside what chance alone would give; none without intervals."""
    gains = pd.concat([grid_gains(scores, a, b, metric) for metric in ("mean", *tasks)]).dropna(subset=["low"])
    if gains.empty:
        return []
    up, down, chance = int((gains["low"] > 0).sum()), int((gains["high"] < 0).sum()), 0.025 * len(gains)
    where = f"ahead of {title(b)} {f'at {up}' if up else 'nowhere'} and behind {f'at {down}' if down else 'nowhere'}"
    return [
        f"Of {len(gains)} intervals (points of the grid times the mean and each task) {title(a)} is {where}; "
        f"chance alone would give about {chance:.1f} of each."
    ]


def _grid_trend(scores: pd.DataFrame, a: str, b: str, metric: str, dial: str) -> str:
    """How the gain changes from the lowest to the highest setting of a dial, realisation by realisation."""
    other = "ambiguity" if dial == "interdependency" else "interdependency"
    wide = scores.pivot_table(index=[dial, other, "seed"], columns="variant", values=metric)
    gain = (100 * (wide[a] - wide[b])).dropna().unstack(dial)
    low, high = gain.columns.min(), gain.columns.max()
    change = (gain[high] - gain[low]).dropna().groupby("seed").mean().to_numpy()
    if low == high or not len(change):
        return f"No two runs differ in {dial} alone: no trend can be told."
    mean, under, over = interval(change)
    if len(change) < 2:
        return (
            f"From {dial} {low:g} to {high:g} the gain changes by {mean:+.2f} points in one realisation: no interval."
        )
    told = "it grows" if under > 0 else "it falls" if over < 0 else "no trend can be told"
    return (
        f"From {dial} {low:g} to {high:g} the gain changes by {mean:+.2f} points ({under:+.2f} to {over:+.2f}): {told}."
    )


# ---------------------------------------------------------------- looking inside


def dependence(study: Study) -> pd.DataFrame:
    """How a label changes the odds of another in the training labels: P(column | row) - P(column), (S, S).

    Over "task:class"; NaN where the row's class never occurs with the column's task.
    """
    labels = np.stack([codes(study.labelsets[task], classes) for task, classes in study.tasks.items()], 1)
    labels = labels.repeat(study.labelsets[":count"].to_numpy(), axis=0)
    counts = [np.bincount(k[k >= 0], minlength=size) for k, size in zip(labels.T, study.tasks.sizes, strict=True)]
    share = np.concatenate([count / max(count.sum(), 1) for count in counts])
    names = [f"{task}:{name}" for task, classes in study.tasks.items() for name in classes]
    return pd.DataFrame(cooccurrence_matrix(labels, study.tasks) - share, index=names, columns=names)


def by_task(changes: pd.DataFrame) -> pd.DataFrame:
    """How far rows move columns, per pair of tasks (N, N): total variation in [0, 1], the mean over the row's classes."""
    task = changes.columns.str.split(":", n=1).str[0]
    summed = changes.abs().T.groupby(task, sort=False).sum(min_count=1).T
    return summed.groupby(task, sort=False).mean() / 2
